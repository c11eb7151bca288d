import numpy as np
import pytest

from nissl.datasets.em_partitions import (
    IGNORE,
    BalancedCentres,
    box_sums,
    cached_partition_map,
    partition_map,
    value_map,
)


def full_volume_map(labels, radius, min_size, thresholds):
    """The reference's way: a box count over the whole volume for every object."""
    out = np.full(labels.shape, IGNORE, np.uint8)
    for z, y, x in np.ndindex(labels.shape):
        low = np.array([z, y, x]) - radius
        high = np.array([z, y, x]) + radius + 1
        if np.any(low < 0) or np.any(high > labels.shape):
            continue
        own = labels[z, y, x]
        if own == 0 or (labels == own).sum() < min_size:
            out[z, y, x] = 0
            continue
        box = labels[low[0] : high[0], low[1] : high[1], low[2] : high[2]]
        share = (box == own).mean()
        out[z, y, x] = 1 + sum(share >= t for t in thresholds)
    return out


def test_the_centre_of_a_cube_sees_27_of_27_and_its_corner_8_of_27():
    labels = np.zeros((9, 9, 9), int)
    labels[3:6, 3:6, 3:6] = 4
    sums = box_sums(labels == 4, (1, 1, 1))  # position (1, 1, 1) of the volume is (0, 0, 0) here
    assert sums[3, 3, 3] == 27 and sums[2, 2, 2] == 8
    partition = partition_map(labels, (1, 1, 1), min_size=1, thresholds=[8.5 / 27, 26.5 / 27])
    assert partition[4, 4, 4] == 3 and partition[3, 3, 3] == 1 and partition[2, 2, 2] == 0
    assert partition[0, 4, 4] == IGNORE


def test_the_map_from_object_boxes_equals_the_one_from_the_whole_volume():
    rng = np.random.default_rng(0)
    labels = np.repeat(np.repeat(np.repeat(rng.integers(0, 5, (3, 4, 4)), 3, 0), 3, 1), 3, 2)
    thresholds = [0.1, 0.3, 0.6]
    for radius in ((1, 1, 1), (1, 2, 3), (0, 1, 1)):
        fast = partition_map(labels, radius, 60, thresholds)
        assert np.array_equal(fast, full_volume_map(labels, np.array(radius), 60, thresholds))


def test_a_share_that_meets_a_threshold_is_in_the_class_above_it():
    labels = np.ones((3, 3, 3), int)
    assert partition_map(labels, (1, 1, 1), 1, [0.5, 1.0])[1, 1, 1] == 3


def test_a_volume_smaller_than_the_box_has_no_centre():
    assert (partition_map(np.ones((3, 9, 9), int), (2, 2, 2), 1) == IGNORE).all()
    with pytest.raises(ValueError, match="no voxel can be the centre"):
        BalancedCentres([np.full((3, 3, 3), IGNORE, np.uint8)])


def test_classes_are_drawn_equally_often_and_voxels_within_one_too():
    rare, common = np.full((4, 4, 4), IGNORE, np.uint8), np.full((6, 6, 6), 2, np.uint8)
    rare[1, 2, 3] = 9
    rare[2] = 2
    centres = BalancedCentres([rare, common])
    rng = np.random.default_rng(0)
    draws = [centres.draw(rng) for _ in range(4000)]
    of_rare = sum(volume == 0 and tuple(place) == (1, 2, 3) for volume, place in draws)
    assert of_rare == pytest.approx(2000, abs=150)
    of_first_volume = sum(volume == 0 and place[0] == 2 for volume, place in draws)
    assert of_first_volume == pytest.approx(2000 * 16 / (16 + 216), abs=60)


def test_the_same_seed_draws_the_same_centres():
    centres = BalancedCentres([np.random.default_rng(1).integers(0, 4, (5, 5, 5)).astype(np.uint8)])
    one, two = ([centres.draw(np.random.default_rng(7))[1].tolist() for _ in range(3)] for _ in range(2))
    assert one == two


def test_a_rare_class_is_repeated_and_every_class_comes_equally_often():
    partition = np.full((10, 10, 10), 3, np.uint8)
    partition[0, 0, :2], partition[1] = 7, 5
    centres = BalancedCentres([partition])
    rng = np.random.default_rng(0)
    drawn = np.bincount([partition[tuple(centres.draw(rng)[1])] for _ in range(3000)])
    assert drawn[[3, 5, 7]] == pytest.approx([1000, 1000, 1000], abs=110)


def test_classes_can_be_weighted():
    partition = np.zeros((4, 4, 4), np.uint8)
    partition[0] = 2
    centres = BalancedCentres([partition], [1.0, 3.0])
    rng = np.random.default_rng(0)
    assert np.mean([partition[tuple(centres.draw(rng)[1])] == 2 for _ in range(2000)]) == pytest.approx(0.75, abs=0.04)
    with pytest.raises(ValueError, match="one weight, 0 or more, for each"):
        BalancedCentres([partition], [1.0])


def test_a_map_is_kept_by_content_and_read_back(tmp_path, caplog):
    labels = np.repeat(np.random.default_rng(0).integers(0, 3, (9, 9, 3)), 3, axis=2)
    expected = partition_map(labels, (1, 1, 1), 5)
    for _ in range(2):
        assert np.array_equal(cached_partition_map(labels, (1, 1, 1), 5, tmp_path / "new"), expected)
    (file,) = (tmp_path / "new").iterdir()
    cached_partition_map(labels, (1, 1, 2), 5, tmp_path / "new")
    cached_partition_map(labels + 1, (1, 1, 1), 5, tmp_path / "new")
    assert len(list((tmp_path / "new").iterdir())) == 3
    file.write_bytes(file.read_bytes()[:50])
    assert np.array_equal(cached_partition_map(labels, (1, 1, 1), 5, tmp_path / "new"), expected)
    assert "is damaged" in caplog.text


def test_what_is_in_the_cache_is_what_is_used(tmp_path):
    """A second call must not compute: here the file says something else."""
    labels = np.ones((5, 5, 5), int)
    cached_partition_map(labels, (1, 1, 1), 1, tmp_path)
    (file,) = tmp_path.iterdir()
    np.savez_compressed(file, partition=np.full((5, 5, 5), 42, np.uint8))
    assert (cached_partition_map(labels, (1, 1, 1), 1, tmp_path) == 42).all()


def test_classes_of_values_are_their_ranks_and_ids_are_refused():
    values = np.array([0, 159, 255])[np.random.default_rng(0).integers(0, 3, (5, 5, 5))]
    classes = value_map(values, (1, 0, 0))
    assert (classes[0] == IGNORE).all() and np.array_equal(classes[2], np.searchsorted([0, 159, 255], values[2]))
    with pytest.raises(ValueError, match="300 different labels are ids"):
        value_map(np.arange(300).reshape(3, 10, 10), (0, 0, 0))
