"""The doctor passes on the platform, for each backend, and reports a queue that does not exist."""

import json

import pytest

from tests.flow.conftest import Place
from tests.platform.conftest import Platform


@pytest.fixture
def place(platform: Platform, tmp_path) -> Place:
    names = ("METAFLOW_", "MLFLOW_", "AWS_", "KUBECONFIG")
    return Place(tmp_path, {k: v for k, v in platform.environment().items() if k.startswith(names)})


@pytest.mark.parametrize(("backend", "part"), [("batch", "job queue"), ("kubernetes", "namespace")])
def test_every_check_passes_on_the_platform(place: Place, backend: str, part: str) -> None:
    (place.folder / "compute.json").write_text(json.dumps({"backend": backend}))
    code, output = place.call_skinlib("doctor", "--compute", "compute.json")
    assert code == 0, output
    assert part in output
    assert "FAIL" not in output


def test_a_queue_that_does_not_exist_fails_the_check(place: Place) -> None:
    (place.folder / "compute.json").write_text('{"backend": "batch", "queue": "nowhere"}')
    code, output = place.call_skinlib("doctor", "--compute", "compute.json")
    assert code == 1
    assert "FAIL   job queue    nowhere does not exist" in output
