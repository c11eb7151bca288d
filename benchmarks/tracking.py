"""What tracking costs: overhead of a training loop with everything local on, and CPU time of the listing commands.

    python benchmarks/tracking.py [--steps 400] [--runs 1000]

Overhead: one process, one Lightning loop whose step sleeps 10 ms (100 steps per second), with and without the local
record, trackio, progress, speed and checkpoints, in turn. CPU seconds are compared, as wall time is at the mercy of the
neighbours. Two lengths are run, so that what a run pays once (starting trackio, the last checkpoint) is told apart from
what each step pays: overhead = (CPU per step with - CPU per step without) / 10 ms. CPU of trackio's sending threads is
counted.

Targets: overhead at most 3 %; `train.py --help` and `nissl validate` at most 2, `nissl compare` of 1,000 runs at most 5
CPU seconds.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

STEP_S = 0.01
ROOT = Path(__file__).parents[1]


def overhead(steps: int, repeats: int) -> dict[str, float]:
    """CPU per step of both loops (least of the repeats), and the overhead in per cent."""
    warnings.filterwarnings("ignore")
    import pytorch_lightning as pl
    import torch

    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)

    from nissl.runs.callbacks import Checkpoints, LocalRecord, RandomState
    from nissl.runs.loggers import Sink, TrackioLogger
    from nissl.runs.progress import Progress, Speed

    class Sleeping(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(4, 1)

        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            time.sleep(STEP_S)
            loss = self.layer(batch[0]).square().mean()
            self.log("train/loss", loss)
            self.log("train/other", loss * 2)
            return loss

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), 0.0)

    def loop(folder: Path, tracked: bool, steps: int) -> float:
        (folder / "checkpoints").mkdir(parents=True)
        data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.ones(steps, 4)))
        sinks = [Sink(TrackioLogger("bench", folder.name, None, str(folder.parent / ".trackio")), "trackio")]
        callbacks = [Checkpoints(), RandomState(), Progress(), Speed()]
        trainer = pl.Trainer(
            accelerator="cpu",
            max_epochs=1,
            default_root_dir=folder,
            logger=[LocalRecord(folder), *sinks] if tracked else False,
            callbacks=callbacks if tracked else [],  # type: ignore[arg-type]
            enable_checkpointing=False if not tracked else None,
            enable_progress_bar=False,
            enable_model_summary=False,
            log_every_n_steps=10,
        )
        before = time.process_time()
        trainer.fit(Sleeping(), data)
        for sink in sinks if tracked else []:
            sink.close("success")
            assert sink.alive
        return time.process_time() - before

    with tempfile.TemporaryDirectory() as name:
        loop(Path(name) / "warm", True, 20)  # imports
        least: dict[tuple[bool, int], float] = {}
        for number in range(repeats):
            for length in (steps, 3 * steps):
                for tracked in (False, True):
                    spent = loop(Path(name) / f"{tracked}-{length}-{number}", tracked, length)
                    least[tracked, length] = min(spent, least.get((tracked, length), spent))
    per_step = {tracked: (least[tracked, 3 * steps] - least[tracked, steps]) / (2 * steps) for tracked in (False, True)}
    once = [least[tracked, steps] - steps * per_step[tracked] for tracked in (False, True)]
    return {
        "plain_cpu_ms_per_step": 1000 * per_step[False],
        "tracked_cpu_ms_per_step": 1000 * per_step[True],
        "overhead_percent": 100 * (per_step[True] - per_step[False]) / STEP_S,
        "once_per_run_cpu_s": once[1] - once[0],
    }


def made_runs(folder: Path, count: int) -> None:
    """Run folders as a sweep leaves them: a configuration of usual size, three numbers."""
    config = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), "experiment=calcium_quick", "--cfg", "job"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    for number in range(count):
        run = folder / f"{number:04d}"
        run.mkdir()
        text = config.replace("seed: 0", f"seed: {number % 5}").replace("lr: 0.003", f"lr: {number // 5}")
        (run / "config.yaml").write_text(f"format: 1\n{text}")
        (run / "status.json").write_text('{"status": "finished", "started": 1.0}')
        (run / "summary.json").write_text(json.dumps({"a/b": number * 0.1, "c/d": 1.0, "val/loss/last": 0.5}))


def cpu_seconds(*command: str) -> float:
    """User and system time of a command and its children."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True, cwd=ROOT)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--runs", type=int, default=1000)
    arguments = parser.parse_args()
    nissl = str(Path(sys.executable).parent / "nissl")
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        made_runs(Path(folder), arguments.runs)
        found["help_cpu_s"] = cpu_seconds(sys.executable, "train.py", "--help")
        found["validate_cpu_s"] = cpu_seconds(nissl, "validate")
        found[f"compare_{arguments.runs}_cpu_s"] = cpu_seconds(nissl, "compare", folder)
    found |= overhead(arguments.steps, arguments.repeats)
    for name, value in found.items():
        print(f"{name:<24} {value:8.3f}")
    print(f"on {os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
