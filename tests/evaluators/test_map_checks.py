"""The checks on planted cases: weights that matter, pixels that matter, light that gives the label away."""

import fnmatch
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from nissl.datasets.calcium import CalciumSimulated
from nissl.evaluators import map_perturbation as perturb
from nissl.evaluators.map_baselines import decode_linearly
from nissl.evaluators.map_checks import Frames, MapChecks, exchange_labels
from nissl.models.stimulus_cnn import StimulusCNN

CONF = Path(__file__).parents[2] / "conf"
CPU = torch.device("cpu")


def world(**changes: Any) -> CalciumSimulated:
    values = yaml.safe_load((CONF / "dataset/calcium_simulated.yaml").read_text())
    del values["_target_"]
    tiny = {
        "size_px": 36, "num_cells": 8, "num_targets": 4, "modules": [[1, 4], [2], [3]], "trials": 5, "num_outputs": 5,
        "min_target_distance_px": 7.0, "pairs": False, "success": 1.0, "spontaneous_hz": [0.01, 0.02],
    }  # fmt: skip
    return CalciumSimulated(**{**values, **tiny, **changes})


class Linear(nn.Module):
    """A linear decoder in the two parts that maps need; it is fitted in milliseconds."""

    def __init__(self, source: Any) -> None:
        super().__init__()
        self.backbone = nn.AvgPool2d(2)
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(18 * 18, len(source.outputs)))
        train = Frames(source, "train", 64)
        weights, offset = decode_linearly(train.pooled(18, None, None), source.labels[train.pattern], 0.02)
        with torch.no_grad():
            self.head[1].weight.copy_(torch.from_numpy(20 * weights.T))
            self.head[1].bias.copy_(torch.from_numpy(20 * (offset - 0.5)))

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        return self.head(self.backbone(frames))


def check(source: Any, **changes: Any) -> Any:
    values = yaml.safe_load((CONF / "evaluator/map_checks.yaml").read_text())["map_checks"]
    del values["_target_"]
    task = SimpleNamespace(model=Linear(source).eval(), device=CPU)
    few = {"frames": 24, "steps": 4, "draws": 50, "decoder_side": 18}
    return MapChecks(**{**values, **few, **changes})(task, SimpleNamespace(source=source))


@pytest.fixture(scope="module")
def responding() -> CalciumSimulated:
    return world()


@pytest.fixture(scope="module")
def result(responding: CalciumSimulated) -> Any:
    return check(responding, method="hirescam", retrain_steps=2)


def test_every_number_is_declared(result: Any) -> None:
    for name in result.scalars:
        assert any(fnmatch.fnmatch(name, pattern) for pattern in MapChecks.metrics), name
    assert set(result.figures) == {"randomisation", "perturbation", "hidden", "laser"}
    assert {"map_checks/retrained_accuracy_targets_hidden", "map_checks/retrained_accuracy_exchanged"} <= set(
        result.scalars
    )


def test_a_responding_brain_without_light_raises_no_warning(result: Any) -> None:
    assert result.scalars["map_checks/accuracy"] > 0.8
    assert result.scalars["map_checks/laser_brightness_onset"] < result.scalars["map_checks/laser_brightness_later"]
    assert result.scalars["map_checks/warnings"] == 0 and not any("warning" in note for note in result.notes)


def test_the_map_of_a_linear_decoder_beats_chance_orders_and_points_at_targets(result: Any) -> None:
    assert result.scalars["map_checks/deletion_gain"] > 0 and result.scalars["map_checks/insertion_gain"] > 0
    assert result.scalars["map_checks/pointing_low"] > result.scalars["map_checks/pointing_chance"]
    assert abs(result.scalars["map_checks/randomised_zncc"]) < 0.5


def test_hiding_all_targets_costs_accuracy_and_showing_only_them_keeps_it() -> None:
    silent = check(world(followers=False))
    shown = {
        name: silent.scalars[f"map_checks/linear_accuracy{name}"] for name in ("", "_targets_hidden", "_targets_only")
    }
    assert shown["_targets_hidden"] < shown["_targets_only"] - 0.2
    # Without followers nothing but the targets tells.
    assert shown["_targets_hidden"] < silent.scalars["map_checks/majority"] + 0.1


def test_light_that_gives_the_label_away_is_warned_of_though_nothing_responds() -> None:
    lit = check(world(amplitude=0.0, artefact=4.0, drop_laser_frames=False, trials=20))
    assert lit.scalars["map_checks/laser_accuracy_lit"] > lit.scalars["map_checks/laser_accuracy_late"] + 0.3
    warnings = [note for note in lit.notes if note.startswith("warning")]
    assert len(warnings) == lit.scalars["map_checks/warnings"] == 2
    assert "the network reads laser light" in warnings[0] and "Those frames are used" in warnings[1]


def test_light_in_frames_left_out_is_seen_and_said_to_be_left_out() -> None:
    dark = check(world(artefact=8.0))
    assert any("laser light reaches the detector. Those frames are not used" in note for note in dark.notes)


def test_networks_are_tried_on_the_other_day() -> None:
    source = world(days={"POD0": 1.0, "POD3": 1.0}, trials=5)
    task = SimpleNamespace(networks=[
        SimpleNamespace(seed=0, day=day, model=Linear(source.of_day(day)).eval(), device=CPU) for day in source.days
    ])  # fmt: skip
    values = yaml.safe_load((CONF / "evaluator/map_checks.yaml").read_text())["map_checks"]
    del values["_target_"]
    few = {"frames": 8, "steps": 2, "draws": 10, "decoder_side": 18}
    result = MapChecks(**{**values, **few})(task, SimpleNamespace(source=source))
    assert len(result.tables["transfer"]) == 4
    assert result.scalars["map_checks/transfer_own_day"] > 0.5
    assert "map_checks/transfer_other_day" in result.scalars


def test_weights_are_redrawn_from_the_last_layer_and_the_model_keeps_its_own() -> None:
    torch.manual_seed(0)
    model = StimulusCNN(1, 5, (4, 8), (1, 1), 2, 6, 0.0, False).eval()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    generator = torch.get_rng_state()
    steps = list(perturb.randomised_copies(model, 0))
    assert [name for name, _ in steps] == ["head.5", "head.2", "backbone.1.0", "backbone.0.0"]
    first, last = steps[0][1].state_dict(), steps[-1][1].state_dict()
    assert torch.equal(first["backbone.0.0.weight"], state["backbone.0.0.weight"])
    assert not torch.equal(first["head.5.weight"], state["head.5.weight"])
    assert not torch.equal(last["backbone.0.0.weight"], state["backbone.0.0.weight"])
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), generator)


def test_similarities_of_a_map_with_itself_are_one_and_with_its_negative_minus_one() -> None:
    maps = np.random.default_rng(0).random((3, 6, 6))
    mask = np.ones((6, 6), dtype=bool)
    assert perturb.map_similarities(maps, maps, mask) == pytest.approx({"zncc": 1, "spearman": 1, "ssim": 1})
    assert perturb.map_similarities(maps, -maps, mask)["zncc"] == pytest.approx(-1)
    assert np.isnan(perturb.map_similarities(maps, np.zeros_like(maps), mask)["zncc"])


def test_deleting_the_pixel_that_counts_first_lowers_the_answer_at_once() -> None:
    class Corner(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.stack([20 * x[:, 0, 0, 0] - 10, -x[:, 0, 0, 0]], dim=1)

    frames, labels = torch.ones(1, 1, 2, 2), torch.tensor([[1.0, 0.0]])
    order = torch.tensor([[0, 1, 2, 3]])
    deleted, inserted = perturb.perturbation_curves(Corner().eval(), frames, labels, order, torch.zeros(2, 2), 4)
    assert np.allclose(deleted[:, 0], [1, 0, 0, 0, 0], atol=1e-3)
    assert np.allclose(inserted[:, 0], [0, 1, 1, 1, 1], atol=1e-3)
    late, _ = perturb.perturbation_curves(Corner().eval(), frames, labels, order.flip(1), torch.zeros(2, 2), 4)
    assert np.allclose(late[:, 0], [1, 1, 1, 1, 0], atol=1e-3)


def test_a_peak_on_a_target_hits_and_chance_is_the_area() -> None:
    maps = np.zeros((2, 4, 4))
    maps[0, 1, 1] = maps[1, 3, 3] = 1
    targets = [np.array([[1.0, 1.0]])] * 2
    hits, chances = perturb.pointing_hits(maps, np.ones((4, 4), dtype=bool), targets, 0.5)
    assert hits.tolist() == [True, False] and chances.tolist() == [1 / 16, 1 / 16]


def test_labels_are_exchanged_by_trial_and_idle_frames_stay() -> None:
    trial = np.append(np.repeat(np.arange(8), 2), 0)
    pattern = np.append(np.repeat(np.arange(8), 2), 8)  # the last frame is idle
    new = exchange_labels(trial, pattern, np.random.default_rng(0))
    assert new[-1] == 8 and sorted(new[:-1:2].tolist()) == list(range(8))
    assert np.array_equal(new[:-1:2], new[1::2]) and not np.array_equal(new, pattern)


def test_discs_hide_the_same_pixels_whatever_the_label() -> None:
    discs = perturb.target_discs((9, 9), np.array([[4.0, 4.0]]), np.array([1.0]), 0.5)
    assert discs.sum() == 13 and discs[4, 6] and not discs[4, 7]


def test_too_few_frames_are_refused(responding: CalciumSimulated) -> None:
    with pytest.raises(ValueError, match="frames must be at least 1"):
        check(responding, frames=0)
