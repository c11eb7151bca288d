"""The teacher, the centre and the training loop around them."""

import warnings
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from nissl.datasets.datamodule import DataModule
from nissl.datasets.morphology import SimulatedMorphologies
from nissl.models.graph_dino import GraphDINO
from nissl.tasks.distillation import ramp
from nissl.tasks.self_distillation import PROFILE_COLUMNS, IsometricHead, SelfDistillation, _first_graphs


def make_source() -> SimulatedMorphologies:
    return SimulatedMorphologies(
        cells_per_class=5, simulation_seed=0, num_folds=5, val_fold=1, test_fold=0, split_seed=0, cache_nodes=None,
        embed_nodes=20, num_nodes=20, num_drop_branches=1, cut_edge="parent", rotation="axis", rotation_axis="y",
        mirror=False, jitter_std_um=1.0, shift_std_um=5.0, scale_log_std=0.0,
    )  # fmt: skip


def make_task(hidden_token: bool = False, **changes: Any) -> SelfDistillation:
    torch.manual_seed(0)
    model = GraphDINO(
        dim=8, depth=1, num_heads=2, num_positions=4, num_prototypes=16, head="bounded", hidden_token=hidden_token
    )
    options: dict[str, Any] = {
        "optimizer": partial(torch.optim.Adam, lr=1e-2),
        "student_temp": 0.1,
        "teacher_temp": 0.05,
        "teacher_temp_start": None,
        "teacher_momentum": 0.9,
        "teacher_momentum_end": None,
        "ramp_steps": 4,
        "centring": "ema",
        "centre_momentum": 0.9,
        "koleo_weight": 0.0,
        "hidden_weight": 0.0,
        "hidden_share": 0.3,
        "warmup_steps": 2,
        "halve_every": 50,
        "monitor_window": 32,
    }
    return SelfDistillation(**{"model": model, **options, **changes})


def fit(task: SelfDistillation, data: DataModule, ckpt_path: Path | None = None, **options: Any) -> pl.Trainer:
    checkpoints = any(isinstance(callback, pl.callbacks.Checkpoint) for callback in options.get("callbacks", []))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's advice about workers and missing loggers
        trainer = pl.Trainer(
            accelerator="cpu", logger=False, enable_checkpointing=checkpoints,
            enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0, **options,
        )  # fmt: skip
        trainer.fit(task, data, ckpt_path=ckpt_path)
    return trainer


def test_the_teacher_has_no_gradient_and_no_optimizer() -> None:
    task, data = make_task(), DataModule(make_source(), 5)
    fit(task, data, max_steps=2)
    assert all(not p.requires_grad and p.grad is None for p in task.teacher.parameters())
    optimized = {id(p) for group in task.configure_optimizers()["optimizer"].param_groups for p in group["params"]}
    assert optimized == {id(p) for p in task.model.parameters()}


@pytest.mark.parametrize("accumulate", [1, 3])
def test_teacher_and_centre_move_once_per_optimizer_step(accumulate: int, monkeypatch: pytest.MonkeyPatch) -> None:
    import nissl.tasks.self_distillation as module

    moves = []
    original = module.update_teacher
    monkeypatch.setattr(module, "update_teacher", lambda *a: moves.append(1) or original(*a))
    task, data = make_task(), DataModule(make_source(), 5)
    trainer = fit(task, data, max_epochs=2, accumulate_grad_batches=accumulate)
    assert len(moves) == trainer.global_step == (6 if accumulate == 1 else 2)


def test_the_centre_is_the_mean_of_the_logits_before_the_step() -> None:
    task, source = make_task(), make_source()
    data = DataModule(source, 5)
    source.encode = task.model.position_encoder()  # type: ignore[operator]
    batch = next(iter(data.train_dataloader()))
    before = task.teacher(batch).mean(dim=0)
    fit(task, DataModule(source, 5), max_steps=1)
    torch.testing.assert_close(task.centre, 0.1 * before, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("centring", ["ema", "sinkhorn"])
def test_the_loss_falls_on_few_cells(centring: str) -> None:
    source = make_source()
    task = make_task(centring=centring, student_temp=0.2, teacher_momentum=0.0)
    source.encode = task.model.position_encoder()  # type: ignore[operator]
    items = source.split("train")
    batch = source.collate([items[k] for k in range(8)])
    optimizer = torch.optim.Adam(task.model.parameters(), lr=1e-2)
    task.log = lambda *args, **kwargs: None  # type: ignore[method-assign]
    target = torch.softmax(torch.randn(16, 16, generator=torch.Generator().manual_seed(0)) / 0.1, dim=-1)
    target[8:] = target[:8]  # a fixed teacher: what a student has to be able to learn
    losses = []
    from nissl.tasks.distillation import dino_loss

    for _ in range(60):
        loss = dino_loss(task(batch), target, task.student_temp)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]


class SaveFirstEpoch(pl.callbacks.Checkpoint):
    """Saves after the hooks of the task, as the checkpoints of a run are."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.current_epoch == 0:
            trainer.save_checkpoint(self.path)


def test_a_resumed_run_goes_on_as_if_not_stopped(tmp_path: Path) -> None:
    whole = make_task()
    fit(whole, DataModule(make_source(), 5), max_epochs=3, callbacks=[SaveFirstEpoch(tmp_path / "first.ckpt")])
    resumed = make_task()
    fit(resumed, DataModule(make_source(), 5), ckpt_path=tmp_path / "first.ckpt", max_epochs=3)
    for (name, ours), (_, expected) in zip(resumed.state_dict().items(), whole.state_dict().items(), strict=True):
        torch.testing.assert_close(ours, expected, msg=name)


def test_monitors_are_logged_once_the_window_is_full() -> None:
    task = make_task(monitor_window=60)
    trainer = fit(task, DataModule(make_source(), 5), max_epochs=2)
    assert trainer.callback_metrics["collapse/prototypes_used"] > 1
    assert float(trainer.callback_metrics["collapse/marginal_ceiling"]) == pytest.approx(2.7725887)  # ln 16
    assert int(task.window_sums[0]) == 0
    assert {name for name in trainer.callback_metrics} <= set(SelfDistillation.metrics)


def test_too_warm_a_teacher_raises_the_warning_of_uniform_collapse_and_the_usual_one_none(
    caplog: pytest.LogCaptureFixture,
) -> None:
    fit(make_task(teacher_temp=5.0, monitor_window=30, warmup_steps=0), DataModule(make_source(), 15), max_epochs=2)
    assert "uniform collapse" in caplog.text and "lower task.teacher_temp" in caplog.text
    caplog.clear()
    fit(make_task(monitor_window=30, warmup_steps=0), DataModule(make_source(), 15), max_epochs=2)
    assert "collapse" not in caplog.text


def test_validation_probes_the_embeddings() -> None:
    trainer = fit(make_task(koleo_weight=0.1), DataModule(make_source(), 5), max_epochs=1)
    assert 1.0 <= float(trainer.callback_metrics["collapse/effective_rank"]) <= 8.0
    assert "train/koleo" in trainer.callback_metrics


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"student_temp": 0.0}, "student_temp must be positive"),
        ({"teacher_momentum": 1.5}, "teacher_momentum must be between 0 and 1"),
        ({"centring": "both"}, "centring must be ema, sinkhorn or none"),
        ({"koleo_weight": -1.0}, "koleo_weight must be 0 or more"),
        ({"teacher_temp_start": -0.1}, "teacher_temp_start must be positive"),
        ({"teacher_momentum_end": 2.0}, "teacher_momentum_end must be between 0 and 1"),
        ({"hidden_weight": -1.0}, "hidden_weight must be 0 or more"),
        ({"hidden_weight": 1.0}, "model.hidden_token=true"),
    ],
)
def test_wrong_settings_are_errors(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_task(**changes)


def test_temperature_and_momentum_of_the_teacher_follow_their_ramps(monkeypatch: pytest.MonkeyPatch) -> None:
    import nissl.tasks.self_distillation as module

    momenta, temperatures = [], []
    update, probabilities = module.update_teacher, module.teacher_probabilities
    monkeypatch.setattr(module, "update_teacher", lambda *a: momenta.append(a[2]) or update(*a))
    monkeypatch.setattr(module, "teacher_probabilities", lambda *a: temperatures.append(a[2]) or probabilities(*a))
    task = make_task(teacher_temp_start=0.01, teacher_momentum_end=1.0)
    fit(task, DataModule(make_source(), 5), max_steps=6)
    assert momenta == pytest.approx([ramp(i, 0.9, 1.0, 4, "cosine") for i in range(6)])
    assert temperatures[::2] == pytest.approx([0.01, 0.02, 0.03, 0.04, 0.05, 0.05])


def test_hidden_nodes_join_the_loss_and_their_token_learns() -> None:
    task = make_task(hidden_token=True, hidden_weight=1.0, hidden_share=0.5)
    before = task.model.tokens.hidden.detach().clone()  # type: ignore[union-attr, operator]
    trainer = fit(task, DataModule(make_source(), 5), max_steps=2)
    assert trainer.callback_metrics["train/hidden"] > 0
    assert not torch.equal(task.model.tokens.hidden, before)  # type: ignore[union-attr, arg-type]


def test_local_views_are_for_the_student_alone() -> None:
    task, source = make_task(), make_source()
    source.encode = task.model.position_encoder()  # type: ignore[operator]
    pairs = [source.split("train")[k] for k in range(3)]
    third = [source.split("train")[k + 3][0] for k in range(3)]
    batch = source.collate([(*pair, local) for pair, local in zip(pairs, third, strict=True)])
    task.num_views, task.num_whole_views = 3, 2
    seen = []
    task.teacher.register_forward_hook(lambda module, inputs, output: seen.append(len(output)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # no trainer to log to
        loss = task.training_step(batch, 0)
    assert seen == [6] and torch.isfinite(loss)
    torch.testing.assert_close(task.teacher(_first_graphs(batch, 6)), task.teacher(source.collate(pairs)))


def test_a_model_without_prototypes_is_refused() -> None:
    with pytest.raises(ValueError, match="Linear cannot be self-distilled"):
        make_task(model=torch.nn.Linear(2, 2))


def test_profiles_and_contrast_are_learnt_beside_the_teacher() -> None:
    class Losses(pl.Callback):
        def __init__(self) -> None:
            self.seen: list[tuple[float, float]] = []

        def on_train_epoch_end(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
            metrics = trainer.callback_metrics
            self.seen.append((float(metrics["train/profile"]), float(metrics["train/contrast"])))

    task, losses = make_task(profile_weight=1.0, contrast_weight=1.0, distillation_weight=0.3), Losses()
    fit(task, DataModule(make_source(), 15), max_epochs=20, callbacks=[losses])
    assert losses.seen[-1][0] < losses.seen[0][0] and losses.seen[-1][1] < losses.seen[0][1]
    optimized = {id(p) for group in task.configure_optimizers()["optimizer"].param_groups for p in group["params"]}
    assert optimized == {id(p) for p in [*task.model.parameters(), *task.profile_head.parameters()]}  # type: ignore[union-attr]


def test_the_head_of_profiles_keeps_distances_up_to_its_scale() -> None:
    torch.manual_seed(0)
    head, embedding = IsometricHead(8, PROFILE_COLUMNS), torch.randn(5, 8)
    head.log_scale.data.fill_(0.7)
    mapped = head(embedding)
    torch.testing.assert_close(torch.pdist(mapped), torch.e**0.7 * torch.pdist(embedding))
    with pytest.raises(ValueError, match="at most 59 features, came 60"):
        IsometricHead(60, PROFILE_COLUMNS)
