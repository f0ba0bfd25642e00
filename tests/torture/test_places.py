"""Odd places: names with spaces, no home directory, another time zone, small and read-only disks, no shared memory."""

import subprocess
import sys
from pathlib import Path

from skinlib.data.listing import list_images
from skinlib.data.packing import open_packed, prepare
from skinlib.data.storage import open_store
from tests.flow.conftest import Place, sweep
from tests.servers.s3 import S3Server
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


def test_keys_as_long_as_s3_allows(s3_server: S3Server, bucket: str, tiny_images: Path, tmp_path: Path) -> None:
    names = sorted(path.relative_to(tiny_images).as_posix() for path in tiny_images.glob("*/*/*.jpg"))
    for name in names:
        folder, _, file = f"images/{name}".rpartition("/")
        room = 1024 - len(f"{folder}//{file}".encode())
        # A folder of at most 255 bytes for every 256 of the room.
        filling = "/".join(["Ä b" + "x" * 251] * (room // 256))
        filling += "/" + "y" * (room - len(filling.encode()) - 1)
        key = f"{folder}/{filling}/{file}"
        assert len(key.encode()) == 1024
        s3_server.client.upload_file(str(tiny_images / name), bucket, key)
    manifest = prepare(list_images(f"s3://{bucket}/images"), open_store(f"s3://{bucket}/root", create=True))
    direct = prepare(list_images(str(tiny_images)), open_store(str(tmp_path), create=True))
    assert sorted(manifest.sha256) == sorted(direct.sha256)
    assert open_packed(open_store(f"s3://{bucket}/root"), manifest.hash).images.shape == (len(names), 224, 224, 3)


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


def test_no_shared_memory(tmp_path: Path, tiny_images: Path) -> None:
    place = Place(tmp_path)
    without = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs -o ro tmpfs /dev/shm && exec "$@"', "sh"]
    process = place.launch([*without, sys.executable, *place.flow_command(config=sweep(), data=tiny_images)])
    code, output = place.finish(process, seconds=900)
    assert code == 0, output
