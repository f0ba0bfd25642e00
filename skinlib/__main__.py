"""`python -m skinlib`."""

from skinlib.cli import main

main()
