from types import SimpleNamespace

import numpy as np

from nissl.evaluators.neuron_drawing import gallery, segments_xy


def comb(length: int = 40) -> SimpleNamespace:
    """A long chain that forks at its end into two arms of 10."""
    pos = [[0.0, float(k), 0.0] for k in range(length)]
    parent = [-1, *range(length - 1)]
    for side in (-1, 1):
        for k in range(10):
            parent.append(length - 1 if k == 0 else len(pos) - 1)
            pos.append([side * (k + 1.0), length - 1.0, 0.0])
    return SimpleNamespace(pos=np.array(pos) + 5.0, parent=np.array(parent))


def test_every_edge_is_a_segment_from_the_soma() -> None:
    segments = segments_xy(comb())
    assert segments.shape == (59, 2, 2) and segments[0, 0].tolist() == [0.0, 0.0]


def test_fewer_edges_keep_forks_tips_and_length() -> None:
    segments = segments_xy(comb(), max_edges=8)
    assert len(segments) == 8
    assert np.linalg.norm(segments[:, 1] - segments[:, 0], axis=1).sum() == 39 + 20
    ends = {tuple(end) for end in segments[:, 1].tolist()}
    assert {(0.0, 39.0), (-10.0, 39.0), (10.0, 39.0)} <= ends


def test_a_gallery_says_what_its_bars_are() -> None:
    figure = gallery([[(comb(), "one", "black")], [(comb(), "two", "red"), (comb(), "three", "red")]], "Two rows.")
    assert figure.caption.startswith("Two rows.") and "100 um" in figure.caption
