"""Accuracy by day: what networks that know and networks that guess score, and whether a change is one."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from nissl.datasets.calcium import CalciumSimulated
from nissl.evaluators.stimulus_days import StimulusDays, mean_rows

CONF = Path(__file__).parents[2] / "conf/dataset"
TINY = {
    "size_px": 36, "num_cells": 8, "num_targets": 4, "modules": [[1, 4], [2], [3]], "trials": 5, "num_outputs": 5,
    "min_target_distance_px": 7.0, "days": {"POD0": 1.0, "POD3": 2.0},
}  # fmt: skip


class Oracle:
    """A network that knows the labels, but is wrong in a share of the trials."""

    device = torch.device("cpu")

    def __init__(self, source: CalciumSimulated, seed: int, day: str | None, wrong: float) -> None:
        self.seed, self.day, self._source, self._wrong = seed, day, source, wrong

    def __call__(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        trial = self._source.table.trial[batch["index"].numpy()]
        misses = np.array([np.random.default_rng([self.seed, int(t)]).random() < self._wrong for t in trial])
        logits = 8 * batch["label"] - 4
        logits[torch.from_numpy(misses)] *= -1
        return logits


@pytest.fixture(scope="module")
def source() -> CalciumSimulated:
    values = yaml.safe_load((CONF / "calcium_simulated.yaml").read_text())
    del values["_target_"]
    return CalciumSimulated(**{**values, **TINY})


def measure(source: CalciumSimulated, wrong: dict[str | None, float], seeds: int = 2) -> Any:
    networks = [Oracle(source, seed, day, share) for seed in range(seeds) for day, share in wrong.items()]
    return StimulusDays(64, 500, 200, 0)(SimpleNamespace(networks=networks), SimpleNamespace(source=source))


def test_each_day_is_judged_by_its_own_networks(source: CalciumSimulated) -> None:
    result = measure(source, {"POD0": 0.0, "POD3": 1.0})
    assert result.scalars["stimulus_days/accuracy_lenient_POD0"] == 1
    assert result.scalars["stimulus_days/accuracy_lenient_POD3"] == 0
    assert result.scalars["stimulus_days/change_POD3"] == -1
    assert result.scalars["stimulus_days/p_trial_POD3"] < 0.02  # few trials: some permutations change nothing
    assert result.scalars["stimulus_days/p_seed_POD3"] == pytest.approx(1 / 3)  # 2 + 2 networks: 2 of 6 divisions
    assert [(row["day"], row["seed"]) for row in result.tables["networks"]] == [
        ("POD0", 0), ("POD0", 1), ("POD3", 0), ("POD3", 1),
    ]  # fmt: skip


def test_a_joint_network_is_asked_about_both_days_and_equal_days_do_not_differ(source: CalciumSimulated) -> None:
    result = measure(source, {None: 0.0}, seeds=3)
    assert {row["trained_on"] for row in result.tables["networks"]} == {"all"}
    assert len(result.tables["networks"]) == 6
    assert result.scalars["stimulus_days/change_POD3"] == 0 and result.scalars["stimulus_days/p_trial_POD3"] == 1


def test_every_scalar_is_declared_and_every_figure_is_drawn(source: CalciumSimulated) -> None:
    from nissl.runs.records import direction_of

    result = measure(source, {"POD0": 0.1, "POD3": 0.3})
    for name in result.scalars:
        direction_of(name, StimulusDays.metrics)
    assert all(figure.png.startswith(b"\x89PNG") and figure.data for figure in result.figures.values())
    assert len(result.notes) == 3 and "hypothesis" in result.notes[-1]
    assert {row["cell"] for row in result.tables["recall_per_cell"]} == {"1", "2", "3", "4"}


def test_rows_are_averaged_over_networks() -> None:
    assert mean_rows([[{"cell": "1", "a": 1.0}], [{"cell": "1", "a": 2.0}]]) == [{"cell": "1", "a": 1.5}]
