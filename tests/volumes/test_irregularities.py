import h5py
import numpy as np
import pytest
from scipy import ndimage

from nissl.volumes.irregularities import jump_mask, missing_sections, patch_shift, shift_field, write_movement_mask


def sections(jumps, shape=(6, 64, 80), noise=0.1):
    """Textured sections that change slowly along z and lie beside their place from each jump on."""
    rng = np.random.default_rng(0)
    texture = ndimage.gaussian_filter(rng.normal(size=(shape[0], shape[1] + 40, shape[2] + 40)), (4, 2, 2))
    texture /= texture.std()
    out, shift = [], np.zeros(2)
    for z in range(shape[0]):
        shift = shift + jumps.get(z, (0, 0))
        # Moved to +shift: what was at p is now at p + shift.
        moved = ndimage.shift(texture[z], shift, order=3, mode="nearest")
        out.append(moved[20:-20, 20:-20])
    return np.array(out) + noise * rng.normal(size=shape)


@pytest.mark.parametrize("shift", [(0, 0), (5, -3), (-7, 7), (2.5, -1.25)])
def test_a_shift_is_found_within_half_a_voxel(shift):
    """Acceptance test (p), first half."""
    pair = sections({1: shift}, (2, 64, 64))
    dy, dx, peak, ratio = patch_shift(pair[0], pair[1], 10)
    assert (dy, dx) == pytest.approx(shift, abs=0.5) and peak > 0.5 and ratio > 1.05


def test_the_correlation_is_that_of_numpy():
    before, after = sections({1: (2, 3)}, (2, 40, 40))
    dy, dx, peak, _ = patch_shift(before, after, 6)
    inner = before[6:-6, 6:-6].ravel()
    window = after[6 + 2 : 40 - 6 + 2, 6 + 3 : 40 - 6 + 3].ravel()
    assert (round(dy), round(dx)) == (2, 3) and peak == pytest.approx(np.corrcoef(inner, window)[0, 1], abs=1e-6)


def test_only_the_planted_jump_is_in_the_field_and_only_its_two_sections_in_the_mask():
    """Acceptance test (p), second half."""
    raw = sections({3: (6, -4)})
    field = shift_field(raw, patch=40, step=16, max_shift=10)
    assert field.shape == (2, 6, 4, 5)
    assert np.allclose(field[:, 3].reshape(2, -1).T, (6, -4), atol=0.5)
    others = field[:, [0, 1, 2, 4, 5]]
    assert np.nanmax(np.abs(others)) < 0.5
    mask = jump_mask(field, raw.shape, 16, threshold=4)
    assert mask.shape == raw.shape and mask[2:4].all() and not mask[[0, 1, 4, 5]].any()
    assert not jump_mask(field, raw.shape, 16, threshold=7).any()


def test_a_jump_of_a_part_of_a_section_is_found_there_only():
    raw = sections({})
    raw[3:, :, 40:] = sections({3: (6, 0)})[3:, :, 40:]
    mask = jump_mask(shift_field(raw, 32, 16, 8), raw.shape, 16, 4)
    assert mask[2:4, :, 64:].all() and not mask[:, :, :16].any()


def test_where_nothing_is_known_the_nearest_known_place_decides():
    field = np.zeros((2, 2, 1, 4), np.float32)
    field[:, 1, 0] = [[9, np.nan, np.nan, 0], [0, np.nan, np.nan, 0]]
    assert jump_mask(field, (2, 2, 8), 2, 4)[1, 0].tolist() == [True] * 4 + [False] * 4
    field[:, 1] = np.nan
    assert not jump_mask(field, (2, 2, 8), 2, 4).any()


def test_slow_drift_can_be_taken_off():
    raw = sections({z: (2.5, 0) for z in range(1, 6)})
    assert np.nanmedian(shift_field(raw, 40, 16, 8)[0, 1:]) == pytest.approx(2.5, abs=0.3)
    assert np.nanmax(np.abs(shift_field(raw, 40, 16, 8, drift_window=3)[:, 1:])) < 0.5


def test_noise_has_no_shift():
    raw = np.random.default_rng(0).normal(size=(3, 48, 48))
    assert np.isnan(shift_field(raw, 32, 16, 8)[:, 1:]).mean() > 0.8


def test_a_missing_section_is_found():
    raw = sections({}, (6, 32, 32))
    raw[4] = 0.3
    assert missing_sections(raw).tolist() == [False] * 4 + [True, False]
    assert np.isnan(shift_field(raw, 24, 16, 4)[:, 4:]).all()  # a flat section fits nothing


def test_a_mask_is_written_as_the_segmenter_reads_it(tmp_path):
    mask = np.zeros((2, 3, 4), bool)
    mask[1, 2, 3] = True
    write_movement_mask(tmp_path / "m.h5", mask, (20.0, 9.0, 9.0))
    with h5py.File(tmp_path / "m.h5") as file:
        assert np.array_equal(file["movement_mask"][:], mask) and list(file["movement_mask"].attrs["resolution_nm"])
    with pytest.raises(ValueError, match="bool"):
        write_movement_mask(tmp_path / "m.h5", mask.astype(int), (1.0, 1.0, 1.0))


def test_patches_that_cannot_be_compared_are_refused():
    with pytest.raises(ValueError, match="more than twice max_shift"):
        shift_field(np.zeros((2, 50, 50)), 16, 8, 8)
    with pytest.raises(ValueError, match="smaller than a patch"):
        shift_field(np.zeros((2, 20, 20)), 32, 8, 8)
