import numpy as np
import pytest
import torch
from flood_fill.test_canvas import DELTAS, FOV, oracle, thresholds, two_bars

from nissl.flood_fill import checkpoint, executor
from nissl.flood_fill.canvas import Canvas, Moves

SEEDS = np.array([(5, 5, 5), (5, 14, 20), (9, 9, 9), (5, 5, 25)])


def canvas(order="first_found", image=None, seeds=SEEDS):
    def more(segmentation):
        return np.argwhere(segmentation == 0)[::97]

    image = two_bars() if image is None else image
    return Canvas(image, FOV, DELTAS, thresholds(), seeds, moves=Moves(order), more_seeds=[more], keep_probability=True)


def states(canvases):
    return [
        (c.segmentation.tolist(), c.probability.tolist(), c.origins, c.overlaps, c.counters, c.rejected)
        for c in canvases
    ]


class Killed(Exception):
    pass


@pytest.mark.parametrize("order", ["first_found", "strongest_first"])
def test_stopped_at_any_move_and_resumed_is_as_if_not_stopped(tmp_path, order):
    whole = [canvas(order), canvas(order, two_bars().flip(2), SEEDS[:2])]
    executor.run(whole, oracle, 2)
    num_moves = sum(c.counters["moves"] for c in whole)
    path, parts, last = tmp_path / "c.npz", None, -1
    while True:  # a new process for every second batch
        parts = [canvas(order), canvas(order, two_bars().flip(2), SEEDS[:2])]
        if path.exists():
            checkpoint.restore(parts, path, "key")
        batches = 0

        def after():
            nonlocal batches
            batches += 1
            if batches == 2:
                checkpoint.save(parts, path, "key")  # noqa: B023
                raise Killed

        try:
            executor.run(parts, oracle, 2, after)
            break
        except Killed:
            done = sum(c.counters["moves"] for c in parts)
            assert last < done <= num_moves
            last = done
    assert last > num_moves // 2 and states(parts) == states(whole)


def test_a_checkpoint_before_the_first_seed_can_be_read(tmp_path):
    fresh, other = canvas(), canvas()
    checkpoint.save([fresh], tmp_path / "c.npz", "key")
    checkpoint.restore([other], tmp_path / "c.npz", "key")
    executor.run([fresh], oracle, 1)
    executor.run([other], oracle, 1)
    assert states([fresh]) == states([other])


def test_the_checkpoint_of_another_flooding_is_refused(tmp_path):
    checkpoint.save([canvas()], tmp_path / "c.npz", "key")
    with pytest.raises(ValueError, match="checkpoint of another flooding"):
        checkpoint.restore([canvas()], tmp_path / "c.npz", "other key")
    with pytest.raises(ValueError, match="checkpoint of another flooding"):
        checkpoint.restore([canvas(), canvas()], tmp_path / "c.npz", "key")


def test_a_repeated_flooding_gives_the_same_bits():
    first, second = canvas(), canvas()
    for each in (first, second):
        executor.run([each], oracle, 1)
    assert torch.equal(first.segmentation, second.segmentation) and states([first]) == states([second])
