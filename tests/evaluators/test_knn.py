"""The vote, the table of baselines beside it, and what it refuses."""

import importlib.util
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import save_file
from sklearn.metrics import balanced_accuracy_score
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors

from nissl.evaluators.embedding_figures import effective_rank
from nissl.evaluators.knn import KNN

spec = importlib.util.spec_from_file_location("cells", Path(__file__).with_name("cells.py"))
assert spec is not None and spec.loader is not None
cells = importlib.util.module_from_spec(spec)
spec.loader.exec_module(cells)


OPTIONS: dict[str, Any] = {
    "k": 5, "metric": "euclidean", "temperature": None, "scaling": "none", "protocols": ["given"], "num_folds": 3,
    "num_repeats": 2, "num_draws": 1, "num_untrained": 2, "published": None, "num_resamples": 200, "seed": 0,
}  # fmt: skip


def knn(**changes: Any) -> KNN:
    return KNN(**{**OPTIONS, **changes})


def test_the_score_is_that_of_the_held_out_cells_beside_every_baseline() -> None:
    source = cells.Blobs(spread=4.0)
    result = knn()(*cells.task_and_data(source))
    vote = KNeighborsClassifier(5).fit(source._x["train"], source.labels("train")).predict(source._x["test"])
    expected = balanced_accuracy_score(source.labels("test"), vote)
    assert result.scalars["knn/balanced_accuracy"] == pytest.approx(expected)
    assert result.scalars["knn_majority/balanced_accuracy"] == pytest.approx(1 / 3)
    methods = [row["method"] for row in result.tables["methods"]]
    assert methods == [
        "knn", "knn_morphometrics", "knn_density", "knn_depth_profile", "knn_persistence", "knn_with_morphometrics",
        "knn_untrained", "knn_majority",
    ]  # fmt: skip
    assert all(row["ssl_saw_test"] is False and row["k"] == "5" for row in result.tables["methods"])
    assert result.scalars["knn/balanced_accuracy_low"] <= expected <= result.scalars["knn/balanced_accuracy_high"]


def test_every_scalar_is_declared() -> None:
    result = knn(protocols=["five_fold", "given"])(*cells.task_and_data(cells.Blobs()))
    for name in result.scalars:
        assert any(fnmatch(name, pattern) for pattern in KNN.metrics), name


def test_the_first_protocol_is_the_headline_and_the_others_stand_beside_it() -> None:
    source = cells.Blobs(spread=2.0)
    result = knn(protocols=["leave_one_out", "repeated_folds"])(*cells.task_and_data(source))
    x = np.concatenate([source._x[split] for split in ("train", "val", "test")])
    labels = np.concatenate([source.labels(split) for split in ("train", "val", "test")])
    index = NearestNeighbors(n_neighbors=5).fit(x).kneighbors(return_distance=False)
    vote = np.array([np.bincount(row).argmax() for row in labels[index]])
    assert result.scalars["knn/balanced_accuracy"] == pytest.approx(balanced_accuracy_score(labels, vote))
    assert 0.5 < result.scalars["knn/repeated_folds/balanced_accuracy"] <= 1.0
    assert result.scalars["knn_minus_morphometrics/repeated_folds/p"] <= 1.0
    gain = result.scalars["knn_with_morphometrics_minus_density/balanced_accuracy"]
    both, density = (result.scalars[f"knn_{name}/balanced_accuracy"] for name in ("with_morphometrics", "density"))
    assert gain == pytest.approx(both - density)
    assert "knn_with_morphometrics_minus_learnt/p" not in result.scalars
    assert {row["protocol"] for row in result.tables["methods"]} == {"leave_one_out", "repeated_folds"}
    assert result.tables["splits"][0]["splits"] == 6 and len(result.tables["splits"]) == 8
    assert all(row["ssl_saw_test"] is True for row in result.tables["methods"])


def test_of_several_k_one_is_chosen_without_the_test_cells() -> None:
    source = cells.Blobs(spread=1.5)
    task, data = cells.task_and_data(source)
    chosen = knn(k=[1, 3, 9])(task, data).tables["methods"][0]["chosen_k"]
    source._labels["test"] = np.roll(source._labels["test"], 1)
    assert knn(k=[1, 3, 9])(task, data).tables["methods"][0]["chosen_k"] == chosen


def test_published_weights_are_a_row(tmp_path: Any) -> None:
    task, data = cells.task_and_data(cells.Blobs())
    path = tmp_path / "w.safetensors"
    save_file(task.model.state_dict(), path, {"architecture": "{}"})
    result = knn(published=str(path))(task, data)
    assert result.scalars["knn_published/accuracy"] == result.scalars["knn/accuracy"]
    assert result.scalars["knn_minus_published/balanced_accuracy"] == 0.0


def test_the_same_numbers_come_out_twice() -> None:
    task, data = cells.task_and_data(cells.Blobs(spread=1.0))
    assert knn()(task, data).scalars == knn()(task, data).scalars


def test_shuffled_labels_score_at_chance() -> None:
    source = cells.Blobs(spread=4.0, sizes=(120, 15, 150))
    rng = np.random.default_rng(0)
    for name in ("train", "test"):
        source._labels[name] = rng.permutation(source._labels[name])
    scalars = knn()(*cells.task_and_data(source)).scalars
    assert scalars["knn/balanced_accuracy_low"] < 1 / 3 < scalars["knn/balanced_accuracy_high"]


def test_figures_carry_their_numbers() -> None:
    source = cells.Blobs()
    result = knn()(*cells.task_and_data(source))
    assert result.figures["confusion"].data["confusion"].sum() == 30
    assert result.figures["embedding"].data["tsne"].shape == (105, 2)
    assert result.figures["spectrum"].data["learnt"].sum() == pytest.approx(1.0)
    assert 2.0 < result.scalars["knn/effective_rank"] <= 6.0
    assert all(figure.png.startswith(b"\x89PNG") for figure in result.figures.values())


class TwoArchives(cells.Blobs):  # type: ignore[name-defined,misc]
    """The test cells are of another archive, with classes of their own."""

    source_names = ["old", "new"]

    def __init__(self) -> None:
        super().__init__(spread=4.0)
        self.classes = ["old: a", "old: b", "old: c", "new: a", "new: b", "new: c"]
        self._labels["test"] = self._labels["test"] + 3

    def sources(self, split: str) -> np.ndarray:
        return np.full(len(self.labels(split)), int(split == "test"))


def test_an_archive_that_was_never_seen_is_scored_by_leave_one_out_within_itself() -> None:
    source = TwoArchives()
    result = knn()(*cells.task_and_data(source))
    x, labels = source._x["test"], source.labels("test")
    index = NearestNeighbors(n_neighbors=5).fit(x).kneighbors(return_distance=False)
    vote = np.array([np.bincount(row).argmax() for row in labels[index]])
    assert result.scalars["knn/balanced_accuracy"] == pytest.approx(balanced_accuracy_score(labels, vote))
    assert any("leave-one-out within new" in note for note in result.notes)
    with pytest.raises(ValueError, match="30 cells; lower knn.k"):
        knn(k=30)(*cells.task_and_data(source))


def test_within_sources_no_cell_is_named_by_another_archive() -> None:
    source = TwoArchives()
    for split in ("train", "val"):  # the other archive lies in the middle of this one and would win every vote
        source._x[split] = np.zeros_like(source._x[split])
    source._x["test"] = source._x["test"] * 0.01 + np.eye(6, dtype=np.float32)[source.labels("test") - 3] * 0.02
    apart = knn(protocols=["leave_one_out"], within_source=True)(*cells.task_and_data(source))
    rows = {row["source"]: row for row in apart.tables["sources"]}
    assert rows["new"]["knn"] == 1.0
    assert all("within each source" in note for note in apart.notes if note.startswith("leave_one_out"))


def test_two_equal_singular_values_are_an_effective_rank_of_2() -> None:
    square = np.array([[1.0, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0]])
    assert effective_rank(square)[0] == pytest.approx(2.0)
    assert np.isnan(effective_rank(np.ones((4, 3)))[0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"k": 0}, "knn.k"),
        ({"k": []}, "knn.k"),
        ({"metric": "manhattan"}, "knn.metric"),
        ({"temperature": 0.0}, "knn.temperature"),
        ({"scaling": "ranks"}, "knn.scaling"),
        ({"protocols": ["best_fold"]}, "knn.protocols"),
        ({"num_folds": 1}, "knn.num_folds"),
        ({"num_draws": 0}, "knn.num_draws"),
        ({"num_untrained": 0}, "mandatory"),
    ],
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
