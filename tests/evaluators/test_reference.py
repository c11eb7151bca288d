import dataclasses
from types import SimpleNamespace

import h5py
import numpy as np
import pytest

from nissl.evaluators.reference import Reference
from nissl.evaluators.segmentation import voi_where_both
from nissl.evaluators.stored_segmentation import StoredSegmentation
from nissl.runs.records import direction_of
from nissl.volumes.annotated import AnnotatedVolume
from nissl.volumes.boxes import Box
from nissl.volumes.skeletons import Skeletons


@pytest.fixture
def volume(tmp_path):
    """Two bars along x; a file with a segmentation that has cut the first one at x = 20."""
    truth = np.zeros((6, 12, 40), np.uint32)
    truth[:, :6], truth[:, 6:] = 1, 2
    found = truth.copy()
    found[:, :6, 20:] = 9
    with h5py.File(tmp_path / "v.h5", "w") as file:
        file["theirs"], file["nothing"] = found, np.zeros_like(found)
    nodes = np.array([[20.0, y, x] for y in (30.0, 90.0) for x in range(0, 400, 10)])
    first = np.delete(np.arange(79), 39)
    skeletons = Skeletons(nodes, np.stack([first, first + 1], 1), np.repeat([1, 2], 40))
    raw = np.zeros(truth.shape, np.uint8)
    return AnnotatedVolume("bars", raw, (10.0, 10.0, 10.0), truth, skeletons)


def evaluate(path, volume, labels="theirs", segmenter=None):
    reference = Reference(str(path), labels, "test", segmenter, 0, False, [0, 2], [0.2], 20, 0, 10, 0)
    data = SimpleNamespace(source=SimpleNamespace(volumes=lambda name: [volume]))
    return reference(SimpleNamespace(model=None), data)


def test_a_stored_segmentation_is_scored_with_every_metric_under_a_name_of_its_own(volume, tmp_path):
    result = evaluate(tmp_path / "v.h5", volume)
    scalars = result.scalars
    assert all("_reference" in name for name in scalars)
    assert all(direction_of(name, Reference.metrics) in ("min", "max", None) for name in scalars)
    assert scalars["voi_reference/split"] == pytest.approx(0.5) and scalars["voi_reference/merge"] == 0
    assert scalars["erl_reference/splits"] == 1 and scalars["erl_reference/mergers"] == 0
    assert scalars["coverage_reference"] == 1 and scalars["flood_reference/segments"] == 3
    assert {"objects", "error_sites", "variants"} <= set(result.tables)


def test_two_segmentations_are_compared_on_the_voxels_that_both_assign(volume, tmp_path):
    with h5py.File(tmp_path / "v.h5", "a") as file:
        file["ours"] = np.where(np.arange(40) < 20, volume.labels, 0)  # blank where theirs is cut
    scalars = evaluate(tmp_path / "v.h5", volume, segmenter=StoredSegmentation(str(tmp_path / "v.h5"), "ours")).scalars
    assert scalars["voi_both/sum"] == scalars["voi_both_reference/sum"] == 0 and scalars["voi_both/share"] == 0.5
    assert scalars["voi_reference/sum"] > 0
    nothing = np.zeros_like(volume.labels)
    assert np.isnan(voi_where_both([volume.labels], [nothing], [volume.labels])[:2]).all()


def test_a_part_of_the_volume_is_compared_with_the_same_part_of_the_file(volume, tmp_path):
    part = volume.crop(Box((0, 0, 22), (6, 12, 40)))  # behind the cut
    assert part.offset_zyx == (0, 0, 22) and part.crop(Box((1, 0, 2), (6, 12, 18))).offset_zyx == (1, 0, 24)
    scalars = evaluate(tmp_path / "v.h5", part).scalars
    assert scalars["voi_reference/sum"] == 0 and scalars["erl_reference/normalized"] == pytest.approx(1)


def test_sites_are_told_in_coordinates_of_the_file(volume, tmp_path):
    part = volume.crop(Box((0, 0, 10), (6, 12, 40)))
    site = evaluate(tmp_path / "v.h5", part).tables["error_sites"][0]
    assert (site["kind"], site["z"], site["y"]) == ("split", 2, 3) and site["x"] in (19, 20)
    assert (
        {site["segment"], site["other_segment"]} == {1, 9} and site["skeleton"] == 1 and site["x_nm"] == 10 * site["x"]
    )


def test_an_empty_a_smaller_and_a_missing_dataset_are_refused(volume, tmp_path):
    with pytest.raises(ValueError, match="is 0 everywhere"):
        evaluate(tmp_path / "v.h5", volume, "nothing")
    with pytest.raises(ValueError, match="Did you mean 'theirs'"):
        evaluate(tmp_path / "v.h5", volume, "their")
    beyond = dataclasses.replace(volume, offset_zyx=(0, 0, 5))
    with pytest.raises(ValueError, match="too small for"):
        StoredSegmentation(str(tmp_path / "v.h5"), "theirs").segment(None, [beyond])
