import json
import os
import shutil
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from skinlib.audit import shortcut
from skinlib.cli import commands
from skinlib.data import sample
from skinlib.data.listing import list_images
from skinlib.data.packing import open_packed, prepare
from skinlib.data.storage import open_store
from skinlib.evaluation.metrics import binary_metrics
from skinlib.networks.network import build
from skinlib.serving.export import export_graph
from skinlib.serving.graph import Graph
from skinlib.tracking import promotion, registry, runs
from tests.unit import results

ROOT = Path(__file__).parents[2]
MODEL = "models:/skin-lesion@champion"
SETTINGS = results.CLASSIFIER


def skinlib(*arguments):
    return subprocess.run([sys.executable, "-m", "skinlib", *arguments], cwd=ROOT, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["upload", "/no/such/folder", "s3://lesions"], "There is no folder /no/such/folder"),
        (["evaluate", "models:/m@champion", "/no/such/folder"], "There is no folder /no/such/folder"),
        (["audit", "/no/such/folder"], "There is no folder /no/such/folder"),
        (["sample", "skinlib"], "skinlib already holds files"),
    ],
)
def test_a_mistake_is_one_sentence_without_a_traceback(arguments, sentence):
    result = skinlib(*arguments)
    assert result.returncode == 1
    assert sentence in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_the_console_command_is_the_module():
    command = subprocess.run([Path(sys.executable).with_name("skinlib"), "--help"], capture_output=True, text=True)
    assert command.stdout.startswith("Usage: skinlib ")
    assert command.stdout == skinlib("--help").stdout


def test_sample_writes_images_that_a_run_accepts(tmp_path, monkeypatch):
    monkeypatch.setattr(sample, "generate", partial(sample.generate, n_train=2, n_test=2))
    result = CliRunner().invoke(commands, ["sample", str(tmp_path / "lesions")], catch_exceptions=False)
    assert result.exit_code == 0
    assert len(list_images(str(tmp_path / "lesions")).objects) == 4


@pytest.mark.parametrize(("answer", "left"), [("n\n", ["kept.jpg", "old.jpg"]), ("y\n", ["kept.jpg"])])
def test_upload_deletes_what_the_folder_lacks_only_after_asking(tmp_path, answer, left):
    folder, target = tmp_path / "folder", tmp_path / "target"
    for path in (folder / "kept.jpg", target / "old.jpg"):
        path.parent.mkdir()
        path.write_bytes(b"x")
    arguments = ["upload", str(folder), str(target)]
    result = CliRunner().invoke(commands, arguments, catch_exceptions=False)
    assert f"Uploaded 1 files to {target}; 0 were already there." in result.output
    assert "Files there that are not in the folder: 1, such as old.jpg." in result.output
    result = CliRunner().invoke(commands, [*arguments, "--delete"], input=answer, catch_exceptions=False)
    assert f"Delete these 1 at {target}?" in result.output
    assert sorted(path.name for path in target.iterdir()) == left


@pytest.mark.parametrize(("answer", "left"), [("n\n", 2), ("y\n", 1)])
def test_cache_deletes_what_is_unused_only_after_asking(tmp_path, monkeypatch, answer, left):
    monkeypatch.chdir(tmp_path)
    for name, age in (("7-ab", 3), ("8-cd", 0)):
        path = tmp_path / f".metaflow/skinlib/checkpoints/{name}/trial.pt"
        path.parent.mkdir(parents=True)
        path.write_bytes(bytes(2_000_000))
        os.utime(path, (time.time() - age * 86_400,) * 2)
    result = CliRunner().invoke(commands, ["cache"], catch_exceptions=False)
    assert f"2 of 2 entries, 4.0 MB, in {tmp_path}/.metaflow" in result.output
    arguments = ["cache", "--delete-unused", "2"]
    result = CliRunner().invoke(commands, arguments, input=answer, catch_exceptions=False)
    assert "7-ab" in result.output
    assert "8-cd" not in result.output
    assert len(list(tmp_path.rglob("*.pt"))) == left


def test_cache_says_where_to_look_for_runs(tmp_path):
    command = [sys.executable, "-m", "skinlib", "cache"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (result.returncode, len(result.stderr.splitlines())) == (1, 1)
    assert "No run has been started in this folder" in result.stderr


def test_the_commands_start_without_heavy_imports():
    result = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "skinlib", "--help"], cwd=ROOT, capture_output=True, text=True
    )
    imported = {line.rsplit("|", 1)[-1].strip() for line in result.stderr.splitlines()}
    assert not imported & {"torch", "mlflow", "metaflow", "matplotlib", "sklearn", "pandas", "boto3"}


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """Return a folder with `images` and a registered model, and the metrics that the flow's `evaluate` computes."""
    folder = tmp_path_factory.mktemp("evaluate")
    sample.generate(folder / "images", n_train=2, n_test=30)
    cache = open_store(str(folder / "cache"), create=True)
    listing = list_images(str(folder / "images"), splits=("test",))
    packed = open_packed(cache, prepare(listing, cache).hash)
    torch.manual_seed(0)
    weights = {name: value.numpy() for name, value in build("resnet10").state_dict().items()}
    threshold = 0.5
    settings = SETTINGS | {"shortcut": shortcut.fit(shortcut.colours(packed.images), packed.labels)}
    folds = [{"train": np.arange(20), "validation": np.arange(20, 30)}]
    graph = export_graph(weights, settings, packed.images, folds, np.zeros(30, bool))
    probabilities = Graph(graph).score(packed.images).probability
    metrics = binary_metrics(packed.labels, probabilities, threshold)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        registry.register(
            runs.start_run("evaluate", "key", name="run", params={}, tags={}),
            "evaluate",
            "key",
            "skin-lesion",
            flow_run="Flow/1",
            graph=graph,
            weights=weights,
            settings=settings,
            data_hash="0" * 64,
            metrics=metrics,
            figures={},
            histograms=results.HISTOGRAMS,
            model_card="# Model card",
            synthetic=True,
            seen=np.zeros(0, np.uint64),
        )
        promotion.promote("skin-lesion", "1", "ada")
        yield folder, metrics


def evaluate(url, *options):
    result = CliRunner().invoke(commands, ["evaluate", MODEL, str(url), *options])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_evaluate_gives_the_flow_s_metrics_to_the_last_digit_and_its_report(scored):
    folder, metrics = scored
    found = json.loads(evaluate(folder / "images", "--json"))
    assert {name: found[name] for name in metrics} == metrics
    assert set(found) == {*metrics, "report", "distance"}
    assert found["report"]["threshold"] == metrics["threshold"]
    scores = found["report"]["all"]
    assert (scores["n"], scores["n_malignant"]) == (metrics["n"], metrics["n_malignant"])
    for name in ("sensitivity", "specificity", "accuracy"):
        assert scores["operating_point"][name]["value"] == metrics[name]
    assert scores["auroc"]["value"] == pytest.approx(metrics["auroc"])
    assert scores["baselines"]["colours"]["auroc"]["value"] > 0.5


def test_evaluate_compares_the_calibration_before_and_after_temperature_scaling(scored):
    reliability = json.loads(evaluate(scored[0] / "images", "--json"))["report"]["all"]["calibration"]
    before, after = (
        np.average([row["predicted"] for row in of["bins"]], weights=[row["n"] for row in of["bins"]])
        for of in (reliability["before"], reliability["after"])
    )
    assert abs(before - 0.5) > abs(after - 0.5)


def test_evaluate_accepts_a_folder_of_the_two_classes(scored, tmp_path):
    folder, _ = scored
    shutil.copytree(folder / "images" / "test", tmp_path / "flat")
    flat, whole = (json.loads(evaluate(images, "--json")) for images in (tmp_path / "flat", folder / "images"))
    assert flat["distance"] == whole["distance"]
    assert flat["report"]["all"]["auroc"] == whole["report"]["all"]["auroc"]
    assert flat["report"]["sources"] == []  # its metadata.csv was not copied
    assert {row["source"] for row in whole["report"]["sources"]} == set(sample.CLINICS)


def test_evaluate_prints_the_metrics_and_the_distance_in_colour(scored):
    folder, metrics = scored
    text = evaluate(folder / "images")
    assert f"{MODEL} on {folder / 'images'}" in text
    assert "close to those of the training" in text
    (line,) = [line for line in text.split("\n") if line.startswith("  AUROC  ")]
    assert line.split()[1] == f"{metrics['auroc']:.3f}"


def test_evaluate_recognises_images_with_other_colours_than_the_training_images(scored, tmp_path):
    from PIL import Image

    for path in (scored[0] / "images" / "test").rglob("*.jpg"):
        other = tmp_path / path.relative_to(scored[0] / "images" / "test")
        other.parent.mkdir(exist_ok=True)
        Image.open(path).point(lambda value: value // 2).save(other)
    assert "far from those of the training" in evaluate(tmp_path)
    rows = json.loads(evaluate(tmp_path, "--json"))["distance"]
    assert all(row["deviations"] < 0 for row in rows)


def test_an_audit_names_its_findings_as_json_and_as_text(tmp_path):
    sample.generate(tmp_path, n_train=8, n_test=4)
    Image.open(tmp_path / "train/benign/1.jpg").rotate(90).save(tmp_path / "test/benign/9.jpg")

    result = skinlib("audit", str(tmp_path), "--json")
    found = json.loads(result.stdout)
    assert result.returncode == 0
    assert found["same_lesions"] == [["test/benign/9.jpg", "train/benign/1.jpg"]]
    assert found["leaks"] == [["train/benign/1.jpg", "test/benign/9.jpg"]]
    assert found["exact_duplicates"] == found["label_conflicts"] == []
    assert list(found["baselines"]) == ["colours", "file traces", "source"]
    assert all(0 <= auroc <= 1 for auroc in found["baselines"].values())
    assert found["traces"] == []

    result = skinlib("audit", str(tmp_path))
    assert result.returncode == 0
    assert "test/benign/9.jpg  train/benign/1.jpg" in result.stdout


def test_an_audit_counts_unusable_files_by_reason_and_goes_on(tmp_path):
    sample.generate(tmp_path, n_train=8, n_test=4)
    for path in (tmp_path / "train/benign/1.jpg", tmp_path / "train/benign/2.jpg"):
        path.write_bytes(path.read_bytes()[:-500])
    for path in (tmp_path / "test/malignant").iterdir():
        path.write_bytes(b"")
    unusable = {
        "it is damaged or truncated": ["train/benign/1.jpg", "train/benign/2.jpg"],
        "the file is empty": ["test/malignant/1.jpg", "test/malignant/2.jpg"],
    }
    result = skinlib("audit", str(tmp_path), "--json")
    assert result.returncode == 0
    found = json.loads(result.stdout)
    assert found["unusable"] == unusable
    assert set(found["baselines"].values()) == {None}


def test_an_audit_reports_identical_images_in_both_classes_and_fails(tmp_path):
    sample.generate(tmp_path, n_train=8, n_test=4)
    shutil.copy(tmp_path / "train/benign/1.jpg", tmp_path / "train/malignant/9.jpg")
    result = skinlib("audit", str(tmp_path), "--json")
    assert json.loads(result.stdout)["label_conflicts"] == [["train/benign/1.jpg", "train/malignant/9.jpg"]]
    assert result.returncode == 1
    assert "train/benign/1.jpg and train/malignant/9.jpg" in result.stderr
    assert len(result.stderr.splitlines()) == 1
