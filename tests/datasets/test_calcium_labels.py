"""Which frames are stimulated, idle or left out, worked by hand."""

import numpy as np
import pytest

from nissl.datasets.calcium_events import CellTable, Event, Pattern, check_events, list_patterns
from nissl.datasets.calcium_labels import (
    ROLES,
    FrameTable,
    Labelling,
    label_by_covariate,
    label_by_events,
    label_vectors,
    outputs_of,
)

CELLS = CellTable(("1", "2", "3", "4"))
PLAIN = Labelling(lag_s=0.0, tail_s=1.0, guard_s=0.0, baseline_s=1.0, drop_laser_frames=False, laser_pad=0)


def label(events: list[tuple[int, int, tuple[str, ...]]], labelling: Labelling, length: int = 30) -> FrameTable:
    """Frames at 4 per second."""
    listed = [Event("r", on, off, cells, where=f"frame {on}") for on, off, cells in events]
    checked = check_events(listed, CELLS, {"r": length}, 2)
    return label_by_events(checked, list_patterns(checked, CELLS), {"r": length}, {"r": 4.0}, labelling, {"r": []})


def letters(table: FrameTable) -> str:
    """Roles as text: s stim, n none, g guard, l laser, e excluded."""
    return "".join(ROLES[role][0] for role in table.role)


def test_labels_are_one_hot_two_hot_and_none_last() -> None:
    outputs = outputs_of(CELLS, [Pattern(("3",)), Pattern(())])
    assert outputs == ("1", "2", "3", "4", "none")
    vectors = label_vectors([Pattern(("3",)), Pattern(("2", "4")), Pattern(())], outputs)
    assert vectors.tolist() == [[0, 0, 1, 0, 0], [0, 1, 0, 1, 0], [0, 0, 0, 0, 1]]


def test_roles_on_thirty_frames_with_guard_and_laser() -> None:
    # Onset 10 at 4 frames/s: window 10..13, laser 10..11 with one frame of pad 9..12, guard 14..15.
    strict = Labelling(0.0, 1.0, 0.5, 1.0, drop_laser_frames=True, laser_pad=1)
    table = label([(10, 12, ("1",))], strict)
    assert letters(table) == "n" * 9 + "llll" + "s" + "gg" + "n" * 14


def test_without_guard_every_frame_is_kept() -> None:
    table = label([(10, 12, ("1",))], PLAIN)
    assert letters(table) == "n" * 10 + "ssss" + "n" * 16
    assert table.pattern[10] == 0 and table.pattern[9] == 1 and table.since_onset[9] == -1


def test_frames_before_a_late_window_are_neither() -> None:
    lagged = Labelling(0.5, 1.0, 0.0, 1.0, False, 0)
    assert letters(label([(10, 11, ("1",))], lagged))[9:15] == "nggssn"


def test_a_window_ends_where_the_next_stimulation_begins() -> None:
    table = label([(10, 11, ("1",)), (12, 13, ("2",))], PLAIN)
    assert table.pattern[10:16].tolist() == [0, 0, 1, 1, 1, 1]


def test_a_trial_owns_its_baseline() -> None:
    table = label([(6, 7, ("1",)), (20, 21, ("2",))], PLAIN)
    assert table.trial.tolist() == [0] * 16 + [1] * 14  # baseline of 4 frames before onset 20


def test_a_sham_is_idle() -> None:
    table = label([(6, 7, ("1",)), (20, 21, ())], PLAIN)
    assert letters(table)[20:] == "n" * 10 and set(table.trial) == {0, 1}


def test_excluded_frames_are_left_out() -> None:
    events = check_events([Event("r", 10, 11, ("1",))], CELLS, {"r": 30}, 2)
    table = label_by_events(events, list_patterns(events, CELLS), {"r": 30}, {"r": 4.0}, PLAIN, {"r": [(12, 15)]})
    assert letters(table)[10:16] == "sseeen"


def test_a_window_filled_by_laser_light_is_refused() -> None:
    filled = Labelling(0.0, 1.0, 0.0, 1.0, drop_laser_frames=True, laser_pad=1)
    with pytest.raises(ValueError, match="frame 10: no frame .* is left.*Lengthen dataset.tail_s"):
        label([(10, 14, ("1",))], filled)


def test_a_movie_without_an_idle_frame_is_refused() -> None:
    with pytest.raises(ValueError, match="no frame is left without stimulation"):
        label([(0, 1, ("1",))], PLAIN, length=4)


def test_covariate_classes_include_their_lower_edge() -> None:
    table = label_by_covariate(np.array([0, 1, 2, 3, 4, 5.0]), [2.0, 4.0], ["low", "mid", "high"], 4)
    assert table.pattern.tolist() == [0, 0, 1, 1, 2, 2] and table.block.tolist() == [0, 0, 0, 0, 1, 1]
    assert outputs_of(CellTable(("low", "mid", "high")), table.patterns) == ("low", "mid", "high")


@pytest.mark.parametrize(
    ("values", "edges", "names", "message"),
    [
        ([0, 1, np.nan, 3], [2], ["a", "b"], r"not a number in 1 frame\(s\), the first at frame 2"),
        ([0, 1, 2, 3], [2, 1], ["a", "b", "c"], "class_edges must rise"),
        ([0, 1, 2, 3], [2], ["a"], "one fewer than class_names"),
        ([0, 1, 2, 3], [3], ["a", "b"], "two frames or more .* 'b' has 1"),
    ],
)
def test_unusable_covariates_are_refused(values: list, edges: list, names: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        label_by_covariate(np.array(values, dtype=float), edges, names, 2)
