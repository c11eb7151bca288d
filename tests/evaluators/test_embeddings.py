import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from nissl.evaluators.embeddings import embed_split, published_model, untrained_copy
from nissl.models.graph_dino import GraphDINO


class Plain:
    """Items with a label, and nothing but a split."""

    def split(self, name: str) -> torch.utils.data.TensorDataset:
        return torch.utils.data.TensorDataset(torch.arange(12.0).view(6, 2))

    @staticmethod
    def collate(items: list) -> torch.Tensor:
        return torch.stack([item[0] for item in items])


class Identity(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Linear(1, 1)

    def embed(self, batch: torch.Tensor) -> torch.Tensor:
        return batch


def test_embeddings_keep_the_order_of_the_items() -> None:
    data = SimpleNamespace(source=Plain(), batch_size=4)
    np.testing.assert_array_equal(embed_split(Identity(), data, "test"), np.arange(12.0).reshape(6, 2))


def test_a_model_without_embed_is_an_error_that_says_so() -> None:
    with pytest.raises(ValueError, match="Linear has no embed"):
        embed_split(nn.Linear(2, 2), SimpleNamespace(source=Plain(), batch_size=4), "test")


def test_an_untrained_copy_is_random_reproducible_and_leaves_model_and_random_state_alone() -> None:
    torch.manual_seed(0)
    model = GraphDINO(dim=8, depth=1, num_heads=2, num_positions=4, num_prototypes=6, head="bounded")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    a, b, c = (untrained_copy(model, seed).state_dict() for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]) and torch.equal(a[name], b[name])
    changed = [name for name in a if not torch.equal(a[name], c[name])]
    assert {name for name in a if "norm" not in name} == set(changed), "only norms start the same"


def test_parameters_that_cannot_be_reset_are_an_error() -> None:
    class Stubborn(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(2))

    with pytest.raises(ValueError, match="Stubborn .* has parameters but no reset_parameters"):
        untrained_copy(Stubborn(), 0)


class Draws:
    """Items that depend on the draw."""

    collate = staticmethod(Plain.collate)

    def unaugmented(self, split: str, draw: int | str = 0) -> torch.utils.data.TensorDataset:
        return torch.utils.data.TensorDataset(torch.full((3, 2), 10.0 if draw == "all" else float(draw)))


def test_the_mean_over_draws_is_that_and_all_nodes_are_their_own_draw() -> None:
    data = SimpleNamespace(source=Draws(), batch_size=2)
    assert embed_split(Identity(), data, "test").max() == 0.0
    np.testing.assert_array_equal(embed_split(Identity(), data, "test", 4), np.full((3, 2), 1.5))
    assert embed_split(Identity(), data, "test", "all").min() == 10.0


def test_published_weights_come_in_their_own_architecture(tmp_path: Path) -> None:
    sizes = {"dim": 8, "depth": 1, "num_heads": 2, "num_positions": 4, "num_prototypes": 6}
    theirs, ours = GraphDINO(**sizes, head="bounded"), GraphDINO(**sizes | {"dim": 16}, head="bounded")
    path = tmp_path / "published.safetensors"
    save_file(theirs.state_dict(), path, {"architecture": json.dumps({**sizes, "head": "bounded"})})
    imported = published_model(ours, path)
    assert torch.equal(imported.to_embedding.weight, theirs.to_embedding.weight)
    with pytest.raises(ValueError, match="no such file"):
        published_model(ours, tmp_path / "none.safetensors")
    save_file(theirs.state_dict(), path)
    with pytest.raises(ValueError, match="does not state its architecture"):
        published_model(ours, path)
    save_file(theirs.state_dict(), path, {"architecture": json.dumps(sizes | {"depth": 2})})
    with pytest.raises(ValueError, match="does not fit GraphDINO"):
        published_model(ours, path)
