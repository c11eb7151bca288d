import numpy as np
import pytest

from nissl.simulate.em import Obstacles, simulate_scene, simulate_volume

ARGUMENTS = {
    "shape_zyx": (40, 48, 44),
    "voxel_size_zyx_nm": (20.0, 20.0, 20.0),
    "num_neurites": 30,
    "radius_nm": (60.0, 160.0),
    "branch_every_nm": 800.0,
    "noise": 8.0,
    "blur_nm": 14.0,
}


@pytest.fixture(scope="module")
def volume():
    return simulate_volume(seed=1, **ARGUMENTS)


def test_a_seed_gives_one_volume_and_another_seed_another(volume):
    again, other = simulate_volume(seed=1, **ARGUMENTS), simulate_volume(seed=2, **ARGUMENTS)
    assert np.array_equal(volume.raw, again.raw) and np.array_equal(volume.labels, again.labels)
    assert np.array_equal(volume.skeletons.nodes_zyx_nm, again.skeletons.nodes_zyx_nm)
    assert not np.array_equal(volume.labels, other.labels)


def test_neurites_fill_much_of_the_volume_and_touch(volume):
    assert 0.4 < (volume.labels > 0).mean() < 0.95
    a, b = volume.labels[:, 1:], volume.labels[:, :-1]
    assert ((a != b) & (a > 0) & (b > 0)).sum() > 1000


def test_every_skeleton_node_lies_on_a_voxel_of_its_own_neurite(volume):
    ids = volume.skeletons.ids_at_nodes(volume.labels, volume.voxel_size_zyx_nm)
    assert len(ids) > 100 and np.array_equal(ids, volume.skeletons.skeleton_of)


def test_some_neurites_branch(volume):
    degree = np.bincount(volume.skeletons.edges.ravel())
    assert (degree >= 3).sum() >= 3


def test_membranes_are_darker_than_cytoplasm(volume):
    labels = volume.labels
    border = np.zeros(labels.shape, bool)
    border[1:] |= labels[1:] != labels[:-1]
    inside = labels > 0
    for axis in range(3):
        for shift in (-2, -1, 1, 2):
            inside &= np.roll(labels, shift, axis) == labels
    assert volume.raw[border].mean() + 30 < volume.raw[inside].mean()


def test_grey_values_are_near_the_stated_normalisation(volume):
    assert abs(volume.network_image().mean()) < 0.5 and 0.6 < volume.network_image().std() < 1.4


def test_sections_of_an_anisotropic_volume_cover_more_nm():
    thick = simulate_volume(
        seed=1, **(ARGUMENTS | {"shape_zyx": (20, 48, 44), "voxel_size_zyx_nm": (40.0, 20.0, 20.0)})
    )
    assert thick.raw.shape == (20, 48, 44) and thick.skeletons.nodes_zyx_nm[:, 0].max() > 20 * 20
    ids = thick.skeletons.ids_at_nodes(thick.labels, thick.voxel_size_zyx_nm)
    assert np.array_equal(ids, thick.skeletons.skeleton_of)


SONGBIRD = {
    "shape_zyx": (24, 64, 64),
    "voxel_size_zyx_nm": (20.0, 9.0, 9.0),
    "num_neurites": 12,
    "radius_nm": (50.0, 120.0),
    "branch_every_nm": 1500.0,
    "noise": 4.0,
    "blur_nm": 8.0,
}


@pytest.fixture(scope="module")
def scene():
    return simulate_scene(seed=3, obstacles=Obstacles(60.0, ((14, 9, -8),), 1, 150.0), **SONGBIRD)


def test_without_obstacles_a_scene_is_the_volume():
    plain = simulate_scene(seed=1, obstacles=Obstacles(), **ARGUMENTS)
    assert np.array_equal(plain.volume.raw, simulate_volume(seed=1, **ARGUMENTS).raw)
    assert not plain.vessel.any() and not plain.shifts_yx.any()


def test_the_vessel_runs_through_the_volume_and_no_neurite_is_in_it(scene):
    assert scene.vessel.any(axis=(0, 2)).all() and 0.02 < scene.vessel.mean() < 0.5
    assert (scene.volume.labels[scene.vessel] == 0).all()
    assert (scene.volume.labels[~scene.vessel] > 0).mean() > 0.3


def test_sections_beyond_a_misalignment_lie_beside_their_place_with_labels_and_skeletons(scene):
    """Undone by the stated shift, sections on both sides of the jump fit as neighbours do elsewhere."""
    labels = scene.volume.labels
    assert np.array_equal(scene.shifts_yx[13:15], [[0, 0], [9, -8]])

    def agreement(a, b):
        return (a == b)[(a > 0) | (b > 0)].mean()

    inner = (slice(12, -12), slice(12, -12))
    jump = agreement(labels[13][inner], labels[14][inner])
    undone = agreement(labels[13][inner], np.roll(labels[14], (-9, 8), (0, 1))[inner])
    assert undone > jump + 0.1
    ids = scene.volume.skeletons.ids_at_nodes(labels, scene.volume.voxel_size_zyx_nm)
    assert len(ids) > 50 and np.array_equal(ids, scene.volume.skeletons.skeleton_of)


def test_a_cell_body_is_a_ball_of_its_neurite_with_a_nucleus():
    scene = simulate_scene(seed=3, obstacles=Obstacles(num_somata=1, soma_radius_nm=150.0), **SONGBIRD)
    sizes = np.bincount(scene.volume.labels.ravel())[1:]
    assert sizes.argmax() == 0  # neurite 1 has it


def test_a_jump_at_a_section_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="section 99 is none of 1 to 23"):
        simulate_scene(seed=0, obstacles=Obstacles(misalignments=((99, 1, 1),)), **SONGBIRD)
