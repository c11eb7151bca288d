from types import SimpleNamespace

import numpy as np
import pytest
from scipy import ndimage

from nissl.evaluators.irregularities import Irregularities
from nissl.volumes.annotated import AnnotatedVolume


def test_a_planted_jump_and_a_missing_section_are_found_and_forbidden():
    rng = np.random.default_rng(0)
    texture = ndimage.gaussian_filter(rng.normal(size=(8, 80, 80)), (4, 2, 2))
    texture = 128 + 40 * texture / texture.std()
    raw = texture[:, 10:58, 10:58].copy()
    raw[3:] = texture[3:, 4:52, 13:61]  # what was at (10, 10) is now at (16, 7)
    raw[6] = 30
    volume = AnnotatedVolume("v", np.clip(raw, 0, 255).astype(np.uint8), (20.0, 9.0, 9.0))
    data = SimpleNamespace(source=SimpleNamespace(volumes=lambda split: [volume]))
    result = Irregularities("test", patch=32, step=16, max_shift=9, threshold=4)(None, data)
    rows = result.tables["jumps"]
    assert [(row["section"], row["missing"]) for row in rows] == [(3, False), (6, True)]
    assert (rows[0]["dy"], rows[0]["dx"]) == pytest.approx((6, -3), abs=0.5)
    mask = result.arrays["movement_mask"]
    assert mask[[2, 3, 6]].all() and not mask[[0, 1, 4, 5, 7]].any()
    assert result.scalars["irregularities/jumps"] == 1 and result.scalars["irregularities/forbidden"] == 3 / 8
    assert result.figures["mask"].png


def test_an_unknown_split_is_refused():
    with pytest.raises(ValueError, match="split must be"):
        Irregularities("train", 32, 16, 8, 4)
