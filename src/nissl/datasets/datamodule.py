"""One DataModule for every data set: wraps a source that splits itself into train, val and test.

A *source* is any object with `split(name) -> torch Dataset` (map-style), `files` (what it reads) and, if its items are
not plain tensors, `collate(items)`. Nothing else is asked of a new data set.

Items are reproducible by construction: the training loader hands each item a `Draw`, an index that carries a seed made
from (run seed, epoch, position). A data set that augments takes its randomness from `index.seed` alone, so the data of
step n are the same with 0 or 8 workers, and after a resume.
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
    """Shuffled draws, epoch after epoch, each determined by (seed, epoch).

    Items come from one endless sequence of permutations of the data set; an epoch is a window of it, so epochs may be
    shorter or longer than one pass and every item is still seen equally often.

    Args:
        length: number of items in the data set.
        epoch_length: draws per epoch.
        seed: run seed.
        epoch: the first epoch to serve; the trainer moves it on through `set_epoch`.
        rank: which of `world_size` processes this is; each takes every world_size-th draw of the epoch.
    """

    def __init__(
        self, length: int, epoch_length: int, seed: int, epoch: int = 0, rank: int = 0, world_size: int = 1
    ) -> None:
        assert epoch_length % world_size == 0
        self.length, self.epoch_length, self.seed, self.epoch = length, epoch_length, seed, epoch
        self.rank, self.world_size = rank, world_size

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.epoch_length // self.world_size

    def __iter__(self) -> Iterator[Draw]:
        first = self.epoch * self.epoch_length
        positions = np.arange(first, first + self.epoch_length)
        passes = positions // self.length
        order = {int(p): np.random.default_rng([self.seed, 0, int(p)]).permutation(self.length) for p in set(passes)}
        seeds = np.random.default_rng([self.seed, 1, self.epoch]).integers(0, 2**62, size=self.epoch_length)
        own = slice(self.rank, None, self.world_size)
        for position, which_pass, seed in zip(positions[own], passes[own], seeds[own], strict=True):
            yield Draw(int(order[int(which_pass)][position % self.length]), int(seed))


class DataModule(pl.LightningDataModule):
    """Loaders over a source's three splits.

    Args:
        source: the data set.
        batch_size: examples per batch and process, in all three loaders.
        num_workers: loader processes; the data do not depend on it.
        seed: seed of order and augmentation.
        batches_per_epoch: length of a training epoch in batches; null: one pass, the incomplete last batch dropped.
    """

    def __init__(
        self,
        source: Source,
        batch_size: int,
        num_workers: int = 0,
        seed: int = 0,
        batches_per_epoch: int | None = None,
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"loader.batch_size must be at least 1, came {batch_size}")
        self.source = source
        self.batch_size, self.num_workers, self.seed = batch_size, num_workers, seed
        self.batches_per_epoch = batches_per_epoch
        self._epoch = 0

    def train_dataloader(self) -> DataLoader[Any]:
        dataset = self.source.split("train")
        length = len(dataset)  # type: ignore[arg-type]
        # After the training, evaluators of the first process see the whole split.
        trainer = self.trainer
        is_divided = trainer is not None and trainer.training
        rank, world_size = (trainer.global_rank, trainer.world_size) if is_divided else (0, 1)  # type: ignore[union-attr]
        if length < self.batch_size * world_size:
            raise ValueError(
                f"the training split has {length} examples, fewer than loader.batch_size={self.batch_size} for each of "
                f"{world_size} processes: an epoch would be empty. "
                f"Pass loader.batch_size={max(length // world_size, 1)} or less."
            )
        # Incomplete batches are dropped: batch statistics and contrastive losses change with the batch size.
        per_step = self.batch_size * world_size
        batches = self.batches_per_epoch or length // per_step
        sampler = EpochSampler(length, batches * per_step, self.seed, self._epoch, rank, world_size)
        return self._loader(dataset, sampler=sampler)

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
        """The epoch that comes next: loader processes start on it before the trainer can say which it is."""
        assert self.trainer is not None
        return {"epoch": self.trainer.fit_loop.epoch_progress.current.processed}  # type: ignore[attr-defined]

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self._epoch = state_dict["epoch"]
