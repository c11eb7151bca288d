"""Which map method recovers the simulated wiring: several worlds of calcium_quick, a network in each, one table.

    python benchmarks/map_methods.py [--worlds 5] [--seeds 1] [--networks folder] [--out folder]

A world is another animal (places, wiring, tissue, noise), so the interval over worlds says what to expect of the next.
Networks are those of experiment=calcium_quick (12 epochs, AdamW, cosine from 3e-3, brightness and contrast varied),
here with batches of 64 frames and bfloat16 convolutions, which halves the time; `--networks` keeps and reuses their
weights. Intervals: 95 % t-interval of the mean over worlds, after averaging over a world's networks. The difference to
the evoked map is paired by world.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch.nn import functional

from nissl.evaluators.map_baselines import lenient_accuracy
from nissl.evaluators.map_method_figures import agreement
from nissl.runs.compose import compose_config, instantiate

EPOCHS, BATCH, RATE = 12, 64, 3e-3
KEYS = ("truth_r_disjoint", "truth_r_all", "truth_r_singles", "truth_auroc_module", "truth_r_given_distance")


def train(source: Any, model: Any, seed: int) -> None:
    """The recipe of calcium_quick on frames held in memory."""
    rows = source.rows("train")
    frames = torch.from_numpy(source.read(rows))[:, None]
    labels = torch.from_numpy(source.labels[source.table.pattern[rows]]).float()
    mask = torch.from_numpy(source.mask).float()
    inside = mask.sum()
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS * (len(frames) // BATCH))
    draw = torch.Generator().manual_seed(seed)
    model.train()
    for _ in range(EPOCHS):
        order = torch.randperm(len(frames), generator=draw)
        for chosen in order[: len(frames) // BATCH * BATCH].view(-1, BATCH):
            x = frames[chosen]
            mean = ((x * mask).sum((1, 2, 3)) / inside)[:, None, None, None]
            spread = (((x - mean) ** 2 * mask).sum((1, 2, 3)) / inside).sqrt()[:, None, None, None]
            contrast = 0.7 + 0.6 * torch.rand(BATCH, 1, 1, 1, generator=draw)
            brightness = 0.2 * (2 * torch.rand(BATCH, 1, 1, 1, generator=draw) - 1) * spread
            x = (contrast * (x - mean) + mean + brightness) * mask
            with torch.autocast("cpu", torch.bfloat16):
                logits = model(x)
            loss = functional.binary_cross_entropy_with_logits(logits.float(), labels[chosen])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
    model.eval()


def accuracy(source: Any, model: Any, part: str) -> float:
    rows = source.rows(part)
    with torch.inference_mode():
        logits = torch.cat([model(x) for x in torch.from_numpy(source.read(rows))[:, None].split(256)])
    return lenient_accuracy(logits.numpy(), source.labels[source.table.pattern[rows]])


def interval(values: np.ndarray) -> tuple[float, float, float]:
    """Mean and its 95 % t-interval over worlds."""
    values = values[~np.isnan(values)]
    mean = float(values.mean()) if len(values) else float("nan")
    if len(values) < 2:
        return mean, float("nan"), float("nan")
    half = float(stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))
    return mean, mean - half, mean + half


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--worlds", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--networks", type=Path, default=None)
    parser.add_argument("--out", type=Path, default=None)
    args = parser.parse_args()
    torch.set_num_threads(1)
    began = time.process_time()
    rows: list[dict[str, Any]] = []
    accuracies: list[dict[str, float]] = []
    influence: list[dict[str, float]] = []
    for world in range(args.worlds):
        cfg = compose_config(
            "train", ["experiment=calcium_quick", f"dataset.world_seed={world}", "evaluator=[map_methods]"]
        )
        source = instantiate(cfg.dataset)
        evaluator = instantiate(cfg.evaluator.map_methods)
        networks = []
        for seed in range(args.seeds):
            torch.manual_seed(seed)
            model = instantiate({key: value for key, value in cfg.model.items() if key != "weights"})
            kept = None if args.networks is None else args.networks / f"net_w{world}s{seed}.pt"
            if kept is not None and kept.exists():
                model.load_state_dict(torch.load(kept, weights_only=True))
                model.eval()
            else:
                train(source, model, seed)
                if kept is not None:
                    kept.parent.mkdir(parents=True, exist_ok=True)
                    torch.save(model.state_dict(), kept)
            found = {part: accuracy(source, model, part) for part in ("train", "test")}
            accuracies.append({"world": world, "seed": seed} | found)
            networks.append(SimpleNamespace(seed=seed, day=None, model=model, device=torch.device("cpu")))
        result = evaluator(SimpleNamespace(networks=networks), SimpleNamespace(source=source))
        rows += [{"world": world} | row for row in result.tables["methods"]]
        influence.append({key: value for key, value in result.scalars.items() if "influence" in key})
        print(world, accuracies[-args.seeds :], f"{time.process_time() - began:.0f} CPU-s", flush=True)
        for note in result.notes:
            print("  ", note, flush=True)

    by_method = {
        name: [row for row in rows if row["method"] == name] for name in dict.fromkeys(r["method"] for r in rows)
    }
    evoked = np.array([row["truth_r_disjoint"] for row in by_method["evoked"]])
    table = []
    for name, own in by_method.items():
        line: dict[str, Any] = {"method": name, "network": own[0]["network"]}
        for key in KEYS:
            line[key], line[f"{key}_low"], line[f"{key}_high"] = interval(np.array([row[key] for row in own]))
        difference = np.array([row["truth_r_disjoint"] for row in own]) - evoked
        line["to_evoked"], line["to_evoked_low"], line["to_evoked_high"] = interval(difference)
        line["worlds_above_evoked"] = int(np.count_nonzero(difference > 0))
        table.append(line)
    table.sort(key=lambda line: -np.nan_to_num(line["truth_r_disjoint"], nan=-2))
    for line in table:
        print(
            f"| {line['method']} | {line['network']} | "
            + " | ".join(f"{line[key]:.2f} [{line[key + '_low']:.2f}, {line[key + '_high']:.2f}]" for key in KEYS)
            + f" | {line['to_evoked']:+.2f} [{line['to_evoked_low']:+.2f}, {line['to_evoked_high']:+.2f}] |"
        )
    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)
        record = {
            "worlds": args.worlds,
            "seeds": args.seeds,
            "cpu_seconds": round(time.process_time() - began, 1),
            "accuracy": accuracies,
            "influence": influence,
            "table": table,
        }
        (args.out / "summary.json").write_text(json.dumps(record, indent=1) + "\n")
        (args.out / "agreement.png").write_bytes(agreement(rows, "truth_r_disjoint").png)


if __name__ == "__main__":
    main()
