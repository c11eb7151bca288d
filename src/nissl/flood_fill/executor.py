"""Runs the moves of several canvases through the network together.

No threads: canvases only say what they need next, so a batch is gathered, evaluated and scattered in one loop, and no
batch waits to be filled. Which moves share a batch follows from how far each canvas is and nothing else, so that a
repeated run, and one resumed from a checkpoint of its canvases, gives the same bits.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from nissl.flood_fill.canvas import Canvas
from nissl.flood_fill.movement import Triple

Network = Callable[[Tensor, Tensor], Tensor]


def run(
    canvases: Sequence[Canvas],
    network: Network,
    batch_size: int,
    after_batch: Callable[[], None] | None = None,
) -> dict[str, float]:
    """Advance every canvas to its end.

    Args:
        canvases: each contributes at most one move to a batch; those with the fewest moves so far go first.
        network: (image, seed logits), both (B, 1, Z, Y, X), to new logits of that shape.
        batch_size: at most this many moves per call; the last batches are smaller, none waits to be filled.
        after_batch: called between batches, when every canvas is in a state that can be saved.

    Returns:
        CPU-seconds spent in the "network" and "around" it.
    """
    active = list(canvases)
    seconds = {"network": 0.0, "around": 0.0}
    begun = time.process_time()
    with torch.inference_mode():
        while active:
            requests: list[tuple[Canvas, Triple]] = []
            for canvas in sorted(active, key=lambda canvas: canvas.counters["moves"]):  # stable: the first in a tie
                position = canvas.next_position()
                if position is None:
                    active.remove(canvas)
                    continue
                requests.append((canvas, position))
                if len(requests) == batch_size:
                    break
            if not requests:
                break
            views = [canvas.view(position) for canvas, position in requests]
            images = torch.stack([image for image, _ in views])[:, None]
            seeds = torch.stack([seed for _, seed in views])[:, None]
            before = time.process_time()
            answers = network(images, seeds)
            seconds["network"] += time.process_time() - before
            for (canvas, position), new in zip(requests, answers, strict=True):
                canvas.apply(position, new[0])
            if after_batch is not None:
                after_batch()
    seconds["around"] = time.process_time() - begun - seconds["network"]
    return seconds
