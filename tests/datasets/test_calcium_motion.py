"""Known shifts are found and undone."""

import numpy as np
from scipy import ndimage

from nissl.datasets.calcium_io import ArrayMovie
from nissl.datasets.calcium_motion import RegisteredMovie, correlate_moved, find_shifts, move, register


def scene(seed: int = 0) -> np.ndarray:
    return ndimage.gaussian_filter(np.random.default_rng(seed).random((60, 56)), 1.5)


def moved(shifts: np.ndarray, noise: float = 0.0) -> np.ndarray:
    """Windows of one scene, so that real content enters at the borders."""
    big = ndimage.gaussian_filter(np.random.default_rng(1).random((90, 90)), 1.5) * 1000
    frames = np.stack([ndimage.shift(big, shift, order=3)[15:-15, 17:-17] for shift in shifts])
    return frames + noise * np.random.default_rng(2).standard_normal(frames.shape)


def test_whole_shifts_are_found_exactly_and_parts_to_a_fifth_of_a_pixel() -> None:
    shifts = np.array([[0, 0], [3, -2], [-5, 4], [0.5, 0.25], [-1.3, 2.6]])
    found = find_shifts(moved(shifts), moved(np.zeros((1, 2)))[0])
    assert np.abs(found[:3] + shifts[:3]).max() < 0.1
    assert np.abs(found + shifts).max() < 0.2


def test_a_registered_movie_holds_still() -> None:
    rng = np.random.default_rng(3)
    shifts = rng.uniform(-3, 3, size=(40, 2))
    frames = moved(shifts, noise=5.0)
    movie = register(ArrayMovie(frames.astype(np.float32), "moved"), np.arange(40))
    steady = movie.read(np.arange(40))[:, 6:-6, 6:-6]
    assert movie.shape == frames.shape and movie.dtype == np.float32
    left = movie.shifts_px + shifts
    assert np.std(left, axis=0).max() < 0.25
    assert steady.std(axis=0).mean() < 0.5 * frames[:, 6:-6, 6:-6].std(axis=0).mean()
    assert np.array_equal(movie.read([7]), movie.read([3, 7])[1:])


def test_one_more_shift_moves_a_registered_movie_once() -> None:
    frames = moved(np.zeros((3, 2))).astype(np.float32)
    shifts = np.array([[1.0, 0], [0, 1], [2, 2]])
    twice = move(RegisteredMovie(ArrayMovie(frames, "still"), shifts), np.array([1.0, -1.0]))
    assert np.array_equal(twice.shifts_px, shifts + [1, -1]) and not isinstance(twice.stored, RegisteredMovie)


def test_moved_images_correlate_where_both_were_seen() -> None:
    template, image = moved(np.array([[0, 0], [3, -2]]))
    assert correlate_moved(image, template, np.array([-3.0, 2.0])) > 0.99
    assert correlate_moved(image, template, np.array([0.0, 0.0])) < 0.5
    assert correlate_moved(image, template, np.array([29.6, 0.0])) == 0, "nothing is left to compare"
