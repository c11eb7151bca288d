"""Activation patterns: what the pixels do when the network says that a cell was stimulated.

A classifier's weights, gradients and class activation maps are filters: they are high where looking helps, and low or
negative at a follower that only repeats what the target already told. Haufe et al. 2014
(https://doi.org/10.1016/j.neuroimage.2013.10.067, eq. 6 to 8) turn a backward model into a forward one: regress the
data on the model's outputs. Here the pixels of all frames on the network's probabilities, jointly over outputs; the map
of a pattern is the sum of its cells' maps. The source presentation has only Grad-CAM.

Departures: probabilities instead of linear outputs (logits grow without bound on sure frames and weigh them most);
maps of pairs are sums of their cells' maps, so the method assumes that responses to two cells add up.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# n frames, D positions, C signals, P patterns


@dataclass(frozen=True)
class Moments:
    """Sums over frames from which a regression of pixels on signals follows; they add over batches.

    Attributes:
        gram: (C + 1, C + 1) of the signals and a constant.
        cross: (C + 1, D) of those with the pixels.
    """

    gram: np.ndarray
    cross: np.ndarray

    def __add__(self, other: Moments) -> Moments:
        return Moments(self.gram + other.gram, self.cross + other.cross)


@dataclass(frozen=True)
class TrialMoments:
    """Moments of every trial, its idle frames included.

    Attributes:
        gram: (R, C + 1, C + 1).
        cross: (R, C + 1, D).
        pattern: (R,) what was stimulated in the trial; that of "none" where nothing was.
    """

    gram: np.ndarray
    cross: np.ndarray
    pattern: np.ndarray

    def total(self) -> Moments:
        return Moments(self.gram.sum(axis=0), self.cross.sum(axis=0))


def measure_moments(signals: np.ndarray, pixels: np.ndarray) -> Moments:
    """Of signals (n, C) and pixels (n, D)."""
    known = np.column_stack([signals, np.ones(len(signals))]).astype(np.float64)
    return Moments(known.T @ known, known.T @ pixels.astype(np.float64))


def regress_pixels(moments: Moments, chosen: np.ndarray) -> np.ndarray:
    """Change of every pixel per unit of each chosen signal (c, D), the other chosen signals held fixed.

    Args:
        moments: of all signals.
        chosen: indices of the signals in the model; a constant is always in it.
    """
    rows = np.append(chosen, len(moments.gram) - 1)
    # Signals that never differ from others get the smallest solution instead of a huge one.
    return np.linalg.lstsq(moments.gram[np.ix_(rows, rows)], moments.cross[rows], rcond=1e-10)[0][:-1]


def activation_maps(moments: Moments, labels: np.ndarray, has_none: bool) -> np.ndarray:
    """Maps (P, D) of patterns as sums over their cells; zero for "none".

    Args:
        moments: of the network's probabilities (or of the labels themselves: the same without a network).
        labels: (P, C).
        has_none: whether the last output is "none"; it is then what the constant stands for.
    """
    chosen = np.arange(labels.shape[1] - has_none)
    return labels[:, chosen].astype(np.float64) @ regress_pixels(moments, chosen)


def reconstructed_maps(
    hidden: np.ndarray, pixels: np.ndarray, pattern: np.ndarray, num_patterns: int, ridge: float
) -> np.ndarray:
    """Mean response of each pattern as far as the network's hidden units carry it (P, D), less that of the last.

    Pixels are regressed on hidden units over all frames; each pattern's mean hidden state then gives its picture. What
    the network ignores is noise to it and falls away. Unlike `activation_maps` nothing has to add up.

    Args:
        hidden: (n, U) activity of the units.
        pixels: (n, D).
        pattern: (n,) pattern of each frame; the last pattern is "none".
        num_patterns: P.
        ridge: penalty in units of the mean variance of a hidden unit.
    """
    centred = hidden - hidden.mean(axis=0)
    gram = centred.T @ centred
    penalty = ridge * np.trace(gram) / len(gram) * np.eye(len(gram))
    weights = np.linalg.lstsq(gram + penalty, centred.T @ (pixels - pixels.mean(axis=0)), rcond=None)[0]
    states = mean_by_pattern(centred, pattern, num_patterns)
    return (states - states[-1]) @ weights


def weighted_evoked_maps(
    confidence: np.ndarray, pixels: np.ndarray, pattern: np.ndarray, num_patterns: int
) -> np.ndarray:
    """Mean stimulated minus mean idle frame (P, D), every stimulated frame weighing what the network gives its label.

    Args:
        confidence: (n,) probability of the frame's own label, mean over its cells.
        pixels, pattern, num_patterns: as above; the last pattern is "none".
    """
    maps = np.zeros((num_patterns, pixels.shape[1]))
    for p in range(num_patterns):
        own = pattern == p
        share = np.ones(own.sum()) if p == num_patterns - 1 else confidence[own]
        maps[p] = share @ pixels[own] / share.sum() if share.sum() > 0 else np.nan
    return maps - maps[-1]


def mean_by_pattern(values: np.ndarray, pattern: np.ndarray, num_patterns: int) -> np.ndarray:
    """Means (P, D) of rows (n, D); NaN for a pattern without a row."""
    total = np.zeros((num_patterns, values.shape[1]))
    np.add.at(total, pattern, values)
    count = np.bincount(pattern, minlength=num_patterns).astype(float)
    count[count == 0] = np.nan
    return total / count[:, None]
