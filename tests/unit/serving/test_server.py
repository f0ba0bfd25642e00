"""The model behind a server: from the registry with `make serve`, and with the server of the container image."""

import base64
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from http.client import HTTPConnection
from pathlib import Path

import numpy as np
import pytest
import uvicorn
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from starlette.responses import PlainTextResponse

from skinlib.serving import classifier, server
from tests.docs.commands import ROOT, blocks
from tests.unit import results
from tests.unit.test_fuzz import JSON

OTHERS = ("MLFLOW_", "MAKE", "MFLAGS", "ORT_", "CI")
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith(OTHERS)}


def photograph(kind: str = "jpeg") -> bytes:
    file = io.BytesIO()
    Image.fromarray(results.photographs(1)[0]).save(file, kind)
    return file.getvalue()


def request(files: list[bytes]) -> bytes:
    return json.dumps({"inputs": {"image": [base64.b64encode(file).decode() for file in files]}}).encode()


def post(port: int, body: bytes, **headers: str) -> tuple[int, str]:
    with closing(HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        connection.request("POST", "/invocations", body, {"Content-Type": "application/json", **headers})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


@contextmanager
def running(command: list[str], port: int, folder: Path, **environment: str) -> Iterator[Callable[[], str]]:
    """Start a server and wait until it answers; yields a function that returns its log."""
    log = folder / f"{port}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=folder, env=ENVIRONMENT | environment, stdout=output, stderr=output, start_new_session=True
        )
    try:
        for _ in range(1200):
            with suppress(urllib.error.URLError, OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/ping"):
                break
            assert process.poll() is None, log.read_text()
            time.sleep(0.2)
        yield log.read_text
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=30)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def container(registered: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of the image's server, in an empty folder with the files of the image."""
    folder, port = tmp_path_factory.mktemp("image"), free_port()
    shutil.copytree(registered("one") / "model", folder, dirs_exist_ok=True)
    shutil.copy(ROOT / "skinlib/serving/server.py", folder)
    code = f"import sys; sys.path.insert(0, '.'); import server; server.run('server:create', {port})"
    with running([sys.executable, "-c", code], port, folder, XDG_CACHE_HOME=str(folder / "cache")):
        yield port
    # onnxruntime would store an identifier of this machine and report what it runs.
    assert not list(folder.glob("cache/**/deviceid"))


def test_make_serve_answers_the_documented_curl_and_a_new_champion_is_served_after_a_restart(
    registered: Callable[[str], Path], graph: bytes, tmp_path: Path
) -> None:
    folder = registered("one")
    (folder / "lesion.jpg").write_bytes(photograph())
    page = next(block.text for block in blocks(ROOT / "docs/serving.md") if "base64 <" in block.text)
    assert page in (ROOT / "README.md").read_text()
    expected = classifier.Graph(graph).score(results.photographs(1)).probability[0]
    ready, port = Path(sys.executable).parents[1] / ".ready", free_port()
    make = ["make", "-f", str(ROOT / "Makefile"), f"VENV={ready.parent}", f"--old-file={ready}", "serve"]
    uri = os.environ["MLFLOW_TRACKING_URI"]

    def serving(log: str) -> list[str]:
        return re.findall("Serving (.*)", log)

    with running([*make, f"PORT={port}"], port, folder, MLFLOW_TRACKING_URI=uri, MLFLOW_ENV_ROOT=str(tmp_path)) as log:
        registered("two")
        command = page.replace("127.0.0.1:8080", f"127.0.0.1:{port}")
        answer = subprocess.run(["bash", "-c", command], cwd=folder, capture_output=True, check=True)
        row = json.loads(answer.stdout)["predictions"][0]
        assert row["probability"] == pytest.approx(expected, abs=0.02)  # lesion.jpg is compressed
        assert serving(log()) == ["model_name: skin-lesion, model_version: 1"]
    port = free_port()
    with running([*make, f"PORT={port}"], port, folder, MLFLOW_TRACKING_URI=uri, MLFLOW_ENV_ROOT=str(tmp_path)) as log:
        assert serving(log()) == ["model_name: skin-lesion, model_version: 2"]


def test_200_concurrent_requests_get_their_own_answers(container: int, graph: bytes) -> None:
    pictures = results.photographs(8)
    expected = classifier.Graph(graph).score(pictures).probability
    files = []
    for picture in pictures:
        Image.fromarray(picture).save(file := io.BytesIO(), "png")
        files.append(file.getvalue())

    def ask(number: int) -> tuple[int, int, float]:
        status, answer = post(container, request([files[number % 8]]))
        return number % 8, status, json.loads(answer)["predictions"][0]["probability"]

    with ThreadPoolExecutor(200) as pool:
        answers = list(pool.map(ask, range(200)))
    assert {status for _, status, _ in answers} == {200}
    np.testing.assert_allclose([probability for *_, probability in answers], [expected[i] for i, *_ in answers])


def test_a_request_over_the_limit_is_refused_before_its_body_is_read(container: int) -> None:
    with closing(socket.create_connection(("127.0.0.1", container), timeout=10)) as connection:
        head = f"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Length: {server.MAX_BYTES + 1}\r\n\r\n"
        connection.sendall(head.encode())
        assert connection.recv(1000).startswith(b"HTTP/1.1 413 ")


def test_a_request_of_unknown_length_is_refused(container: int) -> None:
    with closing(HTTPConnection("127.0.0.1", container, timeout=10)) as connection:
        connection.request("POST", "/invocations", iter([b"{}"]), encode_chunked=True)
        assert connection.getresponse().status == 411


def test_a_request_without_a_usable_image_gets_status_400_with_the_reason_and_not_its_photograph(
    container: int,
) -> None:
    status, answer = post(container, request([b"no image" * 1000]))
    assert status == 400
    assert json.loads(answer)["message"] == "No image can be used. Image 0: it is not an image."


def test_large_photographs_next_to_small_ones_are_answered_up_to_a_limit(container: int) -> None:
    large = base64.b64encode(photograph() + bytes(6_000_000)).decode()
    files = [large, *[base64.b64encode(photograph()).decode()] * 20]
    assert post(container, json.dumps({"inputs": {"image": files}}).encode())[0] == 200
    refused = post(container, json.dumps({"inputs": {"image": files * 2}}).encode())
    assert refused == (413, '{"error_code":"BAD_REQUEST","message":"Send large photographs in requests of their own."}')


IMAGE = base64.b64encode(photograph()).decode()
CELLS = st.sampled_from([IMAGE, IMAGE[:-2], "aaaa", "ä", "\ud800"]) | JSON
FRAMES = st.lists(CELLS, max_size=4).flatmap(
    lambda cells: st.sampled_from(
        [
            {"inputs": {"image": cells}},
            {"inputs": cells},
            {"instances": cells},
            {"instances": [{"image": cell} for cell in cells]},
            {"dataframe_records": [{"image": cell} for cell in cells]},
            {"dataframe_records": cells},
            {"dataframe_split": {"columns": ["image"], "data": [[cell] for cell in cells]}},
            {"dataframe_split": cells, "params": cells},
        ]
    )
)
HOSTILE = [
    b"",
    b"[" * 100_000,
    b'{"inputs":' + b"[" * 900 + b"]" * 900 + b"}",
    b'{"inputs": ' + b"1" * 5000 + b"}",
    b'{"inputs":[' + b"[]," * 8_000_000 + b"1]}",
    b'{"inputs":{"image":[' + b"{}," * 8_000_000 + b"1]}}",
    b'{"inputs":{"image":["' + b'a","' * 4_000_000 + b'"]}}',
    b'{"inputs":{"image":["' + b"a" * 20_000_000 + b'"' + b',"a"' * 200 + b"]}}",
    b'{"inputs":{"picture":["' + b"a" * 20_000_000 + b'"]}}',
    b"\xc3\xa9" * 12_000_000,
]
TYPES = ["application/json", "application/json; charset=latin1", "text/csv", "application/vnd.apache.parquet", ";", ""]


@given(st.binary(max_size=100) | (FRAMES | JSON).map(lambda body: json.dumps(body).encode()), st.sampled_from(TYPES))
@settings(max_examples=300, deadline=None)
def test_any_body_gets_an_answer_or_a_sentence(container: int, body: bytes, content_type: str) -> None:
    status, answer = post(container, body, **{"Content-Type": content_type})
    if status != 200:
        assert status == 415 if not content_type.startswith("application/json") else status == 400
        assert "\n" not in json.loads(answer)["message"]


def test_hostile_bodies_get_a_sentence_in_seconds_and_the_server_answers_afterwards(container: int) -> None:
    for body in HOSTILE:
        begun = time.monotonic()
        status, answer = post(container, body)
        assert status in (400, 413)
        assert len(answer) < 1100
        assert time.monotonic() - begun < 30
    assert post(container, request([photograph()]))[0] == 200


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The port of a server without a model that waits for one second, and for one request at most."""
    monkeypatch.setattr(server, "SECONDS", 1)
    monkeypatch.setattr(server, "MAX_WAITING_BYTES", 10)
    app = uvicorn.Server(uvicorn.Config(server.limited(PlainTextResponse("answer")), http=server.Impatient))
    with socket.create_server(("127.0.0.1", 0)) as listening, ThreadPoolExecutor(1) as pool:
        pool.submit(app.run, [listening])
        yield listening.getsockname()[1]
        app.should_exit = True


def begin(port: int, text: str) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=30)
    connection.sendall(text.encode())
    return connection


HEAD = "POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n"


def test_slow_clients_are_cut_off_and_others_are_answered(impatient: int) -> None:
    slow = [begin(impatient, text) for text in ("", "POST / HT", "GET / HTTP/1.1\r\nHost: x\r\n\r\nGET /", HEAD)]
    slow += [begin(impatient, "GET /") for _ in range(200)]
    assert post(impatient, b"")[1] == "answer"
    ends = []
    for connection in slow:
        with closing(connection), connection.makefile("rb") as answer:
            ends.append(answer.read())
    assert ends[:2] + ends[4:] == [b""] * 202
    assert ends[2].endswith(b"answer")
    assert b" 408 " in ends[3]
    assert ends[3].endswith(b"Send the request within 1 seconds.\n")
    assert post(impatient, b"")[1] == "answer"


def test_more_bytes_than_fit_into_memory_are_refused_until_there_is_room(impatient: int) -> None:
    with closing(begin(impatient, HEAD + "12345678")):
        deadline = time.monotonic() + 10
        while (found := post(impatient, b"123"))[0] != 503:
            assert time.monotonic() < deadline
        assert found[1] == "Too many requests are waiting; send it again later.\n"
    deadline = time.monotonic() + 10
    while post(impatient, b"123")[1] != "answer":
        assert time.monotonic() < deadline
