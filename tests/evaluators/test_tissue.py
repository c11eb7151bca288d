from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from nissl.evaluators.tissue import TissueScores, confusion, forbidden_voxels
from nissl.volumes.annotated import AnnotatedVolume
from nissl.volumes.chunked import read_hdf5

CLASSES = {"dark": [10], "bright": [200], "rare": [90]}


class ByBrightness(nn.Module):
    """Three classes from grey values: bright, dark, and never the third."""

    fov_zyx = (4, 8, 8)

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(1.0))

    def forward(self, image):
        return torch.cat([-image, image, torch.full_like(image, -9.0)], 1) * self.gain


def scores(**changed):
    values = {"split": "test", "classes": CLASSES, "forbidden": ["bright"], "min_size": 5, "margin": 1,
              "precision": "float32"}  # fmt: skip
    return TissueScores(**(values | changed))


def test_recall_and_iou_of_a_volume_worked_by_hand():
    raw = np.full((4, 8, 8), 10, np.uint8)
    raw[:, :, 4:] = 200
    painted = raw.copy()
    painted[:, :, 3] = 200  # one of eight columns is painted as bright and looks dark
    painted[0, 0, 0] = 77  # named by no class
    volume = AnnotatedVolume("v", raw, (20.0, 9.0, 9.0), painted, mean=100.0, std=50.0)
    data = SimpleNamespace(source=SimpleNamespace(volumes=lambda split: [volume]))
    result = scores()(SimpleNamespace(model=ByBrightness().eval()), data)
    assert result.scalars["tissue/recall_bright"] == pytest.approx(4 / 5)
    assert result.scalars["tissue/iou_bright"] == pytest.approx(4 / 5)
    assert result.scalars["tissue/iou_dark"] == pytest.approx((96 - 1) / (128 - 1))
    assert np.isnan(result.scalars["tissue/iou_rare"])
    assert result.scalars["tissue/mean_iou"] == pytest.approx((4 / 5 + 95 / 127) / 2)
    assert np.array_equal(result.arrays["movement_mask"], raw == 200) and result.scalars["tissue/forbidden"] == 0.5
    assert result.figures["classes"].png.startswith(b"\x89PNG")


def test_unknown_voxels_are_left_out_of_the_table():
    table = confusion(np.array([0, 1, -1, 1]), np.array([0, 0, 1, 1]), 2)
    assert table.tolist() == [[1, 0], [1, 1]]


def test_small_pieces_are_not_forbidden():
    found = np.zeros((1, 4, 8), int)
    found[0, 0, 0], found[0, 2:, 4:] = 2, 2
    mask = forbidden_voxels(found, [2], 4)
    assert mask.sum() == 8 and not mask[0, 0, 0] and not forbidden_voxels(found, [], 1).any()


def test_classes_that_do_not_exist_are_refused():
    with pytest.raises(ValueError, match="forbidden names"):
        scores(forbidden=["vessel"])
    with pytest.raises(ValueError, match="split must be"):
        scores(split="train")


def test_the_mask_is_written_as_a_segmenter_reads_it_where_its_part_lies_in_the_file(tmp_path):
    raw = np.full((4, 8, 8), 10, np.uint8)
    raw[:, :, 4:] = 200
    volume = AnnotatedVolume("v", raw, (20.0, 9.0, 9.0), raw, mean=100.0, std=50.0, offset_zyx=(1, 0, 2))
    data = SimpleNamespace(source=SimpleNamespace(volumes=lambda split: [volume]))
    scores(mask_file=str(tmp_path / "mask.h5"))(SimpleNamespace(model=ByBrightness().eval()), data)
    mask = read_hdf5(tmp_path / "mask.h5", "movement_mask", "labels", volume.box)
    assert mask.shape == raw.shape and np.array_equal(mask != 0, raw == 200)
