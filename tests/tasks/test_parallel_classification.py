"""Several classifiers in one training are what each would be alone."""

from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from nissl.models.stimulus_cnn import StimulusCNN
from nissl.models.stimulus_networks import StimulusNetworks
from nissl.tasks.classification import Classification
from nissl.tasks.parallel_classification import ParallelClassification

OPTIMIZER = partial(torch.optim.AdamW, lr=3e-3)


def make(
    seeds: list[int], scope: str = "per_day", folds: int | None = None, leak_split: str | None = None
) -> ParallelClassification:
    model = StimulusNetworks(1, 3, (4, 8), (1, 1), 2, 8, 0.0, False, seeds, ["POD0", "POD3"], scope, folds, leak_split)
    task = ParallelClassification(model, OPTIMIZER, "constant", 1.0, True, None)
    task.log = lambda *args, **kwargs: None  # type: ignore[method-assign]
    return task


def test_a_step_moves_each_network_as_if_it_were_trained_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    frames, label = torch.randn(8, 2, 1, 16, 16, generator=generator), torch.eye(3)[torch.arange(16) % 3].view(8, 2, 3)
    together, alone = make([4]), Classification(make([4]).model.networks[1], OPTIMIZER, "constant", 1.0, True, None)
    alone.log = lambda *args, **kwargs: None  # type: ignore[method-assign]
    batches: list[tuple[Classification, dict[str, torch.Tensor]]] = [
        (together, {"frames": frames, "label": label}),
        (alone, {"frames": frames[:, 1], "label": label[:, 1]}),
    ]
    for task, batch in batches:
        optimizer = task.configure_optimizers()
        for step in range(2):
            optimizer.zero_grad()
            task.training_step(batch, step).backward()
            optimizer.step()
    pairs = zip(together.model.networks[1].parameters(), alone.model.parameters(), strict=True)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in pairs)


def test_networks_are_offered_with_their_seed_and_day() -> None:
    networks = make([0, 3]).networks
    assert [(n.seed, n.day) for n in networks] == [(0, "POD0"), (0, "POD3"), (3, "POD0"), (3, "POD3")]
    frames = torch.zeros(2, 1, 16, 16)
    assert torch.equal(networks[1]({"frames": frames}), networks[1].model(frames))


def test_validation_asks_each_network_about_its_own_day_only() -> None:
    task, asked = make([0]), []
    task._trainer = SimpleNamespace(datamodule=SimpleNamespace(source=SimpleNamespace(days=("POD0", "POD3"))))  # type: ignore[assignment]
    for network in task.model.networks:
        network.register_forward_hook(lambda module, args, out: asked.append(args[0][:, 0, 0, 0].tolist()))
    frames = torch.arange(4.0)[:, None, None, None].expand(4, 1, 16, 16)
    task.on_validation_epoch_start()
    batch: dict[str, Any] = {"frames": frames, "label": torch.eye(3)[[0, 0, 1, 2]], "day": torch.tensor([0, 1, 1, 0])}
    task.validation_step(batch, 0)
    assert asked == [[0, 3], [1, 2]]
    assert sum(count for _, count in task._seen.values()) == 4


def test_a_single_network_is_refused() -> None:
    with pytest.raises(ValueError, match="needs model=stimulus_networks"):
        ParallelClassification(
            StimulusCNN(1, 3, (4,), (1,), 2, 8, 0.0, False),  # type: ignore[arg-type]
            OPTIMIZER,
            "constant",
            1.0,
            True,
            None,
        )
