import sys

import numpy as np
import pytest

from nissl.volumes.skeletonize import skeletonize


def bars():
    """Two bars of 40 voxels along x, 5 x 5 across, and a speck."""
    labels = np.zeros((12, 20, 44), np.uint32)
    labels[3:8, 3:8, 2:42], labels[3:8, 12:17, 2:42], labels[10, 10, 10] = 7, 9, 3
    return labels


def test_a_bar_gives_a_line_along_its_middle_in_nm():
    pytest.importorskip("kimimaro", reason="the extra 'skeletons' is not installed")
    labels = bars()
    skeletons = skeletonize(labels, (20.0, 10.0, 10.0), 50, 1.5, 300.0)
    assert set(skeletons.skeleton_of) == {7, 9}
    assert np.array_equal(skeletons.ids_at_nodes(labels, (20.0, 10.0, 10.0)), skeletons.skeleton_of)
    assert 2 * 300 < skeletons.edge_lengths_nm.sum() < 2 * 450
    assert np.abs(skeletons.nodes_zyx_nm[:, 0] - 100).max() <= 40  # z 5 of 20 nm, give or take two voxels
    with pytest.raises(ValueError, match="no label of at least 9999 voxels"):
        skeletonize(labels, (20.0, 10.0, 10.0), 9999, 1.5, 300.0)


def test_without_kimimaro_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "kimimaro", None)
    with pytest.raises(ValueError, match=r"pip install \"nissl\[skeletons\]\""):
        skeletonize(bars(), (10.0, 10.0, 10.0), 50, 1.5, 300.0)
