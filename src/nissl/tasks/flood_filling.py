"""Learning to grow one object: the network sees its own earlier answers, move after move.

Each example starts with one active voxel at its centre. The network is trained on the field of view there, its answer
is written back, and every neighbouring position that the answer reaches becomes the next training step, exactly as in
inference (the parts of a move are those of `nissl.flood_fill.movement`). Nothing is back-propagated through moves.

Source: Januszewski et al. 2018, https://doi.org/10.1038/s41592-018-0049-4; google/ffn (training/examples.py), policy
`fixed`: the centre, then its 26 neighbours at +-deltas in random order, each only if the object has reached it.
Differences: the order is drawn per example and visit, not once per run; only examples that still move are evaluated,
so a batch shrinks instead of idling; and scores are given at probability 0.5 as well as at the reference's 0.9, which
young networks never reach (soft labels end at 0.95).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nissl.flood_fill.movement import Slices, Triple, logit, shell_offsets, window

WARMUP_STEPS, LOWEST_FACTOR = 100, 0.02  # of the learning rate's schedule
CERTAIN, HALF = 0.9, 0.5  # probabilities at which an object is scored


class FloodFilling(pl.LightningModule):
    """Task for networks (image, seed logits) -> seed logits that know how they move: their `fov_zyx`, `deltas_zyx`,
    `init_activation`, `pad_value` and `move_threshold`.

    Examples may be larger than the field of view by any number of steps: 2 * deltas for each step to both sides.

    Args:
        model: the network.
        optimizer: partial of a torch optimizer, called with the parameters.
        max_moves: a training example ends after this many moves, the first included; null lets it go to all of its
            offsets, as validation always does. Few moves of many examples teach a young network more than many of few.
        soft_label: the target is 1 - soft_label inside the object and soft_label outside.
        clip_value: every entry of the gradient is clipped to this magnitude.
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
        "val/loss": "min",
        "val/precision_at_50": "max",
        "val/recall_at_50": "max",
        "val/f1_at_50": "max",
        "val/precision_at_90": "max",
        "val/recall_at_90": "max",
        "val/f1_at_90": "max",
        "val/moves_per_example": None,
    }
    num_fovs: Tensor
    num_examples: Tensor

    def __init__(
        self,
        model: nn.Module,
        optimizer: Any,
        max_moves: int | None,
        soft_label: float,
        clip_value: float,
        decay_steps: int | None,
        ema_decay: float | None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        if ema_decay is not None and not 0 < ema_decay < 1:
            raise ValueError(f"ema_decay must lie between 0 and 1, or be null, came {ema_decay}")
        self.model, self.make_optimizer, self.ema_decay = model, optimizer, ema_decay
        self.learner = model if ema_decay is None else copy.deepcopy(model)
        self.fov: Triple = model.fov_zyx  # type: ignore[assignment]
        self.deltas: Triple = model.deltas_zyx  # type: ignore[assignment]
        self.init_logit, self.pad_logit, self.move_logit = (
            logit(float(getattr(model, name))) for name in ("init_activation", "pad_value", "move_threshold")
        )
        self.max_moves, self.soft_label, self.clip_value = max_moves, soft_label, clip_value
        self.decay_steps = decay_steps
        # Fields of view seen is the x-axis that compares with the literature; buffers survive a resume.
        self.register_buffer("num_fovs", torch.zeros((), dtype=torch.int64))
        self.register_buffer("num_examples", torch.zeros((), dtype=torch.int64))
        self._scores: list[Tensor] = []

    def forward(self, image: Tensor, seed_logits: Tensor) -> Tensor:
        return self.model(image, seed_logits)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.make_optimizer(self.learner.parameters())

    def training_step(self, batch: dict[str, Tensor], batch_index: int) -> None:
        optimizer = self.optimizers()
        losses, num_moves = [], 0
        seeds = self._fresh_seeds(batch["image"])
        for slots, views in self._moves(batch["draw"], seeds, self.max_moves):
            image, target, seed = self._views(batch, seeds, slots, views)
            new = self.learner(image, seed)
            loss = F.binary_cross_entropy_with_logits(new, target)
            if not torch.isfinite(loss):
                raise FloatingPointError(
                    f"the loss became {loss.item()} after {int(self.num_fovs)} fields of view. "
                    "Lower task.optimizer.lr or task.clip_value."
                )
            optimizer.zero_grad()  # type: ignore[union-attr]
            self.manual_backward(loss)
            nn.utils.clip_grad_value_(self.learner.parameters(), self.clip_value)
            for group in optimizer.param_groups:  # type: ignore[union-attr]
                group["lr"] = optimizer.defaults["lr"] * self._learning_rate_factor()  # type: ignore[union-attr]
            optimizer.step()  # type: ignore[union-attr]
            self._average_weights()
            self._write_back(seeds, slots, views, new.detach())
            losses.append(loss.detach() * len(slots))
            num_moves += len(slots)
        self.num_fovs += num_moves
        self.num_examples += len(seeds)
        self.log("train/loss", torch.stack(losses).sum() / num_moves, prog_bar=True)
        scores = _f_scores(_counts(seeds, batch["label"]))
        self.log("train/f1_at_50", scores["f1_at_50"], prog_bar=True)
        self.log("train/moves_per_example", num_moves / len(seeds))
        self.log("train/fovs", self.num_fovs.float())
        self.log("train/examples", self.num_examples.float())

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
        self._scores = []

    def validation_step(self, batch: dict[str, Tensor], batch_index: int) -> None:
        seeds = self._fresh_seeds(batch["image"])
        total, num_moves = torch.zeros((), device=seeds.device), 0
        for slots, views in self._moves(batch["draw"], seeds):
            image, target, seed = self._views(batch, seeds, slots, views)
            new = self.model(image, seed)
            total += F.binary_cross_entropy_with_logits(new, target) * len(slots)
            self._write_back(seeds, slots, views, new)
            num_moves += len(slots)
        self.log("val/loss", total / num_moves, batch_size=num_moves, prog_bar=True)
        self.log("val/moves_per_example", num_moves / len(seeds), batch_size=len(seeds))
        self._scores.append(_counts(seeds, batch["label"]))

    def on_validation_epoch_end(self) -> None:
        for name, value in _f_scores(torch.stack(self._scores).sum(0)).items():
            self.log(f"val/{name}", value, prog_bar=name == "f1_at_50")

    def _fresh_seeds(self, image: Tensor) -> Tensor:
        """Seed logits of examples that have not begun, (B, 1, Z, Y, X)."""
        seeds = torch.full_like(image, self.pad_logit)
        z, y, x = (size // 2 for size in image.shape[2:])
        seeds[:, :, z, y, x] = self.init_logit
        return seeds

    def _steps(self, shape: Sequence[int]) -> int:
        """How many steps an example of this shape has room for, to each side."""
        for steps in range(8):
            if tuple(size + 2 * steps * delta for size, delta in zip(self.fov, self.deltas, strict=True)) == tuple(
                shape
            ):
                return steps
        raise ValueError(
            f"examples have {tuple(shape)} voxels; the network needs its field of view {self.fov} plus a multiple of "
            f"twice its deltas {self.deltas}. Take dataset.patches.fov_zyx and deltas_zyx from the model."
        )

    def _moves(
        self, draws: Tensor, seeds: Tensor, max_moves: int | None = None
    ) -> Iterator[tuple[list[int], list[Slices]]]:
        """Which examples move next, and the field of view of each; looks at the seeds as they are updated.

        The first move of every example is at its centre. After it each example takes the next of its shuffled offsets
        that the object has reached, one per round, until none has any left.
        """
        shape = seeds.shape[2:]
        offsets = np.array(shell_offsets(self.deltas, self._steps(shape)), np.int64).reshape(-1, 3)
        centre = np.array(shape) // 2
        orders = [(centre + np.random.default_rng([1, int(draw)]).permutation(offsets)).tolist() for draw in draws]
        yield list(range(len(seeds))), [window(centre.tolist(), self.fov)] * len(seeds)
        num_rounds = 1
        while max_moves is None or num_rounds < max_moves:
            slots, views = [], []
            for slot, order in enumerate(orders):
                while order:
                    z, y, x = order.pop()
                    if float(seeds[slot, 0, z, y, x]) >= self.move_logit:
                        slots.append(slot)
                        views.append(window((z, y, x), self.fov))
                        break
            if not slots:
                return
            yield slots, views
            num_rounds += 1

    def _views(
        self, batch: dict[str, Tensor], seeds: Tensor, slots: list[int], views: list[Slices]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Image, soft target and seed logits of one field of view per slot, (B, 1, Z, Y, X) each."""

        def gather(array: Tensor) -> Tensor:
            return torch.stack([array[slot][(slice(None), *view)] for slot, view in zip(slots, views, strict=True)])

        target = gather(batch["label"]) * (1 - 2 * self.soft_label) + self.soft_label
        return gather(batch["image"]), target, gather(seeds)

    @staticmethod
    def _write_back(seeds: Tensor, slots: list[int], views: list[Slices], new: Tensor) -> None:
        for slot, view, logits in zip(slots, views, new, strict=True):
            seeds[slot][(slice(None), *view)] = logits


def _counts(seeds: Tensor, label: Tensor) -> Tensor:
    """Voxels true positive, false positive, false negative at probability 0.5 and 0.9, (2, 3) int64."""
    truth = label > 0.5
    rows = []
    for probability in (HALF, CERTAIN):
        found = seeds > logit(probability)  # strictly: voxels not visited may hold exactly pad_value = 0.5
        rows.append(torch.stack([(found & truth).sum(), (found & ~truth).sum(), (~found & truth).sum()]))
    return torch.stack(rows)


def _f_scores(counts: Tensor) -> dict[str, Tensor]:
    """Precision, recall and F1 at both probabilities; 0 where nothing is found, or nothing is there to find."""
    scores = {}
    for (hit, false, missed), name in zip(counts.double(), ("at_50", "at_90"), strict=True):
        scores[f"precision_{name}"] = hit / (hit + false).clamp(min=1)
        scores[f"recall_{name}"] = hit / (hit + missed).clamp(min=1)
        scores[f"f1_{name}"] = 2 * hit / (2 * hit + false + missed).clamp(min=1)
    return {name: value.float() for name, value in scores.items()}
