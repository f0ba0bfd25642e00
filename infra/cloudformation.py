"""One AWS CloudFormation stack: propose changes, apply them with progress, and explain why they failed."""

import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NotRequired, TypedDict

from botocore.exceptions import ClientError

from infra.aws import Client, DeploymentError

SECONDS_BETWEEN_POLLS = 3
DEAD = ("ROLLBACK_COMPLETE", "ROLLBACK_FAILED", "CREATE_FAILED", "DELETE_FAILED")  # such a stack can only be deleted


class Event(TypedDict):
    """What happened to one resource of a stack, as CloudFormation reports it."""

    EventId: str
    LogicalResourceId: str
    ResourceType: str
    ResourceStatus: str
    ResourceStatusReason: NotRequired[str]


@dataclass(frozen=True)
class Stack:
    """A stack as it is now, with its outputs and parameters by name."""

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


def find(client: Client, name: str) -> Stack | None:
    """Return the stack with this name or id, None if there is none; only its id finds a deleted stack."""
    try:
        found = client.describe_stacks(StackName=name)["Stacks"][0]
    except ClientError as error:
        if "does not exist" in str(error):
            return None
        raise
    outputs = {item["OutputKey"]: item["OutputValue"] for item in found.get("Outputs", [])}
    parameters = {item["ParameterKey"]: item["ParameterValue"] for item in found.get("Parameters", [])}
    return Stack(found["StackId"], found["StackStatus"], outputs, parameters)


def propose(client: Client, name: str, template: str, parameters: Mapping[str, str]) -> Proposal | None:
    """Create a change set, for `apply` or `discard`.

    Args:
        client: A CloudFormation client.
        name: The stack's name.
        template: The template's text.
        parameters: Parameters to set; the others keep the stack's value, or get their default in a new stack.

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
    values: list[dict[str, object]] = [{"ParameterKey": k, "ParameterValue": v} for k, v in parameters.items()]
    if stack and not new:
        kept = sorted(known & set(stack.parameters) - set(parameters))
        values += [{"ParameterKey": key, "UsePreviousValue": True} for key in kept]
    try:
        created = client.create_change_set(
            StackName=name,
            ChangeSetName=f"infra-{secrets.token_hex(8)}",  # unique: a killed attempt may have left one behind
            ChangeSetType="CREATE" if new else "UPDATE",
            TemplateBody=template,
            Parameters=values,
            Capabilities=["CAPABILITY_IAM"],
        )
    except ClientError as error:
        if "No updates are to be performed" in str(error):
            return None
        raise
    return _created(client, name, created["Id"])


def _created(client: Client, name: str, change_set: str) -> Proposal | None:
    """Wait until CloudFormation has worked out a change set, and return it; None if it is empty."""
    which = {"StackName": name, "ChangeSetName": change_set}
    while (found := client.describe_change_set(**which))["Status"] in ("CREATE_PENDING", "CREATE_IN_PROGRESS"):
        time.sleep(SECONDS_BETWEEN_POLLS)
    if found["Status"] == "FAILED":
        discard(client, name, Proposal(change_set, []))
        reason = found.get("StatusReason", "").rstrip(".")
        if "didn't contain changes" in reason or "No updates are to be performed" in reason:
            return None
        raise DeploymentError(f"CloudFormation cannot change the stack {name} ({reason}); correct that and try again.")
    pages = client.get_paginator("describe_change_set").paginate(**which)
    items = [item["ResourceChange"] for page in pages for item in page["Changes"]]
    changes = [
        Change(item["Action"], item["LogicalResourceId"], item["ResourceType"], item.get("Replacement", ""))
        for item in items
    ]
    return Proposal(change_set, changes)


def table(changes: list[Change]) -> str:
    """Return the changes as lines of text, with replaced and removed resources marked in capitals."""
    rows = [("", "resource", "type", "")]
    for change in sorted(changes, key=lambda change: (change.action, change.type, change.name)):
        replaced = {"True": "IS REPLACED", "Conditional": "MAY BE REPLACED"}.get(change.replacement, "")
        remark = "IS REMOVED" if change.action == "Remove" else replaced
        rows.append((change.action.lower(), change.name, change.type, remark))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(f"  {line}".rstrip() for line in lines)


def apply(client: Client, name: str, proposal: Proposal, on_event: Callable[[Event], None]) -> Stack:
    """Apply the change set and wait until CloudFormation has finished.

    Args:
        client: A CloudFormation client.
        name: The stack's name.
        proposal: The change set.
        on_event: Called with each new event of the stack.

    Raises:
        DeploymentError: It failed; the message names the resource and the reason.
    """
    last = _newest(client, name)
    # RetainExceptOnCreate: a failed first deployment deletes its empty buckets, despite their DeletionPolicy.
    client.execute_change_set(StackName=name, ChangeSetName=proposal.id, RetainExceptOnCreate=True)
    stack, events = _wait(client, name, last, on_event)
    if stack is None:
        raise DeploymentError(f"Someone deleted the stack {name} during the deployment; run `make infra` again.")
    if stack.status in ("CREATE_COMPLETE", "UPDATE_COMPLETE"):
        return stack
    next_step = "correct that and run `make infra` again"
    if stack.status in DEAD:
        next_step += ", which offers to delete what is left"
    raise DeploymentError(f"The stack {name} is {stack.status}: {why_it_failed(events)}; {next_step}.")


def why_it_failed(events: list[Event]) -> str:
    """Name the resource that failed first, with AWS's reason; `events` starts with the oldest."""
    failed = [event for event in events if event["ResourceStatus"].endswith("_FAILED")]
    # AWS cancels the others because of the first failure.
    failed = [event for event in failed if "cancelled" not in event.get("ResourceStatusReason", "")] or failed
    if not failed:
        return "AWS gives no reason, look at the stack's events in the AWS console"
    first = failed[0]
    reason = " ".join(first.get("ResourceStatusReason", "no reason given").split()).rstrip(".")
    return f"{first['LogicalResourceId']} ({first['ResourceType']}) failed because {reason}"


def discard(client: Client, name: str, proposal: Proposal) -> None:
    """Delete the change set, and the empty stack that AWS creates for the first one."""
    client.delete_change_set(StackName=name, ChangeSetName=proposal.id)
    stack = find(client, name)
    if stack and stack.status == "REVIEW_IN_PROGRESS":
        client.delete_stack(StackName=stack.id)


def delete(client: Client, name: str, on_event: Callable[[Event], None]) -> None:
    """Delete the stack and wait until it is gone.

    Raises:
        DeploymentError: It cannot be deleted; the message names the resource and the reason.
    """
    stack = find(client, name)
    if stack is None:
        return
    last = _newest(client, stack.id)
    client.delete_stack(StackName=stack.id)
    left, events = _wait(client, stack.id, last, on_event)
    if left and left.status != "DELETE_COMPLETE":
        raise DeploymentError(
            f"The stack {name} is {left.status}: {why_it_failed(events)}; delete that resource and try again."
        )


def resources(client: Client, stack: Stack, resource_type: str) -> list[str]:
    """Return AWS's names of the stack's resources of one type, for example "AWS::S3::Bucket"."""
    pages = client.get_paginator("list_stack_resources").paginate(StackName=stack.id)
    found = [item for page in pages for item in page["StackResourceSummaries"]]
    return [
        item["PhysicalResourceId"]
        for item in found
        if item["ResourceType"] == resource_type and item.get("PhysicalResourceId")
    ]


def _wait(
    client: Client, name: str, last: str | None, on_event: Callable[[Event], None]
) -> tuple[Stack | None, list[Event]]:
    """Wait until a stack no longer changes; return it, None if it is gone, with its events after the id `last`."""
    events: list[Event] = []
    while stack := find(client, name):
        for event in _events_since(client, name, last):
            events.append(event)
            last = event["EventId"]
            on_event(event)
        if not stack.status.endswith("_IN_PROGRESS"):
            break
        time.sleep(SECONDS_BETWEEN_POLLS)
    return stack, events


def _events_since(client: Client, name: str, last: str | None) -> list[Event]:
    """Return the events after the one with the id `last`, oldest first."""
    events: list[Event] = []
    for page in client.get_paginator("describe_stack_events").paginate(StackName=name):
        for event in page["StackEvents"]:  # newest first
            if event["EventId"] == last:
                return events[::-1]
            events.append(event)
    return events[::-1]


def _newest(client: Client, name: str) -> str | None:
    events = client.describe_stack_events(StackName=name)["StackEvents"]
    return events[0]["EventId"] if events else None
