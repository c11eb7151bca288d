import numpy as np

from nissl.flood_fill.probability import dequantise, quantise


def test_probabilities_come_back_within_half_a_step():
    probability = np.random.default_rng(0).random(10_000)
    probability[:2] = 0, 1
    assert np.abs(dequantise(quantise(probability)) - probability).max() <= 1 / 254
    assert quantise(np.array([0.05, 0.5, 0.95])).tolist() == [13, 128, 242]  # as google/ffn stores them


def test_a_voxel_never_visited_stays_unknown():
    values = quantise(np.array([np.nan, 0.0]))
    assert values.tolist() == [0, 1] and np.isnan(dequantise(values)).tolist() == [True, False]
