"""Class activation maps of many frames at once: which places of a feature map spoke for the given outputs.

Grad-CAM (Selvaraju et al. 2017, https://arxiv.org/abs/1610.02391): the feature maps f, weighted by the mean gradient of
a score S, summed and rectified. Relatives differ in the weights: Grad-CAM++ (Chattopadhay et al. 2018,
arXiv:1710.11063), HiResCAM (Draelos & Carin 2020, arXiv:2011.08891), LayerCAM (Jiang et al. 2021,
doi 10.1109/TIP.2021.3089943), XGrad-CAM (Fu et al. 2020, arXiv:2008.02312).

The score is a sum of logits before the sigmoid (after it, gradients vanish where the network is sure), one or several
outputs per frame, so singles, pairs and "none" share a batch. The part of the network before the feature map runs
without gradients. Frames do not interact in eval mode, so one backward pass of the summed score gives every frame its
own gradient. Nothing is cut to length, broadcast or rescaled silently.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional

# B frames, K feature channels, h w feature map, C outputs

METHODS = ("gradcam", "gradcam++", "hirescam", "layercam", "xgradcam")
Head = Callable[[torch.Tensor], torch.Tensor]


def split_model(model: nn.Module, layer: int | None = None) -> tuple[nn.Module, nn.Module]:
    """(frames -> features, features -> logits), cut after the backbone or after its block number `layer` (from 1).

    Raises:
        ValueError: if the model has no parts `backbone` and `head`, or no such block.
    """
    backbone, head = getattr(model, "backbone", None), getattr(model, "head", None)
    if not isinstance(backbone, nn.Module) or not isinstance(head, nn.Module):
        raise ValueError(
            f"maps need a model with the parts 'backbone' and 'head'; {type(model).__name__} has not. "
            "Name its convolutional part backbone and the rest head."
        )
    if layer is None:
        return backbone, head
    if not isinstance(backbone, nn.Sequential) or not 1 <= layer <= len(backbone):
        blocks = len(backbone) if isinstance(backbone, nn.Sequential) else 0
        raise ValueError(f"layer={layer} is not a block of the backbone, which has {blocks}")
    front, rest = backbone[:layer], nn.Sequential(backbone[layer:], head)
    rest.train(model.training)
    front.train(model.training)
    return front, rest


def extract_features(front: nn.Module, frames: torch.Tensor) -> torch.Tensor:
    """Feature maps (B, K, h, w) without a gradient graph; the module must be in eval mode."""
    _require_eval(front)
    with torch.no_grad():
        return front(frames)


def gradcam(
    head: Head, features: torch.Tensor, targets: torch.Tensor, method: str = "gradcam", relu: bool = True
) -> torch.Tensor:
    """Maps (B, h, w) for each frame's own outputs.

    Args:
        head: features -> logits (B, C), in eval mode.
        features: (B, K, h, w).
        targets: (B, C) non-negative weights of the logits in the score, such as a label matrix, or (B,) output indices.
        method: one of `METHODS`.
        relu: rectify. Unrectified maps of `gradcam`, `hirescam` and `xgradcam` add over outputs; rectified ones do not.

    Returns:
        Maps at feature resolution, un-normalised, on the device and in the dtype of the features. A map that is zero
        everywhere is returned as such.

    Raises:
        RuntimeError: if the head is in training mode.
        ValueError: if targets do not fit.
    """
    return weigh_features(features.detach(), score_gradient(head, features, targets), method, relu)


def score_gradient(head: Head, features: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Gradient (B, K, h, w) of each frame's own score by its features; arguments and errors as in `gradcam`."""
    _require_eval(head)
    leaf = features.detach().requires_grad_()
    with torch.enable_grad():
        logits = head(leaf)
        weights = _score_weights(targets, logits)
        (gradient,) = torch.autograd.grad((logits * weights).sum(), leaf)
    return gradient


def gradcam_all(head: Head, features: torch.Tensor, method: str = "gradcam", relu: bool = True) -> torch.Tensor:
    """Maps (B, C, h, w) for every output of every frame: the backbone has run once, the head alone C times.

    Arguments and errors as in `gradcam`.
    """
    _require_eval(head)
    leaf = features.detach().requires_grad_()
    with torch.enable_grad():
        logits = head(leaf)
        maps = []
        for output in range(logits.shape[1]):
            last = output == logits.shape[1] - 1
            (gradient,) = torch.autograd.grad(logits[:, output].sum(), leaf, retain_graph=not last)
            maps.append(weigh_features(leaf.detach(), gradient, method, relu))
    return torch.stack(maps, dim=1)


def weigh_features(features: torch.Tensor, gradient: torch.Tensor, method: str, relu: bool) -> torch.Tensor:
    """The map (B, h, w) from features and the score's gradient, both (B, K, h, w)."""
    space = (2, 3)
    if method == "gradcam":
        weights = gradient.mean(dim=space, keepdim=True)
    elif method == "gradcam++":
        total = features.sum(dim=space, keepdim=True)
        denominator = 2 * gradient**2 + total * gradient**3
        alpha = torch.where(denominator == 0, 0, gradient**2 / denominator)
        weights = (alpha * gradient.relu()).sum(dim=space, keepdim=True)
    elif method == "hirescam":
        weights = gradient
    elif method == "layercam":
        weights = gradient.relu()
    elif method == "xgradcam":
        total = features.sum(dim=space, keepdim=True)
        weights = torch.where(total == 0, 0, (gradient * features).sum(dim=space, keepdim=True) / total)
    else:
        raise ValueError(f"method='{method}' is unknown; choose one of {', '.join(METHODS)}")
    maps = (weights * features).sum(dim=1)
    return maps.relu() if relu else maps


def input_gradient(model: nn.Module, frames: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """|dS/dx| summed over channels (B, H, W): the plain baseline, through the whole network."""
    _require_eval(model)
    leaf = frames.detach().requires_grad_()
    with torch.enable_grad():
        logits = model(leaf)
        (gradient,) = torch.autograd.grad((logits * _score_weights(targets, logits)).sum(), leaf)
    return gradient.abs().sum(dim=1)


def occlusion(
    model: nn.Module, frames: torch.Tensor, targets: torch.Tensor, grid: tuple[int, int], fill: float = 0.0
) -> torch.Tensor:
    """Fall of the score (B, rows, columns) when one tile of a grid is replaced by `fill`; no gradients involved."""
    _require_eval(model)
    height, width = frames.shape[2:]
    rows = [round(i * height / grid[0]) for i in range(grid[0] + 1)]
    columns = [round(i * width / grid[1]) for i in range(grid[1] + 1)]
    falls = frames.new_zeros(len(frames), *grid)
    with torch.no_grad():
        logits = model(frames)
        weights = _score_weights(targets, logits)
        whole = (logits * weights).sum(dim=1)
        for i in range(grid[0]):
            for j in range(grid[1]):
                hidden = frames.clone()
                hidden[:, :, rows[i] : rows[i + 1], columns[j] : columns[j + 1]] = fill
                falls[:, i, j] = whole - (model(hidden) * weights).sum(dim=1)
    return falls


def upsample(maps: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Maps (B, h, w) at (H, W), bilinear."""
    return functional.interpolate(maps[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]


def normalise(maps: torch.Tensor, how: str) -> torch.Tensor:
    """Scale each map (B, h, w): `none`, `l2` (length 1), `max` (peak 1) or `minmax` (0 to 1); dead maps stay zero."""
    if how == "none":
        return maps
    flat = maps.flatten(1)
    if how == "minmax":
        maps = maps - flat.min(dim=1).values[:, None, None]
        size = flat.max(dim=1).values - flat.min(dim=1).values
    elif how == "l2":
        size = flat.norm(dim=1)
    elif how == "max":
        size = flat.max(dim=1).values
    else:
        raise ValueError(f"normalisation '{how}' is unknown; choose none, l2, max or minmax")
    return maps / torch.where(size == 0, 1, size)[:, None, None]


def _score_weights(targets: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """Targets as weights (B, C) of the logits."""
    batch, outputs = logits.shape
    targets = targets.to(logits.device)
    if targets.ndim == 1:
        if len(targets) != batch or targets.dtype.is_floating_point or targets.dtype == torch.bool:
            raise ValueError(
                f"targets by index must be ({batch},) integers, came {tuple(targets.shape)} {targets.dtype}"
            )
        if int(targets.min()) < 0 or int(targets.max()) >= outputs:
            raise ValueError(f"target index {int(targets.max())} is outside the {outputs} outputs (0 to {outputs - 1})")
        return functional.one_hot(targets.long(), outputs).to(logits.dtype)
    if targets.shape != logits.shape:
        raise ValueError(
            f"targets must be ({batch}, {outputs}), one row per frame, one column per output; or ({batch},) indices. "
            f"Came {tuple(targets.shape)}"
        )
    weights = targets.to(logits.dtype)
    if not bool(torch.isfinite(weights).all()) or bool((weights < 0).any()):
        raise ValueError("target weights must be finite and not negative")
    return weights


def _require_eval(module: object) -> None:
    if isinstance(module, nn.Module) and any(part.training for part in module.modules()):
        raise RuntimeError("maps need the model in eval mode: call model.eval() first (batch norm would mix frames)")
