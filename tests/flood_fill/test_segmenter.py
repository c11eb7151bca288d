import logging

import numpy as np
import pytest
import torch
from torch import nn

import nissl.flood_fill.segmenter
from nissl.flood_fill.probability import dequantise
from nissl.flood_fill.segmentation import grown
from nissl.flood_fill.segmenter import FloodFill
from nissl.volumes.annotated import AnnotatedVolume


class BrightIsInside(nn.Module):
    """Grows through bright voxels that touch what is on already."""

    fov_zyx, deltas_zyx = (9, 9, 9), (2, 2, 2)
    init_activation, pad_value, move_threshold = 0.95, 0.5, 0.6

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.num_calls = 0

    def forward(self, image, seed_logits):
        self.num_calls += 1
        on = (seed_logits > 1).float()
        for _ in range(9):
            on = nn.functional.max_pool3d(on, 3, 1, 1) * (image > 0)
        # Falls a little from the centre: equal maxima would all be taken at the same corner of a face.
        distance = torch.stack(torch.meshgrid(*[torch.arange(9) - 4] * 3, indexing="ij")).square().sum(0)
        return 8 * on - 4 - 0.01 * distance


def volume(scale=(1, 1, 1), shape=(32, 32, 40)):
    """Two bright bars between dark ones, grey values 100 -+ 50."""
    labels = np.zeros(shape, np.uint32)
    labels[:, 4:14], labels[:, 18:28] = 1, 2
    raw = np.where(labels > 0, 150, 50).astype(np.uint8)
    return AnnotatedVolume("bars", raw, (10.0, 10.0, 10.0), labels, None, scale, 100.0, 50.0)


def segmenter(**changed):
    values = {
        "move_threshold": None,
        "segment_threshold": 0.6,
        "min_segment_size": 50,
        "min_boundary_dist_zyx": [1, 1, 1],
        "disconnected_seed_threshold": 0.0,
        "seed_policy": "peaks",
        "batch_size": 1,
        "max_moves": None,
        "precision": "float32",
        "reflect_border": False,
    }
    return FloodFill(**(values | changed))


def test_two_bars_become_two_segments():
    truth = volume()
    (found,) = segmenter().segment(BrightIsInside(), [truth])
    assert len(found.origins) == 2 and not found.truncated
    for bar in (1, 2):
        ids, counts = np.unique(found.ids[truth.labels == bar], return_counts=True)
        assert ids[counts.argmax()] > 0 and counts.max() / counts.sum() > 0.8
    assert not found.ids[truth.labels == 0].any()
    assert np.array_equal(found.probability > 0, found.ids > 0)
    assert dequantise(found.probability[found.ids > 0]).min() > 0.59


def test_voxels_that_a_segment_grew_into_have_the_probability_of_the_nearest_before() -> None:
    (found,) = segmenter(grow_nm=20.0).segment(BrightIsInside(), [volume()])
    (before,) = segmenter().segment(BrightIsInside(), [volume()])
    assert np.array_equal(found.probability > 0, found.ids > 0) and (found.ids > 0).sum() > (before.ids > 0).sum()


def test_objects_reach_the_faces_of_a_mirrored_image_and_begin_where_they_did() -> None:
    truth = volume()
    (found,) = segmenter(reflect_border=True).segment(BrightIsInside(), [truth])
    assert found.ids.shape == truth.labels.shape and len(found.origins) == 2
    for segment, origin in found.origins.items():
        assert found.ids[origin.start_zyx] == segment
    thin = segmenter(reflect_border=True).segment(BrightIsInside(), [volume(shape=(9, 32, 40))])[0]
    assert len(thin.origins) == 2  # without the mirror, only seeds in the middle section could move


def test_longer_steps_than_those_of_training_make_fewer_moves() -> None:
    truth = volume(shape=(41, 41, 41))
    found = [segmenter(deltas_zyx=deltas).segment(BrightIsInside(), [truth])[0] for deltas in (None, (4, 4, 4))]
    assert found[1].counters["moves"] < found[0].counters["moves"] / 2
    assert len(found[1].origins) == 2 and np.mean(found[1].ids == found[0].ids) > 0.95
    with pytest.raises(ValueError, match="must lie between 0 and half the field of view"):
        segmenter(deltas_zyx=(5, 4, 4)).segment(BrightIsInside(), [truth])


def test_segments_grow_to_their_reach_and_meet_half_way():
    ids = np.array([[[1, 0, 0, 0, 2, 0, 0, 0, 0]]])
    assert grown(ids, 10.0, (10.0, 10.0, 10.0)).tolist() == [[[1, 1, 0, 2, 2, 2, 0, 0, 0]]]
    assert grown(ids, 25.0, (10.0, 10.0, 10.0))[0, 0, 5:].tolist() == [2, 2, 0, 0]


def test_finished_segments_grow_by_a_distance_in_nm_into_what_is_blank() -> None:
    ids = np.zeros((3, 9, 9), np.int32)
    ids[1, 1, 1:3], ids[1, 1, 6] = 4, 7
    wide = grown(ids, 20.0, (40.0, 10.0, 10.0))
    assert not wide[0].any() and not wide[2].any()  # the next section is 40 nm away
    assert wide[1, 1].tolist() == [4, 4, 4, 4, 4, 7, 7, 7, 7] and wide[1, :, 1].tolist() == [4, 4, 4, 4, 0, 0, 0, 0, 0]
    assert wide[1, 2, 0] == 4 and wide[1, 3, 3] == 0  # 22 nm away
    assert grown(ids, 0.0, (40.0, 10.0, 10.0)) is ids


def test_the_same_question_is_flooded_once_and_another_one_again():
    network = BrightIsInside()
    nn.init.constant_(network.weight, 3.5)  # not yet seen by any other test
    first = segmenter().segment(network, [volume()])
    num_calls = network.num_calls
    assert segmenter().segment(network, [volume()]) is first and network.num_calls == num_calls
    segmenter(segment_threshold=0.7).segment(network, [volume()])
    assert network.num_calls == 2 * num_calls
    with torch.no_grad():
        network.weight += 1
    segmenter().segment(network, [volume()])
    assert network.num_calls == 3 * num_calls


def test_a_segmentation_at_half_resolution_comes_back_at_the_full_one():
    truth = volume(scale=(2, 2, 2), shape=(33, 64, 64))
    (found,) = segmenter(min_segment_size=10).segment(BrightIsInside(), [truth])
    assert found.ids.shape == truth.raw.shape and found.ids.max() > 0


def test_a_limit_of_moves_is_reported():
    (found,) = segmenter(max_moves=2).segment(BrightIsInside(), [volume()])
    assert found.truncated and found.counters["moves"] == 2


def test_a_foreign_move_threshold_is_warned_of(caplog):
    with caplog.at_level(logging.WARNING):
        segmenter(move_threshold=0.7).segment(BrightIsInside(), [volume()])
    assert "trained with 0.6" in caplog.text


def test_unknown_policies_and_small_volumes_are_refused():
    with pytest.raises(ValueError, match="seed_policy must be one of"):
        segmenter(seed_policy=["peaks", "everywhere"])
    with pytest.raises(ValueError, match="fewer than the field of view"):
        segmenter().segment(BrightIsInside(), [volume(shape=(5, 32, 32))])


def test_a_mask_file_keeps_moves_and_seeds_out(tmp_path):
    import h5py

    truth = volume(shape=(16, 32, 20))
    mask = np.zeros(truth.raw.shape, bool)
    mask[:, 14:] = True
    with h5py.File(tmp_path / "mask.h5", "w") as file:
        file["movement_mask"] = mask
    (found,) = segmenter(movement_mask=str(tmp_path / "mask.h5")).segment(BrightIsInside(), [truth])
    assert len(found.origins) == 1 and found.ids[truth.labels == 1].any() and not found.ids[:, 20:].any()


def test_a_list_of_policies_is_tried_in_turn():
    (one,) = segmenter().segment(BrightIsInside(), [volume(shape=(16, 32, 20))])
    (two,) = segmenter(seed_policy=["peaks", "-peaks"]).segment(BrightIsInside(), [volume(shape=(16, 32, 20))])
    assert np.array_equal(one.ids, two.ids) and two.counters["seeds"] > one.counters["seeds"]


def test_a_finished_segmentation_is_found_in_its_folder_and_a_killed_one_goes_on(tmp_path):
    whole = segmenter().segment(BrightIsInside(), [volume(shape=(16, 32, 20))])[0]
    network, settings = BrightIsInside(), {"folder": str(tmp_path), "checkpoint_moves": 3, "segment_threshold": 0.61}

    def stop(module, inputs, output):
        if module.num_calls == 7:
            raise KeyboardInterrupt

    network.register_forward_hook(stop)
    with pytest.raises(KeyboardInterrupt):
        segmenter(**settings).segment(network, [volume(shape=(16, 32, 20))])
    assert len(list(tmp_path.glob("checkpoint-*"))) == 1
    second = BrightIsInside()
    (found,) = segmenter(**settings).segment(second, [volume(shape=(16, 32, 20))])
    assert np.array_equal(found.ids, whole.ids) and found.origins == whole.origins and found.counters == whole.counters
    assert second.num_calls == whole.counters["moves"] - 6 and not list(tmp_path.glob("checkpoint-*"))
    nissl.flood_fill.segmenter._finished.clear()  # as in a new process
    third = BrightIsInside()
    (again,) = segmenter(**settings).segment(third, [volume(shape=(16, 32, 20))])
    assert third.num_calls == 0 and np.array_equal(again.ids, whole.ids) and again.origins == whole.origins
    assert np.array_equal(again.probability, whole.probability)
    assert again.rejected == found.rejected and again.overlaps == found.overlaps


@pytest.mark.parametrize("name, value", [("backend", "tpu"), ("move_order", "random"), ("precision", "int4")])
def test_unknown_words_are_refused_with_the_known_ones(name, value):
    with pytest.raises(ValueError, match=f"{name} must be one of"):
        segmenter(**{name: value})
