"""No secret is in what a run prints, keeps or records, whether it succeeds or fails."""

import base64
import gzip
import hashlib
import io
import re
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torchvision

from tests.flow.conftest import ROOT, Place, sweep
from tests.servers.mlflow import MlflowServer
from tests.servers.s3 import S3Server

MARK = "marked7secret"  # part of every secret here but the key of the S3 server
BUCKET = "secrets"
FILES = (".env", ".aws/credentials", "credentials", "credentials.json", "secret.pem")


def layers(data: bytes) -> Iterator[bytes]:
    """Yield bytes, and what is packed in them: with gzip, in a zip file, or in base64 as in cards."""
    yield data
    if data.startswith(b"\x1f\x8b"):
        yield from layers(gzip.decompress(data))
    if data.startswith(b"PK\x03\x04"):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for name in archive.namelist():
                yield from layers(archive.read(name))
    for blob in re.findall(rb"[A-Za-z0-9+/]{24,}", data):
        yield base64.b64decode(blob[: len(blob) // 4 * 4])


def has_secret(data: bytes) -> bool:
    return any(secret in part for part in layers(data) for secret in (MARK.encode(), S3Server.secret_key.encode()))


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project with secrets in files of each folder."""
    folder = tmp_path_factory.mktemp("project")
    for name in ("flows", "skinlib", "configs"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        plant(folder / name)
    plant(folder)
    return folder


def plant(folder: Path) -> list[Path]:
    for name in FILES:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(f"KEY={MARK}")
    return [folder / name for name in FILES]


@pytest.fixture
def place(place: Place, project: Path, s3_server: S3Server, mlflow_server: MlflowServer) -> Place:
    """A working directory with secrets in its files, and in every variable that may hold one."""
    plant(place.folder)
    place.env |= s3_server.environment() | {
        "PYTHONPATH": str(project),
        "AWS_ENDPOINT_URL": s3_server.endpoint_url.replace("://", f"://ada:{MARK}@"),
        "MLFLOW_TRACKING_URI": mlflow_server.uri.replace("://", f"://ada:{MARK}@"),
        "MLFLOW_TRACKING_USERNAME": "ada",
        "MLFLOW_TRACKING_PASSWORD": MARK,
        "MLFLOW_TRACKING_TOKEN": MARK,
        "METAFLOW_SERVICE_AUTH_KEY": MARK,
        "METAFLOW_FEAT_ALWAYS_UPLOAD_CODE_PACKAGE": "1",
    }
    return place


def left(place: Place, *others: Path) -> list[Path]:
    """Return the files with a secret in them, except those that the user wrote."""
    files = [path for folder in (place.folder, *others) for path in folder.rglob("*") if path.is_file()]
    own = {place.folder / name for name in FILES} | {place.folder / "sweep.json"}
    return [path for path in files if path not in own and has_secret(path.read_bytes())]


def run(place: Place, project: Path, *arguments: str, config: dict, data: Path | str) -> tuple[int, str]:
    _, *command = place.flow_command(*arguments, config=config, data=data)
    return place.call(str(project / "flows/train.py"), *command)


def test_a_run_leaves_no_secret_and_no_path_of_its_weights(
    place: Place, project: Path, tiny_images: Path, s3_server: S3Server, mlflow_server: MlflowServer
) -> None:
    s3_server.client.create_bucket(Bucket=BUCKET)
    images = f"s3://{BUCKET}/images"
    code, output = place.call_skinlib("upload", str(tiny_images), images)
    assert code == 0, output
    weights = pretrained(project / "private")
    trial = {"architecture": "resnet18", "image_size": 32, "epochs": 1, "weights": str(weights)}
    code, output = run(place, project, "--elsewhere", images, config=sweep(trial), data=images)
    assert code == 0, output
    assert not has_secret(output.encode())
    assert left(place, mlflow_server.directory) == []
    files = [path for path in mlflow_server.directory.rglob("*") if path.is_file()]
    assert [path for path in files if str(weights).encode() in path.read_bytes()] == []
    assert any(weights.name.encode() in path.read_bytes() for path in files)
    kept = [part for path in place.folder.rglob("*") if path.is_file() for part in layers(path.read_bytes())]
    assert any(b"skinlib/execution/hooks.py" in part for part in kept)
    assert any(b"# Model card" in part for part in kept)


def pretrained(folder: Path) -> Path:
    folder.mkdir()
    torch.save(torchvision.models.resnet18().state_dict(), folder / "weights")
    digest = hashlib.sha256((folder / "weights").read_bytes()).hexdigest()[:8]
    return (folder / "weights").rename(folder / f"resnet18-{digest}.pth")


NOWHERE = f"http://ada:{MARK}@127.0.0.1:9"


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({}, "the bucket does not exist"),
        ({"AWS_SESSION_TOKEN": MARK}, "the credentials are not accepted"),
        ({"AWS_ENDPOINT_URL": f"http://127.0.0.1:9/?key={MARK}"}, "AWS_ENDPOINT_URL is not an address of S3"),
        ({"AWS_ENDPOINT_URL": NOWHERE}, "no answer from the server"),
    ],
)
def test_a_run_without_its_bucket_leaves_no_secret(
    place: Place, project: Path, variables: dict[str, str], words: str
) -> None:
    place.env |= variables
    code, output = run(place, project, config=sweep({}), data="s3://no-such-bucket/images")
    assert code != 0
    assert words in " ".join(output.split())
    assert not has_secret(output.encode())
    assert left(place) == []


@pytest.mark.parametrize("uri", [NOWHERE, f"http://ada:{MARK}/x@127.0.0.1:9", f"{NOWHERE}/?key={MARK}"])
def test_a_run_without_mlflow_leaves_no_secret(place: Place, project: Path, tiny_images: Path, uri: str) -> None:
    place.env |= {"MLFLOW_TRACKING_URI": uri}
    code, output = run(place, project, config=sweep({}), data=tiny_images)
    assert code != 0
    assert "MLFLOW_TRACKING_URI" in output
    assert not has_secret(output.encode())
    assert left(place) == []


@pytest.mark.parametrize(
    ("option", "url", "words"),
    [
        ("--data", f"s3://ada:{MARK}@bucket/images", "--data has a user, a password or a query"),
        ("--data", f"https://bucket.s3.amazonaws.com/images?X-Amz-Signature={MARK}", "--data has a user"),
        ("--elsewhere", f"s3://bucket/a,s3://ada:{MARK}@bucket/images", "--elsewhere has a user"),
        ("weights", f"https://example.org/resnet18-f37072fd.pth?X-Amz-Signature={MARK}", "not a URL"),
    ],
)
def test_a_url_with_a_secret_is_refused_before_anything_is_stored(
    place: Place, project: Path, option: str, url: str, words: str
) -> None:
    options = [] if option == "weights" else [option, url]
    config = sweep({option: url} if option == "weights" else {})
    code, output = run(place, project, *options, config=config, data="")
    assert code != 0
    assert words in " ".join(output.split())
    assert not has_secret(output.encode())
    assert left(place) == []
