"""Flood-filling network that works on blocks of voxels: full resolution in and out, a coarse grid in between.

Image and seed enter with the voxels of each block side by side as channels (space to depth, as in Shi et al. 2016,
https://arxiv.org/abs/1609.05158), the residual modules of the published network (Januszewski et al. 2018,
https://doi.org/10.1038/s41592-018-0049-4) run on the grid of blocks, and their features are laid out over the voxels
again before the head updates the seed. With blocks of 2x2x2 the modules cost an eighth and reach twice as far: depth 6
reaches 25 voxels as depth 12 does in the published network, at 43,756 multiply-adds per voxel of a 33^3 field of view
instead of 637,664. Nothing of the image is averaged away, which is what thin processes need. This body is ours, not the
paper's.

A network that was trained on images of that coarser resolution can be its beginning: `import_weights`.

Shapes: B batch, Z Y X voxels, C channels. Image and seed are (B, 1, Z, Y, X); every offset and size is zyx.
"""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from nissl.models.ffn import FFN, Convolution, Normalisation

BEGIN_BLOCK = (2, 2, 2)  # of a network that begins as one of half the resolution


def packed(x: Tensor, block_zyx: Sequence[int]) -> Tensor:
    """Voxels of each block as channels, (B, C, Z, Y, X) -> (B, C * voxels of a block, blocks along z, y, x).

    Sizes that are no multiple of the block are filled up with the last voxel.
    """
    z, y, x_ = (-size % block for size, block in zip(x.shape[2:], block_zyx, strict=True))
    x = F.pad(x, (0, x_, 0, y, 0, z), mode="replicate")
    for axis, block in zip((2, 4, 6), block_zyx, strict=True):
        x = x.unflatten(axis, (-1, block))
    return x.permute(0, 1, 3, 5, 7, 2, 4, 6).flatten(1, 4)


def unpacked(x: Tensor, block_zyx: Sequence[int], shape_zyx: Sequence[int]) -> Tensor:
    """The inverse of `packed`: (B, C, Z, Y, X), where Z, Y, X are `shape_zyx`."""
    x = x.unflatten(1, (-1, *block_zyx)).permute(0, 1, 5, 2, 6, 3, 7, 4)
    x = x.flatten(6, 7).flatten(4, 5).flatten(2, 3)
    z, y, x_ = shape_zyx
    return x[:, :, :z, :y, :x_]


class FFNPacked(FFN):
    """Flood-filling network on blocks; a drop-in for `nissl.models.ffn.FFN`.

    Args:
        fov_zyx, deltas_zyx, init_activation, pad_value, move_threshold, norm, init: see `nissl.models.ffn.FFN`.
        depth, features: of the modules on the grid of blocks.
        block_zyx: voxels of a block; 1 along the thick axis of anisotropic data.
        voxel_features: channels of each voxel in front of the head, at least 2.
    """

    def __init__(
        self,
        fov_zyx: Sequence[int],
        deltas_zyx: Sequence[int],
        depth: int,
        features: int,
        block_zyx: Sequence[int],
        voxel_features: int,
        init_activation: float,
        pad_value: float,
        move_threshold: float,
        norm: Normalisation | None = None,
        init: Literal["truncated_normal", "he"] = "he",
    ) -> None:
        super().__init__(
            fov_zyx, deltas_zyx, depth, features, init_activation, pad_value, move_threshold, norm, init
        )  # fmt: skip
        if len(block_zyx) != 3 or min(block_zyx) < 1:
            raise ValueError(f"block_zyx needs three numbers of at least 1, came {list(block_zyx)}")
        if voxel_features < 2:
            raise ValueError(f"voxel_features must be at least 2, came {voxel_features}")
        self.block_zyx = [int(size) for size in block_zyx]
        volume = math.prod(self.block_zyx)
        self.conv_a[0] = Convolution(2 * volume, features, 3, padding=1)
        self.unpack = Convolution(features, voxel_features * volume, 1)
        self.head = Convolution(voxel_features, 1, 1)
        self.reset_parameters()
        self.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]

    def hidden(self, image: Tensor, seed_logits: Tensor) -> Tensor:
        blocks = packed(torch.cat([image, seed_logits], dim=1), self.block_zyx)
        features = self.unpack(self.stack(blocks.contiguous(memory_format=torch.channels_last_3d)))
        return F.relu(unpacked(features, self.block_zyx, image.shape[2:]))


def import_weights(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any], dict[str, str]]:
    """State dict, constructor arguments and metadata of a packed network that begins as an `ffn` of blocks of 2x2x2.

    Where image and seed are the same in all voxels of a block, it answers as the given network does at half the
    resolution; everywhere else it begins with the mean of a block. Two voxel features carry what the head said, with
    either sign; six more are free to learn.

    Args:
        path: safetensors of `model=ffn`, such as `nissl export` makes.

    Raises:
        ValueError: no weights of that model.
    """
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    known = json.loads(metadata.get("architecture", "{}"))
    if set(known) != set(inspect.signature(FFN).parameters):
        raise ValueError(f"{path} holds no weights of model=ffn that nissl import or nissl export wrote")
    volume, voxel_features, features = math.prod(BEGIN_BLOCK), 8, int(known["features"])
    entry, head, bias = state["conv_a.0.weight"], state.pop("head.weight"), state.pop("head.bias")
    state["conv_a.0.weight"] = entry.repeat_interleave(volume, dim=1) / volume
    free = torch.Generator().manual_seed(0)
    rows = torch.randn(voxel_features, volume, features, 1, 1, 1, generator=free) * features**-0.5
    shift = torch.zeros(voxel_features, volume)
    rows[:2], shift[:2] = torch.stack([head, -head]), torch.stack([bias, -bias])
    state["unpack.weight"], state["unpack.bias"] = rows.flatten(0, 1), shift.flatten()
    state["head.weight"] = torch.eye(1, voxel_features).reshape(1, -1, 1, 1, 1)
    state["head.weight"][:, 1] = -1.0
    state["head.bias"] = torch.zeros(1)
    doubled = {
        "fov_zyx": [2 * size - 1 for size in known["fov_zyx"]],
        "deltas_zyx": [2 * delta for delta in known["deltas_zyx"]],
        "block_zyx": list(BEGIN_BLOCK),
        "voxel_features": voxel_features,
    }
    return state, {**known, **doubled}, {"source": f"{metadata.get('source', 'ffn')}, in blocks of 2x2x2"}
