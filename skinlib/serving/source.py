"""The code of a registered model as one file, which needs neither this project nor torch."""

import ast
from pathlib import Path
from typing import TypeGuard

import skinlib

ROOT = Path(skinlib.__file__).parents[1]


def code() -> str:
    """Return the code of `skinlib.serving.classifier`, with the code that it imports from skinlib in front of it."""
    parts: dict[str, str] = {}
    _collect("skinlib.serving.classifier", parts)
    return "\n\n".join(parts.values())


def _collect(module: str, parts: dict[str, str]) -> None:
    """Add a module's code, without its imports from skinlib, after the code of the modules that it imports there."""
    if module in parts:
        return
    source = (ROOT / f"{module.replace('.', '/')}.py").read_text()
    tree, lines = ast.parse(source), source.splitlines()
    for imported in [str(node.module) for node in tree.body if _is_own(node)]:
        _collect(imported, parts)
    for node in ast.walk(tree):
        if _is_own(node):  # also those for type checkers only
            lines[node.lineno - 1 : node.end_lineno] = [""] * (int(node.end_lineno or 0) - node.lineno + 1)
            lines[node.lineno - 1] = " " * node.col_offset + "pass"
    parts[module] = "\n".join(lines) + "\n"


def _is_own(node: ast.AST) -> TypeGuard[ast.ImportFrom]:
    return isinstance(node, ast.ImportFrom) and (node.module or "").startswith("skinlib.")
