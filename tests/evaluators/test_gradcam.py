"""Class activation maps: the worked example, independence of the batch, and what is refused."""

import numpy as np
import pytest
import torch
from torch import nn

from nissl.evaluators import gradcam as cam
from nissl.models.stimulus_cnn import StimulusCNN

F = torch.tensor([[[1.0, 2], [3, 4]], [[4, 3], [2, 1]]])[None]  # (1, 2, 2, 2)


class Worked(nn.Module):
    """S = 2 f1[0, 0] + f1[1, 1] - 4 f2[0, 1]; a second output so that there are two."""

    def forward(self, f: torch.Tensor) -> torch.Tensor:
        score = 2 * f[:, 0, 0, 0] + f[:, 0, 1, 1] - 4 * f[:, 1, 0, 1]
        return torch.stack([score, f.sum(dim=(1, 2, 3))], dim=1)


def net(seed: int = 0, num_outputs: int = 9) -> StimulusCNN:
    torch.manual_seed(seed)
    made = StimulusCNN(1, num_outputs, (16, 32, 64, 64), (1, 1, 1, 0), 4, 128, 0.0, False)
    for module in made.modules():  # statistics as after training, so that batch norm does something
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean = 0.1 * torch.randn_like(module.running_mean)  # type: ignore[arg-type]
            module.running_var = 1 + 0.1 * torch.rand_like(module.running_var)  # type: ignore[arg-type]
    return made.eval()


def frames(count: int, size: int = 32) -> torch.Tensor:
    return torch.randn(count, 1, size, size, generator=torch.Generator().manual_seed(1))


def mixed_labels() -> torch.Tensor:
    """A single, a pair and none."""
    labels = torch.zeros(3, 9)
    labels[0, 2] = labels[1, 1] = labels[1, 3] = labels[2, 8] = 1
    return labels


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("gradcam", [[0, 0], [0.25, 2]]),
        ("hirescam", [[2, 0], [0, 4]]),
        ("layercam", [[2, 0], [0, 4]]),
        ("gradcam++", [[0.174242, 0.348485], [0.522727, 0.696970]]),
        ("xgradcam", [[0, 0], [0, 0.6 * 4 - 1.2 * 1]]),
    ],
)
def test_the_worked_example(method: str, expected: list) -> None:
    # xgradcam: weights sum(g f) / sum(f) = (2 + 4) / 10 and -12 / 10.
    maps = cam.gradcam(Worked().eval(), F, torch.tensor([0]), method)
    assert torch.allclose(maps[0], torch.tensor(expected, dtype=torch.float), atol=1e-6)


def test_unrectified_maps_keep_their_sign() -> None:
    maps = cam.gradcam(Worked().eval(), F, torch.tensor([0]), relu=False)
    assert torch.allclose(maps[0], torch.tensor([[0.75 - 4, 1.5 - 3], [2.25 - 2, 3 - 1]]))


@pytest.mark.parametrize("method", cam.METHODS)
@pytest.mark.parametrize("layer", [None, 1, 3])
def test_a_mixed_batch_equals_one_by_one(method: str, layer: int | None) -> None:
    front, rest = cam.split_model(net(), layer)
    features, labels = cam.extract_features(front, frames(3)), mixed_labels()
    together = cam.gradcam(rest, features, labels, method)
    alone = torch.cat([cam.gradcam(rest, features[i : i + 1], labels[i : i + 1], method) for i in range(3)])
    assert torch.allclose(together, alone, atol=1e-6)


def test_permuting_the_batch_permutes_the_maps() -> None:
    front, rest = cam.split_model(net())
    features, order = cam.extract_features(front, frames(5)), torch.tensor([3, 1, 4, 0, 2])
    targets = torch.tensor([0, 1, 2, 3, 8])
    maps = cam.gradcam(rest, features, targets)
    assert torch.allclose(cam.gradcam(rest, features[order], targets[order]), maps[order], atol=1e-6)


def test_indices_and_one_hot_rows_mean_the_same() -> None:
    front, rest = cam.split_model(net())
    features = cam.extract_features(front, frames(3))
    index = torch.tensor([0, 4, 8])
    assert torch.equal(cam.gradcam(rest, features, index), cam.gradcam(rest, features, torch.eye(9)[index]))


@pytest.mark.parametrize("method", ["gradcam", "hirescam", "xgradcam"])
def test_unrectified_maps_add_over_outputs(method: str) -> None:
    front, rest = cam.split_model(net())
    features, labels = cam.extract_features(front, frames(3)), mixed_labels()
    every = cam.gradcam_all(rest, features, method, relu=False)
    summed = (every * labels[:, :, None, None]).sum(dim=1)
    assert torch.allclose(summed, cam.gradcam(rest, features, labels, method, relu=False), atol=1e-6)


@pytest.mark.parametrize("method", cam.METHODS)
def test_all_outputs_at_once_equal_one_by_one(method: str) -> None:
    front, rest = cam.split_model(net())
    features = cam.extract_features(front, frames(2))
    every = cam.gradcam_all(rest, features, method)
    assert every.shape == (2, 9, 4, 4)
    for output in range(9):
        assert torch.allclose(every[:, output], cam.gradcam(rest, features, torch.tensor([output] * 2), method))


def test_scaling_the_score_scales_the_map() -> None:
    front, rest = cam.split_model(net())
    features = cam.extract_features(front, frames(3))
    labels = mixed_labels()
    assert torch.allclose(cam.gradcam(rest, features, 3 * labels), 3 * cam.gradcam(rest, features, labels), atol=1e-6)


def test_weights_equal_finite_differences() -> None:
    front, rest = cam.split_model(net().double())
    features = cam.extract_features(front, frames(1).double())
    target, step = 2, 1e-6
    weights = []
    for channel in range(features.shape[1]):
        nudged = features.clone()
        nudged[:, channel] += step  # raises the mean over places by raising every place
        low = features.clone()
        low[:, channel] -= step
        weights.append(((rest(nudged) - rest(low))[0, target] / (2 * step)).item() / (4 * 4))
    expected = torch.relu((torch.tensor(weights, dtype=torch.double)[:, None, None] * features[0]).sum(dim=0))
    assert torch.allclose(cam.gradcam(rest, features, torch.tensor([target]))[0], expected, atol=1e-7)


def test_nothing_is_left_behind() -> None:
    model = net()
    front, rest = cam.split_model(model, 2)
    cam.gradcam(rest, cam.extract_features(front, frames(2)), torch.tensor([0, 1]))
    cam.input_gradient(model, frames(2), torch.tensor([0, 1]))
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert not any(module._forward_hooks or module._backward_hooks for module in model.modules())
    assert not model.training


def test_a_training_model_is_refused() -> None:
    model = net()
    front, rest = cam.split_model(model)
    features = cam.extract_features(front, frames(2))
    model.train()
    with pytest.raises(RuntimeError, match="eval mode"):
        cam.gradcam(rest, features, torch.tensor([0, 1]))
    with pytest.raises(RuntimeError, match="eval mode"):
        cam.extract_features(front, frames(2))


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (torch.zeros(1, 9), r"targets must be \(3, 9\)"),
        (torch.zeros(3, 8), r"targets must be \(3, 9\).*Came \(3, 8\)"),
        (torch.zeros(3, 9, 1), r"targets must be \(3, 9\)"),
        (torch.tensor([0]), r"must be \(3,\) integers"),
        (torch.tensor([0.0, 1.0, 2.0]), r"must be \(3,\) integers"),
        (torch.tensor([0, 1, 9]), "target index 9 is outside the 9 outputs"),
        (torch.full((3, 9), -1.0), "finite and not negative"),
        (torch.full((3, 9), float("nan")), "finite and not negative"),
    ],
)
def test_targets_that_do_not_fit_are_refused(targets: torch.Tensor, message: str) -> None:
    front, rest = cam.split_model(net())
    with pytest.raises(ValueError, match=message):
        cam.gradcam(rest, cam.extract_features(front, frames(3)), targets)


def test_a_map_that_is_negative_everywhere_comes_back_as_zeros() -> None:
    head = nn.Sequential(nn.Flatten(), nn.Linear(4, 2, bias=False))
    nn.init.constant_(head[1].weight, -1.0)
    maps = cam.gradcam(head.eval(), torch.ones(1, 1, 2, 2), torch.tensor([0]))
    assert torch.equal(maps, torch.zeros(1, 2, 2))
    assert torch.equal(cam.normalise(maps, "l2"), maps)


def test_a_model_without_the_two_parts_is_refused() -> None:
    with pytest.raises(ValueError, match="maps need a model with the parts 'backbone' and 'head'; Linear has not"):
        cam.split_model(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="layer=5 is not a block of the backbone, which has 4"):
        cam.split_model(net(), 5)
    with pytest.raises(ValueError, match="method='scorecam' is unknown"):
        cam.gradcam(Worked().eval(), F, torch.tensor([0]), "scorecam")


def test_cutting_after_any_block_gives_the_networks_logits() -> None:
    model = net()
    for layer in (None, 1, 2, 3, 4):
        front, rest = cam.split_model(model, layer)
        assert torch.allclose(rest(front(frames(2))), model(frames(2)))


def test_normalised_maps_have_the_size_asked_for() -> None:
    maps = torch.rand(4, 3, 3, generator=torch.Generator().manual_seed(0)) + 0.5
    assert torch.allclose(cam.normalise(maps, "l2").flatten(1).norm(dim=1), torch.ones(4))
    assert torch.allclose(cam.normalise(maps, "max").amax(dim=(1, 2)), torch.ones(4))
    minmax = cam.normalise(maps, "minmax")
    assert torch.allclose(minmax.amin(dim=(1, 2)), torch.zeros(4)) and torch.allclose(
        minmax.amax(dim=(1, 2)), torch.ones(4)
    )
    assert torch.equal(cam.normalise(maps, "none"), maps)
    with pytest.raises(ValueError, match="normalisation 'zscore' is unknown"):
        cam.normalise(maps, "zscore")


def test_upsampling_keeps_a_constant_and_the_corner_order() -> None:
    big = cam.upsample(torch.tensor([[[0.0, 1], [2, 3]]]), (8, 8))[0]
    assert big[0, 0] == 0 and big[0, -1] == 1 and big[-1, 0] == 2 and big[-1, -1] == 3


def test_occlusion_falls_where_the_score_looks() -> None:
    class Corner(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            score = x[:, 0, :4, :4].sum(dim=(1, 2))
            return torch.stack([score, -score], dim=1)

    falls = cam.occlusion(Corner().eval(), torch.ones(2, 1, 8, 8), torch.tensor([0, 1]), (2, 2))
    assert falls.tolist() == [[[16, 0], [0, 0]], [[-16, 0], [0, 0]]]


def test_the_input_gradient_is_that_of_the_score() -> None:
    model = net()
    x, labels = frames(3), mixed_labels()
    leaf = x.clone().requires_grad_()
    (model(leaf) * labels).sum().backward()
    assert leaf.grad is not None
    assert torch.allclose(cam.input_gradient(model, x, labels), leaf.grad.abs()[:, 0])


@pytest.mark.parametrize("block", [3, 1])
def test_maps_equal_captums(block: int) -> None:
    attr = pytest.importorskip("captum.attr", reason="captum is an optional oracle: pip install --no-deps captum")
    model = net()
    x, targets = frames(6, size=64), torch.tensor([0, 1, 2, 3, 7, 8])
    layer = model.backbone[block]
    theirs = attr.LayerGradCam(model, layer).attribute(x, target=targets, relu_attributions=True)[:, 0].detach()
    front, rest = cam.split_model(model, block + 1)
    ours = cam.gradcam(rest, cam.extract_features(front, x), targets)
    assert float((ours - theirs).abs().max()) < 1e-5
    assert float(ours.max()) > 0
    up = attr.LayerAttribution.interpolate(theirs[:, None], (64, 64), "bilinear")[:, 0]
    assert np.abs(cam.upsample(ours, (64, 64)).numpy() - up.numpy()).max() < 1e-5
