"""Probabilities in one byte per voxel, to keep beside a segmentation.

0 means never visited; 1 to 255 are bins of the unit interval, so that a threshold can be moved after inference without
running the network again. Source: google/ffn (inference/storage.py). It reads bin q back as (q - 0.5) / 255, which
strays by up to 0.006 near 1 since there are 254 bins below it; here it is the middle of the bin.
"""

from __future__ import annotations

import numpy as np

_BORDERS = np.linspace(0.0, 1.0, 255)


def quantise(probability: np.ndarray) -> np.ndarray:
    """Probabilities in [0, 1], NaN = never visited, as uint8.

    >>> quantise(np.array([np.nan, 0.05, 0.5, 0.95]))
    array([  0,  13, 128, 242], dtype=uint8)
    """
    bins = np.digitize(probability, _BORDERS)
    return np.where(np.isnan(probability), 0, bins).astype(np.uint8)


def dequantise(values: np.ndarray) -> np.ndarray:
    """The probability in the middle of each bin, float32; NaN where never visited. Within 1/254 of what was stored."""
    probability = np.minimum((values.astype(np.float32) - 0.5) / 254, 1)
    return np.where(values == 0, np.float32(np.nan), probability)
