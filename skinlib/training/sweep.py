"""Search spaces, typed and validated before anything is spent on them."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError, field_validator

from skinlib.config import Strict, explain
from skinlib.errors import ConfigError
from skinlib.training.trial import Trial


class _Uniform(Strict):
    uniform: tuple[float, float] = Field(strict=False)

    def distribution(self) -> Any:
        from scipy.stats import uniform

        low, high = self.uniform
        return uniform(low, high - low)


class _LogUniform(Strict):
    log_uniform: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] = Field(strict=False)

    def distribution(self) -> Any:
        from scipy.stats import loguniform

        return loguniform(*self.log_uniform)


class ListSweep(Strict):
    """The trials as they are written, each on top of `base`."""

    strategy: Literal["list"]
    base: dict[str, Any] = Field({})
    trials: list[dict[str, Any]] = Field(min_length=1)

    def settings(self, seed: int) -> list[dict[str, Any]]:
        """Return what each trial sets beyond `base`."""
        return self.trials


class GridSweep(Strict):
    """Every combination of the values in `space` (scikit-learn's ParameterGrid)."""

    strategy: Literal["grid"]
    base: dict[str, Any] = Field({})
    space: dict[str, Annotated[list[Any], Field(min_length=1)]] = Field(min_length=1)

    def settings(self, seed: int) -> list[dict[str, Any]]:
        """Return what each trial sets beyond `base`."""
        from sklearn.model_selection import ParameterGrid

        return list(ParameterGrid(self.space))


class RandomSweep(Strict):
    """`samples` draws from lists, `{"uniform": [low, high]}` or `{"log_uniform": [low, high]}` (ParameterSampler)."""

    strategy: Literal["random"]
    base: dict[str, Any] = Field({})
    space: dict[str, Annotated[list[Any], Field(min_length=1)] | _Uniform | _LogUniform] = Field(min_length=1)
    samples: int = Field(ge=1, le=1000)

    @field_validator("space")
    @classmethod
    def _ordered(cls, space: dict[str, Any]) -> dict[str, Any]:
        for name, values in space.items():
            bounds = getattr(values, "uniform", None) or getattr(values, "log_uniform", None)
            if bounds and not bounds[0] < bounds[1]:
                raise ValueError(f"{name}: the first bound must be below the second")
        return space

    def settings(self, seed: int) -> list[dict[str, Any]]:
        """Return what each trial sets beyond `base`."""
        from sklearn.model_selection import ParameterSampler

        space = {name: v if isinstance(v, list) else v.distribution() for name, v in self.space.items()}
        if all(isinstance(values, list) for values in space.values()):
            combinations = 1
            for values in space.values():
                combinations *= len(values)
            if self.samples > combinations:
                raise ConfigError(
                    f"The sweep config asks for {self.samples} samples of a space with {combinations} combinations; "
                    "lower `samples` or take the strategy grid."
                )
        # Rounded to 4 digits: nobody reads more, and the key of a trial should not hang on the last bit.
        return [
            {k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in draw.items()}
            for draw in ParameterSampler(space, self.samples, random_state=seed)
        ]


_SWEEP: TypeAdapter[ListSweep | GridSweep | RandomSweep] = TypeAdapter(
    Annotated[ListSweep | GridSweep | RandomSweep, Field(discriminator="strategy")]
)


def trials_from(config: Mapping[str, Any], seed: int) -> list[Trial]:
    """Turn a sweep config into trials.

    Args:
        config: what a file of configs/sweeps holds: `strategy` (list, grid or random), `base` (what all trials
            share) and, by strategy, `trials`, `space`, `samples`.
        seed: of the random search.

    Raises:
        ConfigError: one sentence that names every wrong key and what is wrong with it.
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


def _explain(error: ValidationError) -> str:
    return explain(error, Trial.model_fields, ("list", "grid", "random"), ("_Uniform", "_LogUniform", "list[any]"))
