"""Where a result comes from: the commit and the versions of the packages."""

import os
import platform
import subprocess
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

DEPLOYED_COMMIT = "SKINLIB_GIT_COMMIT"  # the variable that tells a deployed flow's tasks, which have no git


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that decide the result of a training."""
    packages = ("torch", "torchvision", "numpy", "scikit-learn", "metaflow", "mlflow")
    return {"python": platform.python_version()} | {package: version(package) for package in packages}


def git_commit() -> str | None:
    """Return the commit of the code, with `+changes` if files differ from it; None without git.

    For a deployed flow this is the commit that was deployed.
    """
    if deployed := os.environ.get(DEPLOYED_COMMIT):
        return deployed
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        status = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{commit}+changes" if status else commit


def public_name(place: str) -> str:
    """Return a URL as it is, and of a path only the last name: where it is on this machine must not be published."""
    return place if "://" in place else os.path.basename(os.path.abspath(place))


def public_names(places: Sequence[str]) -> list[str]:
    """Return the public name of each place; places of one name are numbered, such as `test`, `test (2)`."""
    names = [public_name(place) for place in places]
    counts = [names[:index].count(name) + 1 for index, name in enumerate(names)]
    return [f"{name} ({count})" if count > 1 else name for name, count in zip(names, counts, strict=True)]
