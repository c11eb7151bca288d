"""From activity to frames: background, drift, motion, photons, camera; and the laser's light while it is on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy import ndimage, signal

from nissl.simulate.calcium.activity import Activity
from nissl.simulate.calcium.settings import Day, WorldSettings
from nissl.simulate.calcium.world import MARGIN_PX, World

BLOCK_FRAMES = 128  # frames are rendered in blocks of this many, each with its own noise seed: any block, any order


@dataclass(frozen=True)
class Optics:
    """What one session does to the picture, all but the noise.

    Attributes:
        cell_brightness: (N,) baseline times the day's expression.
        day_shift_px: (2,) y, x of the whole field against the reference day.
        shifts_px: (T, 2) motion, y, x; positive moves the picture down and right. Without the day's shift.
        brightness: (T,) factor: session level times bleaching.
        contrast: factor on the deviation from the mean picture.
        neuropil_course: (T,) factor on the neuropil.
        rim: (H, W) brightness of rim and debris, 0 inside the field.
        rim_course: (T,) its flicker.
    """

    cell_brightness: np.ndarray
    day_shift_px: np.ndarray
    shifts_px: np.ndarray
    brightness: np.ndarray
    contrast: float
    neuropil_course: np.ndarray
    rim: np.ndarray
    rim_course: np.ndarray


def session_optics(world: World, day: Day, activity: Activity, rngs: dict[str, np.random.Generator]) -> Optics:
    """Draw the nuisances of a session."""
    settings, num_frames = world.settings, activity.calcium.shape[1]
    expression = np.exp(settings.expression_sigma * rngs["expression"].standard_normal(settings.num_cells))
    length = rngs["expression"].uniform(*settings.day_shift_px)
    angle = rngs["expression"].uniform(0, 2 * np.pi)
    day_shift = length * np.array([np.sin(angle), np.cos(angle)])
    if day.reference:
        expression, day_shift = np.ones_like(expression), np.zeros(2)

    drift = rngs["drift"]
    level = np.exp(settings.brightness_sigma * drift.standard_normal())
    bleached = drift.uniform(*settings.bleaching)
    contrast = 1 + settings.contrast_range * drift.uniform(-1, 1)
    population = activity.calcium.mean(axis=0)
    course = 1 + settings.neuropil_noise * _ar1(drift, num_frames, 0.95)
    course += drift.uniform(*settings.neuropil_coupling) * population

    rim = np.where(world.field_mask, 0.0, 1.0)
    debris = ndimage.gaussian_filter(drift.random(rim.shape), 1.5)
    rim = rim * (0.5 + 2 * (debris - debris.min()) / np.ptp(debris))
    return Optics(
        cell_brightness=world.baseline * expression,
        day_shift_px=day_shift,
        shifts_px=_motion(settings, num_frames, rngs["motion"]),
        brightness=level * (1 - bleached * np.linspace(0, 1, num_frames)),
        contrast=contrast,
        neuropil_course=course,
        rim=rim,
        rim_course=(1 + 0.3 * _ar1(drift, num_frames, 0.5)).clip(0),
    )


def render(world: World, activity: Activity, optics: Optics, noise_seed: list[int]) -> Iterator[np.ndarray]:
    """Blocks of uint16 frames (n, H, W), in order."""
    settings = world.settings
    num_frames = activity.calcium.shape[1]
    footprints = world.footprints.reshape(settings.num_cells, -1) * optics.cell_brightness[:, None]
    rest = footprints.sum(axis=0)
    side = world.neuropil.shape[0]
    # Mean brightness 1 over the field at rest, so that `photons` is what a typical pixel receives.
    scene = world.shade * (rest.reshape(side, side) + world.neuropil)
    unit = scene[MARGIN_PX:-MARGIN_PX, MARGIN_PX:-MARGIN_PX][world.field_mask].mean()
    still = scene[MARGIN_PX:-MARGIN_PX, MARGIN_PX:-MARGIN_PX] / unit
    laser = _laser_light(world, activity)

    for block in range(-(-num_frames // BLOCK_FRAMES)):
        frames = np.arange(block * BLOCK_FRAMES, min((block + 1) * BLOCK_FRAMES, num_frames))
        cells = rest + activity.calcium[:, frames].T @ footprints  # (n, S * S)
        neuropil = world.neuropil.ravel()[None] * optics.neuropil_course[frames, None]
        light = (world.shade.ravel() * (cells + neuropil) / unit).reshape(-1, side, side)
        shifts = optics.shifts_px[frames] + optics.day_shift_px
        light = np.stack([_crop_shifted(picture, shift) for picture, shift in zip(light, shifts, strict=True)])
        light = still + optics.contrast * (light - still)
        light = np.where(world.field_mask, light, optics.rim * optics.rim_course[frames, None, None])
        light = (light * optics.brightness[frames, None, None]).clip(0)
        for i in np.flatnonzero(laser[frames] >= 0) if settings.artefact > 0 else ():
            light[i] += settings.artefact * _laser_spots(world, int(laser[frames[i]]), optics.day_shift_px)
        rng = np.random.default_rng([*noise_seed, block])
        counts = settings.gain * rng.poisson(light * settings.photons) + settings.offset
        counts = counts + settings.read_noise * rng.standard_normal(counts.shape)
        yield counts.round().clip(0, 65535).astype(np.uint16)


def evoked_images(world: World, activity_by_pattern: np.ndarray, optics: Optics) -> np.ndarray:
    """Noise-free, motionless change of brightness (P, H, W) for cell responses (P, N) at their peak."""
    footprints = world.footprints * optics.cell_brightness[:, None, None] * world.shade
    scenes = np.tensordot(activity_by_pattern, footprints, axes=1)
    images = np.stack([_crop_shifted(scene, optics.day_shift_px) for scene in scenes])
    return images * world.field_mask


def _crop_shifted(scene: np.ndarray, shift_px: np.ndarray) -> np.ndarray:
    """The field (H, W) of a scene moved by `shift_px` (y, x), bilinear; the scene's margin supplies the borders."""
    size = scene.shape[0] - 2 * MARGIN_PX
    start = MARGIN_PX - np.clip(shift_px, 1 - MARGIN_PX, MARGIN_PX - 1)
    (y, x), (fy, fx) = np.floor(start).astype(int), start - np.floor(start)
    part = scene[y : y + size + 1, x : x + size + 1]
    rows = part[:-1] * (1 - fy) + part[1:] * fy
    return rows[:, :-1] * (1 - fx) + rows[:, 1:] * fx


def _ar1(rng: np.random.Generator, length: int, persistence: float) -> np.ndarray:
    """Unit-variance first-order autoregressive course."""
    steps = rng.standard_normal(length) * np.sqrt(1 - persistence**2)
    return signal.lfilter([1.0], [1.0, -persistence], steps)


def _motion(settings: WorldSettings, num_frames: int, rng: np.random.Generator) -> np.ndarray:
    """Jitter, slow drift kept within +-`drift_px`, and rare jolts: (T, 2)."""
    slow = np.stack([_ar1(rng, num_frames, 0.995) for _ in range(2)], axis=1)
    shifts = (settings.drift_px / 2 * slow).clip(-settings.drift_px, settings.drift_px)
    shifts += settings.jitter_px * rng.standard_normal((num_frames, 2))
    jolted = rng.random(num_frames) < settings.jolt_share
    direction = rng.standard_normal((num_frames, 2))
    direction /= np.hypot(*direction.T)[:, None]
    return shifts + jolted[:, None] * settings.jolt_px * direction


def _laser_light(world: World, activity: Activity) -> np.ndarray:
    """Pattern index under the laser in each frame (T,), -1 where it is off."""
    lit = np.full(activity.calcium.shape[1], -1)
    for step in range(world.settings.laser_frames):
        lit[activity.onset + step] = activity.pattern
    return lit


def _laser_spots(world: World, pattern: int, day_shift_px: np.ndarray) -> np.ndarray:
    """Discs of light on the targets (H, W), scaled by power."""
    y, x = np.mgrid[: world.settings.size_px, : world.settings.size_px] + 0.5
    spots = np.zeros_like(y)
    for target in world.patterns[pattern].targets:
        centre = world.positions_px[target] + day_shift_px
        spots[np.hypot(y - centre[0], x - centre[1]) <= world.radius_px[target]] = world.patterns[pattern].power
    return spots
