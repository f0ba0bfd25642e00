"""What runs leave in their datastore for later ones, and what of it may be deleted."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from skinlib.data.storage import Store

KINDS = {
    "packed": "packed images",
    "listings": "listing",
    "checkpoints": "checkpoints of a run",
    "weights": "pretrained weights",
}


@dataclass(frozen=True)
class Entry:
    """Objects that belong together.

    Attributes:
        kind: One of the values of `KINDS`.
        name: The first digits of the hash of a packed set or listing, the key of a run, or the name of a file.
        keys: Of the objects.
        size: Bytes of all objects.
        used: When a run last wrote or opened it.
    """

    kind: str
    name: str
    keys: tuple[str, ...]
    size: int
    used: datetime


def entries(store: Store) -> list[Entry]:
    """Return what is kept below `skinlib/` of a datastore, the longest unused first."""
    found: dict[tuple[str, str], list[tuple[str, int, datetime]]] = {}
    for item in store.list("skinlib"):
        _, folder, *rest = item.key.split("/")
        if folder in KINDS and rest and not item.problem and item.modified:
            found.setdefault((folder, rest[0]), []).append((item.key, item.size, item.modified))
    rows = [
        Entry(
            KINDS[folder],
            name[:12] if folder in ("packed", "listings") else name,
            tuple(key for key, _, _ in objects),
            sum(size for _, size, _ in objects),
            max(modified for _, _, modified in objects),
        )
        for (folder, name), objects in found.items()
    ]
    return sorted(rows, key=lambda entry: (entry.used, entry.name))


def unused(found: Sequence[Entry], days: float, now: datetime | None = None) -> list[Entry]:
    """Return the entries that no run has used for some days."""
    limit = (now or datetime.now(UTC)) - timedelta(days=days)
    return [entry for entry in found if entry.used < limit]


def delete(store: Store, chosen: Sequence[Entry]) -> None:
    """Delete entries. A run that needs one of them says so, and a new run makes it again."""
    for entry in chosen:
        store.delete_objects(entry.keys)
