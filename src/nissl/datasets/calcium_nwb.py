"""Movies and stimulations from NWB files, through pynwb: core NWB only, no extension is needed.

Frames are a TwoPhotonSeries or OnePhotonSeries. The schema orders their axes (frame, x, y), so that is the default;
many files hold (frame, y, x): set axes to TYX for them. Stimulations are any TimeIntervals table with a column of
cells, a ragged list of names or text such as "2;4".
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nissl.datasets.calcium_events import Event
from nissl.datasets.calcium_io import HDF5Movie, Movie, open_movie
from nissl.datasets.calcium_stacks import JoinedMovie


def open_nwb(path: Path, key: str | None, axes: str | None, plane: int | None) -> Movie:
    """The movie of an NWB file; frames kept in external files are read from those, which have their own axis order.

    Args:
        path: the file.
        key: name of the series; None where there is one.
        axes: default TXY as in the schema (TXYZ with a plane).
        plane: depth, for series of volumes.
    """
    from pynwb import NWBHDF5IO

    with NWBHDF5IO(str(path), "r", load_namespaces=True) as io:
        series = _only_series(io.read(), path, key)
        if series.external_file is not None:
            names = [str(name) for name in series.external_file[:]]
            starts = None if series.starting_frame is None else [int(start) for start in series.starting_frame[:]]
            return _open_external(path, series.name, names, starts, axes, plane)
        inside = series.data.name
    return HDF5Movie(path, inside, axes or ("TXY" if plane is None else "TXYZ"), plane)


def nwb_frame_rate(path: Path, key: str | None) -> float | None:
    """Frames per second of the series: its rate, or the median step of its timestamps."""
    from pynwb import NWBHDF5IO

    with NWBHDF5IO(str(path), "r", load_namespaces=True) as io:
        series = _only_series(io.read(), path, key)
        if series.timestamps is None:
            return None if series.rate is None else float(series.rate)
        times = np.asarray(series.timestamps[:])
    return float(1 / np.median(np.diff(times))) if len(times) > 1 else None


def read_nwb_events(
    path: Path, recording: str, key: str | None, table: str, columns: Mapping[str, str] | None = None
) -> list[Event]:
    """Stimulations from a table of intervals, in frames of the series.

    Onset is the last frame that starts at or before the start, offset the first at or after the stop, one later at
    least; the same rule as for event tables in seconds.

    Args:
        path: the file.
        recording: its name.
        key: name of the series whose frames count.
        table: name of the TimeIntervals, such as "trials" or "stimulations".
        columns: our name -> theirs for cells, condition, trial and block, where they differ.
    """
    from pynwb import NWBHDF5IO

    renamed = {name: (columns or {}).get(name, name) for name in ("cells", "condition", "trial", "block")}
    with NWBHDF5IO(str(path), "r", load_namespaces=True) as io:
        nwb = io.read()
        series = _only_series(nwb, path, key)
        intervals = {name: item for name, item in (nwb.intervals or {}).items()}
        if table not in intervals:
            raise ValueError(f"no intervals '{table}' in {path}; it has {', '.join(intervals) or 'none'}")
        rows = intervals[table]
        if renamed["cells"] not in rows.colnames:
            raise ValueError(
                f"intervals '{table}' of {path} have no column '{renamed['cells']}'; they have "
                f"{', '.join(rows.colnames)}"
            )
        values = {name: rows[theirs][:] for name, theirs in renamed.items() if theirs in rows.colnames}
        onsets = _frames_at(series, np.asarray(rows["start_time"][:]), last_before=True)
        offsets = _frames_at(series, np.asarray(rows["stop_time"][:]), last_before=False)
    return [
        Event(
            recording=recording,
            onset=int(onset),
            offset=max(int(offset), int(onset) + 1),
            cells=_cell_names(values["cells"][i]),
            condition=str(values["condition"][i]) if "condition" in values else "",
            trial=int(values["trial"][i]) if "trial" in values else -1,
            block=str(values["block"][i]) if "block" in values else "",
            where=f"{path} intervals '{table}' row {i}",
        )
        for i, (onset, offset) in enumerate(zip(onsets, offsets, strict=True))
    ]


def _only_series(nwb: Any, path: Path, key: str | None) -> Any:
    from pynwb.ophys import OnePhotonSeries, TwoPhotonSeries

    kinds = (TwoPhotonSeries, OnePhotonSeries)
    series = {item.name: item for item in nwb.objects.values() if isinstance(item, kinds)}
    if key is None and len(series) != 1:
        raise ValueError(f"without key, {path} must hold one photon series; it has {', '.join(series) or 'none'}")
    if key is not None and key not in series:
        raise ValueError(f"no photon series '{key}' in {path}; it has {', '.join(series) or 'none'}")
    return next(iter(series.values())) if key is None else series[key]


def _open_external(
    path: Path, series: str, names: list[str], starts: list[int] | None, axes: str | None, plane: int | None
) -> Movie:
    """Files beside the NWB file, one after the other; their first frames must be those the series states."""
    missing = [name for name in names if not (path.parent / name).exists()]
    if missing or not names:
        raise FileNotFoundError(
            f"series '{series}' of {path} keeps its frames in {', '.join(names) or 'no file'}; not there (relative to "
            f"the NWB file): {', '.join(missing)}"
        )
    parts = [open_movie(path.parent / name, None, axes, plane) for name in names]
    first = [0, *np.cumsum([part.shape[0] for part in parts])[:-1].tolist()]
    if starts is not None and starts != first:
        raise ValueError(
            f"series '{series}' of {path} states that its files start at frames {starts}, but by their lengths they "
            f"start at {first}. Is one of {', '.join(names)} incomplete?"
        )
    movie: Movie = parts[0] if len(parts) == 1 else JoinedMovie(parts, f"{path}:{series}")
    movie.files = [path, *movie.files]
    return movie


def _frames_at(series: Any, times_s: np.ndarray, last_before: bool) -> np.ndarray:
    """Frame of each time; a time may sit a rounding error beside the frame it means."""
    if series.timestamps is not None:
        starts = np.asarray(series.timestamps[:])
        slack = 1e-6 * float(np.median(np.diff(starts))) if len(starts) > 1 else 0.0
        if last_before:
            return np.searchsorted(starts, times_s + slack, side="right") - 1
        return np.searchsorted(starts, times_s - slack, side="left")
    frames = (times_s - series.starting_time) * series.rate
    return (np.floor(frames + 1e-6) if last_before else np.ceil(frames - 1e-6)).astype(int)


def _cell_names(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        return tuple(name.strip() for name in value.split(";") if name.strip())
    return tuple(str(name) for name in np.atleast_1d(value))
