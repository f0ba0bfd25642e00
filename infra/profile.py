"""The Metaflow profile of a stack: the file that METAFLOW_PROFILE=NAME reads."""

import json
import os
import tempfile
from pathlib import Path

from infra.aws import DeploymentError

IMAGE_TAG = "latest"  # the only tag of the repository that can move


def path_of(name: str) -> Path:
    """Return where Metaflow looks for a profile."""
    home = os.environ.get("METAFLOW_HOME") or "~/.metaflowconfig"
    return Path(home).expanduser() / f"config_{name}.json"


def settings_for(outputs: dict[str, str]) -> dict[str, str]:
    """Return Metaflow's configuration for a stack with these outputs."""
    return {
        "METAFLOW_DEFAULT_DATASTORE": "s3",
        "METAFLOW_DATASTORE_SYSROOT_S3": outputs["DatastoreRoot"],
        "METAFLOW_DATATOOLS_S3ROOT": f"{outputs['DatastoreRoot']}/data",
        "METAFLOW_BATCH_JOB_QUEUE": outputs["JobQueue"],
        "METAFLOW_ECS_S3_ACCESS_IAM_ROLE": outputs["JobRole"],
        "METAFLOW_BATCH_CONTAINER_IMAGE": f"{outputs['RepositoryUri']}:{IMAGE_TAG}",
    }


def write(path: Path, settings: dict[str, str]) -> str:
    """Write settings into a profile atomically and keep its other settings, such as a service's URL.

    Returns:
        What was done, as a sentence.

    Raises:
        DeploymentError: The file exists and is not a JSON object, or cannot be written.
    """
    try:
        before = json.loads(path.read_text()) if path.exists() else None
        if before is not None and not isinstance(before, dict):
            raise ValueError("it is not a JSON object")
        after = {**(before or {}), **settings}
        if after == before:
            return f"The profile {path} is up to date."
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=f".{path.name}-", delete=False) as file:
            file.write(json.dumps(after, indent=4) + "\n")
        os.replace(file.name, path)
    except (OSError, ValueError) as error:
        raise DeploymentError(f"The profile {path} cannot be written ({error}); correct or delete it.") from error
    if before is None:
        return f"Wrote the profile {path}."
    changed = sorted(key for key in settings if key in before and before[key] != settings[key])
    return f"Updated the profile {path}" + (f"; replaced {', '.join(changed)}." if changed else ".")
