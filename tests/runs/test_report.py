import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from nissl.evaluators.result import Figure
from nissl.runs.curves import charts, svg
from nissl.runs.report import build_report

ADDRESS = ("src", "href", "xlink:href", "action", "data", "poster", "srcset")


class Page(HTMLParser):
    """Addresses, tags and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.tags: list[str] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ADDRESS]

    def handle_data(self, data: str) -> None:
        self.words.append(data.strip())

    @property
    def text(self) -> str:
        return " ".join(word for word in self.words if word)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "2026-01-02_03-04-05-abcd"
    (folder / "figures").mkdir(parents=True)
    (folder / "tables").mkdir()
    (folder / "config.yaml").write_text(
        "format: 1\nquestion: Does <b>depth</b> help?\nseed: 3\nmodel:\n  _target_: nissl.models.net.Net\n"
    )
    (folder / "overrides.txt").write_text("experiment=first\nmodel.depth=7\n")
    status = {"status": "finished", "kind": "training", "started": 1000.0, "updated": 1100.0, "reason": ""}
    (folder / "status.json").write_text(json.dumps(status))
    provenance = {
        "git": {"sha": "a" * 40, "dirty": True, "diff_file": "git.diff", "untracked": ["new.py"]},
        "command": "train.py experiment=first",
        "started": 1000.0,
        "packages": {"torch": "2.13.0"},
        "host": {"name": "box", "cpu": "fast", "cpus": 2},
        "data": [{"path": "toy.h5", "bytes": 7, "blake2b": "ff00"}],
        "evaluated_weights": "best.ckpt",
    }
    (folder / "provenance.json").write_text(json.dumps(provenance))
    (folder / "git.diff").write_text("--- a/x\n+++ b/x\n+changed line\n")
    rows = [{"step": s, "epoch": 0, "time": 0.0, "train/loss": 1 / (s + 1), "val/loss": None} for s in range(9)]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "metrics.jsonl").write_text(text)
    (folder / "summary.json").write_text(
        json.dumps({"erl/mean_nm": 71.428571, "coverage": None, "val/loss/last": 0.2, "val/loss/best": 0.1})
    )
    figure = Figure.from_array(np.zeros((4, 4, 3), np.uint8), "")
    (folder / "figures/erl_slice.png").write_bytes(figure.png)
    index = {"erl_slice.png": {"caption": "One slice.", "evaluator": "erl", "data": ["erl_slice_x.csv"]}}
    (folder / "figures/index.json").write_text(json.dumps(index))
    (folder / "tables/erl_rows.csv").write_text("name,length_nm\n" + "".join(f"s{i},{i / 7}\n" for i in range(250)))
    (folder / "notes.json").write_text(json.dumps(["erl: two skeletons were skipped"]))
    later = folder / "evaluations/later"
    later.mkdir(parents=True)
    (later / "config.yaml").write_text("format: 1\n")
    (later / "summary.json").write_text('{"voi/sum": 0.5}')
    return folder


def test_a_report_holds_everything_a_reader_asks(run: Path) -> None:
    path = build_report(run)
    assert path == run / "report.html"
    page = Page(path.read_text())
    for expected in (
        "2026-01-02_03-04-05-abcd",
        "finished",
        "Does <b>depth</b> help?",
        "train.py experiment=first",
        "1 min 40 s",
        "71.4286",
        "undefined",
        "best.ckpt",
        "with uncommitted changes (git.diff), 1 untracked files",
        "+changed line",
        "erl: two skeletons were skipped",
        "One slice.",
        "erl_slice_x.csv",
        "50 further rows in tables/erl_rows.csv",
        "model.depth=7",
        "_target_: nissl.models.net.Net",
        "toy.h5",
        "2.13.0",
        "evaluations/later",
        "voi/sum",
    ):
        assert expected in page.text, expected


def test_a_report_loads_nothing_from_elsewhere(run: Path) -> None:
    text = build_report(run).read_text()
    page = Page(text)
    assert page.addresses and all(
        address.startswith(("data:image/png;base64,", "data:text/csv;")) for address in page.addresses
    )
    assert not {"script", "link", "iframe", "object", "embed"} & set(page.tags)
    assert not re.findall(r"url\(|@import|https?://", text)


def test_a_report_is_readable_on_a_phone_in_the_dark_and_on_paper(run: Path) -> None:
    text = build_report(run).read_text()
    assert 'name="viewport"' in text and "prefers-color-scheme: dark" in text and "@media print" in text


def test_a_report_can_be_rebuilt_from_a_moved_folder(run: Path) -> None:
    first = build_report(run).read_text()
    moved = run.rename(run.parent / "moved")
    assert build_report(moved).read_text() == first.replace(run.name, "moved")


def test_a_run_that_failed_at_once_has_a_report_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("format: 1\n")
    status = {"status": "failed", "reason": "ValueError: no data", "traceback": "Traceback (most recent call last)"}
    (tmp_path / "status.json").write_text(json.dumps(status))
    text = Page(build_report(tmp_path).read_text()).text
    assert "failed" in text and "ValueError: no data" in text and "Traceback (most recent" in text


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not a run folder: it has no config.yaml"):
        build_report(tmp_path)


def test_train_and_val_of_one_quantity_share_a_chart_and_system_comes_last() -> None:
    rows = [
        {"step": s, "epoch": 0, "time": 0.0, "train/loss": 1.0, "val/loss": 2.0, "lr": 0.1, "system/speed": 3.0}
        for s in range(3)
    ]
    assert [(chart.title, chart.names) for chart in charts(rows)] == [
        ("lr", ["lr"]),
        ("loss", ["train/loss", "val/loss"]),
        ("system/speed", ["system/speed"]),
    ]


def points(picture: str) -> list[list[tuple[float, float]]]:
    found = re.findall(r'<polyline[^>]*points="([^"]*)"', picture)
    return [[(float(x), float(y)) for x, y in (pair.split(",") for pair in line.split())] for line in found]


def test_a_falling_curve_falls_and_a_gap_is_a_gap() -> None:
    x = np.arange(6.0)
    (line,) = points(svg({"loss": (x, 5 - x)}))
    assert [a for a, _ in line] == sorted(a for a, _ in line)
    assert [b for _, b in line] == sorted(b for _, b in line)  # downwards on a screen
    gap = np.array([1.0, 2.0, math.nan, 3.0, 4.0, math.nan])
    assert [len(piece) for piece in points(svg({"loss": (x, gap)}))] == [2, 2]


def test_a_wide_range_of_positive_values_is_drawn_on_a_logarithmic_axis() -> None:
    x = np.arange(4.0)
    (line,) = points(svg({"loss": (x, 10.0**-x)}))
    steps = np.diff([b for _, b in line])
    assert steps == pytest.approx([steps[0]] * 3, abs=0.2)


def test_a_spike_survives_thinning() -> None:
    x = np.arange(20_000.0)
    y = np.zeros(20_000)
    y[12_345] = 1.0
    (line,) = points(svg({"loss": (x, y)}))
    assert len(line) <= 501 and min(b for _, b in line) < max(b for _, b in line) - 100


def test_single_constant_and_undefined_values_are_drawn_without_error() -> None:
    one = np.array([3.0])
    assert "<circle" in svg({"x": (one, one)})
    assert points(svg({"x": (np.arange(3.0), np.full(3, 0.0))}))
    assert "no finite value" in svg({"x": (one, np.array([math.nan]))})
    assert "a&lt;b" in svg({"a<b": (one, one)})
