"""Learning from multi-hot labels."""

from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from nissl.models.stimulus_cnn import StimulusCNN
from nissl.tasks.classification import Classification, balanced_weights, lenient_hits


def make_task(
    schedule: str = "constant", pos_weight: float | str = 1.0, stop_at: float | None = None
) -> Classification:
    net = StimulusCNN(1, 3, (8, 16), (1, 1), 2, 16, 0.0, False)
    return Classification(net, partial(torch.optim.AdamW, lr=3e-3), schedule, pos_weight, True, stop_at)


def batch(count: int = 40) -> dict[str, torch.Tensor]:
    """Frames with a bright square for each cell of the label."""
    label = torch.tensor([[1.0, 0, 0], [0, 1, 0], [1, 1, 0], [0, 0, 1]]).repeat(count // 4, 1)
    frames = 0.1 * torch.randn(count, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    frames[:, 0, :8, :8] += label[:, 0, None, None]
    frames[:, 0, 8:, 8:] += label[:, 1, None, None]
    return {"frames": frames, "label": label, "index": torch.arange(count)}


def test_the_strongest_output_need_name_only_one_cell_of_a_pair() -> None:
    label = torch.tensor([[1.0, 1, 0], [1, 1, 0], [0, 0, 1]])
    logits = torch.tensor([[0.0, 5, 1], [0, 1, 5], [0, 0, 2]])
    assert lenient_hits(logits, label).tolist() == [1, 0, 1]


def test_the_loss_equals_bceloss_on_sigmoid() -> None:
    torch.manual_seed(0)
    task = make_task()
    data = batch()
    expected = nn.BCELoss()(torch.sigmoid(task(data)), data["label"])
    assert torch.allclose(task._loss(task(data), data["label"]), expected)


def test_positive_frames_may_weigh_more() -> None:
    logits, label = torch.tensor([[0.3, -0.2, 0.1]]), torch.tensor([[1.0, 0, 0]])
    expected = functional.binary_cross_entropy_with_logits(logits, label, weight=torch.tensor([[3.0, 1, 1]]))
    assert torch.allclose(make_task(pos_weight=3.0)._loss(logits, label), expected)


def test_forty_frames_are_learned_by_heart() -> None:
    torch.manual_seed(0)
    task, data = make_task(), batch()
    optimizer = task.configure_optimizers()
    task.log = lambda *args, **kwargs: None  # type: ignore[method-assign]
    losses = []
    for step in range(60):
        loss = task.training_step(data, step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    task.eval()
    assert losses[-1] < 0.1 * losses[0]
    assert lenient_hits(task(data), data["label"]).mean() == 1


def test_validation_logs_balanced_accuracy_and_recall_of_none() -> None:
    task = make_task()
    logged: dict[str, float] = {}
    task.log = lambda name, value, **kwargs: logged.update({name: float(value)})  # type: ignore[method-assign]
    answers = {"right": torch.tensor([[0.0, 9, 0]]), "none": torch.tensor([[0.0, 0, 9]])}
    task.on_validation_epoch_start()
    for label, answer in [([1, 1, 0], "right"), ([1, 1, 0], "right"), ([0, 1, 0], "none"), ([0, 0, 1], "none")]:
        task.forward = lambda _, answer=answer: answers[answer]  # type: ignore[method-assign]
        task.validation_step(
            {"frames": torch.zeros(1, 1, 16, 16), "label": torch.tensor([label], dtype=torch.float)}, 0
        )
    task.on_validation_epoch_end()
    assert logged["val/acc_balanced"] == pytest.approx(2 / 3)
    assert logged["val/none_recall"] == 1


def test_an_unknown_schedule_is_refused() -> None:
    with pytest.raises(ValueError, match="task.schedule='linear' is unknown"):
        make_task(schedule="linear")


def test_a_falling_learning_rate_needs_an_end() -> None:
    task = make_task(schedule="cosine")
    task._trainer = type("Endless", (), {"estimated_stepping_batches": float("inf")})()
    with pytest.raises(ValueError, match="set trainer.max_epochs or trainer.max_steps"):
        task.configure_optimizers()


def test_balanced_weights_are_negatives_per_positive_of_each_output() -> None:
    labels = torch.tensor([[1.0, 0, 0]] * 2 + [[1.0, 1, 0]] * 2 + [[0.0, 0, 1]] * 6)
    assert balanced_weights(labels).tolist() == pytest.approx([1.5, 4.0, 1.0])
    assert balanced_weights(torch.eye(2)[[0] * 99 + [1]]).tolist() == [1.0, 20.0]  # clipped at both ends


def test_balanced_weights_come_from_the_training_frames() -> None:
    task = make_task(pos_weight="balanced")
    source = SimpleNamespace(
        labels=np.eye(3, dtype=np.float32), table=SimpleNamespace(pattern=np.array([0, 1, 1, 2, 2])),
        rows=lambda part: np.array([0, 1, 2]),
    )  # fmt: skip
    task._trainer = SimpleNamespace(datamodule=SimpleNamespace(source=source))  # type: ignore[assignment]
    task.on_fit_start()
    expected = functional.binary_cross_entropy_with_logits(
        torch.zeros(1, 3), torch.tensor([[1.0, 0, 0]]), weight=torch.tensor([[2.0, 1, 1]])
    )
    assert torch.allclose(task._loss(torch.zeros(1, 3), torch.tensor([[1.0, 0, 0]])), expected)


@pytest.mark.parametrize(("stop_at", "stops"), [(0.75, True), (0.99, False)])
def test_training_stops_once_the_unvaried_training_frames_are_known(stop_at: float, stops: bool) -> None:
    class Unvaried(torch.utils.data.Dataset):  # type: ignore[type-arg]
        def __len__(self) -> int:
            return 4

        def __getitem__(self, i: int) -> dict[str, torch.Tensor]:
            label = torch.eye(3)[0 if i < 3 else 1]
            return {"frames": torch.zeros(1, 16, 16), "label": label}

    task = make_task(stop_at=stop_at)
    task.model.forward = lambda frames: torch.tensor([[1.0, 0, 0]]).expand(len(frames), 3)  # type: ignore[method-assign]
    task.log = lambda *args, **kwargs: None  # type: ignore[method-assign]
    source = SimpleNamespace(unvaried=lambda part: Unvaried())
    task._trainer = SimpleNamespace(datamodule=SimpleNamespace(source=source), should_stop=False)  # type: ignore[assignment]
    task.on_train_epoch_end()
    assert task.trainer.should_stop is stops


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"pos_weight": "even"}, "pos_weight='even' is unknown"), ({"stop_at": 1.5}, r"must be in \(0, 1\], came 1.5")],
)
def test_wrong_options_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_task(**changes)
