"""The simulated experiment: reproducible, wired as asked, with photons that behave as photons."""

from dataclasses import replace

import numpy as np
import pytest

from nissl.datasets.calcium_motion import find_shifts
from nissl.simulate.calcium import PARTS, Day, WorldSettings, make_world, simulate_day
from nissl.simulate.calcium.activity import mean_drive, run_session

SMALL = WorldSettings(
    size_px=36, num_cells=8, num_targets=4, modules=((1, 4), (2,), (3,)), trials=2, min_target_distance_px=7.0
)
STILL = replace(SMALL, jitter_px=0, drift_px=0, jolt_share=0, brightness_sigma=0, contrast_range=0, bleaching=(0, 0))


def test_the_same_seeds_give_the_same_bytes_and_others_do_not() -> None:
    first, again = (simulate_day(make_world(SMALL, 3), Day("a"), 5) for _ in range(2))
    other = simulate_day(make_world(SMALL, 3), Day("a"), 6)
    assert first.frames.tobytes() == again.frames.tobytes()
    assert first.frames.tobytes() != other.frames.tobytes()


def test_the_quick_design_has_36_stimulated_patterns_and_the_full_one_108() -> None:
    assert len(make_world(WorldSettings(), 0).patterns) == 36
    assert len(make_world(WorldSettings(powers=(0.8, 1.0, 1.2)), 0).patterns) == 108


def test_a_session_records_eleven_uint16_frames_around_each_of_its_trials() -> None:
    session = simulate_day(make_world(SMALL, 0), Day("a"), 0)
    assert session.frames.shape == (10 * 2 * 11, 36, 36) and session.frames.dtype == np.uint16
    assert np.array_equal(session.activity.onset, 3 + 11 * np.arange(20))
    assert np.array_equal(np.bincount(session.activity.pattern), np.full(10, 2))


def test_without_coupling_only_targets_and_their_neighbours_respond() -> None:
    world = make_world(replace(SMALL, off_target=(0.0, 0.0)), 1)
    evoked = simulate_day(world, Day("a", coupling=0.0), 2).activity.evoked
    assert np.all(evoked[:, 4:] == 0) and evoked[:, :4].max() > 0


def test_followers_respond_by_their_weight() -> None:
    world = make_world(replace(SMALL, off_target=(0.0, 0.0), follower_cv=0.0, amplitude_cv=0.0, success=1.0), 1)
    session = simulate_day(world, Day("a", coupling=1.5), 2)
    single = next(e for e, p in zip(session.activity.evoked, session.activity.pattern, strict=True) if p == 0)
    expected = 1.5 * world.weights[:, 0]
    expected[0] = 1.0
    assert np.allclose(single, expected)


def test_a_pair_shares_the_power() -> None:
    world = make_world(replace(SMALL, success=1.0, off_target=(0.0, 0.0)), 0)
    drive = mean_drive(world, (0, 2), power=1.0, off_target=0.0)
    assert np.allclose(drive[[0, 2]], 0.85) and drive.sum() == pytest.approx(1.7)


def test_silenced_followers_leave_the_targets() -> None:
    world = make_world(replace(SMALL, followers=False), 0)
    assert not world.weights.any()
    assert simulate_day(world, Day("a"), 0).evoked[0].max() > 0


def test_unstable_recurrent_coupling_is_refused() -> None:
    world = make_world(replace(SMALL, recurrent=True, weight_median=0.8), 0)
    with pytest.raises(ValueError, match="spectral radius .* must be below 1"):
        simulate_day(world, Day("a", coupling=5.0), 0)


def test_recurrent_gain_solves_the_steady_state() -> None:
    world = make_world(replace(SMALL, recurrent=True), 0)
    gain = world.gain_matrix(1.0)
    assert np.allclose(gain, np.eye(8) + world.weights @ gain)


def test_photon_noise_has_the_variance_of_its_mean() -> None:
    quiet = replace(
        STILL, amplitude=0.0, spontaneous_hz=(0.0, 0.0), population_hz=0.0, neuropil_noise=0.0, photons=20.0, trials=10
    )
    session = simulate_day(make_world(quiet, 0), Day("a"), 0)
    field = make_world(quiet, 0).field_mask
    photons = (session.frames[:, field] - quiet.offset) / quiet.gain
    assert photons.mean() == pytest.approx(20.0, rel=0.02)
    expected = photons.mean(axis=0) + (quiet.read_noise / quiet.gain) ** 2
    assert (photons.var(axis=0) / expected).mean() == pytest.approx(1.0, rel=0.03)


def test_shifts_move_the_picture_as_recorded() -> None:
    moved = replace(STILL, amplitude=0.0, photons=500.0, drift_px=2.0)
    session = simulate_day(make_world(moved, 0), Day("a"), 0)
    shifts = session.optics.shifts_px
    low, high = int(shifts[:, 0].argmin()), int(shifts[:, 0].argmax())
    centre = slice(8, -8)
    rows = []
    for frame in session.frames[[low, high]].astype(float):
        picture = frame[centre, centre]
        rows.append(picture - picture.mean())
    correlation = {dy: np.sum(rows[0][3:-3] * np.roll(rows[1], -dy, axis=0)[3:-3]) for dy in range(-3, 4)}
    assert max(correlation, key=lambda dy: correlation[dy]) == round(shifts[high, 0] - shifts[low, 0])


def test_a_later_day_has_other_expression_and_place() -> None:
    world = make_world(SMALL, 0)
    first, later = simulate_day(world, Day("a"), 0), simulate_day(world, Day("b", reference=False), 1)
    assert np.array_equal(first.optics.cell_brightness, world.baseline)
    assert not np.allclose(later.optics.cell_brightness, world.baseline)
    assert 1.0 <= np.hypot(*(later.positions_px - first.positions_px)[0]) <= 3.0


def test_redrawing_only_the_noise_keeps_the_nuisances() -> None:
    world = make_world(SMALL, 0)
    a, b = (simulate_day(world, Day("a", reference=False), 0, noise_seed=n) for n in (1, 2))
    assert np.array_equal(a.optics.shifts_px[:5], b.optics.shifts_px[:5])
    assert np.array_equal(a.optics.cell_brightness, b.optics.cell_brightness)
    assert a.frames.tobytes() != b.frames.tobytes()


def test_the_laser_lights_the_targets_in_laser_frames_only() -> None:
    world = make_world(replace(STILL, artefact=5.0, amplitude=0.0), 0)
    session = simulate_day(world, Day("a"), 0)
    y, x = (int(v) for v in world.positions_px[world.patterns[session.activity.pattern[0]].targets[0]])
    course = session.frames[:11, y, x].astype(float)
    assert course.argmax() == 3 and course[3] > 2 * np.delete(course, 3).max()


def test_evoked_truth_peaks_on_the_stimulated_cell() -> None:
    world = make_world(SMALL, 0)
    session = simulate_day(world, Day("a"), 0)
    for target in range(4):
        peak = np.unravel_index(session.evoked[target].argmax(), session.evoked[target].shape)
        assert np.hypot(*(np.array(peak) + 0.5 - world.positions_px[target])) < 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"modules": ((1, 2), (3,))}, "modules must name each of the 4 targets once"),
        ({"saturation": 0.0}, "saturation must be above 0 or None, came 0"),
        ({"num_cells": 3}, "num_cells=3 is below num_targets=4"),
        ({"window_frames": (30, 30)}, "window_frames="),
    ],
)
def test_settings_that_contradict_themselves_are_refused(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(SMALL, **change)


def test_more_cells_than_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="cells fit into 36 x 36 pixels"):
        make_world(replace(SMALL, num_cells=100), 0)


def rngs() -> dict[str, np.random.Generator]:
    return {part: np.random.default_rng(i) for i, part in enumerate(PARTS)}


def test_true_maps_grow_more_alike_with_coupling() -> None:
    """On average: what one cell drives may by chance be what tells it from another."""
    settings = replace(SMALL, modules=((1, 2, 3, 4),), spectral_radius=0.5, recurrent=True)

    def mean_zncc(seed: int, coupling: float) -> float:
        world = make_world(settings, seed)
        response = np.stack([world.gain_matrix(coupling) @ np.eye(8)[target] for target in range(4)])
        images = response @ world.footprints.reshape(8, -1)
        return float(np.corrcoef(images)[np.triu_indices(4, 1)].mean())

    rises = [mean_zncc(seed, 1.6) - mean_zncc(seed, 1.0) for seed in range(6)]
    assert np.mean(rises) > 0.02 and np.count_nonzero(np.array(rises) > 0) >= 5


def test_a_saturating_indicator_bends_towards_its_ceiling() -> None:
    plain, bent = (
        run_session(make_world(replace(SMALL, saturation=c), 0), Day("a"), rngs()).calcium for c in (None, 0.5)
    )
    assert np.allclose(bent, plain / (1 + plain / 0.5)) and bent.max() < 0.5 < plain.max()


def test_registration_finds_the_true_shifts_of_a_simulated_day() -> None:
    moving = simulate_day(make_world(replace(SMALL, photons=200.0, drift_px=2.0), 0), Day("a"), 0)
    steady = find_shifts(moving.frames.astype(float), moving.frames.astype(float).mean(axis=0))
    left = steady + moving.optics.shifts_px
    assert np.std(left - left.mean(axis=0), axis=0).max() < 0.4 < np.std(moving.optics.shifts_px, axis=0).max()
