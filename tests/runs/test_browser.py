"""Pages opened in a real browser with networking refused: charts drawn, filters work, nothing runs off the screen."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nissl.evaluators.result import Figure
from nissl.runs.compare import compare
from nissl.runs.report import build_report
from nissl.runs.tables import render

CHROMIUM = next((path for name in ("chromium", "chromium-browser") if (path := shutil.which(name))), None)
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SIZES = {"desk": (1280, 900), "phone": (390, 844)}
pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium here: apt-get install chromium"),
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install -e .[dev]")
    with playwright.sync_playwright() as tools:
        opened = tools.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield opened
        opened.close()


def make_run(folder: Path, depth: int, seed: int) -> Path:
    for name in ("figures", "tables"):
        (folder / name).mkdir(parents=True)
    (folder / "config.yaml").write_text(
        f"format: 1\nquestion: Does depth help?\nseed: {seed}\nmodel:\n  depth: {depth}\n"
    )
    (folder / "overrides.txt").write_text(f"model.depth={depth}\nseed={seed}\n")
    (folder / "status.json").write_text(json.dumps({"status": "finished", "kind": "training", "started": 1000.0}))
    rng = np.random.default_rng([depth, seed])
    rows = [
        {"step": s, "epoch": s // 20, "time": 0.0, "train/loss": depth / (s + 1) + 0.02 * rng.random(), "lr": 0.001}
        | ({"val/loss": depth / (s + 2) + 0.1} if s % 10 == 9 else {})
        for s in range(100)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    numbers = {"knn/accuracy": 0.6 + depth / 30 + seed / 100, "val/loss/last": 0.1, "val/loss/best": 0.1}
    (folder / "summary.json").write_text(json.dumps(numbers))
    image = (np.indices((200, 300)).sum(0) % 255).astype(np.uint8)
    figure = Figure.from_array(np.repeat(image[..., None], 3, 2), "")
    (folder / "figures/knn_confusion.png").write_bytes(figure.png)
    index = {"knn_confusion.png": {"caption": "Confusion of classes.", "evaluator": "knn", "data": ["knn_c.csv"]}}
    (folder / "figures/index.json").write_text(json.dumps(index))
    (folder / "tables/knn_classes.csv").write_text("class,accuracy\npyramidal,0.91\nbasket,0.72\n")
    changed = [
        {"key": "model.depth", "default": "5", "value": str(depth), "where": f"command line, model.depth={depth}"}
    ]
    provenance = {"command": "train.py experiment=quick", "started": 1000.0, "changed": changed}
    (folder / "provenance.json").write_text(json.dumps(provenance))
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    for depth in (3, 7):
        for seed in (0, 1, 2):
            make_run(folder / f"d{depth}s{seed}", depth, seed)
    return folder


def opened(browser: Any, file: Path, size: str = "desk", scheme: str = "light") -> Any:
    """A page of a file; any request for something else is refused and counted."""
    width, height = SIZES[size]
    page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
    page.asked = []
    page.on("request", lambda request: page.asked.append(request.url))
    page.goto(file.as_uri())
    return page


def assert_fits(page: Any) -> None:
    """Nothing was asked of the network, no script failed, the page is not wider than the screen, curves are drawn."""
    outside = [url for url in page.asked if not url.startswith(("file:", "data:"))]
    assert not outside
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth + 1")
    boxes = page.eval_on_selector_all("svg polyline", "lines => lines.map(line => line.getBoundingClientRect().width)")
    assert boxes and max(boxes) > 50


@pytest.mark.parametrize(("size", "scheme"), [("desk", "light"), ("phone", "dark")])
def test_a_run_report_fits_its_screen(browser: Any, runs: Path, size: str, scheme: str, tmp_path: Path) -> None:
    page = opened(browser, build_report(runs / "d7s0"), size, scheme)
    assert_fits(page)
    assert page.eval_on_selector("figure img", "image => image.naturalWidth") == 300
    assert page.get_by_text("command line, model.depth=7").count() == 1
    bright = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert bright == (scheme == "light")
    page.screenshot(path=str(tmp_path / f"report-{size}.png"), full_page=True)
    page.close()


def test_a_run_report_prints(browser: Any, runs: Path, tmp_path: Path) -> None:
    page = opened(browser, build_report(runs / "d7s0"))
    page.pdf(path=str(tmp_path / "report.pdf"), format="A4")
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF")
    page.close()


@pytest.mark.parametrize("size", list(SIZES))
def test_a_comparison_overlays_curves_and_filters(browser: Any, runs: Path, size: str, tmp_path: Path) -> None:
    file = tmp_path / "comparison.html"
    file.write_text(render(compare([runs]), "html"))
    page = opened(browser, file, size)
    assert_fits(page)
    figure = page.locator("figure", has=page.get_by_role("heading", name="train/loss", exact=True))
    assert figure.locator("polyline").count() == 6
    page.screenshot(path=str(tmp_path / f"comparison-{size}.png"), full_page=True)
    page.get_by_role("searchbox").fill("val/loss")
    assert page.get_by_role("heading", name="val/loss", exact=True).is_visible()
    assert not page.get_by_role("heading", name="train/loss", exact=True).is_visible()
    page.get_by_role("searchbox").fill("")
    assert page.get_by_role("heading", name="train/loss", exact=True).is_visible()
    page.close()


@pytest.mark.parametrize("size", list(SIZES))
def test_a_sweep_report_draws_its_pictures(browser: Any, size: str, sweep_folder: Path, tmp_path: Path) -> None:
    from nissl.runs.sweep_report import build_sweep_report

    page = opened(browser, build_sweep_report(sweep_folder), size)
    assert_fits(page)
    assert page.locator("polyline.path").count() == 20 and page.locator("rect.bar").count() == 3
    page.screenshot(path=str(tmp_path / f"sweep-{size}.png"), full_page=True)
    rows = page.locator("tbody tr:visible").count()
    page.get_by_role("searchbox").fill("fail")
    assert page.locator("tbody tr:visible").count() == 1 < rows
    page.close()


@pytest.fixture(scope="module")
def sweep_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search whose record was written without training anything."""
    import optuna
    import yaml

    from nissl.runs.search_space import SearchSpec
    from nissl.runs.sweep import open_study

    folder = tmp_path_factory.mktemp("sweep")
    spec = SearchSpec(
        name="quick",
        base=["experiment=quick"],
        space={
            "task.optimizer.lr": {"low": 1e-4, "high": 1e-1, "log": True},
            "model.depth": {"choices": [3, 5, 7]},
            "task.schedule": {"choices": ["cosine", "constant"]},
        },
        objective={"metric": "knn/accuracy", "direction": "maximize"},
        sampler={"name": "random", "seed": 0},
        trials=21,
        seeds=[0, 1],
    )
    (folder / "sweep.yaml").write_text(yaml.safe_dump(spec.as_dict()))
    study = open_study(folder, "quick", "maximize", create=True)
    study.sampler = optuna.samplers.RandomSampler(seed=0)
    for number in range(21):
        trial = study.ask(spec.distributions())
        if number == 20:
            trial.set_user_attr("failure", "base, seed 0: ValueError: too deep\nTraceback ...")
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
            continue
        lr, depth = trial.params["task.optimizer.lr"], trial.params["model.depth"]
        value = 0.9 - 0.1 * (np.log10(lr) + 2.5) ** 2 + 0.01 * depth
        trial.set_user_attr("values", {"base": {0: value - 0.01, 1: value + 0.01}})
        study.tell(trial, value)
    return folder


BOARD = """
import sys
import numpy as np
from nissl.evaluators.result import Figure
from nissl.runs.loggers import Sink, TrackioLogger
image = (np.indices((60, 80)).sum(0) % 255).astype(np.uint8)
figure = Figure.from_array(np.repeat(image[..., None], 3, 2), "stripes")
for name in ("quick-one", "quick-two"):
    sink = Sink(TrackioLogger("nissl", name, "quick", sys.argv[1]), "trackio")
    sink.log_hyperparams({"model/depth": 3})
    for step in range(20):
        sink.log_metrics({"train/loss": 1 / (step + 1)}, step)
    sink.log_figure("knn/confusion", figure, 20)
    sink.close("success")
    assert sink.alive
"""


def test_the_dashboard_lists_runs_draws_a_chart_and_shows_an_image(browser: Any, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", BOARD, str(tmp_path / ".trackio")], check=True, timeout=240)
    command = [str(Path(sys.executable).parent / "nissl"), "board", "--runs", str(tmp_path), "--no-open"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert server.stdout is not None
        line = next(line for line in server.stdout if line.startswith("Dashboard of"))
        address = line.split(": ", 1)[1].split()[0]
        assert "token" not in line
        wait_until_up(address)
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto(f"{address}?project=nissl")
        for name in ("quick-one", "quick-two"):
            page.get_by_text(name).first.wait_for(timeout=60_000)
        page.locator("canvas, svg.marks, .vega-embed, .js-plotly-plot").first.wait_for(timeout=60_000)
        page.screenshot(path=str(tmp_path / "board.png"))
        page.get_by_text("Media", exact=False).first.click()
        image = page.locator("img[src*='knn'], img[src*='media'], img[src*='.png']").first
        image.wait_for(timeout=60_000)
        page.screenshot(path=str(tmp_path / "board-media.png"))
        assert image.evaluate("image => image.naturalWidth") > 0
        page.close()
    finally:
        server.terminate()
        server.communicate(timeout=30)  # closes the pipe as well


def test_optunas_dashboard_of_a_sweep_opens(browser: Any, sweep_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("optuna_dashboard", reason="optuna-dashboard is not installed: pip install optuna-dashboard")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    nissl = str(Path(sys.executable).parent / "nissl")
    command = [nissl, "board", "--sweep", str(sweep_folder), "--port", str(port)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    server = subprocess.Popen(command, start_new_session=True, **quiet)
    try:
        address = f"http://127.0.0.1:{port}"
        wait_until_up(address)
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto(f"{address}/dashboard")
        page.get_by_text("quick").first.click(timeout=60_000)
        page.locator(".js-plotly-plot").first.wait_for(timeout=60_000)
        page.screenshot(path=str(tmp_path / "optuna.png"))
        page.close()
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)


def wait_until_up(address: str, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            urllib.request.urlopen(address, timeout=5).close()
            return
        except OSError:
            assert time.monotonic() < deadline, "the dashboard did not start"
            time.sleep(0.3)
