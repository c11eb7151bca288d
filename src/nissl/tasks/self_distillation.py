"""Learn by predicting, from one view of a cell, what a slowly moving copy of oneself says about another view.

The student is `model`; the teacher is a copy that follows it. A batch holds 2B graphs: B first views, then B second
views of the same cells; with more views per cell the data's settings say how many are whole, and only those reach the
teacher (multi-crop: Caron et al. 2020, https://arxiv.org/abs/2006.09882). After *each optimizer step*, once, whatever
the accumulation: teacher <- momentum teacher + (1 - momentum) student, then the centre takes in the mean of the
teacher's logits of this step. The loss of a step uses the centre from before it. Plain functions are in
`distillation.py`; signs of collapse in `collapse.py`.

Everything that matters to the next step is in the state dict: teacher, centre, the monitors' running window.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Iterable
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from nissl.tasks.collapse import (
    CollapseRules,
    collapse_warnings,
    effective_rank,
    entropy,
    leave_one_out_balanced_accuracy,
    linear_r2,
    mean_cosine,
)
from nissl.tasks.distillation import (
    contrast,
    dino_loss,
    hidden_node_loss,
    hidden_nodes,
    koleo,
    learning_rate_factor,
    next_centre,
    ramp,
    sinkhorn_probabilities,
    teacher_probabilities,
    update_teacher,
)

log = logging.getLogger(__name__)

PROFILE_COLUMNS = 59  # of a cell's profile, see datasets/tree_profiles
SETTLING_WARMUPS = 4  # warm-ups after which collapse is warned of: a fresh bounded head is near uniform


class SelfDistillation(pl.LightningModule):
    """DINO on pairs of views.

    Args:
        model: student; `model(batch)` gives prototype logits, `model.embed(batch)` embeddings.
        optimizer: called with the student's parameters.
        student_temp, teacher_temp: softmax temperatures.
        teacher_temp_start: the teacher's temperature at step 0, reaching `teacher_temp` linearly after `ramp_steps`;
            None keeps it. A sharp teacher early on fixes prototypes at random.
        teacher_momentum: how slowly the teacher moves.
        teacher_momentum_end: what it becomes by a cosine over `ramp_steps`; None keeps it.
        ramp_steps: of both.
        centring: "ema" subtracts the centre, as published; "sinkhorn" balances prototypes within the batch instead;
            "none" does neither.
        centre_momentum: how slowly the centre moves.
        koleo_weight: weight of the spread of the embeddings in the loss, see `koleo`; 0 in the reference.
        hidden_weight: weight of `hidden_node_loss` in the loss; 0 in the reference. Needs model.hidden_token=true.
        distillation_weight: weight of the published loss; `train/loss` is without it.
        contrast_weight: weight of `contrast` between the embeddings of the first two views; 0 in the reference.
        contrast_temp: its temperature.
        profile_weight: weight of the squared error of the cell's profile as told from a view, see `IsometricHead`; 0 in
            the reference. Needs a source that describes its cells (`source.describe`).
        hidden_share: nodes hidden from the student where that weight is not 0.
        warmup_steps, halve_every: see `learning_rate_factor`.
        monitor_window: teacher outputs averaged before the collapse monitors are logged; the marginal entropy cannot
            exceed ln of it, so at least about 4 per prototype.
    """

    metrics = {
        "train/loss": "min",
        "train/kl": None,
        "train/epoch_loss": "min",
        "train/hidden": None,
        "train/koleo": None,
        "train/contrast": "min",
        "train/profile": "min",
        "train/grad_norm": None,
        "train/learning_rate": None,
        "collapse/teacher_entropy": None,
        "collapse/marginal_entropy": "max",
        "collapse/marginal_ceiling": None,
        "collapse/prototypes_used": "max",
        "collapse/prototypes_argmax": "max",
        "collapse/student_entropy": None,
        "collapse/logit_norm": None,
        "collapse/effective_rank": "max",
        "collapse/mean_cosine": "min",
        "collapse/mean_cosine_centred": None,
        "collapse/depth_correlation": None,
        "collapse/size_correlation": None,
        "knn/val_balanced_accuracy": "max",
    }

    centre: Tensor
    window_marginal: Tensor
    window_argmax: Tensor
    window_sums: Tensor

    def __init__(
        self,
        model: nn.Module,
        optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer],
        student_temp: float,
        teacher_temp: float,
        teacher_temp_start: float | None,
        teacher_momentum: float,
        teacher_momentum_end: float | None,
        ramp_steps: int,
        centring: Literal["ema", "sinkhorn", "none"],
        centre_momentum: float,
        koleo_weight: float,
        hidden_weight: float,
        hidden_share: float,
        warmup_steps: int,
        halve_every: int,
        monitor_window: int,
        distillation_weight: float = 1.0,
        contrast_weight: float = 0.0,
        contrast_temp: float = 0.2,
        profile_weight: float = 0.0,
    ) -> None:
        super().__init__()
        first_temp = teacher_temp if teacher_temp_start is None else teacher_temp_start
        last_momentum = teacher_momentum if teacher_momentum_end is None else teacher_momentum_end
        temperatures = {
            "student_temp": student_temp,
            "teacher_temp": teacher_temp,
            "teacher_temp_start": first_temp,
            "contrast_temp": contrast_temp,
        }
        for name, value in temperatures.items():
            if not value > 0:
                raise ValueError(f"task.{name} must be positive, came {value}")
        shares = {
            "teacher_momentum": teacher_momentum,
            "teacher_momentum_end": last_momentum,
            "centre_momentum": centre_momentum,
            "hidden_share": hidden_share,
        }
        for name, value in shares.items():
            if not 0 <= value <= 1:
                raise ValueError(f"task.{name} must be between 0 and 1, came {value}")
        if centring not in ("ema", "sinkhorn", "none"):
            raise ValueError(f"task.centring must be ema, sinkhorn or none, came {centring!r}")
        weights = {
            "koleo_weight": koleo_weight,
            "hidden_weight": hidden_weight,
            "distillation_weight": distillation_weight,
            "contrast_weight": contrast_weight,
            "profile_weight": profile_weight,
        }
        for name, value in weights.items():
            if value < 0:
                raise ValueError(f"task.{name} must be 0 or more, came {value}")
        if hidden_weight > 0 and not getattr(model, "hidden_token", False):
            raise ValueError("task.hidden_weight needs a model that knows hidden nodes: model.hidden_token=true")
        self.centring, self.koleo_weight = centring, koleo_weight
        self.distillation_weight = distillation_weight
        self.contrast_weight, self.contrast_temp = contrast_weight, contrast_temp
        self.hidden_weight, self.hidden_share = hidden_weight, hidden_share
        self.model = model
        self.profile_weight = profile_weight
        self.profile_head = IsometricHead(embedding_dim(model), PROFILE_COLUMNS) if profile_weight > 0 else None
        self.teacher = copy.deepcopy(model).requires_grad_(False)
        self.make_optimizer = optimizer
        self.student_temp, self.teacher_temp, self.first_temp = student_temp, teacher_temp, first_temp
        self.teacher_momentum, self.last_momentum = teacher_momentum, last_momentum
        self.centre_momentum, self.ramp_steps = centre_momentum, ramp_steps
        self.num_whole_views, self.num_views = 2, 2
        self.warmup_steps, self.halve_every = warmup_steps, halve_every
        self.monitor_window = monitor_window
        num_prototypes = num_outputs(model)
        self.register_buffer("centre", torch.zeros(num_prototypes))
        self.register_buffer("window_marginal", torch.zeros(num_prototypes, dtype=torch.float64))
        self.register_buffer("window_argmax", torch.zeros(num_prototypes, dtype=torch.int64))
        # Count of teacher outputs, and sums over them of teacher entropy, student entropy, norm of the logits.
        self.register_buffer("window_sums", torch.zeros(4, dtype=torch.float64))
        self._pending_logits: list[Tensor] = []
        self._probe: list[dict[str, Tensor]] = []

    def forward(self, batch: Any) -> Tensor:
        """Prototype logits of the student, (graphs, K)."""
        return self.model(batch)

    def setup(self, stage: str) -> None:
        """Tell the training data how this model encodes positions, so that the loader's workers do it."""
        source: Any = getattr(getattr(self.trainer, "datamodule", None), "source", None)
        position_encoder: Any = getattr(self.model, "position_encoder", None)
        if stage == "fit" and hasattr(source, "encode") and position_encoder is not None:
            source.encode = position_encoder()
        if stage == "fit" and self.profile_head is not None:
            if not hasattr(source, "describe"):
                raise ValueError(f"task.profile_weight needs cells with profiles, and {type(source).__name__} has none")
            source.describe = True
        views: Any = getattr(source, "views", None)
        self.num_whole_views = getattr(views, "num_views", 2)
        self.num_views = self.num_whole_views + getattr(views, "num_local_views", 0)

    def training_step(self, batch: Any, batch_index: int) -> Tensor:
        cells = batch.num_graphs // self.num_views
        whole = _first_graphs(batch, self.num_whole_views * cells) if self.num_views > self.num_whole_views else batch
        temperature = ramp(self.global_step, self.first_temp, self.teacher_temp, self.ramp_steps, "linear")
        embedding = self.model.embed(batch)  # type: ignore[operator]
        student_logits = self.model.projector(embedding)  # type: ignore[operator]
        with torch.no_grad():
            teacher_logits = self.teacher(whole)
            target = self._targets(teacher_logits, temperature)
        loss = dino_loss(student_logits, target, self.student_temp, cells)
        self._watch(student_logits[: len(teacher_logits)].detach(), teacher_logits, temperature)
        self._pending_logits.append(teacher_logits.mean(dim=0))
        self.log("train/loss", loss.detach(), prog_bar=True, batch_size=cells)
        self.log("train/epoch_loss", loss.detach(), on_step=False, on_epoch=True, batch_size=cells)
        self.log("train/kl", loss.detach() - entropy(target).mean(), batch_size=cells)
        loss = self.distillation_weight * loss
        first, second = embedding[:cells], embedding[cells : 2 * cells]
        if self.contrast_weight > 0:
            between = contrast(first, second, self.contrast_temp)
            self.log("train/contrast", between.detach(), prog_bar=True, batch_size=cells)
            loss = loss + self.contrast_weight * between
        if self.profile_head is not None:
            error = (self.profile_head(embedding) - batch.profile).square().sum(dim=-1).mean()
            self.log("train/profile", error.detach(), prog_bar=True, batch_size=cells)
            loss = loss + self.profile_weight * error
        if self.koleo_weight > 0:
            spread = (koleo(first) + koleo(second)) / 2
            self.log("train/koleo", spread.detach(), batch_size=cells)
            loss = loss + self.koleo_weight * spread
        if self.hidden_weight > 0:
            hidden = self._hidden_node_loss(whole, temperature)
            self.log("train/hidden", hidden.detach(), batch_size=cells)
            loss = loss + self.hidden_weight * hidden
        return loss

    def _targets(self, logits: Tensor, temperature: float) -> Tensor:
        if self.centring == "sinkhorn":
            return sinkhorn_probabilities(logits, temperature)
        return teacher_probabilities(logits, self.centre, temperature)

    def _hidden_node_loss(self, batch: Any, temperature: float) -> Tensor:
        """The student sees a share of the nodes by their place in the tree alone; the teacher sees them all."""
        hidden = hidden_nodes(batch.ptr, self.hidden_share, self.global_step)
        student = self.model.projector(self.model.embed_nodes(batch, hidden)[hidden])  # type: ignore[operator]
        with torch.no_grad():
            teacher = self.teacher.projector(self.teacher.embed_nodes(batch, None)[hidden])  # type: ignore[operator]
        return hidden_node_loss(student, self._targets(teacher, temperature), self.student_temp)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """One step of the optimizer, then one of teacher and centre; not called while gradients accumulate."""
        super().optimizer_step(*args, **kwargs)
        momentum = ramp(self.global_step, self.teacher_momentum, self.last_momentum, self.ramp_steps, "cosine")
        update_teacher(self.teacher, self.model, momentum)
        batch_mean = torch.stack(self._pending_logits).mean(dim=0)
        self._pending_logits.clear()
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(batch_mean)
            batch_mean /= torch.distributed.get_world_size()
        if self.centring != "none":  # with sinkhorn for the monitors alone
            self.centre.copy_(next_centre(self.centre, batch_mean, self.centre_momentum))

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        norm = nn.utils.get_total_norm([p.grad for p in self.model.parameters() if p.grad is not None])
        self.log("train/grad_norm", norm)
        self.log("train/learning_rate", optimizer.param_groups[0]["lr"])

    def configure_optimizers(self) -> Any:
        of_head = [] if self.profile_head is None else list(self.profile_head.parameters())
        optimizer = self.make_optimizer([*self.model.parameters(), *of_head])
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: learning_rate_factor(step, self.warmup_steps, self.halve_every)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    # Monitors ---------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def _watch(self, student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> None:
        """Add a batch to the window.

        The teacher is watched through the centre, also with sinkhorn: its targets use all prototypes by construction,
        so their marginal entropy would say nothing.
        """
        probabilities = teacher_probabilities(teacher_logits, self.centre, temperature)
        teacher_entropy = entropy(probabilities)
        self.window_marginal += probabilities.sum(dim=0)
        self.window_argmax += torch.bincount(probabilities.argmax(dim=1), minlength=len(self.centre))
        student = torch.softmax(student_logits / self.student_temp, dim=-1)
        sums = [teacher_entropy.sum(), entropy(student).sum(), teacher_logits.norm(dim=-1).sum()]
        self.window_sums += torch.stack([torch.tensor(float(len(probabilities))).to(sums[0]), *sums])

    def on_train_epoch_end(self) -> None:
        count = int(self.window_sums[0])
        if count < self.monitor_window:
            return
        teacher_entropy, student_entropy, logit_norm = (self.window_sums[1:] / count).tolist()
        marginal = float(entropy(self.window_marginal / count))
        self.log_dict(
            {
                "collapse/teacher_entropy": teacher_entropy,
                "collapse/student_entropy": student_entropy,
                "collapse/logit_norm": logit_norm,
                "collapse/marginal_entropy": marginal,
                "collapse/marginal_ceiling": math.log(min(count, len(self.centre))),
                "collapse/prototypes_used": math.exp(marginal),
                "collapse/prototypes_argmax": float((self.window_argmax > 0).sum()),
            }
        )
        if self.global_step > SETTLING_WARMUPS * self.warmup_steps:
            for warning in collapse_warnings(teacher_entropy, marginal, count, len(self.centre), CollapseRules()):
                log.warning("%s (step %d)", warning, self.global_step)
        for buffer in (self.window_marginal, self.window_argmax, self.window_sums):
            buffer.zero_()

    def validation_step(self, batch: Any, batch_index: int) -> None:
        y = batch.pos[:, 1]
        graph = batch.batch
        num_nodes = torch.bincount(graph)
        sums = torch.zeros(len(num_nodes), 2, device=y.device)
        sums.index_add_(0, graph, torch.stack([y, batch.pos.norm(dim=1)], dim=1))
        self._probe.append(
            {
                "embedding": self.model.embed(batch),  # type: ignore[operator]
                "label": batch.label,
                "depth": sums[:, 0] / num_nodes,
                "size": sums[:, 1] / num_nodes,
            }
        )

    def on_validation_epoch_end(self) -> None:
        """Judge the embeddings of the validation cells: rank, cosines, shortcuts, neighbours' labels."""
        probe = {name: torch.cat([part[name] for part in self._probe]) for name in self._probe[0]}
        self._probe.clear()
        embedding = probe["embedding"].float()
        if len(embedding) < 3:
            return
        rank = effective_rank(embedding)
        self.log_dict(
            {
                "collapse/effective_rank": rank,
                "collapse/mean_cosine": mean_cosine(embedding),
                "collapse/mean_cosine_centred": mean_cosine(embedding - embedding.mean(dim=0)),
                "collapse/depth_correlation": linear_r2(embedding, probe["depth"]),
                "collapse/size_correlation": linear_r2(embedding, probe["size"]),
                "knn/val_balanced_accuracy": leave_one_out_balanced_accuracy(embedding, probe["label"]),
            }
        )
        if rank < CollapseRules().min_effective_rank and self.global_step > 0:
            log.warning("the embeddings fill %.1f directions (step %d): collapse", rank, self.global_step)


def _first_graphs(batch: Any, count: int) -> Any:
    """The first graphs of a batch as a batch, without taking it apart."""
    nodes = int(batch.ptr[count])
    whole = copy.copy(batch)
    is_inside = batch.edge_index[0] < nodes
    whole.pos, whole.edge_index, whole.ptr = batch.pos[:nodes], batch.edge_index[:, is_inside], batch.ptr[: count + 1]
    if getattr(batch, "pe", None) is not None:
        whole.pe = batch.pe[:nodes]
    return whole


class IsometricHead(nn.Module):
    """A linear map from embeddings (n, D) to profiles (n, T) that keeps distances up to one factor.

    So that the profile's geometry becomes the embedding's: what tells cells apart there tells them apart here, where
    nearest neighbours are looked for. Its columns are orthonormal (QR of a free matrix).
    """

    def __init__(self, dim: int, num_columns: int) -> None:
        super().__init__()
        if dim > num_columns:
            raise ValueError(f"task.profile_weight allows embeddings of at most {num_columns} features, came {dim}")
        self.free = nn.Parameter(torch.randn(num_columns, dim))
        self.centre = nn.Parameter(torch.zeros(dim))
        self.log_scale = nn.Parameter(torch.zeros(()))

    def forward(self, embedding: Tensor) -> Tensor:
        columns, _ = torch.linalg.qr(self.free)
        return self.log_scale.exp() * (embedding - self.centre) @ columns.T


def embedding_dim(model: nn.Module) -> int:
    """Features of a model's embedding: its attribute `embedding_dim`."""
    size = getattr(model, "embedding_dim", None)
    if not isinstance(size, int):
        raise ValueError(f"{type(model).__name__} cannot learn profiles: it has no attribute embedding_dim")
    return size


def num_outputs(model: nn.Module) -> int:
    """Prototypes of a model: the size of its attribute `num_prototypes`."""
    count = getattr(model, "num_prototypes", None)
    if not isinstance(count, int):
        raise ValueError(f"{type(model).__name__} cannot be self-distilled: it has no attribute num_prototypes")
    return count
