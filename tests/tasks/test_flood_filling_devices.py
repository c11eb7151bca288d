"""Two processes learn from examples of their own and stay one network."""

import functools
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch

from nissl.models.ffn import FFN
from nissl.tasks.flood_filling import FloodFilling

pytestmark = pytest.mark.filterwarnings("ignore")  # of Lightning, about forked processes and small loaders


class Batches(torch.utils.data.Dataset):
    """Two batches of two examples."""

    def __len__(self):
        return 2

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        image = torch.randn(2, 1, 11, 11, 11, generator=generator)
        if index == 0:
            image[:, :, 3:8, 3:8] += 2.0
        return {"image": image, "label": (image > 1).float(), "draw": torch.arange(2) + 10 * index}


class Uneven(Batches):
    """The second batch has no room to move."""

    def __getitem__(self, index):
        batch = super().__getitem__(index)
        part = (slice(None), slice(None), *(slice(2, 9),) * 3)
        return batch if index == 0 else {**batch, "image": batch["image"][part], "label": batch["label"][part]}


class Together(torch.utils.data.Dataset):
    """The same examples in one batch."""

    def __len__(self):
        return 1

    def __getitem__(self, index):
        first, second = Batches()[0], Batches()[1]
        return {name: torch.cat([first[name], second[name]]) for name in first}


class Keep(pl.Callback):
    """Each process writes what it ended with."""

    def __init__(self, folder):
        self.folder = folder

    def on_train_end(self, trainer, pl_module):
        torch.save(pl_module.state_dict(), self.folder / f"{trainer.global_rank}.pt")


def train(folder, data, max_moves, move_threshold=0.6, **where):
    folder.mkdir()
    torch.manual_seed(0)
    model = FFN((7, 7, 7), (2, 2, 2), 2, 8, 0.95, 0.5, move_threshold, None, "he")
    optimizer = functools.partial(torch.optim.SGD, lr=0.1)
    module = FloodFilling(model, optimizer, "fixed", 2, max_moves, None, 0.05, 0.7, "abort", 0.0, None, 0.9)
    trainer = pl.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, max_epochs=1, callbacks=[Keep(folder)], **where,
    )  # fmt: skip
    trainer.fit(module, torch.utils.data.DataLoader(data, batch_size=None))
    files: list[Path] = sorted(folder.iterdir())
    return [torch.load(file, weights_only=True) for file in files]


def test_gradients_are_averaged_over_the_moves_of_all_processes(tmp_path):
    two = train(tmp_path / "two", Batches(), 1, devices=2, strategy="ddp_fork")
    (one,) = train(tmp_path / "one", Together(), 1, devices=1)
    assert len(two) == 2 and one["num_fovs"] == two[0]["num_fovs"] == 4 and two[0]["num_examples"] == 4
    for name, value in one.items():
        torch.testing.assert_close(two[0][name], value, rtol=0, atol=1e-6)


def test_processes_whose_examples_take_different_numbers_of_moves_stay_equal(tmp_path):
    # Below the padding of 0.5, so that every position counts as reached.
    first, second = train(tmp_path / "two", Uneven(), 4, move_threshold=0.4, devices=2, strategy="ddp_fork")
    assert first["num_fovs"] == 2 * 4 + 2 * 1
    for name, value in first.items():
        assert torch.equal(second[name], value), name
