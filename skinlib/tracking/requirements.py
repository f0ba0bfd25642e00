"""The packages of a served model, pinned together with everything that they depend on."""

from collections.abc import Iterable
from importlib.metadata import requires, version

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def pinned(packages: Iterable[str]) -> list[str]:
    """Return pip requirements of the installed versions of packages and of their dependencies, sorted by name.

    A dependency keeps its marker: a model that was registered on Linux installs on macOS, too, without the CUDA
    libraries that torch needs on Linux only.
    """
    markers: dict[str, str] = {}
    followed: set[tuple[str, frozenset[str], bool]] = set()
    waiting = [(name, frozenset[str](), "") for name in packages]
    while waiting:
        name, extras, marker = waiting.pop()
        name = canonicalize_name(name)
        # An unconditional requirement replaces a conditional one, and nothing else.
        if followed & {(name, extras, False), (name, extras, bool(marker))}:
            continue
        followed.add((name, extras, bool(marker)))
        markers[name] = markers.get(name, marker) and marker
        for needed in map(Requirement, requires(name) or ()):
            condition = marker
            if needed.marker and needed.marker.evaluate({"extra": ""}):
                condition = f"{marker} and ({needed.marker})" if marker else f"({needed.marker})"
            elif needed.marker and not any(needed.marker.evaluate({"extra": extra}) for extra in extras):
                continue
            waiting.append((needed.name, frozenset(needed.extras), condition))
    # Without the local part of a version (+cu128), which no package index has.
    pins = {name: f"{name}=={version(name).split('+')[0]}" for name in markers}
    return [f"{pins[name]} ; {marker}" if marker else pins[name] for name, marker in sorted(markers.items())]
