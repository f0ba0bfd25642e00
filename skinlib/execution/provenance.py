"""Where a result comes from: the commit and the versions of the packages."""

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that decide what a training gives."""
    packages = ("torch", "torchvision", "numpy", "scikit-learn", "metaflow", "mlflow")
    return {"python": platform.python_version()} | {package: version(package) for package in packages}


def git_commit() -> str | None:
    """Return the commit that the code was run from, with `+changes` where files differ from it; None without git.

    Where the flow was deployed, that is the commit of its deployment.
    """
    if deployed := os.environ.get(_COMMIT):
        return deployed
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        status = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{commit}+changes" if status else commit


_COMMIT = "SKINLIB_GIT_COMMIT"
