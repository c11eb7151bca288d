"""The accuracy card of a whole data set, on a network that is perfect and on one that is not."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from nissl.datasets.calcium import CalciumSimulated
from nissl.evaluators.stimulus import Stimulus, laser_notes, predict

CONF = Path(__file__).parents[2] / "conf/dataset"
TINY = {
    "size_px": 36, "num_cells": 8, "num_targets": 4, "modules": [[1, 4], [2], [3]], "trials": 3, "num_outputs": 5,
    "min_target_distance_px": 7.0,
}  # fmt: skip


@pytest.fixture(scope="module")
def source() -> CalciumSimulated:
    values = yaml.safe_load((CONF / "calcium_simulated.yaml").read_text())
    del values["_target_"]
    return CalciumSimulated(**{**values, **TINY})


class Oracle(nn.Module):
    """Gives the label of each row, or the labels of shuffled rows."""

    device = torch.device("cpu")

    def __init__(self, source: CalciumSimulated, wrong: bool = False) -> None:
        super().__init__()
        self.labels = torch.from_numpy(source.labels[source.table.pattern])
        self.wrong = wrong

    def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        logits = 8 * self.labels[batch["index"]] - 4
        return logits.roll(1, dims=1) if self.wrong else logits


def measure(source: CalciumSimulated, wrong: bool = False) -> Any:
    evaluator = Stimulus(batch_size=64, bootstrap_draws=200, seed=0)
    return evaluator(Oracle(source, wrong), SimpleNamespace(source=source))


def test_every_frame_of_a_part_is_asked_once(source: CalciumSimulated) -> None:
    p = predict(Oracle(source), source, "test", 50)
    assert len(p.logits) == len(source.rows("test"))
    assert np.array_equal(p.labels > 0, p.logits > 0)


def test_a_perfect_network_scores_one_beside_its_majority(source: CalciumSimulated) -> None:
    result = measure(source)
    for name in ("lenient", "strict", "balanced", "lenient_low", "trial"):
        assert result.scalars[f"stimulus/accuracy_{name}"] == 1
    labels = source.labels[source.table.pattern[source.rows("test")]]
    assert result.scalars["stimulus/majority"] == pytest.approx(labels.mean(axis=0).max())
    assert result.scalars["stimulus/gap_train_test"] == 0


def test_a_wrong_network_scores_low_and_says_that_it_has_not_learned(source: CalciumSimulated) -> None:
    result = measure(source, wrong=True)
    # Outputs moved by one place still name a cell of the pairs of neighbours.
    assert result.scalars["stimulus/accuracy_strict"] == 0
    assert any("below the 0.99" in note for note in result.notes)


def test_every_scalar_is_declared_and_every_figure_has_its_numbers(source: CalciumSimulated) -> None:
    result = measure(source)
    assert set(result.scalars) == set(Stimulus.metrics)
    assert set(result.figures) == {"accuracy", "recall_per_cell", "confusion", "by_frame"}
    assert all(figure.png.startswith(b"\x89PNG") and figure.data for figure in result.figures.values())
    assert [row["cell"] for row in result.tables["recall_per_cell"]] == ["1", "2", "3", "4"]


def test_the_frame_table_says_where_each_frame_went(source: CalciumSimulated) -> None:
    rows = measure(source).tables["frames"]
    assert len(rows) == len(source.table)
    assert sum(row["split"] == "test" for row in rows) == len(source.rows("test"))
    assert {row["role"] for row in rows if row["split"] == ""} == {"laser"}


def test_two_evaluations_give_the_same_numbers(source: CalciumSimulated) -> None:
    assert measure(source, wrong=True).scalars == measure(source, wrong=True).scalars


def test_a_frame_split_is_flagged(source: CalciumSimulated, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "split_group", "frame")
    assert any("split by frame" in note for note in measure(source).notes)


def test_laser_light_is_warned_of_where_its_frames_are_used(source: CalciumSimulated) -> None:
    values = yaml.safe_load((CONF / "calcium_simulated.yaml").read_text())
    del values["_target_"]
    lit = {"drop_laser_frames": False, "amplitude": 0.0, "tail_s": 0.1}
    bright = CalciumSimulated(**{**values, **TINY, **lit, "artefact": 3.0})
    assert "laser artefact" in laser_notes(bright)[0] and "POD0" in laser_notes(bright)[0]
    assert laser_notes(CalciumSimulated(**{**values, **TINY, **lit})) == []
    assert source.laser_light() == {}  # its laser frames are dropped
