"""Flood-filling network on two scales: thin layers at full resolution, the depth at half of it.

The published network (Januszewski et al. 2018, https://doi.org/10.1038/s41592-018-0049-4) runs all of its convolutions
at full resolution. Here two convolutions read image and seed, `depth` residual modules work on a grid of every second
voxel, and one module joins both scales before the same additive update of the seed. A coarse module reaches four voxels
where a fine one reaches two, so with the settings of `conf/model/ffn_unet.yaml` (16 features, 32 coarse ones, 5 coarse
modules) the seed reaches 25 voxels, as in the published network of depth 12 (24), at 61,374 multiply-adds per voxel of
a 33^3 field of view instead of 637,664: a tenth. This body is ours, not the paper's.

The coarse grid holds the even voxels of an odd field of view, so both scales have the same centre and the same ends.

Shapes: B batch, Z Y X voxels, C channels. Image and seed are (B, 1, Z, Y, X); every offset and size is zyx.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nissl.models.ffn import Convolution, FloodNetwork, Normalisation, normalisation


class Residual(nn.Module):
    """h + conv(ReLU(conv(ReLU(norm(h))))), (B, C, Z, Y, X)."""

    def __init__(self, features: int, norm: Normalisation | None) -> None:
        super().__init__()
        self.norm = normalisation(norm, features)
        self.conv_a = Convolution(features, features, 3, padding=1)
        self.conv_b = Convolution(features, features, 3, padding=1)

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden + self.conv_b(F.relu(self.conv_a(F.relu(self.norm(hidden)))))


class FFNUNet(FloodNetwork):
    """Two-scale flood-filling network; a drop-in for `nissl.models.ffn.FFN`.

    Args:
        fov_zyx, deltas_zyx, init_activation, pad_value, move_threshold, init: see `FloodNetwork`.
        depth: residual modules at the coarse scale. The seed reaches 4 * depth + 5 voxels along halved axes.
        features, coarse_features: channels at full and at coarse resolution.
        stride_zyx: voxels per voxel of the coarse grid, 1 or 2 per axis; 1 for the thick axis of anisotropic data.
        norm: "group", "layer" or null.
    """

    def __init__(
        self,
        fov_zyx: Sequence[int],
        deltas_zyx: Sequence[int],
        depth: int,
        features: int,
        coarse_features: int,
        stride_zyx: Sequence[int],
        init_activation: float,
        pad_value: float,
        move_threshold: float,
        norm: Normalisation | None = None,
        init: Literal["truncated_normal", "he"] = "he",
    ) -> None:
        super().__init__(fov_zyx, deltas_zyx, init_activation, pad_value, move_threshold, init)
        if min(depth, features, coarse_features) < 1:
            raise ValueError(
                f"depth, features and coarse_features must be at least 1, came {depth}, {features}, {coarse_features}"
            )
        if len(stride_zyx) != 3 or not set(stride_zyx) <= {1, 2}:
            raise ValueError(f"stride_zyx needs three numbers, 1 or 2 each, came {list(stride_zyx)}")
        self.enter_a = Convolution(2, features, 3, padding=1)
        self.enter_norm = normalisation(norm, features)
        self.enter_b = Convolution(features, features, 3, padding=1)
        z, y, x = stride_zyx
        self.down = Convolution(features, coarse_features, 3, stride=(z, y, x), padding=1)
        self.coarse = nn.ModuleList(Residual(coarse_features, norm) for _ in range(depth))
        self.up = Convolution(coarse_features, features, 1)
        self.join = Residual(features, norm)
        self.leave_norm = normalisation(norm, features)
        self.head = Convolution(features, 1, 1)
        self.reset_parameters()
        self.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]

    def hidden(self, image: Tensor, seed_logits: Tensor) -> Tensor:
        """What the head reads, (B, C, Z, Y, X).

        Raises:
            ValueError: an even number of voxels along a halved axis, whose two scales would not share their centre.
        """
        shape = image.shape[2:]
        if any(stride == 2 and size % 2 == 0 for stride, size in zip(self.down.stride, shape, strict=True)):
            raise ValueError(f"patches need odd sizes along halved axes {self.down.stride}, came {tuple(shape)}")
        x = torch.cat([image, seed_logits], dim=1).contiguous(memory_format=torch.channels_last_3d)
        fine = self.enter_b(F.relu(self.enter_norm(self.enter_a(x))))  # (B, C, Z, Y, X)
        coarse = self.down(F.relu(fine))  # (B, C', Z/2, Y/2, X/2), at the even voxels
        for module in self.coarse:
            coarse = module(coarse)
        # Even voxels take their coarse value, the others the mean of their neighbours.
        coarse = F.interpolate(self.up(F.relu(coarse)), size=shape, mode="trilinear", align_corners=True)
        hidden = self.join(fine + coarse)
        return F.relu(self.leave_norm(hidden))
