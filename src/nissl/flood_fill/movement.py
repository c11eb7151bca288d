"""What one move of a flood-filling network is, and where it may go next; shared by training and inference.

A move looks at the field of view around a position, replaces the object's logits there, and proposes the strongest
voxel of each face of a box of +-deltas as the next positions. Source: Januszewski et al. 2018 and google/ffn
(inference/movement.py, training/examples.py). Positions, sizes and offsets are zyx.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

Triple = tuple[int, int, int]
Slices = tuple[slice, slice, slice]


def logit(probability: float) -> float:
    """Logarithm of the odds; thresholds are given as probabilities and compared as logits."""
    if not 0 < probability < 1:
        raise ValueError(f"a probability threshold must lie strictly between 0 and 1, came {probability}")
    return math.log(probability / (1 - probability))


def window(centre: Sequence[int], size: Sequence[int]) -> Slices:
    """The voxels of a box of odd `size` around `centre`."""
    z, y, x = (slice(c - s // 2, c - s // 2 + s) for c, s in zip(centre, size, strict=True))
    return z, y, x


def shell_offsets(deltas: Sequence[int], rings: int = 1) -> list[Triple]:
    """Steps of a fixed training scheme: every combination of multiples of the deltas, nearest first, without (0,0,0).

    With one ring these are the 26 neighbours. An axis with delta 0 is not moved along.
    """
    steps = [sorted({k * delta for k in range(-rings, rings + 1)}) for delta in deltas]
    offsets = [(z, y, x) for z, y, x in itertools.product(*steps) if (z, y, x) != (0, 0, 0)]
    reach = [max(delta, 1) for delta in deltas]
    return sorted(offsets, key=lambda o: sum(abs(v) / r for v, r in zip(o, reach, strict=True)))


def face_maxima(logits: Tensor, deltas: Sequence[int], threshold: float) -> list[tuple[float, Triple]]:
    """The strongest voxel on each face of the box of +-deltas around the centre, if it reaches `threshold`.

    Args:
        logits: (Z, Y, X) updated logits of one field of view.
        deltas: half the box per axis; an axis with 0 has no faces.
        threshold: in logits.

    Returns:
        (logit, offset from the centre), strongest first. A corner that wins on several faces comes once.
    """
    centre = [size // 2 for size in logits.shape]
    box = logits[window(centre, [2 * delta + 1 for delta in deltas])]
    found: dict[Triple, float] = {}
    for axis, delta in enumerate(deltas):
        if delta == 0:
            continue
        for side in (0, 2 * delta):
            face = box.select(axis, side)
            flat = int(face.argmax())
            score = float(face.reshape(-1)[flat])
            if score >= threshold:
                place = [flat // face.shape[1], flat % face.shape[1]]
                place.insert(axis, side)
                z, y, x = (p - d for p, d in zip(place, deltas, strict=True))
                found.setdefault((z, y, x), score)
    return sorted(((score, offset) for offset, score in found.items()), key=lambda move: -move[0])


def grid_cell(position: Sequence[int], start: Sequence[int], deltas: Sequence[int]) -> Triple:
    """The cell of the delta grid around `start`; a cell is visited once."""
    z, y, x = ((p - s + delta // 2) // max(delta, 1) for p, s, delta in zip(position, start, deltas, strict=True))
    return z, y, x


def freeze_background(old: Tensor, new: Tensor, threshold: float, share: float) -> Tensor:
    """New logits in which voxels once judged background (old logit below 0) can only fall.

    It keeps an object from creeping back through a membrane, once the object fills more than `share` of the field of
    view at `threshold` (logit). Voxels never visited are NaN in `old` and free to rise. A negative share turns it off.
    """
    if share < 0 or float((new >= threshold).float().mean()) <= share:
        return new
    return torch.where((old < 0) & (new > old), old, new)
