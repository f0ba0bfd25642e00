"""What ties the library to Metaflow: errors as sentences, configs checked at the start, the run's own store."""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from metaflow import FlowMutator, Run, get_metadata, user_step_decorator
from metaflow.exception import MetaflowException

from skinlib import backends, sweep
from skinlib.errors import ConfigError, SkinlibError

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


class configured(FlowMutator):
    """Check the configs before a run exists, put the GPU steps where the compute config says, and add `sentences`."""

    def pre_mutate(self, mutable_flow: Any) -> None:
        """Called by Metaflow with every command, in the tasks as well."""
        configs = dict(mutable_flow.configs)
        try:
            # Tasks and card refreshes get configs that were checked when the run began.
            if not {"step", "card"} & set(sys.argv) and configs["sweep"] is not None:
                sweep.trials_from(configs["sweep"], seed=0)
            backend, environment = _backend(configs["compute"])
            deployed = bool({"argo-workflows", "step-functions"} & set(sys.argv))
            if deployed and isinstance(backend, backends.Kubernetes):
                _check_namespace(backend.namespace)
        except SkinlibError as error:
            raise MetaflowException(str(error)) from error
        if deployed and (commit := git_commit()):
            environment |= {_COMMIT: commit}
        # What is deployed runs in containers throughout, and each of them makes the flow anew from the same code.
        in_container = bool({"METAFLOW_KUBERNETES_WORKLOAD", "AWS_BATCH_JOB_ID"} & os.environ.keys())
        for _, step in mutable_flow.steps:
            step.add_decorator(sentences)
            if not isinstance(backend, backends.Local):
                _place(step, backend, environment, deployed or in_container)


def _backend(config: Any) -> tuple[backends.Backend, dict[str, str]]:
    """Return the backend that counts, and the variables of every step."""
    variables = {}
    if chosen := os.environ.get("SKINLIB_COMPUTE"):
        # A remote task gets the content, since it has no file of that name.
        config = json.loads(chosen) if chosen.startswith("{") else backends.read(Path(chosen))
        variables["SKINLIB_COMPUTE"] = json.dumps(config)
    backend = backends.backend_from(config or {"backend": "local"})
    return backend, getattr(backend, "environment", {}) | variables


def _check_namespace(namespace: str | None) -> None:
    from metaflow.metaflow_config import KUBERNETES_NAMESPACE

    if namespace not in (None, KUBERNETES_NAMESPACE):
        raise ConfigError(
            f"Argo Workflows puts all pods into the profile's namespace {KUBERNETES_NAMESPACE}, not into {namespace}; "
            f"set METAFLOW_KUBERNETES_NAMESPACE={namespace}."
        )


def _place(
    step: Any, backend: backends.Batch | backends.Kubernetes, environment: dict[str, str], all_remote: bool
) -> None:
    on_gpu = any(spec[3].get("gpu") for spec in step.get_decorator_specs("resources"))
    if on_gpu:
        # Metaflow would take the larger of this and what the backend's decorator asks for.
        step.remove_decorator("resources")
        step.add_decorator(backend.backend, deco_kwargs=backend.gpu_attributes())
        step.add_decorator("timeout", deco_kwargs={"minutes": backend.timeout_minutes})
        # Without the minutes that Metaflow waits: a lost spot instance is no reason to.
        retry = {"times": backend.retries, "minutes_between_retries": 0}
        step.add_decorator("retry", deco_kwargs=retry, duplicates=step.OVERRIDE)
    elif all_remote:
        step.add_decorator(backend.backend, deco_kwargs=backend.attributes())
    if environment:
        step.add_decorator("environment", deco_kwargs={"vars": environment})


def check_remote(config: Any) -> None:
    """Refuse an MLflow store that remote tasks cannot reach, and warn of cards that would be lost.

    Raises:
        ConfigError: the compute config is remote and MLflow's store is a file, or a server of this machine alone.
    """
    backend, _ = _backend(config)
    check_tracking(backend)
    if not isinstance(backend, backends.Local) and get_metadata().startswith("local"):
        print(
            "Metadata is local: the cards of remote tasks will be lost. To keep them, set METAFLOW_SERVICE_URL and "
            "METAFLOW_DEFAULT_METADATA=service.",
            flush=True,
        )


def mark_failed(run: Run | None) -> None:
    """Mark the run as failed in MLflow too; Metaflow calls this when a run has failed.

    Args:
        run: None where Metaflow cannot read it, as in a container without a metadata service.
    """
    from skinlib import tracking

    if run is None:
        return
    start = run["start"].task
    if start.successful:
        tracking.mark_failed(start["tracking"].data)
