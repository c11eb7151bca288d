import functools

import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from nissl.models.ffn import FFN
from nissl.tasks.ffn_imitation import FFNImitation

# Lightning 2.6 with torch 2.13 warns of itself; loaders of a few batches need no workers.
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*LeafSpec.*:FutureWarning", "ignore:.*does not have many workers", "ignore:.*logging interval"
)


class Bright(nn.Module):
    """A teacher that knows its object: what is bright belongs to it. Keeps the seeds that it is shown."""

    pad_value = 0.05

    def __init__(self):
        super().__init__()
        self.shown = []

    def forward(self, image, seed):
        self.shown.append(seed.clone())
        return torch.where(image > 0, 5.0, -5.0)


def task(teacher, **changed):
    values = {
        "optimizer": functools.partial(torch.optim.AdamW, lr=0.01),
        "teacher_weights": None,
        "policy": "fixed",
        "window_radius": 0,
        "max_moves": 4,
        "moves_per_step": None,
        "clip_value": 0.7,
        "nonfinite": "abort",
        "decay_steps": None,
        "ema_decay": None,
    }
    student = FFN((5, 5, 5), (2, 2, 2), 2, 8, 0.95, 0.5, 0.6, "group", "he")
    return FFNImitation(student, teacher=teacher, **(values | changed))


def batch(num=4):
    """A bright bar along z in 9^3 voxels. The true label is empty: only the teacher can tell."""
    image = torch.full((num, 1, 9, 9, 9), -1.0)
    image[:, :, :, 3:6, 3:6] = 1.0
    return {"image": image, "label": torch.zeros_like(image), "draw": torch.arange(num)}


def fit(module, **arguments):
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
                         enable_model_summary=False, num_sanity_val_steps=0, **arguments)  # fmt: skip
    loader = torch.utils.data.DataLoader([batch()] * 4, batch_size=None)
    trainer.fit(module, loader, loader)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_the_student_learns_what_only_the_teacher_knows(precision):
    torch.manual_seed(0)
    module = task(Bright())
    fit(module, max_epochs=15, precision=precision)
    image = batch(1)["image"][..., 2:7, 2:7, 2:7]
    seed = torch.zeros_like(image)
    seed[:, :, 2, 2, 2] = 3.0
    found = module.model(image, seed)[0, 0, 2, 2]
    assert found[2] > 1 and found[0] < -1


def test_the_teacher_is_asked_at_every_move_and_shown_its_own_pad_value():
    teacher = Bright()
    module = task(teacher)
    fit(module, max_epochs=6)
    assert sum(len(seeds) for seeds in teacher.shown) == int(module.num_fovs)
    first = teacher.shown[0]  # nothing but the centre was ever visited
    assert first.unique().tolist() == pytest.approx([-2.944, 2.944], abs=1e-3)
    assert len(teacher.shown[-1].unique()) > 100  # by then the student has grown something


def test_a_resumable_checkpoint_does_not_hold_the_teacher():
    teacher = FFN((5, 5, 5), (2, 2, 2), 1, 4, 0.95, 0.05, 0.9)
    module = task(teacher)
    assert len(list(module.parameters())) == len(list(module.model.parameters()))
    assert not any("teacher" in name for name in module.state_dict())


def test_missing_weights_of_the_teacher_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="Make it with: nissl import ffn"):
        task(Bright(), teacher_weights=str(tmp_path / "lost.safetensors"))
