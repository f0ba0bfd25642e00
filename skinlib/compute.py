"""What ties the library to Metaflow: errors as sentences, configs checked at the start, the run's own store."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from metaflow import FlowMutator, Run, Task, current, user_step_decorator
from metaflow.exception import MetaflowException

from skinlib import sweep
from skinlib.errors import SkinlibError
from skinlib.storage import Store, open_store

# Metaflow takes no run of root's, and in a container there is nobody else. It looks here after METAFLOW_USER.
if hasattr(os, "getuid") and os.getuid() == 0:
    os.environ.setdefault("USERNAME", "container")


@user_step_decorator
def sentences(step_name: str, flow: Any, inputs: Any = None, attributes: Any = None) -> Iterator[None]:
    """Show an error that a user can act on as its sentence; Metaflow prints tracebacks for all but its own."""
    try:
        yield
    except SkinlibError as error:
        raise MetaflowException(str(error)) from error


class checked(FlowMutator):
    """Check the flow's configs before a run exists, and give every step `sentences`."""

    def pre_mutate(self, mutable_flow: Any) -> None:
        """Called by Metaflow with every command, in the tasks as well."""
        # Tasks and card refreshes get configs that were checked when the run began.
        if not {"step", "card"} & set(sys.argv):
            for name, config in mutable_flow.configs:
                if name == "sweep" and config is not None:
                    try:
                        sweep.trials_from(config, seed=0)
                    except SkinlibError as error:
                        raise MetaflowException(str(error)) from error
        for _, step in mutable_flow.steps:
            step.add_decorator(sentences)


def mark_failed(run: Run) -> None:
    """Mark the run as failed in MLflow too; Metaflow calls this, in a process of its own, when a run has failed."""
    from skinlib import tracking

    start = run["start"].task
    if start.successful:
        tracking.mark_failed(start["tracking"].data)


def run_store() -> Store:
    """Open the store in which the current task's run keeps its artifacts, wherever that is."""
    recorded = Task(current.pathspec, _namespace_check=False).metadata_dict
    if recorded["ds-type"] == "s3":
        from metaflow.metaflow_config import S3_ENDPOINT_URL

        return open_store(recorded["ds-root"], endpoint_url=S3_ENDPOINT_URL)
    return open_store(recorded["ds-root"], create=True)


def git_commit() -> str | None:
    """Return the commit that the code was run from, with `+changes` where files differ from it; None without git."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        status = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{commit}+changes" if status else commit
