"""Basis of all configs: JSON read strictly; unknown keys and wrong types are errors, explained in plain words."""

import difflib
import json
import math
import os
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from skinlib.errors import ConfigError


class Strict(BaseModel):
    """Part of a config: unknown keys, wrong types and infinite numbers are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def read_text(path: Path, name: str) -> str:
    """Read the file of a config, with or without a byte order mark.

    Args:
        path: The file.
        name: What it is, for the message, such as "compute config".

    Raises:
        ConfigError: It cannot be read, or is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigError(f"The {name} {path} cannot be read ({error.strerror}); correct its path.") from error
    except ValueError as error:
        raise ConfigError(f"The {name} {path} is not UTF-8 text; save it as UTF-8.") from error


def parse(text: str, name: str) -> dict[str, object]:
    """Parse a config: a JSON object in which no key occurs twice.

    Args:
        text: Its JSON; a byte order mark is ignored.
        name: What it is, for the message, such as "sweep config".

    Raises:
        ConfigError: It is something else; the message says where.
    """
    try:
        config = json.loads(text.removeprefix("\ufeff"), object_pairs_hook=_without_repetition, parse_constant=_refuse)
    except json.JSONDecodeError as error:
        raise ConfigError(
            f"The {name} is not valid JSON ({error.msg} in line {error.lineno}, column {error.colno}); correct it, "
            "and write JSON as in configs, not YAML, and without comments and trailing commas."
        ) from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"The {name} cannot be used ({error}); correct it.") from error
    if not isinstance(config, dict):
        raise ConfigError(f"The {name} is not a JSON object; see configs for examples.")
    return config


def _without_repetition(pairs: Sequence[tuple[str, object]]) -> dict[str, object]:
    keys = [key for key, _ in pairs]
    if repeated := [key for key in dict.fromkeys(keys) if keys.count(key) > 1]:
        raise ValueError(f"the key {', '.join(repeated)} occurs twice in one object")
    return dict(pairs)


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not a number in JSON")


def ensure_home() -> None:
    """Give a user whom the system does not know, as in some containers, a home: MLflow fails to import without one."""
    if os.path.expanduser("~") == "~":
        os.environ["HOME"] = os.path.join(tempfile.gettempdir(), f"skinlib-{os.getuid()}")


@contextmanager
def variables(values: Mapping[str, str]) -> Iterator[None]:
    """Set variables of the environment inside the block."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def checkpoint_seconds(variables: Mapping[str, str] = os.environ) -> float:
    """Return the least time between two checkpoints of a trial; tests set it to 0, to continue from every epoch.

    Raises:
        ConfigError: SKINLIB_CHECKPOINT_SECONDS is not a number of seconds.
    """
    return _number(variables, "SKINLIB_CHECKPOINT_SECONDS", 30, "a number of seconds, such as 30")


def image_memory_limit(variables: Mapping[str, str] = os.environ) -> float:
    """Return the most bytes of memory that the images of a trial may count on; infinite by default.

    Raises:
        ConfigError: SKINLIB_IMAGE_MEMORY_MB is not a number of megabytes.
    """
    return 1e6 * _number(variables, "SKINLIB_IMAGE_MEMORY_MB", math.inf, "a number of megabytes, such as 8000")


def _number(variables: Mapping[str, str], name: str, default: float, meaning: str) -> float:
    value = variables.get(name)
    if not value:
        return default
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf:
        raise ConfigError(f"{name} is {value!r}; set it to {meaning}.")
    return number


def explain(
    error: ValidationError, known: Collection[str], kinds: Collection[str], branches: Collection[str] = ()
) -> str:
    """Describe the errors in a config as a clause, to complete a sentence.

    Args:
        error: Raised by a `Strict` model.
        known: The valid keys, to suggest one for an unknown key.
        kinds: The valid values of the key that selects the kind of config.
        branches: Other names that pydantic puts into an error's path, for the members of unions; they are left out,
            because users know only their own keys.
    """
    return "; ".join(_explain_one(problem, known, kinds, branches) for problem in error.errors())


def _explain_one(
    problem: ErrorDetails, known: Collection[str], kinds: Collection[str], branches: Collection[str]
) -> str:
    parts = [str(part) for part in problem["loc"]]
    if len(parts) > 1 and parts[0] in kinds:
        del parts[0]
    # An unknown key, the last part, may have any name, also one that pydantic uses.
    own = parts[-1:] if problem["type"] == "extra_forbidden" else []
    inner = parts[: len(parts) - len(own)]
    path = [part for part in inner if not part.startswith("function-") and part not in branches] + own
    where = ".".join(path)
    if problem["type"] == "extra_forbidden":
        close = difflib.get_close_matches(path[-1], known, n=1)
        advice = "did you mean " + close[0] if close else "known keys are " + ", ".join(known)
        return f"{where} is unknown ({advice if len(path) == 1 else 'remove it'})"
    if problem["type"].startswith("union_tag"):
        return f"{problem['ctx']['discriminator'].strip(chr(39))} must be {' or '.join(kinds)}"
    message = problem["msg"].removeprefix("Value error, ")
    shown = "" if problem["type"] == "missing" else f", not {problem['input']!r}"
    if problem["type"] == "value_error" or isinstance(problem["input"], dict):
        shown = ""
    return f"{where}: {message[0].lower()}{message[1:]}{shown}".removeprefix(": ")


def listed(text: str) -> list[str]:
    """Return the parts of an option that are separated by commas, such as URLs."""
    return [part.strip() for part in text.split(",") if part.strip()]


RUN_OPTIONS = (
    "seed",
    "validation_fraction",
    "max_rejected",
    "sensitivity",
    "group_by",
    "source_column",
    "experiment",
    "model_name",
    "promote",
)


def check_run_options(
    seed: int = 0,
    validation_fraction: float = 0.15,
    max_rejected: float = 0.01,
    sensitivity: float = 0.95,
    experiment: str = "skin-lesion",
    model_name: str = "skin-lesion",
    promote: str = "auto",
    group_by: str = "",
    source_column: str = "",
) -> None:
    """Check the options of a run that are given; those that name columns are checked with the metadata.

    Raises:
        ConfigError: An option is out of range, or MLflow would refuse a name after the training.
    """
    if not 0 <= seed < 2**32:
        raise ConfigError(f"The seed is {seed}; give a number from 0 to {2**32 - 1}.")
    if not 0 < validation_fraction <= 0.5:
        raise ConfigError(f"The validation fraction is {validation_fraction:g}; give a number above 0 and at most 0.5.")
    if not 0 <= max_rejected < 1:
        raise ConfigError(f"The fraction max-rejected is {max_rejected:g}; give a number from 0 to below 1.")
    if not 0 < sensitivity <= 1:
        raise ConfigError(f"The sensitivity is {sensitivity:g}; give a number above 0 and at most 1, such as 0.95.")
    if not experiment.strip():
        raise ConfigError("The name of the experiment is empty; give one with --experiment.")
    if not model_name.strip() or set(model_name) & set("/:"):
        raise ConfigError(
            f"The model name {model_name!r} is not allowed in MLflow; give one without '/' and ':' with --model-name."
        )
    if promote not in ("auto", "never", "always"):
        raise ConfigError(f"--promote is {promote!r}; write auto, never or always.")
