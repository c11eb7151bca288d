"""An interactive map of the embeddings: point at a cell and see the neuron, click it and see its nearest neighbours.

One HTML page with everything inside, for the report and for a talk: t-SNE and PCA of the embedding, colour by any
column of the metadata, by split, cluster, or size. Two figures beside it: the cell nearest to each cluster's mean, and
what the nearest neighbours confuse (leave-one-out). It measures nothing that `knn` and `gmm` do not; it shows.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from nissl.evaluators.baselines import SPLITS
from nissl.evaluators.embedding_figures import confusion_figure, plane_projections
from nissl.evaluators.embeddings import Draws, embed_split
from nissl.evaluators.mixtures import MixtureSettings, choose_by_bic
from nissl.evaluators.morphometrics import FEATURES, LOG_SCALED, morphometrics
from nissl.evaluators.neighbours import nearest_others, votes
from nissl.evaluators.neuron_drawing import gallery, segments_xy
from nissl.evaluators.result import Figure, Result

TEMPLATE = Path(__file__).with_name("explorer.html")
SHOWN_FEATURES = ("cable_um", "height_um", "num_tips", "centroid_y_um")
MAX_DIFFERENT = 60  # a text column with more values is a name, not a colour
NUM_MEDOIDS = 4  # cells drawn per cluster


class Explorer:
    """Evaluator `explorer`.

    Args:
        num_neighbours: listed for a clicked cell, and of the vote that the confusion matrix counts.
        max_edges: of a drawing.
        max_components: clusters are those of the mixture with the lowest BIC among 1 to this.
        num_draws: see `embed_split`.
        seed: of projection and mixture.
    """

    metrics = {"explorer/cells": None, "explorer/clusters": None}

    def __init__(self, num_neighbours: int, max_edges: int, max_components: int, num_draws: Draws, seed: int) -> None:
        for name, value in (
            ("num_neighbours", num_neighbours),
            ("max_edges", max_edges),
            ("max_components", max_components),
        ):
            if value < 1:
                raise ValueError(f"explorer.{name} must be at least 1, came {value}")
        self.num_neighbours, self.max_edges, self.max_components = num_neighbours, max_edges, max_components
        self.num_draws, self.seed = num_draws, seed

    def __call__(self, task: Any, data: Any) -> Result:
        source = data.source
        if not hasattr(source, "cells"):
            raise ValueError("the explorer draws whole cells: this data set offers none (no cells())")
        parts = {split: source.cells(split) for split in SPLITS}
        cells = [cell for part in parts.values() for cell in part]
        if len(cells) <= self.num_neighbours:
            raise ValueError(f"explorer.num_neighbours={self.num_neighbours} needs more than {len(cells)} cells")
        embedding = np.concatenate(
            [embed_split(task.model, data, split, self.num_draws) for split in SPLITS if parts[split]]
        )
        labels = np.concatenate([np.asarray(source.labels(split)) for split in SPLITS])
        distance, near = nearest_others(embedding, self.num_neighbours, "euclidean")
        clusters, medoids = self._clusters(embedding)
        columns = {"type": [source.classes[label] for label in labels]}
        columns |= {"split": [split for split in SPLITS for _ in parts[split]], "cluster": clusters.tolist()}
        unit = getattr(source, "units", "um")  # some archives do not say how large their voxels are
        columns |= _size_columns(cells, unit) | _metadata_columns(cells)
        planes, _ = plane_projections(embedding, self.seed)
        page = explorer_page(cells, columns, planes, distance, near, self.max_edges, unit)
        voted = votes(distance, labels[near], len(source.classes), "euclidean", None).argmax(axis=1)
        what = f"a leave-one-out vote of {self.num_neighbours} on {len(cells)} embeddings"
        return Result(
            scalars={"explorer/cells": float(len(cells)), "explorer/clusters": float(len(medoids))},
            figures={
                "medoids": _medoids_figure(cells, columns["type"], medoids, unit),
                "confusion": confusion_figure(labels, voted, source.classes, what),
            },
            pages={"map": page},
        )

    def _clusters(self, embedding: np.ndarray) -> tuple[np.ndarray, dict[int, np.ndarray]]:
        """Cluster of each cell, and the cells of each ordered by distance from its mean."""
        std = embedding.std(axis=0)
        scaled = (embedding - embedding.mean(axis=0)) / np.where(std < 1e-12, 1.0, std)
        fit, _ = choose_by_bic(scaled, self.max_components, MixtureSettings("diag", 1e-3, 1), self.seed)
        clusters = fit.predict(scaled)
        medoids = {}
        for c in np.unique(clusters):
            own = np.flatnonzero(clusters == c)
            medoids[int(c)] = own[np.linalg.norm(scaled[own] - scaled[own].mean(axis=0), axis=1).argsort(kind="stable")]
        return clusters, medoids


def explorer_page(
    cells: list[Any],
    columns: dict[str, list[Any]],
    planes: dict[str, np.ndarray],
    distance: np.ndarray,
    near: np.ndarray,
    max_edges: int,
    unit: str = "um",
) -> str:
    """The page as HTML.

    Args:
        cells: with `pos`, `parent`, and perhaps `id`.
        columns: name -> value of each cell, text or numbers; the first colours the map.
        planes: name -> (n, 2) positions.
        distance, near: nearest cells of each, (n, k).
        unit: of lengths, as it is shown.
    """
    content = {
        "cells": [
            {"name": _name(cell, k), "drawing": np.rint(segments_xy(cell, max_edges)).astype(int).ravel().tolist()}
            for k, cell in enumerate(cells)
        ],
        "columns": list(columns),
        "values": columns,
        "planes": {name: np.round(xy, 3).tolist() for name, xy in planes.items()},
        "neighbours": [
            [[int(i), float(f"{d:.3g}")] for d, i in zip(row, index, strict=True)]
            for row, index in zip(distance, near, strict=True)
        ],
        "unit": unit,
        "radius": 5 if len(cells) < 400 else 3.5,
    }
    # A closing tag inside a name must not end the script that carries the data.
    text = json.dumps(content, separators=(",", ":"), allow_nan=False).replace("</", "<\\/")
    return TEMPLATE.read_text().replace("__DATA__", text)


def _name(cell: Any, k: int) -> str:
    return str(getattr(cell, "id", "") or f"cell {k}")


def _size_columns(cells: list[Any], unit: str) -> dict[str, list[Any]]:
    values = morphometrics(cells)
    columns = {}
    for name in SHOWN_FEATURES:
        column = values[:, FEATURES.index(name)]
        columns[name.replace("_um", f"_{unit}")] = [
            float(f"{v:.4g}") for v in (np.expm1(column) if name in LOG_SCALED else column)
        ]
    return columns


def _metadata_columns(cells: list[Any]) -> dict[str, list[Any]]:
    """Columns of the metadata table that differ between cells and are not a name of their own for each."""
    meta = [getattr(cell, "meta", {}) for cell in cells]
    columns: dict[str, list[Any]] = {}
    for key in dict.fromkeys(key for entry in meta for key in entry):
        values = [str(entry.get(key, "")) for entry in meta]
        numbers = [_number(value) for value in values]
        if len(set(values)) > 1 and all(v is not None for v in numbers):
            columns[key] = numbers
        elif 1 < len(set(values)) <= MAX_DIFFERENT:
            columns[key] = values
    return columns


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if np.isfinite(value) else None


def _medoids_figure(cells: list[Any], types: list[str], medoids: dict[int, np.ndarray], unit: str) -> Figure:
    rows = [
        [
            (cells[k], f"{c}: {types[k]}" if place == 0 else types[k], "#1f2a44")
            for place, k in enumerate(own[:NUM_MEDOIDS])
        ]
        for c, own in medoids.items()
    ]
    return gallery(rows, "The cells nearest to the mean of each cluster, one cluster a row.", unit)
