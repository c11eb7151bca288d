"""Learning to grow one object: the network sees its own earlier answers, move after move.

Each example starts with one active voxel at its centre. The network is trained on the field of view there, its answer
is written back, and every neighbouring position that the answer reaches becomes a later training step, exactly as in
inference (the parts of a move are those of `nissl.flood_fill.movement`). Nothing is back-propagated through moves.

Source: Januszewski et al. 2018, https://doi.org/10.1038/s41592-018-0049-4; google/ffn (training/examples.py).
Differences: an optimizer step takes examples at different moves, so that none waits for the others to finish; and
scores are given at probability 0.5 as well as at the reference's 0.9, which young networks never reach (soft labels end
at 0.95). On several devices each works on examples of its own, and gradients are averaged over all of their moves.
"""

from __future__ import annotations

import copy
import math
from collections import Counter, deque
from collections.abc import Iterable
from contextlib import nullcontext
from typing import Any, Literal

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nissl.flood_fill.movement import logit
from nissl.models.ffn import Convolution
from nissl.tasks.growing import POLICIES, Growing, Movement, PolicyName

WARMUP_STEPS, LOWEST_FACTOR = 100, 0.02  # of the learning rate's schedule
CERTAIN, HALF = 0.9, 0.5  # probabilities at which an object is scored


class FloodFilling(pl.LightningModule):
    """Task for networks (image, seed logits) -> seed logits that know how they move: their `fov_zyx`, `deltas_zyx`,
    `init_activation`, `pad_value` and `move_threshold`.

    Examples may be larger than the field of view by any number of steps: 2 * deltas for each step to both sides.

    Args:
        model: the network.
        optimizer: partial of a torch optimizer, called with the parameters.
        policy: where an example moves, see `nissl.tasks.growing.Movement`.
        window_radius: of the policy "fixed_window", voxels.
        max_moves: a training example ends after this many moves, the first included; null lets it go to all of its
            offsets, as validation always does. Few moves of many examples teach a young network more than many of few.
        moves_per_step: moves of different examples in one optimizer step; null takes as many as the loader's batch.
        soft_label: the target is 1 - soft_label inside the object and soft_label outside.
        clip_value: every entry of the gradient is clipped to this magnitude.
        nonfinite: an infinite or undefined loss ends the training ("abort") or is left out and counted ("skip").
        boundary_weight: of an auxiliary loss: the features that the head reads must also tell, by a linear map, which
            voxels belong to no object at all. It needs `dataset.patches.target=labels` and teaches a young network what
            a membrane is long before it can grow. 0 for none, as published.
        decay_steps: the learning rate rises over the first 100 optimizer steps and falls along a cosine until this one;
            null keeps it constant.
        ema_decay: the network that is validated, evaluated and kept is the exponential average of the trained weights,
            with this factor per step (lower in the first steps); null for none.
    """

    metrics = {
        "train/loss": "min",
        "train/f1_at_50": "max",
        "train/moves_per_example": None,
        "train/fovs": None,
        "train/examples": None,
        "train/skipped_steps": "min",
        "val/loss": "min",
        "val/precision_at_50": "max",
        "val/recall_at_50": "max",
        "val/f1_at_50": "max",
        "val/accuracy_at_50": "max",
        "val/specificity_at_50": "max",
        "val/precision_at_90": "max",
        "val/recall_at_90": "max",
        "val/f1_at_90": "max",
        "val/accuracy_at_90": "max",
        "val/specificity_at_90": "max",
        "val/moves_per_example": None,
        "val/moves_correct": None,
        "val/moves_missed": "min",
        "val/moves_spurious": "min",
    }
    num_fovs: Tensor
    num_examples: Tensor
    num_skipped: Tensor

    def __init__(
        self,
        model: nn.Module,
        optimizer: Any,
        policy: PolicyName,
        window_radius: int,
        max_moves: int | None,
        moves_per_step: int | None,
        soft_label: float,
        clip_value: float,
        nonfinite: Literal["abort", "skip"],
        boundary_weight: float,
        decay_steps: int | None,
        ema_decay: float | None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        if ema_decay is not None and not 0 < ema_decay < 1:
            raise ValueError(f"ema_decay must lie between 0 and 1, or be null, came {ema_decay}")
        if policy not in POLICIES:
            raise ValueError(f"policy must be one of {', '.join(POLICIES)}, came {policy!r}")
        if nonfinite not in ("abort", "skip"):
            raise ValueError(f"nonfinite must be abort or skip, came {nonfinite!r}")
        self.model, self.make_optimizer, self.ema_decay = model, optimizer, ema_decay
        self.learner = model if ema_decay is None else copy.deepcopy(model)
        if ema_decay is not None:
            model.requires_grad_(False)  # an average follows; it is not trained
        self.boundary_weight = boundary_weight
        self.boundary = Convolution(model.head.in_channels, 1, 1) if boundary_weight > 0 else None  # type: ignore
        self.init_logit, self.pad_logit = logit(float(model.init_activation)), logit(float(model.pad_value))  # type: ignore[arg-type]
        threshold = logit(float(model.move_threshold))  # type: ignore[arg-type]
        self.movement = Movement(model.fov_zyx, model.deltas_zyx, threshold, policy, window_radius)  # type: ignore[arg-type]
        self.max_moves, self.moves_per_step = max_moves, moves_per_step
        self.soft_label, self.clip_value, self.nonfinite = soft_label, clip_value, nonfinite
        self.decay_steps = decay_steps
        # Fields of view seen is the x-axis that compares with the literature; buffers survive a resume.
        for name in ("num_fovs", "num_examples", "num_skipped"):
            self.register_buffer(name, torch.zeros((), dtype=torch.int64))
        self._growing: deque[Growing] = deque()
        self._scores: list[Tensor] = []

    def forward(self, image: Tensor, seed_logits: Tensor) -> Tensor:
        return self.model(image, seed_logits)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.make_optimizer(self._trained())

    def _trained(self) -> list[nn.Parameter]:
        extra = [] if self.boundary is None else list(self.boundary.parameters())
        return [*self.learner.parameters(), *extra]

    def on_train_epoch_start(self) -> None:
        self._growing.clear()

    def training_step(self, batch: dict[str, Tensor], batch_index: int) -> None:
        """Optimizer steps while enough examples move to fill one; at an epoch's end, until none moves any more."""
        num_slots = self.moves_per_step or len(batch["image"])
        self._growing.extend(self._fresh(batch))
        enough = 1 if self.trainer.is_last_batch else num_slots
        losses: list[Tensor] = []
        moves: list[int] = []
        finished: list[Growing] = []
        while self._on_any_device(len(self._growing) >= enough):
            slots = [self._growing.popleft() for _ in range(min(num_slots, len(self._growing)))]
            loss, num_moves = self._optimizer_step(slots)
            if num_moves:
                losses.append(loss * num_moves)
                moves.append(num_moves)
                self._growing.extend(example for example in slots if example.view is not None)
                finished += [example for example in slots if example.view is None]
        self.num_fovs += sum(moves)
        self.num_examples += self._over_devices(torch.tensor([float(len(batch["image"]))], device=self.device)).long()[
            0
        ]
        if moves:
            self.log("train/loss", torch.stack(losses).sum() / max(sum(moves), 1), prog_bar=True)
        if finished:
            counts = torch.stack([_counts(example.seed, example.label) for example in finished]).sum(0)
            self.log("train/f1_at_50", _f_scores(counts)["f1_at_50"], prog_bar=True)
            visited = [len(example.visited) for example in finished]
            self.log("train/moves_per_example", sum(visited) / len(visited))
        self.log("train/fovs", self.num_fovs.float())
        self.log("train/examples", self.num_examples.float())
        self.log("train/skipped_steps", self.num_skipped.float())

    def _optimizer_step(self, slots: list[Growing]) -> tuple[Tensor, int]:
        """One update from one move of each slot. Returns the mean loss and the number of moves, over all devices.

        A device without moves takes part with a weight of 0: every device makes the same number of steps.
        """
        optimizer = self.optimizers()
        optimizer.zero_grad()  # type: ignore[union-attr]
        total = torch.zeros((), device=self.device)
        if slots:
            new, loss, auxiliary = self._answer(slots)
            total = loss.detach() * len(slots)
            loss = loss + self.boundary_weight * auxiliary
            if torch.isfinite(loss):
                with self.trainer.strategy.block_backward_sync() if self._num_devices > 1 else nullcontext():  # type: ignore[attr-defined]
                    self.manual_backward(loss)
                for example, logits in zip(slots, new, strict=True):
                    example.take(logits, self.max_moves)
        total, num_moves = self._average_gradients(total, len(slots))
        if not torch.isfinite(total):
            self._nonfinite(total)
            return torch.zeros_like(total), 0
        nn.utils.clip_grad_value_(self._trained(), self.clip_value)
        for group in optimizer.param_groups:  # type: ignore[union-attr]
            group["lr"] = optimizer.defaults["lr"] * self._learning_rate_factor()  # type: ignore[union-attr]
        optimizer.step()  # type: ignore[union-attr]
        self._average_weights()
        return total / num_moves, num_moves

    def _answer(self, slots: list[Growing]) -> tuple[Tensor, Tensor, Tensor]:
        """The learner's logits at the next view of each slot, (B, 1, Z, Y, X), their loss and the auxiliary loss."""
        image, target, seed, weight = self._views(slots)
        if self.boundary is None:
            new = self.learner(image, seed)
            return new, F.binary_cross_entropy_with_logits(new, target, weight), torch.zeros((), device=self.device)
        hidden = self.learner.hidden(image, seed)  # type: ignore[operator]
        new = seed + self.learner.head(hidden)  # type: ignore[operator]
        empty = torch.stack([example.empty[(slice(None), *example.view)] for example in slots])  # type: ignore
        auxiliary = F.binary_cross_entropy_with_logits(self.boundary(hidden), empty.float(), weight)
        return new, F.binary_cross_entropy_with_logits(new, target, weight), auxiliary

    def _nonfinite(self, loss: Tensor) -> None:
        if self.nonfinite == "abort":
            raise FloatingPointError(
                f"the loss became {loss.item()} after {int(self.num_fovs)} fields of view. Lower task.optimizer.lr or "
                "task.clip_value, or set task.nonfinite=skip to leave such steps out."
            )
        self.num_skipped += 1

    @property
    def _num_devices(self) -> int:
        return self.trainer.world_size

    def _over_devices(self, values: Tensor) -> Tensor:
        """Sums over all devices."""
        if self._num_devices > 1:
            torch.distributed.all_reduce(values)
        return values

    def _on_any_device(self, fact: bool) -> bool:
        return (
            fact
            if self._num_devices == 1
            else bool(self._over_devices(torch.tensor([float(fact)], device=self.device))[0])
        )

    def _average_gradients(self, total: Tensor, num_moves: int) -> tuple[Tensor, int]:
        """Gradients, mean over the moves of all devices, left in the parameters; sums of loss and moves."""
        if self._num_devices == 1:
            return total, num_moves
        parameters = self._trained()
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients]) * num_moves
        flat = self._over_devices(torch.cat([flat, total[None], torch.tensor([float(num_moves)], device=self.device)]))
        num_moves = int(flat[-1])
        for parameter, gradient in zip(parameters, flat[:-2].split([p.numel() for p in parameters]), strict=True):
            parameter.grad = gradient.view_as(parameter) / num_moves
        return flat[-2], num_moves

    def _learning_rate_factor(self) -> float:
        """From the number of steps done alone, so that nothing has to be kept for a resume."""
        if self.decay_steps is None:
            return 1.0
        done = min(self.global_step / self.decay_steps, 1.0)
        return min(1.0, (self.global_step + 1) / WARMUP_STEPS) * max(
            LOWEST_FACTOR, 0.5 * (1 + math.cos(math.pi * done))
        )

    @torch.no_grad()
    def _average_weights(self) -> None:
        if self.ema_decay is None:
            return
        # The first steps move far; averaging over them with the full memory would keep the initial weights.
        decay = min(self.ema_decay, (1 + self.global_step) / (10 + self.global_step))
        for average, current in zip(self.model.parameters(), self.learner.parameters(), strict=True):
            average.lerp_(current, 1 - decay)

    def on_validation_epoch_start(self) -> None:
        self._scores, self._moves = [], Counter[str]()

    def validation_step(self, batch: dict[str, Tensor], batch_index: int) -> None:
        examples = self._fresh(batch)
        total, num_moves = torch.zeros((), device=self.device), 0
        while slots := [example for example in examples if example.view is not None]:
            image, target, seed, weight = self._views(slots)
            new = self.model(image, seed)
            total += F.binary_cross_entropy_with_logits(new, target, weight) * len(slots)
            num_moves += len(slots)
            for example, logits in zip(slots, new, strict=True):
                example.take(logits)
        self.log("val/loss", total / num_moves, batch_size=num_moves, prog_bar=True)
        self.log("val/moves_per_example", num_moves / len(examples), batch_size=len(examples))
        for example in examples:
            self._scores.append(_counts(example.seed, example.label))
            self._moves.update(example.moves())

    def on_validation_epoch_end(self) -> None:
        for name, value in _f_scores(torch.stack(self._scores).sum(0)).items():
            self.log(f"val/{name}", value, prog_bar=name == "f1_at_50", sync_dist=True)
        for name in ("correct", "missed", "spurious"):
            self.log(f"val/moves_{name}", float(self._moves[name]), sync_dist=True, reduce_fx="sum")

    def _fresh(self, batch: dict[str, Tensor]) -> list[Growing]:
        """Examples that have not begun: one active voxel at the centre."""
        seeds = torch.full_like(batch["image"], self.pad_logit)
        z, y, x = (size // 2 for size in seeds.shape[2:])
        seeds[:, :, z, y, x] = self.init_logit
        label, empty = batch["label"], torch.zeros_like(batch["label"], dtype=torch.bool)
        if not label.is_floating_point():
            empty = label == 0
            label = ((label == label[:, :, z : z + 1, y : y + 1, x : x + 1]) & ~empty).float()
        elif self.boundary is not None:
            raise ValueError("task.boundary_weight needs to know every object: set dataset.patches.target=labels")
        weights = batch.get("weight", [None] * len(seeds))
        parts = zip(batch["image"], label, seeds, empty, batch["draw"].tolist(), weights, strict=True)
        return [
            Growing(image, truth, seed, no, self.movement, draw, weight)
            for image, truth, seed, no, draw, weight in parts
        ]

    def _views(self, slots: Iterable[Growing]) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Image, soft target, seed logits and (if there are any) weights of the next field of view of each example,
        (B, 1, Z, Y, X) each."""
        parts = [(example, (slice(None), *example.view)) for example in slots if example.view is not None]
        image = torch.stack([example.image[part] for example, part in parts])
        label = torch.stack([example.label[part] for example, part in parts])
        seed = torch.stack([example.seed[part] for example, part in parts])
        given = [example.weight[part] for example, part in parts if example.weight is not None]
        weight = torch.stack(given) if given else None
        return image, label * (1 - 2 * self.soft_label) + self.soft_label, seed, weight


def _counts(seeds: Tensor, label: Tensor) -> Tensor:
    """Voxels true positive, false positive, false negative, true negative at probability 0.5 and 0.9, (2, 4) int64."""
    truth = label > 0.5
    rows = []
    for probability in (HALF, CERTAIN):
        found = seeds > logit(probability)  # strictly: voxels not visited may hold exactly pad_value = 0.5
        pairs = (found & truth, found & ~truth, ~found & truth, ~found & ~truth)
        rows.append(torch.stack([pair.sum() for pair in pairs]))
    return torch.stack(rows)


def _f_scores(counts: Tensor) -> dict[str, Tensor]:
    """Precision, recall, F1, accuracy and specificity at both probabilities; 0 where there is nothing to divide by."""
    scores = {}
    for (hit, false, missed, rest), name in zip(counts.double(), ("at_50", "at_90"), strict=True):
        scores[f"precision_{name}"] = hit / (hit + false).clamp(min=1)
        scores[f"recall_{name}"] = hit / (hit + missed).clamp(min=1)
        scores[f"f1_{name}"] = 2 * hit / (2 * hit + false + missed).clamp(min=1)
        scores[f"accuracy_{name}"] = (hit + rest) / (hit + false + missed + rest).clamp(min=1)
        scores[f"specificity_{name}"] = rest / (rest + false).clamp(min=1)
    return {name: value.float() for name, value in scores.items()}
