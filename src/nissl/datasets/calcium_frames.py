"""Labelled frames of one or more recordings as training examples: divided, masked, normalised, varied in training.

Each frame is one example (1, H, W); its label is a vector with 1 for each stimulated cell, or for "none", the last
output. What evaluators may use is listed in `nissl.datasets.calcium`.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from nissl.datasets import calcium_pixels as pixels
from nissl.datasets.calcium_events import CellTable, Pattern
from nissl.datasets.calcium_io import Movie
from nissl.datasets.calcium_labels import NONE, ROLES, FrameTable, label_vectors, outputs_of
from nissl.datasets.calcium_motion import MOTIONS, correlate_moved, find_shifts, move, register, shift_frames
from nissl.datasets.calcium_splits import PARTS, read_split, split_folds, split_frames

log = logging.getLogger(__name__)
SCOPES = ("per_day", "joint")
LASER_FRAMES = 512  # of each kind, when laser light is looked for


@dataclass(frozen=True)
class Recording:
    """One movie: its name, the day it belongs to, frames per second (None where unknown)."""

    name: str
    day: str
    movie: Movie
    fps: float | None


@dataclass(frozen=True)
class Truth:
    """What one day of a simulated experiment was made from.

    Attributes:
        evoked: (P, H, W) noise-free response to each pattern, in the order of `patterns`; zero for "none". The true
            matrix is their ZNCC at map resolution inside the mask.
        module: (N,) module of each stimulated cell; the same on all days.
        gain: (N, N) response of each stimulated cell (row) to a unit drive of each (column) on this day.
        coupling: factor g on every connection on this day.
        positions_px: (N, 2) y, x of the stimulated cells on this day, in pixels of the network's input.
    """

    evoked: np.ndarray
    module: np.ndarray
    gain: np.ndarray
    coupling: float
    positions_px: np.ndarray


@dataclass(frozen=True)
class FrameOptions:
    """How stored frames become input and how they are divided; the fields are those of the configuration."""

    motion: str
    day_correlation: float | None
    mask: str
    border_px: int
    dark_share: float
    mask_path: str | None
    resize: tuple[int, int] | None
    normalise: str
    contrast: tuple[float, float]
    brightness: float
    none_fraction: float | None
    split_group: str
    split_fractions: Sequence[float]
    split_seed: int
    split_path: str | None
    embargo_s: float
    um_per_px: float | None
    num_outputs: int
    area: str
    network_seeds: Sequence[int]
    scope: str
    folds: int | None
    leak_split: str | None


@dataclass(frozen=True)
class Network:
    """One of several networks trained in a run.

    Attributes:
        seed: of its weights and of the order of its frames.
        day: which it is trained on; None is all days.
        fold: which share of the groups it is tested on; 0 without cross-validation.
        leaky: whether it is trained on the split that measures leakage.
    """

    seed: int
    day: str | None
    fold: int = 0
    leaky: bool = False


class Frames(Dataset[dict[str, Any]]):
    """Frames of one part as `{"frames": (1, H, W), "label": (C,), "index": row of the frame table, "day": int}`.

    A training set varies brightness and contrast; the draw of an item depends on its index's seed alone.
    """

    def __init__(self, source: LabelledFrames, rows: np.ndarray, vary: bool) -> None:
        self._source, self._rows, self._vary = source, rows, vary

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """A whole batch at once: the loader calls this, so that a file is read once per batch."""
        rows = self._rows[[int(i) for i in indices]]
        seeds = [getattr(i, "seed", int(i)) for i in indices] if self._vary else None
        frames = torch.from_numpy(self._source.read(rows, seeds))
        labels = torch.from_numpy(self._source.labels[self._source.table.pattern[rows]])
        return [
            {"frames": frame[None], "label": label, "index": int(row), "day": int(self._source.day[row])}
            for frame, label, row in zip(frames, labels, rows, strict=True)
        ]


class NetworkFrames(Dataset[dict[str, Any]]):
    """Training frames for several networks side by side: `{"frames": (M, 1, H, W), "label": (M, C), "index": (M,)}`.

    Item i of network m is its own permutation's i-th frame, varied by its own draw, so that networks differ in the
    order and look of their frames as separate runs would. Each sees every frame of its day (or of all) once per pass;
    where days differ in length, the frames of the shorter come round again.
    """

    def __init__(self, source: LabelledFrames) -> None:
        self._source = source
        rows = [source.view(network).rows("train") for network in source.networks]
        self._length = max(len(own) for own in rows)
        orders = [
            np.random.default_rng([n.seed, 7]).permutation(own) for n, own in zip(source.networks, rows, strict=True)
        ]
        self._rows = np.stack([np.resize(order, self._length) for order in orders])  # (M, length)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        rows = self._rows[:, [int(i) for i in indices]]  # (M, n)
        drawn = [getattr(i, "seed", int(i)) for i in indices]
        seeds = [[seed, network.seed] for network in self._source.networks for seed in drawn]
        frames = torch.from_numpy(self._source.read(rows.ravel(), seeds)).unflatten(0, rows.shape)
        labels = torch.from_numpy(self._source.labels[self._source.table.pattern[rows]])
        return [
            {"frames": frames[:, i, None], "label": labels[:, i], "index": torch.from_numpy(rows[:, i])}
            for i in range(len(indices))
        ]


class LabelledFrames:
    """Recordings with a frame table: split, masked and normalised. The base of the configured data sets below.

    Attributes:
        outputs: name of each network output, (C,).
        patterns: rows of every per-pattern result, (P,).
        labels: (P, C) target of each pattern.
        table: one row per frame of all recordings.
        part: (F,) 0 train, 1 val, 2 test, -1 unused.
        days: names in order of appearance; the first is the reference.
        day: (F,) index into `days` of each row of the table.
        area: name of the imaged area.
        networks: to be trained side by side, in the order of the task's; empty for one network on all frames.
        mask: (H, W) True inside; inside on every day.
        mean_image: (H, W) mean of the training frames of the reference day, as stored.
        mean_images: day -> the same of that day.
        cells: positions in the pixels of the network's input.
        um_per_px: of the network's input; None where unknown.
        truths: day -> truth of simulated data; empty otherwise.
        truth: of the reference day, or None.
        day_shifts_px: day -> (2,) y, x in stored pixels by which it was moved onto the reference day.
        split_group: what the split does not tear apart.
        leak_split: what the split of the leaky networks keeps together, or None.
        files: what was read.
    """

    def __init__(
        self,
        recordings: Sequence[Recording],
        table: FrameTable,
        cells: CellTable,
        options: FrameOptions,
        truths: dict[str, Truth] | None = None,
    ) -> None:
        check_options(options)
        shapes = {recording.name: recording.movie.shape[1:] for recording in recordings}
        if len(set(shapes.values())) > 1:
            raise ValueError(f"all recordings must have frames of one shape, came {shapes}")
        self.recordings, self.table, self.area = list(recordings), table, options.area
        self.days: tuple[str, ...] = tuple(dict.fromkeys(recording.day for recording in recordings))
        self.day = np.array([self.days.index(recording.day) for recording in recordings])[table.recording]
        self.truths = truths or {}
        self.networks = list_networks(
            options.network_seeds, options.scope, self.days, options.folds, options.leak_split is not None
        )
        self.patterns: tuple[Pattern, ...] = table.patterns
        self.outputs = outputs_of(cells, self.patterns)
        if options.num_outputs != len(self.outputs):
            raise ValueError(
                f"num_outputs={options.num_outputs}, but the data have {len(self.outputs)} outputs: "
                f"{', '.join(self.outputs)}. Set dataset.num_outputs={len(self.outputs)}."
            )
        self.labels = label_vectors(self.patterns, self.outputs)
        self._parts = self._divide(options)  # (leaky, fold) -> part of each frame
        self.part = self._parts[False, 0]
        self.files = [path for recording in recordings for path in recording.movie.files]
        self._movies = [recording.movie for recording in recordings]
        for recording in recordings:
            pixels.check_movie(recording.movie, f"recording '{recording.name}'")

        train = self.rows("train")
        border_px = options.border_px
        self.size = options.resize
        self.day_shifts_px: dict[str, np.ndarray] = {}
        if options.motion == "rigid":
            own = [self.table.frame[train[self.table.recording[train] == i]] for i in range(len(self._movies))]
            registered = [register(movie, frames) for movie, frames in zip(self._movies, own, strict=True)]
            self._movies = list(registered)
            # What was moved in from the edge is not the tissue.
            border_px += int(np.ceil(max(np.abs(movie.shifts_px).max() for movie in registered)))
        if options.day_correlation is not None and len(self.days) > 1:
            border_px += self._register_days(train, options.day_correlation)
        stored = self._movies[0].shape[1:]
        self.split_group, self.leak_split = options.split_group, options.leak_split
        shape = options.resize or stored
        if any(new > old for new, old in zip(shape, stored, strict=True)):
            raise ValueError(f"resize={list(shape)} is larger than the stored frames {list(stored)}; it must average")
        factor = np.array(shape) / np.array(stored)
        if cells.positions_px is not None:
            # Pixel centres are at whole numbers, so areas shrink about -0.5.
            positions = (cells.positions_px + 0.5) * factor - 0.5
            radius = None if cells.radius_px is None else cells.radius_px * factor.mean()
            cells = CellTable(cells.names, positions, radius)
            _check_positions(cells, shape)
        self.cells = cells
        self.um_per_px = None if options.um_per_px is None else float(options.um_per_px / factor.mean())

        self.truths = {
            day: moved_truth(truth, self.day_shifts_px[day] * factor) if day in self.day_shifts_px else truth
            for day, truth in self.truths.items()
        }
        self.truth = self.truths.get(self.days[0])
        self.mean_images = {
            name: self._mean_image(train[self.day[train] == i], shape) for i, name in enumerate(self.days)
        }
        self.mean_image = self.mean_images[self.days[0]]
        self.mask = self._make_mask(options, shape, border_px)
        if not self.truths:
            _check_in_mask(self.cells, self.mask)
        self._normalise = pixels.fit_normalisation(
            options.normalise, self._movies, table.recording[train], table.frame[train], self.size, self.mask
        )
        self._contrast, self._brightness = options.contrast, options.brightness
        log.info("%s", self.describe())

    def split(self, name: str) -> Dataset[dict[str, Any]]:
        """Frames of "train", "val" or "test"; training frames vary in brightness and contrast."""
        if name == "train" and self.networks:
            return NetworkFrames(self)
        return Frames(self, self.rows(name), vary=name == "train")

    def unvaried(self, name: str) -> Frames:
        """The same frames, none of them varied: what maps and training accuracy are read from."""
        return Frames(self, self.rows(name), vary=False)

    def of_day(self, name: str) -> LabelledFrames:
        """The same data with the frames of one day only: same patterns, mask and normalisation, that day's truth."""
        if name not in self.days:
            raise ValueError(f"no day '{name}'; the days are {', '.join(self.days)}")
        view = copy.copy(self)
        view.days, view.networks = (name,), ()
        view.part = np.where(self.day == self.days.index(name), self.part, -1)
        view.day = np.zeros_like(self.day)
        view.mean_image, view.mean_images = self.mean_images[name], {name: self.mean_images[name]}
        view.truths = {name: self.truths[name]} if name in self.truths else {}
        view.truth = view.truths.get(name)
        return view

    def view(self, network: Network) -> LabelledFrames:
        """The same data as one network sees them: its day, its fold, its split."""
        whole = copy.copy(self)
        whole.part = self._parts[network.leaky, network.fold]
        return whole if network.day is None else whole.of_day(network.day)

    def patterns_of(self, day: str) -> list[str]:
        """Names of the patterns that a day has, in the order of `patterns`."""
        own = np.unique(self.table.pattern[(self.day == self.days.index(day)) & (self.table.pattern >= 0)])
        return [self.patterns[i].name for i in own]

    def rows(self, name: str) -> np.ndarray:
        """Rows of the frame table in a part."""
        if name not in PARTS:
            raise ValueError(f"no part '{name}'; choose one of {', '.join(PARTS)}")
        return np.flatnonzero(self.part == PARTS.index(name))

    def read(self, rows: np.ndarray, seeds: Sequence[int | Sequence[int]] | None = None) -> np.ndarray:
        """Network input (n, H, W) of rows of the table; varied, each by its seed, where seeds are given."""
        recording = self.table.recording[rows]
        stored = pixels.read_rows(self._movies, recording, self.table.frame[rows], self.size)
        frames = self._normalise(stored, recording)
        if seeds is not None:
            frames = pixels.vary_brightness(frames, self.mask, self._contrast, self._brightness, seeds)
        return frames * self.mask

    def laser_light(self) -> dict[str, float]:
        """How much brighter frames with laser light are, by recording; empty when none of them is used.

        The distance between mean brightness of lit and unlit frames (in the discs of the targets where they are known,
        else in the mask), in standard deviations of unlit frames. A network may read such light instead of cells.
        """
        lit = self.table.lit
        if lit is None or not (lit & (self.part >= 0)).any():
            return {}
        place = self.mask
        if self.cells.positions_px is not None and self.cells.radius_px is not None:
            place = pixels.discs(self.mask.shape, self.cells.positions_px, self.cells.radius_px)
        found = {}
        for i, recording in enumerate(self.recordings):
            used = (self.table.recording == i) & (self.part >= 0)
            groups = [pixels.sample_rows(np.flatnonzero(used & kind), LASER_FRAMES) for kind in (lit, ~lit)]
            if all(len(rows) for rows in groups):
                levels = [
                    pixels.read_rows(self._movies, self.table.recording[r], self.table.frame[r], self.size)[:, place]
                    for r in groups
                ]
                bright, dark = (level.mean(axis=1, dtype=np.float64) for level in levels)
                found[recording.name] = float(abs(bright.mean() - dark.mean()) / max(dark.std(), 1e-12))
        return found

    def frame_rows(self) -> list[dict[str, Any]]:
        """The frame table as rows to be saved; it is also what `split_path` reads back."""
        table = self.table
        parts = (*PARTS, "")
        return [
            {
                "index": i,
                "recording": self.recordings[table.recording[i]].name,
                "day": self.recordings[table.recording[i]].day,
                "area": self.area,
                "frame": int(table.frame[i]),
                "trial": int(table.trial[i]),
                "pattern": self.patterns[table.pattern[i]].name if table.pattern[i] >= 0 else "",
                "role": ROLES[table.role[i]],
                "frame_since_onset": int(table.since_onset[i]),
                "split": parts[self.part[i]],
            }
            for i in range(len(table))
        ]

    def describe(self) -> str:
        """Counts, for the log."""
        roles = ", ".join(f"{np.count_nonzero(self.table.role == i)} {role}" for i, role in enumerate(ROLES))
        parts = ", ".join(f"{len(self.rows(name))} {name}" for name in PARTS)
        inside = f"{self.mask.mean():.0%} in mask"
        return f"{len(self.table)} frames ({roles}); {len(self.patterns)} patterns; {parts}; {inside}"

    def _divide(self, options: FrameOptions) -> dict[tuple[bool, int], np.ndarray]:
        if options.split_path is not None:
            if options.folds is not None:
                raise ValueError("dataset.folds and dataset.split_path cannot be set together: the file is one split")
            own = [read_split(options.split_path, self.table, [recording.name for recording in self.recordings])]
            return {(False, 0): own[0], **self._leaky(options)}
        parts = self._split(options, options.split_group, options.embargo_s)
        return {**{(False, fold): part for fold, part in enumerate(parts)}, **self._leaky(options)}

    def _leaky(self, options: FrameOptions) -> dict[tuple[bool, int], np.ndarray]:
        """The split that leaks: without an embargo, which would undo what it is meant to show."""
        if options.leak_split is None:
            return {}
        parts = self._split(options, options.leak_split, 0.0)
        return {(True, fold): part for fold, part in enumerate(parts)}

    def _split(self, options: FrameOptions, group: str, embargo_s: float) -> list[np.ndarray]:
        embargo = 0
        if embargo_s > 0:
            embargo = int(np.ceil(embargo_s * max(known_fps(r, "embargo_s") for r in self.recordings) - 1e-6))
        if options.folds is None:
            parts = [split_frames(self.table, group, options.split_fractions, options.split_seed, embargo)]
        else:
            parts = split_folds(self.table, group, options.folds, options.split_seed, embargo)
        if options.none_fraction is not None:
            for part in parts:
                idle = np.flatnonzero((part == 0) & (self.table.role == NONE))
                rng = np.random.default_rng([options.split_seed, 1])
                kept = rng.permutation(idle)[: max(1, round(options.none_fraction * len(idle)))]
                part[np.setdiff1d(idle, kept)] = -1
        return parts

    def _mean_image(self, train: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
        total = np.zeros(shape)
        rows = pixels.sample_rows(train, pixels.FRAMES_MEASURED)
        for block in pixels.in_blocks(rows):
            frames = pixels.read_rows(self._movies, self.table.recording[block], self.table.frame[block], self.size)
            total += frames.sum(axis=0, dtype=np.float64)
        return total / len(rows)

    def _register_days(self, train: np.ndarray, threshold: float) -> int:
        """Shift the movies (and truth) of later days onto the first; returns the largest shift in pixels, rounded up.

        One shift a day, by phase correlation of the mean training frames; larger distortions are not undone.
        """
        stored = self._movies[0].shape[1:]
        size, self.size = self.size, None  # shifts are found in stored pixels
        means = [self._mean_image(train[self.day[train] == i], (stored[0], stored[1])) for i in range(len(self.days))]
        self.size = size
        largest = 0.0
        for i, day in enumerate(self.days[1:], 1):
            shift = find_shifts(means[i][None], means[0])[0]
            r = correlate_moved(means[i], means[0], shift)
            if not r >= threshold:
                raise ValueError(
                    f"day '{day}' shifted by {shift[0]:+.1f}, {shift[1]:+.1f} pixels (y, x) correlates {r:.2f} with "
                    f"'{self.days[0]}', below dataset.day_correlation={threshold}: not the same field, or distorted"
                )
            log.info("day %s is shifted by %+.1f, %+.1f px (y, x) onto %s, r = %.2f", day, *shift, self.days[0], r)
            self.day_shifts_px[day] = shift
            largest = max(largest, float(np.abs(shift).max()))
            for k, recording in enumerate(self.recordings):
                if recording.day == day:
                    self._movies[k] = move(self._movies[k], shift)
        return int(np.ceil(largest))

    def _make_mask(self, options: FrameOptions, shape: tuple[int, int], border_px: int) -> np.ndarray:
        if options.mask == "none":
            return np.ones(shape, dtype=bool)
        if options.mask == "fov":
            fields = [pixels.field_of_view(image, border_px, options.dark_share) for image in self.mean_images.values()]
            return np.logical_and.reduce(fields)
        if options.mask == "file":
            if options.mask_path is None:
                raise ValueError("dataset.mask=file needs dataset.mask_path")
            return pixels.mask_from_file(options.mask_path, shape)
        if self.cells.positions_px is None or self.cells.radius_px is None:
            raise ValueError("dataset.mask=discs needs the cells' y_px, x_px and radius_px. Set dataset.cells_path.")
        return pixels.discs(shape, self.cells.positions_px, self.cells.radius_px)


def list_networks(
    seeds: Sequence[int], scope: str, days: Sequence[str], folds: int | None, with_leaky: bool
) -> tuple[Network, ...]:
    """One network per seed and day (scope per_day), or per seed for all days (joint), for each fold and split.

    The order, seed slowest, is that of `StimulusNetworks.members`.
    """
    if scope not in SCOPES:
        raise ValueError(f"dataset.scope='{scope}' is unknown; choose one of {', '.join(SCOPES)}")
    if len(set(seeds)) < len(seeds) or any(seed < 0 for seed in seeds):
        raise ValueError(f"dataset.network_seeds must be distinct and at least 0, came {list(seeds)}")
    if not seeds and (folds is not None or with_leaky):
        raise ValueError(
            "dataset.folds and dataset.leak_split train several networks: set dataset.network_seeds, such as [0], "
            "model=stimulus_networks and task=parallel_classification"
        )
    return tuple(
        Network(int(seed), day, fold, leaky)
        for seed in seeds
        for day in (days if scope == "per_day" else [None])
        for fold in range(folds or 1)
        for leaky in ([False, True] if with_leaky else [False])
    )


def moved_truth(truth: Truth, shift_px: np.ndarray) -> Truth:
    """The truth of a day whose frames were moved by (2,) y, x."""
    shifts = np.broadcast_to(shift_px, (len(truth.evoked), 2))
    return replace(truth, evoked=shift_frames(truth.evoked, shifts), positions_px=truth.positions_px + shift_px)


def known_fps(recording: Recording, needed_for: str) -> float:
    if not recording.fps or recording.fps <= 0:
        raise ValueError(
            f"dataset.{needed_for} is in seconds, but the frame rate of '{recording.name}' is {recording.fps}. "
            "Set dataset.fps (1 makes every second one frame)."
        )
    return float(recording.fps)


def check_options(options: FrameOptions) -> None:
    if options.motion not in MOTIONS:
        raise ValueError(f"dataset.motion='{options.motion}' is unknown; choose one of {', '.join(MOTIONS)}")
    if options.mask not in pixels.MASKS:
        raise ValueError(f"dataset.mask='{options.mask}' is unknown; choose one of {', '.join(pixels.MASKS)}")
    if options.day_correlation is not None and not -1 <= options.day_correlation <= 1:
        raise ValueError(f"dataset.day_correlation is null or a correlation, came {options.day_correlation}")
    if options.normalise not in pixels.NORMALISATIONS:
        known = ", ".join(pixels.NORMALISATIONS)
        raise ValueError(f"dataset.normalise='{options.normalise}' is unknown; choose one of {known}")
    if not 0 < options.contrast[0] <= options.contrast[1] or options.brightness < 0:
        raise ValueError(
            f"dataset.contrast must be a range above 0 and dataset.brightness at least 0, "
            f"came {options.contrast} and {options.brightness}"
        )


def _check_positions(cells: CellTable, shape: tuple[int, int]) -> None:
    assert cells.positions_px is not None
    outside = (cells.positions_px < -0.5).any(axis=1) | (cells.positions_px > np.array(shape) - 0.5).any(axis=1)
    if outside.any():
        i = int(np.argmax(outside))
        raise ValueError(
            f"cell '{cells.names[i]}' at y={cells.positions_px[i, 0]:.1f}, x={cells.positions_px[i, 1]:.1f} is outside "
            f"the frames of {shape[0]} x {shape[1]} pixels. Are y_px and x_px swapped, or in micrometres?"
        )


def _check_in_mask(cells: CellTable, mask: np.ndarray) -> None:
    if cells.positions_px is None:
        return
    y, x = np.clip(cells.positions_px.round().astype(int), 0, np.array(mask.shape) - 1).T
    hidden = [name for name, seen in zip(cells.names, mask[y, x], strict=True) if not seen]
    if hidden:
        raise ValueError(
            f"cell(s) {', '.join(hidden)} lie outside the mask, so no network can see them. Check y_px and x_px, lower "
            "dataset.border_px or dataset.dark_share, or choose dataset.mask=none."
        )
