"""Activation patterns against planted signals, by hand and beside plain means."""

import numpy as np

from nissl.evaluators import map_activation as activation
from nissl.evaluators import map_baselines as baseline

LABELS = np.array([[1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 0, 1]], dtype=float)  # two cells alone, both, none
PATTERN = np.repeat(np.arange(4), 50)


def planted(noise: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (200, 6) as sums of two cells' pictures on a background, and the pictures."""
    rng = np.random.default_rng(0)
    pictures = rng.random((2, 6))
    pixels = 5 + LABELS[PATTERN, :2] @ pictures + noise * rng.standard_normal((200, 6))
    return pixels, pictures


def test_pictures_that_add_up_come_back_exactly() -> None:
    pixels, pictures = planted()
    moments = activation.measure_moments(LABELS[PATTERN], pixels)
    maps = activation.activation_maps(moments, LABELS, True)
    assert np.allclose(maps, LABELS[:, :2] @ pictures)
    assert np.array_equal(maps[3], np.zeros(6))


def test_a_filter_is_not_the_pattern_that_its_answers_give_back() -> None:
    """Haufe's example: a channel that only holds noise gets a weight, and no activation."""
    rng = np.random.default_rng(1)
    signal, noise = rng.random(2000), rng.standard_normal(2000)
    pixels = np.column_stack([signal + noise, noise])
    answer = pixels @ [1.0, -1.0]
    assert np.allclose(answer, signal)
    pattern = activation.regress_pixels(activation.measure_moments(answer[:, None], pixels), np.array([0]))[0]
    assert abs(pattern[0] - 1) < 0.2 and abs(pattern[1]) < 0.2


def test_moments_of_batches_add_up() -> None:
    pixels, _ = planted(0.1)
    whole = activation.measure_moments(LABELS[PATTERN], pixels)
    parts = activation.measure_moments(LABELS[PATTERN[:70]], pixels[:70]) + activation.measure_moments(
        LABELS[PATTERN[70:]], pixels[70:]
    )
    assert np.allclose(whole.gram, parts.gram) and np.allclose(whole.cross, parts.cross)


def test_a_signal_that_never_differs_from_another_gives_finite_maps() -> None:
    pixels, _ = planted(0.1)
    twice = LABELS[PATTERN][:, [0, 0, 2]]
    maps = activation.activation_maps(activation.measure_moments(twice, pixels), LABELS, True)
    assert np.isfinite(maps).all() and np.abs(maps).max() < 10


def test_a_reconstruction_keeps_what_hidden_units_carry() -> None:
    pixels, pictures = planted(0.2)
    hidden = LABELS[PATTERN, :2]  # units that know the two cells and nothing else
    maps = activation.reconstructed_maps(hidden, pixels, PATTERN, 4, 1e-9)
    told = activation.activation_maps(activation.measure_moments(LABELS[PATTERN], pixels), LABELS, True)
    assert np.allclose(maps, told, atol=1e-6)


def test_equal_confidence_gives_the_evoked_map_and_failures_weigh_nothing() -> None:
    pixels, _ = planted(0.3)
    mean = activation.mean_by_pattern(pixels, PATTERN, 4)
    equal = activation.weighted_evoked_maps(np.full(200, 0.4), pixels, PATTERN, 4)
    assert np.allclose(equal, mean - mean[3])
    confidence = np.ones(200)
    confidence[:10] = 0
    weighted = activation.weighted_evoked_maps(confidence, pixels, PATTERN, 4)
    assert np.allclose(weighted[0], pixels[10:50].mean(axis=0) - mean[3])


def test_a_pattern_without_a_frame_is_undefined() -> None:
    assert np.isnan(activation.mean_by_pattern(np.ones((2, 3)), np.array([0, 2]), 4)[[1, 3]]).all()


def test_a_linear_decoder_finds_separable_cells() -> None:
    rng = np.random.default_rng(2)
    pixels = LABELS[PATTERN] @ np.eye(3, 5) + 0.05 * rng.standard_normal((200, 5))
    weights, offset = baseline.decode_linearly(pixels, LABELS[PATTERN], 0.01)
    assert baseline.lenient_accuracy(pixels @ weights + offset, LABELS[PATTERN]) > 0.99
    maps = baseline.linear_maps(weights, pixels, PATTERN, LABELS)
    assert maps[0].argmax() == 0 and maps[1].argmax() == 1


def test_influence_is_the_move_in_idle_deviations() -> None:
    rng = np.random.default_rng(3)
    traces = rng.standard_normal((200, 2))
    traces[:50, 1] += 4  # cell 1 alone moves cell 2
    found = baseline.influence_between_cells(traces, PATTERN, LABELS[:, :2])
    idle = traces[150:]
    expected = (traces[:50, 1].mean() - idle[:, 1].mean()) / idle[:, 1].std()
    assert np.isclose(found[0, 1], expected) and abs(found[1, 0]) < 1
    assert np.isnan(np.diag(found)).all()


def test_cells_that_move_the_same_others_are_alike() -> None:
    influence = np.array([[np.nan, 0, 1, 2, 3], [0, np.nan, 1, 2, 3], [0, 3, np.nan, 1, 0], [1, 0, 2, np.nan, 1],
                          [2, 2, 0, 1, np.nan]], dtype=float)  # fmt: skip
    similar = baseline.influence_similarity(influence)
    assert similar[0, 1] == 1 and np.isnan(np.diag(similar)).all()


def test_discs_average_what_lies_inside() -> None:
    weights = baseline.disc_weights((5, 5), np.array([[2.0, 2.0]]), np.array([1.0]))
    assert weights.sum() == 1 and np.count_nonzero(weights) == 5
