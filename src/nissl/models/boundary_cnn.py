"""Small 3-D CNN that predicts one map: how likely a voxel is the inside of an object rather than its boundary.

After SegEM (Berning, Boergens and Helmstaedter 2015, https://doi.org/10.1016/j.neuron.2015.09.003), which segments the
map by watershed. The original's layers and parameters were not at hand; these are ours: plain 3x3x3 convolutions at
full resolution with normalisation between, which see 2 * depth + 1 voxels per axis.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nissl.models.affinity_unet import VoxelNetwork
from nissl.models.ffn import Convolution, Normalisation, normalisation


class BoundaryCNN(VoxelNetwork):
    """Image to logits of being inside, (B, 1, Z, Y, X) both.

    Args:
        fov_zyx: voxels of the blocks that it is trained on and answers for at once.
        depth: convolutions of 3x3x3.
        features: channels between them.
        norm: "group", "layer" or null.
    """

    offsets_zyx: tuple[()] = ()  # it predicts no affinities

    def __init__(self, fov_zyx: Sequence[int], depth: int, features: int, norm: Normalisation | None = "group") -> None:
        super().__init__()
        if depth < 1 or features < 1:
            raise ValueError(f"depth and features must be at least 1, came {depth} and {features}")
        self.fov_zyx = tuple(int(size) for size in fov_zyx)
        channels = [1] + [features] * (depth - 1)
        self.convolutions = nn.ModuleList(Convolution(count, features, 3, padding=1) for count in channels)
        self.norms = nn.ModuleList(normalisation(norm, features) for _ in range(depth))
        self.head = Convolution(features, 1, 1)
        self.reset_parameters()
        self.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]

    def forward(self, image: Tensor) -> Tensor:
        x = image.contiguous(memory_format=torch.channels_last_3d)
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = F.relu(norm(convolution(x)))
        return self.head(x)
