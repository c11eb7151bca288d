import functools

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

from nissl.models.ffn import FFN
from nissl.tasks.ffn_distillation import FFNDistillation, load_teacher, teacher_probabilities, turned

# Lightning 2.6 with torch 2.13 warns of itself; loaders of a few batches need no workers.
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*LeafSpec.*:FutureWarning", "ignore:.*does not have many workers", "ignore:.*logging interval"
)


class Bright(nn.Module):
    """A teacher that knows its object: what is bright belongs to it. Counts its moves."""

    fov_zyx, deltas_zyx = (9, 9, 9), (4, 4, 4)
    init_activation, pad_value, move_threshold = 0.95, 0.05, 0.9

    def __init__(self):
        super().__init__()
        self.moves = 0

    def forward(self, image, seed):
        self.moves += len(image)
        return torch.where(image > 0, 5.0, -5.0)


def student():
    return FFN((5, 5, 5), (2, 2, 2), 2, 8, 0.95, 0.5, 0.6, "group", "he")


def task(teacher=None, **changed):
    values = {
        "optimizer": functools.partial(torch.optim.AdamW, lr=0.01),
        "teacher": teacher or Bright(),
        "teacher_weights": None,
        "teacher_moves": None,
        "teacher_share": 1.0,
        "pool_zyx": (2, 2, 2),
        "policy": "fixed",
        "window_radius": 0,
        "max_moves": 4,
        "moves_per_step": None,
        "soft_label": 0.0,
        "clip_value": 0.7,
        "nonfinite": "abort",
        "boundary_weight": 0.0,
        "decay_steps": None,
        "ema_decay": None,
    }
    return FFNDistillation(student(), **(values | changed))


def batch(num=4, places=True):
    """A bright bar along z in 18^3 voxels; the student sees 9^3. The true label is empty: only the teacher can tell."""
    image = torch.full((num, 1, 18, 18, 18), -1.0)
    image[:, :, :, 5:13, 5:13] = 1.0
    items = {"image": image, "label": torch.zeros_like(image), "draw": torch.arange(num)}
    return items | ({"place": torch.arange(num) % 2} if places else {})


def test_the_teacher_grows_over_its_moves_and_says_nothing_where_it_never_was():
    image = batch(1)["image"]
    teacher = Bright()
    one = teacher_probabilities(teacher, image, 1)
    assert teacher.moves == 1 and one.shape == image.shape
    assert one[0, 0, 8, 8, 8] > 0.9 and one[0, 0, 0, 8, 8].isnan()
    all_moves = teacher_probabilities(teacher, image, None)
    assert all_moves[0, 0, 0, 8, 8] > 0.9 and all_moves[0, 0, 8, 8, 4] < 0.1
    assert all_moves[0, 0, 8, 8, 0].isnan()  # dark: it looked from 4 on, and went no farther
    last, before = all_moves[..., 17].nan_to_num(-1.0), all_moves[..., 16].nan_to_num(-1.0)
    assert torch.equal(last, before)  # 17 voxels are a whole number of steps, 18 are not


def test_a_pooled_target_is_the_share_of_the_block_that_the_teacher_gives_to_the_object():
    target = F.avg_pool3d(teacher_probabilities(Bright(), batch(1)["image"], None), 2)[0, 0, 4]
    inside, outside = torch.sigmoid(torch.tensor(5.0)), torch.sigmoid(torch.tensor(-5.0))
    assert target[4, 4] == pytest.approx(float(inside))
    assert target[4, 2] == pytest.approx(float(inside + outside) / 2)  # voxels 4 (dark) and 5 (bright)


def fit(module, batches, **arguments):
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
                         enable_model_summary=False, num_sanity_val_steps=0, **arguments)  # fmt: skip
    loader = torch.utils.data.DataLoader(batches, batch_size=None)
    trainer.fit(module, loader, loader)
    return trainer


def learned(teacher, batches, **trainer):
    """Logits of the trained student at the centre of the bar and outside of it, from an active centre."""
    torch.manual_seed(0)
    module = task(teacher)
    fit(module, batches, max_epochs=15, **trainer)
    image = F.avg_pool3d(batch(1)["image"], 2)
    seed = torch.zeros_like(image)
    seed[:, :, 4, 4, 4] = 3.0
    found = module.model(image[..., 2:7, 2:7, 2:7], seed[..., 2:7, 2:7, 2:7])
    return found[0, 0, 2, 2, 2], found[0, 0, 2, 2, 4]


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_the_student_learns_what_only_the_teacher_knows(precision):
    inside, outside = learned(Bright(), [batch()] * 4, precision=precision)
    assert inside > 1 and inside - outside > 1


def test_voxels_that_the_teacher_never_saw_carry_no_loss(monkeypatch):
    module = task(teacher_moves=1)
    seen = []
    fresh = module._fresh
    monkeypatch.setattr(module, "_fresh", lambda batch: seen.append(batch["weight"]) or fresh(batch))
    fit(module, [batch(places=False)], max_epochs=1)
    weight = seen[0]  # the teacher's only field of view is voxels 4 to 12, in blocks of two
    assert weight[:, :, 2:6, 2:6, 2:6].min() == 1 and weight.sum() == 4 * 4**3
    assert all(each.min() == 1 for each in seen[1:])  # validation


def test_where_the_teacher_lets_go_of_its_own_beginning_the_label_teaches():
    class Silent(Bright):
        def forward(self, image, seed):
            return torch.full_like(seed, -5.0)

    told = batch()
    told["label"] = (told["image"] > 0).float()
    inside, outside = learned(Silent(), [told] * 4)
    assert inside > 1 and inside - outside > 1
    inside, _ = learned(Silent(), [batch()] * 4)  # labels without an object
    assert inside < 0


def test_the_teacher_answers_once_for_each_place():
    teacher = Bright()
    module = task(teacher, teacher_moves=1)
    fit(module, [batch()] * 3, max_epochs=2)
    assert teacher.moves == 2 and set(module._known) == {0, 1}


def test_without_places_it_answers_every_time():
    teacher = Bright()
    fit(task(teacher, teacher_moves=1), [batch(places=False)] * 3, max_epochs=1)
    assert teacher.moves == 12


def test_the_teacher_is_neither_trained_nor_saved():
    teacher = FFN((9, 9, 9), (4, 4, 4), 1, 4, 0.95, 0.05, 0.9)
    module = task(teacher)
    assert not [name for name in module.state_dict() if "teacher" in name]
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    trained = {id(parameter) for parameter in module.parameters()}
    assert not trained & {id(parameter) for parameter in teacher.parameters()}


def test_turning_keeps_image_and_target_together_and_needs_only_the_draw():
    cube = torch.arange(27.0).view(1, 3, 3, 3)
    seen = set()
    for draw in range(60):
        one, two = turned([cube, cube.clone()], draw)
        assert torch.equal(one, two) and torch.equal(one, turned([cube], draw)[0])
        seen.add(tuple(one.flatten().tolist()))
    assert len(seen) > 25  # of 48
    assert turned([torch.zeros(1, 2, 3, 4)], 1)[0].shape == (1, 2, 3, 4)


def test_weights_come_from_a_file_and_must_fit(tmp_path):
    teacher = FFN((9, 9, 9), (4, 4, 4), 1, 4, 0.95, 0.05, 0.9)
    save_file(
        {name: torch.ones(value.shape) for name, value in teacher.state_dict().items()}, tmp_path / "w.safetensors"
    )
    load_teacher(teacher, str(tmp_path / "w.safetensors"))
    assert all(np.allclose(value.detach(), 1) for value in teacher.parameters())
    with pytest.raises(ValueError, match="does not fit task.teacher"):
        load_teacher(student(), str(tmp_path / "w.safetensors"))
    with pytest.raises(FileNotFoundError, match="nissl import ffn"):
        load_teacher(teacher, str(tmp_path / "nothing.safetensors"))


def test_examples_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="no multiple of task.pool_zyx"):
        fit(task(pool_zyx=(4, 4, 4)), [batch()], max_epochs=1)
    with pytest.raises(ValueError, match="fewer than the teacher"):
        teacher_probabilities(Bright(), torch.zeros(1, 1, 8, 8, 8), 1)
    with pytest.raises(ValueError, match="teacher_share"):
        task(teacher_share=2.0)


def test_labels_that_are_ids_tell_the_object_of_the_centre_and_what_is_none():
    ids = torch.zeros(1, 1, 18, 18, 18, dtype=torch.int64)
    ids[:, :, :, 5:13, 5:13], ids[..., 14:] = 7, 3
    module = task(boundary_weight=0.5)
    _, truth, empty = module._pooled({"image": torch.zeros(ids.shape), "label": ids})
    assert torch.equal(truth, F.avg_pool3d((ids == 7).float(), 2))
    assert torch.equal(empty, F.avg_pool3d((ids == 0).float(), 2))
    fit(module, [batch() | {"label": ids.expand(4, -1, -1, -1, -1)}], max_epochs=1)
    with pytest.raises(ValueError, match="target=labels"):
        module._pooled(batch())
