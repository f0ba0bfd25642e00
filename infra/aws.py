"""What every module here needs of AWS: a type for its clients, and its errors as sentences."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    EndpointConnectionError,
    NoCredentialsError,
    NoRegionError,
)

from skinlib.data.storage import AWS_CREDENTIALS_ADVICE
from skinlib.errors import SkinlibError

Client: TypeAlias = Any  # boto3 makes the methods of its clients at run time, so they have no types

_REJECTED = f"AWS rejected the credentials; sign in again, or {AWS_CREDENTIALS_ADVICE}."
_EXPIRED = "The AWS credentials have expired; sign in again."
_REASONS = {  # AWS's error codes
    "InvalidClientTokenId": _REJECTED,
    "UnrecognizedClientException": _REJECTED,
    "SignatureDoesNotMatch": _REJECTED,
    "InvalidAccessKeyId": _REJECTED,
    "AuthFailure": _REJECTED,
    "ExpiredToken": _EXPIRED,
    "ExpiredTokenException": _EXPIRED,
}


class DeploymentError(SkinlibError):
    """AWS did not do what was asked, or this project refuses to ask for it."""


@contextmanager
def explained() -> Iterator[None]:
    """Turn what boto3 raises into a DeploymentError of one sentence."""
    try:
        yield
    except NoCredentialsError as error:
        raise DeploymentError(f"There are no AWS credentials; {AWS_CREDENTIALS_ADVICE}.") from error
    except NoRegionError as error:
        raise DeploymentError("There is no AWS region; set AWS_DEFAULT_REGION, for example to eu-central-1.") from error
    except EndpointConnectionError as error:
        raise DeploymentError(f"{error} Check the network, AWS_DEFAULT_REGION and AWS_ENDPOINT_URL.") from error
    except ClientError as error:
        code, message = error.response["Error"].get("Code", ""), error.response["Error"].get("Message", "")
        refused = f"AWS refused {error.operation_name} ({code}): {_one_line(message)}; correct that and try again."
        raise DeploymentError(_REASONS.get(code, refused)) from error
    except BotoCoreError as error:
        raise DeploymentError(f"The AWS client failed: {_one_line(str(error))}.") from error


def _one_line(message: str) -> str:
    return " ".join(message.split()).rstrip(".")
