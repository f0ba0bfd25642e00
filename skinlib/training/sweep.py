"""Sweep configs: the trials of a list, a grid or a random search, validated before the run starts."""

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, TypeAlias

from pydantic import Field, TypeAdapter, ValidationError, field_validator

from skinlib.config import Strict, explain
from skinlib.data.storage import Store
from skinlib.errors import ConfigError
from skinlib.training.trial import Trial

MAX_TRIALS = 1000  # each is a task; many more are a slip, such as a grid of too many values
Settings: TypeAlias = dict[str, object]  # some hyperparameters by name, checked when they become a Trial
Values: TypeAlias = Annotated[list[object], Field(min_length=1)]


class _Uniform(Strict):
    uniform: tuple[float, float] = Field(strict=False)

    @property
    def bounds(self) -> tuple[float, float]:
        return self.uniform

    def distribution(self) -> object:
        from scipy.stats import uniform

        low, high = self.uniform
        return uniform(low, high - low)


class _LogUniform(Strict):
    log_uniform: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] = Field(strict=False)

    @property
    def bounds(self) -> tuple[float, float]:
        return self.log_uniform

    def distribution(self) -> object:
        from scipy.stats import loguniform

        return loguniform(*self.log_uniform)


class ListSweep(Strict):
    """The trials as written; each overrides `base`."""

    strategy: Literal["list"]
    base: Settings = Field({})
    trials: list[Settings] = Field(min_length=1)

    def settings(self, seed: int) -> list[Settings]:
        """Return what each trial sets in addition to `base`."""
        _refuse_more_than_max_trials(len(self.trials))
        return self.trials


class GridSweep(Strict):
    """Every combination of the values in `space` (scikit-learn's ParameterGrid)."""

    strategy: Literal["grid"]
    base: Settings = Field({})
    space: dict[str, Values] = Field(min_length=1)

    def settings(self, seed: int) -> list[Settings]:
        """Return what each trial sets in addition to `base`."""
        from sklearn.model_selection import ParameterGrid

        _refuse_more_than_max_trials(math.prod(map(len, self.space.values())))
        return list(ParameterGrid(self.space))


class RandomSweep(Strict):
    """`samples` draws from lists, `{"uniform": [low, high]}` or `{"log_uniform": [low, high]}` (ParameterSampler)."""

    strategy: Literal["random"]
    base: Settings = Field({})
    space: dict[str, Values | _Uniform | _LogUniform] = Field(min_length=1)
    samples: int = Field(ge=1, le=MAX_TRIALS)

    @field_validator("space")
    @classmethod
    def _ordered(cls, space: dict[str, Values | _Uniform | _LogUniform]) -> dict[str, Values | _Uniform | _LogUniform]:
        for name, values in space.items():
            if not isinstance(values, list) and not values.bounds[0] < values.bounds[1]:
                raise ValueError(f"{name}: the first bound must be below the second")
        return space

    def settings(self, seed: int) -> list[Settings]:
        """Return what each trial sets in addition to `base`."""
        from sklearn.model_selection import ParameterSampler

        space = {name: v if isinstance(v, list) else v.distribution() for name, v in self.space.items()}
        sizes = [len(values) if isinstance(values, list) else math.inf for values in self.space.values()]
        if self.samples > math.prod(sizes):
            raise ConfigError(
                f"The sweep config asks for {self.samples} samples of a space with {math.prod(sizes)} combinations; "
                "lower `samples`, or use the strategy grid."
            )
        # Rounded to 4 digits, so that a trial's key does not depend on the last bit of a draw.
        return [
            {k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in draw.items()}
            for draw in ParameterSampler(space, self.samples, random_state=seed)
        ]


def _refuse_more_than_max_trials(number: int) -> None:
    if number > MAX_TRIALS:
        raise ConfigError(
            f"The sweep config has {number:,} trials, more than {MAX_TRIALS:,}; give fewer values, or use the strategy "
            "random with `samples`."
        )


_SWEEP: TypeAdapter[ListSweep | GridSweep | RandomSweep] = TypeAdapter(
    Annotated[ListSweep | GridSweep | RandomSweep, Field(discriminator="strategy")]
)


def trials_from(config: Mapping[str, object], seed: int) -> list[Trial]:
    """Turn a sweep config into trials.

    Args:
        config: The content of a file in configs/sweeps: `strategy` (list, grid or random), `base` (the settings that
            all trials share) and, depending on the strategy, `trials`, `space` and `samples`.
        seed: Seeds the random search.

    Raises:
        ConfigError: One sentence that names every wrong key and what is wrong with it.
    """
    try:
        sweep = _SWEEP.validate_python(dict(config))
    except ValidationError as error:
        raise ConfigError(f"The sweep config is wrong: {_explain(error)}.") from error
    trials: list[Trial] = []
    for position, settings in enumerate(sweep.settings(seed), start=1):
        try:
            trial = Trial.model_validate({**sweep.base, **settings})
        except ValidationError as error:
            raise ConfigError(f"The sweep config is wrong in trial {position}: {_explain(error)}.") from error
        if trial in trials:
            raise ConfigError(
                f"The sweep config is wrong: trial {position} repeats trial {trials.index(trial) + 1}; remove it."
            )
        trials.append(trial)
    return trials


def store_weights(trials: Sequence[Trial], store: Store) -> None:
    """Keep the files of pretrained weights in the store of the run, where remote tasks find them.

    Raises:
        ConfigError: A trial's weights cannot be loaded, or belong to another architecture.
    """
    needed = {(trial.weights, trial.architecture) for trial in trials if trial.weights != "none"}
    if needed:  # torch takes seconds to import
        from skinlib.networks import pretrained
        from skinlib.networks.resnet import build

        for weights, architecture in needed:
            build(architecture, pretrained.load_pretrained(weights, architecture))
            if weights != "imagenet":
                pretrained.store_weights(weights, store)


def with_stored_weights(trial: Trial, store: Store) -> Trial:
    """Return a trial that reads its weights file on this machine."""
    if trial.weights == "none":
        return trial
    from skinlib.networks.pretrained import fetch_weights

    return trial.model_copy(update={"weights": fetch_weights(trial.weights, store)})


def _explain(error: ValidationError) -> str:
    return explain(error, Trial.model_fields, ("list", "grid", "random"), ("_Uniform", "_LogUniform", "list[any]"))
