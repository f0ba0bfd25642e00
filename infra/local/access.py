"""What clients need to use the platform: a Metaflow profile, a KUBECONFIG and a file of variables for `source`."""

import json
import shlex
from pathlib import Path

from infra.local.batch import QUEUE
from infra.local.state import State, write_private

DATA_BUCKET = "skin-lesion-data"
DATASTORE_BUCKET = "skin-lesion-datastore"
MLFLOW_BUCKET = "skin-lesion-mlflow"
REGION = "us-east-1"
PROFILE = "local"


def credentials(state: State) -> dict[str, str]:
    """Return the variables that point any AWS client at the platform's S3, and never at AWS by mistake."""
    return {
        "AWS_ACCESS_KEY_ID": state.access_key,
        "AWS_SECRET_ACCESS_KEY": state.secret_key,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_ENDPOINT_URL": state.url("s3"),
    }


def write(home: Path, state: State) -> None:
    """Write `config_local.json`, `kubeconfig` and `env` into the platform's folder."""
    profile = {
        "METAFLOW_DEFAULT_DATASTORE": "s3",
        "METAFLOW_DATASTORE_SYSROOT_S3": f"s3://{DATASTORE_BUCKET}/metaflow",
        "METAFLOW_DATATOOLS_S3ROOT": f"s3://{DATASTORE_BUCKET}/metaflow/data",
        "METAFLOW_S3_ENDPOINT_URL": state.url("s3"),
        "METAFLOW_DEFAULT_METADATA": "service",
        "METAFLOW_SERVICE_URL": state.url("metadata"),
        "METAFLOW_BATCH_JOB_QUEUE": QUEUE,
        # Metaflow requires these; the emulators ignore them.
        "METAFLOW_ECS_S3_ACCESS_IAM_ROLE": "arn:aws:iam::000000000000:role/local",
        "METAFLOW_DEFAULT_CONTAINER_IMAGE": "local",
        "METAFLOW_KUBERNETES_NAMESPACE": "default",
    }
    write_private(home / f"config_{PROFILE}.json", json.dumps(profile, indent=1))

    kubeconfig = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "local", "cluster": {"server": state.url("kubernetes")}}],
        "users": [{"name": "local", "user": {"token": state.access_key}}],
        "contexts": [{"name": "local", "context": {"cluster": "local", "user": "local"}}],
        "current-context": "local",
    }
    write_private(home / "kubeconfig", json.dumps(kubeconfig, indent=1))  # JSON is YAML

    variables = {
        "METAFLOW_HOME": str(home),
        "METAFLOW_PROFILE": PROFILE,
        "KUBECONFIG": str(home / "kubeconfig"),
        **credentials(state),
        "AWS_ENDPOINT_URL_BATCH": state.url("batch"),
        "MLFLOW_TRACKING_URI": state.url("mlflow"),
    }
    lines = ["# For `source`: points Metaflow, MLflow, AWS and Kubernetes clients at the platform on this machine."]
    # A session token or a profile of another account does not fit these keys.
    lines += ["unset AWS_PROFILE AWS_SESSION_TOKEN"]
    lines += [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]
    write_private(home / "env", "\n".join(lines) + "\n")
