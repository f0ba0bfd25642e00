import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def skinlib(*arguments):
    return subprocess.run([sys.executable, "-m", "skinlib", *arguments], cwd=ROOT, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["upload", "/no/such/folder", "s3://lesions"], "There is no folder /no/such/folder"),
        (["evaluate", "models:/m@champion", "/no/such/folder"], "There is no folder /no/such/folder"),
        (["sample", "skinlib"], "skinlib already holds files"),
    ],
)
def test_a_mistake_is_one_sentence_without_a_traceback(arguments, sentence):
    result = skinlib(*arguments)
    assert result.returncode == 1
    assert sentence in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_the_commands_start_without_heavy_imports():
    result = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "skinlib", "--help"], cwd=ROOT, capture_output=True, text=True
    )
    imported = {line.rsplit("|", 1)[-1].strip() for line in result.stderr.splitlines()}
    assert not imported & {"torch", "mlflow", "metaflow", "matplotlib", "sklearn", "pandas", "boto3"}
