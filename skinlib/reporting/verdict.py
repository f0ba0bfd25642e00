"""The verdict: what a reader must know of a model first, in a few sentences made from its figures."""

from collections.abc import Mapping, Sequence

from skinlib.evaluation.scores import Report
from skinlib.evaluation.subgroups import UNKNOWN
from skinlib.reporting.baseline_words import near_baseline
from skinlib.reporting.numbers import estimate


def verdict(
    report: Report, elsewhere: Mapping[str, Report], one_class_sources: Sequence[str], synthetic: bool = False
) -> str:
    """Say how good a model is within one source, how much of that needs no lesion, and how it fares elsewhere.

    Args:
        report: Of the test images.
        elsewhere: Reports on other images, by their URL.
        one_class_sources: Sources with images of one class only in training.
        synthetic: Whether the images are the generated sample.
    """
    sentences = [_ranking(report), *_baselines(report), *_elsewhere(elsewhere), _warning(one_class_sources)]
    if synthetic:
        sentences.insert(0, "The images are synthetic: nothing here holds for photographs.")
    return " ".join(sentences)


def _ranking(report: Report) -> str:
    scores = report["all"]
    if scores["within_source"] is None:
        return (
            f"On the test images the AUROC is {estimate(scores['auroc'])}; their sources are not known, so "
            "the part that comes from the source of an image is unknown."
        )
    return (
        f"Among images of one source the AUROC is {estimate(scores['within_source'])}; among all test images it is "
        f"{estimate(scores['auroc'])}. The difference may come from the source of an image."
    )


def _baselines(report: Report) -> list[str]:
    baselines = report["all"]["baselines"]
    reached = ", ".join(f"{name} {estimate(of['auroc'])}" for name, of in baselines.items())
    return [f"Baselines that do not see the lesion reach: {reached}.", *filter(None, [near_baseline(baselines)])]


def _elsewhere(elsewhere: Mapping[str, Report]) -> list[str]:
    if not elsewhere:
        return ["It was not evaluated on images from elsewhere, where results are usually worse."]
    sentences = []
    for url, report in elsewhere.items():
        scores = report["all"]
        specificity = scores["operating_point"]["specificity"]
        sentences.append(
            f"On {url} ({scores['n']:,} images) the AUROC is {estimate(scores['auroc'])}, "
            f"with a specificity of {estimate(specificity)} at the threshold."
        )
    return sentences


def _warning(one_class_sources: Sequence[str]) -> str:
    words = "It must not be used to judge anyone's skin"
    if not one_class_sources:
        return f"{words}."
    names = ", ".join(name or UNKNOWN for name in one_class_sources)
    return (
        f"{words}, and its answers are worth nothing for images like those of these sources, which had one class only "
        f"in training: {names}."
    )
