import numpy as np
import pytest

from nissl.simulate.em import simulate_volume

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
