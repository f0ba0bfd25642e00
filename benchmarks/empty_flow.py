"""The least that Metaflow can run: what `remote_overhead` takes for Metaflow's own time."""

from metaflow import FlowSpec, step


class EmptyFlow(FlowSpec):
    """start -> end, with nothing in them."""

    @step
    def start(self) -> None:
        """Do nothing."""
        self.next(self.end)

    @step
    def end(self) -> None:
        """Do nothing."""


if __name__ == "__main__":
    EmptyFlow()
