import pytest
import torch
import torch.nn.functional as F
from models.test_ffn_unet import filled
from torch.utils.flop_counter import FlopCounterMode

from nissl.models.ffn import FFN
from nissl.models.ffn_packed import FFNPacked, begin_from, packed, unpacked


def network(fov=(9, 9, 9), depth=2, features=8, block=(2, 2, 2), norm="group", voxel_features=4, fine_features=0):
    return FFNPacked(fov, [2, 2, 2], depth, features, block, voxel_features, 0.95, 0.5, 0.6, norm, "he", fine_features)


@pytest.mark.parametrize("block", [(2, 2, 2), (1, 2, 2), (3, 1, 2)])
def test_unpacking_undoes_packing(block):
    x = torch.randn(2, 3, 5, 7, 6)
    blocks = packed(x, block)
    assert blocks.shape[1] == 3 * block[0] * block[1] * block[2]
    assert torch.equal(unpacked(blocks, block, x.shape[2:]), x)


def test_a_block_holds_its_voxels_as_channels():
    x = torch.arange(4 * 4 * 4.0).reshape(1, 1, 4, 4, 4)
    assert torch.equal(packed(x, (2, 2, 2))[0, :, 1, 0, 1], x[0, 0, 2:4, 0:2, 2:4].flatten())


def test_the_untrained_network_returns_its_seed():
    image, seed = torch.randn(2, 2, 1, 9, 9, 9).unbind(0)
    assert torch.equal(network()(image, seed), seed)


def test_it_costs_a_fifteenth_of_the_published_network():
    """At the settings of conf/model/ffn_packed.yaml; the number is in the module's docstring."""
    model = FFNPacked([33] * 3, [8] * 3, 6, 32, [2] * 3, 8, 0.95, 0.5, 0.6, "group").to("meta")
    image = torch.zeros(2, 1, 33, 33, 33, device="meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(image, image)
    assert round(counter.get_total_flops() / 2 / image.numel()) == 43_756


def test_the_seed_reaches_as_far_as_stated():
    model = filled(network((33, 33, 33), 3, 4, norm=None), 0.0, 1.0).double()  # positive weights: nothing cancels
    image = torch.ones(1, 1, 33, 33, 33, dtype=torch.float64)
    seed = torch.ones_like(image).requires_grad_()
    model(image, seed)[0, 0, 16, 16, 16].backward()
    seen = (seed.grad[0, 0].abs() > 0).nonzero()
    assert seen.min() == 16 - 2 * 6 and seen.max() == 16 + 2 * 6 + 1  # blocks begin at even voxels


@pytest.mark.parametrize(("norm", "fine_features"), [(None, 0), ("group", 0), ("layer", 0), ("group", 6)])
def test_gradients_reach_every_parameter(norm, fine_features):
    model = filled(network(norm=norm, fine_features=fine_features))
    model(torch.randn(2, 1, 9, 9, 9), torch.randn(2, 1, 9, 9, 9)).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in model.parameters())


def test_an_example_alone_and_in_a_batch_gives_the_same_logits():
    model = filled(network())
    image, seed = torch.randn(2, 3, 1, 9, 9, 9).unbind(0)
    with torch.inference_mode():
        alone = torch.cat([model(image[i : i + 1], seed[i : i + 1]) for i in range(3)])
        assert torch.allclose(model(image, seed), alone, atol=1e-4)


def test_impossible_settings_are_refused():
    with pytest.raises(ValueError, match="at least 1, came"):
        network(block=(0, 2, 2))
    with pytest.raises(ValueError, match="at least 2, came 1"):
        network(voxel_features=1)
    with pytest.raises(ValueError, match="at least 0, came -1"):
        network(fine_features=-1)


COARSE = {
    "fov_zyx": [5, 5, 5], "deltas_zyx": [1, 1, 1], "depth": 2, "features": 8, "init_activation": 0.95,
    "pad_value": 0.5, "move_threshold": 0.6, "norm": None, "init": "he",
}  # fmt: skip


def begun(from_network, known, **wanted):
    state, architecture = begin_from(from_network.state_dict(), known, wanted)
    model = FFNPacked(**architecture)
    model.load_state_dict(state)
    return model, architecture


@pytest.mark.parametrize("norm", [None, "group"])
def test_it_begins_as_the_network_of_half_the_resolution(norm):
    known = {**COARSE, "norm": norm}
    coarse = filled(FFN(**known))
    before = coarse.state_dict()["conv_a.0.weight"].clone()
    fine, _ = begun(coarse, known)
    assert torch.equal(coarse.state_dict()["conv_a.0.weight"], before)
    assert (fine.fov_zyx, fine.deltas_zyx) == ((9, 9, 9), (2, 2, 2))
    image, seed = torch.randn(2, 2, 1, 5, 5, 5).unbind(0)
    large = [F.interpolate(each, scale_factor=2.0, mode="nearest")[:, :, :9, :9, :9] for each in (image, seed)]
    with torch.no_grad():
        expected = F.interpolate(coarse(image, seed), scale_factor=2.0, mode="nearest")[:, :, :9, :9, :9]
        assert torch.allclose(fine(*large), expected, atol=1e-4)


def test_fine_features_add_nothing_at_first_and_learn():
    plain, known = begun(filled(FFN(**COARSE)), COARSE)
    model, architecture = begun(plain, known, fine_features=12, deltas_zyx=[3, 3, 3])
    assert architecture == {**known, "fine_features": 12} and model.fine_b is not None
    image, seed = torch.randn(2, 2, 1, 9, 9, 9).unbind(0)
    with torch.no_grad():
        assert torch.equal(model(image, seed), plain(image, seed))
    model(image, seed).square().sum().backward()
    assert model.fine_b.weight.grad.abs().sum() > 0


PACKED = {**COARSE, "fov_zyx": [9, 9, 9], "deltas_zyx": [2, 2, 2], "block_zyx": [2, 2, 2], "voxel_features": 4}


@pytest.mark.parametrize("norm", [None, "group", "layer"])
def test_more_modules_add_nothing_at_first_and_learn(norm):
    small = filled(network(norm=norm, fine_features=6))
    known = {**PACKED, "norm": norm, "fine_features": 6}
    model, architecture = begun(small, known, depth=5)
    assert architecture == {**known, "depth": 5}
    image, seed = torch.randn(2, 2, 1, 9, 9, 9).unbind(0)
    with torch.no_grad():
        assert torch.equal(model(image, seed), small(image, seed))
    model(image, seed).square().sum().backward()
    assert all(model.conv_b[module].weight.grad.abs().sum() > 0 for module in (2, 3, 4))


def test_other_weights_are_refused():
    with pytest.raises(ValueError, match="begins with weights of model=ffn or"):
        begin_from({"a": torch.zeros(1)}, {"depth": 7}, {})


def test_without_wishes_a_packed_network_stays_as_it_is():
    small = filled(network(norm=None, fine_features=6))
    model, architecture = begun(small, {**PACKED, "fine_features": 6}, deltas_zyx=[3, 3, 3])
    assert architecture == {**PACKED, "fine_features": 6}
    assert all(torch.equal(value, small.state_dict()[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        ({"depth": 1}, "has depth 2, and modules are only added; 1 was asked for"),
        ({"fine_features": 8}, "has 6 fine_features already; 8 were asked for"),
    ],
)
def test_a_network_with_less_of_it_is_refused(wanted, says):
    with pytest.raises(ValueError, match=says):
        begun(filled(network(fine_features=6)), {**PACKED, "fine_features": 6}, **wanted)
