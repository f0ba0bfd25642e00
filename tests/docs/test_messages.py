"""The messages that the troubleshooting page explains are those that the project gives."""

import ast
import re

from tests.docs.commands import ROOT

PAGE = ROOT / "docs/troubleshooting.md"
# Of Python, the system, Metaflow and AWS, and one that is put together from parts.
OTHERS = {
    "There is no run of SkinLesionFlow here",
    "No module named 'fcntl'",
    "No space left on device",
    "RUNNABLE",
    "could not be read for",
    "Permission denied: '/tmp/metaflow_client",
    "could not determine your user name",
    "Flow(...) does not exist",
}


def texts():
    """Every text in the sources, with NUL for what is filled in."""
    yield (ROOT / "Makefile").read_text()
    for folder in ("skinlib", "flows", "infra"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield node.value
                if isinstance(node, ast.JoinedStr):
                    yield "".join(part.value if isinstance(part, ast.Constant) else "\0" for part in node.values)


def test_every_quoted_message_is_in_the_sources():
    sources = "\n".join(texts())
    quoted = {
        fragment
        for row in re.findall(r"^\| (.*?) \|", PAGE.read_text(), re.MULTILINE)
        for fragment in re.findall(r"`([^`]+)`", row)
    }
    gone = [
        fragment
        for fragment in sorted(quoted - OTHERS)
        if not all(part.strip(" '") in sources for part in fragment.split("..."))
    ]
    assert gone == [], "reword these in docs/troubleshooting.md, or list them in OTHERS if they are not ours"
