"""What the tests of train.py and evaluate.py share: how they are run, and overrides that make a run short."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
Script = Callable[..., subprocess.CompletedProcess[str]]
EXPERIMENTS = sorted(path.stem for path in (ROOT / "conf" / "experiment").glob("*.yaml"))
QUICK = [name for name in EXPERIMENTS if name.endswith("_quick")]
FILES = (
    "config.yaml",
    "overrides.txt",
    "provenance.json",
    "metrics.jsonl",
    "summary.json",
    "report.html",
    "status.json",
)
# Small enough for a test: a few steps, little to evaluate.
SHORT = ["logger=[]", "trainer.log_every_n_steps=1", "+trainer.limit_val_batches=2"]
SMALL = {
    "calcium_quick": ["dataset.trials=5", "dataset.pairs=false"],
    "graph_dino_quick": [],
    "ffn_quick": [],
}


def two_steps(name: str) -> list[str]:
    """Overrides that make an experiment take two steps and evaluate a little."""
    overrides = [*SHORT, "trainer.max_steps=2", "loader.batches_per_epoch=1"]
    values = yaml.safe_load((ROOT / "conf" / "experiment" / f"{name}.yaml").read_text())
    if any("override /segmenter" in entry for entry in values["defaults"] if isinstance(entry, dict)):
        overrides.append("segmenter.max_moves=20")
    return overrides + SMALL.get(name, [])
