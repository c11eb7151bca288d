import importlib.util
import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from nissl.evaluators.explorer import Explorer, explorer_page
from nissl.runs.evaluation import save_result
from nissl.runs.report import build_report

spec = importlib.util.spec_from_file_location("cells", Path(__file__).with_name("cells.py"))
assert spec is not None and spec.loader is not None
blobs = importlib.util.module_from_spec(spec)
spec.loader.exec_module(blobs)


CHROMIUM = next((path for name in ("chromium", "chromium-browser") if (path := shutil.which(name))), None)


def explorer(**changes: Any) -> Explorer:
    return Explorer(**{"num_neighbours": 3, "max_edges": 50, "max_components": 4, "num_draws": 1, "seed": 0, **changes})


def content(page: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


@pytest.fixture(scope="module")
def result() -> Any:
    return explorer()(*blobs.task_and_data(blobs.Blobs(spread=20.0, sizes=(30, 6, 12))))


def test_the_page_holds_every_cell_its_neighbours_and_its_drawing(result: Any) -> None:
    data = content(result.pages["map"])
    assert len(data["cells"]) == 48 and result.scalars["explorer/cells"] == 48
    assert data["values"]["split"] == ["train"] * 30 + ["val"] * 6 + ["test"] * 12
    assert data["columns"][:3] == ["type", "split", "cluster"] and set(data["planes"]) == {"t-SNE", "PCA"}
    types = data["values"]["type"]
    for k, near in enumerate(data["neighbours"]):
        assert len(near) == 3 and k not in [other for other, _ in near]
        assert all(types[other] == types[k] for other, _ in near), "blobs are far apart"
    assert len(data["cells"][0]["drawing"]) == 4 * 2


def test_nothing_is_loaded_from_elsewhere(result: Any) -> None:
    addresses = re.findall(r"https?://[^\s\"')]+", result.pages["map"])
    assert set(addresses) <= {"http://www.w3.org/2000/svg"}


def test_medoids_and_confusion_are_figures(result: Any) -> None:
    assert result.figures["medoids"].png.startswith(b"\x89PNG") and result.scalars["explorer/clusters"] == 3
    confusion = result.figures["confusion"].data["confusion"]
    assert confusion.trace() == confusion.sum() == 48


def test_a_name_cannot_end_the_data_and_metadata_become_columns() -> None:
    cell = SimpleNamespace(pos=np.array([[0.0, 0, 0], [0, 9, 0]]), parent=np.array([-1, 0]), id="</script><b>", meta={})
    near = np.array([[1], [0]])
    page = explorer_page([cell, cell], {"type": ["a", "b"]}, {"PCA": np.zeros((2, 2))}, np.ones((2, 1)), near, 10)
    assert page.count("</script>") == 2 and content(page)["cells"][0]["name"] == "</script><b>"


def test_lengths_are_in_the_unit_of_the_data() -> None:
    source = blobs.Blobs(sizes=(8, 0, 0))
    source.units = "voxel"
    result = explorer()(*blobs.task_and_data(source))
    shown = content(result.pages["map"])
    assert shown["unit"] == "voxel" and {"cable_voxel", "height_voxel"} <= set(shown["columns"])
    assert "Bars are 100 voxel;" in result.figures["medoids"].caption


def test_numbers_texts_and_constants_of_the_metadata_are_told_apart() -> None:
    from nissl.evaluators.explorer import _metadata_columns

    cells = [
        SimpleNamespace(meta={"layer": f"L{k % 2}", "age": str(k), "area": "S1", "id": f"n{k}"}) for k in range(80)
    ]
    columns = _metadata_columns(cells)
    assert set(columns) == {"layer", "age"} and columns["age"][3] == 3.0


def test_what_cannot_be_shown_is_refused() -> None:
    with pytest.raises(ValueError, match="max_edges"):
        explorer(max_edges=0)
    source = blobs.Blobs(sizes=(3, 0, 0))
    with pytest.raises(ValueError, match="needs more than 3 cells"):
        explorer()(*blobs.task_and_data(source))


@pytest.mark.e2e
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here: apt-get install chromium")
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_in_a_browser_pointing_draws_a_cell_and_a_click_lists_its_neighbours(result: Any, tmp_path: Path) -> None:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install -e .[dev]")
    (tmp_path / "map.html").write_text(result.pages["map"])
    with playwright.sync_playwright() as tools:
        browser = tools.chromium.launch(
            executable_path=CHROMIUM, args=["--headless", "--no-sandbox", "--disable-gpu"], timeout=180_000
        )
        page = browser.new_page()
        page.set_default_timeout(180_000)
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto((tmp_path / "map.html").as_uri())
        assert page.locator("circle.cell").count() == 48
        cell = page.locator("circle.cell").nth(7)
        cell.dispatch_event("pointerenter")
        assert page.locator("#hover svg.drawing").count() == 1
        cell.dispatch_event("click")
        assert page.locator(".thumb").count() == page.locator("circle.near").count() == 3
        by_type = page.eval_on_selector_all("circle.cell", "all => all.map((one) => one.getAttribute('fill'))")
        page.locator("#colour").select_option("cable_um")
        by_length = page.eval_on_selector_all("circle.cell", "all => all.map((one) => one.getAttribute('fill'))")
        page.locator("#find").fill("test")
        assert page.locator("circle.cell:not(.dimmed)").count() == 12
        browser.close()
    assert len(set(by_type)) == 3 and len(set(by_length)) > 12 and errors == []


def test_the_report_shows_the_page_inside_itself_and_links_it(result: Any, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("format: 1\n")
    (tmp_path / "figures").mkdir()
    save_result(tmp_path, "explorer", result)
    report = build_report(tmp_path).read_text()
    assert 'href="figures/explorer_map.html"' in report
    assert "&lt;title&gt;Embedding explorer&lt;/title&gt;" in report, "escaped, as the source of a frame"
