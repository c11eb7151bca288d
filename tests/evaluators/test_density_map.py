from types import SimpleNamespace

import numpy as np

from nissl.evaluators.density_map import NUM_BINS, density_maps, shares


def straight(end: tuple[float, float, float]) -> SimpleNamespace:
    pos = np.linspace([0.0, 0.0, 0.0], end, 5)
    return SimpleNamespace(pos=pos, parent=np.arange(5) - 1)


def test_both_projections_and_the_profile_sum_to_the_length_of_the_cable() -> None:
    maps, profiles = density_maps([straight((0, 100, 0)), straight((30, -40, 0))])
    assert maps.shape == (2, 2 * NUM_BINS**2) and profiles.shape == (2, NUM_BINS)
    np.testing.assert_allclose(maps[:, : NUM_BINS**2].sum(axis=1), [100, 50], rtol=1e-6)
    np.testing.assert_allclose(maps[:, NUM_BINS**2 :].sum(axis=1), [100, 50], rtol=1e-6)
    np.testing.assert_allclose(profiles.sum(axis=1), [100, 50], rtol=1e-6)


def test_cable_above_the_soma_is_in_the_upper_half() -> None:
    _, profiles = density_maps([straight((0, 100, 0)), straight((0, -100, 0))])
    up, down = profiles
    assert up[NUM_BINS // 2 :].sum() > 0.9 * up.sum() and down[: NUM_BINS // 2].sum() > 0.9 * down.sum()


def test_cable_outside_the_grid_is_counted_at_its_border() -> None:
    cells = [straight((0, 10, 0)) for _ in range(200)] + [straight((0, 5000, 0))]
    _, profiles = density_maps(cells)
    assert profiles[-1].argmax() == NUM_BINS - 1
    np.testing.assert_allclose(profiles[-1].sum(), 5000, rtol=1e-6)


def test_shares_have_unit_length_and_do_not_see_size() -> None:
    maps = np.array([[1.0, 3.0], [10.0, 30.0]])
    np.testing.assert_allclose(shares(maps), [[0.5, np.sqrt(0.75)]] * 2)


def test_a_depth_that_is_not_centred_is_seen() -> None:
    shallow, deep = straight((10, 10, 10)), straight((10, 10, 10))
    deep.pos = deep.pos + [0.0, 50.0, 0.0]
    _, profiles = density_maps([shallow, deep])
    assert profiles[0].argmax() < NUM_BINS // 2 <= profiles[1].argmax()
