"""The doctor finds everything right on the platform, for either backend, and a part that is down."""

import json

import pytest

from tests.flow.conftest import Place
from tests.platform.conftest import Platform


@pytest.fixture
def place(platform: Platform, tmp_path) -> Place:
    names = ("METAFLOW_", "MLFLOW_", "AWS_", "KUBECONFIG")
    return Place(tmp_path, {k: v for k, v in platform.environment().items() if k.startswith(names)})


@pytest.mark.parametrize(("backend", "part"), [("batch", "job queue"), ("kubernetes", "namespace")])
def test_all_is_well_on_the_platform(place: Place, backend: str, part: str) -> None:
    (place.folder / "compute.json").write_text(json.dumps({"backend": backend}))
    code, output = place.call_skinlib("doctor", "--compute", "compute.json")
    assert code == 0, output
    assert part in output
    assert "AMISS" not in output


def test_a_queue_that_does_not_exist_is_amiss(place: Place) -> None:
    (place.folder / "compute.json").write_text('{"backend": "batch", "queue": "nowhere"}')
    code, output = place.call_skinlib("doctor", "--compute", "compute.json")
    assert code == 1
    assert "AMISS  job queue    nowhere does not exist" in output
