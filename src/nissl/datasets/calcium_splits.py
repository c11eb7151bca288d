"""Which frames train, validate and test; the group that may not be torn apart is chosen in the configuration.

Neighbouring frames share decaying calcium, drift and motion, so frames drawn at random leak. `frame` splits exist to
measure that leak; `trial` (the default), `block` and `recording` do not tear their groups. Every pattern is in every
part, or the split is refused.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy import ndimage

from nissl.datasets.calcium_labels import NONE, STIM, FrameTable

PARTS = ("train", "val", "test")
GROUPS = ("frame", "trial", "block", "recording")


def split_frames(
    table: FrameTable,
    group: str,
    fractions: Sequence[float],
    seed: int,
    embargo_frames: int,
) -> np.ndarray:
    """Part of each frame (F,): 0 train, 1 val, 2 test, -1 unused.

    Args:
        table: labelled frames; only those of role stim and none are used.
        group: what stays together.
        fractions: shares of train, val and test; they sum to 1.
        seed: of the draw.
        embargo_frames: training frames this near (in time, same recording) to a held-out frame are dropped.

    Raises:
        ValueError: if some pattern cannot be in every part.
    """
    if len(fractions) != 3 or min(fractions) < 0 or fractions[0] == 0 or not np.isclose(sum(fractions), 1):
        raise ValueError(f"split_fractions must be three shares (train, val, test) of sum 1, came {list(fractions)}")
    part = _deal(table, group, fractions, seed, " (train, val, test)")
    _embargo(table, part, embargo_frames)
    _check_every_pattern(table, part, fractions, group)
    return part


def split_folds(table: FrameTable, group: str, folds: int, seed: int, embargo_frames: int) -> list[np.ndarray]:
    """Cross-validation: part of each frame (F,) for each fold; every used frame is tested in one fold.

    Fold i tests the i-th of equal shares of the groups, validates on the next and trains on the others.

    Args:
        table, group, seed, embargo_frames: as in `split_frames`.
        folds: 3 or more.

    Raises:
        ValueError: if some pattern cannot be in every part of every fold.
    """
    if folds < 3:
        raise ValueError(f"dataset.folds must be 3 or more (train, val and test differ in each), came {folds}")
    share = _deal(table, group, [1 / folds] * folds, seed, " (one per fold)")
    parts = []
    for fold in range(folds):
        part = np.where(share < 0, -1, 0)
        part[share == fold], part[share == (fold + 1) % folds] = 2, 1
        _embargo(table, part, embargo_frames)
        _check_every_pattern(table, part, (1, 1, 1), group)
        parts.append(part)
    return parts


def _deal(table: FrameTable, group: str, fractions: Sequence[float], seed: int, meaning: str) -> np.ndarray:
    """Share of each frame (F,), -1 where it is not used; frames of a group go to one share."""
    if group not in GROUPS:
        raise ValueError(f"split_group='{group}' is unknown; choose one of {', '.join(GROUPS)}")
    used = (table.role == STIM) | (table.role == NONE)
    ids = {
        "frame": np.arange(len(table)),
        "trial": table.trial,
        "block": table.block,
        "recording": table.recording,
    }[group]
    rng = np.random.default_rng(seed)
    deal = _split_within_patterns if group in ("frame", "trial") else _split_whole_groups
    share_of_group = deal(table, ids, used, fractions, rng, group, meaning)
    return np.where(used, share_of_group[ids], -1)


def read_split(path: str | Path, table: FrameTable, recordings: Sequence[str]) -> np.ndarray:
    """The split saved by a run: a CSV with columns recording, frame and split (its other columns are ignored)."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"split file {path} does not exist. Check dataset.split_path.")
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if not rows or not {"recording", "frame", "split"} <= set(rows[0]):
        raise ValueError(f"{path} must have columns recording, frame and split")
    row_of = {(recordings[r], int(f)): i for i, (r, f) in enumerate(zip(table.recording, table.frame, strict=True))}
    part = np.full(len(table), -1)
    for row in rows:
        key = (row["recording"], int(row["frame"]))
        if key not in row_of or row["split"] not in (*PARTS, ""):
            raise ValueError(f"{path}: frame {key[1]} of '{key[0]}' with split '{row['split']}' is not in these data")
        part[row_of[key]] = PARTS.index(row["split"]) if row["split"] else -1
    return part


def _split_within_patterns(
    table: FrameTable,
    ids: np.ndarray,
    used: np.ndarray,
    fractions: Sequence[float],
    rng: np.random.Generator,
    group: str,
    meaning: str,
) -> np.ndarray:
    """Deal the groups of each (recording, pattern) over the parts; a group has the pattern of its stimulated frames."""
    part_of_group = np.full(ids.max() + 1, -1)
    own_pattern = np.full(ids.max() + 1, len(table.patterns) - 1)
    stimulated = table.role == STIM
    own_pattern[ids[stimulated]] = table.pattern[stimulated]
    recording = np.zeros(ids.max() + 1, dtype=int)
    recording[ids] = table.recording
    present = np.unique(ids[used])
    needed = int(np.count_nonzero(fractions))
    for where in np.unique(recording[present]):
        for pattern in np.unique(own_pattern[present]):
            members = present[(own_pattern[present] == pattern) & (recording[present] == where)]
            if 0 < len(members) < needed:
                raise ValueError(
                    f"pattern '{table.patterns[pattern].name}' has only {len(members)} {group}(s), but {needed} "
                    f"parts{meaning} need one each. Record more, or drop it from the event table."
                )
            part_of_group[rng.permutation(members)] = np.repeat(
                np.arange(len(fractions)), _shares(len(members), fractions)
            )
    return part_of_group


def _split_whole_groups(
    table: FrameTable,
    ids: np.ndarray,
    used: np.ndarray,
    fractions: Sequence[float],
    rng: np.random.Generator,
    group: str,
    meaning: str,
) -> np.ndarray:
    """Deal whole groups: of random deals that leave no part without a pattern, the one nearest to the fractions."""
    present = np.unique(ids[used])
    counts = np.zeros((len(present), len(table.patterns)))  # frames of each pattern in each group
    np.add.at(counts, (np.searchsorted(present, ids[used]), table.pattern[used]), 1)
    needed = int(np.count_nonzero(fractions))
    in_groups = (counts > 0).sum(axis=0)
    rare = np.flatnonzero((in_groups > 0) & (in_groups < needed))
    advice = "Choose dataset.split_group=trial, or smaller blocks."
    if len(rare):
        names = ", ".join(f"'{table.patterns[i].name}' in {in_groups[i]}" for i in rare)
        raise ValueError(f"a split by {group} needs every pattern in {needed} {group}s or more; came {names}. {advice}")
    shares = _shares(len(present), fractions)
    best, best_gap = None, np.inf
    target = counts.sum(axis=0) * np.asarray(fractions)[:, None]
    for _ in range(2000):
        deal = rng.permutation(np.repeat(np.arange(len(fractions)), shares))
        per_part = np.stack([counts[deal == p].sum(axis=0) for p in range(len(fractions))])
        if (per_part[np.asarray(fractions) > 0][:, in_groups > 0] == 0).any():
            continue
        gap = float(np.abs(per_part - target).sum())
        if gap < best_gap:
            best, best_gap = deal, gap
    if best is None:
        raise ValueError(f"no split by {group} puts every pattern into all {needed} parts{meaning}. {advice}")
    part_of_group = np.full(ids.max() + 1, -1)
    part_of_group[present] = best
    return part_of_group


def _shares(count: int, fractions: Sequence[float]) -> np.ndarray:
    """Whole numbers that sum to `count`, near `count * fractions`, at least 1 wherever the fraction is not 0."""
    exact = count * np.asarray(fractions, dtype=float)
    shares = np.maximum(np.floor(exact + 1e-9), exact > 0).astype(int)
    while shares.sum() < count:
        shares[np.argmax(exact - shares)] += 1
    while shares.sum() > count:
        shares[np.argmax(np.where(shares > 1, shares - exact, -np.inf))] -= 1
    return shares


def _embargo(table: FrameTable, part: np.ndarray, frames: int) -> None:
    """Drop (in place) training frames within `frames` of a held-out one."""
    if frames <= 0:
        return
    for recording in np.unique(table.recording):
        rows = np.flatnonzero(table.recording == recording)
        near = ndimage.maximum_filter1d((part[rows] >= 1).astype(int), 2 * frames + 1, mode="constant") > 0
        part[rows[near & (part[rows] == 0)]] = -1


def _check_every_pattern(table: FrameTable, part: np.ndarray, fractions: Sequence[float], group: str) -> None:
    for index in np.flatnonzero(fractions):
        missing = set(np.unique(table.pattern[part >= 0])) - set(np.unique(table.pattern[part == index]))
        if missing:
            names = ", ".join(f"'{table.patterns[i].name}'" for i in sorted(missing))
            raise ValueError(
                f"no frame of {names} is left in the {PARTS[index]} part of the split by {group}. "
                "Lower dataset.embargo_s, or use more trials."
            )
