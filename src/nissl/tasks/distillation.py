"""Self-distillation without labels, as plain functions: loss, centre, teacher, learning rate.

Caron et al. 2021 (DINO, https://arxiv.org/abs/2104.14294) with the settings of GraphDINO (Weis et al. 2023,
https://openreview.net/forum?id=ThhMzfrd6r; marissaweis/ssl_neuron@0a292e7178).

Departure: `log_softmax` where the reference takes log(p + 1e-20); the two agree unless a probability underflows.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

# B cells, K prototypes; the logits of the views are stacked: rows 0..B-1 are view 1, rows B..2B-1 view 2, ...


def teacher_probabilities(logits: Tensor, centre: Tensor, temperature: float) -> Tensor:
    """softmax((t - c) / temperature); logits (2B, K), centre (K,)."""
    return torch.softmax((logits - centre) / temperature, dim=-1)


def sinkhorn_probabilities(logits: Tensor, temperature: float, iterations: int = 3) -> Tensor:
    """Teacher probabilities that use every prototype equally over the batch; logits (n, K).

    Rows and columns of exp(t / temperature) are normalised in turn, rows last. In place of the centre it rules out the
    collapse to few prototypes within each batch. Source: Caron et al. 2020 (SwAV), https://arxiv.org/abs/2006.09882.
    """
    log_p = logits.double() / temperature
    for _ in range(iterations):
        log_p = log_p - torch.logsumexp(log_p, dim=0, keepdim=True)
        log_p = log_p - torch.logsumexp(log_p, dim=1, keepdim=True)
    return log_p.exp().to(logits.dtype)


def dino_loss(student_logits: Tensor, target: Tensor, student_temp: float, num_cells: int | None = None) -> Tensor:
    """Cross entropy of the student on one view with the teacher on every other, in nats; lower is better.

    Args:
        student_logits: (V B, K), the V views stacked; the teacher's views come first.
        target: probabilities of the teacher, (T B, K) for the first T views; no gradient flows into them.
        num_cells: B; None for two views of each.

    Returns:
        Scalar, the mean over cells and pairs of different views; at least the mean entropy of the teacher.
    """
    b = len(target) // 2 if num_cells is None else num_cells
    log_student = torch.log_softmax(student_logits / student_temp, dim=-1).unflatten(0, (-1, b))  # (V, B, K)
    taught = target.detach().unflatten(0, (-1, b))  # (T, B, K)
    cross_entropy = -torch.einsum("tbk,vbk->tv", taught, log_student) / b
    is_other = ~torch.eye(*cross_entropy.shape, dtype=torch.bool, device=cross_entropy.device)
    return cross_entropy[is_other].mean()


def hidden_nodes(ptr: Tensor, share: float, seed: int) -> Tensor:
    """Which nodes the student does not see, (nodes,) bool: about `share` of each graph's, never the soma.

    Args:
        ptr: first node of each graph and the end, (B + 1,).
        seed: the choice depends on nothing else.
    """
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.rand(int(ptr[-1]), generator=generator) < share
    hidden[ptr[:-1].cpu()] = False
    return hidden.to(ptr.device)


def hidden_node_loss(student_logits: Tensor, target: Tensor, student_temp: float) -> Tensor:
    """Cross entropy of what the student says of hidden nodes with what the teacher sees there, nats; (m, K) each.

    The patch objective of iBOT (Zhou et al. 2022, https://arxiv.org/abs/2111.07832), nodes for patches.
    """
    return -(target.detach() * torch.log_softmax(student_logits / student_temp, dim=-1)).sum(dim=-1).mean()


def ramp(step: int, start: float, end: float, num_steps: int, shape: str) -> float:
    """A value on its way from `start` to `end` over `num_steps`, "linear" or "cosine"; `end` from then on.

    >>> [ramp(i, 0.0, 1.0, 4, "linear") for i in (0, 2, 4, 9)]
    [0.0, 0.5, 1.0, 1.0]
    """
    if step >= num_steps:
        return end
    share = step / num_steps
    if shape == "cosine":
        share = (1.0 - math.cos(math.pi * share)) / 2.0
    return start + (end - start) * share


def koleo(embeddings: Tensor) -> Tensor:
    """Minus the mean log distance to the nearest neighbour among unit embeddings (n, D); small when they spread out.

    Source: Sablayrolles et al. 2019, https://arxiv.org/abs/1806.03198.
    """
    unit = torch.nn.functional.normalize(embeddings, dim=-1)
    with torch.no_grad():
        cosine = unit @ unit.T
        cosine.fill_diagonal_(-2.0)
        nearest = cosine.argmax(dim=1)
    return -torch.log((unit - unit[nearest]).norm(dim=-1) + 1e-8).mean()


def contrast(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """Cross entropy of finding a cell's other view among those of the batch, nats; embeddings (B, D) of two views.

    By the cosine of the embeddings, in both directions; ln B for embeddings that are all equal. Source: NT-Xent
    without the negatives of the same view (Chen et al. 2020, https://arxiv.org/abs/2002.05709; as in CLIP).
    """
    normalise = torch.nn.functional.normalize
    logits = normalise(first, dim=-1) @ normalise(second, dim=-1).T / temperature
    own = torch.arange(len(logits), device=logits.device)
    cross_entropy = torch.nn.functional.cross_entropy
    return (cross_entropy(logits, own) + cross_entropy(logits.T, own)) / 2


def next_centre(centre: Tensor, batch_mean: Tensor, momentum: float) -> Tensor:
    """Running mean of the teacher's logits, (K,)."""
    return momentum * centre + (1.0 - momentum) * batch_mean


@torch.no_grad()
def update_teacher(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """teacher <- momentum teacher + (1 - momentum) student, parameters only, in place."""
    torch._foreach_lerp_(list(teacher.parameters()), list(student.parameters()), 1.0 - momentum)


def learning_rate_factor(step: int, warmup_steps: int, halve_every: int) -> float:
    """Share of the full learning rate at step 0, 1, ...: linear warm-up, then halved smoothly every `halve_every`.

    The reference takes warmup_steps = max_iter // 50 and halve_every = max_iter // 5.

    >>> [round(learning_rate_factor(i, 20, 200), 4) for i in (0, 19, 20, 220, 999)]
    [0.05, 1.0, 1.0, 0.5, 0.0336]
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    return 0.5 ** ((step - warmup_steps) / halve_every)
