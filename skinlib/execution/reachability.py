"""Whether tasks on other machines have what they need: MLflow and, where every step is remote, an image and files."""

import os
import re
from collections.abc import Sequence

from skinlib.errors import ConfigError
from skinlib.execution import backends
from skinlib.training.trial import Trial

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


def check_deployment(deployer: str, backend: backends.Backend, trials: Sequence[Trial]) -> None:
    """Check that every step can run in a container of its own.

    Args:
        deployer: argo-workflows or step-functions.
        backend: of the compute config.
        trials: of the sweep config.

    Raises:
        ConfigError: the backend is another than the deployer's, there is no image or no address of MLflow that the
            containers know, or a trial needs a file of this machine.
    """
    from metaflow.metaflow_config import KUBERNETES_NAMESPACE

    needed = "kubernetes" if deployer == "argo-workflows" else "batch"
    if isinstance(backend, backends.Local) or backend.backend != needed:
        raise ConfigError(
            f"{deployer} runs every step on {needed}, but the compute config names {backend.backend}; write "
            f"--config compute configs/compute/{needed}.json, or a file like it, before `{deployer}`."
        )
    if isinstance(backend, backends.Kubernetes) and backend.namespace not in (None, KUBERNETES_NAMESPACE):
        raise ConfigError(
            f"Argo Workflows puts all pods into the profile's namespace {KUBERNETES_NAMESPACE}, not into "
            f"{backend.namespace}; set METAFLOW_KUBERNETES_NAMESPACE={backend.namespace}."
        )
    if not backends.image_of(backend):
        raise ConfigError(
            f"The steps have no image; run make image, and set `image` in the compute config or "
            f"METAFLOW_{needed.upper()}_CONTAINER_IMAGE."
        )
    if not backend.environment.get("MLFLOW_TRACKING_URI"):
        raise ConfigError(
            "The steps have no address of MLflow, since they do not see the variables of this machine; set "
            "MLFLOW_TRACKING_URI in `environment` of the compute config to a server that they reach."
        )
    check_tracking(backend)
    if files := [trial.weights for trial in trials if trial.weights not in ("none", "imagenet")]:
        raise ConfigError(
            f"The steps cannot read the weights file {files[0]} of this machine; deploy a sweep whose `weights` are "
            "none or imagenet."
        )
