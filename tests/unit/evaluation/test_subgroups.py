"""Reports by source and subgroup, checked against scikit-learn, SciPy and statsmodels."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import fisher_exact
from sklearn.metrics import roc_auc_score
from statsmodels.stats.multitest import multipletests

from skinlib.evaluation.subgroups import by_source, holm, subgroups, within_source

RNG = np.random.default_rng(0)
N = 400
SOURCES = RNG.choice(["A", "B", ""], N, p=[0.5, 0.3, 0.2])
LABELS = np.where(SOURCES == "", 1, RNG.integers(0, 2, N))
PROBABILITIES = 1 / (1 + np.exp(-RNG.normal(LABELS + (SOURCES == ""), 1)))
GROUPS = np.arange(N)


def test_the_auroc_within_sources_is_the_mean_of_theirs_weighted_by_pairs() -> None:
    aurocs, pairs = [], []
    for source in ("A", "B"):
        here = source == SOURCES
        aurocs.append(roc_auc_score(LABELS[here], PROBABILITIES[here]))
        pairs.append(LABELS[here].sum() * (1 - LABELS[here]).sum())
    of_all, resampled = within_source(LABELS, PROBABILITIES, SOURCES)(np.vstack([np.ones(N), RNG.integers(0, 3, N)]))
    assert of_all == pytest.approx(np.average(aurocs, weights=pairs))
    assert resampled == pytest.approx(of_all, abs=0.1)


def test_a_model_that_tells_sources_apart_gains_nothing_within_them() -> None:
    by_camera = np.where(SOURCES == "A", 0.1, 0.9)
    labels = (RNG.random(N) < by_camera).astype(int)
    assert roc_auc_score(labels, by_camera) > 0.8
    assert within_source(labels, by_camera, SOURCES)(np.ones((1, N))) == 0.5


def test_each_source_is_scored_alone_and_against_all_benign_images() -> None:
    rows = {row["source"]: row for row in by_source(LABELS, PROBABILITIES, GROUPS, SOURCES)}
    here, benign = SOURCES == "B", LABELS == 0
    assert rows["B"]["auroc"]["value"] == pytest.approx(roc_auc_score(LABELS[here], PROBABILITIES[here]))
    mixed = (here & ~benign) | benign
    against = roc_auc_score(LABELS[mixed], PROBABILITIES[mixed])
    assert rows["B"]["against_all_benign"]["value"] == pytest.approx(against)
    assert rows["unknown"]["auroc"] == {"value": None, "interval": None}
    assert sum(row["n"] for row in rows.values()) == N


def test_subgroups_have_their_own_sensitivity_and_specificity_and_fisher_s_p_value() -> None:
    positive = PROBABILITIES > 0.5
    sexes = np.where(np.arange(N) % 3, "male", "female")
    positive[(sexes == "male") & (LABELS == 1)] = True
    female, male = subgroups(LABELS, positive, GROUPS, {"sex": sexes.tolist()})
    assert (female["column"], female["value"], female["n"]) == ("sex", "female", int((sexes == "female").sum()))
    here = (sexes == "female") & (LABELS == 1)
    assert female["sensitivity"]["value"] == pytest.approx(positive[here].mean())
    table = [[positive[here].sum(), (~positive[here]).sum()], [((sexes == "male") & (LABELS == 1)).sum(), 0]]
    assert female["p_sensitivity"] == pytest.approx(2 * fisher_exact(table).pvalue)  # the smaller of two p-values
    assert male["p_sensitivity"] is None  # the same comparison, reversed


def test_numbers_become_tens_and_rare_values_one_group() -> None:
    ages = [["45.0", "49", "", "85"][i % 4] for i in range(N)]
    sites = ["back" if i else "tongue" for i in range(N)]
    rows = subgroups(LABELS, PROBABILITIES > 0.5, GROUPS, {"age": ages, "site": sites})
    names = [(row["column"], row["value"]) for row in rows]
    assert names == [("age", "40 to 49"), ("age", "80 to 89"), ("age", "unknown"), ("site", "back"), ("site", "other")]


def test_columns_that_describe_no_groups_are_left_out() -> None:
    columns = {"lesion_id": [f"L{i}" for i in range(N)], "clinic": ["north"] * N, "empty": [""] * N}
    assert subgroups(LABELS, PROBABILITIES > 0.5, GROUPS, columns) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_holm_s_correction_equals_statsmodels(p_values: list[float]) -> None:
    expected = multipletests(p_values, method="holm")[1]
    assert holm([None, *p_values])[1:] == pytest.approx(expected.tolist())
