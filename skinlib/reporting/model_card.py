"""The model card (Mitchell et al. 2019, https://arxiv.org/abs/1810.03993): what a model is, and is not, good for."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from skinlib.console import calibration_error, estimate, number
from skinlib.dataset import CLASSES

Record: TypeAlias = Mapping[str, Any]

# MLflow keeps the description of a model version in a column of so many characters.
LIMIT = 5000

_SYNTHETIC = "**Made from SYNTHETIC images: it shows that the pipeline works, and has no other use.**"

_USE = """## Use
For research and teaching: to compare methods, and to study how such models fail.

**Not for** diagnosis, triage, or telling anyone that a lesion is harmless. It is no medical device, no doctor has
tested it, and it answers any picture with confidence: other diseases, photographs without a dermatoscope, bare skin."""

# https://www.isic-archive.com/blank-1, "Do I have permission to use the data?"
_LICENCE = """**Licence**: the files name none. The public set "Skin Cancer: Malignant vs. Benign" was taken from the
ISIC Archive, where each image is under CC0, CC BY or CC BY-NC; the set does not say which. Do not pass it on."""

_DRAWN = "**Licence**: the images are drawn by this project's code, under its licence."

_LIMITS = """## Limits
- In the public set *benign* means nevus only: other harmless lesions, such as seborrheic keratoses, were never seen.
- Skin tone, age and sex are not known, so nobody can say for whom it works worse.
- Patients are not known: look-alike images are kept together, two lesions of one person are not.
- Test and training images are of one source. Expect less elsewhere, and measure it.
- Malignant lesions are far rarer in practice: see PPV and NPV."""

_NO_LIMITS_KNOWN = """## Limits
The images are drawn: nothing of this carries over to photographs."""

_SHIFTS = "The same lesions as another camera, clinic or hand would show them; strengths in `skinlib/stress.py`."


def render(facts: Record) -> str:
    """Write the model card.

    Args:
        facts: plain values,
            `name`: of the model, such as its trial's key;
            `synthetic`: whether the images are the generated sample;
            `url` of the data, and its `manifest`, from `Manifest.summary`;
            `audit`: from `Audit.to_dict`;
            `split`: indices of images by `train`, `validation`, `test`;
            `trial`: the hyperparameters, and `n_trials`, how many competed;
            `result`: of the trial, from `TrialResult.summary`;
            `classifier`: as `classifier.save` takes it;
            `report`: from `evaluation.report`;
            `stress`: from `stress.table`;
            `commit` (None if unknown), `run`, `seed` and `versions` (of packages by name).

    Returns:
        Markdown with tables in GitHub's dialect, less than `LIMIT` characters unless names are very long.
    """
    report, synthetic = facts["report"], facts["synthetic"]
    parts = [
        f"# Model card: {facts['name']}",
        _SYNTHETIC if synthetic else "",
        f"Maps a dermoscopic photograph to the probability that its lesion is malignant; from "
        f"{report['threshold']:.3f} on it is called malignant.",
        _USE,
        _data(facts["url"], facts["manifest"], facts["audit"], synthetic),
        _training(facts["trial"], facts["n_trials"], facts["result"], facts["classifier"], facts["split"]),
        _results(report),
        _stress(facts["stress"]),
        _NO_LIMITS_KNOWN if synthetic else _LIMITS,
        f"""## Reproducibility
Commit `{facts["commit"] or "unknown"}`, data `{facts["manifest"]["hash"]}`, seed {facts["seed"]}, run \
`{facts["run"]}`; {_listing(facts["versions"])}.""",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def excerpt(card: str) -> str:
    """Return what MLflow can keep of a model card as a description: nearly always all of it, whole lines else."""
    if len(card) <= LIMIT:
        return card
    note = "\nThe rest is too long for this place: see the run's artifacts.\n"
    return card[: card.rindex("\n", 0, LIMIT - len(note))] + note


def _data(url: str, manifest: Record, audit: Record, synthetic: bool) -> str:
    counts = "; ".join(
        f"{split}: {', '.join(f'{by_class[name]:,} {name}' for name in CLASSES)}"
        for split, by_class in manifest["counts"].items()
    )
    return f"""## Data
`{url}`, {counts}. {_DRAWN if synthetic else _LICENCE}

**Defects**: {len(manifest["rejected"]):,} files rejected; {len(audit["exact_duplicates"]):,} pairs of identical and \
{len(audit["near_duplicates"]):,} of nearly identical images; {len(audit["leaks"]):,} pairs stand across training and \
test (below: figures without them); labels contradict in {len(audit["label_conflicts"]):,} pairs of the former and \
{len(audit["doubtful_labels"]):,} of the latter."""


def _training(trial: Record, n_trials: int, result: Record, classifier: Record, split: Record) -> str:
    return f"""## Training
Chosen from {n_trials:,} trials, the cheapest within one standard error of the best AUROC on \
{len(split["validation"]):,} validation images (its own: {number(result["validation_auroc"])}, epoch \
{result["best_epoch"]}), trained on {len(split["train"]):,}; duplicates stay on one side. Temperature \
{classifier["temperature"]:.3f} and the threshold (sensitivity {classifier["sensitivity"]:.0%}) come from \
validation too. Test images were scored once, for what follows.

{_listing(trial)}; {_listing(result["setting"])}."""


def _results(report: Record) -> str:
    columns = [report["all"]] + ([report["without_twins"]] if report["without_twins"] else [])
    threshold = report["threshold"]
    rows = [
        ["images (malignant)", *(f"{of['n']:,} ({of['n_malignant']:,})" for of in columns)],
        ["AUROC", *(estimate(of["auroc"]) for of in columns)],
        ["AUROC of colour alone", *(estimate((of["shortcut"] or {}).get("auroc")) for of in columns)],
        ["difference", *(estimate((of["shortcut"] or {}).get("difference")) for of in columns)],
        ["average precision", *(estimate(of["average_precision"]) for of in columns)],
    ]
    for given, measured in (("sensitivity", "specificity"), ("specificity", "sensitivity")):
        for i, point in enumerate(report["all"][f"{measured}_at_{given}"]):
            found = [estimate(of[f"{measured}_at_{given}"][i]) for of in columns]
            rows.append([f"{measured} at {point[given]:.0%} {given}", *found])
    for name in ("sensitivity", "specificity", "accuracy"):
        rows.append([f"{name} at {threshold:.3f}", *(estimate(of["operating_point"][name]) for of in columns)])
    points = [of["operating_point"]["predictive_values"] for of in columns]
    for name in ("ppv", "npv"):
        for at in zip(*points, strict=True):
            rows.append([f"{name.upper()}, {at[0]['prevalence']:.0%} malignant", *(estimate(of[name]) for of in at)])
    for when in ("before", "after"):
        scores = [of["calibration"][when] for of in columns]
        if all(scores):
            label = f"{when} scaling"
            rows.append([f"Brier score {label}", *(estimate(of["brier"]) for of in scores)])
            rows.append([f"ECE {label}", *(calibration_error(of) for of in scores)])
    heads = ["", "all test images", "without twins in training"][: 1 + len(columns)]
    note = "nobody looked for twins" if report["n_twins"] is None else f"{report['n_twins']:,} have a twin in training"
    return f"""## Results
On the test images ({note}), with 95% intervals. Colour alone is the shortcut: a logistic regression on each \
image's mean and deviation of red, green and blue.

{_table(heads, rows)}"""


def _stress(table: Sequence[Record]) -> str:
    names = ("auroc", "sensitivity", "specificity")
    rows = [[row["name"], *(number(row[name]) for name in names)] for row in table]
    return f"## Stress\n{_SHIFTS}\n\n" + _table(["test images", "AUROC", *names[1:]], rows)


def _listing(values: Record) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in values.items())


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["-"] + ["-:"] * (len(heads) - 1), *rows]
    return "\n".join("|" + "|".join(line) + "|" for line in lines)
