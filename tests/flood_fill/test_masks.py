import numpy as np
import pytest

from nissl.flood_fill.masks import blocked_by_shift, downsampled


def test_a_jump_blocks_positions_whose_box_holds_both_sides_of_it():
    shift = np.zeros((2, 12, 3, 3))
    shift[0, 6] = 5.0  # section 6 lies 5 voxels off section 5
    blocked = blocked_by_shift(shift, (12, 12, 12), 4, 4.0, (2, 1, 1))
    assert np.flatnonzero(blocked[:, 6, 6]).tolist() == [4, 5, 6, 7]  # 4 + 2 reaches 6, 7 - 2 reaches 5


def test_a_jump_blocks_only_where_it_is_and_only_from_its_threshold_on():
    shift = np.full((2, 12, 3, 3), np.nan)  # unknown everywhere else
    shift[1, 6, 0, 0] = -3.9
    assert not blocked_by_shift(shift, (12, 12, 12), 4, 4.0, (2, 1, 1)).any()
    shift[1, 6, 0, 0] = -4.0
    blocked = blocked_by_shift(shift, (12, 12, 12), 4, 4.0, (2, 1, 1))
    assert np.argwhere(blocked[5]).max(axis=0).tolist() == [4, 4]  # 4 voxels of the grid cell, and a reach of 1


def test_a_grid_that_ends_before_the_volume_is_continued():
    shift = np.zeros((2, 4, 2, 2))
    shift[0, 2, 1, 1] = 9.0
    assert blocked_by_shift(shift, (4, 11, 11), 4, 4.0, (1, 0, 0))[2, 10, 10]


def test_a_shift_field_of_another_volume_is_refused():
    with pytest.raises(ValueError, match="needs shape"):
        blocked_by_shift(np.zeros((2, 5, 2, 2)), (4, 8, 8), 4, 4.0, (1, 1, 1))


def test_a_coarse_voxel_is_forbidden_if_any_of_its_voxels_is():
    mask = np.zeros((4, 4, 4), bool)
    mask[3, 0, 2] = True
    assert np.argwhere(downsampled(mask, (2, 2, 2))).tolist() == [[1, 0, 1]]
    assert downsampled(mask, (1, 1, 1)) is mask
