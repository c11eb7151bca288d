"""Recordings of two days as one data set; what a description may get wrong; days with different patterns."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from scipy import ndimage

from nissl.datasets.calcium_sessions import CalciumSessions

CONF = Path(__file__).parents[2] / "conf/dataset"
EVENTS = [(20 * i + 5, 20 * i + 6, cells) for i, cells in enumerate(["1", "2", "1;2"] * 3)]
RECORDINGS = [
    {"recording": "late", "day": "POD3", "path": "late.npy", "fps": 4.0},
    {"recording": "early", "day": "POD0", "path": "early.npy", "fps": 4.0, "exclude_frames": [[0, 2]]},
]


def make(folder: Path, events: dict[str, list[tuple[int, int, str]]] | None = None, **changes: Any) -> Path:
    """A description with its movies and tables; `changes` replace its keys (None takes a key out)."""
    rng = np.random.default_rng(0)
    lines = ["recording,onset_frame,offset_frame,cells"]
    for name in ("early", "late"):
        np.save(folder / f"{name}.npy", rng.integers(90, 110, size=(180, 16, 12)).astype(np.uint16))
        lines += [f"{name},{on},{off},{cells}" for on, off, cells in (events or {}).get(name, EVENTS)]
    (folder / "events.csv").write_text("\n".join(lines) + "\n")
    (folder / "cells.csv").write_text("cell,y_px,x_px,radius_px\n1,4,4,2\n2,10,8,2\n")
    values = {
        "name": "m", "area": "3", "reference_day": "POD0", "um_per_px": 2.0, "cells": "cells.csv",
        "events": "events.csv", "recordings": RECORDINGS, **changes,
    }  # fmt: skip
    path = folder / "dataset.yaml"
    path.write_text(yaml.safe_dump({name: value for name, value in values.items() if value is not None}))
    return path


def sessions(path: Path, **changes: Any) -> CalciumSessions:
    values = yaml.safe_load((CONF / "calcium_sessions.yaml").read_text())
    del values["_target_"]
    values |= {"path": str(path), "days": ["POD0", "POD3"], "num_outputs": 3, "guard_s": 0.5}
    return CalciumSessions(**{**values, **changes})


def test_the_reference_day_comes_first_and_every_frame_has_its_day(tmp_path: Path) -> None:
    source = sessions(make(tmp_path), network_seeds=[0])
    assert source.days == ("POD0", "POD3") and source.area == "3" and source.um_per_px == 2.0
    assert [(n.seed, n.day) for n in source.networks] == [(0, "POD0"), (0, "POD3")]
    assert np.array_equal(source.day, np.repeat([0, 1], 180))
    early = source.of_day("POD0")
    assert [p.name for p in source.patterns] == ["1", "2", "1+2", "none"] and early.patterns_of("POD0")[-1] == "none"
    assert {str(file.name) for file in source.files} >= {"early.npy", "late.npy", "events.csv", "dataset.yaml"}
    assert (source.part[:2] == -1).all()  # excluded
    stored = np.load(tmp_path / "late.npy")
    row = source.of_day("POD3").rows("test")[0]
    assert np.array_equal(source._movies[1].read([source.table.frame[row]])[0], stored[source.table.frame[row]])


def test_days_with_different_patterns_are_refused_or_aligned(tmp_path: Path) -> None:
    fewer = [event for event in EVENTS if event[2] != "1;2"]
    path = make(tmp_path, events={"late": fewer})
    with pytest.raises(ValueError, match=r"POD3 lacks 1\+2\. A sum over patterns grows"):
        sessions(path)
    source = sessions(path, align="intersection")
    assert [p.name for p in source.patterns] == ["1", "2", "none"]
    shown = [frame for on, _, cells in EVENTS if cells == "1;2" for frame in range(on, on + 6)]
    assert (source.part[shown] == -1).all()  # neither a pattern of the table nor "none"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reference_day": "POD7"}, "reference_day 'POD7' has no recording; the days are POD0, POD3"),
        ({"area": None}, "'area' is missing"),
        ({"colour": "green"}, "'colour' is unknown; known are animal"),
        ({"recordings": [RECORDINGS[1], RECORDINGS[1]]}, "recording 'early' is listed twice"),
        ({"recordings": [{"recording": "early", "day": "POD0"}]}, "recording 1: 'path' is missing"),
        ({"recordings": ["early.npy"]}, "recordings must be a list of entries"),
        ({"recordings": [RECORDINGS[1]]}, r"has the days \['POD0'\].*came dataset.days=\['POD0', 'POD3'\]"),
    ],
)
def test_a_description_that_is_wrong_says_where(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sessions(make(tmp_path, **changes))


def test_a_table_of_two_recordings_must_name_them_and_files_must_be_there(tmp_path: Path) -> None:
    path = make(tmp_path)
    (tmp_path / "events.csv").write_text("onset_frame,offset_frame,cells\n5,6,1\n")
    with pytest.raises(ValueError, match="needs a column 'recording', as there are 2 recordings"):
        sessions(path)
    (tmp_path / "events.csv").unlink()
    with pytest.raises(FileNotFoundError, match="Check `events` of the description"):
        sessions(path)
    with pytest.raises(FileNotFoundError, match="description .* does not exist. Check dataset.path"):
        sessions(tmp_path / "other.yaml")
    path.write_text("name: [")
    with pytest.raises(ValueError, match="is not readable as YAML"):
        sessions(path)


def test_movies_of_different_shapes_are_refused(tmp_path: Path) -> None:
    path = make(tmp_path)
    np.save(tmp_path / "late.npy", np.random.default_rng(0).integers(0, 9, size=(180, 16, 13)).astype(np.uint16))
    with pytest.raises(ValueError, match="all recordings must have frames of one shape"):
        sessions(path)


def test_frame_times_replace_a_frame_rate(tmp_path: Path) -> None:
    times = np.arange(180) / 4 + 7 * (np.arange(180) >= 90)  # a pause of seven seconds in mid-recording
    (tmp_path / "times.csv").write_text("time_s\n" + "\n".join(map(str, times)) + "\n")
    recordings = [{**entry, "frame_times": "times.csv"} for entry in RECORDINGS]
    for entry in recordings:
        del entry["fps"]
    path = make(tmp_path, recordings=recordings)
    lines = ["recording,onset_s,offset_s,cells"]
    lines += [f"{name},{times[a]},{times[b]},{cells}" for name in ("early", "late") for a, b, cells in EVENTS]
    (tmp_path / "events.csv").write_text("\n".join(lines) + "\n")
    by_time = sessions(path)
    assert by_time.recordings[0].fps == 4.0 and tmp_path / "times.csv" in by_time.files
    (tmp_path / "plain").mkdir()
    by_frame = sessions(make(tmp_path / "plain"))
    assert np.array_equal(by_time.table.role, by_frame.table.role)


def test_a_day_is_shifted_onto_the_reference_or_refused(tmp_path: Path) -> None:
    path = make(tmp_path)
    big = ndimage.gaussian_filter(np.random.default_rng(5).random((40, 40)), 1.5) * 4000
    noise = np.random.default_rng(6).integers(0, 5, size=(180, 16, 12))
    np.save(tmp_path / "early.npy", (big[10:26, 10:22] + noise).astype(np.uint16))
    np.save(tmp_path / "late.npy", (big[12:28, 9:21] + noise).astype(np.uint16))  # content 2 px up, 1 px right
    left, moved = (sessions(path, mask="none", day_correlation=r) for r in (None, 0.9))
    assert np.abs(moved.day_shifts_px["POD3"] - [2, -1]).max() < 0.3 and left.day_shifts_px == {}
    inner = (slice(4, -4), slice(3, -3))

    def r(source: CalciumSessions) -> float:
        images = [source.mean_images[day][inner].ravel() for day in source.days]
        return float(np.corrcoef(*images)[0, 1])

    assert r(moved) > 0.97 > r(left)
    np.save(tmp_path / "late.npy", np.flip(big[10:26, 10:22] + noise, (1, 2)).astype(np.uint16))
    with pytest.raises(ValueError, match=r"below dataset.day_correlation=0.9: not the same field"):
        sessions(path, mask="none", day_correlation=0.9)
    with pytest.raises(ValueError, match="null or a correlation, came 2"):
        sessions(path, day_correlation=2.0)
