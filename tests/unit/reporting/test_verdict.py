"""The verdict: it says what the figures say."""

from skinlib.reporting.numbers import estimate
from skinlib.reporting.verdict import verdict
from tests.unit import results


def test_it_gives_the_auroc_within_source_and_that_of_all_images() -> None:
    report = results.report()
    words = verdict(report, {}, [])
    assert f"Among images of one source the AUROC is {estimate(report['all']['within_source'])}" in words
    assert f"among all test images it is {estimate(report['all']['auroc'])}" in words


def test_it_says_what_is_not_known() -> None:
    words = verdict(results.report("no twins"), {}, [])
    assert "their sources are not known" in words
    assert "not evaluated on images from elsewhere" in words


def test_a_model_that_is_no_better_than_colours_is_said_to_be() -> None:
    labels = results.LABELS
    same = results.report_of(labels, results.PROBABILITIES, 0.5, baselines={"colours": results.PROBABILITIES})
    assert "not below the model, so this result does not show" in verdict(same, {}, [])
    assert "does not show" not in verdict(results.report(), {}, [])
    assert "do not see the lesion reach: colours 0.8" in verdict(results.report(), {}, [])


def test_it_names_the_results_elsewhere_and_the_sources_of_one_class() -> None:
    other = results.report("no twins")
    words = verdict(results.report(), {"s3://other/images": other}, ["ISIC-2017", ""], synthetic=True)
    assert f"On s3://other/images (100 images) the AUROC is {estimate(other['all']['auroc'])}" in words
    assert words.endswith("had one class only in training: ISIC-2017, unknown.")
    assert words.startswith("The images are synthetic")
