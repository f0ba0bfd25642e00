from infra import cloudformation
from infra.cloudformation import Change


def test_the_reason_is_the_first_failure_not_what_aws_cancelled_because_of_it():
    def event(name, status, reason):
        return {
            "LogicalResourceId": name,
            "ResourceType": "AWS::Batch::JobQueue",
            "ResourceStatus": status,
            "ResourceStatusReason": reason,
        }

    events = [
        event("A", "CREATE_COMPLETE", "fine"),
        event("B", "CREATE_FAILED", "Resource creation cancelled"),
        event("C", "CREATE_FAILED", "no such\nrole."),
        event("D", "CREATE_FAILED", "later"),
    ]
    assert cloudformation.why_it_failed(events) == "C (AWS::Batch::JobQueue) failed because no such role"
    assert "gives no reason" in cloudformation.why_it_failed(events[:1])


def test_replaced_and_removed_resources_are_marked():
    text = cloudformation.table(
        [
            Change("Modify", "Queue", "AWS::Batch::JobQueue", "True"),
            Change("Modify", "Vpc", "AWS::EC2::VPC", "False"),
            Change("Remove", "Role", "AWS::IAM::Role", ""),
        ]
    )
    remarks = {line.split()[1]: line.split("  ")[-1] for line in text.splitlines()[1:]}
    assert remarks["Queue"] == "IS REPLACED"
    assert remarks["Role"] == "IS REMOVED"
    assert "REPLACED" not in remarks["Vpc"]
