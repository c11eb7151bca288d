"""Flood-filling network: from an image patch and the logits of one object to better logits of that object.

ConvStack3D of Januszewski et al. 2018, https://doi.org/10.1038/s41592-018-0049-4: residual modules of two 3x3x3
convolutions at full resolution, and an additive update of the seed, so that a network of zeros changes nothing.
Follows the variable layout of google/ffn (Apache-2.0), whose published weights `import_weights` reads.

Departures: optional group or layer normalisation (placed as in the newer google-research/connectomics stack: after the
first convolution, before each residual module, before the head) and optional He initialisation, which make small
networks learn in minutes instead of days; and the choice of the convolution kernel on CPU, see `Convolution`.

Shapes: B batch, Z Y X voxels, C channels. Image and seed are (B, 1, Z, Y, X); every offset and size is zyx.
"""

from __future__ import annotations

import copy
import math
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

Normalisation = Literal["group", "layer"]
GROUP_CHANNELS = 4  # channels per group of the group normalisation


class Convolution(nn.Conv3d):
    """A convolution of (B, C, Z, Y, X) that never goes through PyTorch's slow kernel.

    For one example with C*Z*Y <= 20,480 PyTorch picks `slow_conv3d` on CPU, measured 9 times slower than oneDNN
    forwards and 6 times backwards, and inference of one object is always batch 1. Forwards, oneDNN is asked for by
    name. Its backward pass would choose the slow kernel again, so a lone example that needs gradients is convolved
    twice, which is the cheapest way to a fast one. A 1x1x1 convolution, slow on one thread at any batch size, is a
    matrix product over channels.
    """

    def forward(self, x: Tensor) -> Tensor:
        if self.kernel_size == (1, 1, 1):
            return F.linear(x.movedim(1, -1), self.weight.flatten(1), self.bias).movedim(-1, 1)
        on_cpu = x.device.type == "cpu" and torch.backends.mkldnn.is_available()
        if not on_cpu or x.shape[0] > 1:
            return super().forward(x)
        if torch.is_grad_enabled():
            return super().forward(x.expand(2, -1, -1, -1, -1))[:1]
        assert self.bias is not None
        # Asked for by name, the kernel is no longer one that autocast knows.
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
        x, weight, bias = x.to(dtype), self.weight.to(dtype), self.bias.to(dtype)
        padding = [size // 2 for size in self.kernel_size]
        return torch.mkldnn_convolution(x, weight, bias, padding, self.stride, self.dilation, self.groups)


class ChannelNorm(nn.Module):
    """Layer normalisation over the channels of each voxel, (B, C, Z, Y, X)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.movedim(1, -1)).movedim(-1, 1)


class FloodNetwork(nn.Module):
    """What every flood-filling network is: how it moves, how its seed is read, and where its weights begin.

    Args:
        fov_zyx: voxels that one move sees, odd numbers. The network itself is convolutional and takes any size;
            training and inference use this one.
        deltas_zyx: how far the next move may lie, per axis.
        init_activation, pad_value, move_threshold: how a seed is read, as probabilities: an object begins with
            `init_activation` at one voxel and `pad_value` everywhere else, and grows to positions that reach
            `move_threshold`. The network is trained with these numbers and means nothing with others, so they are
            part of it.
        init: "truncated_normal" (standard deviation 0.01, as in the published code) or "he" (variance-preserving for
            ReLU; the head starts at zero, so that the untrained network leaves its seed as it is).
    """

    head: Convolution

    def __init__(
        self,
        fov_zyx: Sequence[int],
        deltas_zyx: Sequence[int],
        init_activation: float,
        pad_value: float,
        move_threshold: float,
        init: Literal["truncated_normal", "he"],
    ) -> None:
        super().__init__()
        self.fov_zyx = _three(fov_zyx, "fov_zyx")
        self.deltas_zyx = _three(deltas_zyx, "deltas_zyx")
        if any(size % 2 == 0 or size < 1 for size in self.fov_zyx):
            raise ValueError(f"fov_zyx must be odd so that it has a centre voxel, came {list(self.fov_zyx)}")
        if any(2 * delta >= size for delta, size in zip(self.deltas_zyx, self.fov_zyx, strict=True)):
            raise ValueError(
                f"deltas_zyx {list(self.deltas_zyx)} leave the field of view {list(self.fov_zyx)}: "
                "each delta must be at most (size - 1) / 2"
            )
        for name, value in (
            ("init_activation", init_activation),
            ("pad_value", pad_value),
            ("move_threshold", move_threshold),
        ):
            if not 0 < value < 1:
                raise ValueError(f"{name} is a probability strictly between 0 and 1, came {value}")
        self.init_activation, self.pad_value, self.move_threshold = init_activation, pad_value, move_threshold
        if init not in ("truncated_normal", "he"):
            raise ValueError(f"init must be truncated_normal or he, came {init!r}")
        self.init = init

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Fresh initial weights from `generator`, by default torch's global one."""
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                if self.init == "he":
                    nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
                else:
                    nn.init.trunc_normal_(module.weight, std=0.01, a=-0.02, b=0.02, generator=generator)
                assert module.bias is not None
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.GroupNorm | nn.LayerNorm):
                module.reset_parameters()
        if self.init == "he":
            nn.init.zeros_(self.head.weight)

    def hidden(self, image: Tensor, seed_logits: Tensor) -> Tensor:
        """What the head reads, (B, C, Z, Y, X), from the normalised image and the seed logits, (B, 1, Z, Y, X)."""
        raise NotImplementedError

    def forward(self, image: Tensor, seed_logits: Tensor) -> Tensor:
        """Updated logits, (B, 1, Z, Y, X), from the normalised image and the seed logits of the same shape."""
        return seed_logits + self.head(self.hidden(image, seed_logits))

    def untrained(self, seed: int = 0) -> Self:
        """A copy with initial weights: the baseline that a trained network has to beat."""
        network = copy.deepcopy(self)
        network.reset_parameters(torch.Generator().manual_seed(seed))
        return network


class FFN(FloodNetwork):
    """Residual 3-D convolution stack with an additive seed update.

    Args:
        fov_zyx, deltas_zyx, init_activation, pad_value, move_threshold, init: see `FloodNetwork`.
        depth: number of modules of two convolutions, the first included. 2 * depth should reach the field of view's
            radius, or the seed cannot influence its faces.
        features: channels of every hidden layer.
        norm: "group", "layer" or null (as published).
    """

    def __init__(
        self,
        fov_zyx: Sequence[int],
        deltas_zyx: Sequence[int],
        depth: int,
        features: int,
        init_activation: float,
        pad_value: float,
        move_threshold: float,
        norm: Normalisation | None = None,
        init: Literal["truncated_normal", "he"] = "truncated_normal",
    ) -> None:
        super().__init__(fov_zyx, deltas_zyx, init_activation, pad_value, move_threshold, init)
        if depth < 1 or features < 1:
            raise ValueError(f"depth and features must be at least 1, came {depth} and {features}")
        inputs = [2] + [features] * (depth - 1)
        self.conv_a = nn.ModuleList(Convolution(channels, features, 3, padding=1) for channels in inputs)
        self.conv_b = nn.ModuleList(Convolution(features, features, 3, padding=1) for _ in range(depth))
        self.norms = nn.ModuleList(normalisation(norm, features) for _ in range(depth + 1))
        self.head = Convolution(features, 1, 1)
        self.reset_parameters()
        # oneDNN convolves this layout 1.5 times faster than the default one.
        self.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]

    def hidden(self, image: Tensor, seed_logits: Tensor) -> Tensor:
        return self.stack(torch.cat([image, seed_logits], dim=1).contiguous(memory_format=torch.channels_last_3d))

    def stack(self, x: Tensor) -> Tensor:
        """All modules: inputs (B, 2, Z, Y, X) to features (B, C, Z, Y, X)."""
        hidden = self.conv_a[0](x)
        hidden = self.conv_b[0](F.relu(self.norms[0](hidden)))
        for norm, conv_a, conv_b in zip(self.norms[1:-1], self.conv_a[1:], self.conv_b[1:], strict=True):
            hidden = hidden + conv_b(F.relu(conv_a(F.relu(norm(hidden)))))
        return F.relu(self.norms[-1](hidden))


def normalisation(norm: Normalisation | None, features: int) -> nn.Module:
    """The layer of that name over `features` channels; the identity for None."""
    if norm not in (None, "group", "layer"):
        raise ValueError(f"norm must be group, layer or null, came {norm!r}")
    if norm == "group":
        if features % GROUP_CHANNELS:
            raise ValueError(f"group normalisation needs features divisible by {GROUP_CHANNELS}, came {features}")
        return nn.GroupNorm(features // GROUP_CHANNELS, features)
    return ChannelNorm(features) if norm == "layer" else nn.Identity()


def _three(values: Sequence[int], name: str) -> tuple[int, int, int]:
    if len(values) != 3:
        raise ValueError(f"{name} needs three numbers (z, y, x), came {list(values)}")
    return int(values[0]), int(values[1]), int(values[2])


# The published weights: a TensorFlow "V2 bundle", read here with the standard library and numpy.


def import_weights(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any], dict[str, str]]:
    """State dict, constructor arguments and metadata of a google/ffn ConvStack3D checkpoint.

    Args:
        path: the checkpoint prefix, such as `model.ckpt-27465036`; `.index` and `.data-00000-of-00001` lie beside it.

    TensorFlow stores kernels as (z, y, x, in, out), torch as (out, in, z, y, x); both correlate, so nothing is
    flipped. A checkpoint does not hold its field of view, deltas and thresholds: those of the published FIB-25
    model (33 and 8 isotropic; 0.95, 0.05, 0.9) are filled in, and are wrong for a network trained with others.
    """
    variables = read_bundle(path)
    scope = "seed_update/conv"
    if f"{scope}_lom/weights" not in variables:
        raise ValueError(
            f"{path} is no ConvStack3D checkpoint: variable '{scope}_lom/weights' is missing, "
            f"it holds {sorted(variables)[:4]} ..."
        )
    depth = sum(name.startswith(scope) and name.endswith("_a/weights") for name in variables)
    features = variables[f"{scope}0_a/weights"].shape[-1]

    def tensor(name: str) -> Tensor:
        array = variables[name]
        # A copy, since what is read from the file's bytes cannot be written to.
        return torch.from_numpy(np.array(array.transpose(4, 3, 0, 1, 2) if array.ndim == 5 else array, order="C"))

    layers = {f"conv_{ab}.{i}": f"{scope}{i}_{ab}" for i in range(depth) for ab in "ab"}
    state: dict[str, Tensor] = {}
    for ours, theirs in {**layers, "head": f"{scope}_lom"}.items():
        state[f"{ours}.weight"] = tensor(f"{theirs}/weights")
        state[f"{ours}.bias"] = tensor(f"{theirs}/biases")
    architecture = {
        "fov_zyx": [33, 33, 33],
        "deltas_zyx": [8, 8, 8],
        "depth": depth,
        "features": features,
        "init_activation": 0.95,
        "pad_value": 0.05,
        "move_threshold": 0.9,
        "norm": None,
        "init": "truncated_normal",
    }
    metadata = {
        "source": f"TensorFlow checkpoint {Path(path).name}, github.com/google/ffn",
        "step": str(int(variables["global_step"])) if "global_step" in variables else "unknown",
        "licence": "Apache-2.0",
    }
    return state, architecture, metadata


TABLE_MAGIC = 0xDB4775248B80FB57
DTYPES: dict[int, np.dtype[Any]] = {1: np.dtype("<f4"), 3: np.dtype("<i4"), 9: np.dtype("<i8")}


def read_bundle(prefix: str | Path) -> dict[str, np.ndarray]:
    """All variables of a TensorFlow V2 checkpoint: name -> array.

    The index is a LevelDB table whose values are protobuf messages (dtype, shape, shard, offset, size); the data file
    is the raw little-endian concatenation. Compressed blocks and several shards do not occur in FFN checkpoints and
    are refused.
    """
    index_path, data_path = Path(f"{prefix}.index"), Path(f"{prefix}.data-00000-of-00001")
    for path in (index_path, data_path):
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing. Pass the checkpoint prefix without .index or .data-...")
    index, data = index_path.read_bytes(), data_path.read_bytes()
    if len(index) < 48 or struct.unpack("<Q", index[-8:])[0] != TABLE_MAGIC:
        raise ValueError(f"{index_path} is no TensorFlow V2 checkpoint index (its last 8 bytes are not the magic)")
    footer = index[-48:-8]
    _, position = _varint(footer, 0)  # the meta-index handle, unused
    _, position = _varint(footer, position)
    offset, position = _varint(footer, position)
    size, _ = _varint(footer, position)

    variables: dict[str, np.ndarray] = {}
    for _, handle in _table_block(index, offset, size, index_path):
        block_offset, position = _varint(handle, 0)
        block_size, _ = _varint(handle, position)
        for key, value in _table_block(index, block_offset, block_size, index_path):
            fields = _protobuf(value)
            if key == b"":
                num_shards = fields.get(1, [1])[0]
                if num_shards != 1:
                    raise ValueError(f"{index_path} has {num_shards} shards; only checkpoints of one shard are read")
                continue
            variables[key.decode()] = _variable(key.decode(), fields, data, data_path)
    return variables


def _variable(name: str, fields: dict[int, list[Any]], data: bytes, path: Path) -> np.ndarray:
    code = fields.get(1, [0])[0]
    if code not in DTYPES:
        raise ValueError(f"variable '{name}' has TensorFlow dtype {code}; only {sorted(DTYPES)} are read")
    dimensions = _protobuf(fields[2][0]).get(2, []) if 2 in fields else []
    shape = tuple(_protobuf(dimension).get(1, [0])[0] for dimension in dimensions)
    offset, size = fields.get(4, [0])[0], fields.get(5, [0])[0]
    expected = math.prod(shape) * DTYPES[code].itemsize
    if size != expected:
        raise ValueError(f"variable '{name}' of shape {shape} needs {expected} bytes, the index says {size}")
    if offset + size > len(data):
        raise ValueError(f"{path} is truncated: variable '{name}' ends at byte {offset + size} of {len(data)}")
    return np.frombuffer(data, DTYPES[code], math.prod(shape), offset).reshape(shape)


def _table_block(table: bytes, offset: int, size: int, path: Path) -> Iterator[tuple[bytes, bytes]]:
    """Key and value of each entry of one LevelDB block; keys share a prefix with the key before."""
    if table[offset + size] != 0:
        raise ValueError(f"{path} has compressed blocks; only uncompressed checkpoint indices are read")
    block = table[offset : offset + size]
    num_restarts = struct.unpack("<I", block[-4:])[0]
    end = size - 4 - 4 * num_restarts
    position, key = 0, b""
    while position < end:
        shared, position = _varint(block, position)
        unshared, position = _varint(block, position)
        length, position = _varint(block, position)
        key = key[:shared] + block[position : position + unshared]
        position += unshared
        yield key, block[position : position + length]
        position += length


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position
        shift += 7


def _protobuf(message: bytes) -> dict[int, list[Any]]:
    """Field number -> values: integers for varints and fixed words, bytes for what has a length."""
    fields: dict[int, list[Any]] = {}
    position = 0
    while position < len(message):
        tag, position = _varint(message, position)
        value: Any
        if tag & 7 == 0:
            value, position = _varint(message, position)
        elif tag & 7 == 2:
            length, position = _varint(message, position)
            value, position = message[position : position + length], position + length
        else:
            assert tag & 7 in (1, 5), f"wire type {tag & 7}"
            width = 8 if tag & 7 == 1 else 4
            value, position = int.from_bytes(message[position : position + width], "little"), position + width
        fields.setdefault(tag >> 3, []).append(value)
    return fields
