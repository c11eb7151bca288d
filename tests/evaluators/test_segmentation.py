import dataclasses
import math
import re
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import torch
from skimage.metrics import adapted_rand_error
from skimage.metrics import variation_of_information as skimage_voi
from torch import nn

from nissl.evaluators.erl import ERL
from nissl.evaluators.segmentation import (
    Overlaps,
    SegmentationScores,
    adapted_rand,
    object_rows,
    scores,
    segment_rows,
    variation_of_information,
    voi_interval,
)
from nissl.evaluators.segmentation_figures import matched, sections_figure, voxel_errors
from nissl.evaluators.stored_segmentation import StoredSegmentation
from nissl.flood_fill.segmenter import FloodFill
from nissl.volumes.annotated import AnnotatedVolume
from nissl.volumes.skeletons import Skeletons


def random_pair(seed, unassigned=True):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 5, (6, 7, 8))
    segmentation = np.where(
        rng.random(truth.shape) < 0.7, truth + 3, rng.integers(0 if unassigned else 1, 9, truth.shape)
    )
    return truth, segmentation


@pytest.mark.parametrize("seed", range(4))
def test_voi_agrees_with_scikit_image(seed):
    truth, segmentation = random_pair(seed)
    split, merge = variation_of_information(Overlaps.of(truth, segmentation))
    known = truth > 0
    expected = skimage_voi(truth[known], segmentation[known])
    assert (split, merge) == pytest.approx(tuple(expected))


@pytest.mark.parametrize("seed", range(4))
def test_adapted_rand_agrees_with_scikit_image_on_single_unassigned_voxels(seed):
    truth, segmentation = random_pair(seed)
    alone = np.where(segmentation == 0, 100 + np.arange(truth.size).reshape(truth.shape), segmentation)
    expected = adapted_rand_error(truth, alone, ignore_labels=(0,))
    error, precision, recall = adapted_rand(Overlaps.of(truth, segmentation))
    assert (error, recall, precision) == pytest.approx(expected)  # scikit-image calls our recall precision


def test_cutting_one_of_two_equal_objects_in_half_costs_half_a_bit_of_split():
    truth = np.repeat([1, 2], 8).reshape(1, 2, 8)
    cut = np.repeat([1, 2, 3], [8, 4, 4]).reshape(1, 2, 8)
    assert variation_of_information(Overlaps.of(truth, cut)) == pytest.approx((0.5, 0))
    assert variation_of_information(Overlaps.of(cut, truth)) == pytest.approx((0, 0.5))


def test_a_merger_costs_precision_and_a_split_costs_recall():
    truth = np.repeat([1, 2], 8).reshape(1, 2, 8)
    _, precision, recall = adapted_rand(Overlaps.of(truth, np.ones_like(truth)))
    assert (precision, recall) == (pytest.approx(7 / 15), 1)  # 2 * 8 * 7 of 16 * 15 pairs
    _, precision, recall = adapted_rand(Overlaps.of(np.ones_like(truth), truth))
    assert (precision, recall) == (1, pytest.approx(7 / 15))


def test_leaving_everything_blank_scores_like_merging_everything():
    truth = np.repeat([1, 2, 3, 4], 4).reshape(1, 4, 4)
    blank, merged = (scores(Overlaps.of(truth, np.full_like(truth, k))) for k in (0, 1))
    assert blank["voi/sum"] == merged["voi/sum"] == 2.0
    assert blank["coverage"] == 0 and merged["coverage"] == 1
    assert math.isnan(blank["voi_assigned/sum"])
    assert blank["arand/error"] == 1


def test_a_perfect_segmentation_scores_zero_under_any_names():
    truth, _ = random_pair(0)
    got = scores(Overlaps.of(truth, np.array([0, 7, 3, 90, 1])[truth]))
    assert got["voi/sum"] == 0 and got["arand/error"] == pytest.approx(0) and got["coverage"] == 1


def test_voxels_without_a_true_label_are_ignored():
    truth, segmentation = random_pair(1)
    changed = np.where(truth == 0, 55, segmentation)
    assert scores(Overlaps.of(truth, segmentation)) == scores(Overlaps.of(truth, changed))


def test_ids_of_two_volumes_never_meet():
    truth, segmentation = random_pair(2)
    side_by_side = Overlaps.of(np.stack([truth, np.where(truth, truth + 50, 0)]),
                               np.stack([segmentation, segmentation + 50]))  # fmt: skip
    joined = Overlaps.concatenate([Overlaps.of(truth, segmentation)] * 2)
    assert variation_of_information(joined) == pytest.approx(variation_of_information(side_by_side))


def test_tables_of_blocks_add_up_to_that_of_the_whole():
    truth, segmentation = random_pair(3)
    whole = Overlaps.of(truth, segmentation)
    blocks = Overlaps.sum([Overlaps.of(truth[k : k + 2], segmentation[k : k + 2]) for k in (0, 2, 4)])
    assert np.array_equal(blocks.count, whole.count) and np.array_equal(blocks.segment, whole.segment)
    assert scores(blocks) == scores(whole)


def test_rows_of_objects_and_segments_name_the_worst_first_and_add_up():
    truth = np.repeat([1, 2, 3], [8, 4, 4]).reshape(1, 4, 4)
    found = np.repeat([7, 0, 7, 9, 8], [6, 2, 4, 3, 1]).reshape(1, 4, 4)
    overlaps = Overlaps.of(truth, found)
    objects = object_rows(overlaps, ["v"])
    assert [row["object"] for row in objects][0] == 1  # partly blank and merged with the whole of 2
    by_id = {row["object"]: row for row in objects}
    assert by_id[1]["covered"] == 0.75 and by_id[1]["segments"] == 1 and by_id[1]["largest_segment"] == 7
    assert by_id[3]["largest_share"] == 0.75 and by_id[3]["segments"] == 2 and by_id[3]["voi_merge_bits"] == 0
    total = scores(overlaps)
    assert sum(row["voi_split_bits"] for row in objects) == pytest.approx(total["voi/split"])
    assert sum(row["voi_merge_bits"] for row in objects) == pytest.approx(total["voi/merge"])
    segments = segment_rows(overlaps, ["v"])
    assert segments[0] == {"volume": "v", "segment": 7, "voxels": 10, "objects": 2, "main_object": 1, "purity": 0.6,
                           "foreign_voxels": 4}  # fmt: skip
    assert [row["purity"] for row in segments[1:]] == [1, 1]


def test_the_interval_of_the_voi_holds_the_estimate_and_is_a_point_for_equal_objects():
    truth, segmentation = random_pair(2)
    overlaps = Overlaps.of(truth, segmentation)
    low, high = voi_interval(overlaps, 200, 0)
    assert low < scores(overlaps)["voi/sum"] < high
    halves = np.repeat([1, 2, 3, 4], 4).reshape(1, 4, 4)
    assert voi_interval(Overlaps.of(np.repeat([1, 2], 8).reshape(1, 4, 4), halves), 20, 0) == pytest.approx((1, 1))


def test_unequal_shapes_and_empty_truth_are_refused():
    with pytest.raises(ValueError, match="differ in shape"):
        Overlaps.of(np.ones((2, 2, 2), int), np.ones((2, 2, 3), int))
    with pytest.raises(ValueError, match="no true label"):
        Overlaps.of(np.zeros((2, 2, 2), int), np.ones((2, 2, 2), int))


def test_sections_show_image_truth_segments_and_errors():
    raw = np.arange(5 * 6 * 7, dtype=np.uint8).reshape(5, 6, 7)
    figure = sections_figure(AnnotatedVolume("small", raw, (10.0, 10.0, 10.0)), raw // 40, raw // 60)
    assert figure.png.startswith(b"\x89PNG") and "10 x 10 x 10 nm" in figure.caption


def test_the_largest_segment_of_an_object_bears_its_name_and_errors_are_told_apart():
    truth = np.array([[[1, 1, 1, 1, 1, 2, 2, 2, 0]]])
    found = np.array([[[7, 7, 7, 4, 0, 7, 9, 9, 9]]])
    assert matched(truth, found)[0, 0].tolist()[:3] == [1, 1, 1] and matched(truth, found)[0, 0, 6] == 2
    assert matched(truth, found)[0, 0, 3] not in (0, 1, 2) and matched(truth, found)[0, 0, 4] == 0
    right, blank, merged, split = 0, 1, 2, 3
    expected = [right, right, right, split, blank, merged, right, right, right]
    assert voxel_errors(truth, found)[0, 0].tolist() == expected


class BrightIsInside(nn.Module):
    """Grows through bright voxels that touch what is on already; untrained, it leaves its seed alone."""

    fov_zyx, deltas_zyx = (9, 9, 9), (2, 2, 2)
    init_activation, pad_value, move_threshold = 0.95, 0.5, 0.6

    def __init__(self, trained=True):
        super().__init__()
        self.register_parameter("trained", nn.Parameter(torch.tensor(float(trained))))
        self.num_calls = 0

    def untrained(self):
        return BrightIsInside(trained=False)

    def forward(self, image, seed_logits):
        self.num_calls += 1
        if self.trained == 0:
            return seed_logits
        on = (seed_logits > 1).float()
        for _ in range(9):
            on = nn.functional.max_pool3d(on, 3, 1, 1) * (image > 0)
        distance = torch.stack(torch.meshgrid(*[torch.arange(9) - 4] * 3, indexing="ij")).square().sum(0)
        return 8 * on - 4 - 0.01 * distance


def bars():
    """Two bright bars along x, with one skeleton each."""
    labels = np.zeros((32, 32, 40), np.uint32)
    labels[:, 4:14], labels[:, 18:28] = 1, 2
    nodes = np.array([[160.0, y, x] for y in (90.0, 230.0) for x in range(0, 400, 10)])
    first = np.delete(np.arange(79), 39)
    skeletons = Skeletons(nodes, np.stack([first, first + 1], 1), np.repeat([1, 2], 40))
    raw = np.where(labels > 0, 150, 50).astype(np.uint8)
    return AnnotatedVolume("bars", raw, (10.0, 10.0, 10.0), labels, skeletons, (1, 1, 1), 100.0, 50.0)


def data_of(volume):
    return SimpleNamespace(source=SimpleNamespace(volumes=lambda name: [volume]))


def scored(split="test", untrained_max_moves=0, objects_drawn=0, segments_file=None):
    return SegmentationScores(SEGMENTER, split, untrained_max_moves, 50, 0, objects_drawn, segments_file)


def erl(split="test", no_merge_path=None):
    return ERL(SEGMENTER, split, 0, False, [0, 2], [0.3], no_merge_path, "mask", 100, 0, 20)


SEGMENTER = FloodFill(None, 0.6, 50, [1, 1, 1], 0.0, "peaks", 1, None, "float32", False)


def test_the_evaluator_measures_the_network_and_the_answers_it_must_beat():
    result = scored(untrained_max_moves=100, objects_drawn=2)(SimpleNamespace(model=BrightIsInside()), data_of(bars()))
    assert set(result.scalars) == set(SegmentationScores.metrics)
    assert re.search(r"\d+ moves, \d+ segments, \d+\.\d CPU-seconds, \d+\.\d\d microseconds a voxel", result.notes[0])
    assert result.scalars["voi/sum"] < 0.6 and result.scalars["coverage"] > 0.8
    assert result.scalars["flood/segments"] == 2
    assert result.scalars["voi_untrained/sum"] == result.scalars["voi_all_background/sum"] == pytest.approx(1.0)
    assert result.scalars["coverage_untrained"] == 0
    assert result.scalars["voi/sum_low"] <= result.scalars["voi/sum"] <= result.scalars["voi/sum_high"]
    pictures = {name for name, figure in result.figures.items() if figure.png.startswith(b"\x89PNG")}
    assert pictures == {"overlay", "objects", "rejected_seeds"} and len(result.tables["rejected_seeds"]) > 0
    assert result.tables["counters"] and len(result.tables["objects"]) == len(result.tables["segments"]) == 2


def test_segments_are_written_where_their_volume_lies_in_its_file(tmp_path):
    path = str(tmp_path / "segments.h5")
    part = dataclasses.replace(bars(), offset_zyx=(0, 3, 5))
    scored(segments_file=path)(SimpleNamespace(model=BrightIsInside()), data_of(part))
    (stored,) = StoredSegmentation(path, "segments").segment(None, [part])
    (found,) = SEGMENTER.segment(BrightIsInside(), [part])
    assert np.array_equal(stored.ids, found.ids)
    with h5py.File(path, "r") as file:
        assert file["segments"].shape == file["probability"].shape == (32, 35, 45) and not file["segments"][:, :3].any()
        assert file["segments"].attrs["resolution_nm"].tolist() == [10, 10, 10]
    with pytest.raises(ValueError, match=r"segments_file=.*: there is no such folder"):
        scored(segments_file=str(tmp_path / "nowhere" / "segments.h5"))


def test_both_evaluators_flood_once_and_repeat_the_same_numbers():
    network = BrightIsInside()
    with torch.no_grad():
        network.trained += 1  # weights that no other test has flooded
    task, data = SimpleNamespace(model=network), data_of(bars())
    first = scored()(task, data)
    num_calls = network.num_calls
    runs = erl()(task, data)
    assert network.num_calls == num_calls > 0
    assert scored("val")(task, data).scalars == first.scalars
    assert set(runs.scalars) == {name for name in ERL.metrics if "*" not in name}
    assert runs.scalars["erl/mean_nm_low"] <= runs.scalars["erl/mean_nm"] <= runs.scalars["erl/mean_nm_high"]
    assert set(runs.tables) == {"skeletons", "segments", "variants", "lengths", "error_sites"}
    assert runs.tables["error_sites"][0]["rank"] == 1 and len(runs.figures) == 3
    assert runs.scalars["erl/mergers"] == 0 and runs.scalars["erl/normalized"] > 0.5
    fractions = [runs.scalars[f"erl/fraction_{name}"] for name in ("omitted", "split", "merged", "correct")]
    assert sum(fractions) == pytest.approx(1)
    assert "merge threshold 0 nodes" in runs.notes[0] and "10.0" in runs.notes[0]


def test_evaluators_say_what_they_lack():
    volume = bars()
    task = SimpleNamespace(model=BrightIsInside())
    with pytest.raises(ValueError, match="no true labels"):
        scored()(task, data_of(dataclasses.replace(volume, labels=None)))
    with pytest.raises(ValueError, match="no skeleton with an edge"):
        erl()(task, data_of(dataclasses.replace(volume, skeletons=None)))
    with pytest.raises(ValueError, match="split must be"):
        scored("train")
    with pytest.raises(ValueError, match="split must be"):
        erl(split="all")
