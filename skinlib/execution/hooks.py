"""What Metaflow calls: checks of the configs, the placement of the GPU steps, errors as sentences, the exit hook."""

import json
import os
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

from metaflow import FlowMutator, FlowSpec, Run, get_metadata, user_step_decorator
from metaflow._vendor import click
from metaflow.exception import MetaflowException
from metaflow.user_decorators.mutable_flow import MutableFlow
from metaflow.user_decorators.mutable_step import MutableStep

from skinlib.errors import ConfigError, SkinlibError
from skinlib.execution import backends, provenance
from skinlib.execution.reachability import check_tracking
from skinlib.execution.record import place_of, recorded
from skinlib.training.sweep import trials_from

# Tasks and cards get configs that were checked when the run began.
_OF_TASKS_AND_CARDS = {"step", "spin-step", "init", "batch", "kubernetes", "card"}
_DEPLOYERS = {"argo-workflows", "step-functions"}


def name_root_user() -> None:
    """Give root a user name: Metaflow refuses to run as root, which is often the only user of a container."""
    if hasattr(os, "getuid") and os.getuid() == 0:
        os.environ.setdefault("USERNAME", "container")  # Metaflow reads METAFLOW_USER first.


@user_step_decorator
def sentences(step_name: str, flow: FlowSpec, inputs: object = None, attributes: object = None) -> Iterator[None]:
    """Show an error that a user can act on as its sentence; Metaflow prints tracebacks for all but its own."""
    try:
        yield
    except SkinlibError as error:
        raise MetaflowException(str(error)) from error


class configured(FlowMutator):
    """Checks the configs before a run exists, and adds what follows from them to the flow and its steps."""

    def pre_mutate(self, mutable_flow: MutableFlow) -> None:
        """Add the exit hook, the record, `sentences` and what the compute config says; Metaflow always calls this."""
        configs, subcommand = dict(mutable_flow.configs), _subcommand()
        deployed = subcommand in _DEPLOYERS
        try:
            if subcommand not in _OF_TASKS_AND_CARDS and configs["sweep"] is not None:
                trials_from(configs["sweep"], seed=0)
            backend, environment = _backend(configs["compute"])
            if deployed and isinstance(backend, backends.Kubernetes):
                _check_namespace(backend.namespace)
        except SkinlibError as error:
            raise MetaflowException(str(error)) from error
        if deployed and (commit := provenance.git_commit()):
            environment |= {provenance.DEPLOYED_COMMIT: commit}
        # A deployed flow runs only in containers, and each of them builds the flow again from the same code.
        in_container = bool({"METAFLOW_KUBERNETES_WORKLOAD", "AWS_BATCH_JOB_ID"} & os.environ.keys())
        mutable_flow.add_decorator("exit_hook", deco_kwargs={"on_error": [_exit_hook(subcommand)]})
        mutable_flow.add_decorator(partial(recorded, recorded), deco_kwargs={"place": place_of(backend)})
        for _, step in mutable_flow.steps:
            step.add_decorator(sentences)
            if not isinstance(backend, backends.Local):
                _place(step, backend, environment, deployed or in_container)


def _subcommand() -> str | None:
    """Return Metaflow's subcommand, such as `run` or `step`; None without a command line, as in the Runner API.

    A search in `sys.argv` would also find values, such as a tag's. Metaflow has no public way to ask. It keeps the
    words after its global options in `saved_args` of the click context, and reads the subcommand there itself
    (metaflow/cli.py).
    """
    arguments = getattr(click.get_current_context(silent=True), "saved_args", None)
    return arguments[0] if arguments else None


def _exit_hook(subcommand: str | None) -> str:
    """Name `mark_failed` for Metaflow: Argo allows no dot and looks in the flow's file, a local run imports it."""
    return "mark_failed" if subcommand == "argo-workflows" else f"{__name__}.mark_failed"


def _backend(config: Mapping[str, object] | None) -> tuple[backends.Backend, dict[str, str]]:
    """Return the backend to use, and the environment variables of every step."""
    variables = {}
    if chosen := os.environ.get("SKINLIB_COMPUTE"):
        # A remote task gets the content, since it does not have the file.
        config = json.loads(chosen) if chosen.startswith("{") else backends.read(Path(chosen))
        variables["SKINLIB_COMPUTE"] = json.dumps(config)
    backend = backends.backend_from(config or {"backend": "local"})
    return backend, ({} if isinstance(backend, backends.Local) else backend.environment) | variables


def _check_namespace(namespace: str | None) -> None:
    from metaflow.metaflow_config import KUBERNETES_NAMESPACE

    if namespace not in (None, KUBERNETES_NAMESPACE):
        raise ConfigError(
            f"Argo Workflows puts all pods into the profile's namespace {KUBERNETES_NAMESPACE}, not into {namespace}; "
            f"set METAFLOW_KUBERNETES_NAMESPACE={namespace}."
        )


def _place(
    step: MutableStep, backend: backends.Batch | backends.Kubernetes, environment: dict[str, str], all_remote: bool
) -> None:
    """Put a step on the backend if it asks for a GPU, or if all steps run in containers."""
    if _asks_for_gpu(step):
        # Metaflow would take the larger of this and what the backend's decorator asks for.
        step.remove_decorator("resources")
        step.add_decorator(backend.backend, deco_kwargs=backend.gpu_attributes())
        step.add_decorator("timeout", deco_kwargs={"minutes": backend.timeout_minutes})
        # Metaflow would wait for minutes; after the loss of a spot instance there is no reason to.
        retry = {"times": backend.retries, "minutes_between_retries": 0}
        step.add_decorator("retry", deco_kwargs=retry, duplicates=step.OVERRIDE)
    elif all_remote:
        step.add_decorator(backend.backend, deco_kwargs=backend.attributes())
    if environment:
        step.add_decorator("environment", deco_kwargs={"vars": environment})


def _asks_for_gpu(step: MutableStep) -> bool:
    # Metaflow's specification of a decorator is a tuple: short name, full name, positional and keyword arguments.
    return any(keywords.get("gpu") for _, _, _, keywords in step.get_decorator_specs("resources"))


def check_remote(config: Mapping[str, object]) -> None:
    """Refuse an MLflow store that remote tasks cannot reach, and warn that cards would be lost.

    Raises:
        ConfigError: the compute config is remote, and MLflow's store is a file or a server of this machine only.
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
        run: None if Metaflow cannot read it, as in a container without a metadata service; it may have no step yet.
    """
    from skinlib.tracking import runs

    start = run["start"].task if run and "start" in run else None
    if start and start.successful:
        runs.mark_failed(start["tracking"].data)
