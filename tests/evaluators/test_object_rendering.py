import numpy as np
import pytest

from nissl.evaluators.object_rendering import cast_rays, objects_figure, render
from nissl.volumes.annotated import AnnotatedVolume


def two_cubes():
    """Label 1 in front (low y), 2 behind and to the right of it."""
    labels = np.zeros((20, 20, 20), int)
    labels[4:12, 2:8, 2:10], labels[4:12, 12:18, 6:18] = 1, 2
    return labels


def test_looking_along_y_shows_the_nearer_object_in_front_with_z_upwards():
    depth, hit = cast_rays(two_cubes(), (10.0, 10.0, 10.0), 20, 0, 0)
    assert hit.shape == (20, 20) and set(hit[:8].ravel()) == {0}  # rows 0 to 7 are z 19 to 12: nothing
    assert np.all(hit[8:16, 2:10] == 1) and np.all(hit[8:16, 10:18] == 2) and np.all(hit[16:] == 0)
    assert depth[10, 5] == 3 and depth[10, 15] == 13 and depth[0, 0] == 0


def test_voxels_keep_their_proportions():
    _, hit = cast_rays(two_cubes(), (20.0, 10.0, 10.0), 40, 0, 0)
    assert hit.shape == (40, 20) and np.all(hit[16:32, 2:10] == 1)


@pytest.mark.parametrize(("turn", "tilt"), [(35, 25), (90, 0), (0, 90)])
def test_every_object_is_seen_from_other_sides_too(turn, tilt):
    _, hit = cast_rays(two_cubes(), (10.0, 10.0, 10.0), 30, turn, tilt)
    assert set(np.unique(hit)) == {0, 1, 2}


def test_a_picture_is_white_where_nothing_is_and_coloured_where_something_is():
    picture = render(two_cubes(), (10.0, 10.0, 10.0), 30, 35, 25)
    assert picture.dtype == np.uint8 and picture[0, 0].tolist() == [255, 255, 255]
    assert (picture != 255).any(axis=-1).mean() > 0.1
    assert np.all(render(np.zeros((4, 4, 4), int), (1.0, 1.0, 1.0), 8, 0, 0) == 255)


def test_the_figure_draws_whole_segments_that_are_mostly_the_objects_shown():
    truth = two_cubes()
    volume = AnnotatedVolume("cubes", np.zeros(truth.shape, np.uint8), (10.0, 10.0, 10.0), truth)
    figure = objects_figure(volume, truth, truth * 5, 1, pixels=40)
    assert figure.png.startswith(b"\x89PNG") and "1 largest true objects" in figure.caption
