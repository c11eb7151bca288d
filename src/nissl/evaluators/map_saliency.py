"""Several saliency methods at once, by name, sharing the passes they can share.

A name is a method of `gradcam`, or `gradient`, with options: "gradcam", "hirescam-signed", "layercam@2",
"layercam-centred". Signed maps are not rectified; centred ones lose the mean map over stimulated patterns.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from nissl.evaluators import gradcam as cam

_NAME = re.compile(r"(?P<method>[a-z+]+)(?P<signed>-signed)?(?P<centred>-centred)?(@(?P<layer>\d+))?")


@dataclass(frozen=True)
class Saliency:
    """One method with its options; `layer` counts blocks of the backbone from 1, None is its end."""

    name: str
    method: str
    layer: int | None
    signed: bool
    centred: bool


def parse_saliency(name: str) -> Saliency:
    """A method from its name.

    Raises:
        ValueError: if there is no such method.
    """
    match = _NAME.fullmatch(name)
    known = (*cam.METHODS, "gradient")
    if match is None or match["method"] not in known:
        raise ValueError(
            f"saliency method '{name}' is unknown; write <method>[-signed][-centred][@layer] with a method of "
            f"{', '.join(known)}"
        )
    layer = None if match["layer"] is None else int(match["layer"])
    return Saliency(name, match["method"], layer, match["signed"] is not None, match["centred"] is not None)


def explain(
    model: nn.Module, frames: torch.Tensor, labels: torch.Tensor, chosen: Sequence[Saliency], size: tuple[int, int]
) -> dict[str, torch.Tensor]:
    """Maps (B, h, w) of each method, averaged over areas to `size`; one backward pass per layer."""
    maps: dict[str, torch.Tensor] = {}
    for layer in dict.fromkeys(s.layer for s in chosen if s.method != "gradient"):
        front, rest = cam.split_model(model, layer)
        features = cam.extract_features(front, frames)
        gradient = cam.score_gradient(rest, features, labels)
        for s in chosen:
            if s.method != "gradient" and s.layer == layer:
                maps[s.name] = cam.weigh_features(features, gradient, s.method, not s.signed)
    for s in chosen:
        if s.method == "gradient":
            maps[s.name] = cam.input_gradient(model, frames, labels)
    return {name: functional.adaptive_avg_pool2d(map_, size) for name, map_ in maps.items()}


def centre(maps: np.ndarray, stimulated: np.ndarray) -> np.ndarray:
    """Maps (P, ...) less the mean over the stimulated patterns (P,) bool: what they all have is no map of one."""
    return maps - np.nanmean(maps[stimulated], axis=0)
