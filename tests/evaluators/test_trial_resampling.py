"""Trials resampled between and within days, against enumeration and plain loops."""

from itertools import combinations
from time import process_time

import numpy as np
import pytest

from nissl.evaluators.trial_resampling import (
    TrialRows,
    bootstrap_change,
    change_between,
    jackknife_error,
    make_trial_rows,
    match_counts,
    percentile_interval,
    permute_trials,
    statistic_weights,
    statistics,
)
from nissl.evaluators.zncc import summarise_matrix, zncc_matrix

CELLS = [("1",), ("2",), ("3",), ("1", "2"), ("2", "3"), ()]


def simulate(seed: int, trials: int, common: float = 0.0, cells: list = CELLS, size: int = 40) -> TrialRows:
    """A day whose maps share an image of strength `common`."""
    rng = np.random.default_rng(seed)
    pattern = np.repeat(np.arange(len(cells)), trials)
    shared = np.random.default_rng(99).normal(size=size)
    own = np.random.default_rng(98).normal(size=(len(cells), size))
    return TrialRows(own[pattern] + common * shared + rng.normal(size=(len(pattern), size)), pattern)


def stacked(cells: list = CELLS) -> np.ndarray:
    return np.stack(list(statistic_weights(cells).values()))


def test_statistics_equal_the_summary_of_the_matrix() -> None:
    maps = simulate(0, 3).maps()
    weights = statistic_weights(CELLS)
    summary = summarise_matrix(zncc_matrix(maps), CELLS)
    names = {"zncc_sum": "sum", "mean_offdiag": "mean_offdiag", "disjoint": "disjoint_mean", "share": "share_mean"}
    values = dict(zip(weights, statistics(maps[None], np.stack(list(weights.values())))[0], strict=True))
    for ours, theirs in (names | {"none": "none_mean", "singles": "singles_mean"}).items():
        assert values[ours] == pytest.approx(summary[theirs], abs=1e-12)
    assert "same" not in weights


def test_a_constant_map_leaves_statistics_undefined() -> None:
    maps = np.ones((1, 6, 9))
    assert np.isnan(statistics(maps, stacked())).all()


def test_permutation_draws_are_divisions_of_the_pooled_trials() -> None:
    cells = [("1",), ("2",)]
    before, after = simulate(1, 2, cells=cells), simulate(2, 2, cells=cells)
    pools = [np.concatenate(both) for both in zip(before.by_pattern(), after.by_pattern(), strict=True)]
    possible = []
    for first in combinations(range(4), 2):
        for second in combinations(range(4), 2):
            a = np.stack([pools[0][list(first)].sum(0), pools[1][list(second)].sum(0)])
            b = np.stack([pools[0].sum(0), pools[1].sum(0)]) - a
            possible.append(zncc_matrix(b)[0, 1] - zncc_matrix(a)[0, 1])
    outcome = permute_trials(before, after, stacked(cells)[1:2], draws=600, seed=0)
    gaps = np.abs(outcome.drawn - np.array(possible)[None]).min(axis=1)
    exact = np.mean(np.abs(possible) >= abs(outcome.change[0]) - 1e-9)
    assert gaps.max() < 1e-12
    assert outcome.p[0] == pytest.approx(exact, abs=0.06)


def test_a_common_image_on_one_day_is_found_and_its_sign_follows_the_order() -> None:
    before, after = simulate(1, 8), simulate(2, 8, common=1.0)
    outcome = permute_trials(before, after, stacked(), draws=199, seed=0)
    reverse = permute_trials(after, before, stacked(), draws=199, seed=0)
    assert outcome.p[0] == 1 / 200 and outcome.change[0] > 0
    assert np.allclose(outcome.change, -reverse.change)


def test_p_is_uniform_when_days_are_alike() -> None:
    p = [permute_trials(simulate(s, 4), simulate(1000 + s, 4), stacked()[:1], 39, s).p[0] for s in range(100)]
    assert 0.35 < np.mean(p) < 0.65
    assert np.mean(np.array(p) <= 0.1) <= 0.2


def test_identical_days_give_p_one() -> None:
    day = simulate(3, 4)
    assert np.all(permute_trials(day, day, stacked(), 50, 0).p == 1)


def test_the_same_seed_gives_the_same_draws() -> None:
    before, after = simulate(1, 4), simulate(2, 4)
    first, second = (permute_trials(before, after, stacked(), 40, 7).drawn for _ in range(2))
    assert np.array_equal(first, second)


def test_the_bootstrap_interval_agrees_with_the_jackknife() -> None:
    before, after = simulate(1, 30), simulate(2, 30, common=0.7)
    weights = stacked()[1:2]
    drawn = bootstrap_change([before], [after], weights, 300, 0, joint=False)
    error = np.hypot(jackknife_error(before, weights), jackknife_error(after, weights))
    assert drawn.std() == pytest.approx(error[0], rel=0.25)
    low, high = percentile_interval(drawn)[:, 0]
    assert low < change_between(before, after, weights)[0] < high


def test_seeds_widen_the_bootstrap() -> None:
    seeds = [simulate(1, 20, common=c) for c in (0.0, 1.0, 2.0)]
    alone = bootstrap_change(seeds[:1], seeds[:1], stacked(), 100, 0, joint=False).std(axis=0)
    several = bootstrap_change(seeds, seeds, stacked(), 100, 0, joint=False).std(axis=0)
    assert several[0] > 2 * alone[0]
    with pytest.raises(ValueError, match="both days for each seed; came 3 and 1"):
        bootstrap_change(seeds, seeds[:1], stacked(), 10, 0, joint=True)


def test_one_trial_has_no_jackknife() -> None:
    assert np.isnan(jackknife_error(simulate(0, 1), stacked())).all()


def test_matching_trials_removes_what_more_trials_add() -> None:
    short, long = simulate(1, 3, common=1.0), simulate(2, 40, common=1.0)
    weights = stacked()[1:2]
    plain = change_between(short, long, weights)[0]
    before, after = match_counts(short, long, weights, repeats=30, seed=0)
    assert plain > 0.03
    assert abs(after[0] - before[0]) < plain / 2


def test_rows_weigh_by_frames_or_by_trials() -> None:
    sums, counts, pattern = np.array([[2.0, 4], [9, 9], [6, 6]]), np.array([2, 0, 3]), np.array([0, 0, 0])
    assert make_trial_rows(sums, counts, pattern, ["1"], "frame").maps().tolist() == [[8, 10]]
    assert make_trial_rows(sums, counts, pattern, ["1"], "trial").maps().tolist() == [[3, 4]]
    with pytest.raises(ValueError, match="no usable trial for 1 pattern.*: 2"):
        make_trial_rows(sums, counts, pattern, ["1", "2"], "frame")
    with pytest.raises(ValueError, match="weight='pixel' is unknown"):
        make_trial_rows(sums, counts, pattern, ["1"], "pixel")


def test_five_thousand_draws_of_109_patterns_fit_ten_seconds() -> None:
    singles = [(str(i),) for i in range(8)]
    cells = [c for c in singles + list(combinations("01234567", 2)) for _ in range(3)] + [()]
    before, after = simulate(1, 10, cells=cells, size=256), simulate(2, 10, cells=cells, size=256)
    start = process_time()
    permute_trials(before, after, stacked(cells), draws=200, seed=0)
    assert (process_time() - start) * 25 < 15  # bound of 10 on a quiet machine; here with room for a busy one


def test_no_draw_is_refused() -> None:
    with pytest.raises(ValueError, match="draws=0"):
        permute_trials(simulate(0, 2), simulate(1, 2), stacked(), 0, 0)
