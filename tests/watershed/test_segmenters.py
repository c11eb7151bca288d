"""Both baselines on one simulated volume, with networks that answer by the grey values alone."""

import numpy as np
import pytest
import torch
from skimage.metrics import variation_of_information
from torch import nn

from nissl.evaluators.segmentation import Overlaps, scores
from nissl.flood_fill.segmenter import Segmentation
from nissl.simulate.em import simulate_volume
from nissl.volumes.annotated import AnnotatedVolume
from nissl.watershed.fragments import distance_fragments, marker_fragments, without_small
from nissl.watershed.prediction import predict
from nissl.watershed.segmenters import AffinityWatershed, BoundaryWatershed, agglomerate


class Brightness(nn.Module):
    """Bright is inside: the darkest of a voxel's ends decides about an affinity."""

    def __init__(self, offsets, fov=(24, 24, 24)):
        super().__init__()
        self.offsets_zyx, self.fov_zyx = offsets, fov
        self.gain = nn.Parameter(torch.tensor(4.0))

    def forward(self, image):
        if not self.offsets_zyx:
            return self.gain * (image + 0.3)
        ends = [
            torch.minimum(image, torch.roll(image, [-step for step in offset], (2, 3, 4)))
            for offset in self.offsets_zyx
        ]
        return self.gain * (torch.cat(ends, 1) + 0.3)


AFFINITIES = Brightness([(-1, 0, 0), (0, -1, 0), (0, 0, -1)]).eval()
INSIDES = Brightness([]).eval()


def by_affinities(**changed):
    values = {"threshold": 0.5, "score": "mean", "fragment_threshold": 0.5, "min_seed_distance": 6,
              "min_segment_size": 20, "blank_below": 0.0, "margin": 4, "precision": "float32"}  # fmt: skip
    return AffinityWatershed(**(values | changed))


def by_insides(**changed):
    values = {"threshold": 0.6, "min_marker_size": 10, "min_segment_size": 20, "blank_below": 0.0, "margin": 4,
              "precision": "float32"}  # fmt: skip
    return BoundaryWatershed(**(values | changed))


@pytest.fixture(scope="module")
def volume():
    return simulate_volume((36, 40, 44), (20.0, 20.0, 20.0), 1, 16, (90.0, 200.0), 2000.0, 2.0, 8.0)


def test_both_baselines_segment_one_volume_and_stand_in_one_table(volume):
    """Acceptance test (u): the same evaluator scores both on the same volume."""
    table = {}
    for name, segmenter, network in (("affinity", by_affinities(), AFFINITIES), ("boundary", by_insides(), INSIDES)):
        (found,) = segmenter.segment(network, [volume])
        assert isinstance(found, Segmentation) and found.ids.shape == volume.raw.shape
        assert found.counters["moves"] == 0 and len(found.origins) == found.counters["segments"] > 3
        table[name] = scores(Overlaps.of(volume.labels, found.ids))
        known = volume.labels > 0
        oracle = variation_of_information(volume.labels[known], found.ids[known])
        assert table[name]["voi/sum"] == pytest.approx(sum(oracle), abs=1e-6)
    everything_merged = scores(Overlaps.of(volume.labels, np.ones_like(volume.labels)))["voi/sum"]
    assert set(table) == {"affinity", "boundary"}
    for row in table.values():
        assert row["voi/sum"] < 0.6 * everything_merged and row["coverage"] > 0.95


def test_a_sweep_merges_more_with_every_threshold_and_holds_the_single_answer(volume):
    thresholds = [0.1, 0.5, 0.9]
    found = by_affinities().sweep(AFFINITIES, [volume], thresholds)
    sizes = [found[threshold][0].counters["segments"] for threshold in thresholds]
    assert sizes == sorted(sizes, reverse=True) and sizes[0] > sizes[-1]
    assert np.array_equal(found[0.5][0].ids, by_affinities().segment(AFFINITIES, [volume])[0].ids)
    again = by_insides().sweep(INSIDES, [volume], [0.4, 0.6])[0.6][0]
    assert np.array_equal(again.ids, by_insides().segment(INSIDES, [volume])[0].ids)


def test_what_is_hardly_inside_can_stay_blank(volume):
    (found,) = by_affinities(blank_below=0.5).segment(AFFINITIES, [volume])
    inside = predict(AFFINITIES, volume.network_image(), 4, "float32").mean(axis=0)
    assert (found.ids[inside < 0.5] == 0).all() and 0.2 < (found.ids > 0).mean() < 0.9


def test_blocks_do_not_show_in_the_prediction(volume):
    image = volume.network_image()
    small = predict(INSIDES, image, 4, "float32")
    with torch.inference_mode():
        whole = torch.sigmoid(INSIDES(torch.from_numpy(image)[None, None]))[0].numpy()
    assert small.shape == (1, *image.shape) and np.allclose(small, whole, atol=1e-6)
    assert predict(INSIDES, image, 4, "float32") is small  # remembered


def test_two_tubes_become_two_fragments_and_a_weak_wall_is_merged_at_its_score():
    affinities = np.full((3, 4, 4, 12), 0.9, np.float32)
    affinities[:, :, :, 5:7] = 0.3
    fragments = np.ones((4, 4, 12), np.uint64)
    fragments[:, :, 6:] = 2
    apart, joined = agglomerate(affinities, fragments, [0.5, 0.8], "mean")
    assert len(np.unique(apart)) == 2 and len(np.unique(joined)) == 1
    assert np.array_equal(np.unique(fragments), [1, 2])  # the input stays


def test_agglomeration_says_nothing_on_standard_output(capfd):
    agglomerate(
        np.full((3, 2, 2, 2), 0.9, np.float32), np.arange(1, 9, dtype=np.uint64).reshape(2, 2, 2), [0.5], "mean"
    )
    print("still there")
    assert capfd.readouterr().out == "still there\n"


@pytest.mark.parametrize("score", ["quantile_10", "quantile_90"])
def test_quantiles_of_a_wall_with_a_hole(score):
    """A hole in a wall: its best affinities say merge, its worst say do not."""
    affinities = np.full((3, 4, 4, 12), 0.95, np.float32)
    affinities[2, :, :, 6] = 0.05
    affinities[2, :2, :2, 6] = 0.95
    fragments = np.ones((4, 4, 12), np.uint64)
    fragments[:, :, 6:] = 2
    (merged,) = agglomerate(affinities, fragments, [0.5], score)
    assert len(np.unique(merged)) == (2 if score == "quantile_10" else 1)


def test_fragments_are_separated_by_boundaries():
    inside = np.ones((5, 9, 20), np.float32)
    inside[:, :, 10] = 0.0
    for fragments in (distance_fragments(inside, 0.5, 9, (1.0, 1.0, 1.0)), marker_fragments(inside, 0.5, 1)):
        left, right = set(fragments[:, :, :9].ravel()), set(fragments[:, :, 12:].ravel())
        assert not left & right and 0 not in left | right


@pytest.mark.parametrize(("make", "network"), [(by_affinities, AFFINITIES), (by_insides, INSIDES)])
def test_where_nothing_is_inside_nothing_is_segmented(make, network):
    dark = AnnotatedVolume("dark", np.zeros((24, 24, 24), np.uint8), (20.0, 20.0, 20.0))
    (found,) = make().segment(network, [dark])
    assert not found.ids.any() and found.origins == {}


def test_small_segments_go_and_the_rest_is_numbered_anew():
    ids = np.array([0, 4, 4, 4, 7, 9, 9])
    assert without_small(ids, 2).tolist() == [0, 1, 1, 1, 0, 2, 2]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: by_affinities(score="median"), "score must be one of"),
        (lambda: by_affinities(precision="half"), "precision must be one of"),
        (lambda: by_insides(threshold=1.5), "is a probability"),
    ],
)
def test_impossible_settings_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_what_does_not_fit_is_refused(volume):
    with pytest.raises(ValueError, match="leaves nothing of blocks"):
        predict(INSIDES, volume.network_image(), 12, "float32")
    with pytest.raises(ValueError, match="thresholds must ascend"):
        agglomerate(np.zeros((3, 2, 2, 2), np.float32), np.ones((2, 2, 2), np.uint64), [0.5, 0.1], "mean")
    with pytest.raises(ValueError, match="affinities of three neighbours"):
        by_affinities().segment(INSIDES, [volume])
