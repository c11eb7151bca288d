import numpy as np
import pytest
from scipy import ndimage

from nissl.flood_fill.seeds import (
    SEED_POLICIES,
    Scene,
    local_maxima,
    peaks,
    policy_named,
    reversed_origins,
)
from nissl.simulate.em import simulate_volume


@pytest.fixture(scope="module")
def scene():
    volume = simulate_volume((40, 48, 48), (20.0, 20.0, 20.0), 3, 30, (60.0, 160.0), 1200.0, 6.0, 14.0)
    return Scene(volume.network_image(), volume.voxel_size_zyx_nm), volume


def test_maxima_stand_apart_and_above_the_threshold():
    values = np.zeros((20, 20, 20))
    values[8, 8, 8], values[8, 8, 10], values[14, 14, 14], values[1, 10, 10] = 5, 4, 3, 9
    assert local_maxima(values, 3, 0).tolist() == [[8, 8, 8], [14, 14, 14]]  # 4 is too near 5, 9 too near the border
    assert local_maxima(values, 3, 3).tolist() == [[8, 8, 8]]


def test_seeds_lie_mostly_inside_neurites_and_are_the_same_twice(scene):
    image, volume = scene
    found = peaks(image)
    assert len(found) > 10 and np.array_equal(found, peaks(image))
    assert np.array_equal(found, found[np.lexsort(found.T[::-1])])
    inside = ndimage.minimum_filter(volume.labels, 3) == ndimage.maximum_filter(volume.labels, 3)  # of membranes
    assert inside[tuple(found.T)].mean() > inside.mean()


def test_a_constant_image_has_seeds_only_where_nothing_is_an_edge():
    assert peaks(Scene(np.zeros((20, 20, 20), np.float32), (10.0, 10.0, 10.0))).shape[1] == 3


@pytest.mark.parametrize("name", sorted(SEED_POLICIES))
def test_every_policy_gives_positions_in_the_volume_and_minus_turns_them_round(scene, name):
    found = policy_named(name)(scene[0])
    assert found.ndim == 2 and found.shape[1] == 3 and len(found) > 0
    assert found.min() >= 0 and (found < scene[0].image.shape).all()
    assert np.array_equal(policy_named(f"-{name}")(scene[0]), found[::-1])


@pytest.mark.parametrize("name", ["peaks", "section_peaks", "fill_empty", "image_peaks", "brightest", "dense"])
def test_no_seed_lies_in_a_segment_or_a_mask(scene, name):
    segmentation = np.zeros(scene[0].image.shape, np.int32)
    segmentation[:20] = 3
    forbidden = np.zeros(segmentation.shape, bool)
    forbidden[:, :24] = True
    found = policy_named(name)(Scene(scene[0].image, scene[0].voxel_size_zyx_nm, segmentation, forbidden))
    assert len(found) and found[:, 0].min() >= 20 and found[:, 1].min() >= 24


def test_fill_empty_finds_the_middle_of_each_hole():
    segmentation = np.ones((20, 20, 40), np.int32)
    segmentation[6:13, 6:13, 6:13] = 0
    segmentation[7:12, 7:12, 27:32] = 0
    found = policy_named("fill_empty")(Scene(np.zeros(segmentation.shape), (10.0, 10.0, 10.0), segmentation))
    assert found.tolist() == [[9, 9, 9], [9, 9, 29]]


def test_a_grid_is_filled_from_coarse_to_fine():
    found = policy_named("grid")(Scene(np.zeros((20, 20, 20)), (10.0, 10.0, 10.0)))
    assert found[:2].tolist() == [[0, 0, 0], [0, 0, 16]] and found[8].tolist() == [8, 8, 8]
    assert len(np.unique(found, axis=0)) == len(found)


def test_the_last_origin_becomes_the_first_seed():
    assert reversed_origins([(1, 2, 3), (4, 5, 6)]).tolist() == [[4, 5, 6], [1, 2, 3]]


def test_an_unknown_policy_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="seed_policy must be one of.*'peaks'"):
        policy_named("everywhere")
