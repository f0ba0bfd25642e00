from skinlib.execution import provenance


def test_a_deployed_flow_reports_the_commit_of_its_deployment(monkeypatch):
    monkeypatch.setenv("SKINLIB_GIT_COMMIT", "abc")
    assert provenance.git_commit() == "abc"


def test_the_versions_are_those_of_python_and_of_the_packages_that_decide_a_training():
    versions = provenance.versions()
    assert set(versions) == {"python", "torch", "torchvision", "numpy", "scikit-learn", "metaflow", "mlflow"}
