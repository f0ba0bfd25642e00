"""Configs: a wrong value is explained by its key, and run options out of range are refused."""

import math
from pathlib import Path

import pytest
from pydantic import ValidationError, model_validator

from skinlib.config import (
    Strict,
    check_run_options,
    checkpoint_seconds,
    explain,
    image_memory_limit,
    listed,
    parse,
    read_text,
)
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


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"a": 1, "b": 2, "a": 3}', "The sweep config cannot be used (the key a occurs twice in one object)"),
        ('{"base": {"a": 1, "a": 2}}', "the key a occurs twice"),
        ('{"trials": [{"a": 1, "a": 1}]}', "the key a occurs twice"),
        ('{"a": 1,}', "is not valid JSON (Expecting property name enclosed in double quotes in line 1, column 9)"),
        ('{\n"a": 1 // one\n}', "in line 2, column 8"),
        ("backend: batch", "write JSON as in configs, not YAML"),
        ("", "is not valid JSON (Expecting value in line 1, column 1)"),
        ("[]", "is not a JSON object"),
        ('{"a": NaN}', "NaN is not a number in JSON"),
        ('{"a": -Infinity}', "-Infinity is not a number in JSON"),
        ('{"a":' * 100_000, "recursion"),
        ('{"a": ' + "9" * 5000 + "}", "5000 digits"),
    ],
)
def test_a_config_that_is_not_one_json_object_is_refused_with_the_place(text: str, words: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parse(text, "sweep config")
    assert words in str(raised.value)


def test_equal_keys_of_different_objects_and_a_byte_order_mark_are_accepted(tmp_path: Path) -> None:
    text = '{"a": {"a": 1}, "b": [{"a": 2}, {"a": 3}]}'
    (tmp_path / "config.json").write_text(text, encoding="utf-8-sig")
    assert parse(read_text(tmp_path / "config.json", "config"), "config") == parse("\ufeff" + text, "config")
    assert parse(text, "config") == {"a": {"a": 1}, "b": [{"a": 2}, {"a": 3}]}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{}".encode("utf-16"), "is not UTF-8 text; save it as UTF-8"),
        ('{"a": "\xfc"}'.encode("latin-1"), "is not UTF-8 text; save it as UTF-8"),
        (None, r"cannot be read \(No such file or directory\); correct its path"),
    ],
    ids=["UTF-16", "Latin-1", "missing"],
)
def test_a_file_that_cannot_be_read_as_utf_8_is_named(tmp_path: Path, content: bytes | None, words: str) -> None:
    path = tmp_path / "config.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=rf"The sweep config {path} {words}\.$"):
        read_text(path, "sweep config")


@pytest.mark.parametrize("value", ["abc", "-1", "nan", "inf", "1 s"])
def test_seconds_that_are_no_number_are_refused(value: str) -> None:
    with pytest.raises(ConfigError, match="set it to a number of seconds"):
        checkpoint_seconds({"SKINLIB_CHECKPOINT_SECONDS": value})


@pytest.mark.parametrize(("variables", "seconds"), [({}, 30), ({"SKINLIB_CHECKPOINT_SECONDS": "0.5"}, 0.5)])
def test_seconds_are_a_number_with_a_default(variables: dict[str, str], seconds: float) -> None:
    assert checkpoint_seconds(variables) == seconds


def test_the_memory_for_images_is_unlimited_unless_a_variable_limits_it() -> None:
    assert image_memory_limit({}) == math.inf
    assert image_memory_limit({"SKINLIB_IMAGE_MEMORY_MB": "8000"}) == 8e9
    with pytest.raises(ConfigError, match="SKINLIB_IMAGE_MEMORY_MB is 'all'; set it to a number of megabytes"):
        image_memory_limit({"SKINLIB_IMAGE_MEMORY_MB": "all"})


def test_an_option_lists_parts_that_are_separated_by_commas():
    assert listed("") == listed(" , ") == []
    assert listed("s3://a/b, /folder with spaces") == ["s3://a/b", "/folder with spaces"]
