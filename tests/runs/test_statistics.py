import itertools
import math

import numpy as np
import pytest
import scipy.stats

from nissl.runs.statistics import bootstrap_interval, sign_flip_p, smallest_p, t_interval, t_quantile


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 5, 9, 10, 29, 100])
@pytest.mark.parametrize("level", [0.5, 0.9, 0.95, 0.99])
def test_t_quantiles_equal_scipys(degrees: int, level: float) -> None:
    assert t_quantile(level, degrees) == pytest.approx(scipy.stats.t.ppf((1 + level) / 2, degrees), rel=1e-9)


def test_the_t_interval_of_one_two_three_is_the_textbooks() -> None:
    # mean 2, standard deviation 1, t(0.975; 2) = 4.302653
    low, high = t_interval(np.array([1.0, 2.0, 3.0]))
    assert (low, high) == pytest.approx((2 - 4.302653 / math.sqrt(3), 2 + 4.302653 / math.sqrt(3)), abs=1e-6)


def test_the_bootstrap_of_two_values_spans_them() -> None:
    # four resamples: (a a) (a b) (b a) (b b), a quarter each at the ends
    assert bootstrap_interval(np.array([1.0, 3.0])) == (1.0, 3.0)
    assert bootstrap_interval(np.array([1.0, 3.0]), level=0.4) == (2.0, 2.0)


def test_the_enumerated_bootstrap_equals_all_resamples_written_out() -> None:
    values = np.array([0.3, 1.0, 2.5, 7.0])
    means = np.sort([np.mean(drawn) for drawn in itertools.product(values, repeat=4)])
    low, high = bootstrap_interval(values, level=0.9)
    # the smallest mean that at least 5 % (95 %) of the 256 resamples do not exceed
    assert low == pytest.approx(means[math.ceil(0.05 * 256) - 1])
    assert high == pytest.approx(means[math.ceil(0.95 * 256) - 1])


def test_the_bootstrap_of_many_values_is_near_the_normal_interval_and_repeats() -> None:
    values = np.random.default_rng(1).normal(size=200)
    low, high = bootstrap_interval(values)
    half = 1.96 * values.std(ddof=1) / math.sqrt(200)
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.02)
    assert bootstrap_interval(values) == (low, high)


def test_one_value_has_no_interval() -> None:
    assert all(math.isnan(end) for end in (*t_interval(np.array([1.0])), *bootstrap_interval(np.array([1.0]))))


def test_the_sign_flip_test_counts_sign_patterns() -> None:
    assert sign_flip_p(np.array([1.0, 2.0, 3.0])) == 2 / 8  # only +++ and --- are as far out
    assert sign_flip_p(np.array([1.0, 2.0, -3.0])) == 1.0
    # |sum| = 6 of at most 8: all equal signs, or the 1 flipped: 4 of 16
    assert sign_flip_p(np.array([-1.0, 2.0, 2.0, 3.0])) == 4 / 16
    assert sign_flip_p(np.zeros(3)) == 1.0
    assert math.isnan(sign_flip_p(np.array([])))


def test_the_sign_flip_test_equals_scipys_permutation_test() -> None:
    differences = np.random.default_rng(3).normal(0.4, 1, size=9)
    expected = scipy.stats.permutation_test(
        (differences,), np.mean, permutation_type="samples", n_resamples=np.inf, alternative="two-sided"
    )
    assert sign_flip_p(differences) == pytest.approx(expected.pvalue, abs=1e-12)


def test_unit_and_sign_of_the_differences_do_not_matter() -> None:
    differences = np.array([0.1, 0.2, 0.3, -0.05])
    assert sign_flip_p(differences) == sign_flip_p(-1000 * differences)


def test_many_pairs_are_tested_by_random_patterns() -> None:
    rng = np.random.default_rng(0)
    assert sign_flip_p(rng.normal(2, 1, size=30)) < 0.001
    assert sign_flip_p(rng.normal(0, 1, size=30)) > 0.05


def test_five_pairs_cannot_go_below_a_sixteenth() -> None:
    assert smallest_p(5) == 0.0625 == sign_flip_p(np.ones(5))
    assert smallest_p(1) == 1.0 and math.isnan(smallest_p(0))
