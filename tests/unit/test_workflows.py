"""The GitHub workflows: the linters, and what linters cannot check."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / ".github/workflows").glob("*.yml"))
WORKFLOWS: dict[str, dict[str, Any]] = {file.stem: yaml.load(file.read_text(), yaml.BaseLoader) for file in FILES}
JOBS = [(workflow, job) for workflow, content in WORKFLOWS.items() for job in content["jobs"]]


def commands(workflow: str, job: str) -> list[str]:
    return [step["run"] for step in WORKFLOWS[workflow]["jobs"][job]["steps"] if "run" in step]


def step(job: str, name: str) -> dict[str, Any]:
    return next(step for step in WORKFLOWS["deploy"]["jobs"][job]["steps"] if step.get("name") == name)


@pytest.mark.parametrize(
    "linter",
    [
        ["check-jsonschema", "--builtin-schema", "vendor.github-workflows", *FILES],
        ["zizmor", "--offline", "--quiet", "--persona=pedantic", *FILES],
    ],
    ids=lambda command: command[0],
)
def test_the_linters_find_nothing(linter):
    checked = subprocess.run([Path(sys.executable).with_name(linter[0]), *linter[1:]], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_every_action_is_pinned_by_commit_and_names_its_version():
    used = [line for file in FILES for line in file.read_text().splitlines() if "uses:" in line]
    others = [line for line in used if "uses: $/" not in line]
    assert others
    assert not [line for line in others if not re.search(r"uses: [\w/-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$", line)]
    # One action in two versions would be an incomplete update.
    assert len({line.split("uses: ")[1] for line in others}) == len({re.split("[:@]", line)[1] for line in others})


@pytest.mark.parametrize("workflow", WORKFLOWS)
def test_a_job_has_only_the_permissions_that_it_requests(workflow):
    assert WORKFLOWS[workflow]["permissions"] == {}
    for job in WORKFLOWS[workflow]["jobs"].values():
        assert job["permissions"].items() <= {"contents": "read", "id-token": "write"}.items()


def test_pull_requests_get_neither_secrets_nor_credentials():
    assert "pull_request" in WORKFLOWS["checks"]["on"]
    assert list(WORKFLOWS["deploy"]["on"]) == ["push"]
    checks = (ROOT / ".github/workflows/checks.yml").read_text()
    assert not re.search(r"secrets\.|id-token|PUSH=1", checks)


def test_no_long_lived_key_is_used():
    text = "".join(file.read_text() for file in FILES)
    assert not re.search(r"aws-(secret-)?access-key|AWS_(SECRET_)?ACCESS_KEY", text, re.IGNORECASE)
    assert set(re.findall(r"secrets\.(\w+)", text)) == {"PRODUCTION_TOKEN", "METAFLOW_CONFIG"}


@pytest.mark.parametrize(("workflow", "job"), [names for names in JOBS if names != ("deploy", "checks")])
def test_a_job_has_a_time_limit_and_leaves_no_credentials_behind(workflow, job):
    content = WORKFLOWS[workflow]["jobs"][job]
    assert int(content["timeout-minutes"]) <= 60
    checkouts = [step for step in content["steps"] if step.get("uses", "").startswith("actions/checkout@")]
    assert [checkout["with"]["persist-credentials"] for checkout in checkouts] == ["false"]


def test_pull_requests_and_main_are_linted_tested_and_built():
    assert WORKFLOWS["checks"]["on"]["push"]["branches"] == ["main"]
    assert commands("checks", "test") == ["make setup", "make lint", "make test"]
    assert commands("checks", "image") == ["make image"]


def test_nothing_is_deployed_before_the_checks_and_the_image():
    jobs = WORKFLOWS["deploy"]["jobs"]
    assert jobs["checks"]["uses"] == "$/.github/workflows/checks.yml"
    assert jobs["image"]["needs"] == "checks"
    assert jobs["deploy"]["needs"] == "image"


def test_develop_goes_to_staging_and_a_release_tag_to_production():
    assert WORKFLOWS["deploy"]["on"]["push"] == {"branches": ["develop"], "tags": ["v*"]}
    assert "'production' || 'staging'" in WORKFLOWS["deploy"]["jobs"]["deploy"]["environment"]
    staging, production = step("deploy", "Deploy to staging"), step("deploy", "Deploy to production")
    assert "--branch staging argo-workflows create" in staging["run"]
    assert staging["if"] == "github.ref_type == 'branch'"
    assert '--production argo-workflows create --authorize "$PRODUCTION_TOKEN"' in production["run"]
    assert production["if"] == "github.ref_type == 'tag'"
    assert "--production" not in staging["run"]


@pytest.mark.parametrize("name", ["Deploy to staging", "Deploy to production"])
def test_metaflow_accepts_the_command_that_deploys(name):
    program, flow, *options = shlex.split(step("deploy", name)["run"])
    config = options.index("--config")
    assert options[config + 1] == "compute"
    # Everything that does not reach a cluster: the options before the subcommand, the subcommand, and its help.
    options = options[:config] + options[config + 3 :]
    options[options.index("s3")] = "local"
    del options[options.index("create") + 1 :]
    environment = os.environ | {"METAFLOW_USER": WORKFLOWS["deploy"]["jobs"]["deploy"]["env"]["METAFLOW_USER"]}
    command = [sys.executable, flow, *options, "--help"]
    shown = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert program == ".venv/bin/python"
    assert shown.returncode == 0, shown.stderr
    assert "--authorize" in shown.stdout


def test_a_release_that_is_not_on_main_is_refused(tmp_path):
    def git(*arguments: str) -> str:
        options = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "init.defaultBranch=main"]
        done = subprocess.run(["git", *options, *arguments], cwd=tmp_path, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    git("init", "--quiet")
    git("commit", "--quiet", "--allow-empty", "--message=on main")
    on_main = git("rev-parse", "HEAD")
    git("update-ref", "refs/remotes/origin/main", on_main)
    git("commit", "--quiet", "--allow-empty", "--message=elsewhere")
    command = step("image", "Check that the release is on main")["run"]

    def outcome(commit: str) -> int:
        return subprocess.run(["bash", "-ec", command], cwd=tmp_path, env={"GITHUB_SHA": commit}).returncode

    assert outcome(on_main) == 0
    assert outcome(git("rev-parse", "HEAD")) == 1


def test_tasks_run_in_the_image_of_this_commit():
    image, deploy = WORKFLOWS["deploy"]["jobs"]["image"], WORKFLOWS["deploy"]["jobs"]["deploy"]
    assert 'make image IMAGE="$IMAGE_REPOSITORY:$GITHUB_SHA" PUSH=1' in commands("deploy", "image")[-1]
    assert image["env"]["IMAGE_REPOSITORY"] == "${{ vars.IMAGE_REPOSITORY }}"
    assert deploy["env"]["IMAGE"] == "${{ vars.IMAGE_REPOSITORY }}:${{ github.sha }}"
    configured = step("deploy", "Set this commit's image and the MLflow server for every task")["run"]
    assert ".image = env.IMAGE" in configured


@pytest.mark.parametrize("there", [True, False])
def test_an_image_whose_tag_exists_is_not_pushed_again(tmp_path, there):
    for name, code in (("aws", 0 if there else 1), ("docker", 0), ("make", 0)):
        program = f'#!/bin/sh\necho {name} "$@" >> "{tmp_path}/calls"\n'
        program += f'case "$*" in *describe-images*) exit {code};; esac\n'
        (tmp_path / name).write_text(program)
        (tmp_path / name).chmod(0o755)
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "IMAGE_REPOSITORY": "1.dkr.ecr/skin", "GITHUB_SHA": "abc"}
    subprocess.run(["bash", "-e", "-o", "pipefail", "-c", commands("deploy", "image")[-1]], env=env, check=True)
    calls = (tmp_path / "calls").read_text()
    assert "aws ecr describe-images --repository-name skin --image-ids imageTag=abc" in calls
    assert ("make image IMAGE=1.dkr.ecr/skin:abc PUSH=1" in calls) != there


def test_contributing_names_every_variable_and_secret_that_the_workflows_read():
    text = "".join(file.read_text() for file in FILES)
    read = set(re.findall(r"(?:vars|secrets)\.(\w+)", text))
    described = set(re.findall(r"`([A-Z_]+)`", (ROOT / "CONTRIBUTING.md").read_text()))
    assert read <= described
