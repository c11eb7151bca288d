import numpy as np
import pytest

from nissl.trees.bars import persistence_bars


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
