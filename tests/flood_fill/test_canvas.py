import numpy as np
import pytest
import torch

from nissl.flood_fill import executor
from nissl.flood_fill.canvas import REJECTED, Canvas, Masks, Moves, Thresholds
from nissl.flood_fill.movement import logit

FOV, DELTAS = (5, 5, 5), (2, 2, 2)


def centred(size=5):
    """Logits that fall a little from the centre, so that the strongest voxel of a face is its middle."""
    distance = torch.stack(torch.meshgrid(*[torch.arange(size) - size // 2] * 3, indexing="ij")).square().sum(0)
    return 4.0 - 0.05 * distance


def everywhere(image, seed):
    return centred().expand_as(seed).clone()


def oracle(image, seed):
    """A perfect network for images of separate bright objects: what is bright and joined to the seed in view is on."""
    from scipy import ndimage

    new = torch.full_like(seed, -4.0)
    for i in range(len(image)):
        parts, _ = ndimage.label(image[i, 0].numpy() > 0.5)
        on = np.unique(parts[(seed[i, 0].numpy() > 0.5) & (parts > 0)])
        inside = torch.from_numpy(np.isin(parts, on) & (parts > 0))
        new[i, 0][inside] = centred()[inside]
    return new


def thresholds(**changed):
    values = {
        "init_activation": 0.95,
        "pad_value": 0.05,
        "move": 0.9,
        "segment": 0.6,
        "min_segment_size": 10,
        "min_boundary_dist_zyx": (1, 1, 1),
        "disconnected_seed": 0.0,
    }
    return Thresholds(**(values | changed))


def two_bars():
    image = torch.zeros(12, 20, 30)
    image[3:8, 3:8, 2:28] = 1.0
    image[3:8, 12:17, 2:28] = 1.0
    return image


def flood(image, seeds, network=oracle, max_moves=None, **changed):
    canvas = Canvas(image, FOV, DELTAS, thresholds(**changed), np.array(seeds).reshape(-1, 3), max_moves)
    executor.run([canvas], network, batch_size=1)
    return canvas


def test_a_perfect_network_fills_each_bar_from_one_seed():
    image = two_bars()
    canvas = flood(image, [(5, 5, 5), (5, 14, 20)])
    assert set(canvas.origins) == {1, 2}
    expected = torch.zeros(image.shape, dtype=torch.int32)
    expected[3:8, 3:8, 2:28] = 1
    expected[3:8, 12:17, 2:28] = 2
    assert torch.equal(canvas.segmentation, expected)
    assert canvas.origins[1].start_zyx == (5, 5, 5) and canvas.origins[1].num_voxels == 5 * 5 * 26
    assert canvas.counters["voxels_segmented"] == 2 * 5 * 5 * 26


def test_a_second_seed_in_a_segment_costs_no_move():
    once = flood(two_bars(), [(5, 5, 5)])
    twice = flood(two_bars(), [(5, 5, 5), (5, 5, 20)])
    assert twice.counters["moves"] == once.counters["moves"] and twice.counters["seeds_in_segment"] == 1


def test_a_seed_beside_a_segment_is_rejected_without_a_move():
    canvas = flood(two_bars(), [(5, 5, 5), (5, 8, 5)])
    assert canvas.counters["seeds_near_segment"] == 1 and canvas.segmentation[5, 8, 5] == REJECTED


def test_a_small_object_is_rejected():
    image = torch.zeros(9, 9, 9)
    image[4, 4, 3:6] = 1.0
    canvas = flood(image, [(4, 4, 4)])
    assert canvas.counters["seeds_small"] == 1 and not canvas.origins
    assert canvas.segmentation[4, 4, 4] == REJECTED and int((canvas.segmentation != 0).sum()) == 1


def test_an_object_that_loses_its_own_seed_is_weak():
    canvas = flood(two_bars(), [(5, 5, 5)], network=lambda image, seed: torch.full_like(seed, -3.0))
    assert canvas.counters["seeds_weak"] == 1 and canvas.counters["moves"] == 1
    assert canvas.segmentation[5, 5, 5] == REJECTED


def test_a_seed_too_near_the_border_is_skipped():
    canvas = flood(two_bars(), [(1, 5, 5), (5, 5, 28)])
    assert canvas.counters["seeds_outside"] == 2 and canvas.counters["moves"] == 0


def test_an_existing_segment_is_never_overwritten():
    image = two_bars()
    canvas = Canvas(image, FOV, DELTAS, thresholds(), np.array([(5, 5, 5)]))
    canvas.segmentation[:, :, 12:] = 7
    executor.run([canvas], everywhere, 1)
    assert bool((canvas.segmentation[:, :, 12:] == 7).all())
    assert canvas.overlaps[1][7] > 0 and canvas.counters["voxels_overlapping"] == canvas.overlaps[1][7]
    assert canvas.counters["skipped_in_segment"] > 0


def test_a_move_sees_what_the_moves_before_it_wrote():
    seen = []

    def network(image, seed):
        seen.append(float((seed > 0).sum()))
        return everywhere(image, seed)

    flood(torch.ones(5, 5, 9), [(2, 2, 2)], network)
    assert seen[0] == 1  # the first voxel alone
    assert seen[1] == 5 * 5 * 3  # the second field of view overlaps the first in three of its five sections


def test_unvisited_voxels_are_shown_as_the_pad_value_and_never_as_nan():
    def network(image, seed):
        assert not torch.isnan(seed).any()
        seen.append(seed.clone())
        return everywhere(image, seed)

    seen = []
    flood(torch.ones(5, 5, 9), [(2, 2, 2)], network, pad_value=0.4)
    assert seen[0].unique().tolist() == pytest.approx([logit(0.4), logit(0.95)])
    assert bool((seen[1][..., -2:] == seen[0].min()).all()) and bool((seen[1][..., :3] > 3).all())


def test_max_moves_keeps_finished_objects_and_drops_the_unfinished_one():
    moves_of_one = flood(two_bars(), [(5, 5, 5)]).counters["moves"]
    canvas = flood(two_bars(), [(5, 5, 5), (5, 14, 20)], max_moves=moves_of_one + 1)
    assert set(canvas.origins) == {1} and canvas.counters["moves"] == moves_of_one + 1
    assert int(canvas.segmentation.max()) == 1


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_canvases_in_one_batch_end_as_they_would_alone(batch_size):
    images = [two_bars(), two_bars().flip(2), torch.zeros(9, 9, 9)]
    seeds = [[(5, 5, 5), (5, 14, 20)], [(5, 14, 9)], []]
    alone = [flood(image, seed) for image, seed in zip(images, seeds, strict=True)]
    together = [
        Canvas(image, FOV, DELTAS, thresholds(), np.array(seed).reshape(-1, 3))
        for image, seed in zip(images, seeds, strict=True)
    ]
    executor.run(together, oracle, batch_size)
    for one, other in zip(alone, together, strict=True):
        assert torch.equal(one.segmentation, other.segmentation) and one.counters == other.counters


def test_no_batch_is_larger_than_asked_and_none_waits_for_a_finished_canvas():
    sizes = []

    def network(image, seed):
        sizes.append(len(image))
        return oracle(image, seed)

    canvases = [
        Canvas(two_bars(), FOV, DELTAS, thresholds(), np.array(seeds).reshape(-1, 3))
        for seeds in ([(5, 5, 5), (5, 14, 20)], [(5, 5, 5)], [(5, 5, 5)])
    ]
    executor.run(canvases, network, batch_size=2)
    assert max(sizes) == 2 and sizes[-1] == 1
    assert sum(sizes) == sum(canvas.counters["moves"] for canvas in canvases)


def test_a_mask_is_not_crossed_and_without_it_is():
    """A vessel through the first bar: a third of the bar lies behind it."""
    vessel = torch.zeros(two_bars().shape, dtype=torch.bool)
    vessel[:, :, 17:21] = True
    seeds = np.array([(5, 5, 5), (5, 14, 18)])
    masked = Canvas(two_bars(), FOV, DELTAS, thresholds(), seeds, masks=Masks(moves=vessel))
    executor.run([masked], oracle, 1)
    # steps of 2 from 5: the last centre before the mask is 15, and its field of view ends at 17
    assert int((masked.segmentation[5, 5] > 0).nonzero().max()) == 17
    assert masked.counters["skipped_restricted"] > 0 and masked.counters["seeds_restricted"] == 1
    assert ((5, 14, 18), "restricted", 0) in masked.rejected
    assert int((flood(two_bars(), seeds).segmentation[5, 5] > 0).nonzero().max()) == 27


def test_a_seed_mask_forbids_starts_and_no_moves():
    mask = torch.zeros(two_bars().shape, dtype=torch.bool)
    mask[:, :, 10:] = True
    canvas = Canvas(two_bars(), FOV, DELTAS, thresholds(), np.array([(5, 5, 15), (5, 5, 5)]), masks=Masks(seeds=mask))
    executor.run([canvas], oracle, 1)
    assert canvas.counters["seeds_restricted"] == 1
    assert int((canvas.segmentation == 1).sum()) == 5 * 5 * 26


def test_segments_that_stood_before_keep_their_ids_and_new_ones_follow():
    existing = torch.zeros(two_bars().shape, dtype=torch.int32)
    existing[3:8, 3:8, 2:28] = 7
    canvas = Canvas(two_bars(), FOV, DELTAS, thresholds(), np.array([(5, 5, 5), (5, 14, 20)]), existing=existing)
    executor.run([canvas], oracle, 1)
    assert torch.equal(canvas.segmentation == 7, existing == 7) and set(canvas.origins) == {8}


def test_later_seeds_see_what_the_earlier_ones_left():
    asked = []

    def rest(segmentation):
        asked.append(int((segmentation > 0).sum()))
        return np.array([(5, 14, 20)])

    canvas = Canvas(two_bars(), FOV, DELTAS, thresholds(), np.array([(5, 5, 5)]), more_seeds=[rest])
    executor.run([canvas], oracle, 1)
    assert asked == [5 * 5 * 26] and set(canvas.origins) == {1, 2} and canvas.is_complete


def test_every_refused_seed_is_kept_with_its_reason_and_cost():
    image = torch.zeros(9, 9, 20)
    image[4, 4, 3:6] = 1.0
    canvas = flood(image, [(4, 4, 4), (0, 4, 4), (4, 4, 12)])
    reasons = {reason: (seed, moves) for seed, reason, moves in canvas.rejected}
    assert reasons["outside"] == ((0, 4, 4), 0) and reasons["small"][0] == (4, 4, 4) and reasons["small"][1] > 0


def test_long_steps_save_moves_inside_a_thick_object_and_fill_it_all_the_same():
    image = torch.ones(21, 21, 21)
    seeds = np.array([(10, 10, 10)])
    short = Canvas(image, (9, 9, 9), DELTAS, thresholds(), seeds)
    # from the rim, long steps come back between those of the way out; there everything has been seen
    moves = Moves(saturated=0.95, long_step=2.0, skip_visited=1.0)
    long = Canvas(image, (9, 9, 9), DELTAS, thresholds(), seeds, moves=moves)
    for canvas in (short, long):
        executor.run([canvas], lambda image, seed: centred(9).expand_as(seed).clone() + 2, 1)
    assert torch.equal(short.segmentation, long.segmentation)
    assert long.counters["moves"] < short.counters["moves"] / 2


def test_positions_whose_surroundings_are_known_can_be_passed_over():
    image, seeds = torch.ones(21, 21, 21), np.array([(10, 10, 10)])
    every = Canvas(image, (9, 9, 9), DELTAS, thresholds(), seeds)
    fewer = Canvas(image, (9, 9, 9), DELTAS, thresholds(), seeds, moves=Moves(skip_visited=0.95))
    for canvas in (every, fewer):
        executor.run([canvas], lambda image, seed: centred(9).expand_as(seed).clone() + 2, 1)
    assert fewer.counters["skipped_visited"] > 0 and fewer.counters["moves"] < every.counters["moves"] / 2
    kept = int((fewer.segmentation > 0).sum()) / int((every.segmentation > 0).sum())
    assert 0.9 < kept <= 1  # what is left out are the outermost edges


def test_the_history_counts_what_each_move_deletes():
    calls = []

    def network(image, seed):
        calls.append(1)
        return everywhere(image, seed) if len(calls) == 1 else torch.where(seed > 0, -3.0, 3.0)

    canvas = Canvas(
        torch.ones(5, 5, 9), FOV, DELTAS, thresholds(disconnected_seed=-1.0), np.array([(2, 2, 2)]), keep_history=True
    )
    executor.run([canvas], network, 1)
    assert canvas.history[0] == ((2, 2, 2), 0) and canvas.history[1] == ((2, 2, 4), 5 * 5 * 3)


def test_the_probability_of_segmented_voxels_is_kept():
    canvas = Canvas(two_bars(), FOV, DELTAS, thresholds(), np.array([(5, 5, 5)]), keep_probability=True)
    executor.run([canvas], oracle, 1)
    assert np.array_equal(canvas.probability > 0, canvas.segmentation.numpy() > 0)
    assert canvas.probability.max() > 245
