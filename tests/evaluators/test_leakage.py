"""Twins under two splits, and the interval of the gap between them."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml

from nissl.datasets.calcium import CalciumSimulated
from nissl.evaluators.leakage import Leakage, bootstrap_gap

CONF = Path(__file__).parents[2] / "conf/dataset"
TINY = {
    "size_px": 36, "num_cells": 8, "num_targets": 4, "modules": [[1, 4], [2], [3]], "trials": 3, "num_outputs": 5,
    "min_target_distance_px": 7.0, "network_seeds": [0, 1], "scope": "joint", "folds": 3, "leak_split": "frame",
}  # fmt: skip


@pytest.fixture(scope="module")
def source() -> CalciumSimulated:
    values = yaml.safe_load((CONF / "calcium_simulated.yaml").read_text())
    del values["_target_"]
    return CalciumSimulated(**{**values, **TINY})


class Memory:
    """Knows the frames of trials it has seen a frame of, and nothing else: leak in person."""

    device = torch.device("cpu")

    def __init__(self, source: CalciumSimulated, seed: int, fold: int, leaky: bool) -> None:
        self.seed, self.day, self.fold, self.leaky, self._source = seed, None, fold, leaky, source
        self._known = set(source.table.trial[source.view(self).rows("train")].tolist())  # type: ignore[arg-type]

    def __call__(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        known = [int(t) in self._known for t in self._source.table.trial[batch["index"].numpy()]]
        return batch["label"] * torch.tensor(known)[:, None] - batch["label"] * ~torch.tensor(known)[:, None]


def test_a_network_that_knows_seen_trials_only_is_all_leak(source: CalciumSimulated) -> None:
    members = [Memory(source, n.seed, n.fold, n.leaky) for n in source.networks]
    result = Leakage(64, 200, 0)(SimpleNamespace(members=members), SimpleNamespace(source=source))
    assert result.scalars["leakage/accuracy_own"] == 0
    assert result.scalars["leakage/accuracy_leaky"] > 0.9 and result.scalars["leakage/gap_low"] > 0.8
    assert "split by frame" in result.notes[0] and "split by trial" in result.notes[0]
    assert set(result.scalars) == set(Leakage.metrics)
    assert result.figures["leakage"].png.startswith(b"\x89PNG")


def test_folds_test_every_used_frame_once_under_both_splits(source: CalciumSimulated) -> None:
    for leaky in (False, True):
        tested = [source.view(n).rows("test") for n in source.networks if n.leaky is leaky and n.seed == 0]
        together = np.sort(np.concatenate(tested))
        assert np.array_equal(together, np.flatnonzero(source.part >= 0))


def test_without_twins_it_says_what_to_set() -> None:
    with pytest.raises(ValueError, match="set dataset.leak_split=frame"):
        Leakage(64, 10, 0)(SimpleNamespace(members=[]), SimpleNamespace(source=None))


def test_equal_hits_have_no_gap_and_the_interval_holds_the_gap_of_known_ones() -> None:
    trial = np.repeat(np.arange(30), 4)
    hit = (np.random.default_rng(0).random(120) < 0.5).astype(float)
    assert bootstrap_gap(hit, hit, trial, trial, 200, 0) == (0, 0)
    low, high = bootstrap_gap(np.ones(120), hit, trial, trial, 500, 0)
    assert low < 1 - hit.mean() < high and low > 0.2
