"""How figures are written in all reports."""

from skinlib.evaluation.calibration import Reliability
from skinlib.evaluation.intervals import Estimate


def number(value: float | None, form: str = ".3f") -> str:
    """Format a metric; None is `undefined`."""
    return "undefined" if value is None else format(value, form)


def estimate(of: Estimate) -> str:
    """Format a metric with its interval."""
    if of["interval"] is None:
        return number(of["value"])
    return f"{number(of['value'])} ({' to '.join(map(number, of['interval']))})"


def calibration_error(of: Reliability) -> str:
    """Format an expected calibration error with what chance alone would give."""
    return f"{number(of['ece'])} (up to {number(of['ece_noise'])} by chance)"
