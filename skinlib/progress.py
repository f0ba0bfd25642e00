"""Progress of work that takes more than a few seconds."""

import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import TypeVar

Progress = Callable[[int, int], None]  # called with (items done, all items)
_Item = TypeVar("_Item")
_SECONDS_BETWEEN_LINES = 3.0
_SECONDS_BETWEEN_CALLS = 0.5


def silent(done: int, total: int) -> None:
    """Show nothing."""


def printed(what: str, quiet: bool = False) -> Progress:
    """Return a Progress that prints a line every few seconds and at the end, or nothing if `quiet`.

    Before the end, the line has the rate since this call and the time left.
    """
    if quiet:
        return silent
    began = last = time.monotonic()

    def show(done: int, total: int) -> None:
        nonlocal last
        if done == total or time.monotonic() - last >= _SECONDS_BETWEEN_LINES:
            last = time.monotonic()
            rate = done / (last - began)
            left = f", {rate:.3g} per second, {timedelta(seconds=int((total - done) / rate))} left" if rate else ""
            print(f"{what}: {done:,} of {total:,}{left if done < total else ''}", flush=True)

    return show


def reported(items: Iterator[_Item], total: int, on_progress: Progress) -> Iterator[_Item]:
    """Yield the items, and call `on_progress` about twice per second and after the last one."""
    last = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        if done == total or time.monotonic() - last > _SECONDS_BETWEEN_CALLS:
            on_progress(done, total)
            last = time.monotonic()
