from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from nissl.datasets.morphology import SimulatedMorphologies
from nissl.evaluators.invariance import Invariance, _without_branches
from nissl.models.graph_dino import GraphDINO


@pytest.fixture(scope="module")
def data() -> SimpleNamespace:
    source = SimulatedMorphologies(
        cells_per_class=5, simulation_seed=0, num_folds=5, val_fold=1, test_fold=0, split_seed=0, cache_nodes=60,
        embed_nodes=24, num_nodes=24, num_drop_branches=1, cut_edge="parent", rotation="axis", rotation_axis="y",
        mirror=False, jitter_std_um=1.0, shift_std_um=5.0, scale_log_std=0.0,
    )  # fmt: skip
    return SimpleNamespace(source=source, batch_size=4)


def invariance(**changes: Any) -> Invariance:
    options = {
        "split": "train", "max_cells": 6, "angles_deg": [90], "shifts_um": [10], "jitters_um": [2], "scales": [1.5],
        "missing": [0.3], "seed": 0,
    }  # fmt: skip
    return Invariance(**{**options, **changes})


class Centre(nn.Module):
    """Embeds a cell as its mean distance from the y axis and the spread of its heights."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def embed(self, batch: Any) -> torch.Tensor:
        rho = batch.pos[:, [0, 2]].norm(dim=1)
        parts = [(rho[batch.batch == g].mean(), batch.pos[batch.batch == g, 1].std()) for g in range(batch.num_graphs)]
        return torch.tensor(parts) * self.scale


def test_what_the_embedding_ignores_does_not_move_it_and_what_it_measures_does(data: SimpleNamespace) -> None:
    result = invariance()(SimpleNamespace(model=Centre()), data)
    s = result.scalars
    assert (
        s["invariance/rotation_y_deg_90"] == pytest.approx(0.0, abs=1e-6) and s["invariance/own_rotation_y_deg_90"] == 1
    )
    assert s["invariance/node_order"] == pytest.approx(0.0, abs=1e-6)
    assert s["invariance/scale_1.5"] > 0.1 and s["invariance/other_thinning"] > 0
    assert "invariance/encoding_signs" not in s and "repeated_eigenvalues" not in result.tables, "it encodes no place"


def test_signs_of_the_encoding_move_a_transformer_and_adjacency_is_kept_with_branches(data: SimpleNamespace) -> None:
    model = GraphDINO(dim=8, depth=1, num_heads=2, num_positions=4, num_prototypes=6, head="bounded").eval()
    result = invariance()(SimpleNamespace(model=model), data)
    s = result.scalars
    assert [row["nodes"] for row in result.tables["repeated_eigenvalues"]] == [24] * 6
    assert s["invariance/encoding_signs"] > 0 and s["invariance/encoding_zero"] > 0
    assert s["invariance/spread"] > 0


def test_cut_branches_leave_a_tree_of_about_the_right_size(data: SimpleNamespace) -> None:
    item = data.source.unaugmented("train")[0]
    cut = _without_branches(item, 0.3, np.random.default_rng(0))
    n = len(cut.pos)
    assert 0.7 * 24 <= n < 24 and cut.edge_index.shape == (2, 2 * (n - 1))
    assert torch.equal(cut.pos[0], item.pos[0]) and int(cut.edge_index.max()) == n - 1
    assert torch.all(cut.edge_index[1, : n - 1] < cut.edge_index[0, : n - 1])


def test_a_collapsed_encoder_is_an_error_not_an_invariant_one(data: SimpleNamespace) -> None:
    model = Centre()
    with torch.no_grad():
        model.scale.zero_()
    with pytest.raises(ValueError, match="collapsed"):
        invariance()(SimpleNamespace(model=model), data)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"split": "all"}, "split"),
        ({"max_cells": 2}, "max_cells"),
        ({"missing": [1.0]}, "missing"),
        ({"scales": [0]}, "sca"),
    ],
)
def test_wrong_settings_are_errors(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        invariance(**changes)
