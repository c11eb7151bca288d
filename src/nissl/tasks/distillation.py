"""Self-distillation without labels, as plain functions: loss, centre, teacher, learning rate.

Caron et al. 2021 (DINO, https://arxiv.org/abs/2104.14294) with the settings of GraphDINO (Weis et al. 2023,
https://openreview.net/forum?id=ThhMzfrd6r; marissaweis/ssl_neuron@0a292e7178).

Departure: `log_softmax` where the reference takes log(p + 1e-20); the two agree unless a probability underflows.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

# B cells, K prototypes; the logits of both views are stacked: rows 0..B-1 are view 1, rows B..2B-1 view 2


def teacher_probabilities(logits: Tensor, centre: Tensor, temperature: float) -> Tensor:
    """softmax((t - c) / temperature); logits (2B, K), centre (K,)."""
    return torch.softmax((logits - centre) / temperature, dim=-1)


def sinkhorn_probabilities(logits: Tensor, temperature: float, iterations: int = 3) -> Tensor:
    """Teacher probabilities that use every prototype equally over the batch; logits (2B, K).

    Rows and columns of exp(t / temperature) are normalised in turn, rows last. In place of the centre it rules out the
    collapse to few prototypes within each batch. Source: Caron et al. 2020 (SwAV), https://arxiv.org/abs/2006.09882.
    """
    log_p = logits.double() / temperature
    for _ in range(iterations):
        log_p = log_p - torch.logsumexp(log_p, dim=0, keepdim=True)
        log_p = log_p - torch.logsumexp(log_p, dim=1, keepdim=True)
    return log_p.exp().to(logits.dtype)


def dino_loss(student_logits: Tensor, target: Tensor, student_temp: float) -> Tensor:
    """Cross entropy of the student on one view with the teacher on the other, in nats; lower is better.

    Args:
        student_logits: (2B, K), the two views stacked.
        target: probabilities of the teacher, (2B, K), stacked alike; no gradient flows into them.

    Returns:
        Scalar; at least the mean entropy of the teacher.
    """
    log_student = torch.log_softmax(student_logits / student_temp, dim=-1)
    other_view = target.detach().roll(len(target) // 2, dims=0)
    return -(other_view * log_student).sum(dim=-1).mean()


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
