"""Checks that everything a run needs is there: one line per part, with what to do if it is not."""

import os
import re
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from skinlib import machine
from skinlib.config import variables
from skinlib.errors import ConfigError, SkinlibError
from skinlib.execution import backends

_ECR = re.compile(r"\d+\.dkr\.ecr\.([\w-]+)\.amazonaws\.com[\w.]*/([^:@]+):(.+)")


@dataclass(frozen=True)
class Finding:
    """The result of a check.

    Attributes:
        part: what was checked.
        ok: whether a run can use it.
        words: what was found and, if it is not ok, what to do.
    """

    part: str
    ok: bool
    words: str


def examine(backend: backends.Backend, data: str | None) -> Iterator[Finding]:
    """Check the parts that a run with these settings needs, one after the other.

    Args:
        backend: where the GPU steps will run.
        data: URL of the images, None for the sample.
    """
    environment = {} if isinstance(backend, backends.Local) else backend.environment
    with variables(environment):  # as each step has them
        for part, check in _checks(backend, data).items():
            try:
                yield Finding(part, True, check())
            except SkinlibError as error:
                yield Finding(part, False, str(error))


def _checks(backend: backends.Backend, data: str | None) -> dict[str, Callable[[], str]]:
    """Return the checks by part; each returns what it found, or raises a SkinlibError."""
    checks: dict[str, Callable[[], str]] = {
        "Python": lambda: f"{sys.version.split()[0]} at {sys.executable}",
        "packages": _packages,
    }
    if isinstance(backend, backends.Local):
        checks["GPU"] = _gpu
    if _needs_aws(backend, data):
        checks["credentials"] = _credentials
    if data:
        checks["data"] = lambda: _data(data)
    checks |= {
        "datastore": lambda: _datastore(backend),
        "MLflow": lambda: _mlflow(backend),
        "metadata": lambda: _metadata(backend),
    }
    if not isinstance(backend, backends.Local):
        checks |= _place_checks(backend) | {"image": lambda: _image(backend)}
    return checks


def _place_checks(backend: backends.Batch | backends.Kubernetes) -> dict[str, Callable[[], str]]:
    if isinstance(backend, backends.Batch):
        return {"job queue": lambda: _queue(backend)}
    return {"namespace": lambda: _namespace(backend)}


def check_place(backend: backends.Batch | backends.Kubernetes) -> None:
    """Check that tasks can be started there; only what every user who may start one is allowed to ask.

    Raises:
        ConfigError: there is no image, or the job queue or the cluster cannot be used.
    """
    checks: dict[str, Callable[[], str]] = {"image": lambda: _image_name(backend)}
    for part, check in (checks | _place_checks(backend)).items():
        try:
            check()
        except ConfigError as error:
            raise ConfigError(f"The {part} cannot be used: {error}") from error


def _packages() -> str:
    try:
        requirements = "\n".join(requires("skinlib") or [])
    except PackageNotFoundError as error:
        raise ConfigError("skinlib is not installed; run make setup, and use .venv/bin/python.") from error
    pins = re.findall(r"^([\w.-]+)(?:\[[\w,]+\])?==([^\s;]+)", requirements, re.MULTILINE)
    wrong = []
    for name, pin in pins:
        try:
            found = version(name).split("+")[0]
        except PackageNotFoundError:
            found = "is missing"
        if found != pin:
            wrong.append(f"{name} {found}, not {pin}")
    if wrong:
        raise ConfigError(f"{'; '.join(wrong)}; run make setup, and use .venv/bin/python.")
    return f"all {len(pins)} as pinned"


def _gpu() -> str:
    import torch

    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return ", ".join(names) or f"none; trials train on {machine.cores()} CPU cores, which is enough for small sweeps"


def _needs_aws(backend: backends.Backend, data: str | None) -> bool:
    from metaflow.metaflow_config import DEFAULT_DATASTORE

    return isinstance(backend, backends.Batch) or DEFAULT_DATASTORE == "s3" or (data or "").startswith("s3://")


def _credentials() -> str:
    import boto3

    from skinlib.data.storage import AWS_CREDENTIALS_ADVICE

    with _aws("the AWS configuration cannot be used", "correct AWS_PROFILE or ~/.aws/config"):
        session = boto3.Session()
        found = session.get_credentials()
    if found is None:
        raise ConfigError(f"none for AWS; {AWS_CREDENTIALS_ADVICE}.")
    return f"from {found.method}, region {session.region_name or 'not set'}"


@contextmanager
def _aws(failure: str, remedy: str) -> Iterator[None]:
    """Turn the errors of AWS into a ConfigError that says what failed and what to do."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except (BotoCoreError, ClientError) as error:
        raise ConfigError(f"{failure} ({error}); {remedy}.") from error


def _data(url: str) -> str:
    from skinlib.data.listing import list_images

    listing = list_images(url)
    return f"{len(listing.objects):,} images in {listing.url}"


def _datastore(backend: backends.Backend) -> str:
    from metaflow.metaflow_config import DATASTORE_SYSROOT_S3, DEFAULT_DATASTORE, S3_ENDPOINT_URL

    from skinlib.data.storage import open_store

    if not isinstance(backend, backends.Local) and not DATASTORE_SYSROOT_S3:
        raise ConfigError("remote tasks need one in S3; run make infra or make platform, or metaflow configure aws.")
    if DEFAULT_DATASTORE != "s3" and isinstance(backend, backends.Local):
        return f"local, {Path.cwd() / '.metaflow'}"
    store = open_store(DATASTORE_SYSROOT_S3, create=True, endpoint_url=S3_ENDPOINT_URL)
    _check_writing(store.url, S3_ENDPOINT_URL)
    advice = "" if DEFAULT_DATASTORE == "s3" else "; select it with --datastore s3 before run"
    return f"{store.url}, writable{advice}"


def _check_writing(url: str, endpoint_url: str | None) -> None:
    import boto3

    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    where = {"Bucket": bucket, "Key": f"{prefix}/skinlib/doctor"}
    with _aws(f"{url} is not writable", "ask for s3:PutObject and s3:DeleteObject"):
        # An upload that is started and aborted leaves nothing, not even the versions that a versioned bucket keeps.
        client = boto3.client("s3", endpoint_url=endpoint_url)
        client.abort_multipart_upload(**where, UploadId=client.create_multipart_upload(**where)["UploadId"])


def _mlflow(backend: backends.Backend) -> str:
    from skinlib.execution.reachability import check_tracking
    from skinlib.tracking import connection

    check_tracking(backend)
    if "MLFLOW_TRACKING_URI" not in os.environ and not Path("mlflow.db").exists():
        return "mlflow.db in the working directory, which the first run creates"
    return connection.check()


def _metadata(backend: backends.Backend) -> str:
    from metaflow.metaflow_config import DEFAULT_METADATA, SERVICE_URL

    if DEFAULT_METADATA != "service":
        if isinstance(backend, backends.Local):
            return "local"
        return "local: works, but the cards of remote tasks are lost; a service keeps them (METAFLOW_SERVICE_URL)"
    try:
        with urllib.request.urlopen(f"{SERVICE_URL}/ping", timeout=5):  # noqa: S310 (Metaflow's own setting)
            return str(SERVICE_URL)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{SERVICE_URL} does not answer ({error}); check METAFLOW_SERVICE_URL.") from error


def _queue(backend: backends.Batch) -> str:
    import boto3
    from metaflow.metaflow_config import BATCH_JOB_QUEUE

    name = backend.queue or BATCH_JOB_QUEUE
    if not name:
        raise ConfigError("not set; set `queue` in the compute config or METAFLOW_BATCH_JOB_QUEUE.")
    with _aws(f"{name} cannot be queried", "check region and permissions"):
        found = boto3.client("batch").describe_job_queues(jobQueues=[name])["jobQueues"]
    if not found:
        raise ConfigError(f"{name} does not exist in this account and region; run make infra, or correct the name.")
    if found[0]["state"] != "ENABLED" or found[0].get("status", "VALID") != "VALID":
        raise ConfigError(f"{name} is {found[0]['state']}, {found[0].get('status')}; enable it in the Batch console.")
    return f"{name}, enabled"


def _namespace(backend: backends.Kubernetes) -> str:
    from kubernetes import client, config
    from metaflow.metaflow_config import KUBERNETES_NAMESPACE

    name = backend.namespace or KUBERNETES_NAMESPACE
    try:
        config.load_kube_config()
        client.CoreV1Api().list_namespaced_pod(name, limit=1, _request_timeout=5)
    except Exception as error:  # The client raises its own errors, urllib3's and built-in ones.
        reason = getattr(error, "reason", None) or str(error).partition("\n")[0]
        raise ConfigError(
            f"pods in {name} cannot be listed ({reason}); check KUBECONFIG and the permissions."
        ) from error
    return f"{name}, pods can be listed"


def _image_name(backend: backends.Batch | backends.Kubernetes) -> str:
    if name := backends.image_of(backend):
        return name
    raise ConfigError("not set; run make image, and set `image` in the compute config or in the profile.")


def _image(backend: backends.Batch | backends.Kubernetes) -> str:
    import boto3

    name = _image_name(backend)
    in_ecr = _ECR.fullmatch(name)
    if not in_ecr:
        return f"{name}, not looked up in its registry"
    region, repository, tag = in_ecr.groups()
    with _aws(f"{name} does not exist", f"build and push it: make image IMAGE={name} PUSH=1"):
        ecr = boto3.client("ecr", region_name=region)
        ecr.describe_images(repositoryName=repository, imageIds=[{"imageTag": tag}])
    return name
