"""Means of maps per pattern, against a loop that keeps every frame."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from nissl.evaluators import gradcam as cam
from nissl.evaluators.pattern_maps import TrialMaps, collect_maps, evoked_maps, pool_images, pool_mask
from nissl.models.stimulus_cnn import StimulusCNN

RNG = np.random.default_rng(0)


class Rows(Dataset[dict[str, Any]]):
    def __init__(self, source: Any) -> None:
        self.source = source

    def __len__(self) -> int:
        return len(self.source.frames)

    def __getitem__(self, i: int) -> dict[str, Any]:
        label = torch.from_numpy(self.source.labels[self.source.table.pattern[i]])
        return {"frames": self.source.frames[i], "label": label, "index": i}


def make_source(count: int = 60) -> Any:
    """Three patterns (single, pair, none) in trials of 6 frames."""
    table = SimpleNamespace(pattern=RNG.integers(0, 3, size=count), trial=np.arange(count) // 6)
    mask = np.pad(np.ones((14, 14), dtype=bool), 1)
    frames = torch.from_numpy(RNG.normal(size=(count, 1, 16, 16)).astype(np.float32)) * torch.from_numpy(mask)
    source = SimpleNamespace(
        frames=frames,
        table=table,
        mask=mask,
        patterns=[0, 1, 2],
        labels=np.array([[1, 0, 0], [1, 1, 0], [0, 0, 1]], dtype=np.float32),
        rows=lambda part: np.arange(count),
    )
    source.unvaried = lambda part: Rows(source)
    return source


def make_task() -> Any:
    torch.manual_seed(0)
    model = StimulusCNN(1, 3, (8, 16), (1, 1), 2, 16, 0.0, False).eval()
    return SimpleNamespace(model=model, device=torch.device("cpu"))


def collect(task: Any, source: Any, batch_size: int = 7, **changes: Any) -> Any:
    values = {"part": "train", "method": "gradcam", "layer": None, "which": "all", "frame_norm": "l2"}
    return collect_maps(task, source, batch_size=batch_size, **{**values, **changes})


@pytest.mark.parametrize("which", ["all", "correct"])
@pytest.mark.parametrize("frame_norm", ["l2", "none", "max"])
def test_the_mean_map_equals_a_loop_over_frames(which: str, frame_norm: str) -> None:
    task, source = make_task(), make_source()
    front, rest = cam.split_model(task.model)
    kept: dict[int, list[np.ndarray]] = {0: [], 1: [], 2: []}
    for i, frame in enumerate(source.frames):
        pattern = int(source.table.pattern[i])
        label = torch.from_numpy(source.labels[pattern])[None]
        features = cam.extract_features(front, frame[None])
        right = label[0, rest(features)[0].argmax()] > 0
        one = cam.gradcam(rest, features, label)[0].numpy().astype(float)
        size = {"l2": np.sqrt((one**2).sum()), "none": 1.0, "max": one.max()}[frame_norm]
        if one.any() and (which == "all" or right):
            kept[pattern].append(one / size)
    got = collect(task, source, which=which, frame_norm=frame_norm).maps.mean_maps(3, "frame")
    for pattern, maps in kept.items():
        if maps:
            assert np.allclose(got[pattern], np.mean(maps, axis=0), atol=1e-6)
        else:
            assert np.isnan(got[pattern]).all()


def test_the_batch_size_does_not_matter() -> None:
    task, source = make_task(), make_source()
    a, b = collect(task, source, batch_size=60), collect(task, source, batch_size=1)
    assert np.allclose(a.maps.sums, b.maps.sums, atol=1e-5) and np.array_equal(a.maps.counts, b.maps.counts)


def test_memory_is_one_map_per_trial_and_pattern() -> None:
    source = make_source(600)
    collected = collect(make_task(), source)
    distinct = len(set(zip(source.table.trial, source.table.pattern, strict=True)))
    assert collected.maps.sums.shape == (distinct, 4, 4) and collected.frames.counts.sum() == 600


def test_dead_maps_are_counted_and_left_out() -> None:
    task, source = make_task(), make_source()
    for parameter in task.model.head[-1].parameters():
        torch.nn.init.zeros_(parameter)  # no gradient reaches the features
    collected = collect(task, source)
    assert collected.dead.sum() == 60 and collected.maps.counts.sum() == 0
    assert np.isnan(collected.maps.mean_maps(3, "frame")).all()


def test_weighting_by_trial_is_the_mean_of_trial_means() -> None:
    maps = TrialMaps(np.array([[[2.0]], [[9.0]]]), np.array([2, 3]), np.array([0, 0]), np.array([0, 1]))
    assert maps.mean_maps(1, "frame")[0, 0, 0] == pytest.approx(11 / 5)
    assert maps.mean_maps(1, "trial")[0, 0, 0] == pytest.approx((1 + 3) / 2)


def test_evoked_maps_are_stimulated_minus_idle_frames() -> None:
    source = make_source()
    means = collect(make_task(), source).frames.mean_maps(3, "frame")
    frames = pool_images(source.frames[:, 0].numpy(), (4, 4))
    expected = frames[source.table.pattern == 1].mean(axis=0) - frames[source.table.pattern == 2].mean(axis=0)
    assert np.allclose(evoked_maps(means, none=2)[1], expected, atol=1e-6)


@pytest.mark.parametrize("method", ["gradient", "occlusion", *cam.METHODS])
def test_every_method_gives_maps_of_one_size(method: str) -> None:
    assert collect(make_task(), make_source(12), method=method).maps.sums.shape[1:] == (4, 4)


def test_a_position_is_inside_if_half_of_its_pixels_are() -> None:
    mask = torch.zeros(4, 4, dtype=torch.bool)
    mask[:2, :1], mask[2:, 2:], mask[3, 0] = True, True, True
    assert pool_mask(mask, (2, 2)).tolist() == [[True, False], [False, True]]


def test_unknown_choices_are_refused() -> None:
    for change in ({"which": "wrong"}, {"frame_norm": "l1"}):
        with pytest.raises(ValueError, match="is unknown; choose"):
            collect(make_task(), make_source(6), **change)
