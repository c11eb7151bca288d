"""What flooding costs: the network against a matrix product, what lies around it, and the moves it takes.

    python benchmarks/flood_filling.py [--backends eager,openvino] [--precisions float32,bfloat16] [--repeats 3]
    python benchmarks/flood_filling.py --volume fib25.h5 --weights ffn_fib25.safetensors --box 40:120,77:173,77:173

CPU-seconds of this process, all in one process, so that ratios hold on a machine that others use too.

1. `rate`: multiply-adds per CPU-second of the network at a field of view of 17x33x33 (depth 12, 32 features), next to
   those of a large float32 matrix product and of the naive form (contiguous, batch 1, torch's own kernel). Targets: 1.1
   times the matrix product, 8 times the naive form.
2. `around`: share of CPU time that flooding spends outside of the network, with the published field of view of 33^3.
   Target: at most 5 %.
3. `moves`: with `--volume` and `--weights`, moves per cell of the delta grid that centres of kept objects cover
   (rejected seeds included), for each way of saving them, and how far the segmentation is from the one without and from
   the dataset `labels` (variation of information, unassigned voxels as a segment of their own). Targets: 1.3, and 0.7
   at a distance from the truth within 0.05 bit.
4. `int8`: with `--int8` the same box flooded in float32, bfloat16 and 8-bit integers by OpenVINO: CPU-seconds, moves,
   distance from the truth. Target: at least 3.3 times float32.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nissl.flood_fill import executor
from nissl.flood_fill.backends import running
from nissl.flood_fill.canvas import Canvas, Moves, Thresholds
from nissl.flood_fill.seeds import Scene, peaks
from nissl.models.ffn import FFN

FOV, DEPTH, FEATURES = (17, 33, 33), 12, 32
TRAINED_STEP = 8  # voxels
WAYS = {  # how moves are chosen, and their step
    "as published": (Moves(), TRAINED_STEP),
    "strongest first": (Moves(order="strongest_first"), TRAINED_STEP),
    **{f"skip visited {share}": (Moves(skip_visited=share), TRAINED_STEP) for share in (0.9, 0.95, 0.97, 0.98, 0.99)},
    "long steps": (Moves(skip_visited=1.0, saturated=0.98), TRAINED_STEP),
    "long steps, skip visited 0.98": (Moves(skip_visited=0.98, saturated=0.98), TRAINED_STEP),
    **{f"steps of {step}": (Moves(), step) for step in (12, 16)},
    "steps of 16, skip visited 0.9": (Moves(skip_visited=0.9), 16),
}


def cpu_seconds(call: Callable[[], object], repeats: int) -> float:
    """The least of some repeats, after one that warms up."""
    call()
    found = []
    for _ in range(repeats):
        before = time.process_time()
        call()
        found.append(time.process_time() - before)
    return min(found)


def multiply_adds(fov: tuple[int, int, int]) -> float:
    return float(np.prod(fov)) * (27 * (2 * FEATURES + (2 * DEPTH - 1) * FEATURES**2) + FEATURES)


def naive(network: FFN, image: Tensor, seed: Tensor) -> Tensor:
    """The network as plain convolutions of a contiguous batch of one, which torch runs by `slow_conv3d`."""
    conv = nn.functional.conv3d
    x = torch.cat([image, seed], 1).contiguous()

    def through(layer: Any, x: Tensor) -> Tensor:
        return conv(x, layer.weight.contiguous(), layer.bias, padding=1)

    hidden = through(network.conv_b[0], through(network.conv_a[0], x).relu())
    for a, b in zip(network.conv_a[1:], network.conv_b[1:], strict=True):
        hidden = hidden + through(b, through(a, hidden.relu()).relu())
    return seed + conv(hidden.relu(), network.head.weight, network.head.bias)


def rates(backends: list[str], precisions: list[str], repeats: int) -> list[dict[str, Any]]:
    """10^9 multiply-adds per CPU-second, and ratios to the matrix product and to the naive form."""
    torch.manual_seed(0)
    network = FFN(FOV, (4, 8, 8), DEPTH, FEATURES, 0.95, 0.05, 0.9).eval()
    a, b = torch.randn(2048, 2048), torch.randn(2048, 2048)
    product = 2048**3 / cpu_seconds(lambda: a @ b, repeats) / 1e9
    rows: list[dict[str, Any]] = [{"what": "matrix product 2048", "batch": 1, "rate": product}]

    def measured(what: str, call: executor.Network, batch: int) -> None:
        image, seed = torch.randn(batch, 1, *FOV), torch.randn(batch, 1, *FOV)
        with torch.inference_mode():
            seconds = cpu_seconds(lambda: call(image, seed), repeats)
        rate = batch * multiply_adds(FOV) / seconds / 1e9
        rows.append({"what": what, "batch": batch, "rate": rate, "moves_per_cpu_s": batch / seconds})

    measured("naive float32", lambda image, seed: naive(network, image, seed), 1)
    for backend in backends:
        for precision in precisions:
            with running(network, backend, precision, FOV) as call:
                for batch in (1, 4):
                    measured(f"{backend} {precision}", call, batch)
    slow = rows[1]["rate"]
    return [row | {"per_product": row["rate"] / product, "per_naive": row["rate"] / slow} for row in rows]


def flooded(
    image: np.ndarray, seeds: np.ndarray, network: executor.Network, moves: Moves, step: int, limit: int | None
) -> Any:
    thresholds = Thresholds(0.95, 0.05, 0.9, 0.6, 1000, (1, 1, 1), 0.0)
    canvas = Canvas(torch.from_numpy(image), (33, 33, 33), (step, step, step), thresholds, seeds, limit, moves=moves)
    covered: set[tuple[int, ...]] = set()  # (segment, cell of its grid), of objects that were kept
    cells: set[tuple[int, ...]] = set()
    mark, finish = canvas.frontier.mark, canvas._finish

    def marked(position: Any) -> None:
        mark(position)
        cells.add(
            tuple(
                (p - s + TRAINED_STEP // 2) // TRAINED_STEP
                for p, s in zip(position, canvas.frontier.start, strict=True)
            )
        )

    def finished() -> None:
        before = canvas.max_id
        finish()
        if canvas.max_id > before:
            covered.update((canvas.max_id, *cell) for cell in cells)
        cells.clear()

    canvas.frontier.mark, canvas._finish = marked, finished  # type: ignore[method-assign]
    seconds = executor.run([canvas], network, 1)
    return canvas, seconds, len(covered)


def around(backend: str, precision: str) -> dict[str, Any]:
    """Share of CPU time outside of the network, over 20 moves through a bright cube with random weights."""
    torch.manual_seed(0)
    network = FFN((33, 33, 33), (8, 8, 8), DEPTH, FEATURES, 0.95, 0.05, 0.9).eval()
    image = np.random.default_rng(0).normal(size=(64, 64, 64)).astype(np.float32)

    with running(network, backend, precision, (33, 33, 33)) as call:

        def growing(image: Tensor, seed: Tensor) -> Tensor:
            call(image, seed)
            return torch.full_like(seed, 4.0)  # untrained weights would not move

        canvas, seconds, _ = flooded(image, np.array([(32, 32, 32)]), growing, Moves(), TRAINED_STEP, 20)
    total = seconds["network"] + seconds["around"]
    return {"what": f"{backend} {precision}", "moves": canvas.counters["moves"], "around": seconds["around"] / total}


def bits(a: np.ndarray, b: np.ndarray) -> float:
    """Variation of information between two segmentations, 0 being a segment of its own."""
    count = np.unique(np.stack([a.ravel(), b.ravel()]), axis=1, return_counts=True)
    (first, second), joint = count[0], count[1] / a.size
    mass = [np.bincount(ids, joint)[ids] for ids in (first, second)]
    return float(-(joint * np.log2(joint / mass[0])).sum() - (joint * np.log2(joint / mass[1])).sum())


def published(weights: Path) -> FFN:
    from safetensors.torch import load_file

    network = FFN((33, 33, 33), (8, 8, 8), DEPTH, FEATURES, 0.95, 0.05, 0.9)
    network.load_state_dict(load_file(weights))
    return network.eval()


def precisions(volume: Path, weights: Path, box: str) -> list[dict[str, Any]]:
    """CPU-seconds and quality of each precision of OpenVINO, int8 calibrated on the box itself."""
    import h5py

    from nissl.flood_fill.segmenter import FloodFill
    from nissl.volumes.annotated import AnnotatedVolume

    z, y, x = (slice(*map(int, part.split(":"))) for part in box.split(","))
    with h5py.File(volume) as file:
        raw, labels = file["raw"][z, y, x], file["labels"][z, y, x]
    part = AnnotatedVolume("box", raw, (10.0, 10.0, 10.0), labels)
    network, rows = published(weights), []
    for precision in ("float32", "bfloat16", "int8"):
        segmenter = FloodFill(None, 0.6, 1000, [1, 1, 1], 0.0, "peaks", 1, None, precision, False, "openvino")
        with segmenter.running(network, [part]) as call:
            pass  # int8 is calibrated before the clock starts
        with segmenter.running(network, [part]) as call:
            per_move = cpu_seconds(partial(call, *torch.randn(2, 1, 1, 33, 33, 33)), 6)
        (found,) = segmenter.segment(network, [part])
        known = labels > 0
        rows.append(
            {
                "what": f"openvino {precision}",
                "cpu_s_per_move": per_move,
                "moves": found.counters["moves"],
                "cpu_s": found.cpu_seconds,
                "coverage": float((found.ids > 0).mean()),
                "bits_from_truth": bits(labels[known], found.ids[known]),
                "per_float32": rows[0]["cpu_s_per_move"] / per_move if rows else 1.0,
            }
        )
        print(json.dumps(rows[-1]), flush=True)
    return rows


def move_counts(volume: Path, weights: Path, box: str, backend: str, precision: str) -> list[dict[str, Any]]:
    """Moves of each way, per cell that the objects of the first way cover."""
    import h5py

    network = published(weights)
    z, y, x = (slice(*map(int, part.split(":"))) for part in box.split(","))
    with h5py.File(volume) as file:
        image = (file["raw"][z, y, x].astype(np.float32) - 128) / 33
        truth = file["labels"][z, y, x] if "labels" in file else None
    seeds = peaks(Scene(image, (10.0, 10.0, 10.0)))
    rows: list[dict[str, Any]] = []
    plain: np.ndarray | None = None
    cells = 1
    with running(network, backend, precision, (33, 33, 33)) as call:
        for name, (moves, step) in WAYS.items():
            canvas, seconds, covered = flooded(image, seeds, call, moves, step, None)
            ids = canvas.segmentation.clamp(min=0).numpy()
            if plain is None:
                plain, cells = ids, covered
            rows.append(
                {
                    "what": name,
                    "moves": canvas.counters["moves"],
                    "per_cell": canvas.counters["moves"] / cells,
                    "bits_apart": bits(plain, ids),
                    "bits_from_truth": None if truth is None else bits(truth[truth > 0], ids[truth > 0]),
                    "coverage": float((ids > 0).mean()),
                    "cpu_s": sum(seconds.values()),
                    "around": seconds["around"] / sum(seconds.values()),
                }
            )
            print(json.dumps(rows[-1]), flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--backends", default="eager")
    parser.add_argument("--precisions", default="float32,bfloat16")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--volume", type=Path, help="HDF5 with the dataset raw")
    parser.add_argument("--weights", type=Path, help="made by nissl import ffn")
    parser.add_argument("--box", default="40:120,77:173,77:173", help="z, y, x ranges of voxels")
    parser.add_argument("--skip-rates", action="store_true")
    parser.add_argument("--int8", action="store_true", help="instead of the ways of saving moves (nissl[int8])")
    arguments = parser.parse_args()
    backends, precisions = arguments.backends.split(","), arguments.precisions.split(",")
    if not arguments.skip_rates:
        for row in rates(backends, precisions, arguments.repeats):
            print(json.dumps(row), flush=True)
        for backend in backends:
            for precision in precisions:
                print(json.dumps(around(backend, precision)), flush=True)
    if arguments.volume is not None and arguments.int8:
        precisions(arguments.volume, arguments.weights, arguments.box)
    elif arguments.volume is not None:
        move_counts(arguments.volume, arguments.weights, arguments.box, backends[-1], precisions[-1])
    print(f"on {os.cpu_count()} processors, {torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
