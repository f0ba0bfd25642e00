"""The smallest Metaflow flow, the baseline of `remote_overhead`."""

from metaflow import FlowSpec, step


class EmptyFlow(FlowSpec):
    """start -> end, both empty."""

    @step
    def start(self) -> None:
        """Do nothing."""
        self.next(self.end)

    @step
    def end(self) -> None:
        """Do nothing."""


if __name__ == "__main__":
    EmptyFlow()
