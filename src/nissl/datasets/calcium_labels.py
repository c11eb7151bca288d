"""What each frame of a recording shows: a stimulated pattern, nothing, or something to be left out.

Frames count as stimulated in a window after onset. Frames with laser light, and a guard band in which calcium still
decays, are neither stimulated nor "none": they are dropped, never filled by interpolation (a filled band has no noise,
and a network finds it).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nissl.datasets.calcium_events import CellTable, Event, Pattern

ROLES = ("stim", "none", "guard", "laser", "excluded")
STIM, NONE, GUARD, LASER, EXCLUDED = range(5)


@dataclass(frozen=True)
class Labelling:
    """When frames count as stimulated, in seconds after onset.

    Attributes:
        lag_s, tail_s: the window [onset + lag, onset + tail).
        guard_s: dropped after the window.
        baseline_s: a trial owns the frames from this long before its onset to the same before the next.
        drop_laser_frames: leave out laser-on frames, and `laser_pad` frames on both sides.
    """

    lag_s: float
    tail_s: float
    guard_s: float
    baseline_s: float
    drop_laser_frames: bool
    laser_pad: int


@dataclass(frozen=True)
class FrameTable:
    """One row per frame of all recordings, in order.

    Attributes:
        recording: (F,) index of the recording.
        frame: (F,) index within it.
        trial: (F,) id of the trial that owns the frame, over all recordings; blocks of time where there are no trials.
        block: (F,) id of the session block, for splits by block.
        pattern: (F,) row of `patterns`, for frames of role stim and none; -1 otherwise.
        role: (F,) index into `ROLES`.
        since_onset: (F,) frames since the trial's onset; negative before.
        patterns: the distinct patterns; "none" last, if it occurs.
        lit: (F,) whether the laser is on; None where there is no laser.
    """

    recording: np.ndarray
    frame: np.ndarray
    trial: np.ndarray
    block: np.ndarray
    pattern: np.ndarray
    role: np.ndarray
    since_onset: np.ndarray
    patterns: tuple[Pattern, ...]
    lit: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.frame)


def label_vectors(patterns: Sequence[Pattern], outputs: Sequence[str]) -> np.ndarray:
    """Targets (P, C): 1 for each cell of the pattern; the last output alone for "none"."""
    vectors = np.zeros((len(patterns), len(outputs)), dtype=np.float32)
    for row, pattern in zip(vectors, patterns, strict=True):
        row[[outputs.index(name) for name in pattern.cells or ("none",)]] = 1
    return vectors


def label_by_events(
    events: Sequence[Event],
    patterns: Sequence[Pattern],
    num_frames: dict[str, int],
    fps: dict[str, float],
    labelling: Labelling,
    excluded: dict[str, list[tuple[int, int]]],
) -> FrameTable:
    """Give every frame its role, pattern and trial.

    Args:
        events: checked, in time order.
        patterns: rows of the table; "none" last.
        num_frames: recording -> number of frames.
        fps: recording -> frames per second.
        labelling: the windows.
        excluded: recording -> intervals [a, b) of frames to leave out.

    Raises:
        ValueError: if the laser covers an event's whole window, or no "none" frame is left.
    """
    row_of = {pattern: i for i, pattern in enumerate(patterns)}
    none = row_of[Pattern(())]
    parts, num_trials = [], 0
    block_ids: dict[tuple[str, str], int] = {}
    for index, (name, length) in enumerate(num_frames.items()):
        own = [event for event in events if event.recording == name]
        rate = fps[name]
        role, trial = np.full(length, NONE, dtype=np.int8), np.full(length, num_trials)
        pattern, since = np.full(length, none), np.arange(length)
        block, lit = np.zeros(length, dtype=int), np.zeros(length, dtype=bool)
        starts = _trial_starts(own, labelling.baseline_s, rate)
        for i, event in enumerate(own):
            nexts = own[i + 1].onset if i + 1 < len(own) else length
            owned = slice(starts[i], starts[i + 1] if i + 1 < len(own) else length)
            trial[owned], since[owned] = num_trials + i, np.arange(length)[owned] - event.onset
            block[owned] = block_ids.setdefault((name, event.block), len(block_ids))
            lit[event.onset : event.offset] = True
            if not event.cells:
                continue  # a sham: its frames are "none"
            first = event.onset + _frames(labelling.lag_s, rate)
            last = min(event.onset + _frames(labelling.tail_s, rate), nexts)
            role[event.onset : first] = GUARD
            role[first:last] = STIM
            pattern[first:last] = row_of[Pattern(event.cells, event.condition)]
            role[last : min(last + _frames(labelling.guard_s, rate), nexts)] = GUARD
        if labelling.drop_laser_frames:
            for event in own:
                near = slice(max(event.onset - labelling.laser_pad, 0), event.offset + labelling.laser_pad)
                role[near] = LASER
        for first, last in excluded.get(name, []):
            role[first:last] = EXCLUDED
        _check_windows(own, role, trial, num_trials, labelling)
        pattern[(role != STIM) & (role != NONE)] = -1
        parts.append((np.full(length, index), np.arange(length), trial, block, pattern, role, since, lit))
        num_trials += max(len(own), 1)
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    recordings, frames, trials, blocks, rows, roles, since_onset, all_lit = columns
    if not (roles == NONE).any():
        raise ValueError(
            "no frame is left without stimulation: every frame lies in a window, a guard band or laser light. "
            "Shorten dataset.tail_s or dataset.guard_s."
        )
    return FrameTable(recordings, frames, trials, blocks, rows, roles, since_onset, tuple(patterns), all_lit)


def label_by_covariate(
    values: np.ndarray,
    edges: Sequence[float],
    names: Sequence[str],
    block_frames: int,
) -> FrameTable:
    """Classes of one recording from a number per frame: class i where edges[i-1] <= value < edges[i].

    Trials and blocks are stretches of `block_frames` frames.

    Raises:
        ValueError: values that are not numbers, edges that do not rise, or a class with fewer than two frames.
    """
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        raise ValueError(f"the covariate is not a number in {len(bad)} frame(s), the first at frame {bad[0]}")
    if list(edges) != sorted(set(edges)) or len(names) != len(edges) + 1:
        raise ValueError(
            f"class_edges must rise and have one fewer than class_names; came edges {list(edges)}, names {list(names)}"
        )
    classes = np.searchsorted(np.asarray(edges), values, side="right")
    counts = np.bincount(classes, minlength=len(names))
    if counts.min() < 2:
        few = ", ".join(f"'{names[i]}' has {counts[i]}" for i in range(len(names)) if counts[i] < 2)
        raise ValueError(f"a class needs two frames or more to be learned and tested: {few}. Move dataset.class_edges.")
    frames = np.arange(len(values))
    block = frames // block_frames
    return FrameTable(
        recording=np.zeros(len(values), dtype=int),
        frame=frames,
        trial=block,
        block=block,
        pattern=classes,
        role=np.full(len(values), STIM, dtype=np.int8),
        since_onset=frames - block * block_frames,
        patterns=tuple(Pattern((name,)) for name in names),
    )


def outputs_of(cells: CellTable, patterns: Sequence[Pattern]) -> tuple[str, ...]:
    """Names of the network's outputs: the cells, and "none" last where it occurs."""
    return (*cells.names, "none") if not patterns[-1].cells else cells.names


def _frames(seconds: float, fps: float) -> int:
    """Number of frames k >= 0 with k / fps < seconds."""
    return int(np.ceil(seconds * fps - 1e-6))


def _trial_starts(events: Sequence[Event], baseline_s: float, fps: float) -> list[int]:
    """First frame each trial owns: its baseline, but not frames of the stimulation before."""
    starts = [0]
    for before, event in zip(events, events[1:], strict=False):
        starts.append(max(before.offset, event.onset - _frames(baseline_s, fps)))
    return starts


def _check_windows(
    events: Sequence[Event], role: np.ndarray, trial: np.ndarray, first_trial: int, labelling: Labelling
) -> None:
    for i, event in enumerate(events):
        if event.cells and not (role[trial == first_trial + i] == STIM).any():
            raise ValueError(
                f"{event.where}: no frame of the stimulation at frame {event.onset} is left: the window of "
                f"{labelling.tail_s} s is filled by laser light, exclusions or the next event. Lengthen "
                "dataset.tail_s, or set dataset.drop_laser_frames=false."
            )
