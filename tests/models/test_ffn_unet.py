import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from nissl.models.ffn import FFN
from nissl.models.ffn_unet import FFNUNet


def network(fov=(9, 9, 9), depth=1, features=4, coarse_features=8, stride=(2, 2, 2), norm=None):
    deltas = [size // 4 for size in fov]
    return FFNUNet(fov, deltas, depth, features, coarse_features, stride, 0.95, 0.5, 0.6, norm, "he")


def filled(model, low=-0.3, high=0.3):
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.uniform_(low, high, generator=generator)
    return model


def multiply_adds_per_voxel(model):
    image = torch.zeros(2, 1, *model.fov_zyx, device="meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.to("meta")(image, image)
    return counter.get_total_flops() / 2 / image.numel()


def test_the_untrained_network_returns_its_seed():
    image, seed = torch.randn(2, 2, 1, 9, 9, 9).unbind(0)
    assert torch.equal(network()(image, seed), seed)


def test_it_costs_a_tenth_of_the_published_network():
    """At the settings of conf/model/ffn_unet.yaml; the number is in the module's docstring."""
    small = multiply_adds_per_voxel(network((33, 33, 33), 5, 16, 32, norm="group"))
    published = multiply_adds_per_voxel(FFN((17, 33, 33), (4, 8, 8), 12, 32, 0.95, 0.05, 0.9))
    assert published == 637_664 and round(small) == 61_374


@pytest.mark.parametrize(("depth", "stride", "reach"), [(1, (2, 2, 2), (9, 9, 9)), (2, (1, 2, 2), (9, 13, 13))])
def test_the_seed_reaches_as_far_as_stated(depth, stride, reach):
    model = filled(network((33, 33, 33), depth, 2, 2, stride), 0.0, 1.0).double()  # positive weights: nothing cancels
    image = torch.ones(1, 1, 33, 33, 33, dtype=torch.float64)
    seed = torch.ones_like(image).requires_grad_()
    model(image, seed)[0, 0, 16, 16, 16].backward()
    seen = seed.grad[0, 0].abs() > 0
    for axis, radius in enumerate(reach):
        inside = seen.any(dim=[a for a in range(3) if a != axis]).nonzero().flatten()
        assert (inside.min(), inside.max()) == (16 - radius, 16 + radius)


def test_mirroring_the_input_mirrors_the_coarse_grid():
    """Both scales share their centre: with weights that are symmetric along z the network is, too."""
    model = filled(network((9, 9, 9), 1, 4, 4))
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.Conv3d):
                module.weight += module.weight.flip(2).clone()
        image, seed = torch.randn(2, 2, 1, 9, 9, 9).unbind(0)
        turned = model(image.flip(2), seed.flip(2)).flip(2)
        assert torch.allclose(model(image, seed), turned, atol=1e-4)


@pytest.mark.parametrize("norm", [None, "group", "layer"])
def test_gradients_reach_every_parameter(norm):
    model = filled(network(norm=norm))
    model(torch.randn(2, 1, 9, 9, 9), torch.randn(2, 1, 9, 9, 9)).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in model.parameters())


def test_an_example_alone_and_in_a_batch_gives_the_same_logits():
    model = filled(network(norm="group"))
    image, seed = torch.randn(2, 3, 1, 9, 9, 9).unbind(0)
    with torch.inference_mode():
        alone = torch.cat([model(image[i : i + 1], seed[i : i + 1]) for i in range(3)])
        assert torch.allclose(model(image, seed), alone, atol=1e-4)


def test_impossible_settings_and_even_patches_are_refused():
    with pytest.raises(ValueError, match="1 or 2 each"):
        network(stride=(1, 2, 3))
    with pytest.raises(ValueError, match="at least 1"):
        network(depth=0)
    with pytest.raises(ValueError, match="odd sizes"):
        network()(torch.zeros(2, 1, 8, 9, 9), torch.zeros(2, 1, 8, 9, 9))
