import math

import pytest
import torch

from nissl.flood_fill.movement import face_maxima, freeze_background, grid_cell, logit, shell_offsets, window


def test_the_logit_of_nine_tenths_is_2_1972():
    assert logit(0.9) == pytest.approx(2.1972, abs=1e-4)
    assert logit(0.5) == 0
    with pytest.raises(ValueError, match="strictly between 0 and 1"):
        logit(1.0)


def test_a_window_is_centred_for_odd_sizes():
    image = torch.arange(7 * 9 * 11).reshape(7, 9, 11)
    part = image[window((3, 4, 5), (3, 5, 7))]
    assert part.shape == (3, 5, 7) and part[1, 2, 3] == image[3, 4, 5]


def test_one_ring_has_26_neighbours_and_nearest_come_first():
    offsets = shell_offsets((4, 8, 8))
    assert len(set(offsets)) == 26 and (0, 0, 0) not in offsets
    assert {o for o in offsets[:6]} == {(4, 0, 0), (-4, 0, 0), (0, 8, 0), (0, -8, 0), (0, 0, 8), (0, 0, -8)}
    assert len(shell_offsets((4, 4, 4), rings=2)) == 5**3 - 1
    assert len(shell_offsets((0, 8, 8))) == 8
    assert shell_offsets((4, 4, 4), rings=0) == []


def test_face_maxima_are_sorted_and_below_threshold_left_out():
    logits = torch.full((9, 9, 9), -5.0)
    logits[4, 4, 6] = 3.0  # +x face
    logits[2, 5, 4] = 4.0  # -z face
    logits[4, 6, 4] = 0.4  # +y face, too weak
    logits[4, 4, 4] = 9.0  # no face
    logits[0, 4, 4] = 9.0  # outside the box of +-2
    assert face_maxima(logits, (2, 2, 2), 0.5) == [(4.0, (-2, 1, 0)), (3.0, (0, 0, 2))]


def test_a_corner_that_wins_on_three_faces_is_one_move():
    logits = torch.zeros(9, 9, 9)
    logits[6, 6, 6] = 5.0
    assert face_maxima(logits, (2, 2, 2), 1.0) == [(5.0, (2, 2, 2))]


def test_an_axis_without_delta_is_not_moved_along():
    logits = torch.full((5, 9, 9), 3.0)
    moves = face_maxima(logits, (0, 2, 2), 1.0)
    assert moves and all(offset[0] == 0 for _, offset in moves)


def test_a_threshold_is_reached_at_equality():
    logits = torch.full((5, 5, 5), logit(0.9))
    assert len(face_maxima(logits, (1, 1, 1), float(logits[0, 0, 0]))) > 0


def test_grid_cells_are_as_wide_as_the_deltas():
    start = (10, 20, 30)
    assert grid_cell(start, start, (4, 8, 8)) == (0, 0, 0)
    assert grid_cell((11, 23, 33), start, (4, 8, 8)) == (0, 0, 0)
    assert grid_cell((12, 24, 26), start, (4, 8, 8)) == (1, 1, 0)
    assert grid_cell((7, 15, 25), start, (4, 8, 8)) == (-1, -1, -1)


def test_visited_background_cannot_rise_but_a_fresh_voxel_can():
    old = torch.tensor([-1.0, math.nan, 1.0, -1.0]).reshape(1, 1, 4)
    new = torch.tensor([2.0, 2.0, 3.0, -2.0]).reshape(1, 1, 4)
    frozen = freeze_background(old, new, threshold=0.5, share=0.0)
    assert frozen.flatten().tolist() == [-1.0, 2.0, 3.0, -2.0]


def test_freezing_is_off_when_negative_or_when_the_object_fills_too_little():
    old, new = torch.full((1, 1, 4), -1.0), torch.tensor([2.0, 2.0, -3.0, -3.0]).reshape(1, 1, 4)
    assert torch.equal(freeze_background(old, new, 0.5, share=-1.0), new)
    assert torch.equal(freeze_background(old, new, 0.5, share=0.5), new)
    assert not torch.equal(freeze_background(old, new, 0.5, share=0.4), new)
