"""Flood-filling network that works on blocks of voxels: full resolution in and out, a coarse grid in between.

Image and seed enter with the voxels of each block side by side as channels (space to depth, as in Shi et al. 2016,
https://arxiv.org/abs/1609.05158), the residual modules of the published network (Januszewski et al. 2018,
https://doi.org/10.1038/s41592-018-0049-4) run on the grid of blocks, and their features are laid out over the voxels
again before the head updates the seed. With blocks of 2x2x2 the modules cost an eighth and reach twice as far: depth 6
reaches 25 voxels as depth 12 does in the published network, at 43,756 multiply-adds per voxel of a 33^3 field of view
instead of 637,664. Nothing of the image is averaged away, which is what thin processes need. With `fine_features`, two
more convolutions at full resolution correct what every voxel got from its block. This body is ours, not the paper's.

A network that was trained on images of that coarser resolution can be its beginning, and so can a smaller packed one:
`begin_from`.

Shapes: B batch, Z Y X voxels, C channels. Image and seed are (B, 1, Z, Y, X); every offset and size is zyx.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
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
        fine_features: channels between the two convolutions at full resolution; 0: none.
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
        fine_features: int = 0,
    ) -> None:
        super().__init__(
            fov_zyx, deltas_zyx, depth, features, init_activation, pad_value, move_threshold, norm, init
        )  # fmt: skip
        if len(block_zyx) != 3 or min(block_zyx) < 1:
            raise ValueError(f"block_zyx needs three numbers of at least 1, came {list(block_zyx)}")
        if voxel_features < 2:
            raise ValueError(f"voxel_features must be at least 2, came {voxel_features}")
        if fine_features < 0:
            raise ValueError(f"fine_features must be at least 0, came {fine_features}")
        self.block_zyx = [int(size) for size in block_zyx]
        volume = math.prod(self.block_zyx)
        self.conv_a[0] = Convolution(2 * volume, features, 3, padding=1)
        self.unpack = Convolution(features, voxel_features * volume, 1)
        self.fine_a = Convolution(voxel_features + 2, fine_features, 3, padding=1) if fine_features else None
        self.fine_b = Convolution(fine_features, voxel_features, 3, padding=1) if fine_features else None
        self.head = Convolution(voxel_features, 1, 1)
        self.reset_parameters()
        self.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]

    def hidden(self, image: Tensor, seed_logits: Tensor) -> Tensor:
        inputs = torch.cat([image, seed_logits], dim=1)
        blocks = packed(inputs, self.block_zyx).contiguous(memory_format=torch.channels_last_3d)
        voxels = unpacked(self.unpack(self.stack(blocks)), self.block_zyx, image.shape[2:])
        if self.fine_a is None or self.fine_b is None:
            return F.relu(voxels)
        seen = torch.cat([F.relu(voxels), inputs], dim=1).contiguous(memory_format=torch.channels_last_3d)
        return F.relu(voxels + self.fine_b(F.relu(self.fine_a(seen))))


def begin_from(
    state: dict[str, Tensor], known: dict[str, Any], wanted: Mapping[str, Any]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """State dict and constructor arguments of a packed network that begins as another network that has been trained.

    As an `ffn` on blocks of 2x2x2: where image and seed are the same in all voxels of a block, it answers as the given
    network does at half the resolution; everywhere else it begins with the mean of a block. Two voxel features carry
    what the head said, with either sign; six more are free to learn. Fine features and modules that are wanted and not
    there add nothing at first, and learn.

    Args:
        state: of an `nissl.models.ffn.FFN` or `FFNPacked`.
        known: its constructor arguments.
        wanted: those that the packed network shall have; of them `depth` and `fine_features` are looked at.

    Raises:
        ValueError: arguments of another network, fewer modules than it has, another number of fine features than its.
    """
    if set(known) == set(inspect.signature(FFN).parameters):
        state, known = _from_blocks(state, known)
    if {*known, "fine_features"} != set(inspect.signature(FFNPacked).parameters):
        raise ValueError(
            f"a packed network begins with weights of model=ffn or model=ffn_packed; came a network of {sorted(known)}"
        )
    fine, depth = known.get("fine_features", 0), known["depth"]
    if wanted.get("fine_features", fine) != fine:
        if fine:
            raise ValueError(f"the network has {fine} fine_features already; {wanted['fine_features']} were asked for")
        state, known = _with_fine_features(state, known, wanted["fine_features"])
    if wanted.get("depth", depth) < depth:
        raise ValueError(f"the network has depth {depth}, and modules are only added; {wanted['depth']} was asked for")
    if wanted.get("depth", depth) > depth:
        state, known = _deeper(state, known, wanted["depth"])
    return state, known


def _from_blocks(state: dict[str, Tensor], known: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    state = dict(state)
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
    return state, {**known, **doubled}


def _with_fine_features(
    state: dict[str, Tensor], known: dict[str, Any], fine_features: int
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    architecture = {**known, "fine_features": fine_features}
    fresh = _initial(architecture)
    fine = {name: tensor for name, tensor in fresh.items() if name.startswith("fine_")}
    fine["fine_b.weight"].zero_()  # nothing is added at first
    return {**state, **fine}, architecture


def _deeper(state: dict[str, Tensor], known: dict[str, Any], depth: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
    architecture = {**known, "depth": depth}
    last, now = f"norms.{known['depth']}.", f"norms.{depth}."  # of what leaves the modules
    new = {**_initial(architecture), **{name.replace(last, now): tensor for name, tensor in state.items()}}
    for module in range(known["depth"], depth):
        new[f"conv_b.{module}.weight"].zero_()  # nothing is added at first
    return new, architecture


def _initial(architecture: dict[str, Any]) -> dict[str, Tensor]:
    network = FFNPacked(**architecture)
    network.reset_parameters(torch.Generator().manual_seed(0))
    return network.state_dict()
