from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from nissl.evaluators.embeddings import embed_split, hand_made_features, untrained_copy
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


def test_hand_made_features_are_scaled_on_the_training_cells() -> None:
    rng = np.random.default_rng(0)

    class Cells:
        def cells(self, split: str) -> list[SimpleNamespace]:
            pos = [rng.normal(size=(6, 3)) for _ in range(20)]
            return [SimpleNamespace(pos=p, parent=np.array([-1, 0, 0, 1, 1, 2])) for p in pos]

    features = hand_made_features(SimpleNamespace(source=Cells()), "train", ("train", "test"))
    assert features is not None
    spread = features["train"].std(axis=0)
    np.testing.assert_allclose(spread[spread > 1e-6], 1.0)
    np.testing.assert_allclose(features["train"].mean(axis=0), 0.0, atol=1e-9)
    assert np.isfinite(features["test"]).all()
    assert hand_made_features(SimpleNamespace(source=Plain()), "train", ("train",)) is None
