from types import SimpleNamespace

import numpy as np

from nissl.evaluators.persistence import NUM_BINS, persistence_images


def test_pictures_do_not_change_with_a_rotation_but_with_the_tree() -> None:
    rng = np.random.default_rng(0)
    pos, parent = rng.normal(size=(30, 3)), np.array([-1] + [int(rng.integers(0, i)) for i in range(1, 30)])
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    chain = SimpleNamespace(pos=pos, parent=np.arange(30) - 1)
    one, turned, other = persistence_images(
        [SimpleNamespace(pos=pos, parent=parent), SimpleNamespace(pos=pos @ turn, parent=parent), chain]
    )
    assert one.shape == (2 * NUM_BINS**2,)
    np.testing.assert_allclose(one, turned, atol=1e-9)
    assert np.abs(one - other).max() > 0.1
