"""The page of the benchmarks: each writes its table there, below its command."""

import platform
import re
from datetime import date
from importlib.metadata import version
from pathlib import Path

from skinlib import machine

PAGE = Path(__file__).resolve().parents[1] / "docs/benchmarks.md"


class Table:
    """A table that is printed row by row, and replaces its predecessor on the page when it is complete.

    Attributes:
        name: Of the markers around its place on the page, `<!-- NAME -->` and `<!-- end of NAME -->`.
        packages: Packages to print with their versions.
        hardware: The device if it is not the CPU.
    """

    def __init__(self, name: str, columns: list[str], packages: list[str], hardware: str = "") -> None:
        self.name = name
        versions = ", ".join(["Python " + platform.python_version(), *(f"{of} {version(of)}" for of in packages)])
        self._lines: list[str] = []
        self._print(f"{date.today():%d %B %Y}, {hardware or f'{machine.cores()} cores of {_cpu()}'}, {versions}:")
        self._print("")
        self.row(*columns)
        self.row(*["---"] * len(columns))

    def row(self, *cells: object) -> None:
        """Print a row."""
        self._print(f"| {' | '.join(map(str, cells))} |")

    def _print(self, line: str) -> None:
        self._lines.append(line)
        print(line, flush=True)

    def save(self) -> None:
        """Write the table to the page."""
        start, end = f"<!-- {self.name} -->\n", f"<!-- end of {self.name} -->"
        text = PAGE.read_text()
        before, after = text.index(start) + len(start), text.index(end)
        PAGE.write_text(text[:before] + "\n" + "\n".join(self._lines) + "\n\n" + text[after:])


def _cpu() -> str:
    """Return the name of the processor as Linux gives it."""
    found = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
    return found[1] if found else platform.machine()
