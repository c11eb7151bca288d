import math

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score
from sklearn.neighbors import KNeighborsClassifier

from nissl.tasks.collapse import (
    CollapseRules,
    collapse_warnings,
    effective_rank,
    entropy,
    leave_one_out_balanced_accuracy,
    linear_r2,
    mean_cosine,
)

K = 1000


def test_entropies_of_the_limits() -> None:
    assert float(entropy(torch.tensor([1.0, 0.0]))) == 0.0
    assert float(entropy(torch.full((K,), 1 / K))) == pytest.approx(math.log(K), abs=1e-4)
    four = torch.eye(4).repeat(5, 1).mean(dim=0)
    assert float(entropy(four)) == pytest.approx(math.log(4), abs=1e-6)


def test_two_equal_singular_values_are_an_effective_rank_of_2() -> None:
    x = torch.zeros(4, 5)
    x[0, 0], x[1, 0], x[2, 1], x[3, 1] = 1, -1, 1, -1
    assert effective_rank(x) == pytest.approx(2.0)
    assert effective_rank(x * torch.tensor([1.0, 0, 0, 0, 0])) == pytest.approx(1.0)
    assert math.isnan(effective_rank(torch.ones(4, 5)))


def test_mean_cosine_of_pairs() -> None:
    assert mean_cosine(torch.ones(5, 3)) == pytest.approx(1.0)
    assert mean_cosine(torch.eye(3)) == pytest.approx(0.0)


def test_what_is_linear_in_the_embedding_is_explained_and_noise_is_not() -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(200, 6, generator=g)
    assert linear_r2(x, x @ torch.arange(6.0)) > 0.99
    assert linear_r2(x, torch.randn(200, generator=g)) < 0.1
    assert math.isnan(linear_r2(x[:8], x[:8, 0])) and math.isnan(linear_r2(x, torch.ones(200)))


def test_leave_one_out_never_counts_the_cell_itself() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60, 4)), rng.integers(0, 3, 60)
    x[:, 0] += y
    predicted = []
    for i in range(60):
        rest = np.arange(60) != i
        predicted.append(KNeighborsClassifier(5).fit(x[rest], y[rest]).predict(x[i : i + 1])[0])
    ours = leave_one_out_balanced_accuracy(torch.from_numpy(x), torch.from_numpy(y))
    assert ours == pytest.approx(balanced_accuracy_score(y, predicted))
    assert math.isnan(leave_one_out_balanced_accuracy(torch.zeros(5, 2), torch.zeros(5, dtype=torch.int64)))


@pytest.mark.parametrize(
    ("teacher", "marginal", "word"),
    [
        (math.log(K), math.log(K), "uniform"),
        (0.0, 0.1, "one prototype"),
        (0.01, math.log(5), "partial"),
        (0.5, 6.0, None),
        (0.01, 6.0, None),
    ],
)
def test_each_warning_fires_on_its_own_case_only(teacher: float, marginal: float, word: str | None) -> None:
    warnings = collapse_warnings(teacher, marginal, 4 * K, K, CollapseRules())
    assert len(warnings) == (word is not None) and all(word in w for w in warnings if word)
