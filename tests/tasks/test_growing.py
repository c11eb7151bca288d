import numpy as np
import pytest
import torch

from nissl.flood_fill.movement import logit
from nissl.tasks.growing import Growing, Movement

FOV, DELTAS = (7, 7, 7), (2, 2, 2)


def bar(size=11):
    """An object along z, five voxels wide, through the centre."""
    label = torch.zeros(1, size, size, size)
    middle = slice(size // 2 - 2, size // 2 + 3)
    label[:, :, middle, middle] = 1.0
    return label


def growing(policy="fixed", draw=0, label=None, threshold=0.9, window_radius=1):
    label = bar() if label is None else label
    seed = torch.full_like(label, logit(0.05))
    seed[(0, *(size // 2 for size in label.shape[1:]))] = logit(0.95)
    return Growing(
        label.clone(), label, seed, label == 0, Movement(FOV, DELTAS, logit(threshold), policy, window_radius), draw
    )


def walk(example, answer=lambda image: 8 * image - 4, max_moves=None):
    """Positions visited when the network answers from the image alone."""
    positions = []
    while example.view is not None:
        positions.append(tuple(part.start + 3 for part in example.view))
        example.take(answer(example.image[(slice(None), *example.view)]), max_moves)
    return positions


def test_the_centre_comes_first_and_every_reached_neighbour_once():
    positions = walk(growing())
    assert positions[0] == (5, 5, 5) and len(positions) == len(set(positions)) == 27


def test_an_object_that_reaches_nothing_is_moved_once():
    assert walk(growing(), answer=lambda image: torch.full_like(image, logit(0.85))) == [(5, 5, 5)]


def test_no_step_stays_at_the_centre():
    assert walk(growing("no_step")) == [(5, 5, 5)]


def test_the_order_is_decided_by_the_draw_alone():
    assert walk(growing(draw=3)) == walk(growing(draw=3)) != walk(growing(draw=4))


def test_a_move_sees_what_the_moves_before_it_wrote():
    example = growing()
    assert float(example.seed.max()) == pytest.approx(logit(0.95))
    example.take(torch.full((1, 7, 7, 7), 4.0))
    assert float(example.seed[(slice(None), *example.view)].max()) == 4.0


def test_the_number_of_moves_can_be_limited():
    assert len(walk(growing(), max_moves=5)) == 5


def test_the_window_finds_a_process_that_the_fixed_offsets_miss():
    label = torch.zeros(1, 11, 11, 11)
    label[0, :, 4, 4] = 1.0  # one voxel wide, beside the offsets at 3, 5, 7
    label[0, 5, 4:6, 4:6] = 1.0
    assert len(walk(growing(label=label))) == 1
    # The process leaves through both z faces; every neighbour within one voxel of it there is visited.
    expected = {(5, 5, 5), *((z, y, x) for z in (3, 7) for y in (3, 5) for x in (3, 5))}
    assert set(walk(growing("fixed_window", label=label))) >= expected


def test_the_window_looks_only_at_the_shell():
    label = torch.zeros(1, 11, 11, 11)
    label[0, 5, 5, 4:7] = 1.0  # ends inside the shell at +-2
    assert walk(growing("fixed_window", label=label, window_radius=1)) == [(5, 5, 5)]


def test_moves_to_the_strongest_voxel_of_a_face_never_leave_the_true_object():
    example = growing("max_pred_moves")
    positions = walk(example, answer=lambda image: torch.full_like(image, 4.0))  # the network floods everything
    assert positions[0] == (5, 5, 5) and len(positions) > 1
    assert all(example.label[(0, *position)] == 1 for position in positions)
    assert len({tuple(np.subtract(p, 5) // 2) for p in positions}) == len(positions)


def test_moves_are_counted_as_correct_missed_and_spurious():
    example = growing()
    walk(example)
    # All 26 neighbours at +-2 lie in the bar, which is five voxels wide.
    assert example.moves() == {"correct": 26, "missed": 0, "spurious": 0}
    lazy = growing()
    walk(lazy, answer=lambda image: torch.full_like(image, -4.0))
    assert lazy.moves() == {"correct": 0, "missed": 26, "spurious": 0}
    label = bar()
    label[:, :, :, 6:] = 0.0
    eager = growing(label=label)
    walk(eager, answer=lambda image: torch.full_like(image, 4.0))
    assert eager.moves() == {"correct": 17, "missed": 0, "spurious": 9}


def test_examples_of_a_size_that_no_number_of_steps_gives_are_refused():
    with pytest.raises(ValueError, match="needs its field of view"):
        growing(label=torch.ones(1, 12, 12, 12))
