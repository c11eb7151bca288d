"""Which cells train, validate and test: seeded, stratified by class, and never one neuron on both sides.

Two uses. `split_by_folds` makes the fixed `train`, `val` and `test` of a data set. `partitions` makes the train/test
pairs of an evaluation protocol over any set of cells; evaluators reach it as `data.source.partitions(protocol, ...)`,
whose rows count in the order of `source.labels("all")`, `source.cells("all")` and `source.unaugmented("all")`:

    for part in data.source.partitions("k_fold", seed=0, num_folds=5, num_repeats=10):
        fit(embedding[part.train], label[part.train]); score(embedding[part.test], label[part.test])

Protocols:
- "leave_one_out": each cell (with its group) tested against all others; one partition per group.
- "k_fold": stratified, `num_repeats` times with new shuffles.
- "five_fold": the 80/20 protocol, stratified five-fold without validation cells, once per repeat.
- "sized": train/val/test of given sizes, by default the 160/55/60 of 275 cells with which M1 Patch-seq is scored
  (Weis et al. 2023; Laturnus and Berens 2021); another number of cells is divided in the same proportions.
- "given": the column `split` of the data set's table (train, val, test).

*Groups* (`group` per cell) name what must stay on one side: two files of one neuron, exact duplicates
(`morphology_groups`). Without groups every cell is its own. `check_no_leak` raises if a partition breaks one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np

Protocol = Literal["leave_one_out", "k_fold", "five_fold", "sized", "given"]
PATCH_SEQ_SIZES = (160, 55, 60)  # train, val, test of 275 excitatory M1 cells


@dataclass(frozen=True)
class Partition:
    """Rows that fit and rows that are scored; `val` is for choices such as k, and empty in most protocols."""

    name: str
    train: np.ndarray
    test: np.ndarray
    val: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))


def partitions(
    protocol: Protocol,
    labels: np.ndarray,
    seed: int,
    groups: Sequence[int] | np.ndarray | None = None,
    num_folds: int = 5,
    num_repeats: int = 1,
    sizes: Sequence[int] = PATCH_SEQ_SIZES,
    split_of: Sequence[str] | None = None,
) -> list[Partition]:
    """The train/test pairs of a protocol, see the module's docstring.

    Args:
        labels: class of each cell, (N,) integer.
        groups: what must stay together, (N,) integer; None: nothing.
        num_folds, num_repeats: of "k_fold" ("five_fold" and "sized" use the repeats alone).
        sizes: of "sized": cells to train, validate and test.
        split_of: of "given": "train", "val" or "test" per cell.

    Raises:
        ValueError: for what cannot be divided so.
    """
    if protocol not in get_args(Protocol):
        raise ValueError(f"protocol must be one of {', '.join(get_args(Protocol))}, came {protocol!r}")
    labels = np.asarray(labels)
    group = np.arange(len(labels)) if groups is None else np.asarray(groups)
    if len(labels) < 2:
        raise ValueError(f"{len(labels)} cells cannot be divided into train and test")
    if num_repeats < 1:
        raise ValueError(f"num_repeats must be at least 1, came {num_repeats}")
    if protocol == "leave_one_out":
        found = _leave_one_out(group)
    elif protocol == "given":
        found = [_given(split_of)]
    elif protocol == "sized":
        found = [_sized(labels, sizes, [seed, repeat], group, repeat) for repeat in range(num_repeats)]
    else:
        folds = 5 if protocol == "five_fold" else num_folds
        found = [
            Partition(f"repeat {repeat}, fold {k}", np.flatnonzero(fold != k), np.flatnonzero(fold == k))
            for repeat in range(num_repeats)
            for fold in [stratified_folds(labels, folds, [seed, repeat], group)]
            for k in range(folds)
            if np.any(fold == k)
        ]
    for part in found:
        check_no_leak(part, group)
    return found


def check_no_leak(part: Partition, groups: Sequence[int] | np.ndarray, names: Sequence[str] | None = None) -> None:
    """Raise a ValueError if a cell or a group is on two sides of a partition."""
    group = np.asarray(groups)
    sides = {"train": part.train, "val": part.val, "test": part.test}
    for first, second in (("train", "test"), ("train", "val"), ("val", "test")):
        both = np.intersect1d(group[sides[first]], group[sides[second]])
        if len(both):
            rows = np.flatnonzero(np.isin(group, both))[:4]
            shown = ", ".join(names[row] if names is not None else f"row {row}" for row in rows)
            raise ValueError(
                f"{part.name}: {len(both)} neurons are in both {first} and {second} ({shown}, ...). They are one "
                "neuron or exact duplicates; split by their groups, or take them out"
            )


def stratified_folds(
    labels: np.ndarray, num_folds: int, seed: int | Sequence[int], groups: np.ndarray | None = None
) -> np.ndarray:
    """Fold of each item, (N,), 0 to num_folds - 1; each class spread as evenly as its size allows.

    Each class is shuffled and dealt out in turn, starting where the class before stopped, so that fold sizes differ by
    at most one. Groups are dealt whole, under the most frequent class of their items.

    Args:
        labels: class of each item, (N,) integer.
        groups: group of each item, (N,) integer; None deals single items.
    """
    if num_folds < 2:
        raise ValueError(f"num_folds must be at least 2, came {num_folds}")
    rng = np.random.default_rng(seed)
    if groups is None:
        unit_of = np.arange(len(labels))
    else:  # units in order of their first item, so that groups of one change nothing
        _, first, inverse = np.unique(groups, return_index=True, return_inverse=True)
        rank = np.empty(len(first), np.int64)
        rank[np.argsort(first)] = np.arange(len(first))
        unit_of = rank[inverse]
    num_units = int(unit_of.max()) + 1 if len(labels) else 0
    unit_label = np.array([_most_frequent(labels[unit_of == unit]) for unit in range(num_units)], np.int64)
    fold = np.empty(num_units, np.int64)
    start = 0
    for label in np.unique(unit_label):
        members = rng.permutation(np.flatnonzero(unit_label == label))
        fold[members] = (start + np.arange(len(members))) % num_folds
        start += len(members)
    return fold[unit_of]


def split_by_folds(
    labels: np.ndarray,
    num_folds: int,
    val_fold: int,
    test_fold: int | None,
    seed: int,
    groups: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """Indices of `train`, `val` and `test`; without a test fold (a separate test set exists) `test` is empty."""
    if num_folds < 3:
        raise ValueError(f"dataset.num_folds must be at least 3 (train, val, test), came {num_folds}")
    for name, fold in (("val_fold", val_fold), ("test_fold", test_fold)):
        if fold is not None and not 0 <= fold < num_folds:
            raise ValueError(f"dataset.{name} must be 0 to {num_folds - 1}, came {fold}")
    if val_fold == test_fold:
        raise ValueError(f"dataset.val_fold and dataset.test_fold are both {val_fold}; they must differ")
    fold_of = stratified_folds(labels, num_folds, seed, groups)
    test = np.zeros(len(labels), bool) if test_fold is None else fold_of == test_fold
    val = fold_of == val_fold
    return {
        "train": np.flatnonzero(~val & ~test),
        "val": np.flatnonzero(val),
        "test": np.flatnonzero(test),
    }


def _most_frequent(labels: np.ndarray) -> int:
    values, counts = np.unique(labels, return_counts=True)
    return int(values[counts.argmax()])


def _leave_one_out(group: np.ndarray) -> list[Partition]:
    return [
        Partition(f"without {g}", np.flatnonzero(group != g), np.flatnonzero(group == g))
        for g in dict.fromkeys(group.tolist())
    ]


def _given(split_of: Sequence[str] | None) -> Partition:
    if split_of is None:
        raise ValueError("protocol 'given' needs a column 'split' in the metadata table (train, val or test)")
    names = np.asarray(split_of)
    wrong = sorted(set(names.tolist()) - {"train", "val", "test"})
    if wrong:
        raise ValueError(f"column 'split' holds train, val or test, came {', '.join(map(repr, wrong[:3]))}")
    part = Partition("given", *(np.flatnonzero(names == side) for side in ("train", "test", "val")))
    if len(part.train) == 0 or len(part.test) == 0:
        raise ValueError(
            f"column 'split' names {len(part.train)} train and {len(part.test)} test cells; both are needed"
        )
    return part


def _sized(labels: np.ndarray, sizes: Sequence[int], seed: Sequence[int], group: np.ndarray, repeat: int) -> Partition:
    """Groups dealt class by class until each side has its share of it; sizes are met as closely as groups allow."""
    if len(sizes) != 3 or min(sizes) < 1:
        raise ValueError(f"sizes must be three positive numbers (train, val, test), came {list(sizes)}")
    wanted = np.asarray(sizes, float) * len(labels) / sum(sizes)
    # A fine deal into many folds keeps classes spread; whole folds are then handed out. Cells are dealt in the order of
    # a stratified shuffle, so any stretch of it holds each class in proportion.
    rng = np.random.default_rng(list(seed))
    units = list(dict.fromkeys(group.tolist()))
    label_of = {g: _most_frequent(labels[group == g]) for g in units}
    place: dict[int, float] = {}
    for label in sorted(set(label_of.values())):
        members = [g for g in units if label_of[g] == label]
        shift = rng.random()
        for rank, index in enumerate(rng.permutation(len(members))):
            place[members[index]] = (rank + shift) / len(members)
    order = sorted(units, key=lambda g: place[g])
    side_of: dict[int, int] = {}
    taken, side = 0.0, 0
    bounds = np.cumsum(wanted)
    for g in order:
        size = float(np.sum(group == g))
        while side < 2 and taken + size / 2 > bounds[side]:
            side += 1
        side_of[g] = side
        taken += size
    sides = np.array([side_of[int(g)] for g in group])
    rows = [np.flatnonzero(sides == k) for k in range(3)]
    name = f"repeat {repeat}, {len(rows[0])}/{len(rows[1])}/{len(rows[2])}"
    return Partition(name, train=rows[0], val=rows[1], test=rows[2])
