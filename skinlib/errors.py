"""Errors that a user can act on: each message is one sentence that says what, where and what to do next."""

import re


def without_credentials(text: str) -> str:
    """Remove user, password and query from every URL in a text; a password may have a slash in it."""
    return re.sub(r"(://[^\s?]*)\?\S*", r"\1", re.sub(r"://(?:[^/\s]*|[^/\s:]*:(?!\d+/)\S*)@", "://", text))


class SkinlibError(Exception):
    """Base of every error that skinlib raises on purpose."""


class ConfigError(SkinlibError):
    """A configuration file or a parameter holds something that cannot be used."""


class StorageError(SkinlibError):
    """A bucket, folder or object cannot be listed, read or written."""


class UnreadableError(StorageError):
    """One file or object cannot be read, for a reason of its own: others may be readable.

    Attributes:
        reason: A clause, such as "it is archived".
    """

    def __init__(self, place: str, reason: str) -> None:
        super().__init__(place, reason)
        self.reason = reason

    def __str__(self) -> str:
        place, reason = self.args
        return f"{place} cannot be read: {reason}."


class DataError(SkinlibError):
    """The images or their folders are not what training needs."""


class TrainingError(SkinlibError):
    """No trial gave a model."""


class TrackingError(SkinlibError):
    """The MLflow server cannot be used."""


class RunError(SkinlibError):
    """A run cannot be continued, or what works on it cannot be ended."""
