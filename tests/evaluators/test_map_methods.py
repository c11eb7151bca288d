"""Map methods side by side: additive worlds are recovered by regression, and every number is declared."""

import fnmatch
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from nissl.datasets.calcium import CalciumSimulated
from nissl.evaluators.map_baselines import untrained_copy
from nissl.evaluators.map_methods import MapMethods, look, stability_rows
from nissl.evaluators.map_saliency import parse_saliency
from nissl.evaluators.pattern_maps import collect_maps
from nissl.models.stimulus_cnn import StimulusCNN

CONF = Path(__file__).parents[2] / "conf"


@pytest.fixture(scope="module")
def source() -> CalciumSimulated:
    values = yaml.safe_load((CONF / "dataset/calcium_simulated.yaml").read_text())
    del values["_target_"]
    tiny = {
        "size_px": 36, "num_cells": 8, "num_targets": 4, "modules": [[1, 4], [2], [3]], "trials": 3, "num_outputs": 5,
        "min_target_distance_px": 7.0,
    }  # fmt: skip
    return CalciumSimulated(**{**values, **tiny})


@pytest.fixture(scope="module")
def task() -> Any:
    torch.manual_seed(0)
    model = StimulusCNN(1, 5, (8, 16), (1, 1), 3, 16, 0.0, False).eval()
    return SimpleNamespace(model=model, device=torch.device("cpu"))


def make(**changes: Any) -> MapMethods:
    values = yaml.safe_load((CONF / "evaluator/map_methods.yaml").read_text())["map_methods"]
    del values["_target_"]
    return MapMethods(
        **{**values, "saliency": ["gradcam", "layercam-centred", "gradient"], "mantel_draws": 9, **changes}
    )


@pytest.fixture(scope="module")
def result(task: Any, source: CalciumSimulated) -> Any:
    return make()(task, SimpleNamespace(source=source))


def test_every_scalar_is_declared_and_every_method_has_the_truth_beside_it(result: Any) -> None:
    for name in result.scalars:
        assert any(fnmatch.fnmatch(name, pattern) for pattern in MapMethods.metrics), name
    for method in ("gradcam", "layercam-centred", "activation_pattern", "evoked", "label_regression", "target_discs",
                   "linear_decoder", "untrained_gradcam"):  # fmt: skip
        assert f"map_methods/{method}_truth_r_disjoint" in result.scalars
    assert {row["network"] for row in result.tables["methods"]} == {"network", "none", "untrained"}
    assert set(result.figures) == {"agreement", "matrices"}


def test_regression_on_labels_recovers_more_of_an_additive_world_than_evoked_maps(result: Any) -> None:
    found = {row["method"]: row["truth_r_all"] for row in result.tables["methods"]}
    assert found["label_regression"] > 0.7 and found["label_regression"] > found["evoked"]


def test_the_notes_compare_the_best_map_with_the_evoked_one_and_with_labels_alone(result: Any) -> None:
    assert f"the evoked map's {result.scalars['map_methods/evoked_truth_r_disjoint']:.3f}" in result.notes[0]
    assert "which needs no network" in result.notes[1]


def test_its_gradcam_is_that_of_the_other_evaluator(task: Any, source: CalciumSimulated) -> None:
    network = SimpleNamespace(model=task.model, device=task.device, seed=0)
    seen = look(network, source, "train", [parse_saliency("gradcam")], 64)
    collected = collect_maps(task, source, "train", "gradcam", None, "all", "l2", 64)
    expected = collected.maps.mean_maps(len(source.patterns), "frame")[:, collected.mask]
    assert np.allclose(seen.saliency["gradcam"], expected, atol=1e-6, equal_nan=True)


def test_the_task_and_the_global_generator_are_left_alone(task: Any) -> None:
    before = torch.get_rng_state()
    fresh = untrained_copy(task.model, 3)
    assert torch.equal(torch.get_rng_state(), before)
    pairs = list(zip(task.model.parameters(), fresh.parameters(), strict=True))
    assert any(not torch.equal(a, b) for a, b in pairs)
    again = untrained_copy(task.model, 3)
    assert all(torch.equal(a, b) for a, b in zip(fresh.parameters(), again.parameters(), strict=True))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"saliency": ["gradcam", "magic"]}, "saliency method 'magic' is unknown"),
        ({"saliency": ["layercam"]}, "saliency must hold gradcam"),
        ({"ridge": 0.0}, "must be above 0"),
    ],
)
def test_unknown_choices_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**changes)


def test_stability_compares_methods_network_by_network_and_networks_within_a_method() -> None:
    cells = [("1",), ("2",), ("3",), ("4",)]
    rng = np.random.default_rng(0)
    first, second = rng.random((2, 4, 4))
    rows = stability_rows({"a": [first, second], "b": [2 * first, 3 * second]}, cells)
    found = {(row["method"], row["other"]): row["all"] for row in rows}
    assert found["a", "b"] == pytest.approx(1) and found["a", "other networks"] == found["b", "other networks"] < 1
    assert len(stability_rows({"a": [first]}, cells)) == 0


def test_names_carry_their_options() -> None:
    parsed = parse_saliency("gradcam++-signed-centred@2")
    assert (parsed.method, parsed.signed, parsed.centred, parsed.layer) == ("gradcam++", True, True, 2)
