"""Signs of collapse in self-distillation, as plain functions over probabilities and embeddings.

A collapsed run has the lowest loss of all, so the loss says nothing. These do: how sharp the teacher is (H_t), how many
prototypes it uses over many cells (H_marg), and how many directions the embeddings fill (effective rank).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

RIDGE = 1e-3  # relative to the mean squared embedding
FOLDS = 5


def entropy(probabilities: Tensor) -> Tensor:
    """Entropy along the last axis, nats; 0 log 0 is 0."""
    return -torch.special.xlogy(probabilities, probabilities).sum(dim=-1)


def effective_rank(embeddings: Tensor) -> float:
    """exp of the entropy of the normalised singular values of the centred embeddings (n, D); 1 to min(n - 1, D).

    Source: Roy and Vetterli 2007, https://ieeexplore.ieee.org/document/7098875. NaN where all embeddings are equal.
    """
    values = torch.linalg.svdvals(embeddings.double() - embeddings.double().mean(dim=0))
    if values.sum() == 0:
        return math.nan
    return float(entropy(values / values.sum()).exp())


def mean_cosine(embeddings: Tensor) -> float:
    """Mean cosine over all pairs of different rows (n, D); 1 when all point the same way."""
    n = len(embeddings)
    unit = torch.nn.functional.normalize(embeddings.double(), dim=-1)
    return float((unit.sum(dim=0).square().sum() - unit.square().sum()) / (n * (n - 1)))


def linear_r2(embeddings: Tensor, target: Tensor) -> float:
    """Cross-validated share of the variance of `target` (n,) that a ridge regression on (n, D) explains; at most 1.

    NaN for fewer than two cells per fold or a constant target.
    """
    n = len(target)
    x, y = embeddings.double(), target.double()
    if n < 2 * FOLDS or y.var() == 0:
        return math.nan
    x = (x - x.mean(dim=0)) / x.std(dim=0).clamp_min(1e-12)
    fold = torch.arange(n) % FOLDS
    predicted = torch.empty(n, dtype=torch.float64)
    for k in range(FOLDS):
        train, test = (fold != k).to(x.device), (fold == k).to(x.device)
        a, mean = x[train], y[train].mean()
        gram = a.T @ a + RIDGE * len(a) * torch.eye(x.shape[1], dtype=torch.float64, device=x.device)
        weights = torch.linalg.solve(gram, a.T @ (y[train] - mean))
        predicted[fold == k] = (x[test] @ weights + mean).cpu()
    return float(1.0 - (predicted - y.cpu()).square().sum() / (y - y.mean()).square().sum().cpu())


def leave_one_out_balanced_accuracy(embeddings: Tensor, labels: Tensor, k: int = 5) -> float:
    """Mean recall over classes of a k-nearest-neighbour vote that never counts the cell itself.

    A probe of progress on validation cells. Ties go to the class with the lowest number. NaN for k cells or fewer.
    """
    if len(labels) <= k:
        return math.nan
    distance = torch.cdist(embeddings, embeddings)
    distance.fill_diagonal_(torch.inf)
    votes = torch.nn.functional.one_hot(labels[distance.topk(k, largest=False).indices]).sum(dim=1)
    correct = (votes.argmax(dim=1) == labels).double()
    return float(torch.stack([correct[labels == c].mean() for c in labels.unique()]).mean())


@dataclass(frozen=True)
class CollapseRules:
    """Thresholds of the warnings. Entropies in nats."""

    uniform_share: float = 0.98  # of ln K: the teacher says nothing
    one_hot_entropy: float = 0.05  # the teacher is certain of one prototype per cell ...
    one_prototype_entropy: float = 0.5  # ... and of the same one for all
    partial_share: float = 0.4  # of the ceiling of H_marg: ... or of a handful
    min_effective_rank: float = 2.0


def collapse_warnings(
    teacher_entropy: float, marginal_entropy: float, num_samples: int, num_prototypes: int, rules: CollapseRules
) -> list[str]:
    """What is wrong with the teacher's outputs over a window, each with its likely cause; empty if nothing."""
    ceiling = math.log(min(num_samples, num_prototypes))
    if teacher_entropy > rules.uniform_share * math.log(num_prototypes):
        return ["uniform collapse: the teacher spreads over all prototypes; lower task.teacher_temp, check the centre"]
    if teacher_entropy < rules.one_hot_entropy and marginal_entropy < rules.one_prototype_entropy:
        return ["collapse to one prototype: centring too weak or batch too small; raise loader.batch_size"]
    if teacher_entropy < rules.one_hot_entropy and marginal_entropy < rules.partial_share * ceiling:
        return [
            f"partial collapse: about {math.exp(marginal_entropy):.0f} prototypes in use; "
            "try model.head=bounded, task.student_temp=0.1 or a larger batch"
        ]
    return []
