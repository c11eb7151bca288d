"""Embeddings and labels of a split, from a trained task, from an untrained copy of its model, and by hand.

What a data set must offer is duck-typed: `source.unaugmented(split)` (without it the split's own loader is used for val
and test), `source.labels(split)`, `source.classes`, and `source.cells(split)` for hand-made features.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

from nissl.evaluators.morphometrics import morphometrics


@torch.no_grad()
def embed_split(model: nn.Module, data: Any, split: str) -> np.ndarray:
    """Embeddings of the unaugmented items of a split, (items, D) float64, in their order."""
    embed = getattr(model, "embed", None)
    if embed is None:
        raise ValueError(f"{type(model).__name__} has no embed(batch), so its embeddings cannot be evaluated")
    source = data.source
    device = next(model.parameters()).device
    dataset = source.unaugmented(split) if hasattr(source, "unaugmented") else source.split(split)
    loader = DataLoader(dataset, batch_size=data.batch_size, collate_fn=getattr(source, "collate", None))
    return np.concatenate([embed(batch.to(device)).double().cpu().numpy() for batch in loader])


def untrained_copy(model: nn.Module, seed: int) -> nn.Module:
    """The same network with fresh random weights; the global random state is left as it was.

    Raises:
        ValueError: if a module holds parameters of its own but cannot reset them.
    """
    fresh = copy.deepcopy(model)
    devices = range(torch.cuda.device_count())
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        for name, module in fresh.named_modules():
            reset = getattr(module, "reset_parameters", None)
            if reset is not None:
                reset()
            elif next(module.parameters(recurse=False), None) is not None:
                raise ValueError(f"{type(module).__name__} ({name}) has parameters but no reset_parameters()")
    return fresh


def hand_made_features(data: Any, fitted_on: str, splits: tuple[str, ...]) -> dict[str, np.ndarray] | None:
    """z-scored morphometrics of the splits, scaled on `fitted_on`; None where the source has no cells."""
    if not hasattr(data.source, "cells"):
        return None
    raw = {split: morphometrics(data.source.cells(split)) for split in {fitted_on, *splits}}
    mean, std = raw[fitted_on].mean(axis=0), raw[fitted_on].std(axis=0)
    std[std <= 1e-9 * np.maximum(np.abs(mean), 1.0)] = 1.0  # constant over the training cells
    return {split: (raw[split] - mean) / std for split in splits}
