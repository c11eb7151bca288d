import numpy as np
import pytest

from nissl.volumes.annotated import AnnotatedVolume, block_mode
from nissl.volumes.boxes import Box
from nissl.volumes.skeletons import Skeletons

RAW = np.arange(5 * 6 * 8, dtype=np.uint8).reshape(5, 6, 8)


def volume(scale=(1, 1, 1), labels=None, skeletons=None):
    return AnnotatedVolume("v", RAW, (20.0, 10.0, 10.0), labels, skeletons, scale, mean=100.0, std=50.0)


def test_the_network_sees_block_means_normalised():
    image = volume(scale=(1, 2, 2)).network_image()
    assert image.shape == (5, 3, 4) and image.dtype == np.float32
    assert image[1, 2, 3] == pytest.approx((RAW[1, 4:6, 6:8].mean() - 100) / 50)


def test_each_block_takes_its_commonest_label_as_a_slow_loop_finds_it():
    labels = np.random.default_rng(0).integers(0, 4, (4, 6, 6))
    fast = block_mode(labels, (2, 3, 2))
    for z, y, x in np.ndindex(fast.shape):
        block = labels[2 * z : 2 * z + 2, 3 * y : 3 * y + 3, 2 * x : 2 * x + 2]
        assert fast[z, y, x] == np.bincount(block.ravel()).argmax()


def test_a_segmentation_at_half_resolution_returns_to_the_native_shape():
    half = np.arange(2 * 3 * 4).reshape(2, 3, 4)
    native = volume(scale=(2, 2, 2)).native(half)
    assert native.shape == RAW.shape
    assert np.array_equal(native[::2, ::2, ::2][:2], half) and np.array_equal(native[4], native[3])


def test_a_crop_moves_raw_labels_and_skeletons_together():
    nodes = np.array([[40.0, 30.0, 50.0], [40.0, 30.0, 60.0]])
    skeletons = Skeletons(nodes, np.array([[0, 1]]), np.array([3, 3]))
    part = volume(labels=RAW.astype(np.uint32), skeletons=skeletons).crop(Box((1, 2, 3), (4, 6, 8)))
    assert part.raw.shape == part.labels.shape == (3, 4, 5)
    assert part.skeletons.voxels_zyx(part.voxel_size_zyx_nm).tolist() == [[1, 1, 2], [1, 1, 3]]
    assert part.labels[1, 1, 2] == RAW[2, 3, 5]


def test_a_volume_without_labels_says_so():
    with pytest.raises(ValueError, match="has no labels. Set dataset.labels"):
        volume().network_labels()
