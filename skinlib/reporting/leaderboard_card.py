"""The card of the step `select`: all trials, and why one of them won."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from skinlib.audit.baselines import COLOURS, column
from skinlib.evaluation.selection import explain_choice
from skinlib.reporting import figures
from skinlib.reporting.baseline_words import BASELINES, near_baseline
from skinlib.reporting.components import Card, column_title, gain_note, markdown, picture, table, unbroken
from skinlib.reporting.numbers import estimate, number
from skinlib.reporting.text import COLOUR_BASELINE, against, estimate_from, spread
from skinlib.training.result import Epoch

if TYPE_CHECKING:
    import pandas as pd


_VALIDATION = "The validation images chose this trial, so expect a slightly lower AUROC on other images."
_FOLDS = (
    "The out-of-fold AUROC is that of all training images, each predicted by the network that did not learn from it. "
    "These predictions chose this trial. The model is the mean of its {folds} networks. The curves are means over the "
    "folds."
)


def show(card: Card, leaderboard: "pd.DataFrame", histories: Mapping[str, Sequence[Epoch]]) -> None:
    """Show why the first trial of a leaderboard won, all trials by key, and why some failed."""
    failed = leaderboard.loc[leaderboard["status"] != "finished", ["trial", "status", "reason"]]
    chosen = leaderboard.iloc[0]
    card.append(markdown(f"# Search: {len(leaderboard)} trials, {len(failed)} failed\n\n{explain_choice(leaderboard)}"))
    folds = chosen.get("folds", 1)
    caveat = _FOLDS.format(folds=folds) if folds > 1 else _VALIDATION
    card.append(markdown(f"{gain_note(against(chosen, COLOURS))} {COLOUR_BASELINE} {caveat}"))
    _baselines(card, leaderboard)
    card.append(picture(figures.search_figure(leaderboard, histories)))
    trials = leaderboard.to_dict("records")
    names = [f"{chosen['trial']} (chosen)", *leaderboard["trial"][1:]]
    hyperparameters = list(leaderboard.columns[list(leaderboard.columns).index("seconds") + 1 :])
    varied = [name for name in hyperparameters if leaderboard[name].nunique(dropna=False) > 1]
    rows = [[name, *_comparison(trial)] for name, trial in zip(names, trials, strict=True)]
    heads = ["out-of-fold AUROC", "AUROC of the folds"] if folds > 1 else ["validation AUROC"]
    heads += ["behind best (std. error)", "gain over the colour baseline", "multiply-adds"]
    card.append(table([["trial", *heads], *rows]))
    card.append(markdown("## Hyperparameters and training"))
    shown = [*varied, "best_epoch", "epochs_trained", "seconds"]
    rows = [[name, *(trial[column] for column in shown)] for name, trial in zip(names, trials, strict=True)]
    card.append(table([["trial", *map(column_title, shown)], *rows]))
    if same := [[column_title(name), chosen[name]] for name in hyperparameters if name not in varied]:
        card.append(markdown("## The same in every trial"))
        card.append(table([["hyperparameter", "value"], *same]))
    if len(failed):
        card.append(markdown("## Failed trials"))
        card.append(table([list(failed), *failed.to_numpy()]))


def _baselines(card: Card, leaderboard: "pd.DataFrame") -> None:
    """Show what the baselines other than that of the colours reach, and whether one comes near the chosen trial."""
    chosen = leaderboard.iloc[0]
    baselines = {name: against(chosen, name) for name in BASELINES if f"above_{column(name)}" in chosen}
    rows = [
        [name, estimate(of["auroc"]), estimate(of["difference"]), BASELINES[name]]
        for name, of in baselines.items()
        if name != COLOURS
    ]
    if rows:
        heads = ["baseline that sees no lesion", "validation AUROC", "gain of the chosen trial", "what it is"]
        card.append(table([heads, *rows]))
    if words := near_baseline(baselines):
        card.append(markdown(f"**{words}**"))


def _comparison(trial: Mapping[str, Any]) -> list[str]:
    """Format how a trial performed and what it costs."""
    spreads = [unbroken(spread(trial))] if "folds" in trial else []
    behind, error, millions = trial["behind_best"], trial["standard_error"], f"{trial['multiply_adds'] / 1e6:,.0f} M"
    if math.isnan(behind):
        return ["-", *spreads, "-", "-", millions]
    auroc = estimate_from(trial["validation_auroc"], trial["low"], trial["high"])
    distance = f"{number(behind)} ({number(error)})" if behind else "best"
    others = [unbroken(words) for words in (distance, estimate(against(trial, COLOURS)["difference"]), millions)]
    return [unbroken(estimate(auroc)), *spreads, *others]
