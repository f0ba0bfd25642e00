from importlib.metadata import requires, version

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from skinlib.tracking.requirements import pinned


@pytest.fixture(scope="module")
def pins():
    return {canonicalize_name(pin.name): pin for pin in map(Requirement, pinned(["mlflow", "torch", "pillow"]))}


def test_every_dependency_of_a_pinned_package_is_pinned_to_the_installed_version(pins):
    for name, pin in pins.items():
        assert str(pin.specifier) == f"=={version(name).split('+')[0]}"
        for needed in map(Requirement, requires(name) or ()):
            if needed.marker is None or needed.marker.evaluate({"extra": ""}):
                assert canonicalize_name(needed.name) in pins, f"{name} needs {needed.name}"


def test_a_package_that_only_some_systems_need_keeps_its_marker(pins):
    conditional = [pin for pin in pins.values() if pin.marker]
    assert conditional
    assert all(pin.marker.evaluate({"extra": ""}) for pin in conditional)


def test_a_package_that_every_system_needs_has_no_marker(pins):
    assert {name: pins[name].marker for name in ("mlflow", "torch", "pillow", "numpy")} == dict.fromkeys(
        ("mlflow", "torch", "pillow", "numpy")
    )


def test_the_extras_of_a_dependency_are_pinned():
    needed = [Requirement(text) for text in requires("torch") or ()]
    names = {canonicalize_name(Requirement(pin).name) for pin in pinned(["torch"])}
    for dependency in needed:
        for extra in dependency.extras:
            for further in map(Requirement, requires(dependency.name) or ()):
                if further.marker and further.marker.evaluate({"extra": extra}):
                    assert canonicalize_name(further.name) in names, f"{dependency.name}[{extra}]"
