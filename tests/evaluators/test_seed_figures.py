import numpy as np

from nissl.evaluators.seed_figures import rejected_figure, rejected_rows
from nissl.volumes.annotated import AnnotatedVolume

VOLUME = AnnotatedVolume(
    "v", np.arange(8 * 10 * 12, dtype=np.uint8).reshape(8, 10, 12), (10.0, 10.0, 10.0), scale_zyx=(2, 2, 2),
    offset_zyx=(0, 0, 100),
)  # fmt: skip
REJECTED = [((2, 2, 3), "weak", 3), ((1, 2, 3), "small", 7), ((2, 1, 1), "weak", 1)]


def test_rejected_seeds_are_listed_in_voxels_of_the_file():
    rows = rejected_rows([REJECTED], [VOLUME])
    assert rows[0] == {"volume": "v", "z": 5, "y": 5, "x": 107, "reason": "weak", "moves": 3} and len(rows) == 3


def test_rejected_seeds_are_counted_and_drawn_by_reason():
    figure = rejected_figure(VOLUME, VOLUME.raw // 60, REJECTED)
    assert figure.png.startswith(b"\x89PNG") and "3 seeds that became no segment" in figure.caption
    assert figure.data["seeds"].tolist() == [2, 1] and figure.data["moves"].tolist() == [4, 7]


def test_nothing_rejected_is_drawn_as_nothing():
    assert "0 seeds" in rejected_figure(VOLUME, VOLUME.raw // 60, []).caption
