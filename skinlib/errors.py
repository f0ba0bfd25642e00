"""Errors that a user can act on: each message is one sentence that says what, where and what to do next."""


class SkinlibError(Exception):
    """Base of every error that skinlib raises on purpose."""


class ConfigError(SkinlibError):
    """A configuration file or a parameter holds something that cannot be used."""


class StorageError(SkinlibError):
    """A bucket, folder or object cannot be listed, read or written."""


class DataError(SkinlibError):
    """The images or their folders are not what training needs."""


class TrainingError(SkinlibError):
    """No trial gave a model."""


class TrackingError(SkinlibError):
    """The MLflow server cannot be used."""


class RunError(SkinlibError):
    """A run cannot be continued, or what works on it cannot be ended."""
