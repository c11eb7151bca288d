from types import SimpleNamespace

import numpy as np
import pytest

from nissl.evaluators.persistence import NUM_BINS, persistence_bars, persistence_images


def test_a_y_has_two_bars() -> None:
    # A stem of 10 that forks into arms of 5 and 8.
    parent, height = np.array([-1, 0, 1, 1]), np.array([0.0, 10.0, 15.0, 18.0])
    assert persistence_bars(parent, height).tolist() == [[18.0, 0.0], [15.0, 10.0]]


def test_at_a_fork_of_three_the_farthest_lives_on() -> None:
    parent, height = np.array([-1, 0, 1, 1, 1]), np.array([0.0, 1.0, 4.0, 2.0, 3.0])
    assert persistence_bars(parent, height).tolist() == [[4.0, 0.0], [3.0, 1.0], [2.0, 1.0]]


def test_every_tip_is_one_bar_and_the_bars_of_path_lengths_add_up_to_the_cable() -> None:
    rng = np.random.default_rng(0)
    parent = np.array([-1] + [int(rng.integers(0, i)) for i in range(1, 80)])
    edge, height = rng.random(80), np.zeros(80)
    for i in range(1, 80):
        height[i] = height[parent[i]] + edge[i]
    bars = persistence_bars(parent, height)
    assert len(bars) == 80 - len(np.unique(parent[1:]))
    assert (bars[:, 0] - bars[:, 1]).sum() == pytest.approx(edge[1:].sum())


def test_pictures_do_not_change_with_a_rotation_but_with_the_tree() -> None:
    rng = np.random.default_rng(0)
    pos, parent = rng.normal(size=(30, 3)), np.array([-1] + [int(rng.integers(0, i)) for i in range(1, 30)])
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    chain = SimpleNamespace(pos=pos, parent=np.arange(30) - 1)
    one, turned, other = persistence_images(
        [SimpleNamespace(pos=pos, parent=parent), SimpleNamespace(pos=pos @ turn, parent=parent), chain]
    )
    assert one.shape == (2 * NUM_BINS**2,)
    np.testing.assert_allclose(one, turned, atol=1e-9)
    assert np.abs(one - other).max() > 0.1
