"""What a learnt embedding is measured beside: every method as features of the same cells, through the same evaluator.

Mandatory in every table: hand-made morphometrics, density map and depth profile, persistence image, the untrained
encoder (several random initialisations), and learnt embedding and morphometrics together. Published weights join where
a file is given. A method's scaling is fitted on the training rows of each split and nowhere else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args
from weakref import WeakKeyDictionary

import numpy as np

from nissl.evaluators.density_map import density_maps, shares
from nissl.evaluators.embeddings import Draws, embed_split, published_model, untrained_copy
from nissl.evaluators.morphometrics import morphometrics
from nissl.evaluators.persistence import persistence_images

SPLITS = ("train", "val", "test")
NUM_COMPONENTS = 20  # of a picture's PCA; ours
NUM_WHITENED = 12  # components of a whitened embedding; ours, from rat_s1 (experiments/graph_dino_rat_s1)

Scaling = Literal["none", "zscore", "whiten", "pca"]
EmbeddingScaling = Literal["none", "zscore", "whiten"]
EMBEDDING_SCALINGS: tuple[str, ...] = get_args(EmbeddingScaling)


@dataclass(frozen=True)
class Block:
    """Features of all cells, (n, D), and how they are scaled.

    As they are ("none"), z-scored, largest principal components ("pca"), or those with variance 1 each ("whiten"), so
    that the directions in which cells differ most do not drown the others.
    """

    values: np.ndarray
    scaling: Scaling


@dataclass(frozen=True)
class Method:
    """One or several blocks side by side, of equal total variance where there are several."""

    blocks: tuple[Block, ...]

    def features(self, train: np.ndarray) -> np.ndarray:
        """Features of all cells, (n, D), scaled by what the rows `train` are like."""
        scaled = [_scaled(block, train) for block in self.blocks]
        if len(scaled) == 1:
            return scaled[0]
        return np.concatenate([x / max(np.sqrt(x[train].var(axis=0).sum()), 1e-12) for x in scaled], axis=1)


def _scaled(block: Block, train: np.ndarray) -> np.ndarray:
    if block.scaling == "none":
        return block.values
    mean = block.values[train].mean(axis=0)
    centred = block.values - mean
    if block.scaling == "pca":
        return _principal_components(centred, train)
    std = block.values[train].std(axis=0)
    std[std <= 1e-9 * np.maximum(np.abs(mean), 1.0)] = 1.0  # constant over the training cells
    scaled = centred / std
    if block.scaling == "zscore":
        return scaled
    kept = _principal_components(scaled, train)[:, :NUM_WHITENED]
    return kept / kept[train].std(axis=0)


def _principal_components(centred: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Largest components of the rows `train`, for all rows, through the smaller of covariance and Gram matrix.

    Leave-one-out fits as many as there are cells, so only what is kept is computed. Signs are arbitrary.
    """
    from scipy.linalg import eigh

    own = centred[train]
    by_gram = own.shape[1] > len(own)
    matrix = own @ own.T if by_gram else own.T @ own
    size = len(matrix)
    variance, vectors = eigh(matrix, subset_by_index=[max(0, size - NUM_COMPONENTS), size - 1])
    kept = np.flatnonzero(variance > 1e-10 * max(variance[-1], 1e-300))[::-1]
    if not by_gram:
        return centred @ vectors[:, kept]
    return (centred @ own.T) @ (vectors[:, kept] / np.sqrt(variance[kept]))


@dataclass(frozen=True)
class Cohort:
    """All cells of a data set as the evaluators of embeddings see them.

    Attributes:
        labels: class of each cell, (n,), train cells first, then val, then test.
        classes: names.
        rows: rows of each split.
        groups: which neuron each cell is, (n,); None: every cell another.
        sources: name of the archive each cell is from, (n,).
        saw_test: whether cells of the test split were trained on, without labels.
        methods: name -> runs of it; all but "untrained" have one. The learnt embedding is "learnt".
        notes: baselines that could not be made, with the reason.
    """

    labels: np.ndarray
    classes: list[str]
    rows: dict[str, np.ndarray]
    groups: np.ndarray | None
    sources: np.ndarray
    saw_test: bool
    methods: dict[str, list[Method]]
    notes: list[str]


def gather(
    task: Any,
    data: Any,
    draws: Draws,
    scaling: EmbeddingScaling,
    num_untrained: int,
    published: str | None,
    seed: int,
) -> Cohort:
    """Embed all cells by all methods.

    Args:
        draws: see `embed_split`.
        scaling: of the embeddings; hand-made features are always z-scored, pictures always reduced by PCA.
        num_untrained: random initialisations of the untrained encoder.
        published: safetensors of imported weights; None has no such row.
        seed: of the untrained encoders.
    """
    source = data.source
    labels = {split: np.asarray(source.labels(split)) for split in SPLITS}
    ends = np.cumsum([0] + [len(labels[split]) for split in SPLITS])
    rows = {split: np.arange(a, b) for split, a, b in zip(SPLITS, ends[:-1], ends[1:], strict=True)}

    def embedding(model: Any) -> Block:
        parts = [embed_split(model, data, split, draws) for split in SPLITS if len(rows[split])]
        return Block(np.concatenate(parts), scaling)

    notes = []
    learnt = embedding(task.model)
    methods = {"learnt": [Method((learnt,))]}
    by_hand = hand_made(source)
    if by_hand is None:
        notes.append("No hand-made baselines: the data set offers no whole cells.")
    else:
        methods |= {name: [Method((block,))] for name, block in by_hand.items()}
        methods["with_morphometrics"] = [Method((learnt, by_hand["morphometrics"]))]
    untrained = [untrained_copy(task.model, seed + run).eval() for run in range(num_untrained)]
    methods["untrained"] = [Method((embedding(model),)) for model in untrained]
    if published is not None:
        methods["published"] = [Method((embedding(published_model(task.model, published)),))]
    return Cohort(
        labels=np.concatenate([labels[split] for split in SPLITS]),
        classes=list(source.classes),
        rows=rows,
        groups=_of_all(source, "groups") if hasattr(source, "groups") else None,
        sources=_source_names(source, int(ends[-1])),
        saw_test=bool(getattr(source, "ssl_saw_test", False)),
        methods=methods,
        notes=notes,
    )


def _of_all(source: Any, name: str) -> np.ndarray:
    return np.concatenate([np.asarray(getattr(source, name)(split)) for split in SPLITS])


def _source_names(source: Any, num_cells: int) -> np.ndarray:
    if not hasattr(source, "sources"):
        return np.full(num_cells, "data")
    return np.array(source.source_names)[_of_all(source, "sources")]


_HAND_MADE: WeakKeyDictionary[Any, dict[str, Block]] = WeakKeyDictionary()


def hand_made(source: Any) -> dict[str, Block] | None:
    """Hand-made features of the cells of all splits; computed once per source. None where it has no whole cells."""
    if not hasattr(source, "cells"):
        return None
    if source not in _HAND_MADE:
        cells = [cell for split in SPLITS for cell in source.cells(split)]
        maps, profiles = density_maps(cells)
        _HAND_MADE[source] = {
            "morphometrics": Block(morphometrics(cells), "zscore"),
            "density": Block(shares(maps), "pca"),
            "depth_profile": Block(shares(profiles), "none"),
            "persistence": Block(persistence_images(cells), "pca"),
        }
    return _HAND_MADE[source]
