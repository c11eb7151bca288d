import os
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from nissl.models.ffn import FFN, TABLE_MAGIC, Convolution, import_weights, read_bundle

PUBLISHED = Path(os.environ.get("NISSL_DATA", "data")) / "weights/ffn_fib25"
PREFIX = PUBLISHED / "model.ckpt-27465036"
needs_weights = pytest.mark.skipif(not PUBLISHED.is_dir(), reason="set NISSL_DATA to the data folder")


def network(depth=3, features=8, norm=None, init="he", fov=(9, 9, 9)):
    return FFN(fov, (2, 2, 2), depth, features, 0.95, 0.5, 0.6, norm, init)


def filled(model, seed=0):
    """The model with random weights in every layer, the head included."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.2, generator=generator)
    return model


def test_zero_weights_return_the_seed():
    model = network()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    image, seed = torch.randn(2, 2, 1, 9, 9, 9).unbind(0)
    assert torch.equal(model(image, seed), seed)


@pytest.mark.parametrize(("depth", "features", "expected"), [(9, 32, 472_353), (12, 32, 638_433), (6, 16, 77_105)])
def test_the_number_of_parameters_is_that_of_the_published_network(depth, features, expected):
    assert sum(parameter.numel() for parameter in network(depth, features).parameters()) == expected


@pytest.mark.parametrize("norm", [None, "group", "layer"])
def test_gradients_reach_every_parameter(norm):
    model = filled(network(norm=norm))
    model(torch.randn(2, 1, 9, 9, 9), torch.randn(2, 1, 9, 9, 9)).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in model.parameters())


def kernels_of(model, *inputs, backward):
    with profile(activities=[ProfilerActivity.CPU]) as record:
        output = model(*inputs)
        if backward:
            output.sum().backward()
    return {event.key for event in record.key_averages()}


@pytest.mark.parametrize("fov", [(9, 9, 9), (17, 33, 33)])
@pytest.mark.parametrize("backward", [False, True])
def test_one_example_does_not_fall_into_the_slow_convolution(fov, backward):
    model = network(depth=2, features=16, fov=fov)
    inputs = torch.randn(1, 1, *fov), torch.randn(1, 1, *fov)
    with torch.set_grad_enabled(backward):
        kernels = kernels_of(model, *inputs, backward=backward)
    assert not any("slow_conv" in name for name in kernels)
    assert any("mkldnn_convolution" in name for name in kernels)


def test_an_ordinary_convolution_of_one_example_is_the_slow_one():
    """If this fails, PyTorch has mended its choice and `Convolution` can go."""
    plain = nn.Conv3d(16, 16, 3, padding=1)
    with torch.no_grad():
        assert any("slow_conv" in name for name in kernels_of(plain, torch.randn(1, 16, 9, 9, 9), backward=False))


def test_the_fast_convolution_computes_the_same_with_the_same_gradients():
    torch.manual_seed(0)
    fast = Convolution(4, 6, 3, padding=1)
    plain = nn.Conv3d(4, 6, 3, padding=1)
    plain.load_state_dict(fast.state_dict())
    x = torch.randn(1, 4, 5, 6, 7)
    with torch.no_grad():
        assert torch.allclose(fast(x), plain(x), atol=1e-5)
    for conv in (fast, plain):
        conv(x).square().sum().backward()
    assert torch.allclose(fast.weight.grad, plain.weight.grad, rtol=1e-4, atol=1e-3)
    assert torch.allclose(fast.bias.grad, plain.bias.grad, rtol=1e-4, atol=1e-3)


def test_an_example_alone_and_in_a_batch_gives_the_same_logits():
    model = filled(network(norm="group"))
    image, seed = torch.randn(2, 3, 1, 9, 9, 9).unbind(0)
    with torch.inference_mode():
        together = model(image, seed)
        alone = torch.cat([model(image[i : i + 1], seed[i : i + 1]) for i in range(3)])
    assert torch.allclose(together, alone, atol=1e-5)


def test_the_untrained_copy_is_fresh_and_always_the_same():
    model = filled(network(norm="group"))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    one, two = model.untrained().state_dict(), model.untrained().state_dict()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(one["conv_a.0.weight"], before["conv_a.0.weight"])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"fov_zyx": (8, 9, 9)}, "must be odd"),
        ({"deltas_zyx": (5, 2, 2)}, "leave the field of view"),
        ({"fov_zyx": (9, 9)}, "three numbers"),
        ({"depth": 0}, "at least 1"),
        ({"features": 6, "norm": "group"}, "divisible by 4"),
        ({"norm": "batch"}, "norm must be"),
        ({"init": "ones"}, "init must be"),
        ({"move_threshold": 1.0}, "move_threshold is a probability"),
    ],
)
def test_an_impossible_network_is_refused_with_the_reason(changed, message):
    values = {
        "fov_zyx": (9, 9, 9),
        "deltas_zyx": (2, 2, 2),
        "depth": 2,
        "features": 8,
        "init_activation": 0.95,
        "pad_value": 0.5,
        "move_threshold": 0.6,
    }
    with pytest.raises(ValueError, match=message):
        FFN(**(values | changed))


@pytest.fixture(scope="module")
def published():
    state, architecture, metadata = import_weights(PREFIX)
    model = FFN(**architecture)
    model.load_state_dict(state)
    return model.eval(), metadata


@needs_weights
@pytest.mark.data
def test_the_published_weights_fit_and_say_where_they_are_from(published):
    model, metadata = published
    assert sum(parameter.numel() for parameter in model.parameters()) == 638_433
    assert metadata["step"] == "27465036" and metadata["licence"] == "Apache-2.0"
    assert model.move_threshold == 0.9 and model.fov_zyx == (33, 33, 33)


@needs_weights
@pytest.mark.data
def test_the_published_network_gives_tensorflow_s_logits(published):
    model, _ = published
    with np.load(PUBLISHED / "parity.npz", allow_pickle=False) as parity:
        image, seed = (torch.from_numpy(parity[name])[:, None] for name in ("image", "seed_logits"))
        once, twice = (torch.from_numpy(parity[f"after_{name}"])[:, None] for name in ("one_move", "two_moves"))
        random = [torch.from_numpy(parity[f"random_{name}"])[None] for name in ("image", "seed", "out")]
    with torch.inference_mode():
        first = model(image, seed)
        assert (first - once).abs().max() < 1e-4
        assert (model(image, first) - twice).abs().max() < 1e-4
        assert (model(image[:1], seed[:1]) - once[:1]).abs().max() < 1e-4
        assert (model(random[0], random[1]) - random[2]).abs().max() < 1e-4


def write_bundle(folder, variables, compression=0, num_shards=1, size_error=0):
    """A checkpoint bundle written by the format's description, one block of uncompressed entries."""

    def varint(value):
        out = b""
        while value > 127:
            out, value = out + bytes([value & 127 | 128]), value >> 7
        return out + bytes([value])

    def field(number, payload):
        if isinstance(payload, int):
            return varint(number << 3) + varint(payload)
        return varint(number << 3 | 2) + varint(len(payload)) + payload

    def block(entries):
        body = b"".join(varint(0) + varint(len(k)) + varint(len(v)) + k + v for k, v in entries)
        return body + struct.pack("<II", 0, 1)

    data, entries = b"", [(b"", field(1, num_shards))]
    for name, array in sorted(variables.items()):
        shape = b"".join(field(2, field(1, size)) for size in array.shape)
        code = {"<f4": 1, "<i8": 9, "<f8": 2}[array.dtype.str]
        value = field(1, code) + field(2, shape) + field(4, len(data)) + field(5, array.nbytes + size_error)
        entries.append((name.encode(), value))
        data += array.tobytes()
    content = block(entries)
    table = content + bytes([compression]) + bytes(4)
    index_at = len(table)
    index = block([(b"~", varint(0) + varint(len(content)))])
    footer = varint(0) + varint(0) + varint(index_at) + varint(len(index))
    table += index + bytes(5) + footer.ljust(40, b"\0") + struct.pack("<Q", TABLE_MAGIC)
    prefix = folder / "model"
    Path(f"{prefix}.index").write_bytes(table)
    Path(f"{prefix}.data-00000-of-00001").write_bytes(data)
    return prefix


def checkpoint_of(depth, features):
    variables = {"global_step": np.array(7, "<i8")}
    for i in range(depth):
        for ab, inputs in (("a", features if i else 2), ("b", features)):
            variables[f"seed_update/conv{i}_{ab}/weights"] = np.zeros((3, 3, 3, inputs, features), "<f4")
            variables[f"seed_update/conv{i}_{ab}/biases"] = np.zeros(features, "<f4")
    variables["seed_update/conv_lom/weights"] = np.zeros((1, 1, 1, features, 1), "<f4")
    variables["seed_update/conv_lom/biases"] = np.zeros(1, "<f4")
    return variables


def test_depth_and_features_are_read_from_the_shapes(tmp_path):
    variables = checkpoint_of(depth=3, features=5)
    kernel = np.random.default_rng(0).normal(size=(3, 3, 3, 2, 5)).astype("<f4")
    variables["seed_update/conv0_a/weights"] = kernel
    state, architecture, metadata = import_weights(write_bundle(tmp_path, variables))
    assert (architecture["depth"], architecture["features"], metadata["step"]) == (3, 5, "7")
    FFN(**architecture).load_state_dict(state)
    # One weight by hand: TensorFlow's (z, y, x, in, out) is torch's (out, in, z, y, x).
    assert state["conv_a.0.weight"][4, 1, 0, 1, 2] == kernel[0, 1, 2, 1, 4]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"compression": 1}, "compressed"), ({"num_shards": 2}, "2 shards"), ({"size_error": 4}, "bytes, the index says")],
)
def test_a_bundle_of_another_kind_is_refused(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        read_bundle(write_bundle(tmp_path, {"a": np.zeros(3, "<f4")}, **arguments))


def test_a_truncated_foreign_or_missing_bundle_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="checkpoint prefix"):
        read_bundle(tmp_path / "nothing")
    prefix = write_bundle(tmp_path, {"a": np.zeros(3, "<f4")})
    data = Path(f"{prefix}.data-00000-of-00001")
    data.write_bytes(data.read_bytes()[:-1])
    with pytest.raises(ValueError, match="truncated"):
        read_bundle(prefix)
    with pytest.raises(ValueError, match="dtype 2"):
        read_bundle(write_bundle(tmp_path, {"a": np.zeros(3, "<f8")}))
    with pytest.raises(ValueError, match="no ConvStack3D checkpoint"):
        import_weights(write_bundle(tmp_path, {"a": np.zeros(3, "<f4")}))
    Path(f"{prefix}.index").write_bytes(b"not a table at all" * 9)
    with pytest.raises(ValueError, match="no TensorFlow V2"):
        read_bundle(prefix)


# The presets in conf/model/ffn.yaml's comment; cost in multiply-adds per voxel.
@pytest.mark.parametrize(
    ("fov", "deltas", "depth", "features", "parameters", "cost"),
    [((33, 33, 33), (8, 8, 8), 12, 32, 638_433, 637_664),
     ((17, 17, 17), (4, 4, 4), 6, 16, 77_105, 76_912),
     ((9, 9, 9), (2, 2, 2), 3, 8, 9_129, 9_080)],
)  # fmt: skip
def test_the_documented_presets_have_the_size_that_is_written_beside_them(
    fov, deltas, depth, features, parameters, cost
):
    model = FFN(fov, deltas, depth, features, 0.95, 0.5, 0.6)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    kernels = [module.weight.numel() for module in model.modules() if isinstance(module, nn.Conv3d)]
    assert sum(kernels) == cost  # every weight meets every voxel once
    assert 2 * depth >= max(fov) // 2  # the seed reaches the faces
