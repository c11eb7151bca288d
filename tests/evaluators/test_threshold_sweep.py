import csv
from types import SimpleNamespace

import h5py
import numpy as np
import pytest

from nissl.evaluators.run_lengths import expected_run_length
from nissl.evaluators.segmentation import Overlaps, scores
from nissl.evaluators.threshold_curve import (
    Fragments,
    agglomeration_rows,
    choose,
    joined,
    probability_rows,
    with_levels,
)
from nissl.evaluators.threshold_sweep import ThresholdSweep
from nissl.runs.records import direction_of
from nissl.volumes.annotated import AnnotatedVolume
from nissl.volumes.boxes import Box
from nissl.volumes.skeletons import Skeletons

VOXEL = (10.0, 10.0, 10.0)


def bars(offset=0):
    """Two bars along x with a skeleton each, cut into fragments of 10 voxels: 1 to 4 and 5 to 8."""
    truth = np.zeros((4, 8, 40), np.uint32)
    truth[:, :4], truth[:, 4:] = 1, 2
    nodes = np.array([[20.0, y, x] for y in (20.0, 60.0) for x in range(0, 400, 10)])
    first = np.delete(np.arange(79), 39)
    skeletons = Skeletons(nodes, np.stack([first, first + 1], 1), np.repeat([1, 2], 40))
    fragments = (truth - 1) * 4 + 1 + np.arange(40)[None, None] // 10
    raw = np.zeros(truth.shape, np.uint8)
    return AnnotatedVolume("bars", raw, VOXEL, truth, skeletons, offset_zyx=(0, 0, offset)), fragments


# Joining 4 with 8 is the merger; it scores 0.5, some true pairs more, some less.
PAIRS = np.array([[1, 2], [2, 3], [3, 4], [5, 6], [6, 7], [7, 8], [4, 8], [4, 77]])
SCORES = np.array([0.9, 0.8, 0.3, 0.9, 0.7, 0.2, 0.5, 1.0])


def fragments_of(volume, ids):
    return Fragments.of(ids, volume.skeletons, volume.labels, volume.voxel_size_zyx_nm)


def test_accepted_pairs_are_joined_and_unknown_fragments_ignored():
    assert joined(np.array([2, 5, 9]), np.array([[2, 9], [5, 77]]), np.array([True, True])).tolist() == [1, 2, 1]
    assert len(set(joined(np.array([2, 5, 9]), np.array([[2, 9]]), np.array([False])))) == 3


def test_each_threshold_scores_like_the_segmentation_that_it_makes():
    volume, ids = bars()
    rows = agglomeration_rows(fragments_of(volume, ids), PAIRS, SCORES, [0.0, 0.4, 0.6, 2.0], 0, False)
    by_hand = {  # segment of fragments 1 to 8
        0.0: [1, 1, 1, 1, 1, 1, 1, 1],
        0.4: [1, 1, 1, 4, 5, 5, 5, 4],
        0.6: [1, 1, 1, 4, 5, 5, 5, 8],
        2.0: [1, 2, 3, 4, 5, 6, 7, 8],
    }
    for row in rows:
        made = np.array([0, *by_hand[row["threshold"]]])[ids]
        runs = expected_run_length(volume.skeletons, volume.skeletons.ids_at_nodes(made, VOXEL))
        assert row["erl_nm"] == pytest.approx(runs.erl_nm) and row["mergers"] == runs.num_mergers
        assert row["splits"] == runs.num_splits
        assert row["voi_sum"] == pytest.approx(scores(Overlaps.of(volume.labels, made))["voi/sum"])


def test_a_probability_threshold_leaves_voxels_and_small_rests_unassigned():
    volume, _ = bars()
    probability = np.where(np.arange(40) < 20, 0.9, 0.7) * np.ones(volume.raw.shape)
    probability[:, 4:] = 0.65
    thresholds = [0.6, 0.68, 0.8]
    fragments = fragments_of(volume, with_levels(volume.labels, probability, thresholds))
    for rows, sizes in ((probability_rows(fragments, thresholds, 1, 0, False), 1),
                        (probability_rows(fragments, thresholds, 400, 0, False), 400)):  # fmt: skip
        for row in rows:
            made = np.where(probability >= row["threshold"], volume.labels, 0)
            for segment in (1, 2):
                made = np.where((made == segment) & ((made == segment).sum() < sizes), 0, made)
            assert row["coverage"] == pytest.approx((made > 0).mean())
            runs = expected_run_length(volume.skeletons, volume.skeletons.ids_at_nodes(made, VOXEL))
            assert row["erl_nm"] == pytest.approx(runs.erl_nm)
    with pytest.raises(ValueError, match="must ascend"):
        with_levels(volume.labels, probability, [0.5, 0.4])


def test_the_longest_run_under_the_cap_is_chosen():
    rows = [
        {"threshold": 0.1, "normalized": 0.9, "mergers_per_mm": 9.0},
        {"threshold": 0.2, "normalized": 0.5, "mergers_per_mm": 2.0},
        {"threshold": 0.3, "normalized": 0.5, "mergers_per_mm": 2.0},
        {"threshold": 0.4, "normalized": 0.4, "mergers_per_mm": 1.0},
    ]
    assert [choose(rows, cap) for cap in (None, 2.0, 1.5, 0.5)] == [0, 2, 3, 3]
    with pytest.raises(ValueError, match="no threshold"):
        choose([], None)


@pytest.fixture
def file(tmp_path):
    volume, ids = bars()
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file["fragments"], file["truth"] = ids, volume.labels
        file["pairs"], file["scores"] = PAIRS, SCORES
        file["probability"] = np.where(np.arange(40) < 30, 230, 160).astype(np.uint8) * np.ones(ids.shape, np.uint8)
    return str(tmp_path / "m.h5")


def sweep(methods, tuning_box=((0, 4), (0, 8), (0, 20)), cap=None, segmenter=None):
    return ThresholdSweep(
        methods, segmenter, "val", tuning_box, "test", [[0, 4], [0, 8], [20, 40]], 5, 1, cap, 0, False
    )


def test_methods_are_tuned_on_one_box_and_scored_on_another(file):
    scored = {"path": file, "ids": "fragments", "pairs": "pairs", "scores": "scores"}
    methods = {
        "joined": scored,
        "cut": {"path": file, "ids": "truth", "probability": "probability"},
        "truth": {"path": file, "ids": "truth"},
    }
    data = SimpleNamespace(source=SimpleNamespace(volumes=lambda name: [bars()[0]]))
    result = sweep(methods)(None, data)
    assert all(direction_of(name, ThresholdSweep.metrics) in ("min", "max", None) for name in result.scalars)
    # On x 0-19 only 1-2 and 5-6 matter (0.9), so the highest threshold that joins them wins the tie; on x 20-39 it
    # joins nothing, so a neuron of 190 nm has two runs of 90 and the lost edge.
    assert result.scalars["sweep_joined/threshold"] == pytest.approx(0.9)
    assert result.scalars["sweep_joined/normalized"] == pytest.approx(2 * 90**2 / 190**2)
    assert result.scalars["sweep_truth/normalized"] == pytest.approx(1)
    assert result.scalars["sweep_cut/threshold"] > 0.5 and result.scalars["sweep_cut/coverage"] == pytest.approx(0.5)
    assert {row["part"] for row in result.tables["curve"]} == {"tuning", "test"}
    assert sum(row["chosen"] for row in result.tables["curve"]) == 6
    assert all(figure.png.startswith(b"\x89PNG") for figure in result.figures.values())


def test_a_threshold_may_not_be_tested_on_the_voxels_it_was_chosen_on(file):
    data = SimpleNamespace(source=SimpleNamespace(volumes=lambda name: [bars()[0]]))
    with pytest.raises(ValueError, match="chosen on voxels that they are tested on"):
        sweep({"truth": {"path": file, "ids": "truth"}}, tuning_box=None)(None, data)
    with pytest.raises(ValueError, match=r"tuning_box \(counted from \[0, 0, 5\]\)"):
        shifted = bars()[0].crop(Box((0, 0, 5), (4, 8, 40)))
        data = SimpleNamespace(source=SimpleNamespace(volumes=lambda name: [shifted]))
        sweep({"truth": {"path": file, "ids": "truth"}})(None, data)


def test_what_is_wrong_with_a_method_is_said(file):
    data = SimpleNamespace(source=SimpleNamespace(volumes=lambda name: [bars()[0]]))
    with pytest.raises(ValueError, match="nothing to sweep"):
        sweep({})
    with pytest.raises(ValueError, match="pairs with scores"):
        sweep({"a": {"path": file, "ids": "truth", "pairs": "pairs"}})
    with pytest.raises(ValueError, match="no dataset 'other'"):
        sweep({"a": {"path": file, "ids": "truth", "pairs": "pairs", "scores": "other"}})(None, data)
    with pytest.raises(ValueError, match=r"must be \(P, 2\)"):
        sweep({"a": {"path": file, "ids": "truth", "pairs": "scores", "scores": "scores"}})(None, data)


def test_a_baseline_comes_from_the_table_of_its_own_sweep(tmp_path):
    rows = [
        {"volume": part, "merge_threshold": 0, "threshold": t, "erl_nm": 100 * run, "normalized": run, "mergers": 1,
         "mergers_per_mm": 10 * t, "voi_sum": 1.0, "coverage": 1.0}
        for part, t, run in (("tuning", 0.4, 0.2), ("tuning", 0.8, 0.6), ("test", 0.4, 0.5), ("test", 0.8, 0.3))
    ]  # fmt: skip
    path = tmp_path / "table.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    data = SimpleNamespace(source=SimpleNamespace(volumes=lambda name: [bars()[0]]))
    result = sweep({"boundary": {"table": str(path)}})(None, data)
    assert result.scalars["sweep_boundary/threshold"] == 0.8 and result.scalars["sweep_boundary/normalized"] == 0.3
    path.write_text(path.read_text().replace(",0,0.", ",2,0."))
    with pytest.raises(ValueError, match="merge threshold of 2 nodes, this sweep has 0"):
        sweep({"boundary": {"table": str(path)}})(None, data)
    path.write_text("volume,threshold\ntuning,0.5\n")
    with pytest.raises(ValueError, match="no table of watershed_sweep, it lacks"):
        sweep({"boundary": {"table": str(path)}})(None, data)


def test_the_probability_of_a_plain_flooding_is_swept_without_a_file():
    volume, _ = bars()
    probability = np.where(np.arange(40) < 30, 230, 160).astype(np.uint8) * np.ones(volume.raw.shape, np.uint8)
    found = SimpleNamespace(ids=volume.labels, probability=probability)
    segmenter = SimpleNamespace(segment=lambda model, volumes: [found])
    data = SimpleNamespace(source=SimpleNamespace(volumes=lambda name: [volume]))
    result = sweep({}, segmenter=segmenter)(SimpleNamespace(model=None), data)
    # On x 0-19 all thresholds up to 0.9 are as good and the highest wins; on x 20-39 it keeps half of the voxels.
    assert result.scalars["sweep_flood_fill/threshold"] > 0.63
    assert result.scalars["sweep_flood_fill/coverage"] == pytest.approx(0.5)


def test_the_agglomeration_of_a_staged_segmenter_is_swept_without_a_file():
    volume, ids = bars()
    decisions = [
        {"first": a, "second": b, "certainty": s} for (a, b), s in zip(PAIRS.tolist(), SCORES.tolist(), strict=True)
    ]
    found = SimpleNamespace(
        stages={"forward": ids, "agglomeration": ids}, tables={"decisions": decisions}, probability=None
    )
    segmenter = SimpleNamespace(segment=lambda model, volumes: [found])
    data = SimpleNamespace(source=SimpleNamespace(volumes=lambda name: [volume]))
    result = sweep({}, segmenter=segmenter)(SimpleNamespace(model=None), data)
    assert result.scalars["sweep_agglomeration/normalized"] == pytest.approx(2 * 90**2 / 190**2)
    without = SimpleNamespace(segment=lambda model, volumes: [SimpleNamespace(stages={}, tables={}, probability=None)])
    with pytest.raises(ValueError, match="decided on no pair"):
        sweep({}, segmenter=without)(SimpleNamespace(model=None), data)


def test_a_cap_that_nothing_keeps_is_noted(file):
    everything = {"path": file, "ids": "merged"}
    with h5py.File(file, "a") as handle:
        handle["merged"] = np.ones((4, 8, 40), np.uint8)
    data = SimpleNamespace(source=SimpleNamespace(volumes=lambda name: [bars()[0]]))
    assert "no threshold keeps 0 mergers" in sweep({"a": everything}, cap=0.0)(None, data).notes[0]
