"""The model card (Mitchell et al. 2019, https://arxiv.org/abs/1810.03993): what a model is, and is not, good for."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from skinlib.audit.findings import AuditSummary
from skinlib.audit.traces import Standout
from skinlib.data.manifest import CLASSES, ManifestSummary
from skinlib.evaluation.scores import Report
from skinlib.evaluation.stress import StressRow
from skinlib.reporting.baseline_words import strongest_trace
from skinlib.reporting.numbers import number
from skinlib.reporting.report_tables import ELSEWHERE, differences, elsewhere, metric_columns, size, sources, subgroups
from skinlib.reporting.text import without_markup
from skinlib.serving.settings import ClassifierSettings
from skinlib.training.result import TrialSummary

_SYNTHETIC = "**Made from SYNTHETIC images: it shows that the pipeline works and has no other use.**"

_USE = """## Use
For research and teaching.

**Not for** diagnosis, triage, or telling anyone that a lesion is harmless. It is not a medical device and was not
tested in a clinic. It gives a confident answer for any picture: other diseases, healthy skin, photographs without a
dermatoscope."""

# https://www.isic-archive.com/blank-1, "Do I have permission to use the data?"
_LICENCE = """**Licence**: the files name none. The public set comes from the ISIC Archive, where an image is under CC0,
CC BY or CC BY-NC; the set does not say which. Do not redistribute it."""

_DRAWN = "**Licence**: this project's code draws the images; its licence applies."

_LIMITS = """## Limits
- In the public set *benign* means nevus only. Other benign lesions are missing.
- Bias between groups that the metadata does not name, such as skin tones, cannot be measured.
- Patients are unknown, so two lesions of one patient can be in different splits.
- Test and training images are from the same sources. Expect less on other images.
- Malignant lesions are much rarer in practice: see PPV and NPV."""

# Ends of the names of metrics without which the card fits into MLflow's description of 5,000 characters.
_IN_TEST_CARD_ONLY = ("before scaling", "at 45% prevalence")

_NO_LIMITS_KNOWN = """## Limits
The images are drawn: no result carries over to photographs."""


class Artifacts(Protocol):
    """The artifacts of a run that its model card is made from, by their names."""

    manifest: ManifestSummary
    audit: AuditSummary
    standouts: Sequence[Standout]
    split: Mapping[str, NDArray[np.int64]]
    trials: Mapping[str, Mapping[str, object]]
    best_trial: Mapping[str, object]
    best_result: TrialSummary
    classifier: ClassifierSettings
    verdict: str
    test_report: Report
    elsewhere_reports: Mapping[str, Report]
    stress: Sequence[StressRow]
    git_commit: str | None
    seed: int


def render(run: Artifacts, url: str, synthetic: bool, name: str, versions: Mapping[str, str]) -> str:
    """Write the model card in Markdown, with tables in GitHub's dialect.

    Args:
        run: The flow, after its step `evaluate` has set the last of these artifacts.
        url: Of the images.
        synthetic: Whether they are the generated sample.
        name: Of the run, as FLOW/ID.
        versions: Of packages, by name.
    """
    report, others = run.test_report, run.elsewhere_reports
    by_group = f"{differences(report)} p-values are corrected for the number of tests (Holm)."
    parts = [
        f"# Model card: {run.best_trial['key']}",
        _SYNTHETIC if synthetic else "",
        f"**{run.verdict}**",
        "Maps a dermoscopic photograph to the probability that its lesion is malignant. Threshold: "
        f"{report['threshold']:.3f}.",
        _USE,
        _data(run, url, synthetic),
        _training(run),
        _results(report),
        f"## By source\n{_table(sources(report))}" if report["sources"] else "",
        f"## Elsewhere\n{ELSEWHERE}\n\n{_table(elsewhere(others))}" if others else "",
        _NO_LIMITS_KNOWN if synthetic else _LIMITS,
        f"""## Reproducibility
Commit `{run.git_commit or "unknown"}`, data `{run.manifest["hash"]}`, seed {run.seed}, run \
`{name}`; {_listing(versions)}.""",
        _robustness(run.stress),  # the long parts are last, since MLflow shortens a long description
        f"## Subgroups\n{by_group}\n\n{_table(subgroups(report))}" if report["subgroups"] else "",
    ]
    return without_markup("\n\n".join(part for part in parts if part) + "\n")


def _data(run: Artifacts, url: str, synthetic: bool) -> str:
    counts = "; ".join(
        f"{split}: {', '.join(f'{by_class[name]:,} {name}' for name in CLASSES)}"
        for split, by_class in run.manifest["counts"].items()
    )
    audit = run.audit
    return f"""## Data
`{url}`, {counts}. {_DRAWN if synthetic else _LICENCE}

**Defects**: rejected files: {len(run.manifest["rejected"]):,}; exact duplicates: \
{len(audit["exact_duplicates"]):,} pairs, {len(audit["label_conflicts"]):,} with conflicting labels; same lesion: \
{len(audit["same_lesions"]):,} pairs, {len(audit["doubtful_labels"]):,} with conflicting labels; leakage between \
training and test: {len(audit["leaks"]):,} pairs.

**Strongest trace**: {strongest_trace(run.standouts)}"""


def _training(run: Artifacts) -> str:
    result, classifier, trial = run.best_result, run.classifier, run.trials[str(run.best_trial["key"])]
    n_train, n_validation = len(run.split["train"]), len(run.split["validation"])
    auroc, aurocs = number(result["validation_auroc"]), result.get("fold_aurocs", [])
    if aurocs:
        chosen_on = f"AUROC of out-of-fold predictions for {n_validation:,} training images"
        made = f"""this model: {auroc}; its folds: {number(min(aurocs))} to {number(max(aurocs))}). The mean of \
{len(aurocs)} networks, each trained on {len(aurocs) - 1} of {len(aurocs)} folds"""
        source = "the out-of-fold predictions, which are those of single networks"
    else:
        chosen_on = f"AUROC on {n_validation:,} validation images"
        made = f"this model: {auroc}, epoch {result['best_epoch']}). Trained on {n_train:,} images"
        source = "validation images"
    return f"""## Training
Chosen from {len(run.trials):,} trials: the cheapest within one standard error of the best {chosen_on} ({made}; the \
split keeps duplicates together. Temperature {classifier["temperature"]:.3f} and the threshold (sensitivity \
{classifier["sensitivity"]:.0%}) come from {source}. The test images were used once.

{_listing(trial)}; {_listing(result["setting"])}."""


def _results(report: Report) -> str:
    columns = metric_columns(report)
    scores = [of for of in (report["all"], report["without_twins"]) if of is not None]
    rows = [["", *columns], ["images (malignant)", *map(size, scores)]]
    shown = [row for row in zip(*columns.values(), strict=True) if not row[0].name.endswith(_IN_TEST_CARD_ONLY)]
    rows += [[row[0].name, *(of.words for of in row)] for row in shown]
    n = report["n_twins"]
    twins = "twins in training were not checked" if n is None else f"{n:,} have a twin in training"
    return f"""## Results
On the test images ({twins}), at threshold {number(report["threshold"])}, with 95% intervals. The baselines \
do not see the lesion.

{_table(rows)}"""


def _robustness(table: Sequence[StressRow]) -> str:
    rows = [["test images", "AUROC", "sensitivity", "specificity"]]
    rows += [[row["name"], *map(number, (row["auroc"], row["sensitivity"], row["specificity"]))] for row in table]
    return f"""## Robustness
The test images as another camera, clinic or operator would take them (`skinlib/evaluation/stress.py`).

{_table(rows)}"""


def _listing(values: Mapping[str, object]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in values.items())


def _table(rows: Sequence[Sequence[str]]) -> str:
    heads, *values = rows
    lines = [heads, ["-"] + ["-:"] * (len(heads) - 1), *values]
    return "\n".join("|" + "|".join(cell.replace("|", "\\|") for cell in line) + "|" for line in lines)
