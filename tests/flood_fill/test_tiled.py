import dataclasses

import numpy as np
import pytest
from flood_fill.test_segmenter import BrightIsInside, segmenter, volume

from nissl.flood_fill.tiled import TiledFloodFill


def tiled(**changed):
    values = {"flood": segmenter(reflect_border=True, batch_size=4), "core_zyx": [24, 16, 20], "halo_zyx": [8, 8, 8],
              "min_shared": 20, "min_iou": 0.5, "min_containment": 0.9}  # fmt: skip
    return TiledFloodFill(**(values | changed))


def test_a_bar_that_runs_through_all_tiles_is_one_segment():
    truth = volume(shape=(16, 32, 60))
    (found,) = tiled().segment(BrightIsInside(), [truth])
    assert found.ids.shape == truth.labels.shape and not found.ids[truth.labels == 0].any()
    assert [len(np.unique(found.ids[truth.labels == bar])) for bar in (1, 2)] == [1, 1]
    assert found.ids[truth.labels == 1].min() > 0 and len(np.unique(found.ids)) == 3
    assert sum(row["joined"] for row in found.tables["seams"]) >= 4 and found.counters["moves"] > 0


def test_tiles_that_do_not_fit_the_network_are_refused():
    with pytest.raises(ValueError, match="must exceed half a field of view"):
        tiled(halo_zyx=[8, 4, 8]).segment(BrightIsInside(), [volume(shape=(16, 32, 60))])
    with pytest.raises(ValueError, match="multiples of the network's scale"):
        half = dataclasses.replace(volume(shape=(32, 32, 60)), scale_zyx=(2, 2, 2))
        tiled(core_zyx=[24, 15, 20]).segment(BrightIsInside(), [half])
