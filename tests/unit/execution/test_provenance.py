from skinlib.execution import provenance


def test_a_deployed_flow_reports_the_commit_of_its_deployment(monkeypatch):
    monkeypatch.setenv("SKINLIB_GIT_COMMIT", "abc")
    assert provenance.git_commit() == "abc"


def test_the_versions_are_those_of_python_and_of_the_packages_that_decide_a_training():
    versions = provenance.versions()
    assert set(versions) == {"python", "torch", "torchvision", "numpy", "scikit-learn", "metaflow", "mlflow"}


def test_of_a_local_folder_only_the_name_is_published(tmp_path, monkeypatch):
    (tmp_path / "lesions").mkdir()
    monkeypatch.chdir(tmp_path / "lesions")
    places = [str(tmp_path / "lesions") + "/", ".", "../lesions", "sample", "s3://bucket/a/b"]
    assert [provenance.public_name(place) for place in places] == [
        "lesions", "lesions", "lesions", "sample", "s3://bucket/a/b",
    ]  # fmt: skip


def test_places_of_one_name_are_numbered():
    names = provenance.public_names(["/a/test", "s3://b/test", "/c/test/", "other", "../test"])
    assert names == ["test", "s3://b/test", "test (2)", "other", "test (3)"]
