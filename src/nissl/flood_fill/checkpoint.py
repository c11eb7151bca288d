"""Canvases in a file, between any two moves, and back: a killed flooding goes on as if it had not been stopped.

What a canvas is built from (image, thresholds, masks) is not in the file: the caller builds the canvases anew, and
`key` says that they are the same ones. Canvases that share batches share a file, so that they stand at one moment.
Source of the contract: google/ffn (`.cpoint` files), where a checkpoint taken before the first seed cannot be read.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nissl.flood_fill.canvas import Canvas, Origin
from nissl.flood_fill.stage_files import write_arrays

_PLAIN = ("next_seed", "num_seeds", "num_rounds", "max_id", "num_moves", "low", "high")


def save(canvases: Sequence[Canvas], path: Path, key: str) -> None:
    """Write the state of all canvases; the file is complete or not there."""
    arrays: dict[str, np.ndarray] = {}
    facts = []
    for i, canvas in enumerate(canvases):
        arrays |= {f"{i}/{name}": value for name, value in _arrays(canvas).items()}
        facts.append(_facts(canvas))
    write_arrays(path, arrays, {"key": key, "canvases": facts})


def restore(canvases: Sequence[Canvas], path: Path, key: str) -> None:
    """Put fresh canvases into the state of the file.

    Raises:
        ValueError: if the file is of other canvases.
    """
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    facts = json.loads(str(arrays.pop("facts")))
    if facts["key"] != key or len(facts["canvases"]) != len(canvases):
        raise ValueError(
            f"{path} is the checkpoint of another flooding (other image, weights or settings). "
            "Remove it, or choose another folder."
        )
    for i, canvas in enumerate(canvases):
        own = {name.partition("/")[2]: value for name, value in arrays.items() if name.partition("/")[0] == str(i)}
        _restore(canvas, own, facts["canvases"][i])


def _arrays(canvas: Canvas) -> dict[str, np.ndarray]:
    arrays = {f"frontier_{name}": value for name, value in canvas.frontier.state().items()}
    arrays["segmentation"] = canvas.segmentation.cpu().numpy()
    arrays["seeds"] = np.asarray(canvas.seeds, np.int64).reshape(-1, 3)
    if canvas.start is not None:  # elsewhere, and outside the box of the object being grown, every logit is NaN
        arrays["logits"] = canvas.logits[_box(canvas)].cpu().numpy()
    if canvas.probability is not None:
        arrays["probability"] = canvas.probability
    return arrays


def _facts(canvas: Canvas) -> dict[str, Any]:
    return {name: getattr(canvas, name) for name in _PLAIN} | {
        "start": canvas.start,
        "origins": [[i, *o.start_zyx, o.num_moves, o.num_voxels] for i, o in canvas.origins.items()],
        "overlaps": [[i, [[other, n] for other, n in of.items()]] for i, of in canvas.overlaps.items()],
        "counters": dict(canvas.counters),
        "rejected": canvas.rejected,
        "history": canvas.history,
    }


def _restore(canvas: Canvas, arrays: dict[str, np.ndarray], facts: dict[str, Any]) -> None:
    for name in _PLAIN:
        setattr(canvas, name, facts[name])
    device = canvas.image.device
    canvas.segmentation = torch.from_numpy(arrays["segmentation"]).to(device)
    canvas.probability = arrays.get("probability")
    canvas.seeds = [(z, y, x) for z, y, x in arrays["seeds"].tolist()]
    canvas.start = None
    canvas.logits.fill_(torch.nan)
    if facts["start"] is not None:
        z, y, x = facts["start"]
        canvas.start = (z, y, x)
        canvas.logits[_box(canvas)] = torch.from_numpy(arrays["logits"]).to(device)
    canvas.origins = {i: Origin((z, y, x), moves, voxels) for i, z, y, x, moves, voxels in facts["origins"]}
    canvas.overlaps = {i: {other: n for other, n in of} for i, of in facts["overlaps"]}
    canvas.counters.clear()
    canvas.counters.update(facts["counters"])
    canvas.rejected = [((z, y, x), reason, moves) for (z, y, x), reason, moves in facts["rejected"]]
    canvas.history = [((z, y, x), deleted) for (z, y, x), deleted in facts["history"]]
    canvas.frontier.restore({k.removeprefix("frontier_"): v for k, v in arrays.items() if k.startswith("frontier_")})


def _box(canvas: Canvas) -> tuple[slice, ...]:
    return tuple(slice(low, high) for low, high in zip(canvas.low, canvas.high, strict=True))
