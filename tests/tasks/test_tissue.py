import functools

import pytest
import pytorch_lightning as pl
import torch

from nissl.models.tissue_cnn import TissueCNN
from nissl.tasks.tissue import Tissue, _mean_cross_entropy, class_indices

# Lightning 2.6 with torch 2.13 warns of itself; loaders of a few batches need no workers.
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*LeafSpec.*:FutureWarning", "ignore:.*does not have many workers", "ignore:.*logging interval"
)
CLASSES = {"dark": [0, 32], "bright": [255]}
SGD = functools.partial(torch.optim.AdamW, lr=0.02)


def test_painted_values_become_classes_and_unnamed_ones_are_ignored():
    values = torch.tensor([0, 255, 32, 159])
    assert class_indices(values, CLASSES).tolist() == [0, 1, 0, -1]


def test_the_classes_of_bright_and_dark_voxels_are_learned():
    torch.manual_seed(0)
    values = torch.tensor([0, 255, 32, 255])[torch.randint(0, 4, (2, 1, 2, 8, 8))]
    batch = {"image": values / 128 - 1, "label": values}
    task = Tissue(TissueCNN([2, 8, 8], 2, [4, 8], [[1, 2, 2]]), SGD, CLASSES, decay_steps=None)
    loader = torch.utils.data.DataLoader([batch] * 4, batch_size=None)
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
                         enable_model_summary=False, max_epochs=15)  # fmt: skip
    trainer.fit(task, loader, loader)
    assert trainer.callback_metrics["val/mean_iou"] > 0.9 and trainer.callback_metrics["val/accuracy"] > 0.9


def test_masked_voxels_are_ignored():
    task = Tissue(TissueCNN([2, 8, 8], 2, [4], []), SGD, CLASSES, None)
    batch = {"image": torch.zeros(1, 1, 2, 8, 8), "label": torch.zeros(1, 1, 2, 8, 8, dtype=torch.int64)}
    assert (task._logits_and_truth(batch)[1] == 0).all()
    masked = batch | {"weight": torch.zeros(1, 1, 2, 8, 8)}
    assert (task._logits_and_truth(masked)[1] == -1).all()
    assert _mean_cross_entropy(*task._logits_and_truth(masked)) == 0


def test_wrong_classes_are_refused():
    model = TissueCNN([2, 8, 8], 3, [4], [])
    with pytest.raises(ValueError, match="each value in one of them"):
        Tissue(model, SGD, {"a": [1], "b": [1]}, None)
    batch = {"image": torch.zeros(1, 1, 2, 8, 8), "label": torch.zeros(1, 1, 2, 8, 8, dtype=torch.int64)}
    with pytest.raises(ValueError, match="answers with 3 classes"):
        Tissue(model, SGD, CLASSES, None)._logits_and_truth(batch)
