import pytest
import torch

from nissl.models.affinity_unet import NEAREST, AffinityUNet

SHORT = [list(offset) for offset in NEAREST]


def network(fov=(8, 8, 8), offsets=SHORT, widths=(4, 8), strides=((2, 2, 2),), norm="group"):
    return AffinityUNet(fov, offsets, widths, strides, norm)


def test_it_answers_for_each_voxel_and_offset():
    model = network(offsets=[*SHORT, [0, 0, -4]])
    assert model(torch.randn(2, 1, 8, 8, 8)).shape == (2, 4, 8, 8, 8)


def test_anisotropic_strides_leave_the_thick_axis_whole():
    model = network((3, 8, 8), widths=(4, 8, 8), strides=((1, 2, 2), (1, 2, 2)))
    assert model(torch.randn(1, 1, 3, 8, 8)).shape == (1, 3, 3, 8, 8)


@pytest.mark.parametrize("norm", [None, "group"])
def test_gradients_reach_every_parameter(norm):
    model = network(norm=norm)
    model(torch.randn(2, 1, 8, 8, 8)).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in model.parameters())


def test_the_untrained_copy_is_fresh_and_always_the_same():
    model = network()
    one, two = model.untrained().state_dict(), model.untrained().state_dict()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(one["head.weight"], model.head.weight)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"offsets": [[0, -1, 0], [-1, 0, 0], [0, 0, -1]]}, "must begin with"),
        ({"widths": (4, 8, 8)}, "3 widths need 2 strides"),
        ({"fov": (8, 9, 8)}, "multiple of 2 along axis y"),
    ],
)
def test_settings_that_do_not_fit_together_are_refused(changed, message):
    with pytest.raises(ValueError, match=message):
        network(**changed)
