"""The card of the step `select`: all trials, and why one of them won."""


def select_card(card: Card, leaderboard: "pd.DataFrame", histories: Histories, reason: str) -> None:
    """Show the search: why the first row of a leaderboard was chosen, a picture, all trials, and why some failed.

    Args:
        card: to fill.
        leaderboard: from `selection.leaderboard`, the chosen trial first; NaN stands for what a failed trial lacks.
        histories: of every trial.
        reason: a sentence that says why the first was chosen.
    """
    failed = leaderboard.loc[leaderboard["status"] != "finished", ["trial", "status", "reason"]]
    chosen = leaderboard.iloc[0]
    card.append(Markdown(f"# Search: {len(leaderboard)} trials, {len(failed)} failed\n\n{reason}"))
    compared = "Validation images chose it, so expect a little less on others."
    card.append(Markdown(f"{_versus_shortcut(*_compared(chosen))} {SHORTCUT}. {compared}"))
    card.append(_picture(figures.search_figure(leaderboard, histories)))
    trials = leaderboard.to_dict("records")
    names = [f"{chosen['trial']} (chosen)", *leaderboard["trial"][1:]]
    hyperparameters = list(leaderboard.columns[list(leaderboard.columns).index("seconds") + 1 :])
    varied = [name for name in hyperparameters if leaderboard[name].nunique(dropna=False) > 1]
    rows = [[name, *_comparison(trial)] for name, trial in zip(names, trials, strict=True)]
    heads = ["validation AUROC", "behind best (std. error)", "above colour alone", "multiply-adds"]
    card.append(_table(rows, ["trial", *heads]))
    card.append(Markdown("## How they were trained"))
    shown = [*varied, "best_epoch", "epochs_trained", "seconds"]
    rows = [[name, *(trial[column] for column in shown)] for name, trial in zip(names, trials, strict=True)]
    card.append(_table(rows, ["trial", *map(_words, shown)]))
    if same := [[_words(name), chosen[name]] for name in hyperparameters if name not in varied]:
        card.append(Markdown("## The same in every trial"))
        card.append(_table(same, ["hyperparameter", "value"]))
    if len(failed):
        card.append(Markdown("## Failed trials"))
        card.append(_table(failed.to_numpy(), list(failed)))


def _comparison(trial: Record) -> list[str]:
    """Say how a trial did and what it costs, from its row of a leaderboard."""
    behind, error, millions = trial["behind_best"], trial["standard_error"], f"{trial['multiply_adds'] / 1e6:,.0f} M"
    if math.isnan(behind):
        return ["-", "-", "-", millions]
    auroc = estimate_in(trial, "validation_auroc", "low", "high")
    distance = f"{number(behind)} ({number(error)})" if behind else "best"
    return [_unbroken(words) for words in (estimate(auroc), distance, estimate(_compared(trial)[1]), millions)]
