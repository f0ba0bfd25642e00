"""One stack of AWS CloudFormation: what would change, doing it with progress, and why it failed."""

import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    EndpointConnectionError,
    NoCredentialsError,
    NoRegionError,
)

from skinlib.errors import SkinlibError

SECONDS_BETWEEN_LOOKS = 3
# A stack whose creation failed can only be deleted.
DEAD = ("ROLLBACK_COMPLETE", "ROLLBACK_FAILED", "CREATE_FAILED", "DELETE_FAILED")

_VARIABLES = "AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
_REFUSED = f"AWS does not accept the credentials; check {_VARIABLES}."
_REASONS = {  # AWS's error codes
    "InvalidClientTokenId": _REFUSED,
    "UnrecognizedClientException": _REFUSED,
    "SignatureDoesNotMatch": _REFUSED,
    "InvalidAccessKeyId": _REFUSED,
    "AuthFailure": _REFUSED,
    "ExpiredToken": "The AWS credentials have expired; sign in again.",
    "ExpiredTokenException": "The AWS credentials have expired; sign in again.",
}


class DeploymentError(SkinlibError):
    """AWS did not do what was asked, or must not."""


@dataclass(frozen=True)
class Stack:
    """A stack as it is now; `outputs` and `parameters` are by name."""

    id: str
    status: str
    outputs: dict[str, str]
    parameters: dict[str, str]


@dataclass(frozen=True)
class Change:
    """What would happen to one resource; `replacement` is "True", "False" or "Conditional" for a "Modify"."""

    action: str
    name: str
    type: str
    replacement: str


@dataclass(frozen=True)
class Proposal:
    """A change set that waits to be applied."""

    id: str
    changes: list[Change]


@contextmanager
def explained() -> Iterator[None]:
    """Turn what boto3 raises into a DeploymentError of one sentence."""
    try:
        yield
    except NoCredentialsError as error:
        raise DeploymentError(f"There are no AWS credentials; set {_VARIABLES}.") from error
    except NoRegionError as error:
        raise DeploymentError(
            "No AWS region is chosen; set AWS_DEFAULT_REGION, to eu-central-1 for example."
        ) from error
    except EndpointConnectionError as error:
        raise DeploymentError(f"{error} Check the network, AWS_DEFAULT_REGION and AWS_ENDPOINT_URL.") from error
    except ClientError as error:
        code, message = error.response["Error"].get("Code", ""), error.response["Error"].get("Message", "")
        said = " ".join(message.split()).rstrip(".")
        sentence = _REASONS.get(
            code, f"AWS refused {error.operation_name} ({code}): {said}; correct that and try again."
        )
        raise DeploymentError(sentence) from error
    except BotoCoreError as error:
        raise DeploymentError(f"AWS cannot be used: {' '.join(str(error).split()).rstrip('.')}.") from error


def find(client: Any, name: str) -> Stack | None:
    """Return the stack, or None if there is none; `name` may be its id, by which a deleted one is found too."""
    try:
        found = client.describe_stacks(StackName=name)["Stacks"][0]
    except ClientError as error:
        if "does not exist" in str(error):
            return None
        raise
    outputs = {item["OutputKey"]: item["OutputValue"] for item in found.get("Outputs", [])}
    parameters = {item["ParameterKey"]: item["ParameterValue"] for item in found.get("Parameters", [])}
    return Stack(found["StackId"], found["StackStatus"], outputs, parameters)


def propose(client: Any, name: str, template: str, parameters: Mapping[str, str]) -> Proposal | None:
    """Make a change set, which `apply` applies and `discard` forgets.

    Args:
        template: The template's text.
        parameters: Those to set; the others keep the stack's value, or for a new stack their default.

    Returns:
        What would change; None if nothing would.

    Raises:
        DeploymentError: A parameter is unknown, or CloudFormation cannot use the template.
    """
    stack = find(client, name)
    new = stack is None or stack.status == "REVIEW_IN_PROGRESS"
    known = {item["ParameterKey"] for item in client.get_template_summary(TemplateBody=template)["Parameters"]}
    if unknown := set(parameters) - known:
        raise DeploymentError(f"There is no parameter {min(unknown)}; choose from {', '.join(sorted(known))}.")
    values: list[dict[str, Any]] = [{"ParameterKey": k, "ParameterValue": v} for k, v in parameters.items()]
    if stack and not new:
        kept = sorted(known & set(stack.parameters) - set(parameters))
        values += [{"ParameterKey": key, "UsePreviousValue": True} for key in kept]
    try:
        made = client.create_change_set(
            StackName=name,
            # A name of its own: an attempt that was killed may have left one.
            ChangeSetName=f"infra-{secrets.token_hex(8)}",
            ChangeSetType="CREATE" if new else "UPDATE",
            TemplateBody=template,
            Parameters=values,
            Capabilities=["CAPABILITY_IAM"],
        )
    except ClientError as error:
        if "No updates are to be performed" in str(error):
            return None
        raise
    which = {"StackName": name, "ChangeSetName": made["Id"]}
    while (found := client.describe_change_set(**which))["Status"] in ("CREATE_PENDING", "CREATE_IN_PROGRESS"):
        time.sleep(SECONDS_BETWEEN_LOOKS)
    if found["Status"] == "FAILED":
        discard(client, name, Proposal(made["Id"], []))
        reason = found.get("StatusReason", "").rstrip(".")
        if "didn't contain changes" in reason or "No updates are to be performed" in reason:
            return None
        raise DeploymentError(f"CloudFormation cannot make {name} so: {reason}; correct that and try again.")
    pages = client.get_paginator("describe_change_set").paginate(**which)
    items = [item["ResourceChange"] for page in pages for item in page["Changes"]]
    changes = [
        Change(item["Action"], item["LogicalResourceId"], item["ResourceType"], item.get("Replacement", ""))
        for item in items
    ]
    return Proposal(made["Id"], changes)


def table(changes: list[Change]) -> str:
    """Return the changes as lines of text; what is replaced or removed says so in capitals."""
    rows = [("", "resource", "type", "")]
    for change in sorted(changes, key=lambda change: (change.action, change.type, change.name)):
        replaced = {"True": "IS REPLACED", "Conditional": "MAY BE REPLACED"}.get(change.replacement, "")
        remark = "IS REMOVED" if change.action == "Remove" else replaced
        rows.append((change.action.lower(), change.name, change.type, remark))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(f"  {line}".rstrip() for line in lines)


def apply(client: Any, name: str, proposal: Proposal, on_event: Callable[[dict[str, Any]], None]) -> Stack:
    """Apply the change set and wait until all is done.

    Args:
        on_event: Called with each event of the stack, as CloudFormation gives them.

    Raises:
        DeploymentError: It failed; the sentence says which resource and why.
    """
    last = _newest(client, name)
    # Else a first deployment that fails would leave its buckets behind, which are never deleted with the stack.
    client.execute_change_set(StackName=name, ChangeSetName=proposal.id, RetainExceptOnCreate=True)
    events: list[dict[str, Any]] = []
    while True:
        stack = find(client, name)
        for event in _events_since(client, name, last):
            events.append(event)
            last = event["EventId"]
            on_event(event)
        if stack is None:
            raise DeploymentError(f"The stack {name} was deleted meanwhile; run `make infra` again.")
        if not stack.status.endswith("_IN_PROGRESS"):
            break
        time.sleep(SECONDS_BETWEEN_LOOKS)
    if stack.status in ("CREATE_COMPLETE", "UPDATE_COMPLETE"):
        return stack
    next_step = "correct that and run `make infra` again"
    if stack.status in DEAD:
        next_step += ", which offers to delete what is left"
    raise DeploymentError(f"The stack {name} is {stack.status}: {why_it_failed(events)}; {next_step}.")


def why_it_failed(events: list[dict[str, Any]]) -> str:
    """Name the resource that failed first, and AWS's reason, from a stack's events, the oldest first."""
    failed = [event for event in events if event["ResourceStatus"].endswith("_FAILED")]
    # The others are cancelled because of it.
    failed = [event for event in failed if "cancelled" not in event.get("ResourceStatusReason", "")] or failed
    if not failed:
        return "AWS gives no reason, look at the stack's events in its console"
    first = failed[0]
    reason = " ".join(first.get("ResourceStatusReason", "no reason given").split()).rstrip(".")
    return f"{first['LogicalResourceId']} ({first['ResourceType']}) failed because {reason}"


def discard(client: Any, name: str, proposal: Proposal) -> None:
    """Forget the change set, and the empty stack that AWS makes for the first one."""
    client.delete_change_set(StackName=name, ChangeSetName=proposal.id)
    stack = find(client, name)
    if stack and stack.status == "REVIEW_IN_PROGRESS":
        client.delete_stack(StackName=stack.id)


def delete(client: Any, name: str, on_event: Callable[[dict[str, Any]], None]) -> None:
    """Delete the stack, and wait until it is gone.

    Raises:
        DeploymentError: It cannot be deleted; the sentence says which resource and why.
    """
    stack = find(client, name)
    if stack is None:
        return
    last = _newest(client, stack.id)
    client.delete_stack(StackName=stack.id)
    events: list[dict[str, Any]] = []
    while (left := find(client, stack.id)) and left.status != "DELETE_COMPLETE":
        for event in _events_since(client, stack.id, last):
            events.append(event)
            last = event["EventId"]
            on_event(event)
        if not left.status.endswith("_IN_PROGRESS"):
            raise DeploymentError(
                f"The stack {name} is {left.status}: {why_it_failed(events)}; delete that resource and try again."
            )
        time.sleep(SECONDS_BETWEEN_LOOKS)


def resources(client: Any, stack: Stack, resource_type: str) -> list[str]:
    """Return AWS's names for the stack's resources of a type, as "AWS::S3::Bucket"."""
    pages = client.get_paginator("list_stack_resources").paginate(StackName=stack.id)
    found = [item for page in pages for item in page["StackResourceSummaries"]]
    return [
        item["PhysicalResourceId"]
        for item in found
        if item["ResourceType"] == resource_type and item.get("PhysicalResourceId")
    ]


def _events_since(client: Any, name: str, last: str | None) -> list[dict[str, Any]]:
    """Return the events after the one with the id `last`, the oldest first."""
    events: list[dict[str, Any]] = []
    for page in client.get_paginator("describe_stack_events").paginate(StackName=name):
        for event in page["StackEvents"]:  # the newest first
            if event["EventId"] == last:
                return events[::-1]
            events.append(event)
    return events[::-1]


def _newest(client: Any, name: str) -> str | None:
    events = client.describe_stack_events(StackName=name)["StackEvents"]
    return events[0]["EventId"] if events else None
