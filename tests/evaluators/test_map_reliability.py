"""Split halves by hand, and against the known reliability of simulated maps."""

import numpy as np
import pytest

from nissl.evaluators.map_reliability import disattenuate, split_half_reliability
from nissl.evaluators.trial_resampling import TrialRows


def test_spearman_brown_by_hand() -> None:
    rows = np.array([[1.0, 2, 3, 4], [1, 3, 2, 4], [7, 7, 1, 0]])
    reliability = split_half_reliability(TrialRows(rows, np.array([0, 0, 1])))
    assert reliability[0] == pytest.approx(2 * 0.8 / 1.8)
    assert np.isnan(reliability[1])


def test_opposite_halves_are_minus_one_and_constant_halves_undefined() -> None:
    rows = np.array([[1.0, 2, 3], [3, 2, 1]])
    assert split_half_reliability(TrialRows(rows, np.array([0, 0])))[0] == pytest.approx(-1)
    assert np.isnan(split_half_reliability(TrialRows(np.ones((2, 3)), np.array([0, 0])))[0])


def test_reliability_is_the_share_of_signal_in_the_mean_map() -> None:
    rng = np.random.default_rng(0)
    signal = rng.normal(size=20_000)
    rows = signal + 2 * rng.normal(size=(8, 20_000))  # signal variance 1, noise of the mean 4 / 8
    assert split_half_reliability(TrialRows(rows, np.zeros(8, dtype=int)))[0] == pytest.approx(1 / 1.5, abs=0.02)


def test_correction_restores_the_correlation_that_noise_lowered() -> None:
    matrix = np.array([[1.0, 0.3, 0.2], [0.3, 1, 0.1], [0.2, 0.1, 1]])
    corrected = disattenuate(matrix, np.array([0.9, 0.4, -0.1]))
    assert corrected[0, 1] == pytest.approx(0.3 / 0.6)
    assert corrected[0, 0] == 1 and np.isnan(corrected[2]).all()
