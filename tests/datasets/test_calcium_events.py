"""The event table: what it means, and every way it can be wrong."""

import re
from pathlib import Path

import numpy as np
import pytest

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

CELLS = CellTable(("1", "2", "3", "10"))


def table(tmp_path: Path, text: str, name: str = "events.csv") -> Path:
    path = tmp_path / name
    path.write_text(text)
    return path


def check(*events: Event, max_cells: int = 2) -> list[Event]:
    return check_events(events, CELLS, {"r": 100}, max_cells)


def event(onset: int, offset: int, *cells: str, **more: str) -> Event:
    return Event(more.pop("recording", "r"), onset, offset, cells, where=f"line {onset}", **more)  # type: ignore[arg-type]


def test_a_table_in_frames_is_read(tmp_path: Path) -> None:
    path = table(tmp_path, "onset_frame,offset_frame,cells,condition\n10,12,2;1,p1\n30,31,,\n")
    first, sham = read_events(path, "r", None)
    assert (first.onset, first.offset, first.cells, first.condition) == (10, 12, ("2", "1"), "p1")
    assert sham.cells == () and first.where.endswith("events.csv line 2")


def test_seconds_become_the_frame_they_fall_in(tmp_path: Path) -> None:
    path = table(tmp_path, "onset_s,offset_s,cells\n1.2,1.2,1\n1.29,1.41,2\n")
    on_the_frame, within = read_events(path, "r", 10.0)
    assert (on_the_frame.onset, on_the_frame.offset) == (12, 13)  # 1.2 s is exactly frame 12; at least one frame long
    assert (within.onset, within.offset) == (12, 15)


def test_seconds_become_frames_by_their_start_times_where_there_are_any(tmp_path: Path) -> None:
    times = np.array([0.0, 0.1, 0.2, 5.0, 5.1, 5.2])  # a pause after the third frame
    path = table(tmp_path, "onset_s,offset_s,cells\n0.15,0.2,1\n3.0,5.05,2\n-1,0.1,1\n")
    first, over_the_pause, too_early = read_events(path, "r", None, times)
    assert (first.onset, first.offset) == (1, 2)
    assert (over_the_pause.onset, over_the_pause.offset) == (2, 4)
    assert too_early.onset == -1  # and so refused with the recording's length
    assert rate_of(times) == pytest.approx(10.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("time_s\n0\n1\n", "2 frame times, but the movie has 3 frames"),
        ("time_s\n0\n2\n1\n", "line 4: 1.0 s is not after 2.0 s"),
        ("a,b\n0,1\n1,2\n2,3\n", "no column 'time_s'; it has a, b"),
        ("time_s\n0\nx\n2\n", "line 3: expected a number, came 'x'"),
    ],
)
def test_malformed_frame_times_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "times.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=re.escape(message)):
        read_frame_times(path, 3)


def test_seconds_without_a_frame_rate_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="frame rate is unknown. Set dataset.fps"):
        read_events(table(tmp_path, "onset_s,offset_s,cells\n1,2,1\n"), "r", None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("onset_frame,cells\n1,1\n", "exactly one of the column pairs"),
        ("onset_frame,offset_frame,onset_s,offset_s,cells\n1,2,1,2,1\n", "exactly one of the column pairs"),
        ("onset_frame,offset_frame\n1,2\n", "has no column 'cells'"),
        ("onset_frame,offset_frame,cells\n", "has no rows"),
        ("onset_frame,offset_frame,cells\n1,2\n", "line 2: expected 3 fields"),
        ("onset_frame,offset_frame,cells\nten,12,1\n", "line 2: expected a number, came 'ten'"),
        ("onset_frame,offset_frame,cells\n1.5,12,1\n", "line 2: expected a whole number, came '1.5'"),
        ("onset_frame,offset_frame,cells,pattern\n1,2,1;2,1+3\n", r"pattern '1\+3' does not match cells '1;2'"),
    ],
)
def test_a_malformed_table_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_events(table(tmp_path, text), "r", None)


def test_a_missing_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="events table .* does not exist. Check dataset.events_path"):
        read_events(tmp_path / "none.csv", "r", None)


def test_events_are_put_in_time_order_with_cells_in_table_order_and_trials_counted() -> None:
    late, early = check(event(50, 51, "10", "2"), event(10, 11, "2", "10"))
    assert early.onset == 50 and late.onset == 10
    assert late.cells == early.cells == ("2", "10")
    assert (late.trial, early.trial) == (1, 2)


@pytest.mark.parametrize(
    ("events", "message"),
    [
        ([event(98, 103, "1")], "frames 98 to 103 are outside recording 'r', which has 100 frames"),
        ([event(-1, 3, "1")], "frames -1 to 3 are outside"),
        ([event(5, 5, "1")], "onset 5 is not before offset 5"),
        ([event(5, 6, "7")], "unknown cell '7'; the cell table has 1, 2, 3, 10"),
        ([event(5, 6, "1", "1")], "the same cell twice in '1;1'"),
        ([event(5, 6, "1", "2", "3")], "3 cells, at most 2 allowed. Set dataset.max_cells"),
        ([event(5, 6, "1", recording="q")], "unknown recording 'q'; the recordings are r"),
        ([event(5, 9, "1"), event(8, 10, "2")], r"line 8: overlaps the event of line 5 \(it lasts to frame 9\)"),
    ],
)
def test_an_impossible_event_is_refused(events: list[Event], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check(*events)


def test_all_problems_come_at_once() -> None:
    with pytest.raises(ValueError, match="2 problem") as caught:
        check(event(98, 103, "1"), event(5, 6, "7"))
    assert "line 98" in str(caught.value) and "unknown cell '7'" in str(caught.value)


def test_patterns_are_singles_then_pairs_then_none_with_conditions_adjacent() -> None:
    events = [event(1, 2, "2", "10"), event(3, 4, "10", condition="b"), event(5, 6, "2", condition="b")]
    events += [event(7, 8, "2", condition="a"), event(9, 10)]
    names = [pattern.name for pattern in list_patterns(check(*events), CELLS)]
    assert names == ["2@a", "2@b", "10@b", "2+10", "none"]
    assert Pattern(()).name == "none"


def test_cells_without_a_table_are_named_by_the_events_in_counting_order() -> None:
    assert cells_of([event(1, 2, "10", "9"), event(3, 4, "b")]).names == ("9", "10", "b")


def test_a_cell_table_is_read(tmp_path: Path) -> None:
    cells = read_cells(table(tmp_path, "cell,y_px,x_px,radius_px\nb,1.5,2,3\na,4,5,3\n"))
    assert cells.names == ("b", "a")
    assert np.array_equal(cells.positions_px, [[1.5, 2], [4, 5]]) and np.array_equal(cells.radius_px, [3, 3])
    assert read_cells(table(tmp_path, "cell\na\n")).positions_px is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name\na\n", "has no column 'cell'"),
        ("cell\na\na\n", "distinct, non-empty names"),
        ("cell,y_px,x_px\na,one,2\n", "line 2, column y_px: expected a number, came 'one'"),
    ],
)
def test_a_malformed_cell_table_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_cells(table(tmp_path, text, "cells.csv"))
