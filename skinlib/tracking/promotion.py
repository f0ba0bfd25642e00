"""Promotion: a version becomes the champion of its registered model only if it earns it.

The alias `champion` names the version that is in use, `challenger` the latest version that did not become champion.
Each change of the champion leaves tags at the version: who, when, from which version, and why. All functions raise
TrackingError if MLflow does not answer or refuses.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, TypedDict

import numpy as np
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from numpy.typing import NDArray

from skinlib.data.packing import PackedDataset
from skinlib.errors import TrackingError, without_credentials
from skinlib.evaluation.comparison import compare
from skinlib.evaluation.intervals import Estimate, is_above_zero
from skinlib.evaluation.scores import AgainstBaseline
from skinlib.tracking import registry
from skinlib.tracking.connection import connect, is_missing
from skinlib.tracking.runs import RecordedRun, to_tags

CHAMPION, CHALLENGER = "champion", "challenger"
LEAST_PER_CLASS = 20  # test images of each class that the champion must not know, for a verdict
Policy = Literal["auto", "never", "always"]


class Verdict(TypedDict):
    """The artifact `promotion`.

    `champion` is the version that was the champion before, None if there was none. `reason` is a sentence.
    """

    alias: str
    champion: str | None
    reason: str


@dataclass(frozen=True)
class Contest:
    """What decides on a promotion: the images of a run, and what its new version makes of the test images.

    Attributes:
        packed: All images, N.
        groups: int64 (N,), equal for images of the same lesion.
        test: Indices of the test images.
        probabilities: float64, of the new version for the test images.
        above_shortcut: How much the AUROC is above that of the colour baseline.
    """

    packed: PackedDataset
    groups: NDArray[np.int64]
    test: NDArray[np.int64]
    probabilities: NDArray[np.float64]
    above_shortcut: AgainstBaseline


def model_name(name: str, synthetic: bool, branch: str) -> str:
    """Return under which name a run registers its model.

    The synthetic sample and each branch of `@project` other than a user's and the production branch have names of
    their own, so that they cannot touch the champion of the real model.

    Args:
        name: As given by the user.
        synthetic: Whether the images are the generated sample.
        branch: Metaflow's `current.branch_name`, such as `user.ada`, `prod`, `test.staging` or `prod.v2`.
    """
    kind, _, rest = branch.partition(".")
    return "-".join([name, *([rest] if rest and kind != "user" else []), *(["sample"] if synthetic else [])])


def decide(run: RecordedRun, version: registry.RegisteredModel, policy: Policy, contest: Contest, who: str) -> Verdict:
    """Give a new version its alias; a version that has been decided on keeps its verdict.

    With the policy `auto`, it becomes the champion if it beats the standing one on the test images which that one does
    not know by more than noise, without worse calibration. The first version has to beat the colour baseline.

    Args:
        run: The parent run.
        version: From `registry.register`.
        policy: `never` and `always` decide without a comparison.
        contest: The images.
        who: Names the user in the tags.
    """
    name, number = version["name"], version["version"]
    with connect(run["uri"]) as client:
        tags = client.get_model_version(name, number).tags
        standing = _champion(client, name)
        # A task that was killed here has left the verdict, and perhaps the alias; or a user has promoted its version.
        if "skinlib.decided" in tags or standing == number:
            verdict: Verdict = {
                "alias": tags.get("skinlib.verdict", CHAMPION),
                "champion": tags.get("skinlib.compared_with", tags.get("skinlib.promoted_from")),
                "reason": tags.get("skinlib.reason", "Promoted by hand."),
            }
        else:
            verdict = _judge(name, standing, policy, contest)
            # Another run may have finished while this one compared.
            while verdict["alias"] == CHAMPION and standing != (now := _champion(client, name)):
                standing, verdict = now, _judge(name, now, policy, contest)
            facts = {"verdict": verdict["alias"], "reason": verdict["reason"], "compared_with": standing}
            _tag(client, name, number, facts | (_promoted(who, standing) if verdict["alias"] == CHAMPION else {}))
            description = client.get_model_version(name, number).description or ""
            text = registry.excerpt(f"{verdict['reason']}\n\n{description}")
            client.update_model_version(name, number, description=text)
            client.set_registered_model_alias(name, verdict["alias"], number)
        _tag(client, name, number, {"decided": "true"})
    return verdict


def promote(name: str, number: str, who: str) -> str | None:
    """Make a version the champion, and return the version that was it before.

    Raises:
        TrackingError: There is no such version.
    """
    with connect() as client:
        before = _champion(client, name)
        if before == number:
            raise TrackingError(f"Version {number} of {name} is the champion already.")
        try:
            client.set_registered_model_alias(name, CHAMPION, number)
        except MlflowException as error:
            if not is_missing(error):
                raise
            raise TrackingError(f"There is no version {number} of {name}; see them with: skinlib models") from None
        _tag(client, name, number, {"reason": f"Promoted by hand by {who}."} | _promoted(who, before))
    return before


def rollback(name: str, who: str) -> tuple[str, str]:
    """Make the version champion that was it before the standing one, and return both, the standing one first.

    Raises:
        TrackingError: There is no champion, or none before it.
    """
    with connect() as client:
        standing = _champion(client, name)
        before = standing and client.get_model_version(name, standing).tags.get("skinlib.promoted_from")
        if not standing or not before:
            raise TrackingError(
                f"{name} has no champion before the standing one; name one: skinlib promote {name} VERSION"
            )
        # It keeps its own `promoted_from`, so that a second rollback goes one further back.
        client.set_registered_model_alias(name, CHAMPION, before)
        _tag(client, name, before, {"rolled_back_by": who, "rolled_back_at": _now(), "rolled_back_from": standing})
    return standing, before


@dataclass(frozen=True)
class ListedVersion:
    """A version of a registered model; texts are empty where nothing is recorded.

    Attributes:
        created: In UTC.
        aliases: Such as `champion`.
        run: Metaflow's, as FLOW/ID.
        data: Hash of the data set's manifest.
        auroc: On the run's test images, with its 95% interval.
        reason: Why it has its alias.
    """

    name: str
    number: str
    created: datetime
    aliases: str
    run: str
    data: str
    auroc: str
    reason: str


def versions(name: str | None) -> list[ListedVersion]:
    """List the versions of a registered model, or of all, by name and the latest first.

    Raises:
        TrackingError: There is no such model.
    """
    with connect() as client:
        models = {model.name: model for model in client.search_registered_models(max_results=1000)}
        if name is not None and name not in models:
            known = f"there are {', '.join(sorted(models))}" if models else "train one first"
            raise TrackingError(f"MLflow at {without_credentials(client.tracking_uri)} has no model {name}; {known}.")
        listed = [
            _listed(version, models[each].aliases)
            for each in ([name] if name else sorted(models))
            for version in client.search_model_versions(f"name = '{each}'", max_results=1000)
        ]
    return sorted(listed, key=lambda version: (version.name, -int(version.number)))


def _listed(version: ModelVersion, aliases: Mapping[str, str]) -> ListedVersion:
    tags = {key.removeprefix("skinlib."): value for key, value in version.tags.items()}
    low, high = tags.get("test.auroc_low"), tags.get("test.auroc_high")
    return ListedVersion(
        name=version.name,
        number=str(version.version),
        created=datetime.fromtimestamp(version.creation_timestamp / 1000, UTC),
        aliases=", ".join(alias for alias, number in sorted(aliases.items()) if str(number) == str(version.version)),
        run=tags.get("metaflow_run", ""),
        data=tags.get("data_hash", "")[:12],
        auroc=tags.get("test.auroc", "") + (f" ({low} to {high})" if low and high else ""),
        reason=tags.get("reason", ""),
    )


def _champion(client: MlflowClient, name: str) -> str | None:
    """Return the number of the standing champion of a registered model."""
    try:
        return str(client.get_model_version_by_alias(name, CHAMPION).version)  # a number from a database
    except MlflowException as error:
        if not is_missing(error):
            raise
        return None


def _judge(name: str, champion: str | None, policy: Policy, contest: Contest) -> Verdict:
    if policy != "auto":
        alias = CHAMPION if policy == "always" else CHALLENGER
        reason = f"Not compared, since promotion is set to {policy}."
    elif champion is None:
        gain = contest.above_shortcut["difference"]
        earned = is_above_zero(gain)
        words = f"above the colour baseline by more than noise: AUROC{_shown(gain)}"
        alias = CHAMPION if earned else CHALLENGER
        reason = f"There was no champion, and on the test images it is {'' if earned else 'not '}{words}."
    else:
        alias, reason = _compare(f"models:/{name}/{champion}", contest)
    return {"alias": alias, "champion": champion, "reason": reason}


def _compare(champion: str, contest: Contest) -> tuple[str, str]:
    try:
        served = registry.load(champion)
        test, groups, fingerprints = contest.test, contest.groups, contest.packed.manifest.fingerprints
        known = np.isin(groups[test], groups[np.isin(fingerprints, served.seen)])
        compared = test[~known]
        probabilities = served.predict(contest.packed.images[compared])["probability"].to_numpy()
    except TrackingError as error:
        return CHALLENGER, f"The champion {champion} cannot be compared: {error}"
    labels, n_known = contest.packed.labels[compared], int(known.sum())
    left_out = f", without the {n_known:,} that the champion was trained on" if n_known else ""
    where = f"{len(labels):,} test images{left_out}"
    if min((labels == 0).sum(), (labels == 1).sum()) < LEAST_PER_CLASS:
        return CHALLENGER, f"Too few images remain to compare it with {champion}: {where}."
    found = compare(labels, contest.probabilities[~known], probabilities, groups[compared])
    words = f"{champion} by more than noise: AUROC{_shown(found.auroc)}, on {where}"
    if not found.is_better:
        return CHALLENGER, f"It does not beat {words}."
    worse = found.is_worse_calibrated
    judged = "but is calibrated worse" if worse else "and is not calibrated worse"
    return CHALLENGER if worse else CHAMPION, f"It beats {words}, {judged}: ECE{_shown(found.calibration_error)}."


def _shown(difference: Estimate) -> str:
    value, interval = difference["value"], difference["interval"]
    if value is None:
        return " undefined"
    return f" {value:+.3f}" + (f" ({interval[0]:+.3f} to {interval[1]:+.3f})" if interval else "")


def _tag(client: MlflowClient, name: str, number: str, facts: Mapping[str, object]) -> None:
    for tag in to_tags(facts):
        client.set_model_version_tag(name, number, tag.key, tag.value)


def _promoted(who: str, before: str | None) -> dict[str, object]:
    return {"promoted_by": who, "promoted_at": _now(), "promoted_from": before}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
