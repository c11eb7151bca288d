"""Embeddings of a split, from a trained task, from an untrained copy of its model, and from published weights.

What a data set must offer is duck-typed: `source.unaugmented(split)` (without it the split's own loader is used for val
and test); with a second argument it gives another random thinning of the same cells, or "all" of their nodes.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

Draws = int | Literal["all"]


@torch.no_grad()
def embed_split(model: nn.Module, data: Any, split: str, draws: Draws = 1) -> np.ndarray:
    """Embeddings of the unaugmented items of a split, (items, D) float64, in their order.

    Args:
        draws: 1 takes the one thinned graph of each cell; more take the mean over as many random thinnings; "all"
            takes every (cached) node, of which the reference embeds up to 1000 after training at 200.
    """
    embed = getattr(model, "embed", None)
    if embed is None:
        raise ValueError(f"{type(model).__name__} has no embed(batch), so its embeddings cannot be evaluated")
    source = data.source
    device = next(model.parameters()).device

    def embedded(dataset: Any) -> np.ndarray:
        loader = DataLoader(dataset, batch_size=data.batch_size, collate_fn=getattr(source, "collate", None))
        return np.concatenate([embed(batch.to(device)).double().cpu().numpy() for batch in loader])

    if not hasattr(source, "unaugmented"):
        return embedded(source.split(split))
    # A source that keeps encodings never computes those of a graph twice, not even in another process.
    keeps = hasattr(source, "encodings") and hasattr(model, "position_encoder")
    encode: dict[str, Any] = {"encode": model.position_encoder()} if keeps else {}  # type: ignore[operator]
    if draws == "all":
        return embedded(source.unaugmented(split, "all", **encode))
    first = embedded(source.unaugmented(split, **encode))
    others = [embedded(source.unaugmented(split, draw, **encode)) for draw in range(1, draws)]
    return np.mean([first, *others], axis=0)


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


def published_model(model: nn.Module, path: str | Path) -> nn.Module:
    """A network of the same class with imported weights, in the architecture its file states.

    Args:
        path: safetensors made by `nissl import`.

    Raises:
        ValueError: if the file is missing, states no architecture, or does not fit the class.
    """
    from safetensors import safe_open

    path = Path(path)
    if not path.exists():
        raise ValueError(f"no such file: '{path}'. Make it with: nissl import <model> <file> --out {path}")
    with safe_open(path, "pt") as file:
        metadata = file.metadata() or {}
        state = {name: file.get_tensor(name) for name in file.keys()}
    if "architecture" not in metadata:
        raise ValueError(f"'{path}' does not state its architecture; make it with: nissl import")
    architecture = json.loads(metadata["architecture"])
    try:
        imported = type(model)(**architecture)
        imported.load_state_dict(state)
    except (TypeError, RuntimeError) as error:
        raise ValueError(f"'{path}' does not fit {type(model).__name__}: {error}") from error
    return imported.to(next(model.parameters()).device).eval()
