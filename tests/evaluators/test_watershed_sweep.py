from types import SimpleNamespace

import numpy as np
import pytest

from nissl.evaluators.watershed_sweep import WatershedSweep
from nissl.flood_fill.segmenter import Segmentation
from nissl.volumes.annotated import AnnotatedVolume
from nissl.volumes.skeletons import Skeletons


def volume(name, size=12):
    """Two objects side by side, with a straight skeleton along z in each."""
    labels = np.ones((size, 4, 8), np.uint32)
    labels[:, :, 4:] = 2
    nodes = np.array([(z, 2, x) for x in (1, 6) for z in range(size)], float)
    edges = np.array([(i, i + 1) for i in range(2 * size - 1) if i != size - 1])
    skeletons = Skeletons(10 * nodes, edges, np.repeat([1, 2], size))
    return AnnotatedVolume(name, labels.astype(np.uint8), (10.0, 10.0, 10.0), labels, skeletons)


class Thresholded:
    """Merges everything above 0.7, splits along z below 0.3, and is right between."""

    threshold = 0.9

    def sweep(self, network, volumes, thresholds):
        def ids(v, t):
            halves = v.labels.astype(np.int64) + (2 * (np.arange(v.raw.shape[0]) >= 6)[:, None, None] if t < 0.3 else 0)
            return np.ones_like(halves) if t > 0.7 else halves

        return {t: [Segmentation(ids(v, t), {}, {"moves": 0}, 0.0, False) for v in volumes] for t in thresholds}


def sweep(**changed):
    values = {
        "segmenter": Thresholded(),
        "tuning_split": "train",
        "thresholds": [0.1, 0.5, 0.9],
        "tuning_box": None,
        "merge_threshold": 0,
    }
    return WatershedSweep(**(values | changed))


def run(evaluator):
    volumes = {"train": [volume("train", 12)], "test": [volume("test", 10)]}
    return evaluator(SimpleNamespace(model=None), SimpleNamespace(source=SimpleNamespace(volumes=volumes.get)))


def test_the_threshold_is_chosen_on_training_tissue_and_scored_on_the_test():
    result = run(sweep())
    assert result.scalars["watershed_sweep/threshold"] == 0.5
    assert result.scalars["watershed_sweep/voi_sum"] == pytest.approx(0)
    assert result.scalars["watershed_sweep/erl_normalized"] == pytest.approx(1)
    rows = result.tables["thresholds"]
    assert len(rows) == 6 and {row["volume"] for row in rows} == {"tuning", "test"}
    assert rows[0]["voi_split"] == pytest.approx(1) and rows[2]["voi_merge"] == pytest.approx(1)
    assert rows[2]["mergers"] == 1 and result.figures["curve"].png
    assert "segmenter.threshold is 0.9" in result.notes[0]


def test_a_part_of_the_training_volume_is_enough():
    result = run(sweep(tuning_box=[[0, 5], [0, 4], [0, 8]]))  # below the cut at 6, so 0.1 is as good and comes first
    assert result.scalars["watershed_sweep/threshold"] == 0.1


def test_wrong_settings_are_refused():
    with pytest.raises(ValueError, match="must ascend"):
        sweep(thresholds=[0.5, 0.1])
    with pytest.raises(ValueError, match="tuning_split must be train or val"):
        sweep(tuning_split="test")
    with pytest.raises(ValueError, match="no thresholds to sweep"):
        sweep(segmenter=object())
    with pytest.raises(ValueError, match="tuning_box: z from 0 to 99"):
        run(sweep(tuning_box=[[0, 99], [0, 4], [0, 8]]))
