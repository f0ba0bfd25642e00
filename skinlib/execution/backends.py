"""Where the steps that ask for a GPU run: the compute configs, typed and validated before a run starts."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter, ValidationError, field_validator

from skinlib.config import Strict, explain, parse, read_text
from skinlib.errors import ConfigError, without_credentials

_SECRET = re.compile(
    r"PASSWORD|PASSWD|SECRET|CREDENTIAL|PRIVATE|API_?KEY|ACCESS_?KEY|(^|_)(PASS|PWD|TOKEN|AUTH|AUTHORIZATION)(_|$)",
    re.IGNORECASE,
)
_IMAGE = re.compile(r"([\w.-]+(:\d+)?/)?[a-z\d]+([._/-]+[a-z\d]+)*(:\w[\w.-]*)?(@sha256:[\da-f]{64})?", re.ASCII)
Attributes = dict[str, str | int | dict[str, str]]  # of a Metaflow decorator
# NVIDIA's GPU feature discovery sets the first, Karpenter the second; `node_selector` takes other labels.
_GPU_TYPE_LABEL, _CAPACITY_LABEL = "nvidia.com/gpu.product", "karpenter.sh/capacity-type"


class _Limited(Strict):
    timeout_minutes: int = Field(
        24 * 60, ge=1, description="longest training of a trial; one that takes longer has failed"
    )


class Local(_Limited):
    """Everything on the machine that starts the flow."""

    backend: Literal["local"]


class _Remote(_Limited):
    """Settings of the GPU steps that both remote backends have."""

    image: str | None = Field(None, min_length=1, description="container image; None is the Metaflow profile's")
    cpu: int = Field(4, ge=1, le=1000, description="cores")
    memory: int = Field(16_000, ge=1000, description="MB")
    gpu: int = Field(1, ge=0, le=16, description="number of GPUs; a trial uses one")
    shared_memory: int | None = Field(None, ge=64, description="MB of /dev/shm")
    retries: int = Field(2, ge=0, le=4, description="after a task was killed; each continues from the last checkpoint")
    environment: dict[str, str] = Field({}, description="variables of every step, such as MLFLOW_TRACKING_URI")

    @field_validator("image")
    @classmethod
    def _image_name(cls, image: str | None) -> str | None:
        # Kubernetes would accept the pod and never start it.
        if image and not _IMAGE.fullmatch(image):
            raise ValueError(f"{image!r} is not the name of an image; write it as registry/name:tag, without https://")
        return image

    @field_validator("environment")
    @classmethod
    def _public(cls, environment: dict[str, str]) -> dict[str, str]:
        for name, value in environment.items():
            if _SECRET.search(name) or without_credentials(value) != value:
                raise ValueError(
                    f"the value of {name} looks like a secret, and a config is stored with every run; pass "
                    "it to the tasks through the job's role, Metaflow's @secrets or METAFLOW_KUBERNETES_SECRETS"
                )
        return environment

    def gpu_attributes(self) -> Attributes:
        """Return the attributes of the backend's decorator on a step that asks for a GPU."""
        return self.attributes() | _set(
            cpu=self.cpu, memory=self.memory, gpu=self.gpu, shared_memory=self.shared_memory
        )

    def attributes(self) -> Attributes:
        """Return its attributes on the other steps, when a deployer such as Argo runs every step in a container."""
        return _set(image=self.image)


class Batch(_Remote):
    """AWS Batch. The queue's compute environments decide which GPUs there are, and whether on spot capacity."""

    backend: Literal["batch"]
    queue: str | None = Field(None, min_length=1, description="job queue; None is the Metaflow profile's")

    def attributes(self) -> Attributes:
        return super().attributes() | _set(queue=self.queue)


class Kubernetes(_Remote):
    """A Kubernetes cluster."""

    backend: Literal["kubernetes"]
    namespace: str | None = Field(None, min_length=1, description="None is the Metaflow profile's")
    gpu_type: str | None = Field(None, min_length=1, description=f"the nodes' label {_GPU_TYPE_LABEL}")
    spot: bool = Field(False, description=f"only nodes with the label {_CAPACITY_LABEL}=spot")
    node_selector: dict[str, str] = Field({}, description="other labels that nodes must have")

    def attributes(self) -> Attributes:
        return super().attributes() | _set(namespace=self.namespace)

    def gpu_attributes(self) -> Attributes:
        labels = dict(self.node_selector)
        if self.gpu_type:
            labels[_GPU_TYPE_LABEL] = self.gpu_type
        if self.spot:
            labels[_CAPACITY_LABEL] = "spot"
        return super().gpu_attributes() | _set(node_selector=labels)


def _set(**attributes: str | int | dict[str, str] | None) -> Attributes:
    """Return the attributes that have a value; 0 GPUs is no value."""
    return {name: value for name, value in attributes.items() if value}


Backend = Local | Batch | Kubernetes
_BACKEND: TypeAdapter[Backend] = TypeAdapter(Annotated[Backend, Field(discriminator="backend")])
_KINDS: dict[str, type[Backend]] = {"local": Local, "batch": Batch, "kubernetes": Kubernetes}


def backend_from(config: Mapping[str, object]) -> Backend:
    """Turn a compute config into a backend.

    Args:
        config: the content of a file in configs/compute: `backend` (local, batch or kubernetes) and its settings.

    Raises:
        ConfigError: one sentence that names every wrong key and what is wrong with it.
    """
    try:
        return _BACKEND.validate_python(dict(config))
    except ValidationError as error:
        known = _KINDS.get(str(config.get("backend")), Local).model_fields
        raise ConfigError(f"The compute config is wrong: {explain(error, known, tuple(_KINDS))}.") from error


def image_of(backend: Batch | Kubernetes) -> str | None:
    """Return the image of the config or of the Metaflow profile; Metaflow's own default has no torch."""
    from metaflow.metaflow_config import BATCH_CONTAINER_IMAGE, KUBERNETES_CONTAINER_IMAGE

    profile: str | None = BATCH_CONTAINER_IMAGE if isinstance(backend, Batch) else KUBERNETES_CONTAINER_IMAGE
    return backend.image or profile


def read(path: Path) -> dict[str, object]:
    """Read a compute config from a file.

    Raises:
        ConfigError: it cannot be read, or does not hold a JSON object.
    """
    return parse(read_text(path, "compute config"), f"compute config {path}")
