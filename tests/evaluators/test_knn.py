"""The vote, the table of baselines beside it, and what it refuses."""

import importlib.util
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score
from sklearn.neighbors import KNeighborsClassifier

from nissl.evaluators.knn import KNN, knn_predict

spec = importlib.util.spec_from_file_location("cells", Path(__file__).with_name("cells.py"))
assert spec is not None and spec.loader is not None
cells = importlib.util.module_from_spec(spec)
spec.loader.exec_module(cells)


def knn(**changes: Any) -> KNN:
    return KNN(**{"k": 5, "metric": "euclidean", "num_untrained": 2, "num_resamples": 200, "seed": 0, **changes})


@pytest.mark.parametrize("k", [1, 3, 5, 20])
def test_the_vote_equals_scikit_learn_ties_included(k: int) -> None:
    rng = np.random.default_rng(k)
    train, test, labels = rng.integers(0, 3, (60, 2)), rng.integers(0, 3, (40, 2)), rng.integers(0, 4, 60)
    expected = KNeighborsClassifier(k, algorithm="brute").fit(train, labels).predict(test)
    np.testing.assert_array_equal(knn_predict(train, labels, test, k, "euclidean"), expected)


def test_the_score_is_that_of_the_held_out_cells_beside_every_baseline() -> None:
    source = cells.Blobs(spread=4.0)
    result = knn()(*cells.task_and_data(source))
    vote = KNeighborsClassifier(5).fit(source._x["train"], source.labels("train")).predict(source._x["test"])
    expected = balanced_accuracy_score(source.labels("test"), vote)
    assert result.scalars["knn/balanced_accuracy"] == pytest.approx(expected)
    assert result.scalars["knn_majority/balanced_accuracy"] == pytest.approx(1 / 3)
    methods = [row["method"] for row in result.tables["methods"]]
    assert methods == ["knn", "knn_morphometrics", "knn_untrained", "knn_majority"]
    assert all(row["ssl_saw_test"] is False and row["k"] == 5 for row in result.tables["methods"])
    assert result.scalars["knn/balanced_accuracy_low"] <= expected <= result.scalars["knn/balanced_accuracy_high"]


def test_every_scalar_is_declared() -> None:
    result = knn()(*cells.task_and_data(cells.Blobs()))
    for name in result.scalars:
        assert any(fnmatch(name, pattern) for pattern in KNN.metrics), name


def test_the_same_numbers_come_out_twice() -> None:
    task, data = cells.task_and_data(cells.Blobs(spread=1.0))
    assert knn()(task, data).scalars == knn()(task, data).scalars


def test_shuffled_labels_score_at_chance() -> None:
    source = cells.Blobs(spread=4.0, sizes=(300, 15, 300))
    rng = np.random.default_rng(0)
    for name in ("train", "test"):
        source._labels[name] = rng.permutation(source._labels[name])
    scalars = knn()(*cells.task_and_data(source)).scalars
    assert scalars["knn/balanced_accuracy_low"] < 1 / 3 < scalars["knn/balanced_accuracy_high"]


def test_figures_carry_their_numbers() -> None:
    source = cells.Blobs()
    result = knn()(*cells.task_and_data(source))
    assert result.figures["confusion"].data["confusion"].sum() == 30
    assert result.figures["embedding"].data["tsne"].shape == (90, 2)
    assert all(figure.png.startswith(b"\x89PNG") for figure in result.figures.values())


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"k": 0}, "knn.k"), ({"metric": "manhattan"}, "knn.metric"), ({"num_untrained": 0}, "mandatory")],
)
def test_wrong_settings_are_errors(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        knn(**changes)


def test_what_cannot_be_judged_is_refused() -> None:
    with pytest.raises(ValueError, match="knn.k=99 is more than the 60"):
        knn(k=99)(*cells.task_and_data(cells.Blobs()))
    unseen = cells.Blobs()
    unseen._labels["train"] = np.arange(60) % 2
    with pytest.raises(ValueError, match="test classes without a training cell: 'c'"):
        knn()(*cells.task_and_data(unseen))
    single = cells.Blobs()
    single._labels["train"] = np.zeros(60, int)
    with pytest.raises(ValueError, match="at least two classes"):
        knn()(*cells.task_and_data(single))
    with pytest.raises(ValueError, match="test split is empty"):
        knn()(*cells.task_and_data(cells.Blobs(sizes=(60, 15, 0))))
