"""Groups stay whole, every pattern is everywhere, and what cannot be split is refused."""

from pathlib import Path

import numpy as np
import pytest

from nissl.datasets.calcium_events import Pattern
from nissl.datasets.calcium_labels import NONE, STIM, FrameTable
from nissl.datasets.calcium_splits import read_split, split_folds, split_frames

FRACTIONS = (0.6, 0.2, 0.2)


def make_table(trials: int = 10, patterns: int = 3, frames: int = 4, recordings: int = 1) -> FrameTable:
    """Trials in turn over the patterns; each has half its frames idle. A block is one round of all patterns."""
    rows = []
    for recording in range(recordings):
        for trial in range(trials * patterns):
            for frame in range(frames):
                idle = frame < frames // 2
                uid = recording * trials * patterns + trial
                pattern = patterns if idle else trial % patterns
                rows.append((recording, trial * frames + frame, uid, uid // patterns, pattern, NONE if idle else STIM))
    recording, frame, uid, block, pattern, role = np.array(rows).T
    names = tuple(Pattern((str(i),)) for i in range(patterns)) + (Pattern(()),)
    return FrameTable(recording, frame, uid, block, pattern, role, frame % frames - frames // 2, names)


def groups_in(table: FrameTable, part: np.ndarray, group: np.ndarray) -> list[set[int]]:
    return [set(group[part == i].tolist()) for i in range(3)]


@pytest.mark.parametrize("group", ["trial", "block", "recording"])
def test_no_group_is_in_two_parts(group: str) -> None:
    table = make_table(recordings=5)
    train, val, test = groups_in(table, split_frames(table, group, FRACTIONS, 0, 0), getattr(table, group))
    assert not (train & val or train & test or val & test) and train and val and test


def test_trials_of_each_pattern_are_divided_six_two_two() -> None:
    table = make_table()
    part = split_frames(table, "trial", FRACTIONS, 0, 0)
    for pattern in range(3):
        own = table.pattern == pattern
        assert [len(set(table.trial[own & (part == i)])) for i in range(3)] == [6, 2, 2]


def test_a_frame_split_tears_trials_apart() -> None:
    table = make_table()
    train, _, test = groups_in(table, split_frames(table, "frame", FRACTIONS, 0, 0), table.trial)
    assert train & test


def test_the_same_seed_gives_the_same_split_and_another_does_not() -> None:
    table = make_table()
    first, again, other = (split_frames(table, "trial", FRACTIONS, seed, 0) for seed in (4, 4, 5))
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_left_out_frames_are_in_no_part() -> None:
    table = make_table()
    table.role[::5] = 2
    assert (split_frames(table, "trial", FRACTIONS, 0, 0)[::5] == -1).all()


def test_an_embargo_keeps_training_away_from_held_out_frames() -> None:
    table = make_table(frames=8)
    part = split_frames(table, "trial", FRACTIONS, 0, 2)
    train, held_out = np.flatnonzero(part == 0), np.flatnonzero(part > 0)
    assert np.abs(train[:, None] - held_out[None]).min() == 3


def test_an_embargo_longer_than_the_recording_is_refused() -> None:
    with pytest.raises(ValueError, match="is left in the train part .* Lower dataset.embargo_s"):
        split_frames(make_table(), "trial", FRACTIONS, 0, 500)


def test_a_pattern_with_one_trial_is_refused_by_name() -> None:
    table = make_table(trials=3)
    with pytest.raises(ValueError, match=r"'0' has only 1 trial\(s\), but 3 parts \(train, val, test\) need one each"):
        split_frames(make_table(trials=1), "trial", FRACTIONS, 0, 0)
    assert set(split_frames(table, "trial", FRACTIONS, 0, 0)) == {0, 1, 2}


def test_a_pattern_that_lives_in_one_block_is_refused() -> None:
    table = make_table()
    table.pattern[table.pattern == 2] = 1
    lone = np.flatnonzero((table.block == 0) & (table.role == STIM))[0]
    table.pattern[lone] = 2
    with pytest.raises(ValueError, match="needs every pattern in 3 blocks or more; came '2' in 1. Choose"):
        split_frames(table, "block", FRACTIONS, 0, 0)


def test_a_single_recording_cannot_be_split_by_recording() -> None:
    with pytest.raises(ValueError, match="needs every pattern in 3 recordings or more"):
        split_frames(make_table(), "recording", FRACTIONS, 0, 0)


@pytest.mark.parametrize("fractions", [(0.6, 0.2), (0.6, 0.2, 0.3), (0.0, 0.5, 0.5), (1.2, -0.1, -0.1)])
def test_shares_that_do_not_add_up_are_refused(fractions: tuple) -> None:
    with pytest.raises(ValueError, match="split_fractions must be three shares"):
        split_frames(make_table(), "trial", fractions, 0, 0)


def test_an_unknown_group_is_refused() -> None:
    with pytest.raises(ValueError, match="split_group='mouse' is unknown"):
        split_frames(make_table(), "mouse", FRACTIONS, 0, 0)


def test_a_saved_split_is_read_back(tmp_path: Path) -> None:
    table = make_table()
    part = split_frames(table, "trial", FRACTIONS, 0, 0)
    part[0] = -1
    names = ["train", "val", "test", ""]
    lines = [f"r0,{frame},{names[p]}" for frame, p in zip(table.frame, part, strict=True)]
    (tmp_path / "s.csv").write_text("\n".join(["recording,frame,split", *lines]))
    assert np.array_equal(read_split(tmp_path / "s.csv", table, ["r0"]), part)


def test_a_split_of_other_data_is_refused(tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_text("recording,frame,split\nr0,99999,train\n")
    with pytest.raises(ValueError, match="frame 99999 of 'r0' .* is not in these data"):
        read_split(tmp_path / "s.csv", make_table(), ["r0"])
    (tmp_path / "t.csv").write_text("frame\n1\n")
    with pytest.raises(ValueError, match="must have columns recording, frame and split"):
        read_split(tmp_path / "t.csv", make_table(), ["r0"])
    with pytest.raises(FileNotFoundError, match="Check dataset.split_path"):
        read_split(tmp_path / "none.csv", make_table(), ["r0"])


@pytest.mark.parametrize("group", ["frame", "trial", "block"])
def test_every_frame_is_tested_in_one_fold_and_validated_in_another(group: str) -> None:
    table = make_table()
    parts = np.stack(split_folds(table, group, 5, 0, 0))
    assert ((parts == 2).sum(axis=0) == 1).all() and ((parts == 1).sum(axis=0) == 1).all()
    for part in parts:
        ids = np.arange(len(table)) if group == "frame" else getattr(table, group)
        train, val, test = groups_in(table, part, ids)
        assert not (train & val or train & test or val & test)
        assert all(set(table.pattern[part == i]) == {0, 1, 2, 3} for i in range(3))


def test_too_few_folds_or_too_few_trials_for_them_are_refused() -> None:
    with pytest.raises(ValueError, match="dataset.folds must be 3 or more"):
        split_folds(make_table(), "trial", 2, 0, 0)
    with pytest.raises(ValueError, match=r"only 4 trial\(s\), but 5 parts \(one per fold\) need one each"):
        split_folds(make_table(trials=4), "trial", 5, 0, 0)
