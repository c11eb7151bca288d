"""Nearest-neighbour classification of embeddings on held-out cells, beside the baselines it has to beat.

The vote is fitted on the unaugmented training cells and scored on the test cells (a fold, or a separate test set); k is
the caller's, nothing is tuned on test. In the same table, on the same cells: hand-made morphometrics, the untrained
encoder (mean over several random initialisations), and the majority class. Weis et al. 2023 use k = 5.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Literal

import numpy as np

from nissl.evaluators.accuracy_intervals import Accuracy, bootstrap_accuracy, paired_difference
from nissl.evaluators.embeddings import embed_split, hand_made_features, untrained_copy
from nissl.evaluators.result import Figure, Result


def knn_predict(train: np.ndarray, train_labels: np.ndarray, test: np.ndarray, k: int, metric: str) -> np.ndarray:
    """Class of each test row by majority of its k nearest training rows; ties as in scikit-learn (lowest class)."""
    from sklearn.neighbors import KNeighborsClassifier

    return KNeighborsClassifier(n_neighbors=k, metric=metric, algorithm="brute").fit(train, train_labels).predict(test)


class KNN:
    """Evaluator `knn`.

    Args:
        k: neighbours.
        metric: distance between embeddings.
        num_untrained: random initialisations of the untrained baseline.
        num_resamples: bootstrap resamples of the intervals.
        seed: seed of everything random here.
    """

    metrics = {
        "knn/accuracy": "max",
        "knn/balanced_accuracy": "max",
        "knn_morphometrics/accuracy": "max",
        "knn_morphometrics/balanced_accuracy": "max",
        "knn_untrained/accuracy": "max",
        "knn_untrained/balanced_accuracy": "max",
        "knn_majority/accuracy": None,
        "knn_majority/balanced_accuracy": None,
        "knn*/accuracy_low": None,
        "knn*/accuracy_high": None,
        "knn*/balanced_accuracy_low": None,
        "knn*/balanced_accuracy_high": None,
        "knn_minus_*/balanced_accuracy": "max",
        "knn_minus_*/balanced_accuracy_low": None,
        "knn_minus_*/balanced_accuracy_high": None,
        "knn_minus_*/p": "min",
    }

    def __init__(
        self,
        k: int,
        metric: Literal["euclidean", "cosine"],
        num_untrained: int,
        num_resamples: int,
        seed: int,
    ) -> None:
        if k < 1:
            raise ValueError(f"knn.k must be at least 1, came {k}")
        if metric not in ("euclidean", "cosine"):
            raise ValueError(f"knn.metric must be euclidean or cosine, came {metric!r}")
        if num_untrained < 1:
            raise ValueError(f"knn.num_untrained must be at least 1, came {num_untrained}: the baseline is mandatory")
        self.k, self.metric, self.num_untrained = k, metric, num_untrained
        self.num_resamples, self.seed = num_resamples, seed

    def __call__(self, task: Any, data: Any) -> Result:
        source = data.source
        train_labels, test_labels = source.labels("train"), source.labels("test")
        _check(train_labels, test_labels, self.k, source.classes)
        model = task.model
        embeddings = {split: embed_split(model, data, split) for split in ("train", "test")}

        predictions: dict[str, np.ndarray] = {}  # method -> (runs, test cells)
        predictions["knn"] = self._predict(embeddings, train_labels)[None]
        notes = []
        by_hand = hand_made_features(data, "train", ("train", "test"))
        if by_hand is None:
            notes.append("No morphometrics baseline: the data set offers no whole cells.")
        else:
            predictions["knn_morphometrics"] = self._predict(by_hand, train_labels)[None]
        untrained = []
        for run in range(self.num_untrained):
            fresh = untrained_copy(model, self.seed + run).eval()
            untrained.append(
                self._predict({split: embed_split(fresh, data, split) for split in ("train", "test")}, train_labels)
            )
        predictions["knn_untrained"] = np.stack(untrained)
        counts = np.bincount(train_labels, minlength=len(source.classes))
        predictions["knn_majority"] = np.full((1, len(test_labels)), counts.argmax())

        correct = {name: (rows == test_labels).mean(axis=0) for name, rows in predictions.items()}
        scores = {name: self._score(c, test_labels) for name, c in correct.items()}
        scalars = {f"{name}/{key}": value for name, score in scores.items() for key, value in asdict(score).items()}
        table = []
        facts = {
            "k": self.k,
            "metric": self.metric,
            "fitted_on": f"{len(train_labels)} train cells",
            "scored_on": f"{len(test_labels)} test cells",
            "classes": len(np.unique(test_labels)),
            "ssl_saw_test": False,
        }
        for name, score in scores.items():
            row: dict[str, Any] = {"method": name, **{key: round(v, 4) for key, v in asdict(score).items()}}
            row["difference_of_knn"] = row["difference_low"] = row["difference_high"] = row["p"] = ""
            if name != "knn":
                value, low, high, p = paired_difference(
                    correct["knn"], correct[name], test_labels, self.num_resamples, self.seed
                )
                row.update(difference_of_knn=round(value, 4), difference_low=round(low, 4),
                           difference_high=round(high, 4), p=round(p, 5))  # fmt: skip
                other = name.removeprefix("knn_")
                scalars[f"knn_minus_{other}/balanced_accuracy"] = value
                scalars[f"knn_minus_{other}/balanced_accuracy_low"] = low
                scalars[f"knn_minus_{other}/balanced_accuracy_high"] = high
                scalars[f"knn_minus_{other}/p"] = p
            table.append({**row, **facts})
        notes.append(
            f"{self.k}-NN ({self.metric}) fitted on {len(train_labels)} training cells, scored on {len(test_labels)} "
            "held-out test cells. ssl_saw_test: false for this run's training; what imported weights saw is not known."
        )
        present, sizes = np.unique(test_labels, return_counts=True)
        if sizes.min() < 20:
            notes.append(
                f"{int((sizes < 20).sum())} of {len(present)} classes have fewer than 20 test cells: intervals are "
                "wide; see the recall per class."
            )
        return Result(
            scalars=scalars,
            figures={
                "confusion": _confusion_figure(test_labels, predictions["knn"][0], source.classes),
                "embedding": _embedding_figure(embeddings, train_labels, test_labels, source.classes, self.seed),
            },
            tables={"methods": table, "recall": _recall_table(correct, test_labels, source.classes)},
            arrays={f"embedding_{split}": values for split, values in embeddings.items()}
            | {"label_train": train_labels, "label_test": test_labels},
            notes=notes,
        )

    def _predict(self, features: dict[str, np.ndarray], train_labels: np.ndarray) -> np.ndarray:
        return knn_predict(features["train"], train_labels, features["test"], self.k, self.metric)

    def _score(self, correct: np.ndarray, labels: np.ndarray) -> Accuracy:
        return bootstrap_accuracy(correct, labels, self.num_resamples, self.seed)


def _check(train_labels: np.ndarray, test_labels: np.ndarray, k: int, classes: list[str]) -> None:
    if len(np.unique(train_labels)) < 2:
        raise ValueError("kNN needs at least two classes among the training cells; choose another dataset.label")
    if len(test_labels) == 0:
        raise ValueError("the test split is empty; set dataset.test_fold or dataset.test_path")
    if k > len(train_labels):
        raise ValueError(f"knn.k={k} is more than the {len(train_labels)} training cells")
    unseen = np.setdiff1d(test_labels, train_labels)
    if len(unseen):
        names = ", ".join(repr(classes[c]) for c in unseen[:5])
        raise ValueError(f"test classes without a training cell: {names}. kNN cannot name them; leave them out")


def _recall_table(correct: dict[str, np.ndarray], labels: np.ndarray, classes: list[str]) -> list[dict[str, Any]]:
    return [
        {"class": classes[c], "test_cells": int((labels == c).sum())}
        | {name: round(float(values[labels == c].mean()), 4) for name, values in correct.items()}
        for c in np.unique(labels)
    ]


def _confusion_figure(labels: np.ndarray, predicted: np.ndarray, classes: list[str]) -> Figure:
    from matplotlib.figure import Figure as Canvas

    present = np.union1d(labels, predicted)
    matrix = np.array([[np.sum((labels == a) & (predicted == b)) for b in present] for a in present])
    names = [classes[c] for c in present]
    size = max(3.0, 0.35 * len(names) + 2.0)
    canvas = Canvas(figsize=(size + 1, size))
    axes = canvas.add_subplot()
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(names)), names, rotation=60, ha="right")
    axes.set_yticks(range(len(names)), names)
    if len(names) <= 25:
        for i in range(len(names)):
            for j in range(len(names)):
                if matrix[i, j]:
                    colour = "white" if share[i, j] > 0.6 else "black"
                    axes.text(j, i, str(matrix[i, j]), ha="center", va="center", color=colour, fontsize=8)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    canvas.colorbar(image, label="share of the true class", shrink=0.8)
    caption = f"Confusion of the kNN vote on {len(labels)} held-out cells; numbers are cells, colour is recall."
    return Figure.from_matplotlib(canvas, caption, {"confusion": matrix})


def _embedding_figure(
    embeddings: dict[str, np.ndarray], train_labels: np.ndarray, test_labels: np.ndarray, classes: list[str], seed: int
) -> Figure:
    """t-SNE and PCA of train and test embeddings; test cells are filled."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure as Canvas
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    values = np.concatenate([embeddings["train"], embeddings["test"]])
    labels = np.concatenate([train_labels, test_labels])
    is_test = np.arange(len(labels)) >= len(train_labels)
    pca = PCA(n_components=2, svd_solver="full").fit_transform(values)
    perplexity = min(30.0, max(2.0, (len(values) - 1) / 4))
    scaled = (values - values.mean(axis=0)) / np.maximum(values.std(axis=0).mean(), 1e-12)
    tsne = TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(scaled)
    present = np.unique(labels)
    colours = colormaps["viridis"](np.linspace(0, 0.95, len(present)))
    markers = "os^Dv<>Pp*hX"
    canvas = Canvas(figsize=(11, 4.8))
    for position, (title, xy) in enumerate((("t-SNE", tsne), ("PCA", pca)), start=1):
        axes = canvas.add_subplot(1, 2, position)
        for k, c in enumerate(present):
            here, marker = labels == c, markers[k % len(markers)]
            (x, y), (u, v) = xy[here & ~is_test].T, xy[here & is_test].T
            axes.scatter(x, y, s=22, marker=marker, facecolors="none", edgecolors=[colours[k]])
            axes.scatter(u, v, s=26, marker=marker, color=[colours[k]], label=classes[c])
        axes.set_xlabel(f"{title} 1 (a.u.)")
        axes.set_ylabel(f"{title} 2 (a.u.)")
    if len(present) <= 24:
        canvas.legend(*axes.get_legend_handles_labels(), loc="outside right upper", fontsize=8)
    caption = (
        f"Embeddings of {len(train_labels)} training (open) and {len(test_labels)} held-out cells (filled), "
        f"t-SNE with perplexity {perplexity:.0f} and PCA."
    )
    return Figure.from_matplotlib(canvas, caption, {"tsne": tsne, "pca": pca, "label": labels, "is_test": is_test})
