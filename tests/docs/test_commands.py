"""Every command in the documentation works as it is written, or another test runs it."""

import ast
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from fnmatch import fnmatchcase

import pytest

from skinlib.data import sample
from tests.docs.commands import (
    COVERED,
    NOT_RUN,
    PAGES,
    ROOT,
    RUN,
    SERVERS,
    TRAIN,
    UPLOAD,
    blocks,
    commands,
    tables_with,
)
from tests.flow.conftest import Place

EVERY_COMMAND = [(page, line, command) for page in PAGES for line, command in commands(page)]
JSON_EXAMPLES = [
    pytest.param(option, block.text, id=f"{page}:{block.line}")
    for page, option in (("docs/sweeps.md", "sweep"), ("docs/remote.md", "compute"))
    for block in blocks(ROOT / page)
    if block.language == "json"
]


def test_every_command_is_accounted_for():
    problems = []
    for page, line, command in EVERY_COMMAND:
        where, tables = f"{page.relative_to(ROOT)}:{line}: `{command}`", tables_with(command)
        if not tables:
            problems.append(f"{where} is run by no test; add it to RUN, COVERED or NOT_RUN in tests/docs/commands.py.")
        if len(tables) > 1:
            problems.append(f"{where} is in several tables ({', '.join(tables)}); keep it in one.")
    assert not problems, "\n".join(problems)


def test_no_entry_of_the_tables_is_unused():
    used = [command for _, _, command in EVERY_COMMAND]
    patterns = [*RUN, *SERVERS, *COVERED, *NOT_RUN]
    assert [p for p in patterns if p not in used and not any(fnmatchcase(command, p) for command in used)] == []


@pytest.mark.parametrize(("command", "where"), COVERED.items(), ids=list(COVERED))
def test_what_runs_a_command_elsewhere_exists(command, where):
    path, _, name = where.partition("::")
    text = (ROOT / path).read_text()
    if name:
        assert name in {node.name for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef)}
    else:
        assert command in [line.strip().removeprefix("- run: ") for line in text.splitlines()]


@pytest.mark.parametrize("target", sorted({c.split("make ")[1].split()[0] for *_, c in EVERY_COMMAND if "make " in c}))
def test_every_target_of_make_exists(target):
    assert f"\n{target}:" in (ROOT / "Makefile").read_text()


class Clone(Place):
    """A user's directory with the repository and an environment in it, in which commands of the pages are run."""

    def prepare(self, tools: dict[str, str]) -> None:
        for path in [ROOT / name for name in ("Makefile", "configs", "flows", "infra", "skinlib", "pyproject.toml")]:
            (self.folder / path.name).symlink_to(path)
        for path in ROOT.glob("requirements*"):
            (self.folder / path.name).symlink_to(path)
        environment = self.folder / ".venv/bin"
        environment.mkdir(parents=True)
        for name, start in tools.items():
            # Whatever make thinks of this environment, a test does not install packages.
            refuse = 'case "$*" in "-m pip "*) echo "make would install packages"; exit 1;; esac'
            (environment / name).write_text(f'#!/bin/sh\n{refuse}\nexec {start} "$@"\n')
            (environment / name).chmod(0o755)
        # Newer than what it depends on: make need not install anything.
        (self.folder / ".venv/.ready").touch()

    def environment(self) -> dict[str, str]:
        # A make that runs these tests must not give its settings to ours.
        clean = {k: v for k, v in super().environment().items() if "MAKE" not in k and k != "MFLAGS"}
        return clean | {"PATH": f"{self.folder / '.venv/bin'}:{clean['PATH']}"}

    def begin(self, command: str) -> subprocess.Popen[str]:
        """Start a command of a page, with real values for its placeholders."""
        return self.launch(["bash", "-c", self.fill(command)])

    def shell(self, command: str) -> tuple[int, str]:
        """Run a command of a page to its end."""
        return self.finish(self.begin(command), seconds=900)

    def fill(self, text: str) -> str:
        for placeholder, value in (
            ("s3://bucket/prefix", "s3://docs/lesions"),
            ("FOLDER", "images"),
            ("models:/skin-lesion@champion", "models:/skin-lesion-sample/1"),  # `make train` registers the sample
            ("DIRECTORY", "drawn"),
            ("RUN=ID", f"RUN={self.run_ids()[0]}" if self.run_ids() else ""),
            ("SkinLesionFlow/ID", f"SkinLesionFlow/{self.run_ids()[0]}" if self.run_ids() else ""),
        ):
            text = text.replace(placeholder, value)
        return text


@pytest.fixture(scope="module")
def clone(tmp_path_factory, s3_server) -> Clone:
    """A directory in which `make train` has finished, on a small sample, and the upload of its images to a bucket."""
    folder = tmp_path_factory.mktemp("docs")
    clone = Clone(folder, s3_server.environment())
    python = sys.executable
    clone.prepare({"python": python, "skinlib": f"{python} -m skinlib", "mlflow": f"{python} -m mlflow", "uv": "false"})
    # Where the flow looks for the sample: `make train` takes this instead of drawing 640 images.
    sample_folder = folder / "cache/skinlib" / f"sample-v{sample.VERSION}"
    sample.generate(sample_folder, n_train=24, n_test=10)
    shutil.copytree(sample_folder, folder / "images")
    shutil.copy(folder / "images/test/benign/1.jpg", folder / "lesion.jpg")
    s3_server.client.create_bucket(Bucket="docs")
    for command in (TRAIN, UPLOAD):
        code, output = clone.shell(command)
        assert code == 0, output
    return clone


@pytest.mark.parametrize("command", [command for command in RUN if command not in (TRAIN, UPLOAD)])
def test_a_command_works_as_it_is_written(clone, command):
    code, output = clone.shell(command)
    assert code == 0, output
    assert "Traceback" not in output


@pytest.mark.parametrize("command", SERVERS)
def test_a_server_answers(clone, command):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    if command == "make cards":
        # Its port is in the Makefile; what make would do is done on a free one.
        code, recipe = clone.shell("make -n cards")
        assert code == 0, recipe
        command = recipe.splitlines()[-1].replace("8324", str(port))
    else:
        command += f" --port {port} --workers 1"
    process = clone.begin(command)
    try:
        wait_for_page(f"http://127.0.0.1:{port}", process)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def wait_for_page(url: str, process: subprocess.Popen[str], seconds: float = 120) -> None:
    """Wait until a page is there."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                assert answer.status == 200
                return
        except OSError:
            assert process.poll() is None, process.stdout.read() if process.stdout else ""
            assert time.monotonic() < deadline, f"{url} did not answer"
            time.sleep(0.2)


@pytest.fixture(scope="module")
def failed(clone):
    """A run that failed, as the latest one."""
    code, output = clone.shell("python flows/train.py run --max-rejected 2")
    assert code != 0, output


# test_serving.py runs the Python of docs/serving.md, which needs SageMaker; tests/flow/test_pretrained.py that of
# docs/recipes.md, which needs a file of weights.
ELSEWHERE = ("serving", "recipes")
PYTHON_PAGES = [p for p in PAGES if p.stem not in ELSEWHERE and any(b.language == "python" for b in blocks(p))]


@pytest.mark.parametrize("page", PYTHON_PAGES)
def test_the_python_of_a_page_runs_from_top_to_bottom(clone, failed, page):
    # The page with nothing but its code, so that a traceback names the line of the page.
    lines = [""] * len(page.read_text().splitlines())
    for block in blocks(page):
        if block.language == "python":
            code = block.text.splitlines()
            lines[block.line : block.line + len(code)] = code
    script = clone.folder / f"{page.stem}.py"
    script.write_text(clone.fill("\n".join(lines)))
    code, output = clone.shell(f"python {script.name}")
    assert code == 0, output


@pytest.mark.parametrize(("option", "text"), JSON_EXAMPLES)
def test_the_flow_accepts_an_example_of_a_config(clone, option, text):
    (clone.folder / "example.json").write_text(json.dumps(json.loads(text)))
    # A remote backend asks for a datastore in S3.
    bucket = "METAFLOW_DATASTORE_SYSROOT_S3=s3://docs/metaflow METAFLOW_S3_ENDPOINT_URL=$AWS_ENDPOINT_URL"
    code, output = clone.shell(f"{bucket} python flows/train.py --datastore s3 --config {option} example.json show")
    assert code == 0, output
