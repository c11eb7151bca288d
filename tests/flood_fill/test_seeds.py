import numpy as np

from nissl.flood_fill.seeds import local_maxima, peaks
from nissl.simulate.em import simulate_volume


def test_local_maxima_are_found_apart_and_in_order():
    values = np.zeros((20, 20, 20))
    values[5, 5, 5], values[5, 5, 7], values[12, 4, 9], values[1, 9, 9] = 3, 2, 1, 9
    assert local_maxima(values, 3, 0.0).tolist() == [[5, 5, 5], [12, 4, 9]]  # 7 is in the shadow, z 1 at the border


def test_seeds_lie_mostly_inside_neurites_and_are_the_same_twice():
    volume = simulate_volume((40, 48, 48), (20.0, 20.0, 20.0), 3, 30, (60.0, 160.0), 1200.0, 6.0, 14.0)
    image = volume.network_image()
    found = peaks(image, volume.voxel_size_zyx_nm)
    assert len(found) > 10
    assert np.array_equal(found, peaks(image, volume.voxel_size_zyx_nm))
    assert np.array_equal(found, found[np.lexsort(found.T[::-1])])
    from scipy.ndimage import maximum_filter, minimum_filter

    labels = volume.labels
    away_from_membranes = minimum_filter(labels, 3) == maximum_filter(labels, 3)
    assert away_from_membranes[tuple(found.T)].mean() > away_from_membranes.mean()


def test_a_constant_image_has_seeds_only_where_nothing_is_an_edge():
    assert peaks(np.zeros((20, 20, 20), np.float32), (10.0, 10.0, 10.0)).shape[1] == 3
