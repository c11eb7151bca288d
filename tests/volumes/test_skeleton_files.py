import h5py
import numpy as np
import pytest

from nissl.volumes.nml import write_nml
from nissl.volumes.skeleton_files import describe, read_skeletons, write_npz
from nissl.volumes.skeletons import Skeletons
from nissl.volumes.trees import depths

TWO = Skeletons(
    np.array([[0.0, 0, 0], [0, 0, 10], [0, 0, 20], [50, 0, 0], [50, 0, 10]]),
    np.array([[0, 1], [1, 2], [3, 4]]),
    np.array([1, 1, 1, 2, 2]),
    np.array([2, 2, 2, 3, 4]),
    np.array([0, 1, 2, 0, 1]),
)


def same(a, b):
    arrays = ("nodes_zyx_nm", "edges", "skeleton_of", "node_type", "depth")
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in arrays)


def test_what_is_written_as_npz_or_nml_is_read_by_its_ending(tmp_path):
    write_npz(tmp_path / "s.npz", TWO)
    assert same(read_skeletons(tmp_path / "s.npz"), TWO)
    write_nml(tmp_path / "s.nmx", TWO, (10.0, 10.0, 10.0))
    assert same(read_skeletons(tmp_path / "s.nmx"), TWO)
    with pytest.raises(ValueError, match="known endings: .npz, .swc, .nml"):
        (tmp_path / "s.obj").write_text("")
        read_skeletons(tmp_path / "s.obj")
    with pytest.raises(FileNotFoundError, match="Set dataset.skeletons"):
        read_skeletons(tmp_path / "none.npz")


def test_swc_is_one_neuron_in_micrometres_with_parents_in_any_order(tmp_path, caplog):
    text = "# made by hand\n3 2 0.3 0.2 0.1 1 2\n2 3 0.2 0.2 0.1 1 1\n1 1 0.1 0.2 0.1 1 -1\n7 7 1 1 1 1 44\n"
    (tmp_path / "n.swc").write_text(text)
    neuron = read_skeletons(tmp_path / "n.swc")
    assert neuron.nodes_zyx_nm[0] == pytest.approx([100, 200, 300])
    assert neuron.edges.tolist() == [[0, 1], [1, 2]] and set(neuron.skeleton_of) == {1}
    assert neuron.node_type.tolist() == [2, 3, 1, 4] and neuron.depth.tolist() == [2, 1, 0, 0]
    assert "1 nodes name a parent that is not there" in caplog.text
    (tmp_path / "m.swc").write_text("# unit: nm\n1 0 3 2 1 1 -1\n2 0 3 2 9 1 1\n")
    assert read_skeletons(tmp_path / "m.swc").nodes_zyx_nm[0].tolist() == [1, 2, 3]
    both = read_skeletons(tmp_path)  # m first
    assert both.skeleton_of.tolist() == [1] * 2 + [3] * 4 and both.node_type[:2].tolist() == [0, 0]


@pytest.mark.parametrize(
    ("text", "message"),
    [("1 2 3\n", "line 1: expected id type"), ("# nothing\n", "holds no node"), ("1 0 0 0 0 1 -1\n" * 2, "ids repeat")],
)
def test_what_is_wrong_with_an_swc_file_is_said(tmp_path, text, message):
    (tmp_path / "bad.swc").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_skeletons(tmp_path / "bad.swc")


def test_a_folder_without_swc_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no .swc"):
        read_skeletons(tmp_path)


def test_groups_of_an_em_erl_file_are_taken_by_number_not_by_name(tmp_path):
    with h5py.File(tmp_path / "s.h5", "w") as file:
        for number in range(11):
            file[f"{number}/vertices"] = np.full((2, 3), float(number))
            file[f"{number}/edges"] = np.array([[0, 1]])
    skeletons = read_skeletons(tmp_path / "s.h5")
    assert skeletons.skeleton_of.tolist() == np.repeat(np.arange(11), 2).tolist()
    assert skeletons.nodes_zyx_nm[:, 0].tolist() == np.repeat(np.arange(11.0), 2).tolist()
    with h5py.File(tmp_path / "bad.h5", "w") as file:
        file["raw"] = np.zeros(3)
    with pytest.raises(ValueError, match="no file of skeletons"):
        read_skeletons(tmp_path / "bad.h5")


def test_loose_pieces_and_cycles_are_told():
    ring = Skeletons(np.eye(4)[:, :3] * 1e3, np.array([[0, 1], [1, 2], [2, 0]]), np.array([1, 1, 1, 1]))
    assert "1 skeletons, 4 nodes" in describe(ring) and "1 pieces" in describe(ring) and "1 cycles" in describe(ring)


def test_depth_counts_edges_from_the_root():
    edges = np.array([[0, 1], [1, 2], [1, 3], [4, 5]])
    assert depths(7, edges, [2, 5]).tolist() == [2, 1, 0, 2, 1, 0, -1]


def test_types_outside_the_list_are_refused(tmp_path):
    np.savez(tmp_path / "s.npz", nodes_zyx_nm=TWO.nodes_zyx_nm, edges=TWO.edges, node_label=TWO.skeleton_of,
             node_type=np.array([9] * 5))  # fmt: skip
    with pytest.raises(ValueError, match="node_type must be 0 to 4"):
        read_skeletons(tmp_path / "s.npz")
