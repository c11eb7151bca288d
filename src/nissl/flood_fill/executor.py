"""Runs the moves of several canvases through the network together.

No threads: canvases only say what they need next, so a batch is gathered, evaluated and scattered in one loop. Which
moves share a batch depends on nothing but the canvases, and a repeated run gives the same bits.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from nissl.flood_fill.canvas import Canvas
from nissl.flood_fill.movement import Triple

Network = Callable[[Tensor, Tensor], Tensor]


def run(canvases: Iterable[Canvas], network: Network, batch_size: int) -> None:
    """Advance every canvas to its end.

    Args:
        canvases: each contributes at most one move to a batch.
        network: (image, seed logits), both (B, 1, Z, Y, X), to new logits of that shape.
        batch_size: at most this many moves per call; the last batches are smaller, none waits to be filled.
    """
    active = deque(canvases)
    with torch.inference_mode():
        while active:
            requests: list[tuple[Canvas, Triple]] = []
            while active and len(requests) < batch_size:
                canvas = active.popleft()
                position = canvas.next_position()
                if position is not None:
                    requests.append((canvas, position))
            if not requests:
                return
            views = [canvas.view(position) for canvas, position in requests]
            images = torch.stack([image for image, _ in views])[:, None]
            seeds = torch.stack([seed for _, seed in views])[:, None]
            for (canvas, position), new in zip(requests, network(images, seeds), strict=True):
                canvas.apply(position, new[0])
                active.append(canvas)
