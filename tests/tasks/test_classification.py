"""Learning from multi-hot labels."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional

from nissl.models.stimulus_cnn import StimulusCNN
from nissl.tasks.classification import Classification, lenient_hits


def make_task(schedule: str = "constant", pos_weight: float = 1.0) -> Classification:
    net = StimulusCNN(1, 3, (8, 16), (1, 1), 2, 16, 0.0, False)
    return Classification(net, partial(torch.optim.AdamW, lr=3e-3), schedule, pos_weight, none_output=True)


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
