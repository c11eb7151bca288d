"""What happens to maps and answers when the network, the frames or their places are tampered with.

Randomised weights: Adebayo et al. 2018, Sanity checks for saliency maps (arXiv:1810.03292); deletion and insertion:
Petsiuk et al. 2018 (arXiv:1806.07421); pointing game: Zhang et al. 2016 (arXiv:1608.00507). Ours: pixels are replaced
by the mean idle frame instead of black, which no calcium frame is.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator

import numpy as np
import torch
from scipy.ndimage import uniform_filter
from scipy.stats import spearmanr
from torch import nn

# B frames, P patterns, h w map, H W frame


def randomised_copies(model: nn.Module, seed: int) -> Iterator[tuple[str, nn.Module]]:
    """Copies with more and more weights drawn anew, from the last layer to the first; names of what was last redrawn.

    Normalisation layers are redrawn with the convolution before them. The global generator is left alone.
    """
    copied = copy.deepcopy(model).eval()
    layers = [(n, m) for n, m in copied.named_modules() if callable(getattr(m, "reset_parameters", None))]
    waiting: list[nn.Module] = []
    for number, (name, layer) in enumerate(reversed(layers)):
        waiting.append(layer)
        if not isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
            continue
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed + number)
            for module in waiting:
                module.reset_parameters()  # type: ignore[operator]
        waiting = []
        yield name, copy.deepcopy(copied)


def map_similarities(maps: np.ndarray, others: np.ndarray, mask: np.ndarray) -> dict[str, float]:
    """Median over patterns of ZNCC, Spearman's correlation and structural similarity of two sets of maps (P, h, w).

    SSIM: Wang et al. 2004, windows of 3 x 3, each map scaled to length 1 first; mean inside the mask.
    """
    found: dict[str, list[float]] = {"zncc": [], "spearman": [], "ssim": []}
    for a, b in zip(maps, others, strict=True):
        x, y = a[mask], b[mask]
        if not (np.isfinite(x).all() and np.isfinite(y).all()) or np.ptp(x) == 0 or np.ptp(y) == 0:
            continue
        found["zncc"].append(float(np.corrcoef(x, y)[0, 1]))
        found["spearman"].append(float(spearmanr(x, y)[0]))
        found["ssim"].append(float(_ssim(a / np.linalg.norm(x), b / np.linalg.norm(y))[mask].mean()))
    return {name: float(np.median(values)) if values else float("nan") for name, values in found.items()}


def _ssim(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    mean_a, mean_b = uniform_filter(a, 3), uniform_filter(b, 3)
    var_a, var_b = uniform_filter(a * a, 3) - mean_a**2, uniform_filter(b * b, 3) - mean_b**2
    both = uniform_filter(a * b, 3) - mean_a * mean_b
    top = max(float(np.ptp(a)), float(np.ptp(b)))
    c1, c2 = (0.01 * top) ** 2, (0.03 * top) ** 2  # constants of the paper
    return (2 * mean_a * mean_b + c1) * (2 * both + c2) / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))


def perturbation_curves(
    model: nn.Module, frames: torch.Tensor, labels: torch.Tensor, order: torch.Tensor, idle: torch.Tensor, steps: int
) -> tuple[np.ndarray, np.ndarray]:
    """Mean probability (steps + 1, B) of a frame's label as pixels are deleted, and as they are inserted.

    Args:
        model: frames (B, 1, H, W) -> logits.
        frames: to be explained.
        labels: (B, C).
        order: (B, n) pixels inside the mask as flat indices, the first to go first.
        idle: (H, W) mean idle frame that deleted pixels are replaced by.
        steps: in how many equal parts pixels go.
    """
    background = idle.to(frames)[None, None].expand_as(frames)
    counts = [round(i * order.shape[1] / steps) for i in range(steps + 1)]
    curves = np.zeros((2, steps + 1, len(frames)))
    with torch.no_grad():
        for i, count in enumerate(counts):
            gone = torch.zeros(len(frames), frames[0].numel(), dtype=torch.bool, device=frames.device)
            gone.scatter_(1, order[:, :count].to(frames.device), True)
            gone = gone.view_as(frames)
            for k, mixed in enumerate((torch.where(gone, background, frames), torch.where(gone, frames, background))):
                p = torch.sigmoid(model(mixed))
                curves[k, i] = ((p * labels).sum(dim=1) / labels.sum(dim=1)).cpu().numpy()
    return curves[0], curves[1]


def pointing_hits(
    maps: np.ndarray, mask: np.ndarray, targets: list[np.ndarray], reach: float
) -> tuple[np.ndarray, np.ndarray]:
    """Whether each map's (B, h, w) peak lies within reach of a target, and the chance of that (B,).

    Args:
        mask: (h, w); chance is the share of its positions within reach.
        targets: places (k, 2) y, x of each map's own targets, in positions of the map.
        reach: in positions of the map.
    """
    y, x = np.nonzero(mask)
    hits, chances = np.zeros(len(maps), dtype=bool), np.zeros(len(maps))
    for i, (own, places) in enumerate(zip(maps, targets, strict=True)):
        near = np.zeros(len(y), dtype=bool)
        for cy, cx in places:
            near |= (y - cy) ** 2 + (x - cx) ** 2 <= reach**2
        hits[i] = near[np.argmax(own[mask])]
        chances[i] = near.mean()
    return hits, chances


def target_discs(shape: tuple[int, int], positions_yx: np.ndarray, radius: np.ndarray, margin_px: float) -> np.ndarray:
    """Pixels (H, W) bool within 1.5 radii and a margin of any target: the same for every label."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    inside = np.zeros(shape, dtype=bool)
    for (cy, cx), r in zip(positions_yx, radius, strict=True):
        inside |= (y - cy) ** 2 + (x - cx) ** 2 <= (1.5 * r + margin_px) ** 2
    return inside
