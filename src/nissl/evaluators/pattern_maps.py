"""From frame maps to one map per stimulation pattern, in memory that does not grow with the number of frames.

Maps are summed per trial and pattern; the pattern's map is made from those sums. Everything that resamples trials can
work on them without the network.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from torch.utils.data import DataLoader

from nissl.evaluators import gradcam as cam
from nissl.evaluators.map_activation import TrialMoments

FRAME_NORMS = ("l2", "none", "max")


@dataclass(frozen=True)
class TrialMaps:
    """Sums of maps over the frames of each (pattern, trial).

    Attributes:
        sums: (R, h, w) float64.
        counts: (R,) frames in each sum.
        pattern: (R,) pattern row.
        trial: (R,) trial id.
    """

    sums: np.ndarray
    counts: np.ndarray
    pattern: np.ndarray
    trial: np.ndarray

    def mean_maps(self, num_patterns: int, weight: str) -> np.ndarray:
        """One map per pattern (P, h, w); NaN for a pattern without a usable frame.

        Args:
            num_patterns: P.
            weight: "frame": mean over frames; "trial": mean over the trials' means.
        """
        used = self.counts > 0
        sums = self.sums if weight == "frame" else self.sums / self.counts.clip(1)[:, None, None]
        shares = self.counts if weight == "frame" else used.astype(float)
        total = np.zeros((num_patterns, *self.sums.shape[1:]))
        number = np.zeros(num_patterns)
        np.add.at(total, self.pattern, sums)
        np.add.at(number, self.pattern, shares)
        number[number == 0] = np.nan
        return total / number[:, None, None]


@dataclass(frozen=True)
class Collected:
    """What one pass over the frames of a part leaves.

    Attributes:
        maps: of the network.
        frames: the frames themselves, pooled to map resolution; mean frames and evoked maps come from these.
        mask: (h, w) positions inside: at least half of their pixels.
        seen, correct, dead: (P,) frames of each pattern seen, named rightly (lenient rule), and with a map of zeros
            among those used.
        answers: the network's answers against the frames of each trial, all frames used, for `activation_maps`; of
            the labels only the trial's pattern is kept.
    """

    maps: TrialMaps
    frames: TrialMaps
    mask: np.ndarray
    seen: np.ndarray
    correct: np.ndarray
    dead: np.ndarray
    answers: TrialMoments


def collect_maps(
    task: Any,
    source: Any,
    part: str,
    method: str,
    layer: int | None,
    which: str,
    frame_norm: str,
    batch_size: int,
) -> Collected:
    """Explain every frame of a part for its own label, and sum maps by trial.

    Args:
        task: trained task in eval mode, with `model` and `device`.
        source: labelled frames.
        part: train, val or test.
        method: one of `gradcam.METHODS`, or `gradient`, `occlusion`.
        layer: block after which to look; None is the backbone's end.
        which: "correct" uses frames named rightly by the lenient rule, "all" every frame.
        frame_norm: scale of each frame's map inside the mask before it is summed: l2, max or none.
        batch_size: frames at a time.
    """
    if which not in ("correct", "all"):
        raise ValueError(f"which='{which}' is unknown; choose correct or all")
    if frame_norm not in FRAME_NORMS:
        raise ValueError(f"frame_norm='{frame_norm}' is unknown; choose one of {', '.join(FRAME_NORMS)}")
    dataset = source.unvaried(part)
    rows = source.rows(part)
    num_patterns = len(source.patterns)
    # One sum per (pattern, trial) that occurs; `place` finds it from a frame.
    keys, place = np.unique(
        source.table.trial[rows].astype(np.int64) * num_patterns + source.table.pattern[rows], return_inverse=True
    )
    place_of_row = dict(zip(rows.tolist(), place.tolist(), strict=True))
    front, rest = cam.split_model(task.model, layer)
    mask: torch.Tensor | None = None
    seen, correct, dead = (np.zeros(num_patterns, dtype=int) for _ in range(3))
    map_sums: np.ndarray | None = None
    frame_sums: np.ndarray | None = None
    counts, usable_counts = np.zeros(len(keys), dtype=int), np.zeros(len(keys), dtype=int)
    trials, trial_of = np.unique(source.table.trial[rows], return_inverse=True)
    trial_of_row = dict(zip(rows.tolist(), trial_of.tolist(), strict=True))
    gram: np.ndarray | None = None
    cross: np.ndarray | None = None

    for batch in DataLoader(dataset, batch_size=batch_size):
        frames, labels = batch["frames"].to(task.device), batch["label"].to(task.device)
        features = cam.extract_features(front, frames)
        with torch.no_grad():
            logits = rest(features)
        size = (features.shape[2], features.shape[3])
        maps = _explain(task.model, rest, frames, features, labels, method)
        if mask is None or map_sums is None or frame_sums is None:
            mask = pool_mask(torch.from_numpy(source.mask), size).to(task.device)
            map_sums, frame_sums = np.zeros((len(keys), *size)), np.zeros((len(keys), *size))
        maps = cam.normalise(maps * mask, frame_norm)

        index = batch["index"].numpy()
        pattern = source.table.pattern[index]
        hit = labels.gather(1, logits.argmax(dim=1, keepdim=True))[:, 0].cpu().numpy() > 0
        alive = (maps.flatten(1) != 0).any(dim=1).cpu().numpy()
        used = hit if which == "correct" else np.ones_like(hit)
        np.add.at(seen, pattern, 1)
        np.add.at(correct, pattern, hit)
        np.add.at(dead, pattern, used & ~alive)
        places = np.array([place_of_row[int(row)] for row in index])
        pooled = functional.adaptive_avg_pool2d(frames.mean(dim=1), size).double().cpu().numpy()
        np.add.at(map_sums, places[used & alive], maps.double().cpu().numpy()[used & alive])
        np.add.at(frame_sums, places[used], pooled[used])
        np.add.at(usable_counts, places[used & alive], 1)
        np.add.at(counts, places[used], 1)
        signals = np.column_stack([torch.sigmoid(logits).double().cpu().numpy(), np.ones(len(logits))])
        if gram is None or cross is None:
            gram = np.zeros((len(trials), signals.shape[1], signals.shape[1]))
            cross = np.zeros((len(trials), signals.shape[1], size[0] * size[1]))
        own_trial = np.array([trial_of_row[int(row)] for row in index])
        np.add.at(gram, own_trial, signals[:, :, None] * signals[:, None])
        np.add.at(cross, own_trial, signals[:, :, None] * pooled.reshape(len(pooled), 1, -1))

    assert mask is not None and map_sums is not None and frame_sums is not None, "a part is never empty"
    assert gram is not None and cross is not None
    pattern_of, trial_id = keys % num_patterns, keys // num_patterns
    # "none" is the last pattern: what was stimulated in a trial is the least of its frames' patterns.
    shown = np.full(len(trials), num_patterns - 1)
    np.minimum.at(shown, trial_of, source.table.pattern[rows])
    return Collected(
        maps=TrialMaps(map_sums, usable_counts, pattern_of, trial_id),
        frames=TrialMaps(frame_sums, counts, pattern_of, trial_id),
        mask=mask.cpu().numpy().astype(bool),
        seen=seen,
        correct=correct,
        dead=dead,
        answers=TrialMoments(gram, cross, shown),
    )


def evoked_maps(mean_frames: np.ndarray, none: int) -> np.ndarray:
    """What any ROI-free analysis has without a network: mean stimulated frame minus mean idle frame (P, h, w)."""
    return mean_frames - mean_frames[none]


def pool_images(images: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Images (P, H, W) averaged over areas to (P, h, w)."""
    return functional.adaptive_avg_pool2d(torch.from_numpy(images).double(), size).numpy()


def pool_mask(mask: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Positions (h, w) of which at least half of the pixels lie inside."""
    return functional.adaptive_avg_pool2d(mask[None].float(), size)[0] >= 0.5


def _explain(
    model: torch.nn.Module,
    rest: torch.nn.Module,
    frames: torch.Tensor,
    features: torch.Tensor,
    labels: torch.Tensor,
    method: str,
) -> torch.Tensor:
    """Maps (B, h, w) at feature resolution by any method."""
    size = (features.shape[2], features.shape[3])
    if method == "gradient":
        return functional.adaptive_avg_pool2d(cam.input_gradient(model, frames, labels), size)
    if method == "occlusion":
        return cam.occlusion(model, frames, labels, size).relu()
    return cam.gradcam(rest, features, labels, method)
