import importlib.util
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest

from nissl.evaluators.gmm import GMM

spec = importlib.util.spec_from_file_location("cells", Path(__file__).with_name("cells.py"))
assert spec is not None and spec.loader is not None
cells = importlib.util.module_from_spec(spec)
spec.loader.exec_module(cells)


def gmm(**changes: Any) -> GMM:
    options = {
        "max_components": 4, "covariance": "diag", "reg_covar": 1e-3, "num_inits": 1, "num_repeats": 2, "num_draws": 1,
        "num_untrained": 1, "published": None, "num_resamples": 20, "seed": 0,
    }  # fmt: skip
    return GMM(**{**options, **changes})


def test_three_separated_gaussians_are_found_and_named() -> None:
    source = cells.Blobs(spread=20.0, sizes=(90, 15, 45))
    result = gmm(num_inits=2)(*cells.task_and_data(source))
    assert result.scalars["gmm/components"] == result.scalars["gmm/components_held_out"] == 3
    assert result.scalars["gmm/ari"] == result.scalars["gmm/ami"] == pytest.approx(1.0)
    assert result.scalars["gmm/stability_subsamples"] == pytest.approx(1.0)
    assert [row["its_share"] for row in result.tables["clusters"]] == [1.0, 1.0, 1.0]
    assert len(result.tables["methods"]) == 7


def test_labels_take_no_part_and_all_numbers_are_declared() -> None:
    source = cells.Blobs(spread=3.0)
    first = gmm()(*cells.task_and_data(source)).scalars
    source._labels["test"] = (source._labels["test"] + 1) % 3  # renamed classes
    renamed = gmm()(*cells.task_and_data(source)).scalars
    assert renamed["gmm/ari"] == pytest.approx(first["gmm/ari"])
    assert all(any(fnmatch(name, pattern) for pattern in GMM.metrics) for name in first)


def test_one_blob_is_called_a_continuum() -> None:
    result = gmm()(*cells.task_and_data(cells.Blobs(spread=0.0)))
    assert any("continuum" in note for note in result.notes)


def test_figures_carry_their_numbers() -> None:
    result = gmm()(*cells.task_and_data(cells.Blobs()))
    assert result.figures["clusters"].data["counts"].sum() == 30
    assert len(result.figures["bic"].data["bic_gmm"]) == 4
    assert result.figures["held_out"].data["likelihood"].shape == (2, 4)
    assert result.figures["consensus"].data["consensus"].shape == (105, 105)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_components": 0}, "max_components"),
        ({"covariance": "round"}, "covariance"),
        ({"num_repeats": 1}, "num_repeats"),
        ({"num_untrained": 0}, "mand"),
    ],
)
def test_wrong_settings_are_errors(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gmm(**changes)


def test_an_empty_test_split_is_refused() -> None:
    with pytest.raises(ValueError, match="test split is empty"):
        gmm()(*cells.task_and_data(cells.Blobs(sizes=(60, 15, 0))))
