"""The page of the benchmarks has a place for each table."""

import re

from tests.docs.commands import ROOT

PAGE = (ROOT / "docs/benchmarks.md").read_text()


def test_every_table_has_its_place_on_the_page():
    programs = "".join(path.read_text() for path in (ROOT / "benchmarks").glob("*.py"))
    tables = set(re.findall(r'Table\(f?"([^"{]+)', programs))
    assert len(tables) >= 10
    for table in tables:
        [(start, end)] = set(re.findall(rf"<!-- ({table}.*?) -->.*?<!-- end of ({table}.*?) -->", PAGE, re.DOTALL)[:1])
        assert start == end
