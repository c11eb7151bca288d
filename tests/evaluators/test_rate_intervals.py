"""Intervals of rates."""

import numpy as np
import pytest
from scipy import stats

from nissl.evaluators.rate_intervals import permute_days, trial_bootstrap_interval, wilson_interval


def test_wilson_of_eight_in_ten_is_the_published_example() -> None:
    assert wilson_interval(8, 10, z=1.96) == pytest.approx((0.4902, 0.9433), abs=5e-5)


def test_wilson_of_nothing_is_undefined() -> None:
    assert np.isnan(wilson_interval(0, 0)).all()


def test_wilson_stays_inside_0_and_1() -> None:
    assert wilson_interval(0, 5)[0] == pytest.approx(0, abs=1e-12) and wilson_interval(5, 5)[1] == pytest.approx(1)


def test_frames_of_one_trial_do_not_count_as_independent() -> None:
    rng = np.random.default_rng(0)
    hit = np.repeat(rng.random(30) < 0.7, 20).astype(float)  # all frames of a trial right, or none
    trial, single = np.repeat(np.arange(30), 20), np.arange(600)
    by_trial = trial_bootstrap_interval(hit, trial, np.zeros(600), 2000, 0)
    by_frame = trial_bootstrap_interval(hit, single, np.zeros(600), 2000, 0)
    assert np.ptp(by_trial) > 3 * np.ptp(by_frame)
    assert np.ptp(by_trial) == pytest.approx(2 * 1.96 * np.sqrt(hit.mean() * (1 - hit.mean()) / 30), rel=0.1)


def test_strata_keep_their_size() -> None:
    # Each stratum is certain: drawn within strata, nothing varies.
    hit, stratum = np.array([1.0, 1, 0, 0]), np.array([0, 0, 1, 1])
    assert trial_bootstrap_interval(hit, np.arange(4), stratum, 500, 0) == (0.5, 0.5)


def test_the_same_seed_gives_the_same_interval() -> None:
    hit = np.random.default_rng(1).random(50).round()
    args = (hit, np.arange(50), np.zeros(50), 100)
    assert trial_bootstrap_interval(*args, 3) == trial_bootstrap_interval(*args, 3)


def test_days_with_all_right_and_all_wrong_differ_and_equal_days_do_not() -> None:
    trial, stratum = np.repeat(np.arange(20), 3), np.repeat(np.arange(20) % 4, 3)
    right, wrong = np.ones(60), np.zeros(60)
    change, p = permute_days([right, wrong], [trial, trial], [stratum, stratum], draws=400, seed=0)
    assert change == -1 and p == pytest.approx(1 / 401)
    change, p = permute_days([right, right], [trial, trial], [stratum, stratum], draws=400, seed=0)
    assert change == 0 and p == 1


def test_a_change_in_one_long_trial_is_not_a_change_of_the_day() -> None:
    trial = np.array([0] * 50 + [1] * 10 + [2] * 10)
    hit = (trial > 0).astype(float)
    _, p = permute_days([np.ones(70), hit], [trial, trial], [np.zeros(70), np.zeros(70)], draws=500, seed=0)
    assert p > 0.3  # 50 frames are wrong, but they are one of three trials


def test_permuted_days_give_uniform_p_where_nothing_differs() -> None:
    rng = np.random.default_rng(0)
    trial, stratum = np.repeat(np.arange(40), 2), np.repeat(np.arange(40) % 5, 2)
    p = [
        permute_days(list(np.repeat(rng.random((2, 40)), 2, axis=1)), [trial] * 2, [stratum] * 2, 99, seed)[1]
        for seed in range(100)
    ]
    assert stats.kstest(p, "uniform").pvalue > 0.01
