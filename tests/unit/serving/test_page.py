"""The page of `skinlib demo`: over HTTP, and in a browser."""

import base64
import io
import json
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from skinlib.evaluation import saliency
from skinlib.serving import page, server
from skinlib.serving.classifier import SkinLesionClassifier
from skinlib.serving.graph import Graph
from skinlib.serving.served import Served
from tests.unit import results

MODEL = "models:/skin-lesion@champion"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def port(registered: Callable[[str], Path]) -> Iterator[int]:
    """Where `skinlib demo` answers."""
    command = [sys.executable, "-m", "skinlib", "demo", MODEL, "--port", "0"]
    with subprocess.Popen(command, cwd=registered("page"), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            found = re.match(r"Open http://127\.0\.0\.1:(\d+) ", process.stdout.readline())
            assert found
            yield int(found[1])
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def photograph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photographs") / "lesion.png"
    Image.fromarray(results.photographs(1)[0]).save(path)
    return path


def ask(port: int, method: str = "GET", body: bytes | None = None, **headers: str) -> tuple[int, dict[str, str], str]:
    with closing(HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        connection.request(method, "/" if method == "GET" else "/answer", body, headers)
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read().decode()


def send(port: int, file: bytes) -> tuple[int, str]:
    status, _, text = ask(port, "POST", file, Origin=f"http://127.0.0.1:{port}")
    return status, text


def pixels(url: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.removeprefix("data:image/png;base64,")))))


def test_the_page_shows_model_card_and_purpose_and_may_load_nothing_from_elsewhere(port: int) -> None:
    status, headers, page = ask(port)
    assert status == 200
    assert "models:/skin-lesion/1" in page
    assert "not a medical device" in page
    assert "<h1>Card</h1>" in page
    assert "<!-- " not in page
    assert "default-src 'none'; script-src 'sha256-" in headers["content-security-policy"]
    assert "://" not in page


def test_names_bring_no_markup_into_the_page() -> None:
    card = "<img src=x>\n\n[a](javascript:alert(1))\n\n</script><script>alert(1)</script>"
    named = Served(
        "models:/<img src=x>/1", results.CLASSIFIER, np.zeros(0), results.HISTOGRAMS, card, SkinLesionClassifier()
    )
    shown, _ = page._page(named)
    assert "<img src=x>" not in shown
    assert 'href="javascript' not in shown
    assert shown.count("<script>") == 1


def test_a_photograph_gets_the_answer_of_the_graph_its_pixels_and_a_heat_map(
    port: int, photograph: Path, graph: bytes
) -> None:
    status, text = send(port, photograph.read_bytes())
    assert status == 200
    answer, expected = json.loads(text), Graph(graph).score(results.photographs(1))
    assert answer["probability"] == pytest.approx(expected.probability[0])
    assert answer["unfamiliarity"] == pytest.approx(expected.unfamiliarity[0])
    assert {answer[name] for name in ("malignant", "uncertain", "unfamiliar")} <= {True, False}
    np.testing.assert_array_equal(pixels(answer["image"]), results.photographs(1)[0])
    heat = saliency.heat_maps(expected.evidence, expected.probability >= results.CLASSIFIER["threshold"], 224)[0]
    np.testing.assert_allclose(pixels(answer["heat"])[..., 1] / 255, heat, atol=0.01)


@pytest.mark.parametrize(("file", "reason"), [(b"", "the file is empty"), (b"%PDF-1.7", "it is")])
def test_a_file_that_is_no_image_is_refused_with_the_reason_in_one_sentence(
    port: int, file: bytes, reason: str
) -> None:
    status, text = send(port, file)
    assert status == 400
    assert re.fullmatch(rf"This file cannot be used: {reason}[^\n]*\.", text)


STARTS = [
    b"",
    b"\xff\xd8\xff\xe0\x00\x10JFIF",
    b"\x89PNG\r\n\x1a\n",
    b"GIF89a",
    b"II*\x00",
    b"BM",
    b"P6 99 99 255 ",
    b"{",
    b"%PDF",
]


@given(st.sampled_from(STARTS), st.binary(max_size=200), st.sampled_from(["image/png", "application/json", ";", ""]))
@settings(max_examples=300, deadline=None)
def test_any_body_is_refused_in_a_sentence(port: int, start: bytes, rest: bytes, content_type: str) -> None:
    origin = f"http://127.0.0.1:{port}"
    status, _, text = ask(port, "POST", start + rest, **{"Origin": origin, "Content-Type": content_type})
    assert status == 400
    assert re.fullmatch(r"This file cannot be used: [^\n]+\.", text)


def test_a_file_over_the_limit_is_refused_before_it_is_read(port: int) -> None:
    with closing(socket.create_connection(("127.0.0.1", port), timeout=10)) as connection:
        head = f"POST /answer HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {server.MAX_BYTES + 1}\r\n\r\n"
        connection.sendall(head.encode())
        assert connection.recv(1000).startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_name_that_another_site_made_resolve_to_this_machine_is_refused(port: int, method: str) -> None:
    assert ask(port, method, b"", Host=f"example.org:{port}", Origin=f"http://example.org:{port}")[0] == 400


@pytest.mark.parametrize("origin", ["http://example.org", "null", "http://127.0.0.1", None])
def test_another_site_cannot_send_photographs(port: int, photograph: Path, origin: str | None) -> None:
    headers = {"Origin": origin} if origin else {}
    assert ask(port, "POST", photograph.read_bytes(), **headers)[0] == 403


def test_only_this_machine_reaches_the_page(port: int) -> None:
    # 127.0.0.2 is this machine, too, but not the address that the page listens on.
    with socket.socket() as probe:
        probe.settimeout(10)
        assert probe.connect_ex(("127.0.0.2", port)) != 0


def test_a_used_port_is_reported_in_one_sentence(port: int) -> None:
    command = [sys.executable, "-m", "skinlib", "demo", MODEL, "--port", str(port)]
    refused = subprocess.run(command, capture_output=True, text=True)
    assert refused.returncode == 1
    assert refused.stderr == (
        f"Error: Port {port} cannot be used (Address already in use); choose another one with --port.\n"
    )


@pytest.fixture
def tab(port: int) -> Iterator[Any]:
    """The page in Chromium. It must load nothing from elsewhere and log no error."""
    if CHROMIUM is None:
        pytest.skip("needs Chromium or Google Chrome")
    from playwright.sync_api import sync_playwright

    origin = f"http://127.0.0.1:{port}"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM)
        context = browser.new_context(permissions=["clipboard-read", "clipboard-write"])
        tab = context.new_page()
        requested: list[str] = []
        problems: list[str] = []
        tab.on("request", lambda request: requested.append(request.url))
        tab.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        tab.on("pageerror", lambda error: problems.append(str(error)))
        tab.goto(origin)
        yield tab
        browser.close()
    assert [url for url in requested if not url.startswith((origin, "data:"))] == []
    # Chromium logs each file that is refused or cannot be sent.
    assert [problem for problem in problems if not problem.startswith("Failed to load resource")] == []


def drop(tab: Any, *files: Path) -> None:
    """Drop files as a user does, from outside the browser."""
    session = tab.context.new_cdp_session(tab)
    data = {"items": [], "files": [str(file) for file in files], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        session.send("Input.dispatchDragEvent", {"type": kind, "x": 300, "y": 300, "data": data})


def expect_answer(tab: Any, port: int, photograph: Path) -> None:
    answer = json.loads(send(port, photograph.read_bytes())[1])
    tab.get_by_role("region", name="Answer").wait_for()
    shown, share = tab.inner_text("#verdict"), f"{100 * answer['probability']:.1f}%"
    assert f"Classified as {'malignant' if answer['malignant'] else 'benign'}" in shown
    assert f"Probability of malignancy: {share}." in shown
    assert f"this image {share}" == tab.inner_text("#here")
    assert share in tab.get_attribute("#scale", "aria-label")
    flags = tab.inner_text("dl")
    assert f"Uncertain: {'yes' if answer['uncertain'] else 'no'}\n" in flags
    assert f"Unfamiliar: {'yes' if answer['unfamiliar'] else 'no'}\n" in flags
    assert answer["heat"] in tab.evaluate("getComputedStyle(document.getElementById('heat')).maskImage")


def test_a_dropped_photograph_is_answered_and_its_heat_map_can_be_hidden(tab: Any, port: int, photograph: Path) -> None:
    drop(tab, photograph)
    expect_answer(tab, port, photograph)
    assert tab.is_visible("#heat")
    tab.get_by_label("Show where the network looked").uncheck()
    assert tab.is_hidden("#heat")


def test_a_pasted_photograph_is_answered(tab: Any, port: int, photograph: Path) -> None:
    data = base64.b64encode(photograph.read_bytes()).decode()
    copy = """async (data) => {
      const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
      await navigator.clipboard.write([new ClipboardItem({ "image/png": new Blob([bytes], { type: "image/png" }) })]);
    }"""
    tab.evaluate(copy, data)
    tab.keyboard.press("ControlOrMeta+V")
    expect_answer(tab, port, photograph)


def test_a_photograph_chosen_with_the_keyboard_is_answered(tab: Any, port: int, photograph: Path) -> None:
    tab.keyboard.press("Tab")
    with tab.expect_file_chooser() as chooser:
        tab.keyboard.press("Space")
    chooser.value.set_files(photograph)
    expect_answer(tab, port, photograph)


def test_a_mistake_is_a_sentence_on_the_page_instead_of_the_last_answer(
    tab: Any, port: int, photograph: Path, tmp_path: Path
) -> None:
    large, text = tmp_path / "large.png", tmp_path / "text.png"
    large.write_bytes(bytes(server.MAX_BYTES + 1))
    text.write_text("no image")
    alert = tab.get_by_role("alert")
    for files, sentence in (
        ([text], "This file cannot be used: it is not an image"),
        ([large], "large.png is larger than 25 MB: choose a smaller photograph."),
        ([tmp_path], "The photograph could not be sent"),
        ([], "There was no file in that: drop, paste or choose a photograph."),
    ):
        drop(tab, photograph)
        expect_answer(tab, port, photograph)
        assert alert.inner_text() == ""
        drop(tab, *files)
        alert.filter(has_text=sentence).wait_for()
        assert tab.is_hidden("#result")
