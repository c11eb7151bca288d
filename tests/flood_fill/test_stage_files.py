import dataclasses

import numpy as np
import pytest
import torch

from nissl.flood_fill.canvas import Moves, Origin
from nissl.flood_fill.segmentation import Segmentation, from_arrays, network_ids, to_arrays
from nissl.flood_fill.stage_files import StageFiles, fingerprint
from nissl.volumes.annotated import AnnotatedVolume


def test_a_stage_is_found_under_its_key_alone(tmp_path):
    files = StageFiles(tmp_path / "new")
    assert files.read("flood", "a" * 32) is None
    files.write("flood", "a" * 32, {"ids": np.arange(3)}, {"moves": 4})
    arrays, facts = files.read("flood", "a" * 32)
    assert arrays["ids"].tolist() == [0, 1, 2] and facts == {"moves": 4}
    assert files.read("flood", "b" * 32) is None and files.read("scores", "a" * 32) is None
    assert [path.name for path in files.folder.iterdir()] == [f"flood-{'a' * 16}.npz"]


@pytest.mark.parametrize(
    "other", [{"x": np.arange(4)}, {"x": np.arange(3.0)}, {"x": np.arange(3).reshape(3, 1)}, {"y": np.arange(3)}]
)
def test_a_key_changes_with_values_types_shapes_and_names(other):
    assert fingerprint({"x": np.arange(3)}) == fingerprint({"x": torch.arange(3)}) != fingerprint(other)


def test_a_key_changes_with_every_setting():
    assert fingerprint(Moves()) == fingerprint(Moves())
    for changed in ({"order": "strongest_first"}, {"skip_visited": 0.8}, {"saturated": 0.9}, {"long_step": 2.0}):
        assert fingerprint(dataclasses.replace(Moves(), **changed)) != fingerprint(Moves())


def test_a_segmentation_comes_back_from_its_arrays():
    found = Segmentation(
        np.arange(8).reshape(2, 2, 2), {1: Origin((1, 2, 3), 4, 5)}, {"moves": 4}, 1.5, True,
        {1: {}, 2: {1: 7}}, [((0, 1, 2), "weak", 3)],
    )  # fmt: skip
    again = from_arrays(*to_arrays(found))
    assert np.array_equal(again.ids, found.ids)
    assert dataclasses.replace(again, ids=None) == dataclasses.replace(found, ids=None)


def test_ids_go_back_to_the_networks_resolution():
    volume = AnnotatedVolume("v", np.zeros((5, 4, 6), np.uint8), (10.0, 10.0, 10.0), scale_zyx=(2, 2, 3))
    coarse = np.arange(8).reshape(2, 2, 2)
    assert np.array_equal(network_ids(volume.native(coarse), volume), coarse)
