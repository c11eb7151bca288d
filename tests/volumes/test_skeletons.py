import numpy as np
import pytest

from nissl.volumes.boxes import Box
from nissl.volumes.skeleton_files import read_npz
from nissl.volumes.skeletons import Skeletons

VOXEL = (20.0, 10.0, 5.0)
LINE = Skeletons(np.array([[0, 0, 0], [20, 10, 5], [40, 20, 10], [60, 30, 15.0]]),
                 np.array([[0, 1], [1, 2], [2, 3]]), np.array([7, 7, 7, 7]))  # fmt: skip


def test_edge_lengths_are_euclidean_in_nm():
    assert LINE.edge_lengths_nm == pytest.approx(np.full(3, np.sqrt(400 + 100 + 25)))


def test_nodes_fall_on_voxels_of_an_anisotropic_volume():
    assert LINE.voxels_zyx(VOXEL).tolist() == [[0, 0, 0], [1, 1, 1], [2, 2, 2], [3, 3, 3]]


def test_cropping_keeps_nodes_inside_and_edges_between_them():
    part = LINE.crop(Box((1, 0, 0), (3, 9, 9)), VOXEL)
    assert part.nodes_zyx_nm.tolist() == [[0, 10, 5], [20, 20, 10]]
    assert part.edges.tolist() == [[0, 1]] and part.skeleton_of.tolist() == [7, 7]


def test_ids_are_read_under_nodes_and_are_0_outside():
    segmentation = np.zeros((3, 3, 3), np.int32)
    segmentation[1, 1, 1] = 5
    assert LINE.ids_at_nodes(segmentation, VOXEL).tolist() == [0, 5, 0, 0]


def test_a_file_of_skeletons_is_read(tmp_path):
    np.savez(tmp_path / "s.npz", nodes_zyx_nm=LINE.nodes_zyx_nm, edges=LINE.edges, node_label=LINE.skeleton_of)
    read = read_npz(tmp_path / "s.npz")
    assert np.array_equal(read.edges, LINE.edges) and np.array_equal(read.nodes_zyx_nm, LINE.nodes_zyx_nm)


def test_missing_files_and_arrays_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read_npz(tmp_path / "s.npz")
    np.savez(tmp_path / "s.npz", nodes_zyx_nm=LINE.nodes_zyx_nm)
    with pytest.raises(ValueError, match="lacks the arrays.*edges.*node_label"):
        read_npz(tmp_path / "s.npz")


@pytest.mark.parametrize(
    ("edges", "ids", "message"),
    [
        ([[0, 4]], [7, 7, 7, 7], "name node 4, there are 4"),
        ([[0, 1]], [7, 8, 8, 8], "joins two skeletons"),
        ([[0, 1, 2]], [7, 7, 7, 7], r"must be \(E, 2\)"),
        ([[0, 1]], [7, 7], "one skeleton id each"),
    ],
)
def test_impossible_skeletons_are_refused(edges, ids, message):
    with pytest.raises(ValueError, match=message):
        Skeletons(LINE.nodes_zyx_nm, np.array(edges), np.array(ids))
