"""Says in plain words what baselines that see no lesion mean for a data set and for a model."""

from collections.abc import Mapping, Sequence

from skinlib.audit.baselines import COLOURS, FILE_TRACES, SOURCE
from skinlib.audit.traces import Standout
from skinlib.evaluation.intervals import is_above_zero
from skinlib.evaluation.scores import AgainstBaseline

NEAR = 0.05  # AUROC; a model that gains less over a baseline may have learnt little else
# What the metrics call each baseline, and what it is.
TITLES = {COLOURS: "colour baseline", FILE_TRACES: "file traces alone", SOURCE: "source alone"}
BASELINES = {
    COLOURS: "from colour statistics only",
    FILE_TRACES: "gradient boosting on how each file was saved (dimensions, bytes per pixel, JPEG tables, EXIF), "
    "sharpness, noise and dark corners",
    SOURCE: "the share of malignant training images from the same source",
}
# What images with a value have, and what those without it have.
_SAID = {
    "source": ("come from the source {}", "do not come from the source {}"),
    "format": ("are {} files", "are not {} files"),
    "dimensions": ("are {} pixels in size", "are not {} pixels in size"),
    "jpeg_tables": ("have the same JPEG quantisation tables ({})", "have JPEG quantisation tables other than {}"),
    "subsampling": ("have the chroma subsampling {}", "have a chroma subsampling other than {}"),
    "exif": ("have EXIF data", "have no EXIF data"),
}


def trace_words(of: Standout) -> str:
    """Say which images have a trace, in one sentence."""
    trace, value, other = of["trace"], of["value"], of["other"]
    if trace == "exif":
        other, value = other != (value == "no"), ""
    if trace == "source" and not value:
        said = "have a known source" if other else "have no known source"
    else:
        said = _SAID[trace][other].format(value)
    counts = [("benign", of["benign"], of["all_benign"]), ("malignant", of["malignant"], of["all_malignant"])]
    more, fewer = sorted(counts, key=lambda count: -count[1] / count[2])
    rest = f"{fewer[1]:,} of {fewer[2]:,}" if fewer[1] else "no"
    return f"{more[1]:,} of {more[2]:,} {more[0]} and {rest} {fewer[0]} training images {said}."


def strongest_trace(found: Sequence[Standout]) -> str:
    """Say which single trace tells the classes apart best, from `traces.standouts`."""
    return trace_words(found[0]) if found else "No single trace tells the classes apart."


def near_baseline(baselines: Mapping[str, AgainstBaseline]) -> str:
    """Say in one sentence which baseline without lesions comes near the model, or nothing if none does.

    A baseline is near if the model's gain over it is less than 0.05, or may be noise.
    """
    gains = {name: of["difference"]["value"] for name, of in baselines.items()}
    near = {
        name: gain
        for name, gain in gains.items()
        if gain is not None and (gain < NEAR or not is_above_zero(baselines[name]["difference"]))
    }
    if not near:
        return ""
    closest = min(near, key=lambda name: near[name])
    gain, auroc = near[closest], baselines[closest]["auroc"]["value"]
    distance = f"{gain:.3f} below" if gain > 0 else "not below"
    return (
        f"The {closest} alone reach{'es' if closest == SOURCE else ''} an AUROC of {auroc:.3f}, {distance} the model, "
        "so this result does not show that the model recognises lesions."
    )
