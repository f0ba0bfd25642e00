"""What a run records about itself when it begins, as system tags: where it runs, its scheduler, what it continues.

`make resume` reads this, since a killed run cannot be asked. Artifacts would not do: a resumed run copies those of the
run that it continues, and a run that dies early has none.
"""

import os
import socket
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import psutil
from metaflow import Run
from metaflow._vendor import click
from metaflow.decorators import FlowDecorator
from metaflow.metaflow_config import KUBERNETES_NAMESPACE
from metaflow.util import get_latest_run_id

from skinlib.execution import backends

_SECONDS_OF_DOUBT = 5  # between two readings of when a process began


class recorded(FlowDecorator):
    """Gives every run the tags of its `Record`; the attribute `place` is that of the compute config."""

    name = "recorded"
    defaults: ClassVar = {"place": "local"}

    def flow_init_ctx(self, options: object) -> None:
        """Add the tags to those of a run that begins; Metaflow calls this in every process of the flow."""
        # The words of the command line after its global options, where Metaflow itself looks for them.
        saved = getattr(click.get_current_context(silent=True), "saved_args", None) or [""]
        words = [part for word in saved for part in word.split("=", 1)]
        tags = [f"datastore:{self.system_ctx.flow_datastore.TYPE}", f"compute:{self.attributes['place']}"]
        if words[0] in ("run", "resume"):
            began = int(psutil.Process().create_time())
            tags.append(f"scheduler:{socket.gethostname()}/{os.getpid()}/{began}")
        if words[0] == "resume":
            latest = get_latest_run_id(lambda *_, **__: None, self.system_ctx.flow.name)
            tags.append(f"origin:{dict(pairwise(words)).get('--origin-run-id', latest)}")
        self.system_ctx.metadata.add_sticky_tags(sys_tags=tags)


def place_of(backend: backends.Backend) -> str:
    """Return where the GPU steps run: `local`, `batch` or `kubernetes/NAMESPACE`."""
    if isinstance(backend, backends.Kubernetes):
        return f"{backend.backend}/{backend.namespace or KUBERNETES_NAMESPACE}"
    return backend.backend


@dataclass(frozen=True)
class Record:
    """What a run recorded when it began.

    Attributes:
        run: the run.
        user: its owner.
        place: where its GPU steps run: `local`, `batch` or `kubernetes/NAMESPACE`.
        datastore: the type, such as `s3`.
        origin: ID of the run that it continues.
        host: the machine of its scheduler; None if a deployer such as Argo runs it.
    """

    run: Run
    user: str
    place: str
    datastore: str | None
    origin: str | None
    host: str | None
    _pid: int
    _began: int

    @property
    def here(self) -> bool:
        """Whether its scheduler was started on this machine."""
        return self.host == socket.gethostname()

    def scheduler(self) -> psutil.Process | None:
        """Return the scheduler's process if it is on this machine and has not ended."""
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(self._pid)
            # After a restart of the machine or container, another process may have its number.
            same = self.here and abs(process.create_time() - self._began) <= _SECONDS_OF_DOUBT
            return process if same and process.status() != psutil.STATUS_ZOMBIE else None
        return None


def read_record(run: Run) -> Record:
    """Return what a run recorded."""
    values = {name: value for name, _, value in (tag.partition(":") for tag in run.system_tags)}
    host, pid, began = values.get("scheduler", "/0/0").rsplit("/", 2)
    return Record(
        run=run,
        user=values.get("user", "an unknown user"),
        place=values.get("compute", "local"),
        datastore=values.get("datastore"),
        origin=values.get("origin"),
        host=host or None,
        _pid=int(pid),
        _began=int(began),
    )


def family(run: Run) -> list[Record]:
    """Return the records of a run, of those that it continues and of those that continue one of them, newest first.

    All of them have the same checkpoints and the same run in MLflow.
    """
    records = {each.id: read_record(each) for each in run.parent}

    def first(name: str) -> str:
        while name in records and (origin := records[name].origin):
            name = origin
        return name

    return [record for name, record in records.items() if first(name) == first(run.id)]
