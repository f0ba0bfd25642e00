"""Scoring of a bucket: every file gets a row, a kill costs at most one part, and drift is found."""

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import boto3
import numpy as np
import onnx
import pandas as pd
import pyarrow as pa
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from skinlib.audit import shortcut
from skinlib.audit.drift import histogram
from skinlib.cli import commands
from skinlib.data.split import Fold
from skinlib.errors import ConfigError, DataError, SkinlibError
from skinlib.serving import scoring
from skinlib.serving.export import export_graph
from skinlib.serving.graph import Graph
from skinlib.serving.settings import ClassifierSettings
from skinlib.tracking import registry, runs
from tests.unit import results

MODEL = "models:/skin-lesion/1"


def pictures(n: int, seed: int) -> np.ndarray:
    """Blurred noise in random colours, uint8 (n, 224, 224, 3)."""
    generator = np.random.default_rng(seed)
    small = generator.normal(generator.normal(140, 20, (n, 1, 1, 3)), 25, (n, 7, 7, 3)).clip(0, 255).astype(np.uint8)
    return np.stack([np.asarray(Image.fromarray(each).resize((224, 224))) for each in small])


def encoded(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "png")
    return file.getvalue()


def write(folder: Path, images: np.ndarray) -> None:
    for number, image in enumerate(images):
        path = folder / f"ward {number % 3}" / f"{number:05}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(image))


def read(path: Path) -> pd.DataFrame:
    return pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory, weights: dict[str, np.ndarray]) -> str:
    """MLflow with a model that was made with such pictures."""
    images = pictures(400, seed=0)
    train, validation = np.arange(200), np.arange(200, 400)
    colours = shortcut.colours(images[train])
    settings: ClassifierSettings = {
        **results.CLASSIFIER,
        "shortcut": shortcut.fit(colours, (colours[:, 0] > 0.55).astype(np.int64)),
    }
    folds: list[Fold] = [{"train": train, "validation": validation}]
    graph = onnx.load_from_string(export_graph(weights, settings, images, folds, np.zeros(len(images), bool)))
    settings["scores"] = histogram(Graph(graph.SerializeToString()).score(images[validation]).probability)
    graph.metadata_props[-1].value = json.dumps(settings)
    uri = f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", uri)
        registry.register(
            runs.start_run("scoring", "key", name="run", params={}, tags={}),
            "scoring",
            "key",
            "skin-lesion",
            flow_run="SkinLesionFlow/1",
            graph=graph.SerializeToString(),
            weights=weights,
            settings=settings,
            data_hash="0" * 64,
            metrics={"auroc": 0.9},
            figures={},
            histograms=results.HISTOGRAMS,
            model_card="# Model card",
            synthetic=True,
            seen=np.zeros(1, np.uint64),
        )
    return uri


@pytest.fixture(autouse=True)
def environment(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)


def predict(url: object, output: object, *options: str) -> Result:
    result = CliRunner().invoke(commands, ["predict", MODEL, str(url), "--output", str(output), *options])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_every_file_has_a_row_with_the_answer_of_the_model_or_the_reason(tmp_path: Path, ending: str) -> None:
    images = pictures(5, seed=1)
    write(tmp_path / "in", images)
    (tmp_path / "in/notes.txt").write_text("no image")
    (tmp_path / "in/cut.png").write_bytes(encoded(images[0])[:500])
    (tmp_path / "in/.hidden").write_text("")
    with (tmp_path / "in/large.png").open("wb") as sparse:
        sparse.truncate((100 << 20) + 1)
    output = tmp_path / "out" / f"scores.{ending}"
    text = predict(tmp_path / "in", output).output
    table = read(output)
    assert list(table) == scoring.SCHEMA.names
    names = ["cut.png", "large.png", "notes.txt", "00000.png", "00003.png", "00001.png", "00004.png", "00002.png"]
    assert [Path(image).name for image in table["image"]] == names
    assert set(table["model"]) == {MODEL}
    damaged, *other = table["error"][:3]
    assert damaged.startswith("it is damaged or truncated")
    assert other == ["it is larger than 100 MB", "it is not an image"]
    assert table["error"][3:].isna().all()
    assert table["probability"][:3].isna().all()
    used = images[[0, 3, 1, 4, 2]]
    expected = registry.load(MODEL).predict(used)
    np.testing.assert_allclose(table["probability"][3:].astype(float), expected["probability"], atol=1e-6)
    assert list(table["malignant"][3:].astype(bool)) == list(expected["malignant"])
    np.testing.assert_allclose(table[scoring.SCHEMA.names[10:]][3:], shortcut.colours(used))
    assert "8 files, 8 of them scored now" in text
    assert "without a score: 3" in text
    assert [path.name for path in output.parent.iterdir()] == [output.name]


def test_a_killed_command_continues_and_gives_the_table_of_an_undisturbed_one(tmp_path: Path) -> None:
    files = [encoded(image[:32, :32]) for image in pictures(40, seed=2)]
    (tmp_path / "in").mkdir()
    for number in range(2500):
        (tmp_path / "in" / f"{number:05}.png").write_bytes(files[number % 40])
    killed, whole = tmp_path / "killed.parquet", tmp_path / "whole.parquet"
    arguments = ["predict", MODEL, str(tmp_path / "in"), "--output", str(killed)]
    process = subprocess.Popen([sys.executable, "-m", "skinlib", *arguments], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob(".killed.parquet.parts/*/*.parquet")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not killed.exists()
    n_scored = sum(len(read(part)) for part in tmp_path.glob(".killed.parquet.parts/*/*.parquet"))
    assert 900 < n_scored < 2500
    changed, gone = tmp_path / "in/00000.png", tmp_path / "in/00001.png"
    changed.write_bytes(files[7])
    gone.unlink()
    assert f"2,499 files, {2500 - n_scored + 1:,} of them scored now" in predict(tmp_path / "in", killed).output
    predict(tmp_path / "in", whole)
    tables = (read(path).sort_values("image", ignore_index=True) for path in (killed, whole))
    pd.testing.assert_frame_equal(*tables, check_exact=False, atol=1e-6)
    assert {path.name for path in tmp_path.iterdir()} == {"in", killed.name, whole.name}


def test_the_table_may_be_written_among_the_images_of_a_bucket(bucket: str) -> None:
    client = boto3.Session().client("s3")  # not the default session, which keeps the credentials of another test
    for number, image in enumerate(pictures(5, seed=5)):
        client.put_object(Bucket=bucket, Key=f"clinic/{number}.png", Body=encoded(image))
    predict(f"s3://{bucket}/clinic", f"s3://{bucket}/clinic/scores.parquet")
    keys = [entry["Key"] for entry in client.list_objects_v2(Bucket=bucket)["Contents"]]
    assert keys == [*(f"clinic/{number}.png" for number in range(5)), "clinic/scores.parquet"]
    table = pd.read_parquet(io.BytesIO(client.get_object(Bucket=bucket, Key="clinic/scores.parquet")["Body"].read()))
    assert list(table["image"]) == [f"s3://{bucket}/clinic/{number}.png" for number in range(5)]
    assert table["error"].isna().all()


def test_images_like_those_in_training_have_not_drifted(tmp_path: Path) -> None:
    write(tmp_path / "in", pictures(200, seed=6))
    result = predict(tmp_path / "in", tmp_path / "scores.parquet", "--fail-on-drift")
    assert result.exit_code == 0
    assert "No drift" in result.output


def test_darker_images_have_drifted_which_is_an_error_only_on_request(tmp_path: Path) -> None:
    write(tmp_path / "in", pictures(200, seed=7) // 2)
    result = predict(tmp_path / "in", tmp_path / "1.parquet")
    assert result.exit_code == 0
    assert "Drift (mean of red, mean of green, mean of blue" in result.output
    assert predict(tmp_path / "in", tmp_path / "2.parquet", "--fail-on-drift").exit_code == 3


def test_a_few_images_like_those_in_training_are_no_drift(tmp_path: Path) -> None:
    write(tmp_path / "in", pictures(4, seed=8))
    assert "No drift" in predict(tmp_path / "in", tmp_path / "scores.parquet").output


def test_without_one_usable_image_there_is_a_table_of_reasons_and_no_verdict(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/notes.txt").write_text("no image")
    output = predict(tmp_path / "in", tmp_path / "scores.csv", "--fail-on-drift").output
    assert "1: it is not an image" in output
    assert "drift" not in output
    assert list(read(tmp_path / "scores.csv")["error"]) == ["it is not an image"]


def test_no_cell_of_a_table_is_a_formula_and_no_name_reaches_a_shell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "=1+1; touch ran;`touch ran`$(touch ran)"
    folder.mkdir()
    for name in (
        "=1+1",
        "+1",
        "-1",
        "@SUM(1)",
        "\t=1",
        '",=1+1,"',
        "\n=1",
        "$(touch ran)",
        "`touch ran`",
        "; touch ran",
    ):
        (folder / name).write_text("no image")
    (folder / "image.png").write_bytes(encoded(pictures(1, seed=0)[0]))
    predict(folder.name, "scores.csv")
    with (tmp_path / "scores.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 11
    text = [cell for row in rows for column, cell in row.items() if scoring.SCHEMA.field(column).type == pa.string()]
    assert [cell for cell in text if cell.startswith(("=", "+", "-", "@", "\t", "\r"))] == []
    assert not list(tmp_path.rglob("ran"))


def test_the_arrays_of_a_model_run_no_code(uri: str, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
            return Path.touch, (tmp_path / "ran",)

    (seen,) = Path(uri.removeprefix("sqlite:///")).parent.rglob("seen.npy")
    whole = seen.read_bytes()
    try:
        np.save(seen, np.array([Evil()], object), allow_pickle=True)
        with pytest.raises(ValueError, match="allow_pickle=False"):
            registry.load(MODEL)
    finally:
        seen.write_bytes(whole)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("output", "error", "sentence"),
    [
        ("scores.xlsx", ConfigError, "must be a file or a URL that ends in .parquet or .csv; rename it."),
        ("mine.csv", ConfigError, "mine.csv exists; delete it, or choose another output."),
        ("scores.csv", DataError, "There are no files below "),
    ],
)
def test_what_cannot_be_scored_or_written_is_refused_in_a_sentence(
    output: str, error: type[SkinlibError], sentence: str, tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "mine.csv").write_text("a,b\n1,2\n")
    with pytest.raises(error) as raised:
        predict(tmp_path / "in", tmp_path / output)
    assert sentence in str(raised.value)
    assert (tmp_path / "mine.csv").read_text() == "a,b\n1,2\n"
