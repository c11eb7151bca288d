import importlib.util
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from nissl.evaluators.retrieval import Retrieval, average_precision, ranking

spec = importlib.util.spec_from_file_location("cells", Path(__file__).with_name("cells.py"))
assert spec is not None and spec.loader is not None
cells = importlib.util.module_from_spec(spec)
spec.loader.exec_module(cells)


def retrieval(**changes: Any) -> Retrieval:
    options = {
        "k": 5, "metric": "euclidean", "scaling": "none", "num_draws": 1, "num_untrained": 1, "published": None,
        "num_resamples": 50, "seed": 0,
    }  # fmt: skip
    return Retrieval(**{**options, **changes})


def test_average_precision_by_hand_and_as_scikit_learn() -> None:
    assert average_precision(np.array([[True, False, True]]))[0] == pytest.approx((1 + 2 / 3) / 2)
    found = np.random.default_rng(0).random((5, 12)) < 0.4
    expected = [average_precision_score(row, -np.arange(12)) for row in found]
    np.testing.assert_allclose(average_precision(found), expected)


def test_a_cell_is_not_in_its_own_ranking() -> None:
    order = ranking(np.array([[0.0], [3.0], [1.0]]), "euclidean")
    assert order.tolist() == [[2, 1], [2, 0], [0, 1]]


def test_far_blobs_are_found_first_and_the_picture_shows_neighbours() -> None:
    result = retrieval()(*cells.task_and_data(cells.Blobs(spread=30.0)))
    assert result.scalars["retrieval/mean_average_precision"] == pytest.approx(1.0)
    assert result.scalars["retrieval/precision"] == 1.0
    assert result.scalars["retrieval_minus_persistence/mean_average_precision"] > 0
    assert result.figures["neighbours"].png.startswith(b"\x89PNG")
    assert all(any(fnmatch(name, pattern) for pattern in Retrieval.metrics) for name in result.scalars)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"k": 0}, "k must"),
        ({"metric": "l1"}, "metric"),
        ({"scaling": "ranks"}, "scaling"),
        ({"num_untrained": 0}, "mandatory"),
    ],
)
def test_wrong_settings_are_errors(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        retrieval(**changes)


def test_a_class_of_one_cannot_be_found() -> None:
    source = cells.Blobs()
    source._labels["test"][0] = 3
    source.classes.append("d")
    with pytest.raises(ValueError, match="at least 2 cells per class"):
        retrieval()(*cells.task_and_data(source))
