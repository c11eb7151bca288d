import dataclasses

import numpy as np
import pytest
from flood_fill.test_segmenter import BrightIsInside, segmenter
from scipy import ndimage

from nissl.flood_fill.masks import ShiftMask, blocked_by_shift, downsampled
from nissl.simulate.em import Obstacles, simulate_scene
from nissl.volumes.irregularities import write_movement_mask


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


# Planted obstacles, flooded by a network that grows through whatever is bright: nothing but masks can stop it.
BRIGHT = {
    "voxel_size_zyx_nm": (20.0, 20.0, 20.0),
    "seed": 3,
    "num_neurites": 12,
    "radius_nm": (80.0, 160.0),
    "branch_every_nm": 4000.0,
    "noise": 2.0,
    "blur_nm": 5.0,
}


def flooded(scene, **changed):
    volume = dataclasses.replace(scene.volume, mean=135.0, std=35.0)
    return segmenter(reflect_border=True, **changed).segment(BrightIsInside(), [volume])[0].ids


def test_a_planted_blood_vessel_is_crossed_without_its_mask_and_not_with_it(tmp_path):
    scene = simulate_scene((44, 36, 56), obstacles=Obstacles(vessel_radius_nm=200.0), **(BRIGHT | {"num_neurites": 40}))
    lumen = ndimage.binary_erosion(scene.vessel, iterations=5)  # farther in than half a field of view reaches
    assert lumen.sum() > 500
    write_movement_mask(tmp_path / "vessel.h5", scene.vessel, (20.0, 20.0, 20.0))
    without, masked = flooded(scene), flooded(scene, movement_mask=[str(tmp_path / "vessel.h5")])
    leaking = set(np.unique(without[lumen])) & set(np.unique(without[~scene.vessel])) - {0}
    assert (without[lumen] > 0).mean() > 0.9 and leaking  # a neurite and the vessel are one segment
    assert not masked[lumen].any() and (masked[~scene.vessel] > 0).mean() > 0.2  # tissue around it is flooded


def test_a_planted_misalignment_is_crossed_without_its_mask_and_not_with_it():
    jump = 16
    scene = simulate_scene((32, 56, 56), obstacles=Obstacles(misalignments=((jump, 6, -5),)), **BRIGHT)
    mask = ShiftMask(patch=32, step=8, max_shift=8, threshold=4, reach_zyx=None)

    def crossing(ids):
        return (set(np.unique(ids[:jump])) & set(np.unique(ids[jump:]))) - {0}

    without, masked = flooded(scene), flooded(scene, shift_mask=mask)
    assert crossing(without) and not crossing(masked)
    assert len(np.unique(masked)) > 2 and (masked > 0).mean() > 0.5 * (without > 0).mean()


def test_a_missing_section_is_a_jump_on_both_of_its_sides():
    rng = np.random.default_rng(0)
    image = ndimage.gaussian_filter(rng.normal(size=(12, 40, 40)), (6, 2, 2)).astype(np.float32)
    image[6] = 0.0
    blocked = ShiftMask(patch=24, step=8, max_shift=4, threshold=3, reach_zyx=[2, 0, 0]).of(image, (9, 9, 9))
    assert np.flatnonzero(blocked.all(axis=(1, 2))).tolist() == [4, 5, 6, 7, 8]
