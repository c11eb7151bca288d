import numpy as np
import pytest

from nissl.datasets.em_augment import Augment

VOLUME = np.random.default_rng(0).normal(size=(5, 5, 5)).astype(np.float32)


def test_image_and_label_are_turned_alike():
    augment = Augment([0, 1, 2], [0, 1, 2], contrast=0.0, brightness=0.0)
    turned = set()
    for seed in range(100):
        image, label = augment(VOLUME, VOLUME, np.random.default_rng(seed))
        assert np.array_equal(image, label)
        turned.add(image.tobytes())
    assert len(turned) > 35  # of the 48 symmetries of a cube


def test_only_named_axes_are_exchanged_and_mirrored():
    augment = Augment([1, 2], [2], contrast=0.0, brightness=0.0)
    for seed in range(20):
        image, _ = augment(VOLUME, VOLUME, np.random.default_rng(seed))
        for z in range(5):
            assert np.array_equal(np.sort(image[z].ravel()), np.sort(VOLUME[z].ravel()))


def test_nothing_changes_when_nothing_is_asked_and_the_input_never_does():
    before = VOLUME.copy()
    image, label = Augment([], [], 0.0, 0.0)(VOLUME, VOLUME, np.random.default_rng(0))
    assert np.array_equal(image, VOLUME) and np.array_equal(label, VOLUME)
    Augment([0, 1, 2], [0, 1, 2], 0.5, 0.5)(VOLUME, VOLUME, np.random.default_rng(0))
    assert np.array_equal(VOLUME, before)


def test_contrast_and_brightness_are_linear_and_leave_the_label():
    image, label = Augment([], [], 0.3, 0.4)(VOLUME, VOLUME, np.random.default_rng(0))
    factor, shift = np.polyfit(VOLUME.ravel(), image.ravel(), 1)
    assert 0.7 <= factor <= 1.3 and -0.4 <= shift <= 0.4 and not np.allclose(image, VOLUME)
    assert np.array_equal(label, VOLUME)


def test_impossible_settings_are_refused():
    with pytest.raises(ValueError, match="permutable_axes"):
        Augment([0, 3], [], 0.0, 0.0)
    with pytest.raises(ValueError, match="contrast must be"):
        Augment([], [], 1.5, 0.0)
