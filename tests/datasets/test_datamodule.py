import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nissl.datasets.datamodule import DataModule, Draw, EpochSampler, Source


class Numbers(torch.utils.data.Dataset[int]):
    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: Any) -> int:
        return int(np.random.default_rng(getattr(index, "seed", int(index))).integers(10**9))


class NumberSource:
    files: list[Path] = []

    def split(self, name: str) -> Numbers:
        return Numbers(23)


def test_a_draw_is_an_index_that_survives_the_way_to_a_loader_process() -> None:
    draw = pickle.loads(pickle.dumps(Draw(7, seed=123)))
    assert draw == 7 and [10 * i for i in range(9)][draw] == 70 and draw.seed == 123


def test_every_item_is_seen_equally_often_whatever_the_epoch_length() -> None:
    sampler = EpochSampler(length=6, epoch_length=4, seed=0)
    seen: Counter[int] = Counter()
    for epoch in range(9):  # 36 draws: six passes
        sampler.set_epoch(epoch)
        seen.update(int(draw) for draw in sampler)
    assert seen == dict.fromkeys(range(6), 6)


def test_an_epoch_is_determined_by_seed_and_epoch() -> None:
    def draws(seed: int, epoch: int) -> list[tuple[int, int]]:
        return [(int(d), d.seed) for d in EpochSampler(10, 10, seed, epoch)]

    assert draws(1, 4) == draws(1, 4)
    assert draws(1, 4) != draws(1, 5) and draws(1, 4) != draws(2, 4)


def test_workers_do_not_change_the_data() -> None:
    batches = [
        [batch.tolist() for batch in DataModule(NumberSource(), 5, workers, seed=1).train_dataloader()]
        for workers in (0, 2)
    ]
    assert batches[0] == batches[1] and len(batches[0]) == 4


def test_a_loader_leaves_the_global_random_state_alone() -> None:
    before = torch.get_rng_state()
    list(DataModule(NumberSource(), 5, seed=1).train_dataloader())
    assert torch.equal(before, torch.get_rng_state())


def test_a_batch_larger_than_the_data_is_refused_with_the_size_that_fits() -> None:
    with pytest.raises(ValueError, match=r"23 examples, fewer than loader.batch_size=24.*loader.batch_size=23"):
        DataModule(NumberSource(), 24).train_dataloader()


def test_anything_with_split_and_files_is_a_source() -> None:
    assert isinstance(NumberSource(), Source)


def test_processes_divide_the_draws_of_one_among_them() -> None:
    whole = list(EpochSampler(23, 24, seed=1, epoch=2))
    parts = [list(EpochSampler(23, 24, seed=1, epoch=2, rank=rank, world_size=2)) for rank in (0, 1)]
    assert [draw for pair in zip(*parts, strict=True) for draw in pair] == whole
    assert [draw.seed for draw in parts[1]] == [draw.seed for draw in whole[1::2]]
    assert len(EpochSampler(23, 24, seed=1, rank=1, world_size=2)) == 12
