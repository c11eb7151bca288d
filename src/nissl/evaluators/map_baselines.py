"""What needs no trained network, to stand beside its maps: linear decoder, influence mapping, discs, random weights."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from nissl.evaluators.map_activation import mean_by_pattern


def untrained_copy(model: nn.Module, seed: int) -> nn.Module:
    """The same architecture with fresh weights, in eval mode; global random state is left alone."""
    fresh = copy.deepcopy(model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for module in fresh.modules():
            if callable(reset := getattr(module, "reset_parameters", None)):
                reset()
    return fresh.eval()


def decode_linearly(pixels: np.ndarray, labels: np.ndarray, ridge: float) -> tuple[np.ndarray, np.ndarray]:
    """Ridge regression of labels (n, C) on pixels (n, D): weights (D, C) and offsets (C,).

    Args:
        ridge: penalty in units of the mean variance of a pixel.
    """
    mean, target = pixels.mean(axis=0), labels.mean(axis=0)
    centred = pixels - mean
    gram = centred.T @ centred
    penalty = ridge * np.trace(gram) / len(gram) * np.eye(len(gram))
    weights = np.linalg.solve(gram + penalty, centred.T @ (labels - target))
    return weights, target - mean @ weights


def linear_maps(weights: np.ndarray, pixels: np.ndarray, pattern: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Weight times pixel, rectified, as the decoder's "class activation map": mean by pattern (P, D).

    Args:
        weights: (D, C).
        pixels: (n, D).
        pattern: (n,).
        labels: (P, C).
    """
    spoken = np.maximum(pixels * (labels @ weights.T)[pattern], 0)
    return mean_by_pattern(spoken, pattern, len(labels))


def lenient_accuracy(scores: np.ndarray, labels: np.ndarray) -> float:
    """Share of rows whose strongest score (n, C) is in the label set (n, C)."""
    return float(np.mean(labels[np.arange(len(labels)), scores.argmax(axis=1)] > 0))


def influence_between_cells(traces: np.ndarray, pattern: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """How far stimulating one cell moves another (C, C), from row to column, in deviations of the idle trace.

    Mean trace of cell j on frames where i was stimulated and j was not, less its mean on idle frames, over its standard
    deviation there. After the influence mapping of Chettih & Harvey 2019 (https://doi.org/10.1038/s41586-019-0997-6),
    from the description: traces of the stimulated cells only, and no exclusion of near ones. Diagonal NaN.

    Args:
        traces: (n, C) mean pixel of each cell.
        pattern: (n,); the last pattern is "none".
        labels: (P, C) of the cells alone, without "none".
    """
    num = traces.shape[1]
    told = labels[pattern] > 0
    idle = pattern == len(labels) - 1
    base, spread = traces[idle].mean(axis=0), traces[idle].std(axis=0)
    result = np.full((num, num), np.nan)
    for i in range(num):
        for j in range(num):
            chosen = told[:, i] & ~told[:, j]
            if i != j and chosen.any() and spread[j] > 0:
                result[i, j] = (traces[chosen, j].mean() - base[j]) / spread[j]
    return result


def influence_similarity(influence: np.ndarray) -> np.ndarray:
    """Correlation (C, C) of what two cells do to the others, themselves left out; diagonal NaN."""
    num = len(influence)
    scores = np.full((num, num), np.nan)
    for i in range(num):
        for k in range(i):
            others = [j for j in range(num) if j not in (i, k)]
            a, b = influence[i, others], influence[k, others]
            if len(others) > 2 and np.ptp(a) > 0 and np.ptp(b) > 0:
                scores[i, k] = scores[k, i] = np.corrcoef(a, b)[0, 1]
    return scores


def disc_weights(shape: Sequence[int], positions_yx: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """Weights (C, H W) that average a frame over each cell's disc."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    discs = np.stack([
        ((y - cy) ** 2 + (x - cx) ** 2 <= max(r, 1.0) ** 2).ravel()
        for (cy, cx), r in zip(positions_yx, radius, strict=True)
    ]).astype(np.float64)  # fmt: skip
    return discs / discs.sum(axis=1, keepdims=True).clip(1)
