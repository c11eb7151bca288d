"""Several recordings of one or several days as one data set, from a description (`calcium_description`).

What a source offers its evaluators, and how several networks are trained on it, stands in `nissl.datasets.calcium`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from nissl.datasets.calcium import label_stimulations, read_stimulations
from nissl.datasets.calcium_description import align_days, check_recording_column, read_description
from nissl.datasets.calcium_events import Event, rate_of, read_cells, read_frame_times
from nissl.datasets.calcium_frames import FrameOptions, LabelledFrames, Recording, known_fps
from nissl.datasets.calcium_io import open_movie
from nissl.datasets.calcium_labels import Labelling


class CalciumSessions(LabelledFrames):
    """Movies of an animal and area, on one or several days.

    Args:
        path: the description.
        days: its days, the reference first; checked.
        align: null refuses days with different patterns; intersection drops those that some day lacks.
        memory_mb: movies up to this size are held in memory, larger ones read frame by frame.
        max_cells: most cells stimulated at once.
        lag_s, tail_s, guard_s, baseline_s, drop_laser_frames, laser_pad: see `Labelling`.
        num_outputs and the rest: as in `CalciumMovie`; mask=file takes the description's fov_mask.
    """

    def __init__(
        self,
        path: str,
        days: Sequence[str],
        align: str | None,
        memory_mb: float,
        max_cells: int,
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
        network_seeds: Sequence[int],
        scope: str,
        folds: int | None,
        leak_split: str | None,
    ) -> None:
        found = read_description(path)
        if list(days) != found.days:
            raise ValueError(f"{path} has the days {found.days}, the reference first; came dataset.days={list(days)}")
        cells = read_cells(found.cells_path)
        entries = sorted(found.recordings, key=lambda entry: found.days.index(entry.day))
        recordings, events, excluded = [], [], {}
        if found.events_path is not None and found.events_path.suffix.lower() == ".csv":
            check_recording_column(found.events_path, len(entries))
        for entry in entries:
            fps = entry.fps
            if fps is None and entry.path.suffix.lower() == ".nwb" and entry.path.exists():
                from nissl.datasets.calcium_nwb import nwb_frame_rate

                fps = nwb_frame_rate(entry.path, entry.key)
            movie = open_movie(entry.path, entry.key, entry.axes, entry.plane, memory_mb)
            times_s = None if entry.frame_times is None else read_frame_times(entry.frame_times, movie.shape[0])
            if fps is None and times_s is not None:
                fps = rate_of(times_s)
            recordings.append(Recording(entry.recording, entry.day, movie, fps))
            own = str(found.events_path if entry.events_table is None and found.events_path else entry.path)
            read = read_stimulations(own, entry.recording, fps, entry.key, entry.events_table, {}, times_s)
            events += [event for event in read if event.recording == entry.recording]
            excluded[entry.recording] = list(entry.exclude_frames)
        day_of = {entry.recording: entry.day for entry in entries}
        events, dropped = align_days(events, day_of, cells, align)
        rate = {recording.name: known_fps(recording, "tail_s") for recording in recordings}
        for event in dropped:  # what was shown then is neither a pattern of the table nor "none"
            excluded[event.recording].append(_shadow(event, rate[event.recording], tail_s + guard_s))
        options = FrameOptions(
            motion=motion,
            day_correlation=day_correlation,
            mask=mask,
            border_px=border_px,
            dark_share=dark_share,
            mask_path=None if found.mask_path is None else str(found.mask_path),
            resize=None if resize is None else (int(resize[0]), int(resize[1])),
            normalise=normalise,
            contrast=(contrast[0], contrast[1]),
            brightness=brightness,
            none_fraction=none_fraction,
            split_group=split_group,
            split_fractions=split_fractions,
            split_seed=split_seed,
            split_path=split_path,
            embargo_s=embargo_s,
            um_per_px=found.um_per_px,
            num_outputs=num_outputs,
            area=found.area,
            network_seeds=network_seeds,
            scope=scope,
            folds=folds,
            leak_split=leak_split,
        )
        labelling = Labelling(lag_s, tail_s, guard_s, baseline_s, drop_laser_frames, laser_pad)
        table = label_stimulations(recordings, events, cells, max_cells, labelling, excluded)
        super().__init__(recordings, table, cells, options)
        own_files = [Path(path), found.cells_path, found.events_path, found.mask_path]
        own_files += [entry.frame_times for entry in entries]
        self.files += [file for file in own_files if file is not None]


def _shadow(event: Event, fps: float, seconds: float) -> tuple[int, int]:
    """Frames [a, b) in which a stimulation is seen."""
    return event.onset, max(event.offset, event.onset + math.ceil(seconds * fps))
