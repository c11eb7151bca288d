"""One DataModule for every data set: wraps a source that splits itself into train, val and test.

A *source* is any object with `split(name) -> torch Dataset` (map-style), `files` (what it reads) and, if its items are
not plain tensors, `collate(items)`. Nothing else is asked of a new data set.

Items are reproducible by construction: the training loader hands each item a `Draw`, an index that carries a seed made
from (run seed, epoch, position). A data set that augments takes its randomness from `index.seed` alone, so the data of
step n are the same with 0 or 8 workers, and after a resume in mid-epoch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

Split = Literal["train", "val", "test"]


class Draw(int):
    """The index of an item, with the seed of everything random about this visit to it."""

    seed: int

    def __new__(cls, index: int, seed: int) -> Draw:
        draw = super().__new__(cls, index)
        draw.seed = seed
        return draw

    def __reduce__(self) -> tuple[type[Draw], tuple[int, int]]:
        return Draw, (int(self), self.seed)


@runtime_checkable
class Source(Protocol):
    """What a data set offers."""

    @property
    def files(self) -> list[Path]: ...

    def split(self, name: Split) -> Dataset[Any]: ...


class EpochSampler(Sampler[Draw]):
    """Shuffled draws of one epoch after another, each determined by (seed, epoch); can start in mid-epoch.

    `len()` is the length of a whole epoch, also when the first one is entered in the middle: the trainer counts the
    batches already done itself.
    """

    def __init__(self, length: int, seed: int, epoch: int = 0, skip: int = 0) -> None:
        self.length, self.seed, self.epoch, self.skip = length, seed, epoch, skip

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[Draw]:
        rng = np.random.default_rng([self.seed, self.epoch])
        order = rng.permutation(self.length)
        seeds = rng.integers(0, 2**62, size=self.length)
        skip, self.skip = self.skip, 0
        self.epoch += 1
        return iter([Draw(int(i), int(s)) for i, s in zip(order[skip:], seeds[skip:], strict=True)])


class DataModule(pl.LightningDataModule):
    """Loaders over a source's three splits.

    Args:
        source: the data set.
        batch_size: examples per batch, in all three loaders.
        num_workers: loader processes; the data do not depend on it.
        seed: seed of order and augmentation.
    """

    def __init__(self, source: Source, batch_size: int, num_workers: int = 0, seed: int = 0) -> None:
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"loader.batch_size must be at least 1, came {batch_size}")
        self.source = source
        self.batch_size, self.num_workers, self.seed = batch_size, num_workers, seed
        self._epoch, self._batches_done = 0, 0

    def train_dataloader(self) -> DataLoader[Any]:
        dataset = self.source.split("train")
        length = len(dataset)  # type: ignore[arg-type]
        if length < self.batch_size:
            raise ValueError(
                f"the training split has {length} examples, fewer than loader.batch_size={self.batch_size}: "
                f"an epoch would be empty. Pass loader.batch_size={max(length, 1)} or less."
            )
        sampler = EpochSampler(length, self.seed, self._epoch, self._batches_done * self.batch_size)
        # Incomplete batches are dropped: batch statistics and contrastive losses change with the batch size.
        return self._loader(dataset, sampler=sampler, drop_last=True)

    def val_dataloader(self) -> DataLoader[Any]:
        return self._loader(self.source.split("val"))

    def test_dataloader(self) -> DataLoader[Any]:
        return self._loader(self.source.split("test"))

    def _loader(self, dataset: Dataset[Any], **kwargs: Any) -> DataLoader[Any]:
        collate: Callable[[list[Any]], Any] = getattr(self.source, "collate", default_collate)
        return DataLoader(
            dataset,
            batch_size=self.batch_size,
            num_workers=self.num_workers,
            collate_fn=collate,
            persistent_workers=self.num_workers > 0,
            # Its own generator: a loader must not move the global random state that a checkpoint restores.
            generator=torch.Generator().manual_seed(self.seed),
            **kwargs,
        )

    def state_dict(self) -> dict[str, int]:
        """Where the training data stand: finished epochs, and batches done in the current one."""
        trainer = self.trainer
        if trainer is None:
            return {"epoch": self._epoch, "batches_done": self._batches_done}
        progress = trainer.fit_loop.epoch_loop.batch_progress.current
        done = progress.completed
        if done >= trainer.num_training_batches:
            return {"epoch": trainer.current_epoch + 1, "batches_done": 0}
        return {"epoch": trainer.current_epoch, "batches_done": done}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self._epoch, self._batches_done = state_dict["epoch"], state_dict["batches_done"]
