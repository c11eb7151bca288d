import numpy as np
import pytest

from nissl.volumes.boxes import Box


def test_a_box_from_a_config_cuts_the_volume_like_slices():
    box = Box.parse([[1, 3], [0, 5], [2, 6]], (4, 5, 6), "train_box")
    assert np.zeros((4, 5, 6))[box.slices].shape == box.shape_zyx == (2, 5, 4)


def test_positions_at_the_stop_are_outside():
    box = Box((0, 0, 0), (2, 3, 4))
    assert box.contains(np.array([[0, 0, 0], [1, 2, 3], [2, 0, 0], [0, -1, 0]])).tolist() == [True, True, False, False]


@pytest.mark.parametrize(
    ("ranges", "message"),
    [
        ([[0, 2], [0, 2]], "must be"),
        ([[0, 2], [0, 2], [0, 9]], "x from 0 to 9 is no part of the volume, which has 0 to 4"),
        ([[2, 2], [0, 2], [0, 4]], "z from 2 to 2"),
        ([[0, 2], [-1, 2], [0, 4]], "y from -1 to 2"),
    ],
)
def test_a_box_that_is_malformed_empty_or_outside_is_refused(ranges, message):
    with pytest.raises(ValueError, match=f"val_box.*{message}"):
        Box.parse(ranges, (2, 3, 4), "val_box")
