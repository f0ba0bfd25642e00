"""What all cards are made of."""

import pytest

from skinlib.reporting.components import markdown


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("<img src=x onerror=alert(1)>.jpg", "&lt;img src=x onerror=alert(1)>.jpg"),
        ("[clinic](javascript:alert(1))", "[clinic] (javascript:alert(1))"),
        ("![clinic](https://example.org/seen.png)", "![clinic] (https://example.org/seen.png)"),
        ("HAM10000", "HAM10000"),
        ("p < 0.001", "p < 0.001"),
    ],
)
def test_names_in_markdown_bring_no_script_along(name, shown):
    assert markdown(f"From {name}.")._text == f"From {shown}."
