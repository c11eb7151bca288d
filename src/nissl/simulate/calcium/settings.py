"""Every number of the simulated calcium experiment, with its unit; the defaults are the quick world (64 x 64 pixels).

Ranges `(low, high)` are drawn uniformly. Sources: the stimulation design of the source presentation (8 targets, singles
and pairs, 10 repeats); the kinetics are those usually quoted for GCaMP6f; the rest are choices, to be calibrated.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class WorldSettings:
    """What is common to all days of one simulated animal, and how its sessions are run and imaged."""

    # Geometry, in pixels of the reference frame.
    size_px: int = 64
    um_per_px: float = 2.0
    num_cells: int = 40
    num_targets: int = 8
    min_distance_px: float = 6.0
    min_target_distance_px: float = 10.0
    soma_radius_px: tuple[float, float] = (2.2, 3.0)
    ellipticity: float = 0.15  # axes of a soma differ by up to this share
    dimple: tuple[float, float] = (0.45, 0.6)  # how much darker the nucleus is
    baseline: tuple[float, float] = (0.5, 1.5)  # resting fluorescence of a soma; mean brightness of the field is 1
    rim_px: int = 4  # bright, flickering rim around the field, outside the mask

    # Connectivity. W[j, i] is the weight from cell i to cell j.
    modules: tuple[tuple[int, ...], ...] = ((1, 4, 6), (2, 5, 8), (3, 7))  # targets by module, numbered from 1
    p_within: float = 0.55
    p_between: float = 0.08
    length_um: float = 150.0
    weight_median: float = 0.16
    weight_sigma: float = 0.5
    inhibitory_share: float = 0.0
    recurrent: bool = False  # gain (I - gW)^-1 instead of I + gW
    spectral_radius: float | None = None  # all weights are scaled so that W has this one; None leaves them
    followers: bool = True  # False silences every non-target response; targets still respond

    # Stimulation.
    pairs: bool = True
    powers: tuple[float, ...] = (1.0,)  # one condition each
    trials: int = 10  # repeats of each pattern
    amplitude: float = 1.0  # mean dF/F of a hit target at its peak; 0 leaves only the laser artefact
    amplitude_cv: float = 0.35
    success: float = 0.92  # probability that a target responds
    follower_cv: float = 0.3
    off_target_um: float = 10.0
    off_target: tuple[float, float] = (0.05, 0.10)
    pair_power: float = 0.85  # power is shared: each target of a pair gets this share

    # Kinetics and timing.
    rise_s: float = 0.065
    decay_s: float = 0.5
    saturation: float | None = None  # c / (1 + c / saturation)
    frame_rate_hz: float = 7.5
    interval_s: tuple[float, float] = (4.0, 6.0)  # from stimulus to stimulus
    window_frames: tuple[int, int] | None = (3, 8)  # recorded before and from onset; None records without a gap
    laser_frames: int = 1  # laser-on frames from onset

    # Spontaneous activity.
    spontaneous_hz: tuple[float, float] = (0.05, 0.15)
    spontaneous_amplitude: float = 0.5
    propagate: bool = True  # spontaneous events spread through the gain matrix too
    population_hz: float = 0.05  # events shared by many cells, at coupling 1
    population_share: float = 0.3

    # Background.
    neuropil_sigma_px: float = 10.0
    neuropil_level: float = 0.5
    neuropil_noise: float = 0.05  # standard deviation of its AR(1) course
    neuropil_coupling: tuple[float, float] = (0.1, 0.3)  # times mean population activity
    contamination: tuple[float, float] = (0.5, 0.7)  # share of neuropil seen through a soma
    vessel_share: float = 0.12
    vignette: float = 0.25  # loss of light in the corners

    # Drift within and between sessions.
    brightness_sigma: float = 0.15
    contrast_range: float = 0.15
    bleaching: tuple[float, float] = (0.05, 0.10)
    expression_sigma: float = 0.2  # change of a cell's brightness between days, log scale
    day_shift_px: tuple[float, float] = (1.0, 3.0)

    # Motion, in pixels.
    jitter_px: float = 0.25
    drift_px: float = 1.0
    jolt_px: float = 3.0
    jolt_share: float = 0.002

    # Camera.
    photons: float = 15.0  # per pixel where the field has mean brightness
    gain: float = 10.0  # counts per photon
    read_noise: float = 1.2  # counts
    offset: float = 100.0  # counts
    artefact: float = 0.0  # laser light on stimulated spots in laser-on frames, in units of mean brightness

    def __post_init__(self) -> None:
        targets = sorted(t for module in self.modules for t in module)
        if targets != list(range(1, self.num_targets + 1)):
            raise ValueError(
                f"modules must name each of the {self.num_targets} targets once (1 to {self.num_targets}), "
                f"came {self.modules}"
            )
        if self.num_cells < self.num_targets:
            raise ValueError(f"num_cells={self.num_cells} is below num_targets={self.num_targets}")
        if self.spectral_radius is not None and self.spectral_radius <= 0:
            raise ValueError(f"spectral_radius must be above 0 or None, came {self.spectral_radius}")
        if self.saturation is not None and self.saturation <= 0:
            raise ValueError(f"saturation must be above 0 or None, came {self.saturation}")
        if self.window_frames is not None:
            before, after = self.window_frames
            if before < 1 or after < self.laser_frames or (before + after) / self.frame_rate_hz > self.interval_s[0]:
                raise ValueError(
                    f"window_frames={self.window_frames} must hold at least one frame before onset and the "
                    f"{self.laser_frames} laser frames, and fit between stimuli {self.interval_s[0]} s apart"
                )


@dataclass(frozen=True)
class Day:
    """One imaging session of the animal.

    Attributes:
        name: free text, such as POD0.
        coupling: factor g on every connection.
        reference: whether expression and position of the cells are those of the world itself.
    """

    name: str
    coupling: float = 1.0
    reference: bool = True
