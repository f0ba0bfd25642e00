"""A disk that is full stops a run with one clear error, and the run resumes when there is room again."""

import subprocess
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from skinlib.data.images import decode
from skinlib.data.listing import list_images
from skinlib.data.packing import open_packed, prepare
from skinlib.data.storage import open_store
from skinlib.errors import StorageError
from tests.flow.conftest import Place, sweep, wait_for
from tests.flow.test_break import mlflow_runs
from tests.torture.disks import mounted


def resize(folder: Path, megabytes: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size={megabytes}m", folder], check=True)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """A place on a disk of its own, at first of 2 GB."""
    with mounted(tmp_path / "disk", 2000) as folder:
        yield Place(folder)


def used(folder: Path) -> int:
    """Return the whole megabytes that are in use on a disk."""
    output = subprocess.run(["df", "--output=used", "-BM", folder], check=True, capture_output=True, text=True).stdout
    return int(output.split()[-1].rstrip("M"))


def test_a_disk_that_is_full_at_ingest(place: Place, tiny_images: Path) -> None:
    resize(place.folder, 12)  # the packed images take 19 MB
    code, output = place.flow(config=sweep(), data=tiny_images)
    assert code != 0
    assert "No space left on device); make room there." in output
    assert "Traceback" not in output
    resize(place.folder, 2000)
    code, output = place.resume()
    assert code == 0, output


def test_a_disk_that_is_full_in_training(place: Place, tiny_images: Path) -> None:
    flow = place.start(*place.flow_command(config=sweep({"epochs": 30}), data=tiny_images))
    wait_for(place.checkpoints, flow)
    resize(place.folder, used(place.folder) + 1)
    output, _ = flow.communicate(timeout=900)
    print(output[-3000:])
    assert flow.returncode != 0
    resize(place.folder, 2000)
    code, output = place.resume()
    assert code == 0, output
    children, parents = mlflow_runs(place)
    assert parents == ["FINISHED"]
    assert [(status, steps) for status, steps in children.values()] == [("FINISHED", list(range(1, 31)))]


def test_a_disk_that_is_full_under_mlflow(tmp_path: Path, tiny_images: Path) -> None:
    place = Place(tmp_path)
    with mounted(tmp_path / "disk", 2000) as disk:
        place.env["MLFLOW_TRACKING_URI"] = f"sqlite:///{disk}/mlflow.db"
        flow = place.start(*place.flow_command(config=sweep({"epochs": 30}), data=tiny_images))
        wait_for(place.checkpoints, flow)
        resize(disk, used(disk))
        output, _ = flow.communicate(timeout=900)
        assert flow.returncode != 0
        assert "mlflow.db has no room on its disk; make room there." in output
        assert "Traceback" not in output
        resize(disk, 2000)
        code, output = place.resume()
        assert code == 0, output
        children, parents = mlflow_runs(place, place.env["MLFLOW_TRACKING_URI"])
        assert parents == ["FINISHED"]
        assert [(status, steps) for status, steps in children.values()] == [("FINISHED", list(range(1, 31)))]


def test_a_disk_that_is_full_at_the_download(
    tmp_path: Path, bucket: str, tiny_images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(f"s3://{bucket}/root", create=True)
    manifest = prepare(list_images(str(tiny_images)), store)
    with mounted(tmp_path / "small", 10) as small:
        monkeypatch.setattr(tempfile, "tempdir", str(small))
        with pytest.raises(StorageError, match=r"cannot be written \(No space left on device\); make room there"):
            open_packed(store, manifest.hash)
        resize(small, 100)
        images = open_packed(store, manifest.hash).images
        assert [zlib.crc32(image.tobytes()) for image in images] == [
            zlib.crc32(decode((tiny_images / key).read_bytes()).tobytes()) for key in manifest.keys
        ]
