"""Permutation and bootstrap of activation patterns against plain loops."""

import numpy as np

from nissl.evaluators.map_activation import TrialMoments, activation_maps
from nissl.evaluators.map_day_patterns import bootstrap_pattern_change, level_of, permute_pattern_trials
from nissl.evaluators.trial_resampling import statistic_weights, statistics

CELLS = [("1",), ("2",), ("3",), ("1", "2"), ("1", "3"), ("2", "3")]
OUTPUTS = ("1", "2", "3", "none")
LABELS = np.array([[float(o in (own or ("none",))) for o in OUTPUTS] for own in [*CELLS, ()]])
NAMED = statistic_weights(CELLS)
WEIGHTS = np.stack(list(NAMED.values()))


def session(seed: int, common: float = 0.0, trials: int = 6) -> TrialMoments:
    """Trials of two stimulated frames and one idle frame; `common` times one picture is in every cell's."""
    rng = np.random.default_rng(seed)
    shared, *pictures = np.random.default_rng(9).standard_normal((4, 20))
    pictures = np.array(pictures) + common * shared
    shown = np.repeat(np.arange(6), trials)
    gram, cross = np.zeros((len(shown), 5, 5)), np.zeros((len(shown), 5, 20))
    for r, p in enumerate(shown):
        for row in (p, p, 6):
            signals = np.append(LABELS[row], 1.0)
            pixels = LABELS[row, :3] @ pictures + rng.standard_normal(20)
            gram[r] += np.outer(signals, signals)
            cross[r] += np.outer(signals, pixels)
    return TrialMoments(gram, cross, shown)


def test_levels_are_those_of_the_maps_of_the_whole_day() -> None:
    day = session(0)
    maps = activation_maps(day.total(), LABELS, True)[:-1]
    assert np.allclose(level_of(day, LABELS, WEIGHTS), statistics(maps[None], WEIGHTS)[0], atol=1e-6)


def test_what_all_cells_have_in_common_on_one_day_is_found_and_chance_is_not() -> None:
    sum_at = list(NAMED).index("zncc_sum")
    found = permute_pattern_trials(session(0), session(1, common=1.5), LABELS, WEIGHTS, 99, 0)
    assert found.p[sum_at] == 0.01
    ps = [permute_pattern_trials(session(i), session(50 + i), LABELS, WEIGHTS, 39, 0).p[sum_at] for i in range(12)]
    assert sum(p < 0.05 for p in ps) <= 2 and np.mean(ps) > 0.25


def test_a_day_against_itself_gives_p_one_and_the_same_seed_the_same_draws() -> None:
    day = session(0)
    same = permute_pattern_trials(day, day, LABELS, WEIGHTS, 19, 0)
    assert np.allclose(same.change, 0) and (same.p == 1).all()
    again = permute_pattern_trials(day, session(1), LABELS, WEIGHTS, 5, 3).drawn
    assert np.array_equal(again, permute_pattern_trials(day, session(1), LABELS, WEIGHTS, 5, 3).drawn)


def test_the_bootstrap_lies_around_the_change() -> None:
    before, after = session(0), session(1, common=1.0)
    change = level_of(after, LABELS, WEIGHTS) - level_of(before, LABELS, WEIGHTS)
    drawn = bootstrap_pattern_change([before], [after], LABELS, WEIGHTS, 200, 0, joint=True)
    low, high = np.percentile(drawn[:, 0], [2.5, 97.5])
    assert low < change[0] < high and low > 0
