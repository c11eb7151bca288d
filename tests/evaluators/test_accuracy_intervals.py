import numpy as np
import pytest

from nissl.evaluators.accuracy_intervals import bootstrap_accuracy, paired_difference


def test_balanced_accuracy_is_the_mean_recall_by_hand() -> None:
    labels = np.array([0] * 6 + [1] * 2 + [2] * 2)
    correct = np.array([1] * 6 + [0] * 2 + [1, 0])
    score = bootstrap_accuracy(correct, labels, 200, seed=0)
    assert score.balanced_accuracy == pytest.approx(0.5) and score.accuracy == pytest.approx(0.7)
    assert score.accuracy_low <= 0.7 <= score.accuracy_high


def test_a_perfect_score_has_no_width() -> None:
    score = bootstrap_accuracy(np.ones(10), np.repeat([0, 1], 5), 100, seed=0)
    assert score.balanced_accuracy_low == score.balanced_accuracy_high == 1.0


@pytest.mark.slow
def test_the_interval_covers_a_known_proportion() -> None:
    rng, covered = np.random.default_rng(0), 0
    labels = np.repeat([0, 1], 60)
    for k in range(300):
        correct = rng.random(120) < 0.8
        score = bootstrap_accuracy(correct, labels, 400, seed=k)
        covered += score.balanced_accuracy_low <= 0.8 <= score.balanced_accuracy_high
    assert 0.90 < covered / 300 < 0.98


def test_a_method_differs_from_itself_by_exactly_0() -> None:
    rng = np.random.default_rng(0)
    correct, labels = (rng.random(50) < 0.6).astype(float), rng.integers(0, 3, 50)
    value, low, high, p = paired_difference(correct, correct, labels, 500, seed=0)
    assert value == low == high == 0.0 and p == 1.0


def test_a_clear_difference_is_found_on_the_same_cells() -> None:
    labels = np.repeat([0, 1], 50)
    a, b = np.ones(100), np.tile([1.0, 0.0], 50)
    value, low, high, p = paired_difference(a, b, labels, 2000, seed=0)
    assert value == pytest.approx(0.5) and 0.3 < low < high < 0.7 and p < 0.01
