"""Readings of "correct", on answers made by hand."""

from itertools import combinations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from nissl.evaluators.accuracy import (
    Predictions,
    accuracy_by_frame,
    accuracy_card,
    calibration_error,
    cell_recalls,
    confusion_counts,
)

SETS = [(i,) for i in range(8)] + list(combinations(range(8), 2)) + [(8,)]


def design(frames: int = 2) -> np.ndarray:
    """Labels of every single, pair and none of 8 cells, `frames` of each: (37 * frames, 9)."""
    labels = np.zeros((len(SETS), 9))
    for row, names in zip(labels, SETS, strict=True):
        row[list(names)] = 1
    return np.repeat(labels, frames, axis=0)


def predictions(logits: np.ndarray, labels: np.ndarray | None = None) -> Predictions:
    labels = design() if labels is None else labels
    pattern = np.unique(labels, axis=0, return_inverse=True)[1]
    return Predictions(logits, labels, pattern, pattern.copy(), np.zeros(len(labels), int), has_none=True)


def test_a_perfect_network_is_right_under_every_reading() -> None:
    card = accuracy_card(predictions(design() * 8 - 4))
    right = ("lenient", "strict", "exact", "balanced", "balanced_strata", "stimulated", "trial")
    assert all(card[f"accuracy_{name}"] == 1 for name in right)
    assert card["jaccard"] == card["recall_topk"] == card["auroc_macro"] == card["none_recall"] == 1


def test_always_answering_none_scores_the_share_of_none() -> None:
    logits = np.tile(np.array([-4.0] * 8 + [4]), (74, 1))
    card = accuracy_card(predictions(logits))
    assert card["accuracy_lenient"] == card["none_share"] == pytest.approx(1 / 37)
    assert card["accuracy_balanced_strata"] == pytest.approx(1 / 3) and card["accuracy_stimulated"] == 0


def test_answering_everything_overlaps_always_and_is_never_exact() -> None:
    card = accuracy_card(predictions(np.full((74, 9), 3.0)))
    assert card["any_overlap"] == 1 and card["mean_predicted"] == 9 and card["accuracy_exact"] == 0


def test_the_best_single_answer_recalls_cells_in_0_5625_of_their_frames() -> None:
    # Name one cell of each pair, taking turns, and every single: no answer by one output can do better on average.
    labels = design(frames=2)
    logits = np.full(labels.shape, -4.0)
    for frame, row in enumerate(labels):
        members = np.flatnonzero(row)
        logits[frame, members[frame % len(members)]] = 4
    p = predictions(logits, labels)
    rows = cell_recalls(p, [str(i + 1) for i in range(8)] + ["none"])
    assert accuracy_card(p)["accuracy_lenient"] == 1
    assert np.mean([row["top1"] for row in rows]) == pytest.approx(0.5625)
    assert np.mean([row["ceiling_top1"] for row in rows]) == pytest.approx(0.5625)
    assert all(row["top1_single"] == 1 and row["top1_pair"] == 0.5 for row in rows)


def test_chance_and_majority_are_those_of_the_design() -> None:
    card = accuracy_card(predictions(np.zeros((74, 9))))
    assert card["chance"] == pytest.approx((1 * 1 + 8 * 1 + 28 * 2) / 37 / 9)
    assert card["majority"] == pytest.approx(8 / 37)  # each cell is in 1 single and 7 pairs


def test_readings_of_one_pair_by_hand() -> None:
    # True {0, 1}; strongest 0, then 2; above 0.5: 0 and 2.
    labels = np.zeros((1, 9))
    labels[0, :2] = 1
    logits = np.full((1, 9), -5.0)
    logits[0, [0, 1, 2]] = [3, -1, 2]
    card = accuracy_card(predictions(logits, labels))
    assert card["accuracy_lenient"] == 1 and card["accuracy_strict"] == 0 and card["accuracy_exact"] == 0
    assert card["recall_topk"] == 0.5 and card["jaccard"] == pytest.approx(1 / 3)


def test_balanced_accuracy_weighs_patterns_alike() -> None:
    labels = np.array([[1.0, 0, 0]] * 3 + [[0, 0, 1]])
    logits = np.array([[2.0, 0, 0]] * 3 + [[1, 0, 0]])
    card = accuracy_card(predictions(logits, labels))
    assert card["accuracy_lenient"] == 0.75 and card["accuracy_balanced"] == 0.5


def test_a_trial_is_judged_by_its_mean_logits() -> None:
    labels = np.array([[1.0, 0, 0]] * 3)
    logits = np.array([[9.0, 0, 0], [0, 1, 0], [0, 1, 0]])
    p = Predictions(logits, labels, np.zeros(3, int), np.zeros(3, int), np.arange(3), has_none=True)
    card = accuracy_card(p)
    assert card["accuracy_lenient"] == pytest.approx(1 / 3) and card["accuracy_trial"] == 1


def test_auroc_is_the_mean_over_outputs_that_vary() -> None:
    rng = np.random.default_rng(0)
    labels, logits = design(), rng.normal(size=(74, 9))
    expected = np.mean([roc_auc_score(labels[:, c], logits[:, c]) for c in range(9)])
    assert accuracy_card(predictions(logits, labels))["auroc_macro"] == pytest.approx(expected)


def test_calibration_error_is_the_distance_of_stated_and_observed() -> None:
    probability = np.full((10, 1), 0.9)
    true = np.array([[True]] * 6 + [[False]] * 4)
    assert calibration_error(probability, true) == pytest.approx(0.3)


def test_a_trial_pattern_is_the_stimulated_one() -> None:
    labels = np.array([[0.0, 0, 1], [1, 0, 0], [0, 0, 1]])
    p = Predictions(labels, labels, np.array([2, 0, 2]), np.array([5, 5, 6]), np.zeros(3, int), has_none=True)
    assert p.trial_pattern.tolist() == [0, 0, 2]


def test_recalls_without_a_none_output_cover_every_class() -> None:
    labels = np.eye(3)
    p = Predictions(labels, labels, np.arange(3), np.arange(3), np.zeros(3, int), has_none=False)
    rows = cell_recalls(p, ["near", "middle", "far"])
    assert [row["cell"] for row in rows] == ["near", "middle", "far"] and all(row["top1"] == 1 for row in rows)


def test_confusion_counts_frames_of_pattern_by_answer() -> None:
    p = predictions(np.array([[0.0, 1, 0], [1, 0, 0]]), np.array([[0.0, 1, 0], [0, 1, 0]]))
    assert confusion_counts(p, 1).tolist() == [[1, 1, 0]]


def test_accuracy_by_frame_groups_by_time_since_onset() -> None:
    labels = np.eye(3)[[0, 0, 2]]
    p = Predictions(np.eye(3)[[0, 1, 2]], labels, np.array([0, 0, 2]), np.zeros(3, int), np.array([1, 1, -1]), True)
    assert [(row["frame_since_onset"], row["accuracy_lenient"]) for row in accuracy_by_frame(p)] == [(-1, 1), (1, 0.5)]
