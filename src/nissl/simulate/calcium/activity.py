"""What every cell does in one session: the order of stimuli, evoked and spontaneous events, calcium in each frame."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import signal

from nissl.simulate.calcium.settings import Day, WorldSettings
from nissl.simulate.calcium.world import World

SUBSTEPS = 8  # time steps per frame; calcium is averaged over a frame's exposure


@dataclass(frozen=True)
class Activity:
    """One session without light.

    Attributes:
        pattern: (E,) pattern index of each stimulus, in time order.
        repeat: (E,) repeat number of its pattern; also the block of the session.
        onset: (E,) recorded frame in which the laser goes on.
        kept: (T,) index of each recorded frame on the continuous time line.
        evoked: (E, N) response amplitude of every cell to each stimulus, dF/F.
        calcium: (N, T) dF/F in each recorded frame, mean over its exposure.
    """

    pattern: np.ndarray
    repeat: np.ndarray
    onset: np.ndarray
    kept: np.ndarray
    evoked: np.ndarray
    calcium: np.ndarray


def mean_drive(world: World, targets: tuple[int, ...], power: float, off_target: float) -> np.ndarray:
    """Expected direct drive of every cell (N,): the targets' share, and light that falls on their neighbours."""
    settings = world.settings
    share = power * (settings.pair_power if len(targets) > 1 else 1.0) * settings.amplitude
    distance_um = settings.um_per_px * np.hypot(
        *(world.positions_px[:, None] - world.positions_px[list(targets)][None]).transpose(2, 0, 1)
    )
    spill = np.exp(-distance_um / settings.off_target_um)
    spill[list(targets), range(len(targets))] = 0  # a target's own light is its drive, not spill
    drive = share * off_target * spill.sum(axis=1)
    drive[list(targets)] += share * settings.success
    return drive


def run_session(world: World, day: Day, rngs: dict[str, np.random.Generator]) -> Activity:
    """Play every pattern `trials` times, block by block in a new order, on top of spontaneous activity."""
    settings = world.settings
    num_patterns = len(world.patterns)
    design = rngs["design"]
    pattern = np.concatenate([design.permutation(num_patterns) for _ in range(settings.trials)])
    repeat = np.repeat(np.arange(settings.trials), num_patterns)

    # Stimuli start with a frame; the pause before each is drawn anew.
    gaps = design.uniform(*settings.interval_s, size=len(pattern)) * settings.frame_rate_hz
    onset_all = np.cumsum(np.ceil(gaps).astype(int))
    num_all = int(onset_all[-1] + np.ceil(settings.interval_s[1] * settings.frame_rate_hz))
    kept, onset = _recorded(settings, onset_all, num_all)

    gain = world.gain_matrix(day.coupling)
    evoked = np.stack([_evoked(world, gain, int(p), rngs["evoked"]) for p in pattern])
    events = _spontaneous(world, day, num_all, rngs["spontaneous"])
    events[:, onset_all * SUBSTEPS] += evoked.T
    calcium = _calcium(settings, events)[:, kept]
    return Activity(pattern, repeat, onset, kept, evoked, calcium)


def _recorded(settings: WorldSettings, onset_all: np.ndarray, num_all: int) -> tuple[np.ndarray, np.ndarray]:
    """Frames that are recorded, and each onset's index among them."""
    if settings.window_frames is None:
        return np.arange(num_all), onset_all
    before, after = settings.window_frames
    kept = (onset_all[:, None] + np.arange(-before, after)[None]).ravel()
    return kept, before + (before + after) * np.arange(len(onset_all))


def _evoked(world: World, gain: np.ndarray, pattern: int, rng: np.random.Generator) -> np.ndarray:
    """One trial's response (N,): e = (I + gW o noise) d, with failures and log-normal amplitudes in the drive d."""
    settings = world.settings
    targets, power = world.patterns[pattern].targets, world.patterns[pattern].power
    drive = mean_drive(world, targets, power, off_target=rng.uniform(*settings.off_target))
    sigma = np.sqrt(np.log1p(settings.amplitude_cv**2))
    hit = (rng.random(len(targets)) < settings.success) / settings.success
    drive[list(targets)] *= hit * np.exp(sigma * rng.standard_normal(len(targets)) - sigma**2 / 2)
    noise = (1 + settings.follower_cv * rng.standard_normal(gain.shape)).clip(0)
    return drive + ((gain - np.eye(len(gain))) * noise) @ drive


def _spontaneous(world: World, day: Day, num_frames: int, rng: np.random.Generator) -> np.ndarray:
    """Impulses of every cell (N, num_frames * SUBSTEPS): its own, and events shared by part of the population."""
    settings = world.settings
    num_cells, steps = settings.num_cells, num_frames * SUBSTEPS
    step_s = 1 / (settings.frame_rate_hz * SUBSTEPS)
    rate_hz = rng.uniform(*settings.spontaneous_hz, size=num_cells)
    events = (rng.random((num_cells, steps)) < rate_hz[:, None] * step_s).astype(float)
    events[events > 0] = settings.spontaneous_amplitude * rng.exponential(size=int(events.sum()))
    shared_hz = settings.population_hz * (1 + 0.5 * (day.coupling - 1))
    for step in np.flatnonzero(rng.random(steps) < shared_hz * step_s):
        taking_part = rng.random(num_cells) < settings.population_share
        events[taking_part, step] += settings.spontaneous_amplitude * rng.exponential(size=int(taking_part.sum()))
    if settings.propagate:
        busy = np.flatnonzero(events.any(axis=0))
        events[:, busy] = world.gain_matrix(day.coupling) @ events[:, busy]
    return events


def _calcium(settings: WorldSettings, events: np.ndarray) -> np.ndarray:
    """Convolve impulses (N, steps) with exp(-t/decay) - exp(-t/rise), peak 1, and average over frames: (N, frames)."""
    step_s = 1 / (settings.frame_rate_hz * SUBSTEPS)
    slow, fast = np.exp(-step_s / settings.decay_s), np.exp(-step_s / settings.rise_s)
    peak_s = np.log(settings.decay_s / settings.rise_s) / (1 / settings.rise_s - 1 / settings.decay_s)
    peak = np.exp(-peak_s / settings.decay_s) - np.exp(-peak_s / settings.rise_s)
    frames = np.empty((len(events), events.shape[1] // SUBSTEPS))
    for cell, impulses in enumerate(events):  # one cell at a time: the fine time line of all would not fit in memory
        course = signal.lfilter([1.0], [1.0, -slow], impulses) - signal.lfilter([1.0], [1.0, -fast], impulses)
        frames[cell] = (course / peak).reshape(-1, SUBSTEPS).mean(axis=1)
    if settings.saturation is not None:
        frames = frames / (1 + frames.clip(0) / settings.saturation)
    return frames
