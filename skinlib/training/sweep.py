"""Sweep configs: the trials of a list, a grid or a random search and their folds, validated before the run starts."""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Annotated, Literal, TypeAlias, TypedDict

from pydantic import Field, TypeAdapter, ValidationError, field_validator

from skinlib.config import Strict, explain
from skinlib.data.storage import Store
from skinlib.errors import ConfigError
from skinlib.training.trial import Trial

MAX_BRANCHES = 1000  # each is a task; many more are a slip, such as a grid of too many values
MAX_FOLDS = 20  # each is a network that the model runs for every image
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


class Branch(TypedDict):
    """One training: the key of its trial, and the number of its fold, from 1."""

    trial: str
    fold: int


class _Sweep(Strict):
    base: Settings = Field({})
    folds: int = Field(1, ge=1, le=MAX_FOLDS)

    def _refuse_too_many(self, trials: int) -> None:
        if trials * self.folds > MAX_BRANCHES:
            each = f" of {self.folds} folds" if self.folds > 1 else ""
            raise ConfigError(
                f"The sweep config has {trials:,} trials{each}, more than {MAX_BRANCHES // self.folds:,}; give fewer "
                "values, or use the strategy random with `samples`."
            )


class ListSweep(_Sweep):
    """The trials as written; each overrides `base`."""

    strategy: Literal["list"]
    trials: list[Settings] = Field(min_length=1)

    def settings(self, seed: int) -> list[Settings]:
        """Return what each trial sets in addition to `base`."""
        self._refuse_too_many(len(self.trials))
        return self.trials


class GridSweep(_Sweep):
    """Every combination of the values in `space` (scikit-learn's ParameterGrid)."""

    strategy: Literal["grid"]
    space: dict[str, Values] = Field(min_length=1)

    def settings(self, seed: int) -> list[Settings]:
        """Return what each trial sets in addition to `base`."""
        from sklearn.model_selection import ParameterGrid

        self._refuse_too_many(math.prod(map(len, self.space.values())))
        return list(ParameterGrid(self.space))


class RandomSweep(_Sweep):
    """`samples` draws from lists, `{"uniform": [low, high]}` or `{"log_uniform": [low, high]}` (ParameterSampler)."""

    strategy: Literal["random"]
    space: dict[str, Values | _Uniform | _LogUniform] = Field(min_length=1)
    samples: int = Field(ge=1, le=MAX_BRANCHES)

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

        self._refuse_too_many(self.samples)
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


_SWEEP: TypeAdapter[ListSweep | GridSweep | RandomSweep] = TypeAdapter(
    Annotated[ListSweep | GridSweep | RandomSweep, Field(discriminator="strategy")]
)


def trials_from(config: Mapping[str, object], seed: int) -> list[Trial]:
    """Turn a sweep config into trials.

    Args:
        config: The content of a file in configs/sweeps: `strategy` (list, grid or random), `base` (the settings that
            all trials share), `folds` and, depending on the strategy, `trials`, `space` and `samples`.
        seed: Seeds the random search.

    Raises:
        ConfigError: One sentence that names every wrong key and what is wrong with it.
    """
    sweep = _read(config)
    trials: list[Trial] = []
    for position, settings in enumerate(sweep.settings(seed), start=1):
        try:
            trial = Trial.model_validate({**sweep.base, **settings})
        except ValidationError as error:
            raise ConfigError(
                f"The sweep config is wrong in trial {position}: {_explain(error, Trial.model_fields)}."
            ) from error
        if trial in trials:
            raise ConfigError(
                f"The sweep config is wrong: trial {position} repeats trial {trials.index(trial) + 1}; remove it."
            )
        trials.append(trial)
    return trials


def folds_from(config: Mapping[str, object]) -> int:
    """Return the number of folds of a sweep config, 1 without cross-validation.

    Raises:
        ConfigError: As in `trials_from`.
    """
    return _read(config).folds


def branches(trials: Iterable[str], folds: int) -> dict[str, Branch]:
    """Name the trainings of a sweep: KEY of the trial, or with more than one fold KEY.fold-1, KEY.fold-2 and so on."""
    return {
        f"{trial}.fold-{fold}" if folds > 1 else trial: {"trial": trial, "fold": fold}
        for trial in trials
        for fold in range(1, folds + 1)
    }


def store_weights(trials: Sequence[Trial], store: Store) -> None:
    """Keep the files of pretrained weights in the store of the run, where remote tasks find them.

    Raises:
        ConfigError: A trial's weights cannot be loaded, or belong to another architecture.
    """
    needed = {(trial.weights, trial.architecture) for trial in trials if trial.weights != "none"}
    if needed:  # torch takes seconds to import
        from skinlib.networks import pretrained
        from skinlib.networks.network import build

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


def _read(config: Mapping[str, object]) -> ListSweep | GridSweep | RandomSweep:
    try:
        return _SWEEP.validate_python(dict(config))
    except ValidationError as error:
        known = {name for sweep in (ListSweep, GridSweep, RandomSweep) for name in sweep.model_fields}
        raise ConfigError(f"The sweep config is wrong: {_explain(error, sorted(known))}.") from error


def _explain(error: ValidationError, known: Collection[str]) -> str:
    return explain(error, known, ("list", "grid", "random"), ("_Uniform", "_LogUniform", "list[any]"))
