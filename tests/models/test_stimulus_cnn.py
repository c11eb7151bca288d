"""The network of the specification: its size, its shapes, and pooling that keeps place."""

import pytest
import torch
from torch import nn

from nissl.models.stimulus_cnn import GridPool, StimulusCNN


def default_net(num_outputs: int = 9, **changes: object) -> StimulusCNN:
    sizes = {
        "channels": (16, 32, 64, 64),
        "pool": (1, 1, 1, 0),
        "head_pool": 4,
        "hidden": 128,
        "dropout": 0.0,
        "gap": False,
    }
    return StimulusCNN(in_channels=1, num_outputs=num_outputs, **{**sizes, **changes})  # type: ignore[arg-type]


def test_nine_outputs_take_192761_parameters() -> None:
    assert sum(p.numel() for p in default_net().parameters()) == 192_761


def test_features_are_an_eighth_of_the_frame_and_logits_are_one_per_output() -> None:
    net = default_net().eval()
    frames = torch.zeros(2, 1, 128, 128)
    assert net.backbone(frames).shape == (2, 64, 16, 16)
    assert net(frames).shape == (2, 9) and net.embed(frames).shape == (2, 128)


def test_the_head_of_the_embedding_gives_the_logits() -> None:
    net = default_net().eval()
    frames = torch.randn(3, 1, 32, 32)
    assert torch.allclose(net.head[-1](net.embed(frames)), net(frames))


@pytest.mark.parametrize("size", [(16, 16), (8, 12), (10, 7)])
def test_grid_pooling_equals_adaptive_average_pooling(size: tuple[int, int]) -> None:
    features = torch.randn(2, 3, *size)
    assert torch.allclose(GridPool(4)(features), nn.AdaptiveAvgPool2d(4)(features), atol=1e-6)


def test_global_pooling_forgets_where_and_the_grid_does_not() -> None:
    torch.manual_seed(0)
    frame = torch.zeros(1, 1, 64, 64)
    frame[..., 16:24, 16:24] = 1
    moved = frame.roll(24, dims=3)
    kept, forgot = default_net().eval(), default_net(gap=True).eval()
    assert torch.allclose(forgot(frame), forgot(moved), atol=1e-5)
    assert not torch.allclose(kept(frame), kept(moved), atol=1e-5)


def test_frames_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected frames \(B, 1, H, W\), came \(2, 3, 32, 32\)"):
        default_net()(torch.zeros(2, 3, 32, 32))


def test_blocks_without_a_pooling_entry_are_refused() -> None:
    with pytest.raises(ValueError, match="channels and pool need one entry per block"):
        default_net(pool=(1, 1))


def test_a_single_output_is_refused() -> None:
    with pytest.raises(ValueError, match="num_outputs must be at least 2"):
        default_net(num_outputs=1)
