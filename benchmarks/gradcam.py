"""CPU time of class activation maps and of ZNCC beside their peers, in one process.

    python benchmarks/gradcam.py [--frames 100] [--repeats 3] [--out folder]

Peers: captum's LayerGradCam (pip install --no-deps captum) and torchcam's GradCAM (pip install --no-deps torchcam),
each left out where it is not installed; numpy.corrcoef for ZNCC. The network is the default stimulus_cnn with 9 outputs
on frames of 128 x 128; maps are brought to the size of the frames by all. Repeats are interleaved and the least
CPU-seconds of each kept; ratios are of those. Maps of ours and captum are also compared: they must be equal to 1e-5.

Targets: all 9 classes at least 8 times fewer CPU-seconds than captum, one class no more than captum; ZNCC of 109 maps
no slower than numpy.corrcoef; 5,000 permutations of 109 patterns' trials in at most 10 CPU-seconds.
"""

from __future__ import annotations

import argparse
import importlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nissl.evaluators import gradcam as cam
from nissl.evaluators.trial_resampling import TrialRows, permute_trials, statistic_weights
from nissl.evaluators.zncc import zncc_matrix
from nissl.models.stimulus_cnn import StimulusCNN

SIZE, CLASSES, BATCH = 128, 9, 100


def peer(name: str) -> Any:
    """A peer's module, or None where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def least_cpu(jobs: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Least CPU-seconds of each job over interleaved repeats."""
    found: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(repeats):
        for name, job in jobs.items():
            before = time.process_time()
            job()
            found[name].append(time.process_time() - before)
    return {name: min(values) for name, values in found.items()}


def map_jobs(frames: int) -> tuple[dict[str, Callable[[], object]], float | None]:
    """Jobs that make maps, and the largest difference to captum's."""
    torch.manual_seed(0)
    model = StimulusCNN(1, CLASSES, (16, 32, 64, 64), (1, 1, 1, 0), 4, 128, 0.0, False).eval()
    x = torch.randn(frames, 1, SIZE, SIZE)
    target = torch.arange(frames) % CLASSES
    front, rest = cam.split_model(model)

    def ours_one() -> torch.Tensor:
        maps = [
            cam.upsample(cam.gradcam(rest, cam.extract_features(front, part), own), (SIZE, SIZE))
            for part, own in zip(x.split(BATCH), target.split(BATCH), strict=True)
        ]
        return torch.cat(maps)

    def ours_all() -> torch.Tensor:
        maps = []
        for part in x.split(BATCH):
            every = cam.gradcam_all(rest, cam.extract_features(front, part))
            maps.append(cam.upsample(every.flatten(0, 1), (SIZE, SIZE)))
        return torch.cat(maps)

    def forward() -> None:
        with torch.inference_mode():
            for part in x.split(BATCH):
                model(part)

    jobs: dict[str, Callable[[], object]] = {"forward": forward, "ours_one": ours_one, "ours_all": ours_all}
    difference = None
    attr = peer("captum.attr")
    if attr is not None:
        layer = attr.LayerGradCam(model, model.backbone[-1])

        def theirs(part: torch.Tensor, own: Any) -> torch.Tensor:
            maps = layer.attribute(part, target=own, relu_attributions=True)
            return attr.LayerAttribution.interpolate(maps, (SIZE, SIZE), "bilinear").detach()

        def captum_one() -> torch.Tensor:
            return torch.cat([theirs(part, own) for part, own in zip(x.split(BATCH), target.split(BATCH), strict=True)])

        def captum_all() -> None:
            for part in x.split(BATCH):
                for output in range(CLASSES):
                    theirs(part, output)

        jobs |= {"captum_one": captum_one, "captum_all": captum_all}
        difference = float((captum_one()[:, 0] - ours_one()).abs().max())
    torchcam = peer("torchcam.methods")
    if torchcam is not None:

        def torchcam_one() -> None:
            with torchcam.GradCAM(model, model.backbone[-1]) as extractor:
                for part, own in zip(x.split(BATCH), target.split(BATCH), strict=True):
                    maps = extractor(own.tolist(), model(part))[0]
                    cam.upsample(maps, (SIZE, SIZE))

        jobs["torchcam_one"] = torchcam_one
    return jobs, difference


def zncc_jobs() -> dict[str, Callable[[], object]]:
    maps = np.random.default_rng(0).standard_normal((109, SIZE * SIZE))
    return {"ours_zncc": lambda: zncc_matrix(maps), "numpy_corrcoef": lambda: np.corrcoef(maps)}


def permutation_seconds(draws: int = 5000) -> float:
    """Of 109 patterns with 10 trials a day and maps of 16 x 16."""
    rng = np.random.default_rng(0)
    cells = [(str(i),) for i in range(8)] + [(str(i), str(j)) for i in range(8) for j in range(i)]
    patterns = [own for own in cells for _ in range(3)] + [()]
    pattern = np.repeat(np.arange(len(patterns)), 10)
    first, second = (TrialRows(rng.standard_normal((len(pattern), 256)), pattern) for _ in range(2))
    weights = np.stack(list(statistic_weights(patterns).values()))
    before = time.process_time()
    permute_trials(first, second, weights, draws, 0)
    return time.process_time() - before


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--frames", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=None)
    args = parser.parse_args()
    torch.set_num_threads(1)
    jobs, difference = map_jobs(args.frames)
    record: dict[str, Any] = {"frames": args.frames, "repeats": args.repeats}
    record["cpu_seconds"] = least_cpu(jobs, args.repeats) | least_cpu(zncc_jobs(), args.repeats)
    record["cpu_seconds"]["permutation_5000"] = permutation_seconds()
    spent = record["cpu_seconds"]
    record["ratios"] = {"all_classes_to_one": spent["ours_all"] / spent["ours_one"]}
    record["ratios"]["corrcoef_to_ours"] = spent["numpy_corrcoef"] / spent["ours_zncc"]
    for name in ("captum", "torchcam"):
        for job in ("one", "all"):
            if f"{name}_{job}" in spent:
                record["ratios"][f"{name}_to_ours_{job}"] = spent[f"{name}_{job}"] / spent[f"ours_{job}"]
    record["largest_difference_to_captum"] = difference
    print(json.dumps(record, indent=1))
    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "summary.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
