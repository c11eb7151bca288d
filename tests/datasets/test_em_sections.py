import numpy as np
import pytest

from nissl.datasets import em_deform, em_sections


def rng(seed=0):
    return np.random.default_rng(seed)


def test_the_first_section_is_never_affected_and_at_least_one_is():
    for seed in range(20):
        found = em_sections.affected_sections(10, 0.05, rng(seed))
        assert len(found) == 1 and 1 <= found[0] <= 9
    assert len(em_sections.affected_sections(10, 0.5, rng())) == 5
    assert len(em_sections.affected_sections(1, 0.5, rng())) == 0


def test_the_middle_section_stays_and_a_slip_moves_one_other():
    for seed in range(30):
        slip = em_sections.section_shifts(9, 5, 1.0, rng(seed))
        cut = em_sections.section_shifts(9, 5, 0.0, rng(seed))
        assert (slip[4] == 0).all() and (cut[4] == 0).all()
        assert (slip.any(axis=1)).sum() <= 1
        assert np.abs(np.diff(cut, axis=0)).any(axis=1).sum() <= 1  # one jump, between two neighbours
        assert np.abs(cut).max() <= 5


def test_a_shifted_section_shows_its_neighbourhood():
    image = np.arange(2 * 7 * 7).reshape(2, 7, 7)
    out = em_sections.shift_sections(image, np.array([[0, 0], [1, -2]]), 2)
    assert np.array_equal(out[0], image[0, 2:5, 2:5]) and np.array_equal(out[1], image[1, 3:6, 0:3])


def test_missing_sections_have_the_grey_value_asked_for():
    image = rng().normal(size=(6, 8, 8)).astype(np.float32)
    out = em_sections.missing_sections(image, np.array([2]), 0.25, rng(1))
    changed = out != image
    assert changed[2].any() and not changed[[0, 1, 3, 4, 5]].any() and (out[changed] == np.float32(0.25)).all()


def test_a_blurred_section_is_smoother_and_keeps_its_mean():
    image = rng().normal(size=(3, 32, 32)).astype(np.float32)
    for seed in range(5):
        out = em_sections.blurred_sections(image, np.array([1]), 3.0, rng(seed))
        assert out[1].std() <= image[1].std() and np.array_equal(out[[0, 2]], image[[0, 2]])
        assert out[1].mean() == pytest.approx(image[1].mean(), abs=0.1)


def test_regrading_is_one_curve_for_all_or_one_for_each_section():
    share = np.tile(np.linspace(0.2, 0.8, 16, dtype=np.float32), (5, 4, 1))
    kinds = set()
    for seed in range(10):
        out = em_sections.regraded(share, 0.3, 0.3, True, rng(seed))
        assert 0 <= out.min() and out.max() <= 1 and (np.diff(out, axis=2) >= 0).all()
        kinds.add(bool(np.array_equal(out[0], out[1])))
    assert kinds == {True, False}


def test_a_rotation_keeps_distances_in_nm():
    voxel = np.array([20.0, 9.0, 9.0])
    matrix = em_deform.rotation_matrix(180.0, False, rng(3))
    assert np.allclose(matrix @ matrix.T, np.eye(3)) and np.linalg.det(matrix) == pytest.approx(1)
    coordinates = em_deform.rotated(em_deform.identity((5, 9, 9)), matrix, voxel)
    points = coordinates.reshape(3, -1).T * voxel
    original = em_deform.identity((5, 9, 9)).reshape(3, -1).T * voxel
    assert np.linalg.norm(points[0] - points[-1]) == pytest.approx(np.linalg.norm(original[0] - original[-1]), rel=1e-4)
    assert np.allclose(points[5 * 81 // 2], original[5 * 81 // 2], atol=1e-3)  # the centre stays


def test_a_rotation_about_z_leaves_sections_in_their_place():
    matrix = em_deform.rotation_matrix(90.0, True, rng(0))
    coordinates = em_deform.rotated(em_deform.identity((3, 5, 5)), matrix, np.ones(3))
    assert np.allclose(coordinates[0], em_deform.identity((3, 5, 5))[0])


def test_an_elastic_field_is_smooth_and_of_the_size_asked_for():
    plain = em_deform.identity((16, 16, 16))
    moved = np.stack([em_deform.elastic(plain, 0.2, 0.05, rng(seed)) - plain for seed in range(20)])
    assert moved.std() == pytest.approx(0.05 * 16, rel=0.5)
    assert np.abs(np.diff(moved, axis=-1)).mean() < 0.5 * np.abs(moved).mean()
