import functools
import math
from types import SimpleNamespace

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from nissl.models.ffn import FFN
from nissl.tasks.flood_filling import FloodFilling, _counts, _f_scores

# Lightning 2.6 with torch 2.13 warns of itself; loaders of a few batches need no workers.
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*LeafSpec.*:FutureWarning", "ignore:.*does not have many workers", "ignore:.*logging interval"
)

FOV, DELTAS = (7, 7, 7), (2, 2, 2)
SGD = functools.partial(torch.optim.SGD, lr=0.1)


def task(model=None, optimizer=SGD, **changed):
    values = {
        "policy": "fixed",
        "window_radius": 2,
        "max_moves": None,
        "moves_per_step": None,
        "soft_label": 0.05,
        "clip_value": 0.7,
        "nonfinite": "abort",
        "boundary_weight": 0.0,
        "decay_steps": None,
        "ema_decay": None,
    }
    torch.manual_seed(0)
    model = model or FFN(FOV, DELTAS, 2, 8, 0.95, 0.5, 0.6, "group", "he")
    return FloodFilling(model, optimizer, **(values | changed))


def batch(num=4, size=11, seed=0):
    """Bright bars on a dark ground, the bar through the centre being the object."""
    rng = np.random.default_rng(seed)
    image = torch.full((num, 1, size, size, size), -1.0)
    image[:, :, 3:8, 3:8] = 1.0
    label = (image > 0).float()
    image += 0.2 * torch.from_numpy(rng.normal(size=image.shape)).float()
    return {"image": image, "label": label, "draw": torch.arange(num) + 10 * seed}


class Recorder(nn.Module):
    """Answers +4 where the image is bright and records what it was shown."""

    fov_zyx, deltas_zyx = FOV, DELTAS
    init_activation, pad_value, move_threshold = 0.95, 0.05, 0.9

    def __init__(self, answer=4.0):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.answer, self.seeds, self.sizes = answer, [], []

    def forward(self, image, seed):
        self.seeds.append(seed.detach().clone())
        self.sizes.append(len(image))
        return torch.where(image > 0, self.answer, -self.answer) + self.weight


def fit(module, batches, **arguments):
    class Loader(torch.utils.data.Dataset):
        def __len__(self):
            return len(batches)

        def __getitem__(self, index):
            return batches[index]

    trainer = pl.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, **arguments
    )  # fmt: skip
    loader = torch.utils.data.DataLoader(Loader(), batch_size=None)
    trainer.fit(module, loader, loader)
    return trainer


def test_training_obeys_the_limit_and_validation_does_not():
    model = Recorder()
    fit(task(model, max_moves=3), [batch(num=1)], max_epochs=1, num_sanity_val_steps=0)
    assert len(model.sizes) == 3 + 27


def test_finished_examples_are_not_evaluated_any_more():
    examples = batch()
    examples["image"][2:] = -1.0  # these objects stop at once
    model = Recorder()
    fit(task(model), [examples], max_epochs=1, num_sanity_val_steps=0, limit_val_batches=0)
    assert model.sizes[0] == 4 and set(model.sizes[1:]) == {2}


def test_steps_are_filled_with_examples_at_different_moves_and_none_is_lost():
    model = Recorder()
    module = task(model, max_moves=3)
    batches = [batch(seed=i) for i in range(4)]
    for examples in batches:
        examples["image"][2:] = -1.0  # half of them stop after one move
    fit(module, batches, max_epochs=1, num_sanity_val_steps=0, limit_val_batches=0)
    assert sum(model.sizes) == module.num_fovs == 4 * (2 * 3 + 2 * 1)
    assert model.sizes == [4] * 7 + [2, 2]  # only the drain at the end leaves slots empty
    steps = [{int((seed > 0).sum()) > 1 for seed in seeds} for seeds in model.seeds]
    assert {True, False} in steps


def test_no_gradient_crosses_from_one_move_to_the_next():
    model = Recorder()
    fit(task(model, max_moves=3), [batch()], max_epochs=1)
    assert all(not seed.requires_grad for seed in model.seeds)


def test_an_undefined_loss_can_be_left_out_and_is_counted():
    class Undefined(Recorder):
        def forward(self, image, seed):
            answer = super().forward(image, seed)
            return answer * torch.nan if image[0, 0, 0, 0, 0] > 0 else answer

    bad = batch(seed=1)
    bad["image"][:] = 1.0
    module = task(Undefined(), nonfinite="skip", max_moves=1)
    trainer = fit(module, [batch(seed=0), bad, batch(seed=2)], max_epochs=1, limit_val_batches=0)
    assert module.num_skipped == 1 and trainer.global_step == 2
    assert torch.isfinite(module.model.weight) and module.num_fovs == 8


def test_the_loss_falls_and_the_object_is_found_on_one_small_batch():
    module = task(optimizer=functools.partial(torch.optim.AdamW, lr=5e-3), max_moves=4)
    trainer = fit(module, [batch()] * 40, max_epochs=1)
    assert trainer.callback_metrics["val/f1_at_50"] > 0.9
    assert trainer.callback_metrics["val/loss"] < 0.4
    assert module.num_examples == 160 and module.num_fovs >= 160


def test_the_average_follows_the_learner_and_is_what_is_validated():
    module = task(ema_decay=0.9)
    trained = {name for name, parameter in module.named_parameters() if parameter.requires_grad}
    assert trained and all(name.startswith("learner.") for name in trained)
    start = module.model.conv_b[0].weight.clone()
    fit(module, [batch()] * 3, max_epochs=1)
    average, learner = module.model.conv_b[0].weight, module.learner.conv_b[0].weight
    assert not torch.equal(average, learner) and not torch.equal(average, start)
    assert (average - learner).norm() < (start - learner).norm()
    assert all(parameter.grad is None for parameter in module.model.parameters())


def test_a_resumed_training_goes_on_as_if_it_had_not_stopped(tmp_path):
    batches = [batch(seed=i) for i in range(4)]
    optimizer = functools.partial(torch.optim.AdamW, lr=1e-3)

    whole = task(optimizer=optimizer, ema_decay=0.9, max_moves=3)
    fit(whole, batches, max_epochs=2)
    first = task(optimizer=optimizer, ema_decay=0.9, max_moves=3)
    fit(first, batches, max_epochs=1).save_checkpoint(tmp_path / "half.ckpt")
    second = task(optimizer=optimizer, ema_decay=0.9, max_moves=3)

    class Loader(torch.utils.data.Dataset):
        def __len__(self):
            return 4

        def __getitem__(self, index):
            return batches[index]

    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
                         enable_model_summary=False, max_epochs=2)  # fmt: skip
    loader = torch.utils.data.DataLoader(Loader(), batch_size=None)
    trainer.fit(second, loader, loader, ckpt_path=tmp_path / "half.ckpt", weights_only=True)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name


def test_the_learning_rate_rises_then_falls_along_a_cosine():
    module = task(decay_steps=1000)
    factors = []
    for step in (0, 49, 99, 500, 1000, 5000):
        module._trainer = SimpleNamespace(global_step=step)
        factors.append(module._learning_rate_factor())
    assert factors == pytest.approx(
        [0.01, 0.5 * 0.5 * (1 + math.cos(0.049 * math.pi)), 0.976, 0.5, 0.02, 0.02], abs=1e-3
    )
    assert task()._learning_rate_factor() == 1.0


def test_an_infinite_loss_stops_the_training_with_advice():
    model = Recorder(answer=float("inf"))
    with pytest.raises(FloatingPointError, match="Lower task.optimizer.lr"):
        fit(task(model), [batch()], max_epochs=1)


def test_voxels_of_no_weight_teach_nothing():
    examples = batch()
    wrong = {**examples, "label": 1 - examples["label"], "weight": torch.zeros_like(examples["label"])}
    module = task(max_moves=1)
    before = [parameter.clone() for parameter in module.learner.parameters()]
    fit(module, [wrong], max_epochs=1, limit_val_batches=0)
    assert all(torch.equal(old, new) for old, new in zip(before, module.learner.parameters(), strict=True))


def test_ids_serve_as_labels_and_the_auxiliary_loss_learns_what_belongs_to_nobody():
    examples = batch()
    masks = examples["label"]
    examples["label"] = (7 * masks).long()
    examples["label"][:, :, 0, 0] = 3  # another object, far from the centre
    grown = task()._fresh(examples)
    assert torch.equal(grown[0].label, masks[0]) and not grown[0].empty[:, 0, 0].any()
    module = task(optimizer=functools.partial(torch.optim.AdamW, lr=5e-3), max_moves=2, boundary_weight=1.0)
    fit(module, [examples] * 30, max_epochs=1, limit_val_batches=0)
    with torch.no_grad():
        part = (slice(None), slice(None), *(slice(2, 9),) * 3)
        seeds = torch.stack([example.seed for example in module._fresh(examples)])
        found = module.boundary(module.learner.hidden(examples["image"][part], seeds[part])) > 0
    assert (found == (examples["label"] == 0)[part]).float().mean() > 0.95
    with pytest.raises(ValueError, match="dataset.patches.target=labels"):
        task(boundary_weight=1.0)._fresh(batch())


def test_scores_at_half_do_not_count_unvisited_voxels():
    label = torch.tensor([1.0, 1.0, 0.0, 0.0])
    seeds = torch.tensor([3.0, 0.0, 1.0, -1.0])
    scores = _f_scores(_counts(seeds, label))
    assert scores["precision_at_50"] == 0.5 and scores["recall_at_50"] == 0.5 and scores["f1_at_50"] == 0.5
    assert scores["precision_at_90"] == 1.0 and scores["recall_at_90"] == 0.5


def test_scores_of_nothing_are_zero():
    assert all(value == 0 for value in _f_scores(torch.zeros(2, 4)).values())


def test_accuracy_and_specificity_count_what_is_rightly_left_out():
    label = torch.tensor([1.0, 0.0, 0.0, 0.0])
    scores = _f_scores(_counts(torch.tensor([3.0, 3.0, -1.0, -1.0]), label))
    assert scores["accuracy_at_90"] == 0.75 and scores["specificity_at_90"] == pytest.approx(2 / 3)


@pytest.mark.parametrize("wrong", [{"ema_decay": 1.0}, {"policy": "spiral"}, {"nonfinite": "ignore"}])
def test_a_wrong_setting_is_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        task(**wrong)
