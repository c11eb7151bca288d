import dataclasses

import numpy as np
import pytest

from nissl.flood_fill.agglomeration import (
    Rule,
    Vetoes,
    agglomerate,
    disputed_pairs,
    fit_calibration,
    merge_probability,
    reliability,
    true_pairs,
)
from nissl.flood_fill.decision_points import DecisionPoint, decision_points
from nissl.flood_fill.resegmentation import PairScores

GOOD = PairScores(0.95, 0.9, 0.9, 0.9, 0.9, 0.0, 0.0, 5)
BAD = PairScores(0.0, 0.9, 0.0, 0.0, 0.9, 0.0, 0.0, 5)
RULE = Rule(0.8, 0.6, 0.02)
NM = (10.0, 10.0, 10.0)


def row_of_three():
    ids = np.zeros((1, 1, 12), np.int32)
    ids[..., 0:4], ids[..., 4:8], ids[..., 8:12] = 1, 2, 3
    return ids


def test_a_decision_point_lies_in_the_middle_of_the_closest_faces():
    ids = np.zeros((9, 9, 12), np.int32)
    ids[2:7, 2:7, 0:5], ids[2:7, 2:7, 7:12] = 1, 2
    (point,) = decision_points(ids, NM, 100.0)
    assert (point.first, point.second) == (1, 2)
    assert np.abs(np.subtract(point.point_zyx, (4, 4, 5))).max() <= 1 and point.distance_nm == pytest.approx(20, abs=5)
    assert decision_points(ids, NM, 5.0) == [] and decision_points(0 * ids, NM, 5.0) == []


def test_accepted_pairs_are_joined_and_chains_close():
    ids = row_of_three()
    points = decision_points(ids, NM, 10.0)
    assert [(p.first, p.second) for p in points] == [(1, 2), (2, 3)]
    joined, rows = agglomerate(ids, NM, points, [GOOD, GOOD], RULE, Vetoes())
    assert np.unique(joined).tolist() == [1] and all(row["joined"] for row in rows)
    joined, rows = agglomerate(ids, NM, points, [BAD, GOOD], RULE, Vetoes())
    assert np.unique(joined).tolist() == [1, 2] and rows[1]["reason"] == "scores"


@pytest.mark.parametrize(
    "changed", [{"iou": 0.8}, {"second_by_first": 0.6}, {"deleted_first": 0.02, "deleted_second": 0.02}]
)
def test_each_part_of_the_published_rule_can_refuse(changed):
    points = [DecisionPoint(1, 2, (0, 0, 4), 0.0)]
    _, rows = agglomerate(row_of_three(), NM, points, [dataclasses.replace(GOOD, **changed)], RULE, Vetoes())
    assert not rows[0]["joined"]
    one_clean = dataclasses.replace(GOOD, deleted_first=0.5)
    assert agglomerate(row_of_three(), NM, points, [one_clean], RULE, Vetoes())[1][0]["joined"]


def two_somata():
    """Two balls of 8 voxels radius, joined by a thread in two pieces."""
    z, y, x = np.indices((20, 20, 60))
    ids = np.zeros((20, 20, 60), np.int32)
    ids[9:12, 9:12, 10:30], ids[9:12, 9:12, 30:50] = 3, 4
    for segment, middle in ((1, 10), (2, 50)):
        ids[(z - 10) ** 2 + (y - 10) ** 2 + (x - middle) ** 2 <= 64] = segment
    return ids


def test_two_cell_bodies_stay_apart_at_the_least_certain_of_the_edges_that_would_join_them():
    ids = two_somata()
    points = [p for p in decision_points(ids, NM, 10.0) if (p.first, p.second) in {(1, 3), (3, 4), (2, 4)}]
    scores = [GOOD if (p.first, p.second) != (3, 4) else dataclasses.replace(GOOD, iou=0.85) for p in points]
    everything, _ = agglomerate(ids, NM, points, scores, RULE, Vetoes())
    assert np.unique(everything).tolist() == [0, 1]
    joined, rows = agglomerate(ids, NM, points, scores, RULE, Vetoes(soma_radius_nm=60.0))
    assert np.unique(joined).tolist() == [0, 1, 2]
    assert [row["reason"] for row in rows if (row["first"], row["second"]) == (3, 4)] == ["two_somata"]


def test_calibers_turns_and_fragments_can_forbid_a_join():
    ids = np.zeros((30, 30, 60), np.int32)
    ids[5:25, 5:25, 0:25], ids[13:16, 13:16, 25:50] = 1, 2  # a thick and a thin tube, end to end
    ids[13:16, 16:30, 45:48] = 3  # turns off at a right angle
    points = {(p.first, p.second): p for p in decision_points(ids, NM, 10.0)}

    def reason(pair, **limits):
        return agglomerate(ids, NM, [points[pair]], [GOOD], RULE, Vetoes(**limits))[1][0]["reason"]

    assert reason((1, 2), max_caliber_ratio=3.0) == "caliber_jump" and reason((1, 2), max_caliber_ratio=9.0) == ""
    assert reason((2, 3), min_turn_degrees=150.0) == "sharp_turn" and reason((1, 2), min_turn_degrees=150.0) == ""
    assert reason((1, 2), max_fragments=1) == "max_fragments"


def test_a_join_inside_a_mask_can_be_forbidden():
    forbidden = np.zeros((1, 1, 12), bool)
    forbidden[..., 3:5] = True
    points = decision_points(row_of_three(), NM, 10.0)
    found = [
        agglomerate(row_of_three(), NM, points, [GOOD, GOOD], RULE, Vetoes(crosses_mask=on), forbidden)
        for on in (False, True)
    ]
    assert np.unique(found[0][0]).tolist() == [1] and np.unique(found[1][0]).tolist() == [1, 2]
    assert sorted(row["reason"] for row in found[1][1]) == ["", "crosses_mask"]


def test_two_nuclei_and_an_axon_with_a_dendrite_stay_apart():
    ids, tissue = row_of_three(), np.zeros((1, 1, 12), np.uint8)
    tissue[..., 0:2] = tissue[..., 6] = tissue[..., 9:12] = 7  # nuclei in 1 and 3; one voxel in 2
    points = decision_points(ids, NM, 10.0)

    def joined(vetoes, scores=(GOOD, GOOD)):
        found, rows = agglomerate(ids, NM, points, scores, RULE, vetoes, tissue=tissue)
        return [len(np.unique(found)), sorted(row["reason"] for row in rows)]

    assert joined(Vetoes(nucleus_class=7, min_nucleus_voxels=2)) == [2, ["", "two_nuclei"]]
    assert joined(Vetoes(nucleus_class=7)) == [3, ["two_nuclei", "two_nuclei"]], "a voxel is a nucleus too"
    tissue[:] = 0
    tissue[..., 0:4], tissue[..., 4], tissue[..., 8:12] = 1, 1, 2
    types = Vetoes(axon_class=1, dendrite_class=2)
    assert joined(types) == [2, ["", "axon_dendrite"]], "what has joined an axon is one"
    tissue[..., 4] = 0
    assert joined(types, (BAD, GOOD)) == [2, ["", "scores"]], "no side that is neither contradicts"
    tissue[..., 8:12] = [1, 1, 1, 2]
    assert joined(types) == [1, ["", ""]], "three quarters are no certainty"
    with pytest.raises(ValueError, match="need a tissue map"):
        agglomerate(ids, NM, points, [GOOD, GOOD], RULE, types)


def test_a_neurite_that_comes_back_to_itself_is_told_from_one_that_closes_a_wide_loop():
    ids = np.zeros((1, 8, 8), np.int32)
    ids[0, :4, :4], ids[0, :4, 4:], ids[0, 4:, 4:], ids[0, 4:, :4] = 1, 2, 3, 4  # a ring of four
    points = [DecisionPoint(*pair, place, 0.0) for pair, place in (
        ((1, 2), (0, 2, 4)), ((2, 3), (0, 4, 6)), ((3, 4), (0, 6, 4)), ((1, 4), (0, 4, 2)))]  # fmt: skip
    scores = [dataclasses.replace(GOOD, iou=iou) for iou in (0.99, 0.98, 0.97, 0.85)]
    around = 4 * 10.0 * np.hypot(2, 2)

    def last_reason(limit):
        found, rows = agglomerate(ids, NM, points, scores, RULE, Vetoes(max_loop_nm=limit))
        assert np.unique(found).tolist() == [1]
        return [row["reason"] for row in rows if (row["first"], row["second"]) == (1, 4)][0]

    assert last_reason(None) == "" and last_reason(around - 1) == "" and last_reason(around + 1) == "self_touch"


def test_a_calibration_tells_the_pairs_it_was_fitted_on_and_says_how_sure():
    rng = np.random.default_rng(0)
    is_one = rng.random(400) < 0.5
    scores = [PairScores(*np.clip(rng.normal(0.8 if one else 0.3, 0.15, 5), 0, 1), 0.0, 0.0, 1) for one in is_one]
    calibration = fit_calibration(scores, is_one)
    probability = merge_probability(scores, calibration)
    assert np.mean((probability > 0.5) == is_one) > 0.95
    rows = reliability(probability, is_one, 5)
    assert sum(row["pairs"] for row in rows) == 400 and rows[0]["seen"] < 0.1 < 0.9 < rows[-1]["seen"]
    rule = dataclasses.replace(RULE, calibration=calibration)
    points = [DecisionPoint(1, 2, (0, 0, 4), 0.0), DecisionPoint(2, 3, (0, 0, 8), 0.0)]
    joined, rows = agglomerate(row_of_three(), NM, points, [BAD, GOOD], rule, Vetoes())
    assert np.unique(joined).tolist() == [1, 2] and rows[0]["certainty"] > 0.5 > rows[1]["certainty"]


def test_a_calibration_needs_both_answers():
    with pytest.raises(ValueError, match="pairs of both kinds"):
        fit_calibration([GOOD, BAD], np.array([True, True]))


def test_skeletons_say_which_pairs_are_one_neuron():
    segment = np.array([1] * 10 + [2] * 10 + [3] * 10 + [4] * 10 + [0])
    neuron = np.array([7] * 20 + [8] * 10 + [7] * 5 + [8] * 5 + [7])
    # 4 is half and half, and 5 has no node
    assert true_pairs([(1, 2), (1, 3), (1, 4), (1, 5)], segment, neuron).tolist() == [1, 0, -1, -1]


def test_pairs_that_another_segmentation_holds_together_are_disputed():
    ids, other = row_of_three(), np.zeros((1, 1, 12), np.int32)
    other[..., 1:7], other[..., 7:12] = 5, 6
    assert disputed_pairs(ids, [other], 2) == {(1, 2)}
    assert disputed_pairs(ids, [other], 1) == {(1, 2), (2, 3)}
