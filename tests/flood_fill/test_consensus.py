import numpy as np
import pytest

from nissl.flood_fill.consensus import connected_parts, split_consensus


def test_the_two_by_two_table_of_two_segmentations():
    first = np.array([[[1, 1, 1, 1, 2, 2, 0, 0]]])
    second = np.array([[[5, 5, 5, 6, 6, 6, 6, 0]]])
    # (1,5) is the larger part of 1 and keeps its id, (1,6) is new, (2,6) keeps 2, (0,6) stays unassigned
    assert split_consensus(first, second, 1).tolist() == [[[1, 1, 1, 3, 2, 2, 0, 0]]]


def test_a_part_that_only_the_second_leaves_out_is_a_part():
    first, second = np.array([[[4, 4, 4, 4, 4]]]), np.array([[[0, 0, 0, 7, 7]]])
    assert split_consensus(first, second, 1).tolist() == [[[4, 4, 4, 5, 5]]]


def test_small_parts_become_unassigned_even_the_largest():
    first, second = np.array([[[1, 1, 1, 2, 2]]]), np.array([[[5, 5, 6, 6, 7]]])
    assert split_consensus(first, second, 2).tolist() == [[[1, 1, 0, 0, 0]]]


def test_in_a_tie_the_smaller_second_id_keeps_the_first():
    first, second = np.array([[[3, 3, 3, 3]]]), np.array([[[9, 9, 8, 8]]])
    assert split_consensus(first, second, 1).tolist() == [[[4, 4, 3, 3]]]


def test_agreement_changes_nothing_but_dust():
    ids = np.random.default_rng(0).integers(0, 4, (6, 7, 8))
    assert np.array_equal(split_consensus(ids, 10 * ids, 1), ids)
    assert not split_consensus(ids, ids, ids.size).any()


def test_different_shapes_are_refused():
    with pytest.raises(ValueError, match="came shapes"):
        split_consensus(np.zeros((2, 2, 2), int), np.zeros((2, 2, 3), int), 1)


def test_parts_that_do_not_touch_become_segments_of_their_own():
    ids = np.array([[[1, 1, 0, 1, 0, 1, 1, 1, 2]]])
    # the largest part keeps 1; of the others one is dust
    assert connected_parts(ids, 2).tolist() == [[[3, 3, 0, 0, 0, 1, 1, 1, 0]]]
    assert connected_parts(ids, 1).tolist() == [[[3, 3, 0, 4, 0, 1, 1, 1, 2]]]
