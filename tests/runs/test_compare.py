import csv
import io
import json
import math
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from nissl.runs.compare import compare, find_runs, read_flat_config
from nissl.runs.statistics import t_quantile
from nissl.runs.tables import render


def make_run(
    folder: Path, seed: int, depth: int, status: str = "finished", started: float = 0.0, pid: int = 1, **metrics: Any
) -> Path:
    folder.mkdir(parents=True)
    config = {
        "format": 1,
        "seed": seed,
        "run_dir": str(folder),
        "data_root": str(folder.parent),
        "dataset": {"_target_": "nissl.datasets.toy.Toy", "path": str(folder.parent / "toy.h5")},
        "model": {"_target_": "nissl.models.net.Net", "depth": depth, "sizes": [1, 2]},
        "logger": {"csv": {"save_dir": str(folder)}},
    }
    (folder / "config.yaml").write_text(yaml.dump(config, Dumper=yaml.CSafeDumper, sort_keys=False))
    if metrics:
        (folder / "summary.json").write_text(json.dumps({key.replace("__", "/"): v for key, v in metrics.items()}))
    state = {"status": status, "reason": "boom" * (status == "failed"), "started": started, "pid": pid}
    (folder / "status.json").write_text(json.dumps({**state, "host": socket.gethostname()}))
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Depth 3 with seeds 0-2, depth 7 with seeds 1-3; one failed run."""
    for seed, value in zip((0, 1, 2), (1.0, 2.0, 3.0), strict=True):
        make_run(tmp_path / f"a{seed}", seed, 3, erl__mean_nm=value, val__loss__last=0.5)
    for seed, value in zip((1, 2, 3), (2.5, 4.0, 9.0), strict=True):
        make_run(tmp_path / f"b{seed}", seed, 7, erl__mean_nm=value)
    make_run(tmp_path / "b4", 4, 7, status="failed")
    return tmp_path


def test_runs_that_differ_in_seed_and_place_only_are_one_group(runs: Path) -> None:
    found = compare([runs])
    assert [(group.name, list(group.counted)) for group in found.groups] == [
        ("A", ["0", "1", "2"]),
        ("B", ["1", "2", "3"]),
    ]


def test_mean_and_interval_match_a_hand_calculation(runs: Path) -> None:
    estimate = compare([runs]).groups[0].estimate("erl/mean_nm")
    assert estimate is not None and estimate.mean == 2.0 and estimate.n == 3
    assert estimate.values == {"0": 1.0, "1": 2.0, "2": 3.0}
    half = t_quantile(0.95, 2) * 1.0 / math.sqrt(3)
    assert estimate.t_interval == pytest.approx((2 - half, 2 + half))
    # 27 resamples of three values: a mean of 1 has 1/27 = 3.7 % > 2.5 %, so the interval reaches both ends
    assert estimate.bootstrap_interval == (1.0, 3.0)


def test_groups_are_paired_on_shared_seeds_and_the_others_are_listed(runs: Path) -> None:
    (test,) = compare([runs]).tests
    assert test.seeds == ["1", "2"] and test.unmatched == {"A": ["0"], "B": ["3"]}
    assert test.difference == pytest.approx((0.5 + 1.0) / 2)
    assert test.p == 0.5 == test.smallest_p


def test_only_changed_keys_are_shown(runs: Path) -> None:
    assert compare([runs]).differing == ["model.depth"]


def test_default_metrics_are_the_evaluators_else_the_best(runs: Path, tmp_path: Path) -> None:
    assert compare([runs]).metrics == ["erl/mean_nm"]
    make_run(tmp_path / "only/x", 0, 1, val__loss__last=0.5, val__loss__best=0.25)
    assert compare([tmp_path / "only"]).metrics == ["val/loss/best"]


def test_an_unknown_metric_or_key_or_folder_names_the_nearest(runs: Path) -> None:
    with pytest.raises(ValueError, match="no run has the metric 'erl/mean_um'; did you mean 'erl/mean_nm'?"):
        compare([runs], ["erl/mean_um"])
    with pytest.raises(ValueError, match="no run has 'model.deph'; did you mean 'model.depth'?"):
        compare([runs], where=["model.deph>3"])
    with pytest.raises(ValueError, match="did you mean 'model.depth'?"):
        compare([runs], sort="model.deph")
    with pytest.raises(ValueError, match="did you mean .*a0"):
        compare([runs / "a00"])
    with pytest.raises(ValueError, match="expected <key><operator><value>"):
        compare([runs], where=["model.depth"])
    with pytest.raises(ValueError, match="no run meets 'model.depth>9'"):
        compare([runs], where=["model.depth>9"])
    with pytest.raises(ValueError, match="cannot be ordered"):
        compare([runs], where=["model.depth>deep"])


@pytest.mark.parametrize(
    ("condition", "depths"),
    [
        ("model.depth>=7", [7]),
        ("model.depth<7", [3]),
        ("model.depth!=3", [7]),
        ("model.depth = 3", [3]),
        ("seed==3", [7]),
        ("erl/mean_nm>2.9", [3, 7]),
        ("status==failed", [7]),
    ],
)
def test_conditions_filter_runs(runs: Path, condition: str, depths: list[int]) -> None:
    assert [group.config["model.depth"] for group in compare([runs], where=[condition]).groups] == depths


def test_sorting_by_metric_or_key_puts_groups_without_it_last(runs: Path) -> None:
    make_run(runs / "c", 0, 5)
    (runs / "c/summary.json").unlink(missing_ok=True)

    def order(sort: str) -> list[int]:
        return [group.config["model.depth"] for group in compare([runs], sort=sort).groups]

    assert order("erl/mean_nm") == [3, 7, 5]
    assert order("-erl/mean_nm") == [7, 3, 5]
    assert order("-model.depth") == [7, 5, 3]


def test_unfinished_runs_are_shown_and_not_counted(runs: Path) -> None:
    make_run(runs / "live", 5, 7, status="running", pid=os.getpid(), erl__mean_nm=99.0)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    make_run(runs / "killed", 6, 7, status="running", pid=gone.pid)
    found = compare([runs]).groups[1]
    assert list(found.counted) == ["1", "2", "3"]
    assert {run.path.name: run.status for run in found.others} == {
        "b4": "failed",
        "live": "running",
        "killed": "killed",
    }
    assert "boom" in render(compare([runs]), "text")


def test_of_two_finished_runs_of_one_seed_the_newer_is_counted(runs: Path) -> None:
    make_run(runs / "again", 0, 3, started=5.0, erl__mean_nm=7.0)
    group = compare([runs]).groups[0]
    assert group.counted["0"].path.name == "again" and [run.path.name for run in group.others] == ["a0"]


def test_an_undefined_value_makes_the_mean_undefined(tmp_path: Path) -> None:
    make_run(tmp_path / "a", 0, 3, x=1.0)
    make_run(tmp_path / "b", 1, 3, x=None)
    estimate = compare([tmp_path]).groups[0].estimate("x")
    assert estimate is not None and math.isnan(estimate.mean)
    assert "undefined" in render(compare([tmp_path]), "text")


def test_evaluations_are_compared_only_when_named(runs: Path) -> None:
    make_run(runs / "a0/evaluations/later", 0, 3, erl__mean_nm=5.0)
    assert len(list(find_runs([runs]))) == 7
    assert len(list(find_runs([runs / "a0/evaluations", runs / "a0"]))) == 2


def test_a_run_that_died_at_once_is_shown_as_it_is(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "a", 0, 3)
    (folder / "status.json").unlink()
    (group,) = compare([tmp_path]).groups
    assert [run.status for run in group.others] == ["unknown"]


def test_broken_files_name_the_run(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "a", 0, 3)
    (folder / "summary.json").write_text("{")
    with pytest.raises(ValueError, match=f"{folder}: a file of this run cannot be read"):
        compare([tmp_path])
    (folder / "config.yaml").write_text("just text")
    with pytest.raises(ValueError, match="not a mapping"):
        compare([tmp_path])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no run folders there"):
        compare([tmp_path / "empty"])


@pytest.mark.parametrize(
    ("text", "flat"),
    [
        (
            "a: 1\nb:\n- 1\n- x: 2\nc:\n  d: |\n    text\n\n    more\n  e: [1,\n    2]\n# note\nf: 'x\n\n  y'\n",
            {"a": 1, "b": [1, {"x": 2}], "c.d": "text\n\nmore\n", "c.e": [1, 2], "f": "x\ny"},
        ),
        ("a: &x {b: 1}\nc: *x\n", {"a.b": 1, "c.b": 1}),
        ("{a: 1, b: {c: 2}}\n", {"a": 1, "b.c": 2}),
        ("a: 1\nrun_dir: /x\nlogger:\n  csv: 1\nb:\n  path: /x/y.h5\n", {"a": 1, "b.path": "y.h5"}),
    ],
)
def test_a_config_is_flattened_whatever_its_layout(text: str, flat: dict[str, Any]) -> None:
    assert read_flat_config(text) == flat


def test_the_formats_agree(runs: Path) -> None:
    comparison = compare([runs])
    data = json.loads(render(comparison, "json"))
    assert data["groups"][1]["metrics"]["erl/mean_nm"]["values"] == {"1": 2.5, "2": 4.0, "3": 9.0}
    assert data["tests"][0]["smallest_p"] == 0.5 and data["differing"] == ["model.depth"]
    rows = list(csv.DictReader(io.StringIO(render(comparison, "csv"))))
    assert [(row["group"], row["model.depth"], float(row["mean"])) for row in rows] == [
        ("A", "3", 2.0),
        ("B", "7", pytest.approx(15.5 / 3)),
    ]
    for form in ("text", "md", "html"):
        shown = render(comparison, form)  # type: ignore[arg-type]
        assert "5.167" in shown and "unmatched seeds" in shown and "smallest p" in shown
    assert "| A |" in render(comparison, "md")


def test_the_html_loads_nothing_from_elsewhere(runs: Path) -> None:
    page = render(compare([runs]), "html")
    assert "http" not in page and "<script src" not in page and "<link" not in page and "import(" not in page


def test_many_groups_are_rows_of_one_table(tmp_path: Path) -> None:
    for depth in range(30):
        make_run(tmp_path / f"d{depth:02}", 0, depth, x=float(depth))
    found = compare([tmp_path], sort="-x")
    assert found.groups[26].name == "AA" and found.groups[0].config["model.depth"] == 29
    assert "AD" in render(found, "text")


def test_a_thousand_runs_take_under_five_cpu_seconds_without_torch(tmp_path: Path) -> None:
    for index in range(1000):
        make_run(tmp_path / f"run{index:04}", index % 5, index // 5, x=float(index), y=0.5)
    code = (
        "import sys, time\nfrom nissl.cli import main\n"
        f"assert main(['compare', {str(tmp_path)!r}, '--sort=-x']) == 0\n"
        "assert 'torch' not in sys.modules\nassert time.process_time() < 5, time.process_time()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
