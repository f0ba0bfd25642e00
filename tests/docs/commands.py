"""Every command in the documentation, and which test or script runs it.

A new command in a page belongs in one of the three tables below.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]

TRAIN = "make train"
UPLOAD = "skinlib upload FOLDER s3://bucket/prefix"
PROMOTION = "tests/unit/tracking/test_promotion.py::test_the_commands_list_promote_and_roll_back"
SERVER = "tests/unit/serving/test_server.py"
SERVE = "test_make_serve_answers_the_documented_curl_and_a_new_champion_is_served_after_a_restart"

# Run by test_commands.py, in a directory in which `make train` has finished.
RUN = [
    TRAIN,
    UPLOAD,
    "make resume RUN=ID",
    "skinlib audit FOLDER",
    "skinlib audit s3://bucket/prefix --json",
    "skinlib cache",
    "skinlib doctor",
    "skinlib evaluate models:/skin-lesion@champion FOLDER",
    "METAFLOW_USER=container python -c 'from metaflow import get_namespace; print(get_namespace())'",
]

# Run by test_commands.py until they answer, each on a free port.
SERVERS = ["make cards", ".venv/bin/mlflow ui --backend-store-uri sqlite:///mlflow.db"]

# Run by another test, or by a script that CI runs. `*` matches anything.
COVERED = {
    "make setup": ".github/workflows/checks.yml",
    "make lint": ".ci/run",
    "make test": ".ci/run",
    "make image": ".github/workflows/checks.yml",
    "make image IMAGE=* PUSH=1": (
        "tests/unit/test_image.py::test_make_builds_the_target_for_tasks_and_pushes_only_on_request"
    ),
    "make serve": f"{SERVER}::{SERVE}",
    "make serve MODEL=models:/skin-lesion-sample@champion": f"{SERVER}::{SERVE}",
    "skinlib demo models:/skin-lesion-sample@champion": (
        "tests/unit/serving/test_page.py::test_a_photograph_gets_the_answer_of_the_graph_its_pixels_and_a_heat_map"
    ),
    "skinlib cache --delete-unused 30": ("tests/unit/test_cli.py::test_cache_deletes_what_is_unused_only_after_asking"),
    "skinlib models": PROMOTION,
    "skinlib promote skin-lesion 3": PROMOTION,
    "skinlib rollback skin-lesion": PROMOTION,
    "(echo *base64 * curl *": f"{SERVER}::{SERVE}",
    "make serving-image": (
        "tests/unit/test_image.py::test_make_builds_the_serving_target_from_the_downloaded_model_and_pushes_it_on_request"
    ),
    "make resume": "tests/flow/test_break.py::test_a_killed_flow_is_resumed_and_nothing_finished_is_done_again",
    "SKINLIB_COMPUTE=* make resume": (
        "tests/platform/test_train.py"
        "::test_without_a_metadata_service_a_killed_task_is_retried_and_a_killed_run_resumes_on_another_backend"
    ),
    "python flows/train.py --config sweep * run --data FOLDER": (
        "tests/flow/test_run.py::test_the_leaderboard_has_every_trial_and_the_winner_first"
    ),
    "python flows/train.py --config sweep * run --data FOLDER --elsewhere isic2017,ham10000": (
        "tests/flow/test_run.py::test_the_winner_is_evaluated_elsewhere_as_on_the_test_images"
    ),
    "python flows/train.py *run --data s3://bucket/prefix": (
        "tests/flow/test_secrets.py::test_a_run_leaves_no_secret_and_no_path_of_its_weights"
    ),
    "python flows/train.py --datastore s3 --config compute configs/compute/batch.json run *": (
        "tests/platform/test_train.py::test_only_training_runs_on_batch_and_gives_the_same_results_as_a_local_run"
    ),
    "python flows/train.py *--config compute configs/compute/kubernetes.json run*": (
        "tests/platform/test_train.py"
        "::test_without_a_metadata_service_a_killed_task_is_retried_and_a_killed_run_resumes_on_another_backend"
    ),
    "python flows/train.py *argo-workflows create": (
        "tests/flow/test_deploy.py::test_each_branch_of_the_project_has_its_own_workflow"
    ),
    "skinlib evaluate models:/skin-lesion@champion s3://bucket/prefix --json": (
        "tests/flow/test_run.py::test_the_command_and_the_flow_give_the_same_metrics"
    ),
    "skinlib predict models:/skin-lesion@champion s3://bucket/prefix --output scores.parquet": (
        "tests/unit/serving/test_scoring.py::test_the_table_may_be_written_among_the_images_of_a_bucket"
    ),
    "skinlib sample DIRECTORY": "tests/unit/test_cli.py::test_sample_writes_images_that_a_run_accepts",
    "skinlib doctor --compute *": "tests/platform/test_doctor.py::test_every_check_passes_on_the_platform",
    "make infra": "tests/unit/infra/test_deploy.py::test_one_command_creates_everything_and_prints_the_next_step",
    "make infra DATA=FOLDER": "tests/unit/infra/test_deploy.py::test_a_second_deployment_changes_and_uploads_nothing",
    "make infra PARAMETERS=*": (
        "tests/unit/infra/test_deploy.py::test_later_deployments_keep_a_parameter_and_an_unknown_one_is_an_error"
    ),
    "make infra-down*": "tests/unit/infra/test_deploy.py::test_buckets_with_data_are_deleted_only_when_told",
    "make platform": "tests/platform/test_services.py::test_a_second_start_changes_nothing",
    "make platform-status": "tests/platform/test_services.py::test_every_service_is_healthy",
    "make platform-stop": (
        "tests/platform/test_services.py::test_data_ports_and_credentials_survive_a_restart_and_dead_servers_are_replaced"
    ),
    "source .platform/env": "tests/platform/test_services.py::test_the_mlflow_server_stores_artifacts_in_s3",
}

# Run by no test, and why.
NOT_RUN = {
    "python -m benchmarks.*": "takes minutes on an idle machine, and measures only",
    "pip install *": "for a benchmark",
    "docker run --publish 127.0.0.1:8080:8080 skin-lesion-serving": "needs Docker",
    "kubectl apply -f configs/serving/kubernetes.yaml": "needs a cluster; `make lint` validates the file",
    "make lock": "asks the package index for new versions, which differ from day to day",
    "python flows/train.py --branch staging argo-workflows trigger *": "needs a cluster with Argo Workflows",
}


@dataclass(frozen=True)
class Block:
    """A fenced block: its page, the line of its fence (from 1), its language, and its text."""

    page: Path
    line: int
    language: str
    text: str


def blocks(page: Path) -> Iterator[Block]:
    """Yield the fenced blocks of a page."""
    for match in re.finditer(r"^```(\w*)\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL):
        line = page.read_text().count("\n", 0, match.start()) + 1
        yield Block(page, line, match[1], match[2])


def commands(page: Path) -> Iterator[tuple[int, str]]:
    """Yield line and text of each command in the `bash` blocks of a page, without its comment."""
    for block in blocks(page):
        if block.language != "bash":
            continue
        number = block.line
        for line in re.sub(r"\\\n *", " ", block.text).splitlines():
            number += 1
            command = re.sub(r"(^|\s+)# .*", "", line).strip()
            if command:
                yield number, command


def tables_with(command: str) -> list[str]:
    """Name the tables that account for a command."""
    found = ["RUN"] * (command in RUN) + ["SERVERS"] * (command in SERVERS)
    for name, table in (("COVERED", COVERED), ("NOT_RUN", NOT_RUN)):
        found += [name] * any(fnmatchcase(command, pattern) for pattern in table)
    return found
