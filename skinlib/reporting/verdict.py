"""The verdict: what a reader must know of a model first, in a few sentences made from its figures."""

from collections.abc import Mapping, Sequence

from skinlib.evaluation.scores import Report
from skinlib.evaluation.subgroups import UNKNOWN
from skinlib.reporting.baseline_words import near_baseline
from skinlib.reporting.numbers import estimate


def verdict(
    report: Report, elsewhere: Mapping[str, Report], one_class_sources: Sequence[str], synthetic: bool = False
) -> str:
    """Say how good a model is within one source, how much of that needs no lesion, and how it fares elsewhere."""
    scores = report["all"]
    auroc, within, baselines = estimate(scores["auroc"]), scores["within_source"], scores["baselines"]
    sentences = ["The images are synthetic: nothing here holds for photographs."] * synthetic
    if within is None:
        sentences.append(
            f"On the test images the AUROC is {auroc}; their sources are not known, so the part that comes from the "
            "source of an image is unknown."
        )
    else:
        sentences.append(
            f"Among images of one source the AUROC is {estimate(within)}; among all test images it is {auroc}. The "
            "difference may come from the source of an image."
        )
    reached = ", ".join(f"{name} {estimate(of['auroc'])}" for name, of in baselines.items())
    sentences.append(f"Baselines that do not see the lesion reach: {reached}.")
    if near := near_baseline(baselines):
        sentences.append(near)
    if not elsewhere:
        sentences.append("It was not evaluated on images from elsewhere, where results are usually worse.")
    for url, other in elsewhere.items():
        specificity = other["all"]["operating_point"]["specificity"]
        sentences.append(
            f"On {url} ({other['all']['n']:,} images) the AUROC is {estimate(other['all']['auroc'])}, "
            f"with a specificity of {estimate(specificity)} at the threshold."
        )
    warning = "It must not be used to judge anyone's skin"
    if one_class_sources:
        warning += (
            ", and its answers are worth nothing for images like those of these sources, which had one class only in "
            f"training: {', '.join(name or UNKNOWN for name in one_class_sources)}"
        )
    return " ".join([*sentences, f"{warning}."])
