"""Loss, centre, teacher and schedule worked by hand."""

import math

import pytest
import torch
from torch import nn

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


def random_logits(rows: int, seed: int) -> torch.Tensor:
    return torch.randn(rows, 7, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_loss_of_two_prototypes_by_hand() -> None:
    teacher = torch.tensor([[0.06 * math.log(3), 0.0]] * 2)
    student = torch.tensor([[0.9 * math.log(3), 0.0]] * 2)
    target = teacher_probabilities(teacher, torch.zeros(2), 0.06)
    torch.testing.assert_close(target, torch.tensor([[0.75, 0.25]] * 2))
    assert float(dino_loss(student, target, 0.9)) == pytest.approx(0.562335, abs=1e-6)
    assert float(dino_loss(torch.zeros(2, 2), target, 0.9)) == pytest.approx(math.log(2), abs=1e-6)


def test_each_view_is_compared_with_the_other() -> None:
    target = torch.eye(4, dtype=torch.float64)  # B = 2: rows 0, 1 are view 1, rows 2, 3 view 2
    student = torch.eye(4, dtype=torch.float64).roll(2, dims=0) * 50
    assert float(dino_loss(student, target, 1.0)) == pytest.approx(0.0, abs=1e-9)
    assert float(dino_loss(student.roll(1, dims=0), target, 1.0)) > 10


def test_swapping_the_views_or_adding_a_constant_changes_nothing() -> None:
    student, target = random_logits(6, 0), random_logits(6, 1).softmax(dim=-1)
    loss = dino_loss(student, target, 0.5)
    torch.testing.assert_close(dino_loss(student.roll(3, 0), target.roll(3, 0), 0.5), loss)
    torch.testing.assert_close(dino_loss(student + torch.arange(6.0)[:, None], target, 0.5), loss)


def test_the_loss_is_at_least_the_teachers_entropy() -> None:
    target = random_logits(6, 1).softmax(dim=-1)
    entropy = -(target * target.log()).sum(dim=-1).mean()
    assert dino_loss(random_logits(6, 0), target, 0.5) > entropy
    torch.testing.assert_close(dino_loss(target.log().roll(3, 0), target, 1.0), entropy)


def test_no_gradient_flows_into_the_teacher() -> None:
    student, teacher = random_logits(4, 0).requires_grad_(), random_logits(4, 1).requires_grad_()
    dino_loss(student, teacher.softmax(dim=-1), 0.9).backward()
    assert student.grad is not None and teacher.grad is None


def test_the_centre_moves_by_hand() -> None:
    logits = torch.tensor([[1.0, 3.0], [3.0, 5.0]])
    once = next_centre(torch.zeros(2), logits.mean(dim=0), 0.9)
    torch.testing.assert_close(once, torch.tensor([0.2, 0.4]))
    torch.testing.assert_close(next_centre(once, logits.mean(dim=0), 0.9), torch.tensor([0.38, 0.76]))


def test_the_teacher_moves_a_thousandth_of_the_way() -> None:
    teacher, student = nn.Linear(3, 2), nn.Linear(3, 2)
    for p in teacher.parameters():
        nn.init.ones_(p)
    for p in student.parameters():
        nn.init.zeros_(p)
    update_teacher(teacher, student, 0.999)
    for p in teacher.parameters():
        torch.testing.assert_close(p.detach(), torch.full_like(p, 0.999))


def test_sinkhorn_uses_every_prototype_equally() -> None:
    logits = torch.cat([random_logits(14, 0), random_logits(14, 1)]) + torch.tensor([9.0, 0, 0, 0, 0, 0, 0])
    p = sinkhorn_probabilities(logits, 0.5, iterations=50)
    torch.testing.assert_close(p.sum(dim=1), torch.ones(28, dtype=torch.float64))
    torch.testing.assert_close(p.mean(dim=0), torch.full((7,), 1 / 7, dtype=torch.float64), atol=1e-6, rtol=0)


def test_koleo_is_minus_the_log_distance_to_the_nearest_neighbour() -> None:
    embeddings = torch.tensor([[1.0, 0.0], [0.0, 2.0], [-3.0, 0.0]])
    assert float(koleo(embeddings)) == pytest.approx(-math.log(math.sqrt(2)), abs=1e-6)


def test_the_learning_rate_warms_up_and_halves() -> None:
    values = {0: 0.05, 19: 1.0, 20: 1.0, 220: 0.5, 999: 0.0336}
    assert {i: round(learning_rate_factor(i, 20, 200), 4) for i in values} == values


def test_with_more_views_every_student_view_learns_from_every_other_whole_view() -> None:
    # Two cells, two whole views and one local: pairs (teacher, student) 12, 13, 21, 23, by a slow loop.
    student, target = random_logits(6, 0), random_logits(4, 1).softmax(dim=-1)
    log_student, total = torch.log_softmax(student / 0.5, dim=-1), []
    for t in range(2):
        for v in range(3):
            if t != v:
                pairs = zip(target[2 * t : 2 * t + 2], log_student[2 * v : 2 * v + 2], strict=True)
                total.append(torch.stack([-(p * q).sum() for p, q in pairs]).mean())
    torch.testing.assert_close(dino_loss(student, target, 0.5, num_cells=2), torch.stack(total).mean())


def test_hidden_nodes_come_from_the_seed_and_never_are_a_soma() -> None:
    ptr = torch.tensor([0, 400, 1000])
    hidden = hidden_nodes(ptr, 0.3, seed=1)
    assert torch.equal(hidden, hidden_nodes(ptr, 0.3, seed=1)) and not torch.equal(
        hidden, hidden_nodes(ptr, 0.3, seed=2)
    )
    assert not hidden[0] and not hidden[400] and 0.25 < float(hidden.float().mean()) < 0.35


def test_the_loss_of_hidden_nodes_is_least_where_the_student_says_what_the_teacher_sees() -> None:
    target = random_logits(5, 0).softmax(dim=-1)
    entropy = -(target * target.log()).sum(dim=-1).mean()
    torch.testing.assert_close(hidden_node_loss(target.log(), target, 1.0), entropy)
    assert hidden_node_loss(random_logits(5, 1), target, 1.0) > entropy


def test_a_cosine_ramp_is_slow_at_both_ends() -> None:
    values = [ramp(i, 0.9, 1.0, 10, "cosine") for i in range(12)]
    assert values[0] == 0.9 and values[5] == pytest.approx(0.95) and values[10] == values[11] == 1.0
    assert values[1] - values[0] < values[5] - values[4]


def test_contrast_is_ln_b_for_equal_embeddings_and_that_of_a_slow_loop_otherwise() -> None:
    assert float(contrast(torch.ones(4, 3), torch.ones(4, 3), 0.2)) == pytest.approx(math.log(4))
    torch.manual_seed(0)
    first, second = torch.randn(5, 3), torch.randn(5, 3)
    total = 0.0
    for a, b in ((first, second), (second, first)):
        for i in range(5):
            cosines = [float(torch.cosine_similarity(a[i], b[j], dim=0)) / 0.2 for j in range(5)]
            total += math.log(sum(math.exp(c) for c in cosines)) - cosines[i]
    assert float(contrast(first, second, 0.2)) == pytest.approx(total / 10, rel=1e-5)
