import numpy as np

from nissl.trees.paths import path_lengths


def test_path_lengths_of_a_y_are_those_along_its_arms() -> None:
    pos = np.array([[0, 0, 0], [0, 10, 0], [3, 14, 0], [-3, 14, 0]], float)
    np.testing.assert_allclose(path_lengths(pos, np.array([-1, 0, 1, 1])), [0, 10, 15, 15])
