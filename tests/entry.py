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
    **dict.fromkeys(
        ("calcium_cfa", "calcium_null"),
        [
            *("dataset.trials=5", "dataset.pairs=false", "dataset.powers=[1.0]", "dataset.network_seeds=[0]"),
            *(
                "evaluator.map_days.draws=50",
                "evaluator.map_days.bootstrap_draws=50",
                "evaluator.map_days.which=all",
                "evaluator.map_days.method=gradient",
            ),
        ],
    ),
    "calcium_checks": ["dataset.trials=5", "dataset.pairs=false", "evaluator.map_checks.retrain_steps=2"],
    "calcium_artefact": ["dataset.trials=5", "dataset.pairs=false"],
    "calcium_leakage": ["dataset.trials=5", "dataset.pairs=false", "dataset.network_seeds=[0]"],
    "graph_dino_quick": [],
    "ffn_quick": [],
    "graph_dino_allen_reference": ["evaluator=[knn]", "dataset.embed_nodes=200", "loader.batch_size=8"],
    "graph_dino_joint": ["evaluator=[knn]", "loader.batch_size=8"],
    "ffn_songbird": [
        *("dataset.shape_zyx=[40,96,96]", "dataset.num_neurites=10", "dataset.num_train=1"),
        *("dataset.misalignments=[[26,8,-7]]", "dataset.vessel_radius_nm=100", "dataset.soma_radius_nm=200"),
        *("segmenter.max_moves=5", "evaluator.segmentation.untrained_max_moves=0", "loader.batch_size=2"),
    ],
    "tissue_songbird": [
        *("dataset.shape_zyx=[32,112,112]", "dataset.num_neurites=8", "dataset.num_train=1"),
        *("dataset.misalignments=[[20,8,-7]]", "dataset.vessel_radius_nm=120", "dataset.soma_radius_nm=200"),
    ],
    "ffn_fib25_fine": ["model.weights=null"],
    "tissue_vnc": ["dataset.test_box=[[0,12],[544,736],[0,192]]"],
    "ffn_fib25_distilled": ["dataset.test_box=[[0,64],[0,64],[180,244]]", "loader.batch_size=2"],
    "ffn_fib25_imitated": [
        *("model.weights=null", "dataset.test_box=[[0,64],[0,64],[180,244]]", "loader.batch_size=2"),
        "dataset.patches.val_examples=1",
    ],
    **dict.fromkeys(
        ("affinity_fib25", "boundary_fib25"),
        [
            *(
                "dataset.test_box=[[0,64],[0,64],[180,244]]",
                "evaluator.watershed_sweep.tuning_box=[[0,64],[0,64],[0,64]]",
            ),
            "evaluator.segmentation.untrained_max_moves=0",
        ],
    ),
}


# Where an experiment takes the published weights: `nissl import <model> <data>/<file>`, and the key that names them.
IMPORTED = {
    "ffn_fib25_finetune": ("ffn", "weights/ffn_fib25/model.ckpt-27465036", "model.weights"),
    "ffn_fib25_distilled": ("ffn", "weights/ffn_fib25/model.ckpt-27465036", "task.teacher_weights"),
    "ffn_fib25_imitated": ("ffn", "weights/ffn_fib25/model.ckpt-27465036", "task.teacher_weights"),
}


def two_steps(name: str) -> list[str]:
    """Overrides that make an experiment take two steps and evaluate a little."""
    overrides = [*SHORT, "trainer.max_steps=2", "loader.batches_per_epoch=1"]
    values = yaml.safe_load((ROOT / "conf" / "experiment" / f"{name}.yaml").read_text())
    if {"override /segmenter": "flood_fill"} in values["defaults"]:
        overrides.append("segmenter.max_moves=20")
    return overrides + SMALL.get(name, [])
