"""From a trained network to the ZNCC matrix, on a tiny simulated experiment."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from nissl.datasets.calcium import CalciumSimulated
from nissl.evaluators.gradcam_zncc import GradcamZncc
from nissl.evaluators.map_cells import module_auroc
from nissl.evaluators.zncc import zncc_matrix
from nissl.models.stimulus_cnn import StimulusCNN

CONF = Path(__file__).parents[2] / "conf"
TINY = {
    "size_px": 36, "num_cells": 8, "num_targets": 4, "modules": [[1, 4], [2], [3]], "trials": 3, "num_outputs": 5,
    "min_target_distance_px": 7.0,
}  # fmt: skip


@pytest.fixture(scope="module")
def source() -> CalciumSimulated:
    values = yaml.safe_load((CONF / "dataset/calcium_simulated.yaml").read_text())
    del values["_target_"]
    return CalciumSimulated(**{**values, **TINY})


@pytest.fixture(scope="module")
def task() -> Any:
    torch.manual_seed(0)
    model = StimulusCNN(1, 5, (8, 16), (1, 1), 3, 16, 0.0, False).eval()
    return SimpleNamespace(model=model, device=torch.device("cpu"))


def measure(task: Any, source: Any, **changes: Any) -> Any:
    values = yaml.safe_load((CONF / "evaluator/gradcam_zncc.yaml").read_text())["gradcam_zncc"]
    del values["_target_"]
    fewer = {"consensus_draws": 20, "mantel_draws": 9}
    return GradcamZncc(**{**values, "which": "all", **fewer, **changes})(task, SimpleNamespace(source=source))


def test_the_sum_is_that_of_the_matrix_of_mean_maps(task: Any, source: CalciumSimulated) -> None:
    result = measure(task, source)
    maps = result.arrays["maps"][:, result.arrays["mask"]]
    assert np.array_equal(result.arrays["matrix_zncc"], zncc_matrix(maps), equal_nan=True)
    assert result.scalars["zncc/sum"] == pytest.approx(np.nansum(result.arrays["matrix_zncc"]))
    assert result.arrays["names"].tolist() == [p.name for p in source.patterns]


def test_the_matrix_has_a_row_per_pattern_and_the_evoked_one_none_for_idle(task: Any, source: CalciumSimulated) -> None:
    scalars = measure(task, source).scalars
    assert scalars["zncc/rows"] == scalars["zncc_evoked/rows"] == 11
    assert scalars["zncc_evoked/undefined_maps"] == scalars["zncc_truth/undefined_maps"] == 1


def test_declared_metrics_cover_the_scalars(task: Any, source: CalciumSimulated) -> None:
    import fnmatch

    scalars = measure(task, source).scalars
    for name in ("sum", "mean_offdiag", "undefined_maps", "truth_r_all", "truth_r_disjoint", "truth_r_singles"):
        assert f"zncc/{name}" in scalars
    for name in scalars:
        assert any(fnmatch.fnmatch(name, pattern) for pattern in GradcamZncc.metrics), name


def test_the_evoked_map_resembles_the_truth(task: Any, source: CalciumSimulated) -> None:
    scalars = measure(task, source).scalars
    assert scalars["zncc_evoked/truth_r_all"] > 0.5


def test_both_answers_stand_in_the_notes(task: Any, source: CalciumSimulated) -> None:
    result = measure(task, source)
    note = next(note for note in result.notes if note.startswith("simulated data"))
    assert f"{result.scalars['zncc_evoked/truth_r_disjoint']:.3f}" in note


def test_cells_get_scores_clusters_and_a_p_for_a_named_set(task: Any, source: CalciumSimulated) -> None:
    result = measure(task, source, named_sets=[["1", "4"]])
    scores = result.arrays["cells_direct"]
    matrix = result.arrays["matrix_zncc"]
    assert scores.shape == (4, 4) and scores[0, 1] == pytest.approx(matrix[0, 1])
    pairs = result.tables["cell_pairs"]
    assert len(pairs) == 6 and pairs[0]["direct"] == max(row["direct"] for row in pairs)
    assert all(0 <= row["clustered_together"] <= 1 for row in pairs)
    assert 1 / 6 <= result.scalars["zncc/named_set_p_1_4_direct"] <= 1
    assert {row["threshold"] for row in result.tables["clusters"]} == {0.3, 0.5, 0.7}


def test_distance_is_measured_and_taken_out(task: Any, source: CalciumSimulated) -> None:
    result = measure(task, source)
    residual = result.arrays["matrix_without_distance"]
    assert np.nanmean(residual) == pytest.approx(0, abs=1e-9)
    assert -1 <= result.scalars["zncc/distance_rho_mean"] <= 1
    assert result.scalars["zncc/disjoint_beyond_targets"] < 1
    assert 0 < result.scalars["zncc/truth_p_given_distance"] <= 1


def test_reliability_of_each_pattern_stands_in_the_table(task: Any, source: CalciumSimulated) -> None:
    result = measure(task, source)
    column = np.array([row["reliability"] for row in result.tables["patterns"]])
    assert result.scalars["zncc/reliability"] == pytest.approx(np.nanmedian(column))


def test_the_network_and_day_asked_for_are_read(task: Any, source: CalciumSimulated) -> None:
    networks = [SimpleNamespace(seed=0, day="other", model=None, device=None),
                SimpleNamespace(seed=0, day="POD0", model=task.model, device=task.device)]  # fmt: skip
    several = measure(SimpleNamespace(networks=networks), source, day="POD0")
    assert several.scalars["zncc/sum"] == measure(task, source).scalars["zncc/sum"]
    with pytest.raises(ValueError, match="no day 'POD9'"):
        measure(task, source, day="POD9")


def test_the_task_is_left_as_it_was(task: Any, source: CalciumSimulated) -> None:
    before = {name: value.clone() for name, value in task.model.state_dict().items()}
    measure(task, source)
    assert all(torch.equal(value, before[name]) for name, value in task.model.state_dict().items())
    assert not task.model.training and all(p.grad is None for p in task.model.parameters())


def test_figures_show_maps_matrices_and_truth(task: Any, source: CalciumSimulated) -> None:
    figures = measure(task, source, order="cluster").figures
    assert set(figures) == {
        "field", "maps", "matrix", "truth", "against_evoked", "cells", "clusters", "distance",
    }  # fmt: skip
    assert all(figure.png.startswith(b"\x89PNG") for figure in figures.values())


def test_a_network_that_names_nothing_rightly_leaves_undefined_rows(task: Any, source: CalciumSimulated) -> None:
    blind = SimpleNamespace(model=StimulusCNN(1, 5, (8, 16), (1, 1), 3, 16, 0.0, False).eval(), device=task.device)
    for parameter in blind.model.parameters():
        torch.nn.init.zeros_(parameter)
    result = measure(blind, source, which="correct")
    assert result.scalars["zncc/undefined_maps"] == 11
    assert any("no usable frame" in note for note in result.notes)
    assert result.scalars["zncc/dead_maps"] > 0
    assert "distance" not in result.figures and {"maps", "matrix", "cells", "clusters"} <= set(result.figures)


def test_cells_of_one_module_are_told_apart_by_a_matrix_that_shows_it(source: CalciumSimulated) -> None:
    cells = [pattern.cells for pattern in source.patterns]
    matrix = np.zeros((11, 11))
    assert source.truth is not None
    same = source.truth.module[:, None] == source.truth.module[None]
    matrix[:4, :4] = np.where(same, 0.9, 0.1)
    assert module_auroc(matrix, cells, source) == 1
    assert module_auroc(-matrix, cells, source) == 0


def test_classes_from_a_covariate_need_no_idle_frames_and_no_positions(task: Any, source: CalciumSimulated) -> None:
    from nissl.datasets.calcium_events import CellTable, Pattern

    plain = SimpleNamespace(
        **{name: getattr(source, name) for name in ("table", "mask", "mean_image", "rows", "unvaried", "labels")},
        patterns=[Pattern((f"class {i}",)) for i in range(11)],
        cells=CellTable(tuple(f"class {i}" for i in range(11))),
        truth=None,
        days=("",),
        um_per_px=None,
    )
    plain.of_day = lambda name: plain
    result = measure(task, plain)
    assert "matrix_zncc_evoked" not in result.arrays and set(result.figures) == {"field", "maps", "matrix", "cells"}
    assert any("evoked-map baseline skipped" in note for note in result.notes)


def test_an_unknown_weight_is_refused() -> None:
    with pytest.raises(ValueError, match="weight='pixel' is unknown"):
        GradcamZncc("train", "all", "gradcam", None, "l2", "pixel", "cell", [], None, [], [], 0.3, 0, 9, 0, 8)
