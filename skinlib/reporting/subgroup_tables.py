"""Reports by source, by subgroup and on images from elsewhere, as rows for the cards and the printed reports."""

from collections.abc import Mapping

from skinlib.evaluation.scores import Report
from skinlib.evaluation.subgroups import SIGNIFICANT, Subgroup
from skinlib.reporting.numbers import estimate, number

SOURCE_HEADS = ["source", "images (malignant)", "AUROC within it", "AUROC against all benign"]
SUBGROUP_HEADS = ["subgroup", "images (malignant)", "sensitivity", "specificity", "p-values"]

ELSEWHERE = "The same model on other labelled images, which had no part in its training, selection and threshold."
ELSEWHERE_HEADS = [
    "images from",
    "images (malignant)",
    "AUROC",
    "sensitivity",
    "specificity",
    "unfamiliar",
    "unsupported",
]


def source_rows(report: Report) -> list[list[str]]:
    """Return one row per source."""
    return [
        [
            of["source"],
            f"{of['n']:,} ({of['n_malignant']:,})",
            estimate(of["auroc"]),
            estimate(of["against_all_benign"]),
        ]
        for of in report["sources"]
    ]


def subgroup_rows(report: Report) -> list[list[str]]:
    """Return one row per subgroup."""
    return [
        [
            f"{of['column']}: {of['value']}",
            f"{of['n']:,} ({of['n_malignant']:,})",
            estimate(of["sensitivity"]),
            estimate(of["specificity"]),
            f"{_p(of['p_sensitivity'])}, {_p(of['p_specificity'])}",
        ]
        for of in report["subgroups"]
    ]


def elsewhere_rows(reports: Mapping[str, Report]) -> list[list[str]]:
    """Return one row per set of images from elsewhere, given by their URL."""
    rows = []
    for url, report in reports.items():
        scores, point = report["all"], report["all"]["operating_point"]
        estimates = [scores["auroc"], point["sensitivity"], point["specificity"]]
        estimates += [scores["unfamiliar"], scores["unsupported"]]
        rows.append([url, f"{scores['n']:,} ({scores['n_malignant']:,})", *map(estimate, estimates)])
    return rows


def differences(report: Report) -> str:
    """Name the subgroups that differ from the other images by more than noise."""
    found = [words for of in report["subgroups"] for words in _differing(of)]
    if not found:
        return "No subgroup differs from the other images by more than noise."
    return f"These differ from the other images by more than noise: {'; '.join(found)}."


def _differing(of: Subgroup) -> list[str]:
    shares = {
        "sensitivity": (of["sensitivity"], of["p_sensitivity"]),
        "specificity": (of["specificity"], of["p_specificity"]),
    }
    return [
        f"{name} of {of['column']} {of['value']}, {number(share['value'])}"
        for name, (share, p) in shares.items()
        if p is not None and p < SIGNIFICANT
    ]


def _p(value: float | None) -> str:
    return "-" if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"
