"""Progress: the end is always reported."""

import pytest

from skinlib import progress


def test_printed_progress_always_shows_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    show = progress.printed("images read")
    for done in range(1, 1201):
        show(done, 1200)
    assert capsys.readouterr().out == "images read: 1,200 of 1,200\n"


def test_quiet_progress_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    progress.printed("images read", quiet=True)(1, 1)
    assert capsys.readouterr().out == ""


def test_reported_items_pass_unchanged_and_the_last_is_reported() -> None:
    calls: list[tuple[int, int]] = []
    assert list(progress.reported(iter("abc"), 3, lambda *call: calls.append(call))) == ["a", "b", "c"]
    assert calls[-1] == (3, 3)
