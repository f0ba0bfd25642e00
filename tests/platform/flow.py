"""The smallest flow that uses the whole platform: a step that runs remotely, is killed once, and has a card.

python flow.py --config-value compute '{"backend": "batch"}' run
"""

import os
import signal
from typing import Any

from metaflow import Config, FlowMutator, FlowSpec, card, current, retry, step
from metaflow.cards import Markdown


class remotely(FlowMutator):
    """Run the step `work` on the backend of the config."""

    def pre_mutate(self, mutable_flow: Any) -> None:
        """Called by Metaflow for every command, also inside tasks."""
        backend = dict(mutable_flow.configs)["compute"]["backend"]
        if backend != "local":
            step = dict(mutable_flow.steps)["work"]
            step.add_decorator(backend, deco_kwargs={"cpu": 1, "memory": 512, "gpu": 1})


@remotely
class PlatformFlow(FlowSpec):
    compute = Config("compute", default_value='{"backend": "local"}')

    @step
    def start(self) -> None:
        self.next(self.work)

    @card(type="blank", id="progress")
    @retry(times=1, minutes_between_retries=0)
    @step
    def work(self) -> None:
        if current.retry_count == 0 and self.compute.get("killed_once"):
            os.kill(os.getpid(), signal.SIGKILL)
        if current.retry_count == 0 and self.compute.get("fails_once"):
            self.attempt = self.only_first = 0
            raise RuntimeError("once")
        current.card["progress"].append(Markdown("written remotely"))
        self.attempt = current.retry_count
        self.directory = os.getcwd()
        self.next(self.end)

    @step
    def end(self) -> None:
        pass


if __name__ == "__main__":
    PlatformFlow()
