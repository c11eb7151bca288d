"""Masks, normalisation and the variation of training frames."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nissl.datasets.calcium_io import ArrayMovie
from nissl.datasets.calcium_pixels import (
    check_movie,
    discs,
    field_of_view,
    fit_normalisation,
    mask_from_file,
    read_rows,
    resize_frames,
    vary_brightness,
)

RNG = np.random.default_rng(0)
FRAMES = RNG.normal(50, 10, size=(40, 8, 8)).astype(np.float32)
INSIDE = np.pad(np.ones((6, 6), dtype=bool), 1)


def test_resizing_averages_areas() -> None:
    frames = np.arange(16).reshape(1, 4, 4).astype(np.uint16)
    assert resize_frames(frames, (2, 2)).tolist() == [[[2.5, 4.5], [10.5, 12.5]]]


def test_rows_of_several_recordings_come_in_order() -> None:
    movies = [ArrayMovie(FRAMES, "a"), ArrayMovie(FRAMES + 100, "b")]
    read = read_rows(movies, np.array([1, 0, 1]), np.array([3, 2, 1]), None)
    assert np.array_equal(read, np.stack([FRAMES[3] + 100, FRAMES[2], FRAMES[1] + 100]))


def test_global_normalisation_gives_mean_0_and_deviation_1_inside_the_mask() -> None:
    fitted = fit_normalisation("global", [ArrayMovie(FRAMES, "a")], np.zeros(40, int), np.arange(40), None, INSIDE)
    values = fitted(FRAMES, np.zeros(40, int))[:, INSIDE]
    assert values.mean() == pytest.approx(0, abs=1e-5) and values.std() == pytest.approx(1, rel=1e-5)


def test_normalisation_is_measured_on_the_given_frames_alone() -> None:
    held_out = FRAMES.copy()
    held_out[20:] += 1e4
    pair = [
        fit_normalisation("global", [ArrayMovie(f, "a")], np.zeros(20, int), np.arange(20), None, INSIDE)
        for f in (FRAMES, held_out)
    ]
    assert np.array_equal(pair[0].shift, pair[1].shift) and np.array_equal(pair[0].scale, pair[1].scale)


def test_normalisation_by_recording_removes_their_difference() -> None:
    movies = [ArrayMovie(FRAMES, "a"), ArrayMovie(3 * FRAMES + 7, "b")]
    rows = np.repeat([0, 1], 40), np.tile(np.arange(40), 2)
    fitted = fit_normalisation("recording", movies, *rows, None, INSIDE)
    one, other = fitted(FRAMES, np.zeros(40, int)), fitted(3 * FRAMES + 7, np.ones(40, int))
    assert np.allclose(one, other, atol=1e-4)


def test_dff_is_the_change_over_the_resting_level() -> None:
    frames = np.full((30, 8, 8), 100.0, dtype=np.float32)
    frames[25:] = 150.0
    frames[:, 0, 0] *= 4
    fitted = fit_normalisation("dff", [ArrayMovie(frames, "a")], np.zeros(30, int), np.arange(30), None, INSIDE)
    out = fitted(frames, np.zeros(30, int))
    assert np.all(out[:25] == 0) and np.allclose(out[25:], out[25, 0, 0])


def test_dff_of_a_dark_movie_is_refused() -> None:
    with pytest.raises(ValueError, match="dF/F needs a positive resting level"):
        movie = ArrayMovie(FRAMES - 60, "a")
        fit_normalisation("dff", [movie], np.zeros(40, int), np.arange(40), None, INSIDE)


def test_a_recording_without_training_frames_cannot_be_normalised_by_itself() -> None:
    movies = [ArrayMovie(FRAMES, "a"), ArrayMovie(FRAMES, "b")]
    with pytest.raises(ValueError, match="recording 1 has no training frames"):
        fit_normalisation("recording", movies, np.zeros(40, int), np.arange(40), None, INSIDE)


def test_variation_changes_mean_and_deviation_as_drawn() -> None:
    frames = np.repeat(FRAMES[:1], 4000, axis=0)
    varied = vary_brightness(frames, INSIDE, (0.7, 1.3), 0.2, range(4000))[:, INSIDE]
    deviation, mean = FRAMES[0][INSIDE].std(), FRAMES[0][INSIDE].mean()
    a, b = varied.std(axis=1) / deviation, (varied.mean(axis=1) - mean) / deviation
    assert a.min() == pytest.approx(0.7, abs=0.01) and a.max() == pytest.approx(1.3, abs=0.01)
    assert a.mean() == pytest.approx(1.0, abs=0.01) and b.mean() == pytest.approx(0.0, abs=0.01)
    assert b.min() == pytest.approx(-0.2, abs=0.01) and b.max() == pytest.approx(0.2, abs=0.01)
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.05


def test_variation_depends_on_the_seed_of_the_frame_alone() -> None:
    whole = vary_brightness(FRAMES[:3], INSIDE, (0.7, 1.3), 0.2, [7, 8, 9])
    alone = vary_brightness(FRAMES[1:2], INSIDE, (0.7, 1.3), 0.2, [8])
    assert np.array_equal(whole[1], alone[0])


def test_the_field_of_view_leaves_out_border_and_dark_edge_but_not_dark_islands() -> None:
    mean = np.full((20, 20), 10.0)
    mean[2:5, 2:5] = 1.0  # a dark corner that joins the border
    mean[10:12, 10:12] = 1.0  # a vessel
    mask = field_of_view(mean, border_px=2, dark_share=0.1)
    assert not mask[:2].any() and not mask[3, 3] and mask[10, 10] and mask[5, 5]


def test_a_border_wider_than_the_field_is_refused() -> None:
    with pytest.raises(ValueError, match="border_px=10 leaves nothing"):
        field_of_view(np.ones((20, 20)), border_px=10, dark_share=0.0)


def test_a_mask_file_is_nonzero_inside(tmp_path: Path) -> None:
    Image.fromarray((INSIDE * 255).astype(np.uint8)).save(tmp_path / "m.png")
    np.save(tmp_path / "m.npy", INSIDE)
    for name in ("m.png", "m.npy"):
        assert np.array_equal(mask_from_file(tmp_path / name, (8, 8)), INSIDE)


def test_a_mask_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "m.npy", INSIDE)
    np.save(tmp_path / "zero.npy", np.zeros((8, 8)))
    with pytest.raises(ValueError, match=r"has shape \(8, 8\), but frames are \(9, 9\)"):
        mask_from_file(tmp_path / "m.npy", (9, 9))
    with pytest.raises(ValueError, match="is zero everywhere"):
        mask_from_file(tmp_path / "zero.npy", (8, 8))
    with pytest.raises(FileNotFoundError, match="Check dataset.mask_path"):
        mask_from_file(tmp_path / "none.png", (8, 8))


def test_discs_cover_what_is_near() -> None:
    covered = discs((9, 9), np.array([[4.0, 4.0]]), 1.0)
    assert covered.sum() == 5 and covered[3, 4] and not covered[3, 3]


def test_a_movie_with_nan_is_refused_by_frame() -> None:
    bad = FRAMES.copy()
    bad[13, 2, 2] = np.nan
    with pytest.raises(ValueError, match="has NaN or infinite values, first in frame 13"):
        check_movie(ArrayMovie(bad, "a"), "recording 'a'")


def test_a_constant_frame_is_refused() -> None:
    bad = FRAMES.copy()
    bad[7] = 3.0
    with pytest.raises(ValueError, match=r"frame 7 of a is constant \(3.0\)"):
        check_movie(ArrayMovie(bad, "a"), "a")


def test_saturated_movies_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    frames = np.random.default_rng(0).integers(0, 250, size=(8, 10, 10)).astype(np.uint8)
    check_movie(ArrayMovie(frames, "fine"), "fine")
    assert not caplog.records
    frames[:, :2] = 255
    check_movie(ArrayMovie(frames, "bright"), "bright")
    assert "20 % of the pixels are saturated (255)" in caplog.text
