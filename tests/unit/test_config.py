"""Configs: a wrong value is explained by its key, and run options out of range are refused."""

import pytest
from pydantic import ValidationError, model_validator

from skinlib.config import Strict, check_run_options, explain
from skinlib.errors import ConfigError


class _Range(Strict):
    low: int
    high: int

    @model_validator(mode="after")
    def _ordered(self) -> "_Range":
        if self.low > self.high:
            raise ValueError("Low must not exceed high")
        return self


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"low": 1}, "high: field required"),
        ({"low": 1, "high": "x"}, "high: input should be a valid integer, not 'x'"),
        ({"low": 1, "high": 2, "hihg": 3}, "hihg is unknown (did you mean high)"),
        ({"low": 2, "high": 1}, "low must not exceed high"),
    ],
)
def test_an_error_names_the_key_and_what_is_wrong(config: dict[str, object], words: str) -> None:
    with pytest.raises(ValidationError) as caught:
        _Range.model_validate(config)
    assert explain(caught.value, _Range.model_fields, ()) == words


@pytest.mark.parametrize(
    "options", [(-1, 0.1, 0, 1), (0, 0, 0, 1), (0, 0.6, 0, 1), (0, 0.1, -0.1, 1), (0, 0.1, 1, 1), (0, 0.1, 0, 0)]
)
def test_options_out_of_range_are_refused(options: tuple[int, float, float, float]) -> None:
    with pytest.raises(ConfigError, match="give a number"):
        check_run_options(*options, "skin-lesion", "skin-lesion")


@pytest.mark.parametrize(
    ("experiment", "model_name", "words"),
    [
        ("", "skin", "experiment is empty"),
        (" ", "skin", "experiment is empty"),
        ("skin", "", "model name '' is not allowed"),
        ("skin", "team/skin", "model name 'team/skin' is not allowed in MLflow; give one without '/' and ':'"),
        ("skin", "skin:2", "model name 'skin:2'"),
    ],
)
def test_names_that_mlflow_would_refuse_are_refused(experiment: str, model_name: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        check_run_options(0, 0.15, 0.01, 0.95, experiment, model_name)


def test_usual_options_are_accepted() -> None:
    check_run_options(0, 0.15, 0.01, 0.95, "team/skin: first", "skin-lesion 2_b")
