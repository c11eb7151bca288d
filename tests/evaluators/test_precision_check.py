import numpy as np
import pytest
from flood_fill.test_segmenter import BrightIsInside, segmenter, volume

from nissl.evaluators.precision_check import PrecisionCheck


class Data:
    def __init__(self, found):
        self.source = self
        self.volumes = lambda split: [found]


class Task:
    def __init__(self):
        self.model = BrightIsInside()


def test_both_precisions_are_flooded_on_the_box_and_scored_beside_each_other():
    check = PrecisionCheck(segmenter(precision="bfloat16"), "test", [[0, 32], [0, 32], [0, 36]], 0)
    result = check(Task(), Data(volume()))
    # This network thresholds, so rounding changes nothing.
    assert result.scalars["precision_check/voi_between"] == pytest.approx(0)
    assert result.scalars["precision_check/voi_sum"] == result.scalars["precision_check/voi_sum_float32"]
    assert [row["precision"] for row in result.tables["precisions"]] == ["bfloat16", "float32"]
    assert result.notes[0].startswith("precision check: bfloat16: ") and "float32: " in result.notes[0]
    assert set(result.scalars) <= {
        name.replace("*", key) for name in PrecisionCheck.metrics for key in ("voi_sum", "voi_assigned_sum",
        "coverage", "segments", "erl_normalized", "mergers")
    }  # fmt: skip


def test_float32_is_checked_against_itself_by_one_flooding():
    task = Task()
    result = PrecisionCheck(segmenter(), "test", None, 0)(task, Data(volume()))
    assert np.isfinite(result.scalars["precision_check/voi_sum"]) and len(result.tables["precisions"]) == 1
    assert result.scalars["precision_check/voi_between"] == 0


def test_a_staged_segmenter_and_an_unknown_split_are_refused():
    with pytest.raises(ValueError, match="segmenter=flood_fill"):
        PrecisionCheck(object(), "test", None, 0)(Task(), Data(volume()))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="split must be"):
        PrecisionCheck(segmenter(), "all", None, 0)
