"""Basis of all configs: unknown keys and wrong types are errors, explained in plain words."""

import difflib
from collections.abc import Collection

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from skinlib.errors import ConfigError


class Strict(BaseModel):
    """Part of a config: unknown keys, wrong types and infinite numbers are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


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
    inner = {*kinds, *branches}
    path = [str(part) for part in problem["loc"] if not str(part).startswith("function-") and part not in inner]
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


def check_run_options(
    seed: int,
    validation_fraction: float,
    max_rejected: float,
    sensitivity: float,
    experiment: str,
    model_name: str,
) -> None:
    """Check the options of a run.

    Raises:
        ConfigError: An option is out of range, or MLflow would refuse a name after the training.
    """
    if not 0 <= seed < 2**32:
        raise ConfigError(f"The seed is {seed}; give a number from 0 to 2**32 - 1.")
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
