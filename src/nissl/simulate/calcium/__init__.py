"""Calcium movies with known truth: holographic stimulation of wired cells, seen through a noisy microscope.

A `World` is an animal (cells, wiring, patterns); `simulate_day` films one session of it. Everything follows from the
world's seed and the day's: the same seeds give the same bytes. Eleven parts: geometry and connectivity (`world`),
stimulus, kinetics and spontaneous events (`activity`), background, drift, motion, noise and laser artefact (`imaging`),
and the truth, here.

No simulator we know of has stimulation of named cells, evoked connectivity and a change between days; the source
presentation describes the experiment, not a simulation, so all parameters are ours (`settings`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nissl.simulate.calcium.activity import Activity, mean_drive, run_session
from nissl.simulate.calcium.imaging import Optics, evoked_images, render, session_optics
from nissl.simulate.calcium.settings import Day, WorldSettings
from nissl.simulate.calcium.world import Pattern, World, make_world

__all__ = ["Day", "Pattern", "Session", "World", "WorldSettings", "make_world", "simulate_day"]

PARTS = ("design", "evoked", "spontaneous", "expression", "drift", "motion", "noise")


@dataclass(frozen=True)
class Session:
    """One filmed day with everything that made it.

    Attributes:
        frames: (T, H, W) uint16.
        events: per stimulus, in time order: pattern index, repeat, and the recorded frame of onset, in `activity`.
        gain: (N, N) response matrix of the day.
        evoked: (P, H, W) noise-free mean response to each pattern, in the day's coordinates.
        positions_px: (N, 2) y, x of the cells on this day.
    """

    day: Day
    frames: np.ndarray
    activity: Activity
    optics: Optics
    gain: np.ndarray
    evoked: np.ndarray
    positions_px: np.ndarray


def simulate_day(world: World, day: Day, seed: int, noise_seed: int | None = None) -> Session:
    """Film one session.

    Args:
        world: the animal.
        day: its coupling, and whether expression and position are the reference's.
        seed: of everything that happens on the day.
        noise_seed: of the photons, and of which events happen; the day's nuisances (expression, shift, drift, motion)
            then stay those of `seed`. None takes `seed` for all.
    """
    nuisance = ("expression", "drift", "motion")
    other = seed if noise_seed is None else noise_seed
    seeds = {part: [world.seed, seed if part in nuisance else other, i] for i, part in enumerate(PARTS)}
    rngs = {part: np.random.default_rng(s) for part, s in seeds.items()}
    activity = run_session(world, day, rngs)
    optics = session_optics(world, day, activity, rngs)

    low, high = world.settings.off_target
    gain = world.gain_matrix(day.coupling)
    responses = [gain @ mean_drive(world, p.targets, p.power, (low + high) / 2) for p in world.patterns]
    return Session(
        day=day,
        frames=np.concatenate(list(render(world, activity, optics, seeds["noise"]))),
        activity=activity,
        optics=optics,
        gain=gain,
        evoked=evoked_images(world, np.stack(responses), optics),
        positions_px=world.positions_px + optics.day_shift_px,
    )
