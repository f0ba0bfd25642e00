"""How figures are written in all reports."""

from skinlib.evaluation.intervals import Estimate


def number(value: float | None, form: str = ".3f") -> str:
    """Format a metric; None is `undefined`."""
    return "undefined" if value is None else format(value, form)


def estimate(of: Estimate) -> str:
    """Format a metric with its interval."""
    if of["interval"] is None:
        return number(of["value"])
    return f"{number(of['value'])} ({' to '.join(map(number, of['interval']))})"
