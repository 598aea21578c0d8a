"""Statistics of a grid: the interval of a difference over seeds and images, and Holm's correction."""

import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
from grid import estimate_difference, holm, paired_summary

pytestmark = pytest.mark.slow


def simulated(rng, *, effect=0.0, of_seeds=0.02, of_clusters=0.1, seeds=5, clusters=150, students=1):
    """
    Gains (seeds, images) with one image in four decided otherwise, the mean of students that have the chance of a seed
    and of an image in common; the clusters.
    """
    index = np.repeat(np.arange(clusters), 2)
    shared = np.repeat(rng.normal(0, of_clusters, clusters), 2)
    mean = np.clip(effect + rng.normal(0, of_seeds, (seeds, 1)) + shared, -0.25, 0.25)
    drawn = rng.random((students, seeds, len(index)))
    return np.where(drawn < 0.125 + mean / 2, 1, np.where(drawn > 0.875 + mean / 2, -1, 0)).mean(0), index


@pytest.mark.parametrize(
    "sources",
    [
        {},
        {"of_seeds": 0.0},
        {"of_clusters": 0.0},
        {"seeds": 3},
        {"students": 8, "seeds": 3},
        {"effect": 0.03, "of_clusters": 0.05},
    ],
    ids=["both", "no seeds", "no clusters", "three seeds", "eight students", "an effect"],
)
def test_the_interval_covers_the_truth_in_about_95_of_100_grids(sources):
    rng, effect = np.random.default_rng(0), sources.get("effect", 0.0)
    covered, rejected = [], []
    for _ in range(1000):
        found = estimate_difference(*simulated(rng, **sources))
        covered.append(found.low <= effect <= found.high)
        rejected.append(found.p < 0.05)
        assert (found.p < 0.05) == (found.low > 0 or found.high < 0)
    assert 0.93 <= np.mean(covered) <= 0.99
    assert effect or np.mean(rejected) <= 0.07


def test_equal_results_are_no_difference_and_one_seed_is_too_few():
    same = estimate_difference(np.zeros((3, 10)), np.arange(10))
    assert (same.mean, same.p, same.positive, same.seeds) == (0, 1, 0, 3) and same.low <= 0 <= same.high
    with pytest.raises(ValueError, match="two or more seeds"):
        estimate_difference(np.zeros((1, 10)), np.arange(10))


def test_holm_is_that_of_statsmodels():
    for p_values in ([0.01, 0.04, 0.03, 0.005], [0.5, 0.9], [0.2], np.random.default_rng(0).random(20) ** 3):
        assert holm([*p_values]) == pytest.approx(multipletests(p_values, method="holm")[1])
    assert holm([]) == []


def test_a_paired_summary_is_that_of_a_paired_t_test():
    baseline, aligned = [0.50, 0.52, 0.51, 0.53], [0.53, 0.54, 0.55, 0.52]
    found, reference = paired_summary(baseline, aligned), stats.ttest_rel(aligned, baseline)
    assert (found.low, found.high) == pytest.approx(tuple(reference.confidence_interval()))
    assert found.difference == pytest.approx(0.02)
    with pytest.raises(ValueError, match="Two or more pairs"):
        paired_summary([0.5], [0.6])
