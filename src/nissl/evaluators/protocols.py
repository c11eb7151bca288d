"""Which cells a classifier of embeddings is fitted on and scored on: the protocols of the literature.

- "given": the data set's own train and test split.
- "leave_one_out": each cell against all others; the steadiest with few cells.
- "repeated_folds": stratified k folds, several times over; the default of our tables.
- "five_fold": five stratified folds once, 80 / 20, with which Weis et al. 2023 compare with Chen et al. 2022.
- "morphvae": 160 train, 55 unused, 60 test cells of 275 (in these shares for another number), drawn without
  replacement by `numpy.random.seed(17)` as in berenslab/morphvae@b11b1baa12, and three further splits by the next
  seeds, as Weis et al. 2023 add. The 55 validation cells stay out, so that numbers compare.

A cell is never in train and test of the same split, nor are two of one group (files of one neuron, exact duplicates):
what is tested leaves the training cells together with its group. A cell tested several times has the mean score.
"""

from __future__ import annotations

import hashlib
from typing import Literal, get_args

import numpy as np

Protocol = Literal["given", "leave_one_out", "repeated_folds", "five_fold", "morphvae"]
PROTOCOLS: tuple[str, ...] = get_args(Protocol)
Split = tuple[np.ndarray, np.ndarray]  # rows to fit on, rows to score

MORPHVAE_SHARES = (160, 55, 60)
MORPHVAE_SEED = 17
MORPHVAE_SPLITS = 4


def protocol_splits(
    protocol: Protocol,
    labels: np.ndarray,
    given: Split,
    num_folds: int,
    num_repeats: int,
    seed: int,
    groups: np.ndarray | None = None,
) -> list[Split]:
    """Splits of a protocol, rows into `labels`.

    Args:
        labels: class of every cell, (n,).
        given: the data set's own split, for "given".
        num_folds, num_repeats: of "repeated_folds".
        seed: of the folds.
        groups: which neuron each cell is, (n,); None: every cell another.

    Raises:
        ValueError: if a class is too small to be in train and test at once, or the given test set is empty.
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol must be one of {', '.join(PROTOCOLS)}, came {protocol!r}")
    if protocol == "given":
        if len(given[1]) == 0:
            raise ValueError("the test split is empty; set dataset.test_fold or dataset.test_path")
        return [given]
    splits = _splits(protocol, labels, num_folds, num_repeats, seed)
    if groups is None:
        return splits
    return [(train[~np.isin(groups[train], groups[test])], test) for train, test in splits]


def never_seen(labels: np.ndarray, given: Split, sources: np.ndarray) -> np.ndarray:
    """Test rows of sources none of whose classes is among the training cells: a vote fitted there cannot name them.

    Args:
        labels, sources: of every cell, (n,).
        given: the data set's own training and test rows.
    """
    train, test = given
    is_known = np.isin(labels[test], labels[train])
    known_sources = np.unique(sources[test][is_known])
    return test[~np.isin(sources[test], known_sources)]


def given_or_left_out(
    labels: np.ndarray, given: Split, sources: np.ndarray, groups: np.ndarray | None = None
) -> list[Split]:
    """The given split; each cell of a never-seen source against the others of that source instead."""
    train, test = given
    new = never_seen(labels, given, sources)
    known = np.setdiff1d(test, new)
    splits = [(train, known)] if len(known) else []
    for name in np.unique(sources[new]):
        own = new[sources[new] == name]
        own_groups = None if groups is None else groups[own]
        left_out = protocol_splits("leave_one_out", labels[own], (own, own), 1, 1, 0, own_groups)
        splits += [(own[fitted], own[scored]) for fitted, scored in left_out]
    return splits


def within_sources(splits: list[Split], sources: np.ndarray) -> list[Split]:
    """Each split once for every source, of its cells alone."""
    parts = []
    for train, test in splits:
        for name in np.unique(sources[test]):
            parts.append((train[sources[train] == name], test[sources[test] == name]))
    return parts


def _splits(protocol: Protocol, labels: np.ndarray, num_folds: int, num_repeats: int, seed: int) -> list[Split]:
    rows = np.arange(len(labels))
    smallest = np.bincount(np.unique(labels, return_inverse=True)[1]).min()
    if smallest < 2:
        raise ValueError(
            f"protocol {protocol} needs at least 2 cells per class; set dataset.min_class_size to 2 or more"
        )
    if protocol == "leave_one_out":
        return [(np.delete(rows, k), rows[k : k + 1]) for k in rows]
    if protocol == "morphvae":
        return [_morphvae_split(len(labels), MORPHVAE_SEED + k) for k in range(MORPHVAE_SPLITS)]
    folds, repeats = (5, 1) if protocol == "five_fold" else (num_folds, num_repeats)
    splits = []
    for repeat in range(repeats):
        fold = _stratified_folds(labels, folds, np.random.default_rng([seed, repeat]))
        splits += [(rows[fold != k], rows[fold == k]) for k in range(folds)]
    return splits


def _morphvae_split(num_cells: int, seed: int) -> Split:
    order = np.random.RandomState(seed).permutation(num_cells)
    train, unused, _ = (num_cells * np.cumsum(MORPHVAE_SHARES) / sum(MORPHVAE_SHARES)).round().astype(int)
    return np.sort(order[:train]), np.sort(order[unused:])


def _stratified_folds(labels: np.ndarray, num_folds: int, rng: np.random.Generator) -> np.ndarray:
    """Fold of each cell; a class is dealt out in turn, starting where the class before stopped."""
    fold = np.empty(len(labels), np.int64)
    start = 0
    for c in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == c))
        fold[members] = (start + np.arange(len(members))) % num_folds
        start += len(members)
    return fold


def fingerprint(splits: list[Split]) -> str:
    """Short hash of the splits: two tables with the same hash scored the same cells."""
    digest = hashlib.sha256()
    for train, test in splits:
        digest.update(
            np.int64(len(train)).tobytes() + train.astype(np.int64).tobytes() + test.astype(np.int64).tobytes()
        )
    return digest.hexdigest()[:12]
