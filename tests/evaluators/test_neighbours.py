import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from nissl.evaluators.neighbours import balanced_accuracy, choose_k, knn_predict, nearest_others, votes


@pytest.mark.parametrize("k", [1, 3, 5, 20])
def test_the_vote_equals_scikit_learn_ties_included(k: int) -> None:
    rng = np.random.default_rng(k)
    train, test, labels = rng.integers(0, 3, (60, 2)), rng.integers(0, 3, (40, 2)), rng.integers(0, 4, 60)
    expected = KNeighborsClassifier(k, algorithm="brute").fit(train, labels).predict(test)
    np.testing.assert_array_equal(knn_predict(train, labels, test, k, "euclidean"), expected)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_soft_votes_equal_a_slow_loop(metric: str) -> None:
    rng = np.random.default_rng(0)
    distance, labels = np.sort(rng.random((6, 4)), axis=1), rng.integers(0, 3, (6, 4))
    counted = votes(distance, labels, 3, metric, 0.5)
    for i in range(6):
        expected = [0.0, 0.0, 0.0]
        for d, label in zip(distance[i], labels[i], strict=True):
            exponent = (1 - d) / 0.5 if metric == "cosine" else -d / (0.5 * distance[i].mean())
            expected[label] += np.exp(exponent)
        np.testing.assert_allclose(counted[i], expected)


def test_a_near_neighbour_outvotes_two_far_ones_only_softly() -> None:
    train, labels = np.array([[0.0], [1.0], [1.1]]), np.array([0, 1, 1])
    test = np.array([[0.05]])
    assert knn_predict(train, labels, test, 3, "euclidean") == 1
    assert knn_predict(train, labels, test, 3, "euclidean", temperature=0.2) == 0


def test_a_cell_is_never_its_own_neighbour_even_where_another_equals_it() -> None:
    x = np.array([[0.0], [0.0], [5.0], [6.0]])
    _, index = nearest_others(x, 1, "euclidean")
    assert index[:, 0].tolist() == [1, 0, 3, 2]


def test_balanced_accuracy_is_the_mean_recall() -> None:
    labels = np.array([0, 0, 0, 0, 1, 2, 2])
    predicted = np.array([0, 0, 0, 0, 0, 2, 1])  # recalls 1, 0, 0.5
    assert balanced_accuracy(predicted, labels) == pytest.approx(0.5)
    assert (predicted == labels).mean() != pytest.approx(0.5)


def test_the_k_that_names_the_training_cells_best_is_chosen() -> None:
    # Pairs of one class, far apart: the nearest is right, three are wrong more often than not.
    x = np.array([[0.0], [0.1], [1.0], [1.1], [2.0], [2.1]])
    labels = np.array([0, 0, 1, 1, 0, 0])
    assert choose_k(x, labels, [3, 1], "euclidean", None) == 1
    with pytest.raises(ValueError, match="needs more than the 6 training cells"):
        choose_k(x, labels, [9], "euclidean", None)
