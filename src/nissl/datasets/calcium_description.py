"""An experiment of several recordings and days, described in one YAML file beside its data.

    name: mouse07_area3
    animal: mouse07
    area: "3"
    reference_day: POD0
    um_per_px: 1.6                # or null
    cells: cells.csv              # paths are relative to this file
    events: events.csv            # with a column `recording`; null where every recording is an NWB file with a table
    fov_mask: fov.png             # optional
    recordings:
      - {recording: r001, day: POD0, path: raw/r001.tif, fps: 7.5}
      - {recording: r002, day: POD3, path: raw/r002.nwb, events_table: trials}

Optional for a recording: fps, frame_times (CSV), key, axes, plane, exclude_frames (list of [a, b)), events_table.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nissl.datasets.calcium_events import CellTable, Event, Pattern

REQUIRED = {"name", "area", "reference_day", "cells", "recordings"}
OPTIONAL = {"animal", "um_per_px", "events", "fov_mask"}
OF_RECORDING = {"recording", "day", "path"}
OPTIONAL_OF_RECORDING = {"fps", "frame_times", "key", "axes", "plane", "exclude_frames", "events_table"}


@dataclass(frozen=True)
class RecordingEntry:
    """One movie of the description; see `open_movie` for key, axes and plane."""

    recording: str
    day: str
    path: Path
    fps: float | None = None
    frame_times: Path | None = None
    key: str | None = None
    axes: str | None = None
    plane: int | None = None
    exclude_frames: list[tuple[int, int]] = field(default_factory=list)
    events_table: str | None = None


@dataclass(frozen=True)
class Description:
    """What the file says; paths are absolute."""

    name: str
    area: str
    reference_day: str
    cells_path: Path
    events_path: Path | None
    mask_path: Path | None
    um_per_px: float | None
    recordings: list[RecordingEntry]

    @property
    def days(self) -> list[str]:
        """The reference first, then in order of appearance."""
        return list(dict.fromkeys([self.reference_day, *(entry.day for entry in self.recordings)]))


def read_description(path: str | Path) -> Description:
    """Read and check a description.

    Raises:
        ValueError: with every problem of the file.
    """
    import yaml

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"description {path} does not exist. Check dataset.path.")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not readable as YAML: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold keys and values, came {type(values).__name__}")
    problems = _key_problems(values, REQUIRED, OPTIONAL, str(path))
    recordings = values.get("recordings") or []
    if not isinstance(recordings, list) or not all(isinstance(entry, dict) for entry in recordings):
        raise ValueError(f"{path}: recordings must be a list of entries with {', '.join(sorted(OF_RECORDING))}")
    for number, entry in enumerate(recordings, 1):
        problems += _key_problems(entry, OF_RECORDING, OPTIONAL_OF_RECORDING, f"{path} recording {number}")
    names = [str(entry.get("recording")) for entry in recordings]
    problems += [
        f"{path}: recording '{name}' is listed twice" for name in sorted({n for n in names if names.count(n) > 1})
    ]
    days = {str(entry.get("day")) for entry in recordings}
    if not problems and str(values["reference_day"]) not in days:
        listed = ", ".join(sorted(days)) or "none"
        problems.append(f"{path}: reference_day '{values['reference_day']}' has no recording; the days are {listed}")
    if problems:
        raise ValueError("\n".join([f"the description has {len(problems)} problem(s):", *problems]))

    def beside(name: Any) -> Path | None:
        return None if name is None else (path.parent / str(name)).resolve()

    cells_path = beside(values["cells"])
    assert cells_path is not None
    return Description(
        name=str(values["name"]),
        area=str(values["area"]),
        reference_day=str(values["reference_day"]),
        cells_path=cells_path,
        events_path=beside(values.get("events")),
        mask_path=beside(values.get("fov_mask")),
        um_per_px=values.get("um_per_px"),
        recordings=[_entry(entry, path.parent) for entry in recordings],
    )


def check_recording_column(path: Path, num_recordings: int) -> None:
    """A table of several recordings must say which each line is of."""
    if not path.is_file():
        raise FileNotFoundError(f"events table {path} does not exist. Check `events` of the description.")
    with path.open(newline="", encoding="utf-8-sig") as file:
        columns = [name.strip() for name in next(csv.reader(file), [])]
    if num_recordings > 1 and "recording" not in columns:
        raise ValueError(
            f"{path} needs a column 'recording', as there are {num_recordings} recordings; it has {', '.join(columns)}"
        )


def align_days(
    events: Sequence[Event], day_of: dict[str, str], cells: CellTable, align: str | None
) -> tuple[list[Event], list[Event]]:
    """Events of patterns that every day has, and the others.

    Args:
        events: of all recordings.
        day_of: recording -> day.
        cells: for the order of cells in names.
        align: None refuses days with different patterns, "intersection" takes the others out.

    Raises:
        ValueError: naming the patterns that only some days have.
    """
    if align not in (None, "intersection"):
        raise ValueError(f"dataset.align='{align}' is unknown; choose null or intersection")
    order = {name: i for i, name in enumerate(cells.names)}

    def pattern(event: Event) -> Pattern:
        return Pattern(tuple(sorted(event.cells, key=lambda name: order.get(name, -1))), event.condition)

    found: dict[str, set[Pattern]] = {day: set() for day in day_of.values()}
    for event in events:
        if event.cells and event.recording in day_of:
            found[day_of[event.recording]].add(pattern(event))
    common = set.intersection(*found.values()) if found else set()
    partial = sorted({p.name for patterns in found.values() for p in patterns - common})
    if partial and align is None:
        listed = "; ".join(
            f"{day} lacks {', '.join(sorted({p.name for q in found.values() for p in q} - {p.name for p in own}))}"
            for day, own in found.items()
            if {p for q in found.values() for p in q} - own
        )
        raise ValueError(
            f"the days have different patterns: {listed}. A sum over patterns grows with their number: set "
            "dataset.align=intersection to drop what some day lacks."
        )
    kept = [event for event in events if not event.cells or event.recording not in day_of or pattern(event) in common]
    return kept, [event for event in events if event not in kept]


def _entry(values: dict[str, Any], folder: Path) -> RecordingEntry:
    return RecordingEntry(
        recording=str(values["recording"]),
        day=str(values["day"]),
        path=(folder / str(values["path"])).resolve(),
        fps=values.get("fps"),
        frame_times=(folder / str(values["frame_times"])).resolve() if values.get("frame_times") else None,
        key=values.get("key"),
        axes=values.get("axes"),
        plane=values.get("plane"),
        exclude_frames=[(int(a), int(b)) for a, b in values.get("exclude_frames") or []],
        events_table=values.get("events_table"),
    )


def _key_problems(values: dict[str, Any], required: set[str], optional: set[str], where: str) -> list[str]:
    missing, unknown = required - values.keys(), values.keys() - required - optional
    problems = [f"{where}: '{name}' is missing" for name in sorted(missing)]
    known = ", ".join(sorted(required | optional))
    return problems + [f"{where}: '{name}' is unknown; known are {known}" for name in sorted(map(str, unknown))]
