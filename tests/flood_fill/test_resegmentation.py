import dataclasses

import numpy as np
import torch
from flood_fill.test_canvas import DELTAS, FOV, oracle, thresholds

from nissl.flood_fill.agglomeration import Rule, Vetoes, agglomerate, published_rule
from nissl.flood_fill.decision_points import decision_points
from nissl.flood_fill.resegmentation import Resegmentation, Surroundings, resegment, subvolume

RULE = Rule(0.8, 0.6, 0.02)
SETTINGS = Resegmentation((12, 12, 12), (8, 8, 8), (2, 2, 2), 8, 0.6)
NM = (10.0, 10.0, 10.0)


def scored(image, ids, settings=SETTINGS):
    around = Surroundings(torch.from_numpy(image), ids, NM, FOV, DELTAS, thresholds())
    points = decision_points(ids, NM, 20.0)
    return points, resegment(points, around, oracle, settings, 2)


def cut_tube():
    image, ids = np.zeros((14, 14, 40), np.float32), np.zeros((14, 14, 40), np.int32)
    image[4:10, 4:10, 2:38] = 1
    ids[4:10, 4:10, 2:20], ids[4:10, 4:10, 20:38] = 1, 2
    return image, ids


def touching_tubes():
    image, ids = np.zeros((14, 20, 40), np.float32), np.zeros((14, 20, 40), np.int32)
    image[4:10, 3:9, 2:38] = image[4:10, 10:16, 2:38] = 1  # a membrane of one voxel between them
    ids[4:10, 3:9, 2:38], ids[4:10, 10:16, 2:38] = 1, 2
    return image, ids


def test_an_artificially_cut_tube_is_rejoined():
    image, ids = cut_tube()
    points, scores = scored(image, ids)
    assert len(points) == 1 and published_rule(scores[0], RULE) and scores[0].iou > 0.95
    joined, _ = agglomerate(ids, NM, points, scores, RULE, Vetoes())
    assert np.array_equal(joined > 0, ids > 0) and joined.max() == 1


def test_two_touching_tubes_stay_apart():
    image, ids = touching_tubes()
    points, scores = scored(image, ids)
    assert len(points) == 1 and scores[0].iou == 0 and scores[0].first_by_first > 0.6
    assert scores[0].second_by_first == 0 and not published_rule(scores[0], RULE)
    assert np.array_equal(agglomerate(ids, NM, points, scores, RULE, Vetoes())[0], ids)


def test_other_segments_are_obstacles():
    image, ids = cut_tube()
    ids[4:10, 4:10, 19:21] = 3  # a third segment between the two halves
    around = Surroundings(torch.from_numpy(image), ids, NM, FOV, DELTAS, thresholds())
    (point,) = [p for p in decision_points(ids, NM, 20.0) if (p.first, p.second) == (1, 3)]
    (scores,) = resegment([point], around, oracle, SETTINGS, 1)
    assert scores.iou > 0.5  # 1 and 3 are one tube
    forbidden = np.zeros(ids.shape, bool)
    forbidden[:, :, 18:22] = True
    masked = Surroundings(torch.from_numpy(image), ids, NM, FOV, DELTAS, thresholds(), forbidden)
    assert resegment([point], masked, oracle, SETTINGS, 1)[0].second_by_second == 0


def test_a_segment_too_near_the_border_for_a_field_of_view_scores_zero():
    image, ids = cut_tube()
    image, ids = image[:, :, :22].copy(), ids[:, :, :22].copy()  # the second half is two voxels long
    _, (scores,) = scored(image, ids)
    assert scores.second_by_second == 0 and scores.iou == 0 and not published_rule(scores, RULE)


def test_a_start_that_does_not_bring_its_segment_back_is_followed_by_another():
    image, ids = cut_tube()
    calls = []

    def blind(image, seed):
        calls.append(1)
        return torch.full_like(seed, -3.0)

    around = Surroundings(torch.from_numpy(image), ids, NM, FOV, DELTAS, thresholds())
    points = decision_points(ids, NM, 20.0)
    tries = Resegmentation((12, 12, 12), (8, 8, 8), (2, 2, 2), 3, 0.6)
    (scores,) = resegment(points, around, blind, tries, 1)
    assert len(calls) == scores.moves == 2 * 3 and scores.iou == 0


def test_a_subvolume_is_cut_off_at_the_faces():
    box = subvolume((2, 10, 38), (5, 5, 5), (20, 20, 40))
    assert box.start_zyx == (0, 5, 33) and box.stop_zyx == (8, 16, 40)


def test_refused_pairs_are_refused_by_their_smaller_half_alone():
    early = dataclasses.replace(SETTINGS, terminate_early=True)
    for (image, ids), accepted in ((cut_tube(), True), (touching_tubes(), False)):
        points, (whole,) = scored(image, ids)
        _, (scores,) = scored(image, ids, early)
        assert published_rule(whole, RULE) == published_rule(scores, RULE) == accepted
        assert (scores == whole) == accepted and (scores.moves < whole.moves) == (not accepted)
