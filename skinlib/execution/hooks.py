"""What Metaflow calls: checks of the configs, the placement of the GPU steps, errors as sentences, the exit hook."""

import json
import os
import pwd
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from metaflow import FlowMutator, FlowSpec, Run, get_metadata, user_step_decorator
from metaflow._vendor import click
from metaflow.client import filecache
from metaflow.exception import MetaflowException
from metaflow.extension_support import EXT_EXCLUDE_SUFFIXES
from metaflow.metaflow_config import DATASTORE_SYSROOT_LOCAL, DEFAULT_DATASTORE
from metaflow.user_decorators.mutable_flow import MutableFlow
from metaflow.user_decorators.mutable_step import MutableStep
from metaflow.util import get_username

from skinlib import config, machine
from skinlib.errors import ConfigError, SkinlibError, without_credentials
from skinlib.execution import backends, doctor, provenance, reachability
from skinlib.execution.record import place_of, recorded
from skinlib.training.sweep import folds_from, trials_from

# Tasks and cards get configs that were checked when the run began.
_OF_TASKS_AND_CARDS = {"step", "spin-step", "init", "batch", "kubernetes", "card"}
_DEPLOYERS = {"argo-workflows", "step-functions"}
_WATCHED = 64  # remote tasks at once: each has a process here, of about 100 MB
_PREPARATION_MINUTES = 30  # of a remote task, before it trains: image, code, packed images
_RECORDING = {"start", "train", "register", "end"}  # steps that write to MLflow


def prepare() -> None:
    """Prepare what Metaflow takes from the machine: the user's name, home and cache, and places that it can use."""
    config.ensure_home()
    if get_username() is None:
        os.environ["USERNAME"] = _user_name()
    # Metaflow's cache for all users of a machine can be written only by the one who came first. The variable is for
    # the exit hook, which is a process of its own.
    if filecache.CLIENT_CACHE_PATH == "/tmp/metaflow_client":  # noqa: S108 (what is replaced)
        own = os.path.join(tempfile.gettempdir(), f"metaflow_client-{os.getuid()}")
        filecache.CLIENT_CACHE_PATH = os.environ["METAFLOW_CLIENT_CACHE_PATH"] = own
    # Metaflow adds every other file of skinlib to the code of a run, such as .env.
    package = Path(config.__file__).parent
    EXT_EXCLUDE_SUFFIXES.extend(path.name for path in package.rglob("*") if path.suffix not in (".py", ".html"))
    if {"run", "resume"} & set(sys.argv):
        _check_folder()
    # Metaflow shows a traceback for a config in another encoding, and its own sentence for one that it cannot open.
    for option, name, path in zip(sys.argv, sys.argv[1:], sys.argv[2:], strict=False):
        if option == "--config" and os.path.isfile(path):
            try:
                config.read_text(Path(path), f"{name} config")
            except ConfigError as error:
                sys.exit(f"Error: {error}")


def _check_folder() -> None:
    """End with a sentence if a run cannot keep its results below the working directory; Metaflow shows a traceback."""
    elsewhere = DATASTORE_SYSROOT_LOCAL or not {DEFAULT_DATASTORE, *sys.argv}.isdisjoint({"s3", "--datastore=s3"})
    existing = any((folder / ".metaflow").is_dir() for folder in (Path.cwd(), *Path.cwd().parents))
    if not (elsewhere or existing or os.access(".", os.W_OK)):
        sys.exit(
            f"Error: The folder {Path.cwd()} cannot be written; start in another one, or set "
            "METAFLOW_DATASTORE_SYSROOT_LOCAL to a folder for the results."
        )


def _user_name() -> str:
    """Name a user whom Metaflow does not know: it refuses root, often the only user of a container."""
    try:
        name = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"user-{os.getuid()}"
    return "container" if name == "root" else name


@contextmanager
def _for_metaflow() -> Iterator[None]:
    """Show an error that a user can act on as its sentence; Metaflow prints tracebacks for all but its own."""
    try:
        yield
    except SkinlibError as error:
        raise MetaflowException(str(error)) from error


@user_step_decorator
def sentences(step_name: str, flow: FlowSpec, inputs: object = None, attributes: object = None) -> Iterator[None]:
    """Show the errors of a step as sentences."""
    with _for_metaflow():
        yield


def parser(name: str) -> Callable[[str], dict[str, object]]:
    """Return the function with which Metaflow parses the config of that name."""

    def parse(text: str) -> dict[str, object]:
        with _for_metaflow():
            return config.parse(text, f"{name} config")

    return parse


class configured(FlowMutator):
    """Checks the configs before a run exists, and adds what follows from them to the flow and its steps."""

    def pre_mutate(self, mutable_flow: MutableFlow) -> None:
        """Add the exit hook, the record, `sentences` and what the compute config says; Metaflow always calls this."""
        configs, arguments = dict(mutable_flow.configs), _arguments()
        subcommand = arguments[0] if arguments else None
        deployed = subcommand in _DEPLOYERS
        with _for_metaflow():
            backend, environment = _backend(configs["compute"])
            if subcommand not in _OF_TASKS_AND_CARDS:
                _check_words(arguments)
                config.checkpoint_seconds(os.environ | environment)
                trials = trials_from(configs["sweep"], seed=0) if configs["sweep"] is not None else []
                _allow_branches(len(trials) * folds_from(configs["sweep"]) if trials else 0, backend)
                for _, parameter in mutable_flow.parameters:
                    parameter.kwargs["callback"] = _checked_option
                if deployed and "create" in arguments and "--help" not in arguments:
                    reachability.check_deployment(str(subcommand), backend, trials)
        if deployed and (commit := provenance.git_commit()):
            environment |= {provenance.DEPLOYED_COMMIT: commit}
        # Argo allows no dot and looks in the flow's file, a local run imports it.
        on_error = "mark_failed" if subcommand == "argo-workflows" else f"{__name__}.mark_failed"
        mutable_flow.add_decorator("exit_hook", deco_kwargs={"on_error": [on_error]})
        mutable_flow.add_decorator(partial(recorded, recorded), deco_kwargs={"place": place_of(backend)})
        for _, step in mutable_flow.steps:
            step.add_decorator(sentences)
            if not isinstance(backend, backends.Local):
                _place(step, backend, environment, deployed or _in_container())


def _in_container() -> bool:
    # A deployed flow runs only in containers, and each of them builds the flow again from the same code.
    return bool({"METAFLOW_KUBERNETES_WORKLOAD", "AWS_BATCH_JOB_ID"} & os.environ.keys())


def _arguments() -> list[str]:
    """Return Metaflow's subcommand, such as `run`, and the words after it; empty without a command line.

    A search in `sys.argv` would also find values, such as a tag's. Metaflow has no public way to ask. It keeps the
    words after its global options in `saved_args` of the click context, and reads the subcommand there itself
    (metaflow/cli.py).
    """
    return list(getattr(click.get_current_context(silent=True), "saved_args", None) or [])


def _check_words(arguments: list[str]) -> None:
    if found := {"--config", "--config-value"} & set(arguments):
        option, subcommand = found.pop(), arguments[0]
        raise ConfigError(f"{option} must come before `{subcommand}`; write {option} NAME FILE {subcommand}.")
    # `spin` takes a step, or a path that ends in a step or its task.
    words = {word for argument in arguments[1:] for word in argument.split("/")}
    if arguments[:1] == ["spin"] and (steps := words & _RECORDING):
        raise ConfigError(
            f"`spin {steps.pop()}` would change what MLflow has recorded of the run; spin another step, or start a run."
        )


def _allow_branches(number: int, backend: backends.Backend) -> None:
    """Set two defaults of Metaflow by the sweep and the place of its branches.

    `--max-num-splits` guards against endless loops. `--max-workers` is how many tasks run or are watched at once: here,
    as many as have a core, because a waiting one already holds almost 1 GB; elsewhere, more than Metaflow's 16.
    """
    if isinstance(backend, backends.Local):
        workers = min(max(2, machine.cores()), 16)
    else:
        workers = min(max(16, number), _WATCHED)
    if context := click.get_current_context(silent=True):
        defaults = {"max_num_splits": max(100, number), "max_workers": workers}
        context.default_map = dict.fromkeys(("run", "resume"), defaults)


def _checked_option(context: click.Context, option: click.Option, value: Any) -> Any:  # click's values are untyped
    name = str(option.name)
    with _for_metaflow():
        if without_credentials(str(value)) != str(value):
            raise ConfigError(
                f"{option.opts[0]} has a user, a password or a query in a URL, and options are stored with every run; "
                "leave them out, and give credentials as docs/data.md says."
            )
        if name in config.RUN_OPTIONS:
            config.check_run_options(**{name: value})
    return value


def backend_of(settings: Mapping[str, object]) -> backends.Backend:
    """Return the backend of a compute config, or of SKINLIB_COMPUTE where it is set."""
    return _backend(settings)[0]


def _backend(settings: Mapping[str, object] | None) -> tuple[backends.Backend, dict[str, str]]:
    """Return the backend to use, and the environment variables of every step."""
    variables = {}
    if chosen := os.environ.get("SKINLIB_COMPUTE", "").strip():
        # A remote task gets the content, since it does not have the file.
        in_variable = chosen.startswith(("{", "["))
        settings = config.parse(chosen, "config in SKINLIB_COMPUTE") if in_variable else backends.read(Path(chosen))
        variables["SKINLIB_COMPUTE"] = json.dumps(settings)
    backend = backends.backend_from(settings or {"backend": "local"})
    return backend, ({} if isinstance(backend, backends.Local) else backend.environment) | variables


def _place(
    step: MutableStep, backend: backends.Batch | backends.Kubernetes, environment: dict[str, str], all_remote: bool
) -> None:
    """Put a step on the backend if it asks for a GPU, or if all steps run in containers."""
    # Metaflow's specification of a decorator is a tuple: short name, full name, positional and keyword arguments.
    if any(keywords.get("gpu") for _, _, _, keywords in step.get_decorator_specs("resources")):
        # Metaflow would take the larger of this and what the backend's decorator asks for.
        step.remove_decorator("resources")
        step.add_decorator(backend.backend, deco_kwargs=backend.gpu_attributes())
        # For what the training's own limit cannot interrupt; from the start of the container, with all its preparation.
        step.add_decorator("timeout", deco_kwargs={"minutes": backend.timeout_minutes + _PREPARATION_MINUTES})
        # Metaflow would wait for minutes; after the loss of a spot instance there is no reason to.
        retry = {"times": backend.retries, "minutes_between_retries": 0}
        step.add_decorator("retry", deco_kwargs=retry, duplicates=step.OVERRIDE)
    elif all_remote:
        step.add_decorator(backend.backend, deco_kwargs=backend.attributes())
    if environment:
        step.add_decorator("environment", deco_kwargs={"vars": environment})


def check_remote(settings: Mapping[str, object]) -> None:
    """Refuse what would stop the remote tasks of this compute config, and warn that cards would be lost.

    Raises:
        ConfigError: MLflow's store is a file or a server of this machine only; or there is no image, or the job queue
            or the cluster does not answer.
    """
    backend = backend_of(settings)
    reachability.check_tracking(backend)
    if isinstance(backend, backends.Local):
        return
    if not _in_container():
        doctor.check_place(backend)
    if get_metadata().startswith("local"):
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

    # A run that was stopped immediately has no task. A run that failed in `start` has no run in MLflow.
    start = run["start"].task if run is not None and "start" in run else None
    if start is None or not start.successful:
        return
    try:
        runs.mark_failed(start["tracking"].data)
    except SkinlibError as error:
        print(f"MLflow still shows the run as running: {error}")
