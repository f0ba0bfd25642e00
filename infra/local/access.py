"""What the platform's users need to find it: a Metaflow profile, a KUBECONFIG and a file of variables to source."""

import json
import os
import shlex
from collections.abc import Mapping
from pathlib import Path

from infra.local.batch import QUEUE

DATA_BUCKET = "skin-lesion-data"
DATASTORE_BUCKET = "skin-lesion-datastore"
MLFLOW_BUCKET = "skin-lesion-mlflow"
REGION = "us-east-1"
PROFILE = "local"


def write_private(path: Path, text: str) -> None:
    """Replace a file that only its owner may read, at one stroke."""
    partial = path.with_name(f"{path.name}.partial")
    partial.unlink(missing_ok=True)
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    partial.replace(path)


def credentials(access_key: str, secret_key: str, s3: str) -> dict[str, str]:
    """Return the variables with which any AWS client finds the platform's S3, and no other service by mistake."""
    return {
        "AWS_ACCESS_KEY_ID": access_key,
        "AWS_SECRET_ACCESS_KEY": secret_key,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_ENDPOINT_URL": s3,
    }


def write(home: Path, addresses: Mapping[str, str], access_key: str, secret_key: str) -> None:
    """Write `config_local.json`, `kubeconfig` and `env` into the platform's folder.

    Args:
        home: The platform's folder.
        addresses: The URLs of `s3`, `mlflow`, `metadata`, `batch` and `kubernetes`.
        access_key: The generated key, which is the token of the Kubernetes emulator too.
        secret_key: The generated secret.
    """
    profile = {
        "METAFLOW_DEFAULT_DATASTORE": "s3",
        "METAFLOW_DATASTORE_SYSROOT_S3": f"s3://{DATASTORE_BUCKET}/metaflow",
        "METAFLOW_DATATOOLS_S3ROOT": f"s3://{DATASTORE_BUCKET}/metaflow/data",
        "METAFLOW_S3_ENDPOINT_URL": addresses["s3"],
        "METAFLOW_DEFAULT_METADATA": "service",
        "METAFLOW_SERVICE_URL": addresses["metadata"],
        "METAFLOW_BATCH_JOB_QUEUE": QUEUE,
        # Asked for, but nothing here looks at them.
        "METAFLOW_ECS_S3_ACCESS_IAM_ROLE": "arn:aws:iam::000000000000:role/local",
        "METAFLOW_DEFAULT_CONTAINER_IMAGE": "local",
        "METAFLOW_KUBERNETES_NAMESPACE": "default",
    }
    write_private(home / f"config_{PROFILE}.json", json.dumps(profile, indent=1))

    kubeconfig = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "local", "cluster": {"server": addresses["kubernetes"]}}],
        "users": [{"name": "local", "user": {"token": access_key}}],
        "contexts": [{"name": "local", "context": {"cluster": "local", "user": "local"}}],
        "current-context": "local",
    }
    write_private(home / "kubeconfig", json.dumps(kubeconfig, indent=1))  # JSON is YAML

    variables = {
        "METAFLOW_HOME": str(home),
        "METAFLOW_PROFILE": PROFILE,
        "KUBECONFIG": str(home / "kubeconfig"),
        **credentials(access_key, secret_key, addresses["s3"]),
        "AWS_ENDPOINT_URL_BATCH": addresses["batch"],
        "MLFLOW_TRACKING_URI": addresses["mlflow"],
    }
    lines = ["# For `source`: points Metaflow, MLflow, AWS and Kubernetes clients at the platform on this machine."]
    # A session's token or another account's profile would not fit these keys.
    lines += ["unset AWS_PROFILE AWS_SESSION_TOKEN"]
    lines += [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]
    write_private(home / "env", "\n".join(lines) + "\n")
