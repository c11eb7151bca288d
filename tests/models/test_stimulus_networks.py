"""Networks side by side: their own weights from their own seeds, and nothing shared."""

import pytest
import torch

from nissl.models.stimulus_networks import StimulusNetworks


def make(
    seeds: list[int], scope: str = "per_day", folds: int | None = None, leak_split: str | None = None
) -> StimulusNetworks:
    return StimulusNetworks(1, 3, (4, 4), (1, 1), 2, 8, 0.0, False, seeds, ["POD0", "POD3"], scope, folds, leak_split)


def test_there_is_a_network_per_seed_and_day_or_per_seed() -> None:
    assert make([0, 5]).members == [(seed, day, 0, False) for seed in (0, 5) for day in ("POD0", "POD3")]
    assert make([0, 5], "joint").members == [(0, None, 0, False), (5, None, 0, False)]


def test_a_network_depends_on_its_own_seed_alone() -> None:
    before = torch.get_rng_state()
    one, two = make([5]), make([0, 5])
    assert torch.equal(before, torch.get_rng_state())
    for first, second in zip(one.networks[1].parameters(), two.networks[3].parameters(), strict=True):
        assert torch.equal(first, second)
    weights = [network.backbone[0][0].weight for network in two.networks]
    assert all(not torch.equal(weights[i], weights[j]) for i in range(4) for j in range(i))


def test_each_network_answers_for_its_own_frame() -> None:
    model = make([0]).eval()
    frames = torch.randn(3, 2, 1, 16, 16)
    logits = model(frames)
    assert logits.shape == (3, 2, 3)
    assert torch.allclose(logits[:, 1], model.networks[1](frames[:, 1]))


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="no seeds: set dataset.network_seeds"):
        make([])
    with pytest.raises(ValueError, match="scope='daily' is unknown"):
        make([0], "daily")
    with pytest.raises(ValueError, match=r"expected frames \(B, 2, channels, H, W\)"):
        make([0])(torch.zeros(3, 1, 16, 16))


def test_folds_and_leaky_twins_start_from_the_same_weights() -> None:
    model = make([0], "joint", folds=3, leak_split="frame")
    assert model.members == [(0, None, fold, leaky) for fold in range(3) for leaky in (False, True)]
    first = model.networks[0].backbone[0][0].weight
    assert all(torch.equal(network.backbone[0][0].weight, first) for network in model.networks)
