from types import SimpleNamespace

import numpy as np
import pytest

from nissl.evaluators.morphometrics import FEATURES, LOG_SCALED, morphometrics


def y_shape() -> SimpleNamespace:
    """A stem of 10 um that forks into two arms of 5 um, at right angles to each other."""
    arm = 5 / np.sqrt(2)
    pos = np.array([[0, 0, 0], [0, 5, 0], [0, 10, 0], [arm, 10 + arm, 0], [-arm, 10 + arm, 0]])
    return SimpleNamespace(pos=pos, parent=np.array([-1, 0, 1, 2, 2]))


def by_name(cell: SimpleNamespace) -> dict[str, float]:
    values = dict(zip(FEATURES, morphometrics([cell])[0], strict=True))
    return {name: np.expm1(value) if name in LOG_SCALED else value for name, value in values.items()}


def test_a_y_shaped_cell_by_hand() -> None:
    f = by_name(y_shape())
    exact = {
        "num_stems": 1, "num_forks": 1, "num_tips": 2, "cable_um": 20, "max_path_um": 15, "mean_path_um": 9,
        "max_order": 1, "mean_order": 0.4, "strahler": 2, "mean_asymmetry": 0, "tortuosity": 1, "hull_volume_um3": 0,
        "mean_segment_um": 20 / 3, "mean_fork_angle_rad": np.pi / 2, "width_um": 10 / np.sqrt(2), "depth_um": 0,
        "height_um": 10 + 5 / np.sqrt(2), "sholl_max": 2,
    }  # fmt: skip
    for name, value in exact.items():
        assert f[name] == pytest.approx(value, abs=1e-9), name
    assert f["max_radial_um"] == pytest.approx(np.hypot(5 / np.sqrt(2), 10 + 5 / np.sqrt(2)))
    assert f["sholl_max_radius_um"] > 10


def test_an_uneven_fork_is_asymmetric_and_keeps_its_strahler_number() -> None:
    # Below the first fork: one tip on one side, a fork into two tips on the other.
    parent = np.array([-1, 0, 1, 1, 3, 3])
    pos = np.array([[0, 0, 0], [0, 1, 0], [1, 2, 0], [-1, 2, 0], [-2, 3, 0], [0, 3, 0]], float)
    f = by_name(SimpleNamespace(pos=pos, parent=parent))
    assert f["num_tips"] == 3 and f["strahler"] == 2 and f["max_order"] == 2
    assert f["mean_asymmetry"] == pytest.approx((1.0 + 0.0) / 2)


def test_only_extents_and_positions_change_under_rotation_about_y() -> None:
    rng = np.random.default_rng(0)
    parent = np.array([-1] + [int(rng.integers(0, i)) for i in range(1, 80)])
    pos = rng.normal(0, 50, (80, 3))
    turn = np.array([[np.cos(1), 0, np.sin(1)], [0, 1, 0], [-np.sin(1), 0, np.cos(1)]])
    a, b = morphometrics([SimpleNamespace(pos=p, parent=parent) for p in (pos, pos @ turn)])
    moved = {name for name, x, y in zip(FEATURES, a, b, strict=True) if not np.isclose(x, y)}
    assert moved <= {"width_um", "depth_um"}


def test_a_straight_cable_has_every_feature_defined() -> None:
    pos = np.array([[0, 0, 0], [0, 10, 0], [0, 20, 0]], float)
    values = morphometrics([SimpleNamespace(pos=pos, parent=np.array([-1, 0, 1]))])
    assert np.isfinite(values).all()
