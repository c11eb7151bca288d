import numpy as np
import pytest

from nissl.datasets.em_augment import (
    Affine,
    Augment,
    Elastic,
    Grayscale,
    Misalignment,
    Missing,
    OutOfFocus,
    Rotation,
    Scan,
    read_window,
)

VOLUME = np.random.default_rng(0).normal(size=(5, 5, 5)).astype(np.float32)
SCAN = Scan((20.0, 9.0, 9.0), 128.0, 33.0)

# Every step at full strength, and the same with ranges of zero.
STRONG = {
    "rotation": Rotation(1.0, 180.0, True),
    "affine": Affine(1.0, 0.5, 10.0, 0.1, 0.1, False),
    "elastic": Elastic(1.0, 0.3, 0.1, False),
    "misalignment": Misalignment(1.0, 3, 0.5),
    "missing": Missing(1.0, 0.2, None),
    "out_of_focus": OutOfFocus(1.0, 0.4, 3.0),
    "grayscale": Grayscale(1.0, 0.5, 0.5, True),
}
NOTHING = {
    "rotation": Rotation(1.0, 0.0, False),
    "affine": Affine(1.0, 0.5, 0.0, 0.0, 0.0, False),
    "elastic": Elastic(1.0, 0.3, 0.0, False),
    "misalignment": Misalignment(1.0, 0, 0.5),
    "out_of_focus": OutOfFocus(1.0, 0.4, 0.0),
    "grayscale": Grayscale(1.0, 0.0, 0.0, False),
}
GEOMETRIC = ("rotation", "affine", "elastic", "misalignment")


def ids(shape=(9, 24, 24)):
    """Blocks of different ids, that are far enough apart to survive interpolation."""
    coarse = np.arange(1, 28).reshape(3, 3, 3)
    return np.kron(coarse, np.ones([size // 3 for size in shape], int)).astype(np.int32)


def grey(shape=(9, 24, 24)):
    return np.clip(np.random.default_rng(1).normal(size=shape), -3, 3).astype(np.float32)


def windows(augment, image, maps, size):
    """Patch, maps and the size to ask for, with the margin that the augmentation wants."""
    margin = augment.margin_zyx(size, SCAN.voxel_size_zyx_nm)
    start = (np.asarray(image.shape) - size) // 2 - margin
    return [read_window(array, start, np.add(size, np.multiply(2, margin))) for array in (image, *maps)]


def apply(augment, image, maps, seed, size):
    image, *maps = windows(augment, image, maps, size)
    return augment(image, maps, np.random.default_rng(seed), size, SCAN)


def test_image_and_label_are_turned_alike():
    augment = Augment([0, 1, 2], [0, 1, 2], contrast=0.0, brightness=0.0)
    turned = set()
    for seed in range(100):
        image, (label,) = augment(VOLUME, [VOLUME], np.random.default_rng(seed))
        assert np.array_equal(image, label)
        turned.add(image.tobytes())
    assert len(turned) > 35  # of the 48 symmetries of a cube


def test_only_named_axes_are_exchanged_and_mirrored():
    augment = Augment([1, 2], [2], contrast=0.0, brightness=0.0)
    for seed in range(20):
        image, _ = augment(VOLUME, [], np.random.default_rng(seed))
        for z in range(5):
            assert np.array_equal(np.sort(image[z].ravel()), np.sort(VOLUME[z].ravel()))


def test_nothing_changes_when_nothing_is_asked_and_the_input_never_does():
    before = VOLUME.copy()
    image, (label,) = Augment([], [], 0.0, 0.0)(VOLUME, [VOLUME], np.random.default_rng(0))
    assert np.array_equal(image, VOLUME) and np.array_equal(label, VOLUME)
    image, labels = grey(), ids()
    Augment([1, 2], [0, 1, 2], 0.5, 0.5, **STRONG)(image, [labels], np.random.default_rng(0), (9, 16, 16), SCAN)
    assert np.array_equal(image, grey()) and np.array_equal(labels, ids()) and np.array_equal(VOLUME, before)


@pytest.mark.parametrize("name", NOTHING)
def test_a_step_whose_ranges_are_zero_is_the_identity(name):
    image, labels = grey(), ids()
    new, (same,) = apply(Augment([], [], 0.0, 0.0, **{name: NOTHING[name]}), image, [labels], 0, (9, 24, 24))
    assert np.allclose(new, image, atol=1e-5) and np.array_equal(same, labels)


@pytest.mark.parametrize("name", STRONG)
def test_a_step_changes_the_image_and_its_seed_decides_how(name):
    augment = Augment([], [], 0.0, 0.0, **{name: STRONG[name]})
    results = [apply(augment, grey(), [ids()], seed, (7, 16, 16)) for seed in range(4) for _ in range(2)]
    images = [image for image, _ in results]
    assert all(np.array_equal(a, b) for a, b in zip(images[::2], images[1::2], strict=True))
    assert len({image.tobytes() for image in images}) > 1
    assert all(image.shape == (7, 16, 16) and image.dtype == np.float32 for image in images)


@pytest.mark.parametrize("name", GEOMETRIC)
def test_image_and_labels_are_deformed_alike(name):
    """The image is the label map: away from borders, where the image is interpolated, they must still agree."""
    augment = Augment([1, 2], [0, 1, 2], 0.0, 0.0, **{name: STRONG[name]})
    labels = ids((9, 48, 48))
    for seed in range(4):
        image, (moved,) = apply(augment, labels.astype(np.float32), [labels], seed, (9, 30, 30))
        assert (np.abs(image - moved) < 1e-3).mean() > 0.6
        assert np.corrcoef(image.ravel(), moved.ravel())[0, 1] > 0.93
        assert set(np.unique(moved)) <= set(range(1, 28))  # ids are never mixed


@pytest.mark.parametrize("name", ["affine", "elastic"])
def test_labels_stay_where_only_the_image_is_deformed(name):
    step = {"affine": Affine(1.0, 0.5, 10.0, 0.1, 0.1, True), "elastic": Elastic(1.0, 0.3, 0.1, True)}[name]
    image, (labels,) = apply(Augment([], [], 0.0, 0.0, **{name: step}), grey(), [ids()], 0, (9, 24, 24))
    assert np.array_equal(labels, ids()) and not np.allclose(image, grey())


def test_faults_of_the_image_leave_the_labels():
    steps = {name: STRONG[name] for name in ("missing", "out_of_focus", "grayscale")}
    _, (labels,) = apply(Augment([], [], 0.0, 0.0, **steps), grey(), [ids()], 3, (9, 24, 24))
    assert np.array_equal(labels, ids())


def test_the_voxel_an_example_was_drawn_for_stays_in_its_middle():
    labels = np.zeros((9, 48, 48), np.int32)
    labels[4, 22:27, 22:27] = 7
    augment = Augment([1, 2], [0, 1, 2], 0.0, 0.0, rotation=STRONG["rotation"], misalignment=STRONG["misalignment"])
    image = grey((9, 48, 48))
    for seed in range(10):
        margin = augment.margin_zyx((5, 17, 17), SCAN.voxel_size_zyx_nm)
        start = np.array([4, 24, 24]) - np.array([5, 17, 17]) // 2 - margin
        size = np.add((5, 17, 17), np.multiply(2, margin))
        maps = [read_window(labels, start, size)]
        _, (moved,) = augment(read_window(image, start, size), maps, np.random.default_rng(seed), (5, 17, 17), SCAN)
        assert moved[2, 8, 8] == 7


def test_contrast_and_brightness_are_linear_and_leave_the_label():
    image, (label,) = Augment([], [], 0.3, 0.4)(VOLUME, [VOLUME], np.random.default_rng(0))
    factor, shift = np.polyfit(VOLUME.ravel(), image.ravel(), 1)
    assert 0.7 <= factor <= 1.3 and -0.4 <= shift <= 0.4 and not np.allclose(image, VOLUME)
    assert np.array_equal(label, VOLUME)


def test_a_step_of_probability_zero_takes_no_random_number():
    off = {name: type(step)(**(vars(step) | {"p": 0.0})) for name, step in STRONG.items()}
    one = Augment([0, 1, 2], [0, 1, 2], 0.2, 0.2)(VOLUME, [VOLUME], np.random.default_rng(5))
    two = Augment([0, 1, 2], [0, 1, 2], 0.2, 0.2, **off)(VOLUME, [VOLUME], np.random.default_rng(5))
    assert np.array_equal(one[0], two[0]) and np.array_equal(one[1][0], two[1][0])


def test_a_window_beyond_the_volume_is_mirrored():
    line = np.arange(4)[None, None]
    assert read_window(line, np.array([0, 0, -2]), (1, 1, 8)).ravel().tolist() == [1, 0, 0, 1, 2, 3, 3, 2]
    with pytest.raises(ValueError, match="lies outside the volume"):
        read_window(line, np.array([0, 0, 9]), (1, 1, 2))


def test_impossible_settings_are_refused():
    with pytest.raises(ValueError, match="permutable_axes"):
        Augment([0, 3], [], 0.0, 0.0)
    with pytest.raises(ValueError, match="contrast must be"):
        Augment([], [], 1.5, 0.0)
    with pytest.raises(ValueError, match="p of Elastic is a probability"):
        Elastic(1.5, 0.1, 0.1, True)
    with pytest.raises(ValueError, match="sigma_max of OutOfFocus must not be negative"):
        OutOfFocus(0.5, 0.1, -1.0)
