"""The printed summary of a table of scores."""

from skinlib.audit import drift
from skinlib.reporting.numbers import number
from skinlib.reporting.text import table
from skinlib.serving.scoring import SCORE_BINS, Summary

_WIDTH = 50  # characters of the longest bar
_REASONS = 5


def prediction_report(model: str, summary: Summary) -> str:
    """Lay out what a table of scores contains, how the scores are distributed, and whether the images have drifted."""
    n, errors = summary.n, sorted(summary.errors.items(), key=lambda row: -row[1])
    failed = sum(summary.errors.values())
    lines = ["", f"{model} on {summary.url}", f"{n + failed:,} files, {summary.new:,} of them scored now"]
    lines += [f"{name}: {count:,} ({count / n:.1%})" for name, count in summary.flags.items() if n]
    lines += [f"without a score: {failed:,}"] * bool(failed)
    lines += [f"  {count:,}: {reason}" for reason, count in errors[:_REASONS]]
    lines += [f"  for {len(errors) - _REASONS:,} other reasons"] * (len(errors) > _REASONS)
    if n:
        lines += ["", "Images by probability of malignancy"]
        longest = int(summary.scores.max())
        for i, count in enumerate(summary.scores.tolist()):
            lines.append(f"  from {i / SCORE_BINS:.2f}  {'#' * -(-count * _WIDTH // longest)} {count:,}")
        rows = [[each.name, number(each.psi), each.verdict] for each in summary.drifts]
        rows.append(["unfamiliar images", f"{summary.flags['unfamiliar'] / n:.1%}", summary.unfamiliar])
        lines += [
            "",
            f"Population stability index: from {drift.SOME} some drift, from {drift.LARGE} drift",
            table(rows),
            "",
            _verdict(summary),
        ]
    return "\n".join([*lines, f"Table: {summary.output}", ""])


def _verdict(summary: Summary) -> str:
    moved = [each.name for each in summary.drifts if each.verdict == "drift"]
    moved += ["share of unfamiliar images"] * (summary.unfamiliar == "drift")
    if moved:
        return f"Drift ({', '.join(moved)}): check these images before you use the scores."
    if any(each.verdict == "some drift" for each in summary.drifts):
        return "Some drift: these images differ a little from the training images."
    return "No drift: these images are like those that the model was trained and validated on."
