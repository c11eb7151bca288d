import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nissl.evaluators.gmm import GMM

spec = importlib.util.spec_from_file_location("cells", Path(__file__).with_name("cells.py"))
assert spec is not None and spec.loader is not None
cells = importlib.util.module_from_spec(spec)
spec.loader.exec_module(cells)


def gmm(**changes: Any) -> GMM:
    options = {"max_components": 6, "covariance": "diag", "reg_covar": 1e-3, "num_inits": 2, "num_untrained": 1}
    return GMM(**{**options, "seed": 0, **changes})


def test_three_separated_gaussians_are_found_and_named() -> None:
    source = cells.Blobs(spread=20.0, sizes=(150, 15, 60))
    result = gmm()(*cells.task_and_data(source))
    assert result.scalars["gmm/components"] == 3
    assert result.scalars["gmm/ari"] == result.scalars["gmm/ami"] == pytest.approx(1.0)
    assert set(result.scalars) == set(GMM.metrics)


def test_one_gaussian_is_one_component() -> None:
    fit, curve = gmm().fit(np.random.default_rng(0).normal(size=(300, 4)))
    assert fit.n_components == 1 and curve.argmin() == 0


def test_labels_take_no_part_and_the_same_numbers_come_out_twice() -> None:
    source = cells.Blobs(spread=3.0)
    first = gmm()(*cells.task_and_data(source)).scalars
    assert gmm()(*cells.task_and_data(source)).scalars == first
    source._labels["test"] = (source._labels["test"] + 1) % 3  # renamed classes
    renamed = gmm()(*cells.task_and_data(source)).scalars
    assert renamed["gmm/ari"] == pytest.approx(first["gmm/ari"])


def test_figures_carry_their_numbers() -> None:
    result = gmm()(*cells.task_and_data(cells.Blobs()))
    assert result.figures["clusters"].data["counts"].sum() == 30
    assert len(result.figures["bic"].data["bic_gmm"]) == 6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_components": 0}, "max_components"),
        ({"covariance": "round"}, "covariance"),
        ({"num_untrained": 0}, "mand"),
    ],
)
def test_wrong_settings_are_errors(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gmm(**changes)


def test_an_empty_test_split_and_too_few_cells_are_refused() -> None:
    with pytest.raises(ValueError, match="test split is empty"):
        gmm()(*cells.task_and_data(cells.Blobs(sizes=(60, 15, 0))))
    with pytest.raises(ValueError, match="at least two training cells"):
        gmm().fit(np.zeros((1, 3)))
