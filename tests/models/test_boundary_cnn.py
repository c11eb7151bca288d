import pytest
import torch

from nissl.models.boundary_cnn import BoundaryCNN


def test_a_voxel_sees_twice_the_depth_and_itself():
    model = BoundaryCNN([11, 11, 11], 3, 2, None)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(0.1)  # positive, so that nothing cancels and nothing is cut off
    image = torch.ones(2, 1, 11, 11, 11).requires_grad_()
    model(image)[0, 0, 5, 5, 5].backward()
    assert int((image.grad[0, 0, :, 5, 5] > 0).sum()) == 7


def test_it_predicts_one_map_and_no_affinities():
    model = BoundaryCNN([8, 8, 8], 2, 4)
    assert model(torch.randn(1, 1, 8, 8, 8)).shape == (1, 1, 8, 8, 8) and len(model.offsets_zyx) == 0


def test_a_network_without_layers_is_refused():
    with pytest.raises(ValueError, match="at least 1"):
        BoundaryCNN([8, 8, 8], 0, 4)
