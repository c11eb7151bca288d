import logging
from pathlib import Path

import pytest

from nissl.runs.records import declared_metrics, direction_of, read_metrics, summarise


def test_the_later_of_two_lines_of_one_step_wins(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 2, "a": 1}\n{"step": 1, "a": 5}\n{"step": 2, "a": 3, "b": 4}\n')
    assert read_metrics(path) == [{"step": 1, "a": 5}, {"step": 2, "a": 3, "b": 4}]


def test_a_line_cut_short_by_a_kill_is_skipped_and_said_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "a": 5}\n{"step": 2, "a"')
    with caplog.at_level(logging.WARNING):
        assert read_metrics(path) == [{"step": 1, "a": 5}]
    assert "line 2 of 2 is cut short" in caplog.text


def test_best_follows_the_declared_direction_and_speed_is_left_out() -> None:
    rows = [
        {"step": 1, "val/loss": 3.0, "val/accuracy": 0.2, "lr": 0.1, "system/moves_per_second": 9.0},
        {"step": 2, "val/loss": 1.0, "val/accuracy": 0.9, "lr": 0.2},
        {"step": 3, "val/loss": 2.0, "val/accuracy": float("nan"), "lr": 0.3},
    ]
    summary = summarise(rows, {"val/loss": "min", "val/*": "max", "lr": None})
    assert summary["val/loss/best"] == 1.0 and summary["val/loss/last"] == 2.0
    assert summary["val/accuracy/best"] == 0.9 and summary["lr/last"] == 0.3
    assert "lr/best" not in summary and not any(name.startswith("system/") for name in summary)


def test_a_metric_nobody_declared_is_an_error() -> None:
    with pytest.raises(ValueError, match="'val/los' has no direction"):
        direction_of("val/los", {"val/loss": "min"})


def test_declared_metrics_are_read_without_importing() -> None:
    source = 'import nothing_here\nclass Task(nothing_here.X):\n    metrics: dict = {"a": "min", "b/*": None}\n'
    assert declared_metrics(source, "Task") == {"a": "min", "b/*": None}
    assert declared_metrics(source, "Other") == {}
