import pytest

from skinlib import console


@pytest.mark.parametrize(
    ("estimate", "words"),
    [
        ({"value": 0.5, "interval": None}, "0.500"),
        ({"value": 0.5, "interval": [0.4, 0.6]}, "0.500 (0.400 to 0.600)"),
        ({"value": None, "interval": None}, "undefined"),
        (None, "undefined"),
    ],
)
def test_a_metric_is_written_with_its_interval_where_it_has_one(estimate, words):
    assert console.estimate(estimate) == words


def test_progress_always_shows_the_end(capsys):
    show = console.progress("images read")
    for done in range(1, 1201):
        show(done, 1200)
    assert capsys.readouterr().out == "images read: 1,200 of 1,200\n"
