"""Evaluate a run with its own configuration and weights, or imported weights without a run.

python evaluate.py run=<folder> [evaluator=[...]] [dataset=...] [run_dir=<folder>]
python evaluate.py model=<name> model.weights=<file> dataset=<name> evaluator=[...]
"""

import sys
from pathlib import Path

from nissl.runs.command_line import clear_errors
from nissl.runs.compose import instantiate
from nissl.runs.evaluation_config import compose_evaluation
from nissl.runs.folder import RunFolder
from nissl.runs.validate import validate


def main(overrides: list[str]) -> None:
    cfg = compose_evaluation(overrides)
    validate(cfg)
    with RunFolder.start_evaluation(cfg) as evaluation:
        from nissl.datasets.datamodule import DataModule
        from nissl.runs.evaluation import evaluate, print_summary, trained_task, warn_of_drift
        from nissl.runs.report import build_report

        cfg = evaluation.cfg
        data = DataModule(instantiate(cfg.dataset), seed=cfg.seed, **cfg.loader)
        task = trained_task(cfg)
        if cfg.get("run"):
            warn_of_drift(Path(cfg.run))
        evaluation.record_provenance(data.source.files)
        evaluation.open_sinks()
        evaluators = {name: instantiate(node) for name, node in (cfg.get("evaluator") or {}).items()}
        scalars = evaluate(evaluators, task, data, evaluation)
    build_report(evaluation.path)
    print_summary(evaluation, scalars)


if __name__ == "__main__":
    if not sys.argv[1:] or {"-h", "--help"} & set(sys.argv):
        print(__doc__.strip())
        sys.exit(0 if sys.argv[1:] else 2)
    with clear_errors("evaluate"):
        main(sys.argv[1:])
