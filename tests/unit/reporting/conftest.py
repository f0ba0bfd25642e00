import pytest

from tests.unit.reporting.recording import RecordingCard


@pytest.fixture
def card():
    return RecordingCard()
