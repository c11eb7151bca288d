"""3-D U-Net that predicts affinities: for each voxel and neighbour, whether the two belong to one object.

The usual baseline of flood filling. Source: Çiçek et al. 2016, https://arxiv.org/abs/1606.06650 (the network), Lee et
al. 2017, https://arxiv.org/abs/1706.00120 (long-range affinities). Departures: padded convolutions, so that a block
answers for all of its voxels (`nissl.watershed.prediction` overlaps blocks instead), residual additions where the
scales meet, and group normalisation, which trains in minutes.

Shapes: B batch, A offsets, Z Y X voxels. Offsets and sizes are zyx.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nissl.models.ffn import Convolution, Normalisation, normalisation

NEAREST = ((-1, 0, 0), (0, -1, 0), (0, 0, -1))


class VoxelNetwork(nn.Module):
    """What networks that answer for each voxel of a block share: initial weights, and a copy with fresh ones."""

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Fresh initial weights (He) from `generator`, by default torch's global one."""
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
                assert module.bias is not None
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.GroupNorm | nn.LayerNorm):
                module.reset_parameters()

    def untrained(self, seed: int = 0) -> VoxelNetwork:
        """A copy with initial weights: the baseline that a trained network has to beat."""
        network = copy.deepcopy(self)
        network.reset_parameters(torch.Generator().manual_seed(seed))
        return network


class TwoConvolutions(nn.Module):
    """conv, norm, ReLU, twice: (B, C, Z, Y, X) -> (B, C', Z, Y, X)."""

    def __init__(self, channels: int, features: int, norm: Normalisation | None) -> None:
        super().__init__()
        self.conv_a = Convolution(channels, features, 3, padding=1)
        self.norm_a = normalisation(norm, features)
        self.conv_b = Convolution(features, features, 3, padding=1)
        self.norm_b = normalisation(norm, features)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm_a(self.conv_a(x)))
        return F.relu(self.norm_b(self.conv_b(x)))


class UNet(VoxelNetwork):
    """Image to logits of several outputs for each voxel.

    Args:
        fov_zyx: voxels of the blocks that it is trained on and answers for at once; a multiple of all strides together.
        num_outputs: maps that it predicts.
        widths: channels at each scale, finest first.
        strides_zyx: voxels per voxel from each scale to the next, one fewer than widths.
        norm: "group", "layer" or null.

    Raises:
        ValueError: settings that do not fit together.
    """

    def __init__(
        self,
        fov_zyx: Sequence[int],
        num_outputs: int,
        widths: Sequence[int],
        strides_zyx: Sequence[Sequence[int]],
        norm: Normalisation | None,
    ) -> None:
        super().__init__()
        self.fov_zyx = tuple(int(size) for size in fov_zyx)
        if len(strides_zyx) != len(widths) - 1:
            raise ValueError(f"{len(widths)} widths need {len(widths) - 1} strides, came {len(strides_zyx)}")
        strides = [(int(z), int(y), int(x)) for z, y, x in strides_zyx]
        for axis, size in zip(range(3), self.fov_zyx, strict=True):
            together = math.prod(stride[axis] for stride in strides)
            if size % together:
                raise ValueError(
                    f"fov_zyx {list(self.fov_zyx)} must be a multiple of {together} along axis {'zyx'[axis]}"
                )
        self.down = nn.ModuleList(
            TwoConvolutions(channels, width, norm) for channels, width in zip([1, *widths], widths, strict=False)
        )
        self.pools = nn.ModuleList(nn.MaxPool3d(stride, stride) for stride in strides)
        self.lifts = nn.ModuleList(Convolution(b, a, 1) for a, b in zip(widths, widths[1:], strict=False))
        self.up = nn.ModuleList(TwoConvolutions(width, width, norm) for width in widths[:-1])
        self.head = Convolution(widths[0], num_outputs, 1)
        self.reset_parameters()
        self.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]

    def forward(self, image: Tensor) -> Tensor:
        """Logits (B, A, Z, Y, X) of the normalised image (B, 1, Z, Y, X)."""
        x = self.down[0](image.contiguous(memory_format=torch.channels_last_3d))
        skips = []
        for pool, block in zip(self.pools, self.down[1:], strict=True):
            skips.append(x)
            x = block(pool(x))
        for lift, block, skip in zip(reversed(self.lifts), reversed(self.up), reversed(skips), strict=True):
            # The 1x1x1 convolution comes first: it commutes with repeating voxels and is cheaper on the coarse grid.
            x = block(skip + F.interpolate(lift(x), size=skip.shape[2:], mode="nearest"))
        return self.head(x)


class AffinityUNet(UNet):
    """Image to affinity logits.

    Args:
        fov_zyx, widths, strides_zyx, norm: see `UNet`.
        offsets_zyx: the neighbours, the three nearest [-1,0,0], [0,-1,0], [0,0,-1] first.
    """

    def __init__(
        self,
        fov_zyx: Sequence[int],
        offsets_zyx: Sequence[Sequence[int]],
        widths: Sequence[int],
        strides_zyx: Sequence[Sequence[int]],
        norm: Normalisation | None = "group",
    ) -> None:
        offsets = [tuple(int(step) for step in offset) for offset in offsets_zyx]
        if offsets[:3] != list(NEAREST):
            raise ValueError(f"offsets_zyx must begin with {list(map(list, NEAREST))}, came {offsets_zyx}")
        super().__init__(fov_zyx, len(offsets), widths, strides_zyx, norm)
        self.offsets_zyx = offsets
