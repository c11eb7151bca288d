import functools

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F

from nissl.models.affinity_unet import NEAREST, AffinityUNet
from nissl.models.boundary_cnn import BoundaryCNN
from nissl.tasks.boundaries import Boundaries, affinity_targets, balanced_loss, interior_targets

# Lightning 2.6 with torch 2.13 warns of itself; loaders of a few batches need no workers.
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*LeafSpec.*:FutureWarning", "ignore:.*does not have many workers", "ignore:.*logging interval"
)


def test_affinities_of_a_row_worked_by_hand():
    labels = torch.tensor([3, 3, 0, 0, 5, 5, 7]).view(1, 1, 1, 1, 7)
    target, known = affinity_targets(labels, [[0, 0, -1], [0, 0, 2]])
    assert target[0, 0, 0, 0].tolist() == [0, 1, 0, 0, 0, 1, 0]  # with the voxel before; 0 belongs to nothing
    assert known[0, 0, 0, 0].tolist() == [0, 1, 1, 1, 1, 1, 1]
    assert target[0, 1, 0, 0].tolist() == [0] * 7 and known[0, 1, 0, 0].tolist() == [1] * 5 + [0] * 2


def test_affinities_along_z_and_y_are_those_of_shifted_slices():
    labels = torch.randint(0, 3, (1, 1, 4, 5, 6))
    target, known = affinity_targets(labels, NEAREST)
    expected = (labels[:, 0, 1:] == labels[:, 0, :-1]) & (labels[:, 0, 1:] > 0)
    assert torch.equal(target[:, 0, 1:], expected.float()) and known[:, 0, 0].sum() == 0
    expected = (labels[:, 0, :, 1:] == labels[:, 0, :, :-1]) & (labels[:, 0, :, 1:] > 0)
    assert torch.equal(target[:, 1, :, 1:], expected.float())


def test_the_inside_ends_one_voxel_before_another_object():
    labels = torch.ones(1, 1, 3, 3, 6, dtype=torch.int64)
    labels[..., 3:] = 2
    labels[..., 5] = 0
    inside = interior_targets(labels)
    assert inside[0, 0, 1, 1].tolist() == [1, 1, 0, 0, 0, 0]


@pytest.mark.parametrize("kind", ["bce", "mse"])
def test_both_classes_weigh_the_same(kind):
    """One wrong voxel of the rare class costs as much as all nine of the common one."""
    target = torch.tensor([1.0] + [0.0] * 9).view(1, 1, 1, 1, 10)
    rare_wrong = torch.full_like(target, -4.0)
    common_wrong = torch.full_like(target, 4.0)
    weight = torch.ones_like(target)
    rare, common = (float(balanced_loss(wrong, target, weight, kind)) for wrong in (rare_wrong, common_wrong))
    assert rare == pytest.approx(common, rel=1e-4)


def test_unknown_voxels_have_no_part_in_the_loss():
    target, weight = torch.tensor([[1.0, 0.0, 1.0]]), torch.tensor([[1.0, 1.0, 0.0]])
    logits = torch.tensor([[2.0, -2.0, -9.0]])
    shape = (1, 1, 1, 1, 3)
    loss = balanced_loss(logits.view(shape), target.view(shape), weight.view(shape), "bce")
    assert float(loss) == pytest.approx(float(F.softplus(torch.tensor(-2.0))))


def batch():
    """Two objects that the image shows as bright, with a dark wall between them."""
    labels = torch.ones(2, 1, 8, 8, 8, dtype=torch.int64)
    labels[..., 5:] = 2
    labels[..., 4] = 0
    return {"image": torch.where(labels > 0, 1.0, -1.0), "label": labels}


@pytest.mark.parametrize(
    "model",
    [AffinityUNet((8, 8, 8), NEAREST, (4, 8), ((2, 2, 2),)), BoundaryCNN((8, 8, 8), 2, 4)],
    ids=["affinities", "insides"],
)
def test_the_loss_falls_and_boundaries_are_found(model):
    torch.manual_seed(0)
    model.reset_parameters()
    task = Boundaries(model, functools.partial(torch.optim.AdamW, lr=0.02), "bce", decay_steps=80)
    loader = torch.utils.data.DataLoader([batch()] * 4, batch_size=None)
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
                         enable_model_summary=False, max_epochs=20)  # fmt: skip
    trainer.fit(task, loader, loader)
    assert trainer.callback_metrics["val/loss"] < 0.3 and trainer.callback_metrics["val/f1_boundary"] > 0.8
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.02 * 0.02, rel=0.05)


def test_masked_voxels_have_no_weight():
    task = Boundaries(BoundaryCNN((8, 8, 8), 1, 4), torch.optim.SGD, "bce", None)
    masked = batch() | {"weight": torch.zeros(2, 1, 8, 8, 8)}
    assert task.targets(masked)[1].sum() == 0 and task.targets(batch())[1].min() == 1


def test_an_unknown_loss_is_refused():
    with pytest.raises(ValueError, match="bce or mse"):
        Boundaries(BoundaryCNN((8, 8, 8), 1, 4), torch.optim.SGD, "dice", None)
