"""Which cells were stimulated when: the event table and the cell table, read from CSV and checked as a whole.

`events.csv` has one line per stimulation: `onset_frame, offset_frame` (or `onset_s, offset_s`), `cells` ("3" or "2;4";
empty is a sham), and optionally `recording, trial, condition, pattern, block`. Frames count from 0, intervals are
half-open. `cells.csv`: `cell`, and optionally `y_px, x_px, radius_px, module`; its order is the order of the outputs.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class CellTable:
    """The stimulated cells.

    Attributes:
        names: in output order.
        positions_px: (N, 2) y, x of the pixel centres, or None where unknown.
        radius_px: (N,), or None.
    """

    names: tuple[str, ...]
    positions_px: np.ndarray | None = None
    radius_px: np.ndarray | None = None


@dataclass(frozen=True)
class Event:
    """One stimulation; `cells` in the order of the cell table, empty for a sham; `where` names its line."""

    recording: str
    onset: int
    offset: int
    cells: tuple[str, ...]
    condition: str = ""
    trial: int = -1
    block: str = ""
    where: str = ""


@dataclass(frozen=True)
class Pattern:
    """A stimulation method: a set of cells under a condition; no cells is "none"."""

    cells: tuple[str, ...]
    condition: str = ""

    @property
    def name(self) -> str:
        return ("+".join(self.cells) or "none") + (f"@{self.condition}" if self.condition else "")


def read_cells(path: str | Path) -> CellTable:
    """Read `cells.csv`."""
    rows, columns = _read_csv(path, "cells")
    if "cell" not in columns:
        raise ValueError(f"{path} has no column 'cell'; it has {', '.join(columns)}")
    names = tuple(row["cell"].strip() for row in rows)
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice or not names or "" in names:
        raise ValueError(f"{path}: cells need distinct, non-empty names; came {len(names)} rows, repeated: {twice}")

    def numbers(column: str) -> np.ndarray:
        return np.array([_number(row[column], f"{path} line {i}, column {column}") for i, row in enumerate(rows, 2)])

    has_places = {"y_px", "x_px"} <= set(columns)
    positions = np.stack([numbers("y_px"), numbers("x_px")], axis=1) if has_places else None
    return CellTable(names, positions, numbers("radius_px") if has_places and "radius_px" in columns else None)


def read_frame_times(path: str | Path, num_frames: int) -> np.ndarray:
    """Start of each frame in seconds (T,), from a CSV with a column `time_s` (or one column only).

    Raises:
        ValueError: if there is not one time per frame, or time does not go forward.
    """
    rows, columns = _read_csv(path, "frame_times")
    column = "time_s" if "time_s" in columns else columns[0]
    if column != "time_s" and len(columns) > 1:
        raise ValueError(f"{path} has no column 'time_s'; it has {', '.join(columns)}")
    times = np.array([_number(row[column], f"{path} line {i}") for i, row in enumerate(rows, 2)])
    if len(times) != num_frames:
        raise ValueError(f"{path} has {len(times)} frame times, but the movie has {num_frames} frames")
    back = np.flatnonzero(np.diff(times) <= 0)
    if len(back):
        raise ValueError(f"{path} line {back[0] + 3}: {times[back[0] + 1]} s is not after {times[back[0]]} s")
    return times


def rate_of(times_s: np.ndarray) -> float:
    """Frames per second, by the median distance of frame times; pauses do not count."""
    return float(1 / np.median(np.diff(times_s)))


def read_events(
    path: str | Path, recording: str, frame_rate_hz: float | None, times_s: np.ndarray | None = None
) -> list[Event]:
    """Read `events.csv`; a missing column `recording` means `recording` throughout.

    Seconds become frames by the frames' start times, else by the frame rate: onset is the last frame that starts at or
    before `onset_s`, offset the first that starts at or after `offset_s`, at least one later.

    Raises:
        ValueError: for a malformed table, with every bad line.
    """
    rows, columns = _read_csv(path, "events")
    in_frames, in_seconds = ({f"onset_{u}", f"offset_{u}"} <= set(columns) for u in ("frame", "s"))
    if in_frames == in_seconds:
        raise ValueError(
            f"{path} must have exactly one of the column pairs onset_frame, offset_frame and onset_s, offset_s; "
            f"it has {', '.join(columns)}"
        )
    if "cells" not in columns:
        raise ValueError(f"{path} has no column 'cells'; it has {', '.join(columns)}")
    if in_seconds and not frame_rate_hz and times_s is None:
        raise ValueError(f"{path} gives times in seconds, but the movie's frame rate is unknown. Set dataset.fps.")

    events, problems = [], []
    for line, row in enumerate(rows, 2):
        where = f"{path} line {line}"
        try:
            if in_frames:
                onset, offset = _whole(row["onset_frame"], where), _whole(row["offset_frame"], where)
            else:
                onset, offset = _frames_of(
                    _number(row["onset_s"], where), _number(row["offset_s"], where), frame_rate_hz, times_s
                )
            trial = _whole(row["trial"], where) if row.get("trial") else -1
        except ValueError as error:
            problems.append(str(error))
            continue
        cells = tuple(name.strip() for name in row["cells"].split(";") if name.strip())
        event = Event(
            recording=row.get("recording") or recording,
            onset=onset,
            offset=offset,
            cells=cells,
            condition=(row.get("condition") or "").strip(),
            trial=trial,
            block=(row.get("block") or "").strip(),
            where=where,
        )
        given = (row.get("pattern") or "").strip()
        derived = Pattern(tuple(sorted(cells)), event.condition).name
        if given and Pattern(tuple(sorted(given.split("@")[0].split("+"))), event.condition).name != derived:
            problems.append(f"{where}: pattern '{given}' does not match cells '{row['cells']}' (expected {derived})")
        events.append(event)
    _raise_all(problems)
    return events


def check_events(
    events: Sequence[Event],
    cells: CellTable,
    num_frames: dict[str, int],
    max_cells: int,
) -> list[Event]:
    """Check the whole table; returns it in time order, cells in table order, trials numbered within their pattern.

    Args:
        events: as read.
        cells: every cell that may be named.
        num_frames: recording -> number of frames.
        max_cells: most cells one event may have.

    Raises:
        ValueError: with every problem found, each with its line.
    """
    problems = []
    order = {name: i for i, name in enumerate(cells.names)}
    for event in events:
        length = num_frames.get(event.recording)
        if length is None:
            known = ", ".join(num_frames)
            problems.append(f"{event.where}: unknown recording '{event.recording}'; the recordings are {known}")
        elif event.onset >= event.offset:
            problems.append(f"{event.where}: onset {event.onset} is not before offset {event.offset}")
        elif event.onset < 0 or event.offset > length:
            problems.append(
                f"{event.where}: frames {event.onset} to {event.offset} are outside recording '{event.recording}', "
                f"which has {length} frames (0 to {length - 1})"
            )
        unknown = [name for name in event.cells if name not in order]
        if unknown:
            problems.append(
                f"{event.where}: unknown cell {', '.join(map(repr, unknown))}; the cell table has "
                f"{', '.join(cells.names)}"
            )
        if len(set(event.cells)) < len(event.cells):
            problems.append(f"{event.where}: the same cell twice in '{';'.join(event.cells)}'")
        if len(event.cells) > max_cells:
            problems.append(
                f"{event.where}: {len(event.cells)} cells, at most {max_cells} allowed. Set dataset.max_cells if meant."
            )
    _raise_all(problems)

    ordered = sorted(events, key=lambda event: (list(num_frames).index(event.recording), event.onset))
    for before, after in zip(ordered, ordered[1:], strict=False):
        if before.recording == after.recording and before.offset > after.onset:
            problems.append(f"{after.where}: overlaps the event of {before.where} (it lasts to frame {before.offset})")
    _raise_all(problems)
    return _numbered([replace(event, cells=tuple(sorted(event.cells, key=order.__getitem__))) for event in ordered])


def cells_of(events: Sequence[Event]) -> CellTable:
    """The cells that occur, by name (numbers by value): for tables that come without `cells.csv`."""
    names = {name for event in events for name in event.cells}

    def by_value(name: str) -> tuple[bool, int, str]:
        return not name.isdigit(), int(name) if name.isdigit() else 0, name

    return CellTable(tuple(sorted(names, key=by_value)))


def list_patterns(events: Sequence[Event], cells: CellTable) -> list[Pattern]:
    """Distinct patterns that occur: singles in cell order, then larger sets, conditions adjacent; "none" last."""
    order = {name: i for i, name in enumerate(cells.names)}
    found = {Pattern(event.cells, event.condition) for event in events if event.cells}
    by_size = sorted(found, key=lambda p: (len(p.cells), [order[name] for name in p.cells], p.condition))
    return [*by_size, Pattern(())]


def _frames_of(onset_s: float, offset_s: float, rate_hz: float | None, times_s: np.ndarray | None) -> tuple[int, int]:
    """Frames [onset, offset) of an interval in seconds; -1 where it begins before the first frame."""
    # A time written as 1.2 s may sit a rounding error before the frame it means.
    if times_s is not None:
        onset = int(np.searchsorted(times_s, onset_s + 1e-6, side="right")) - 1
        return onset, max(int(np.searchsorted(times_s, offset_s - 1e-6, side="left")), onset + 1)
    assert rate_hz is not None
    onset = int(np.floor(onset_s * rate_hz + 1e-6))
    return onset, max(int(np.ceil(offset_s * rate_hz - 1e-6)), onset + 1)


def _numbered(events: list[Event]) -> list[Event]:
    seen: Counter[tuple[str, tuple[str, ...], str]] = Counter()
    numbered = []
    for event in events:
        key = (event.recording, event.cells, event.condition)
        seen[key] += 1
        numbered.append(event if event.trial >= 0 else replace(event, trial=seen[key]))
    return numbered


def _read_csv(path: str | Path, what: str) -> tuple[list[dict[str, str]], list[str]]:
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{what} table {path} does not exist. Check dataset.{what}_path.")
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file, skipinitialspace=True)
        rows = list(reader)
        columns = [name.strip() for name in reader.fieldnames or []]
    if not rows:
        raise ValueError(f"{what} table {path} has no rows")
    short = [i for i, row in enumerate(rows, 2) if None in row or None in row.values()]
    if short:
        raise ValueError(f"{path} line {short[0]}: expected {len(columns)} fields ({', '.join(columns)})")
    return [{key.strip(): value for key, value in row.items()} for row in rows], columns


def _number(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = np.nan
    if not np.isfinite(value):
        raise ValueError(f"{where}: expected a number, came '{text}'")
    return value


def _whole(text: str, where: str) -> int:
    value = _number(text, where)
    if value != int(value):
        raise ValueError(f"{where}: expected a whole number, came '{text}'")
    return int(value)


def _raise_all(problems: list[str]) -> None:
    if problems:
        more = [f"... and {len(problems) - 20} more"] if len(problems) > 20 else []
        raise ValueError("\n".join([f"the event table has {len(problems)} problem(s):", *problems[:20], *more]))
