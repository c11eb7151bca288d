import h5py
import numpy as np
import pytest
from flood_fill.test_segmenter import BrightIsInside, segmenter, volume

import nissl.flood_fill.segmenter
import nissl.flood_fill.stages
from nissl.flood_fill.stages import Agglomeration, StagedFloodFill


def small():
    return volume(shape=(16, 32, 20))


def agglomeration(**changed):
    values = {
        "pairs": "all",
        "max_distance_nm": 60.0,
        "radius_zyx": [14, 14, 14],
        "analysis_radius_zyx": [9, 9, 9],
        "exclusion_radius_zyx": [3, 3, 3],
        "max_tries": 2,
        "recovered": 0.3,
        "min_iou": 0.8,
        "min_consistency": 0.6,
        "max_deleted": 0.02,
        "calibration": None,
        "min_probability": 0.5,
        "soma_radius_nm": None,
        "max_fragments": None,
        "max_caliber_ratio": None,
        "min_turn_degrees": None,
    }
    return Agglomeration(**(values | changed))


def staged(folder=None, **changed):
    values = {
        "flood": segmenter(folder=folder),
        "reverse": True,
        "consensus_min_size": 50,
        "coarse": segmenter(min_segment_size=20),
        "coarse_scale_zyx": None,
        "coarse_min_size": 500,
        "fill": segmenter(seed_policy="fill_empty", min_segment_size=20, folder=folder),
        "refill": True,
        "agglomeration": agglomeration(),
        "dust": 20,
        "grow_nm": 0.0,
        "max_moves": None,
        "folder": folder,
    }
    return StagedFloodFill(**(values | changed))


def test_all_stages_leave_two_bars_as_two_neurons():
    truth = small()
    (found,) = staged().segment(BrightIsInside(), [truth])
    assert list(found.stages) == ["forward", "reverse", "consensus", "fill", "agglomeration", "final"]
    for ids in (found.ids, found.stages["consensus"]):
        assert len(np.unique(ids[ids > 0])) == 2 and not ids[truth.labels == 0].any()
    decisions = found.tables["decisions"]
    assert [row["joined"] for row in decisions] == [False] * len(decisions)
    assert found.counters["moves"] > 0 and not found.truncated


def test_finished_stages_are_read_and_not_made_again(tmp_path):
    first = BrightIsInside()
    (before,) = staged(str(tmp_path)).segment(first, [small()])
    nissl.flood_fill.segmenter._finished.clear()  # as in a new process
    second = BrightIsInside()
    (after,) = staged(str(tmp_path)).segment(second, [small()])
    assert first.num_calls > 0 and second.num_calls == 0
    assert np.array_equal(before.ids, after.ids) and before.tables == after.tables
    (written,) = tmp_path.glob("segmentation-*.npz")  # both wrote the same one
    with np.load(written, allow_pickle=False) as file:
        assert np.array_equal(file["final"], before.ids) and set(before.stages) < set(file.files)
    nissl.flood_fill.segmenter._finished.clear()
    changed = BrightIsInside()
    staged(str(tmp_path), agglomeration=agglomeration(recovered=0.5)).segment(changed, [small()])
    assert 0 < changed.num_calls < first.num_calls  # the floodings stand, the pairs are grown again


def test_what_the_coarse_flooding_takes_is_left_as_it_is():
    truth = volume(shape=(36, 36, 48))
    thin = truth.labels.copy()
    thin[:, 31:34] = 3  # too thin at half the resolution
    raw = np.where(thin > 0, 150, 50).astype(np.uint8)
    both = type(truth)("bars", raw, truth.voxel_size_zyx_nm, thin, None, (1, 1, 1), 100.0, 50.0)
    (found,) = staged(coarse_scale_zyx=[2, 2, 2], reverse=False, agglomeration=None).segment(BrightIsInside(), [both])
    coarse = found.stages["coarse"]
    assert set(np.unique(thin[coarse > 0])) == {1, 2} and coarse.max() == 2
    assert np.array_equal(found.stages["forward"][coarse > 0], coarse[coarse > 0])


def test_segments_can_be_grown_at_the_end():
    (plain,) = staged(reverse=False, agglomeration=None).segment(BrightIsInside(), [small()])
    (wide,) = staged(reverse=False, agglomeration=None, grow_nm=20.0).segment(BrightIsInside(), [small()])
    assert (wide.ids > 0).sum() > (plain.ids > 0).sum()
    assert np.array_equal(wide.ids[plain.ids > 0], plain.ids[plain.ids > 0])


def test_a_calibration_is_read_from_its_table(tmp_path):
    names = ["iou", "least_consistency", "mean_consistency", "least_deleted", "constant"]
    table = tmp_path / "stages_calibration.csv"
    table.write_text("feature,weight\n" + "".join(f"{name},{i}\n" for i, name in enumerate(names)))
    assert agglomeration(calibration=str(table)).rule.calibration == (0, 1, 2, 3, 4)
    table.write_text("feature,weight\niou,1\n")
    with pytest.raises(ValueError, match="is no calibration: it lacks"):
        agglomeration(calibration=str(table))


def test_unknown_pairs_are_refused():
    with pytest.raises(ValueError, match="pairs must be disputed or all"):
        agglomeration(pairs="none")


def test_vetoes_by_tissue_want_their_file_and_both_classes(tmp_path):
    with pytest.raises(ValueError, match="need tissue_path, an HDF5 file"):
        agglomeration(nucleus_class=3)
    with pytest.raises(ValueError, match="axon_class and dendrite_class go together"):
        agglomeration(axon_class=1, tissue_path="x.h5")
    with pytest.raises(FileNotFoundError, match="missing.h5"):
        staged(agglomeration=agglomeration(nucleus_class=3, tissue_path=str(tmp_path / "missing.h5"))).segment(
            BrightIsInside(), [small()]
        )
    with h5py.File(tmp_path / "tissue.h5", "w") as file:
        file["classes"] = np.full(small().raw.shape, 3, np.uint8)
    vetoed = agglomeration(nucleus_class=3, tissue_path=str(tmp_path / "tissue.h5"))
    (found,) = staged(agglomeration=vetoed).segment(BrightIsInside(), [small()])
    assert "final" in found.stages


def test_an_agglomeration_that_was_killed_goes_on_and_small_segments_can_be_left_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(nissl.flood_fill.stages, "PAIRS_PER_FILE", 1)
    whole = staged(str(tmp_path)).segment(BrightIsInside(), [small()])[0]
    num_pairs = len(whole.tables["decisions"])
    assert num_pairs >= 1 and len(list(tmp_path.glob("scores-*.npz"))) == num_pairs
    next(iter(sorted(tmp_path.glob("scores-*.npz")))).unlink()  # what the killed one had not come to
    network = BrightIsInside()
    again = staged(str(tmp_path)).segment(network, [small()])[0]
    assert again.tables == whole.tables and 0 < network.num_calls <= sum(r["moves"] for r in whole.tables["decisions"])
    none = staged(str(tmp_path), agglomeration=agglomeration(min_voxels=10**6)).segment(BrightIsInside(), [small()])[0]
    assert none.tables["decisions"] == []
