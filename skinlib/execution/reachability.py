"""Whether tasks on other machines can reach MLflow."""

import os
import re

from skinlib.errors import ConfigError
from skinlib.execution import backends

_LOOPBACK = re.compile(r"://([^/@]*@)?(localhost|127\.|\[::1\]|0\.0\.0\.0)")


def check_tracking(backend: backends.Backend) -> None:
    """Check that tasks of the backend can reach MLflow's store.

    Raises:
        ConfigError: the store is a file, or a server of this machine only.
    """
    from metaflow.metaflow_config import S3_ENDPOINT_URL

    if isinstance(backend, backends.Local):
        return
    uri = backend.environment.get("MLFLOW_TRACKING_URI") or os.environ.get("MLFLOW_TRACKING_URI", "")
    in_a_file = uri != "databricks" and ("://" not in uri or uri.startswith(("sqlite:", "file:")))
    # If the datastore is on this machine too, so are the tasks.
    elsewhere = not _LOOPBACK.search(S3_ENDPOINT_URL or "")
    if in_a_file or (_LOOPBACK.search(uri) and elsewhere):
        raise ConfigError(
            f"Steps run on {backend.backend}, from where MLflow's store {uri or 'mlflow.db'} cannot be reached; set "
            "MLFLOW_TRACKING_URI to a server that all tasks reach."
        )
