"""Calcium frames with the stimulated cells as labels: any movie with an event table or a covariate, or a simulated one.

This follows the source presentation: raw frames, no cell extraction, one or two cells stimulated at a time, brightness
and contrast varied in training. Ours: a guard band and laser frames are left out, and the frames of a trial stay
together in one part of the split.

What a source of this file offers its evaluators, beside `split`, `files` and `recordings`:

- names: `outputs` (C,), `patterns` (P,), `cells`, `area`, `days` (the first is the reference), `um_per_px`;
- per frame: `table` (a `FrameTable`: recording, frame, trial, pattern, role, ...), `part` (0 train, 1 val, 2 test, -1
  unused) and `day` (index into `days`), all (F,); `rows(part)` are rows of the table, `read(rows)` their network
  input, `unvaried(part)` the same as a dataset of `{"frames", "label", "index", "day"}`; trial ids are unique;
- per pattern: `labels` (P, C);
- pictures: `mask`, `mean_image`, and `mean_images` by day;
- simulated data: `truths`, day -> `Truth` (evoked images of each pattern, modules, gain, coupling, positions), and
  `truth`, that of the reference day;
- `of_day(name)`: the same source with one day's frames and truth only, and the mask, normalisation and patterns of the
  whole, so that maps of different days may be compared; `patterns_of(name)`: what a day really has.

Several networks in one run: `network_seeds` names their seeds and `scope` what each sees: `per_day` trains one network
per (seed, day), `joint` one per seed on all days. `networks` lists them as (seed, day or None). Training batches then
hold a frame for each: frames (B, M, 1, H, W). The task of such a run has the trained ones in the same order as
`task.networks`, each with `seed`, `day`, `model`, `device`, called like a task:

    for network in task.networks:
        for day in source.days if network.day is None else [network.day]:
            collected = collect_maps(network, source.of_day(day), "train", ...)

A task that trains one network has one entry in `task.networks`, of day None. With `folds` or `leak_split` there are
more networks: `task.members` has all, each with `fold` and `leaky`, and `view(member)` is what it may see;
`task.networks` stays those of fold 0 and the source's own split.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from nissl.datasets import calcium_pixels as pixels
from nissl.datasets.calcium_events import (
    CellTable,
    Event,
    Pattern,
    cells_of,
    check_events,
    list_patterns,
    rate_of,
    read_cells,
    read_events,
    read_frame_times,
)
from nissl.datasets.calcium_frames import FrameOptions, LabelledFrames, Recording, Truth, check_options, known_fps
from nissl.datasets.calcium_io import ArrayMovie, open_movie, read_series
from nissl.datasets.calcium_labels import FrameTable, Labelling, label_by_covariate, label_by_events
from nissl.simulate.calcium import Day, Session, World, WorldSettings, make_world, simulate_day


class CalciumMovie(LabelledFrames):
    """A movie from a file, labelled by an event table or by one covariate cut into classes.

    Args:
        path: movie: HDF5, TIFF, npy, npz, NWB, AVI, Suite2p, Zarr, folder.
        key: data set in the file; null where there is only one movie.
        axes: order of the movie's axes; null is TYX.
        plane: index along Z, for movies of volumes.
        fps: frames per second; null where unknown; 1 makes every "second" below one frame.
        frame_times_path: CSV with the start of every frame in seconds, for events in seconds of a movie with pauses or
            an uneven rate; gives fps where that is null.
        day: name of the session.
        um_per_px: null where unknown.
        memory_mb: movies up to this size are held in memory, larger ones read frame by frame.
        events_path: event table (CSV, or NWB), or null; with `events_table`, null is the movie's own NWB file.
        events_table: name of the table of intervals in an NWB file.
        events_columns: our name (cells, condition, trial, block) -> that table's, where they differ.
        cells_path: cell table (CSV); null takes the names in the event table, without positions.
        max_cells: most cells stimulated at once.
        exclude_frames: intervals [a, b) to leave out.
        lag_s, tail_s, guard_s, baseline_s, drop_laser_frames, laser_pad: see `Labelling`.
        covariate: data set (in the movie's file) or column with one number per frame, instead of events.
        covariate_path: file of the covariate; null is the movie's own.
        class_edges: where the covariate is cut.
        class_names: one more than edges.
        block_frames: frames in a block of time, the group of covariate splits.
        num_outputs: of the network: cells plus "none", or classes; checked against the data.
        motion: none, or rigid: frames are registered to the mean of the recording's training frames.
        day_correlation: other days are shifted onto the reference day, by one shift each, and refused where mean
            images then correlate below this; null leaves them where they are.
        mask: none, fov, file or discs.
        border_px, dark_share: of the fov mask.
        mask_path: of the file mask.
        resize: [H, W] to average frames to; null keeps them.
        normalise: global, recording, dff or none.
        contrast: range of the factor on the contrast of training frames.
        brightness: range (+-) of their brightness, in deviations of the frame.
        none_fraction: share of "none" frames kept for training; null keeps all.
        split_group: frame, trial, block or recording.
        split_fractions: train, val, test.
        split_seed: of the split.
        split_path: table of frames saved by an earlier run, instead of a new split.
        embargo_s: training frames this near to held-out ones are dropped.
        area: name of the imaged area.
        network_seeds: of several networks trained side by side; empty trains one.
        scope: per_day (a network per seed and day) or joint (one per seed for all days).
        folds: of a cross-validation, a network for each; null makes one split.
        leak_split: frame, to train a twin of each network on that split and measure what it leaks; null does not.
    """

    renamed = {"events": "events_path", "cells": "cells_path", "mask_file": "mask_path", "split_file": "split_path"}

    def __init__(
        self,
        path: str,
        key: str | None,
        axes: str | None,
        plane: int | None,
        fps: float | None,
        frame_times_path: str | None,
        day: str,
        um_per_px: float | None,
        memory_mb: float,
        events_path: str | None,
        events_table: str | None,
        events_columns: dict[str, str],
        cells_path: str | None,
        max_cells: int,
        exclude_frames: Sequence[Sequence[int]],
        lag_s: float,
        tail_s: float,
        guard_s: float,
        baseline_s: float,
        drop_laser_frames: bool,
        laser_pad: int,
        covariate: str | None,
        covariate_path: str | None,
        class_edges: Sequence[float],
        class_names: Sequence[str],
        block_frames: int | None,
        num_outputs: int,
        motion: str,
        day_correlation: float | None,
        mask: str,
        border_px: int,
        dark_share: float,
        mask_path: str | None,
        resize: Sequence[int] | None,
        normalise: str,
        contrast: Sequence[float],
        brightness: float,
        none_fraction: float | None,
        split_group: str,
        split_fractions: Sequence[float],
        split_seed: int,
        split_path: str | None,
        embargo_s: float,
        area: str,
        network_seeds: Sequence[int],
        scope: str,
        folds: int | None,
        leak_split: str | None,
    ) -> None:
        has_events = events_path is not None or events_table is not None
        if has_events == (covariate is not None):
            raise ValueError(
                "a movie needs labels: set exactly one of dataset.events_path (a table of stimulations; or "
                "dataset.events_table, in an NWB file) and dataset.covariate (one number per frame); came "
                f"events_path={events_path}, events_table={events_table}, covariate={covariate}"
            )
        if fps is None and Path(path).suffix.lower() == ".nwb" and Path(path).exists():
            from nissl.datasets.calcium_nwb import nwb_frame_rate

            fps = nwb_frame_rate(Path(path), key)
        movie = open_movie(path, key, axes, plane, memory_mb)
        times_s = None if frame_times_path is None else read_frame_times(frame_times_path, movie.shape[0])
        if fps is None and times_s is not None:
            fps = rate_of(times_s)
        recording = Recording(Path(path).stem, day, movie, fps)
        options = FrameOptions(
            motion=motion,
            day_correlation=day_correlation,
            mask=mask,
            border_px=border_px,
            dark_share=dark_share,
            mask_path=mask_path,
            resize=_pair(resize),
            normalise=normalise,
            contrast=(contrast[0], contrast[1]),
            brightness=brightness,
            none_fraction=none_fraction,
            split_group=split_group,
            split_fractions=split_fractions,
            split_seed=split_seed,
            split_path=split_path,
            embargo_s=embargo_s,
            um_per_px=um_per_px,
            num_outputs=num_outputs,
            area=area,
            network_seeds=network_seeds,
            scope=scope,
            folds=folds,
            leak_split=leak_split,
        )
        if covariate is not None:
            values = read_series(covariate_path or path, covariate)
            length = recording.movie.shape[0]
            if len(values) != length:
                raise ValueError(f"covariate '{covariate}' has {len(values)} values, but the movie has {length} frames")
            if block_frames is None:
                raise ValueError("labels from a covariate need dataset.block_frames, the length of a block of time")
            table = label_by_covariate(values, class_edges, class_names, block_frames)
            super().__init__([recording], table, CellTable(tuple(class_names)), options)
        else:
            read = read_stimulations(
                events_path or path, recording.name, fps, key, events_table, events_columns, times_s
            )
            known = read_cells(cells_path) if cells_path is not None else cells_of(read)
            labelling = Labelling(lag_s, tail_s, guard_s, baseline_s, drop_laser_frames, laser_pad)
            excluded = {recording.name: [(int(a), int(b)) for a, b in exclude_frames]}
            table = label_stimulations([recording], read, known, max_cells, labelling, excluded)
            super().__init__([recording], table, known, options)
        own = [events_path, cells_path, covariate_path, mask_path, split_path, frame_times_path]
        self.files += [Path(name) for name in own if name is not None]


class CalciumSimulated(LabelledFrames):
    """A simulated experiment with known wiring; see `nissl.simulate.calcium`.

    Args:
        world_seed: of the animal.
        session_seed: of what happens on each day; the days of one animal differ by their place in `days`.
        days: name -> coupling g of that day; the first is the reference.
        size_px, um_per_px, num_cells, num_targets, min_target_distance_px, modules: geometry.
        pairs, powers, trials: stimulation design.
        amplitude, success, pair_power, follower_cv: responses.
        decay_s, rise_s, fps: kinetics and frame rate.
        saturation: dF/F c is seen as c / (1 + c / saturation); null: the indicator never saturates.
        window_frames: recorded frames [before, after] each onset; null records without a gap.
        weight_median, spectral_radius, recurrent, followers, propagate: wiring, see `WorldSettings`.
        spontaneous_hz: range of the cells' own event rates.
        spontaneous_amplitude: mean dF/F of those events.
        population_hz: rate of events shared by many cells, at coupling 1.
        day_nuisances: whether later days differ in expression, position, drift and motion too, not only in coupling
            and in what happens.
        photons: per pixel at mean brightness.
        artefact: laser light in laser-on frames.
        lag_s, tail_s, guard_s, baseline_s, drop_laser_frames, laser_pad: see `Labelling`.
        num_outputs and the rest: as in `CalciumMovie`.
    """

    renamed = {"mask_file": "mask_path", "split_file": "split_path"}

    def __init__(
        self,
        world_seed: int,
        session_seed: int,
        days: dict[str, float],
        size_px: int,
        um_per_px: float,
        num_cells: int,
        num_targets: int,
        min_target_distance_px: float,
        modules: Sequence[Sequence[int]],
        pairs: bool,
        powers: Sequence[float],
        trials: int,
        amplitude: float,
        success: float,
        pair_power: float,
        follower_cv: float,
        decay_s: float,
        rise_s: float,
        saturation: float | None,
        fps: float,
        window_frames: Sequence[int] | None,
        weight_median: float,
        spectral_radius: float | None,
        recurrent: bool,
        followers: bool,
        propagate: bool,
        spontaneous_hz: Sequence[float],
        spontaneous_amplitude: float,
        population_hz: float,
        day_nuisances: bool,
        photons: float,
        artefact: float,
        lag_s: float,
        tail_s: float,
        guard_s: float,
        baseline_s: float,
        drop_laser_frames: bool,
        laser_pad: int,
        num_outputs: int,
        motion: str,
        day_correlation: float | None,
        mask: str,
        border_px: int,
        dark_share: float,
        mask_path: str | None,
        resize: Sequence[int] | None,
        normalise: str,
        contrast: Sequence[float],
        brightness: float,
        none_fraction: float | None,
        split_group: str,
        split_fractions: Sequence[float],
        split_seed: int,
        split_path: str | None,
        embargo_s: float,
        area: str,
        network_seeds: Sequence[int],
        scope: str,
        folds: int | None,
        leak_split: str | None,
    ) -> None:
        options = FrameOptions(
            motion=motion,
            day_correlation=day_correlation,
            mask=mask,
            border_px=border_px,
            dark_share=dark_share,
            mask_path=mask_path,
            resize=_pair(resize),
            normalise=normalise,
            contrast=(contrast[0], contrast[1]),
            brightness=brightness,
            none_fraction=none_fraction,
            split_group=split_group,
            split_fractions=split_fractions,
            split_seed=split_seed,
            split_path=split_path,
            embargo_s=embargo_s,
            um_per_px=um_per_px,
            num_outputs=num_outputs,
            area=area,
            network_seeds=network_seeds,
            scope=scope,
            folds=folds,
            leak_split=leak_split,
        )
        check_options(options)  # before minutes of simulation
        settings = WorldSettings(
            size_px=size_px,
            um_per_px=um_per_px,
            num_cells=num_cells,
            num_targets=num_targets,
            min_target_distance_px=min_target_distance_px,
            modules=tuple(tuple(module) for module in modules),
            pairs=pairs,
            powers=tuple(powers),
            trials=trials,
            amplitude=amplitude,
            success=success,
            pair_power=pair_power,
            follower_cv=follower_cv,
            decay_s=decay_s,
            rise_s=rise_s,
            saturation=saturation,
            frame_rate_hz=fps,
            window_frames=_pair(window_frames),
            weight_median=weight_median,
            spectral_radius=spectral_radius,
            recurrent=recurrent,
            followers=followers,
            propagate=propagate,
            spontaneous_hz=(spontaneous_hz[0], spontaneous_hz[1]),
            spontaneous_amplitude=spontaneous_amplitude,
            population_hz=population_hz,
            photons=photons,
            artefact=artefact,
        )
        world = make_world(settings, world_seed)
        sessions = [
            simulate_day(world, Day(name, coupling, reference=i == 0), seed=session_seed + i)
            if day_nuisances
            else simulate_day(world, Day(name, coupling), seed=session_seed, noise_seed=session_seed + i)
            for i, (name, coupling) in enumerate(days.items())
        ]
        recordings = [Recording(s.day.name, s.day.name, ArrayMovie(s.frames, s.day.name), fps) for s in sessions]
        names = tuple(str(i + 1) for i in range(num_targets))
        # The simulator's pixel centres lie at 0.5; everywhere else in nissl they lie at whole numbers.
        cells = CellTable(names, world.positions_px[:num_targets] - 0.5, world.radius_px[:num_targets])
        events: list[Event] = [event for session in sessions for event in _events_of(world, session, names)]
        labelling = Labelling(lag_s, tail_s, guard_s, baseline_s, drop_laser_frames, laser_pad)
        table = label_stimulations(recordings, events, cells, 2, labelling, {})
        truths = {s.day.name: _truth_of(world, s, table.patterns, names, options.resize) for s in sessions}
        super().__init__(recordings, table, cells, options, truths)


def read_stimulations(
    path: str,
    recording: str,
    fps: float | None,
    key: str | None,
    table: str | None,
    columns: dict[str, str],
    times_s: np.ndarray | None = None,
) -> list[Event]:
    """Events of one recording from a CSV file, or from a table of intervals in an NWB file."""
    is_nwb = Path(path).suffix.lower() == ".nwb"
    if is_nwb != (table is not None):
        wanted = "the name of its table of intervals" if is_nwb else "null: it names a table in an NWB file"
        raise ValueError(f"for events from {path}, dataset.events_table must be {wanted}; came {table}")
    if table is None:
        return read_events(path, recording, fps, times_s)
    from nissl.datasets.calcium_nwb import read_nwb_events

    if not Path(path).is_file():
        raise FileNotFoundError(f"events file {path} does not exist. Check dataset.events_path.")
    return read_nwb_events(Path(path), recording, key, table, columns)


def label_stimulations(
    recordings: Sequence[Recording],
    events: Sequence[Event],
    cells: CellTable,
    max_cells: int,
    labelling: Labelling,
    excluded: dict[str, list[tuple[int, int]]],
) -> FrameTable:
    """Check an event table against its recordings and label every frame."""
    lengths = {recording.name: recording.movie.shape[0] for recording in recordings}
    checked = check_events(events, cells, lengths, max_cells)
    fps = {recording.name: known_fps(recording, "tail_s") for recording in recordings}
    return label_by_events(checked, list_patterns(checked, cells), lengths, fps, labelling, excluded)


def _events_of(world: World, session: Session, names: Sequence[str]) -> list[Event]:
    """The event table of a simulated session."""
    settings, activity = world.settings, session.activity
    events: list[Event] = []
    for pattern, repeat, onset in zip(activity.pattern, activity.repeat, activity.onset, strict=True):
        played = world.patterns[pattern]
        events.append(
            Event(
                recording=session.day.name,
                onset=int(onset),
                offset=int(onset) + settings.laser_frames,
                cells=tuple(names[target] for target in played.targets),
                condition=f"p{played.power:g}" if len(settings.powers) > 1 else "",
                trial=int(repeat) + 1,
                block=str(repeat),
                where=f"simulated {session.day.name} stimulus {len(events) + 1}",
            )
        )
    return events


def _truth_of(
    world: World, session: Session, patterns: Sequence[Pattern], names: Sequence[str], size: tuple[int, int] | None
) -> Truth:
    conditions = len(world.settings.powers) > 1
    row_of = {
        Pattern(tuple(names[t] for t in p.targets), f"p{p.power:g}" if conditions else ""): i
        for i, p in enumerate(world.patterns)
    }
    silent = np.zeros((1, *session.evoked.shape[1:]))
    images = np.concatenate([session.evoked, silent])  # the last for "none"
    num = len(names)
    factor = 1.0 if size is None else np.array(size) / world.settings.size_px
    return Truth(
        evoked=pixels.resize_frames(images[[row_of.get(pattern, -1) for pattern in patterns]], size),
        module=world.module[:num],
        gain=session.gain[:num, :num],
        coupling=session.day.coupling,
        positions_px=session.positions_px[:num] * factor - 0.5,
    )


def _pair(values: Sequence[int] | None) -> tuple[int, int] | None:
    if values is None:
        return None
    first, second = values
    return int(first), int(second)
