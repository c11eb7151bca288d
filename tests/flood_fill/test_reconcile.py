import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nissl.flood_fill.reconcile import Match, cut, reconcile

RULE = Match(1, 0.5, 0.9)


def renumbered(part, seed):
    """Local ids in random order, as an independent segmentation of the tile would give them."""
    known = np.unique(part[part > 0])
    table = np.zeros(int(part.max()) + 1, np.int32)
    table[known] = np.random.default_rng(seed).permutation(len(known)) + 1
    return table[part]


def is_bijection(a, b):
    pairs = np.unique(np.stack([a.ravel(), b.ravel()]), axis=1).T
    return all(len(set(column)) == len(pairs) for column in pairs.T.tolist())


@settings(deadline=None, max_examples=25)
@given(st.tuples(*[st.integers(9, 15)] * 3), st.tuples(*[st.integers(4, 8)] * 3), st.integers(0, 99), st.randoms())
def test_whatever_the_grid_and_the_order_objects_get_one_id_each(shape, core, seed, random):
    z, y, x = np.indices(shape)
    truth = 1 + (y // 4) * 5 + x // 4  # rods along z, which cross every face in z
    truth[(y + x) % 4 == 3] = 0
    truth *= np.random.default_rng(seed).random(truth.max() + 1)[truth] < 0.8
    tiles = cut(shape, core, (3, 3, 3), (1, 1, 1))
    assert sum(np.prod(tile.core.shape_zyx) for tile in tiles) == np.prod(shape)
    whole, _ = reconcile(tiles, [renumbered(truth[t.outer.slices], i) for i, t in enumerate(tiles)], RULE)
    assert is_bijection(whole, truth) and np.array_equal(whole > 0, truth > 0)
    order = list(range(len(tiles)))
    random.shuffle(order)
    parts = [renumbered(truth[tiles[i].outer.slices], i) for i in order]
    assert is_bijection(reconcile([tiles[i] for i in order], parts, RULE)[0], whole)


def two_tiles():
    tiles = cut((4, 4, 12), (4, 4, 6), (4, 4, 3), (0, 0, 1))
    assert [tile.outer.shape_zyx for tile in tiles] == [(4, 4, 9), (4, 4, 9)]
    return tiles


def test_two_overlapping_tiles_give_one_object_one_id():
    tiles = two_tiles()
    parts = [np.full((4, 4, 9), 7, np.int32), np.full((4, 4, 9), 3, np.int32)]
    whole, rows = reconcile(tiles, parts, RULE)
    assert len(np.unique(whole)) == 1 and whole.min() > 0
    assert rows == [
        {"first_tile": 0, "second_tile": 1, "first": 7, "second": 3, "shared": 64, "iou": 1.0, "containment": 1.0,
         "joined": True}
    ]  # fmt: skip


def test_a_merger_of_one_tile_does_not_spread_into_the_next():
    merged, apart = np.ones((4, 4, 9), np.int32), np.ones((4, 4, 9), np.int32)
    apart[:, 2:] = 2
    apart[:, 0] = 0  # so that one of the two is the better match
    whole, rows = reconcile(two_tiles(), [merged, apart], RULE)
    assert [row["joined"] for row in rows] == [False, True]
    right = whole[:, :, 6:]
    assert len(set(np.unique(right[:, 1])) & set(np.unique(right[:, 2:]))) == 0


def test_objects_that_disagree_on_the_seam_stay_apart():
    parts = [np.zeros((4, 4, 9), np.int32) for _ in range(2)]
    parts[0][:, :2], parts[1][:, 1:] = 1, 1  # one of four rows in common
    whole, rows = reconcile(two_tiles(), parts, RULE)
    assert not rows[0]["joined"] and rows[0]["iou"] == 0.25 and len(np.unique(whole)) == 3
    none, _ = reconcile(two_tiles(), parts, Match(10**6, 0.0, 0.0))
    assert len(np.unique(none)) == 3


def test_an_empty_tile_is_background_and_a_wrong_shape_is_refused():
    parts = [np.zeros((4, 4, 9), np.int32), np.full((4, 4, 9), 5, np.int32)]
    whole, rows = reconcile(two_tiles(), parts, RULE)
    assert rows == [] and not whole[:, :, :6].any() and len(np.unique(whole[:, :, 6:])) == 1
    with pytest.raises(ValueError, match="needs ids of that shape"):
        reconcile(two_tiles(), [parts[0], parts[1][:2]], RULE)


def test_tiles_are_compared_where_both_can_be_trusted():
    tiles = cut((12, 12, 30), (12, 12, 10), (4, 4, 4), (2, 2, 2))
    assert [tile.core.start_zyx[2] for tile in tiles] == [0, 10, 20]
    assert [(tile.trusted.start_zyx[2], tile.trusted.stop_zyx[2]) for tile in tiles] == [(0, 12), (8, 22), (18, 30)]
    assert all(tile.trusted.shape_zyx[:2] == (12, 12) for tile in tiles)
    assert not any(a == b for a, b in itertools.combinations(tiles, 2))
