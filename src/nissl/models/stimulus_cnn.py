"""Frame classifier: a small convolutional backbone and a head that keeps place, because the label *is* a place.

The source presentation used "a simple CNN" whose drawing did not survive; layers and sizes here are ours. There is no
global average pooling by default: the head sees a coarse grid (`head_pool` x `head_pool`) of the field of view.

Any model with the two parts `backbone` (frames -> feature maps) and `head` (feature maps -> logits) works with the
Grad-CAM evaluators.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

# B batch, C feature channels, H W frame, h w feature map (H / 8 with the default pooling), K outputs


class GridPool(nn.Module):
    """Mean over each cell of a `side` x `side` grid laid over the feature map.

    The same numbers as `nn.AdaptiveAvgPool2d`, whose backward pass has no deterministic CUDA version; that one is used
    only where the map does not divide evenly.
    """

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(B, C, h, w) -> (B, C, side, side)."""
        height, width = features.shape[2:]
        if height % self.side or width % self.side:
            return functional.adaptive_avg_pool2d(features, self.side)
        tiles = features.unflatten(3, (self.side, -1))
        tiles = tiles.unflatten(2, (self.side, -1))  # (B, C, side, h / side, side, w / side)
        return tiles.mean(dim=(3, 5))


class StimulusCNN(nn.Module):
    """Convolution blocks, a coarse grid of their features, two linear layers.

    Args:
        in_channels: channels of a frame.
        num_outputs: one per stimulated cell, and a last one for "none" where the data set has it.
        channels: feature channels of each block (3 x 3 convolution, batch norm, ReLU).
        pool: per block, 1 to halve the resolution after it, 0 to keep it.
        head_pool: side of the grid the head sees.
        hidden: width of the hidden layer.
        dropout: probability of dropping a hidden unit.
        gap: global average pooling instead of the grid (1 x 1); throws place away, for comparison only.
    """

    def __init__(
        self,
        in_channels: int,
        num_outputs: int,
        channels: Sequence[int],
        pool: Sequence[int],
        head_pool: int,
        hidden: int,
        dropout: float,
        gap: bool,
    ) -> None:
        super().__init__()
        if len(channels) != len(pool):
            raise ValueError(f"channels and pool need one entry per block, came {list(channels)} and {list(pool)}")
        if num_outputs < 2:
            raise ValueError(f"num_outputs must be at least 2, came {num_outputs}")
        blocks = []
        for before, after, halve in zip([in_channels, *channels], channels, pool, strict=False):
            layers = [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
            blocks.append(nn.Sequential(*layers, *([nn.MaxPool2d(2)] if halve else [])))
        self.in_channels, self.num_outputs = in_channels, num_outputs
        self.backbone = nn.Sequential(*blocks)
        grid = 1 if gap else head_pool
        self.head = nn.Sequential(
            GridPool(grid),  # (B, C, h, w) -> (B, C, grid, grid)
            nn.Flatten(),
            nn.Linear(channels[-1] * grid * grid, hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, num_outputs),
        )
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # halves the time of a forward pass on CPU

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """Logits (B, K) of normalised frames (B, in_channels, H, W)."""
        if frames.ndim != 4 or frames.shape[1] != self.in_channels:
            raise ValueError(f"expected frames (B, {self.in_channels}, H, W), came {tuple(frames.shape)}")
        return self.head(self.backbone(frames.to(memory_format=torch.channels_last)))

    def embed(self, frames: torch.Tensor) -> torch.Tensor:
        """The hidden units (B, hidden), after their ReLU."""
        return self.head[:-2](self.backbone(frames.to(memory_format=torch.channels_last)))
