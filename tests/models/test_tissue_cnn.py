import pytest
import torch

from nissl.models.tissue_cnn import TissueCNN


def test_it_answers_for_each_voxel_and_class():
    model = TissueCNN([2, 8, 8], 3, [4, 8], [[1, 2, 2]])
    assert model(torch.randn(2, 1, 2, 8, 8)).shape == (2, 3, 2, 8, 8) and model.fov_zyx == (2, 8, 8)


def test_one_class_is_refused():
    with pytest.raises(ValueError, match="at least 2"):
        TissueCNN([2, 8, 8], 1, [4], [])
