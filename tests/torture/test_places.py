"""Odd places: names with spaces, no home directory, another time zone, small and read-only disks."""

import subprocess
import sys
from pathlib import Path

from tests.flow.conftest import Place, sweep
from tests.torture.disks import mounted


def test_odd_names_no_home_and_another_time_zone(tmp_path: Path, tiny_images: Path) -> None:
    images = tmp_path / "Bilder & Ärzte 日本"
    images.symlink_to(tiny_images)
    place = Place(tmp_path / "it's a place", {"TZ": "Pacific/Kiritimati", "LANG": "C"})
    place.folder.mkdir()
    command = ["env", "-u", "HOME", "-u", "METAFLOW_HOME", *(f"{name}={value}" for name, value in place.env.items())]
    process = place.launch([*command, sys.executable, *place.flow_command(config=sweep(), data=images)])
    code, output = place.finish(process, seconds=900)
    assert code == 0, output


def test_a_small_disk_for_temporary_files(tmp_path: Path, tiny_images: Path) -> None:
    with mounted(tmp_path / "small", 4) as small:
        place = Place(tmp_path / "place", {"TMPDIR": str(small)})
        place.folder.mkdir()
        code, output = place.flow(config=sweep(), data=tiny_images)
        assert code != 0
        assert f"{small} has no room for 8 MB of temporary files (No space left on device); make room" in output
        assert "Traceback" not in output


def test_a_working_directory_that_cannot_be_written(tmp_path: Path, tiny_images: Path) -> None:
    with mounted(tmp_path / "fixed", 4) as fixed:
        place = Place(fixed)
        place.environment()  # makes its folders
        command = place.flow_command(config=sweep(), data=tiny_images)
        subprocess.run(["mount", "-o", "remount,ro", fixed], check=True)
        code, output = place.call(*command)
        assert code != 0
        assert f"The folder {fixed} cannot be written; start in another one" in output
        assert "Traceback" not in output
