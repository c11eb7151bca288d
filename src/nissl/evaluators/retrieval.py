"""Find similar cells: does an embedding put cells of one type first when it ranks all others by distance?

Every cell in turn is the query and all others are ranked. Mean average precision and precision among the first k, both
averaged over classes so that a large class does not decide, beside the same numbers of the baselines. Nothing is fitted
to labels; features are scaled on the training cells.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from nissl.evaluators.accuracy_intervals import bootstrap_means, paired_difference
from nissl.evaluators.baselines import EMBEDDING_SCALINGS, EmbeddingScaling, gather
from nissl.evaluators.embedding_figures import methods_figure
from nissl.evaluators.embeddings import Draws
from nissl.evaluators.neuron_drawing import gallery
from nissl.evaluators.result import Figure, Result

NUM_DRAWN = 5  # queries and neighbours in the picture


class Retrieval:
    """Evaluator `retrieval`.

    Args:
        k: first places counted by the precision.
        metric: distance.
        scaling: of the embedding.
        num_draws: see `embed_split`.
        num_untrained: random initialisations of the untrained baseline.
        published: safetensors of imported weights for a row of their own; None: no row.
        num_resamples: bootstrap resamples of the intervals.
        seed: of bootstrap and untrained encoders.
    """

    metrics = {
        "retrieval/mean_average_precision": "max",
        "retrieval/precision": "max",
        "retrieval*/mean_average_precision": "max",
        "retrieval*/mean_average_precision_low": None,
        "retrieval*/mean_average_precision_high": None,
        "retrieval*/precision": "max",
        "retrieval_minus_*/p": "min",
    }

    def __init__(
        self,
        k: int,
        metric: Literal["euclidean", "cosine"],
        scaling: EmbeddingScaling,
        num_draws: Draws,
        num_untrained: int,
        published: str | None,
        num_resamples: int,
        seed: int,
    ) -> None:
        if k < 1:
            raise ValueError(f"retrieval.k must be at least 1, came {k}")
        if metric not in ("euclidean", "cosine"):
            raise ValueError(f"retrieval.metric must be euclidean or cosine, came {metric!r}")
        if scaling not in EMBEDDING_SCALINGS:
            raise ValueError(f"retrieval.scaling must be one of {', '.join(EMBEDDING_SCALINGS)}, came {scaling!r}")
        if num_untrained < 1:
            raise ValueError(f"retrieval.num_untrained must be at least 1, came {num_untrained}: it is mandatory")
        self.k, self.metric, self.scaling = k, metric, scaling
        self.num_draws, self.num_untrained, self.published = num_draws, num_untrained, published
        self.num_resamples, self.seed = num_resamples, seed

    def __call__(self, task: Any, data: Any) -> Result:
        cohort = gather(task, data, self.num_draws, self.scaling, self.num_untrained, self.published, self.seed)
        labels, train = cohort.labels, cohort.rows["train"]
        if np.unique(labels, return_counts=True)[1].min() < 2 or len(labels) <= self.k:
            raise ValueError(f"retrieval needs at least 2 cells per class and more than k={self.k} cells in all")
        precision, hits, order = {}, {}, np.zeros((0, 0), int)
        for name, runs in cohort.methods.items():
            orders = [ranking(run.features(train), self.metric) for run in runs]
            if name == "learnt":
                order = orders[0]
            found = [labels[o] == labels[:, None] for o in orders]
            precision[name] = np.mean([average_precision(f) for f in found], axis=0)
            hits[name] = np.mean([f[:, : self.k].mean(axis=1) for f in found], axis=0)
        scalars: dict[str, float] = {}
        table = []
        for name, values in precision.items():
            metric = "retrieval" if name == "learnt" else f"retrieval_{name}"
            _, balanced = bootstrap_means(values[None], labels, self.num_resamples, self.seed)
            low, high = np.percentile(balanced[0], [2.5, 97.5])
            score = {
                "mean_average_precision": _over_classes(values, labels),
                "mean_average_precision_low": float(low),
                "mean_average_precision_high": float(high),
                "precision": _over_classes(hits[name], labels),
            }
            scalars |= {f"{metric}/{key}": value for key, value in score.items()}
            row: dict[str, Any] = {"method": metric, "protocol": "every cell against all others", "first": self.k}
            row |= {key: round(value, 4) for key, value in score.items()}
            row |= {"difference_of_learnt": "", "difference_low": "", "difference_high": "", "p": ""}
            if name != "learnt":
                value, low, high, p = paired_difference(
                    precision["learnt"], values, labels, self.num_resamples, self.seed
                )
                row.update(difference_of_learnt=round(value, 4), difference_low=round(low, 4),
                           difference_high=round(high, 4), p=round(p, 5))  # fmt: skip
                scalars[f"retrieval_minus_{name}/mean_average_precision"] = value
                scalars[f"retrieval_minus_{name}/p"] = p
            table.append(row)
        caption = f"Mean average precision over {len(labels)} queries, mean over classes; 95 % bootstrap intervals."
        figures = {"methods": methods_figure(table, "mean_average_precision", "mean average precision", caption)}
        if hasattr(data.source, "cells"):
            cells = [cell for split in ("train", "val", "test") for cell in data.source.cells(split)]
            figures["neighbours"] = _neighbours_figure(cells, labels, cohort.classes, order)
        chance = np.mean([((labels == c).sum() - 1) / (len(labels) - 1) for c in np.unique(labels)])
        return Result(
            scalars=scalars,
            figures=figures,
            tables={"methods": table},
            notes=[f"Chance precision, mean over classes: {chance:.3f}.", *cohort.notes],
        )


def ranking(features: np.ndarray, metric: str) -> np.ndarray:
    """All other rows by distance from each row, nearest first, (n, n - 1); ties by row number."""
    from sklearn.metrics import pairwise_distances

    distance = pairwise_distances(features, metric=metric)
    np.fill_diagonal(distance, -1.0)
    return np.argsort(distance, axis=1, kind="stable")[:, 1:]


def average_precision(found: np.ndarray) -> np.ndarray:
    """Mean over the relevant places of the precision up to there, (n,); found (n, places) bool, first place first."""
    upto = np.cumsum(found, axis=1) / np.arange(1, found.shape[1] + 1)
    return (upto * found).sum(axis=1) / found.sum(axis=1)


def _over_classes(values: np.ndarray, labels: np.ndarray) -> float:
    return float(np.mean([values[labels == c].mean() for c in np.unique(labels)]))


def _neighbours_figure(cells: list[Any], labels: np.ndarray, classes: list[str], order: np.ndarray) -> Figure:
    """The first cell of each of some classes with its nearest neighbours; red marks another class."""
    rows = []
    for c in np.unique(labels)[:NUM_DRAWN]:
        query = int(np.flatnonzero(labels == c)[0])
        row = [(cells[query], f"query: {classes[c]}", "#1f2a44")]
        for other in order[query, :NUM_DRAWN]:
            same = labels[other] == c
            row.append((cells[other], classes[labels[other]], "#30688e" if same else "#c0392b"))
        rows.append(row)
    return gallery(rows, "A cell of each of some classes, and its nearest neighbours; red ones are of another class.")
