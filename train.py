"""Train a model, evaluate it, report: one run folder.

python train.py experiment=ffn_fib25 seed=1 trainer.max_time=00:00:30:00 run_dir=runs/first resume=auto
python train.py -m experiment=graph_dino_quick seed=0,1,2
"""

import hydra
from omegaconf import DictConfig

from nissl.runs.command_line import clear_errors
from nissl.runs.compose import grid_folder, instantiate
from nissl.runs.folder import AlreadyFinished, RunFolder
from nissl.runs.validate import validate


@hydra.main(config_path="conf", config_name="train", version_base="1.3")
def main(cfg: DictConfig) -> None:
    validate(cfg)  # before anything heavy is imported
    try:
        run = RunFolder.start(cfg, grid_folder())
    except AlreadyFinished as finished:
        print(finished)
        return
    with run:
        import pytorch_lightning as pl

        from nissl.datasets.datamodule import DataModule
        from nissl.runs.callbacks import LocalRecord
        from nissl.runs.evaluation import evaluate, print_summary, summarise_training
        from nissl.runs.report import build_report
        from nissl.runs.weights import build_model, chosen_checkpoint, load_checkpoint, load_into

        cfg = run.cfg
        pl.seed_everything(cfg.seed, workers=True, verbose=False)
        data = DataModule(instantiate(cfg.dataset), seed=cfg.seed, **cfg.loader)
        task = instantiate(cfg.task, model=build_model(cfg.model))
        evaluators = {name: instantiate(node) for name, node in (cfg.get("evaluator") or {}).items()}
        run.record_provenance(data.source.files)
        trainer = instantiate(
            cfg.trainer,
            default_root_dir=str(run.path),
            logger=[LocalRecord(run.path), *run.open_sinks()],
            callbacks=[instantiate(node) for node in (cfg.get("callbacks") or {}).values()],
        )
        trainer.fit(task, data, ckpt_path=run.resume_from, weights_only=True)
        run.end_unless_main()
        checkpoint = chosen_checkpoint(run.path, cfg.weights_to_evaluate)
        load_into(task, load_checkpoint(checkpoint)["state_dict"], checkpoint)
        run.update_provenance(evaluated_weights=checkpoint.name)
        summarise_training(run.path, task, *trainer.callbacks)
        scalars = evaluate(evaluators, task, data, run, trainer.global_step)
    build_report(run.path)
    print_summary(run, scalars)


if __name__ == "__main__":
    with clear_errors("train"):
        main()
