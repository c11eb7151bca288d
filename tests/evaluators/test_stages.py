import numpy as np
import pytest

from nissl.evaluators.stages import Stages, decided_pairs, reliability_figure, stage_rows
from nissl.flood_fill.segmentation import Segmentation
from nissl.volumes.annotated import AnnotatedVolume
from nissl.volumes.skeletons import Skeletons

GOOD = {"iou": 0.9, "first_by_first": 0.9, "second_by_first": 0.9, "first_by_second": 0.9, "second_by_second": 0.9}
BAD = dict.fromkeys(GOOD, 0.1)
REST = {"deleted_first": 0.0, "deleted_second": 0.0, "moves": 3}


def world():
    """Two neurons along x; the first is cut in two at first, then joined, the second is whole."""
    labels = np.zeros((4, 8, 20), np.uint32)
    labels[:, :4], labels[:, 4:] = 1, 2
    cut = labels.astype(np.int32)
    cut[:, :4, 10:] = 3
    nodes = np.array([[10.0, y, x] for y in (20, 60) for x in range(0, 200, 10)])
    edges = np.array([[i, i + 1] for row in (0, 20) for i in range(row, row + 19)])
    skeletons = Skeletons(nodes, edges, np.repeat([1, 2], 20))
    volume = AnnotatedVolume("two", np.zeros(labels.shape, np.uint8), (10.0, 10.0, 10.0), labels, skeletons)
    decisions = [
        {"first": 1, "second": 3, **GOOD, **REST, "certainty": 0.9, "joined": True, "reason": ""},
        {"first": 2, "second": 3, **BAD, **REST, "certainty": 0.1, "joined": False, "reason": "scores"},
    ]
    stages = {"forward": cut, "agglomeration": labels.astype(np.int32)}
    found = Segmentation(stages["agglomeration"], {}, {}, 0.0, False, stages=stages, tables={"decisions": decisions})
    return volume, found


class Fixed:
    def __init__(self, found):
        self.found = found

    def segment(self, network, volumes):
        return [self.found]


class Data:
    def __init__(self, volume):
        self.source = self
        self.volumes = lambda split: [volume]


class Task:
    model = None


def test_joining_the_cut_neuron_takes_the_split_away():
    volume, found = world()
    before, after = stage_rows([volume], [found], 0)
    assert before["voi_sum"] == pytest.approx(0.5) and after["voi_sum"] == 0  # one bit in half of the voxels
    assert before["segments"] == 3 and after["segments"] == 2 and after["erl_normalized"] == pytest.approx(1)
    assert before["erl_normalized"] < 0.8 and before["mergers"] == 0 and before["coverage"] == 1


def test_decisions_are_compared_with_skeletons_and_calibrated():
    volume, found = world()
    assert [row["one_neuron"] for row in decided_pairs([volume], [found])] == [1, 0]
    result = Stages(Fixed(found), "test", 0, 2)(Task(), Data(volume))
    assert result.scalars["agglomeration/joined_right"] == 1 and result.scalars["agglomeration/joined_wrong"] == 0
    assert result.tables["reliability"] == [
        {"said": 0.1, "seen": 0.0, "pairs": 1},
        {"said": 0.9, "seen": 1.0, "pairs": 1},
    ]
    weights = {row["feature"]: row["weight"] for row in result.tables["calibration"]}
    assert weights["iou"] > 0 and weights["constant"] < 0
    assert "reliability" in result.figures and "stages_forward/voi_sum" in result.scalars


def test_a_segmenter_without_stages_is_refused():
    volume, found = world()
    plain = Segmentation(found.ids, {}, {}, 0.0, False)
    with pytest.raises(ValueError, match="no stages to tell apart"):
        Stages(Fixed(plain), "test", 0, 2)(Task(), Data(volume))
    with pytest.raises(ValueError, match="split must be"):
        Stages(Fixed(plain), "all", 0, 2)


def test_the_figure_names_its_axes():
    assert reliability_figure([{"said": 0.1, "seen": 0.0, "pairs": 4}]).png[:4] == b"\x89PNG"
