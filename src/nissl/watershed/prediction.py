"""Probabilities of a whole volume, block by block, from a network that answers for one block at once."""

from __future__ import annotations

import hashlib
import itertools
import logging
from collections import OrderedDict

import numpy as np
import torch
from torch import nn

log = logging.getLogger(__name__)

PRECISIONS = ("float32", "bfloat16")
NUM_KEPT = 4  # volumes remembered in one process: two evaluators ask for the same one
_finished: OrderedDict[str, np.ndarray] = OrderedDict()


def predict(
    network: nn.Module, image: np.ndarray, margin: int, precision: str, activation: str = "sigmoid"
) -> np.ndarray:
    """Probabilities from the network's logits, (C, Z, Y, X) float32.

    Blocks have the size the network was trained on (`fov_zyx`), overlap by twice the margin, and answer for what is
    farther than it from their faces; beyond the volume the image is mirrored. An equal call in one process returns what
    the first one gave.

    Args:
        network: (B, 1, Z, Y, X) -> (B, C, Z, Y, X), in eval mode.
        image: (Z, Y, X) float32, normalised as in training.
        margin: voxels; at least a few, for convolutions are blind at faces.
        precision: "float32" or "bfloat16" (fast with AMX or on GPUs).
        activation: "sigmoid" of each map, or "softmax" over them.

    Raises:
        ValueError: a margin that leaves nothing of a block.
    """
    size = np.asarray(network.fov_zyx)
    core = size - 2 * margin
    if np.any(core < 1):
        raise ValueError(
            f"a margin of {margin} voxels leaves nothing of blocks of {size.tolist()}. Lower segmenter.margin."
        )
    key = _fingerprint(network, image, (margin, precision, activation))
    if key in _finished:
        _finished.move_to_end(key)
        return _finished[key]
    device = next(network.parameters()).device
    counts = -(-np.asarray(image.shape) // core)
    ends = counts * core - image.shape + margin
    padded = np.pad(image, [(margin, int(end)) for end in ends], mode="symmetric")
    out: np.ndarray | None = None
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
        for index in itertools.product(*(range(count) for count in counts)):
            start = np.multiply(index, core)
            block = padded[tuple(slice(a, a + s) for a, s in zip(start, size, strict=True))]
            logits = network(torch.from_numpy(np.ascontiguousarray(block)).to(device)[None, None])[0].float()
            inner = logits[(slice(None), *(slice(margin, margin + c) for c in core))]
            if out is None:
                out = np.empty((len(inner), *image.shape), np.float32)
            place = tuple(slice(a, min(a + c, n)) for a, c, n in zip(start, core, image.shape, strict=True))
            kept = tuple(slice(0, part.stop - part.start) for part in place)
            found = torch.sigmoid(inner) if activation == "sigmoid" else torch.softmax(inner, 0)
            out[(slice(None), *place)] = found[(slice(None), *kept)].cpu().numpy()
    assert out is not None
    _finished[key] = out
    while len(_finished) > NUM_KEPT:
        _finished.popitem(last=False)
    return out


def _fingerprint(network: nn.Module, image: np.ndarray, settings: tuple[object, ...]) -> str:
    facts = (settings, image.shape, network.fov_zyx, type(network).__qualname__, getattr(network, "offsets_zyx", None))
    digest = hashlib.blake2b(repr(facts).encode())
    for name, value in network.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    digest.update(np.ascontiguousarray(image).tobytes())
    return digest.hexdigest()
