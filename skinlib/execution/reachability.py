"""Whether tasks on other machines can reach MLflow."""

import os
import re

from skinlib.errors import ConfigError


def check_tracking(backend: backends.Backend) -> None:
    """Raise ConfigError if tasks of the backend cannot reach MLflow's store, since it is a file or a server here."""
    from metaflow.metaflow_config import S3_ENDPOINT_URL

    if isinstance(backend, backends.Local):
        return
    uri = backend.environment.get("MLFLOW_TRACKING_URI") or os.environ.get("MLFLOW_TRACKING_URI", "")
    in_a_file = uri != "databricks" and ("://" not in uri or uri.startswith(("sqlite:", "file:")))
    # Where the datastore is on this machine too, so are the tasks.
    elsewhere = not _LOOPBACK.search(S3_ENDPOINT_URL or "")
    if in_a_file or (_LOOPBACK.search(uri) and elsewhere):
        raise ConfigError(
            f"Steps run on {backend.backend}, from where MLflow's store {uri or 'mlflow.db'} cannot be reached; set "
            "MLFLOW_TRACKING_URI to a server that all tasks reach."
        )


_LOOPBACK = re.compile(r"://([^/@]*@)?(localhost|127\.|\[::1\]|0\.0\.0\.0)")
