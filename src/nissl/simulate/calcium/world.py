"""Cells, what they look like, how they are wired, which patterns are played to them: the animal, fixed over days."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

import numpy as np
from scipy import ndimage

from nissl.simulate.calcium.settings import WorldSettings

MARGIN_PX = 8  # the scene is larger than the field by this much on each side, so that motion brings in real structure


@dataclass(frozen=True)
class Pattern:
    """One stimulation method: which targets (numbered from 0), at which power."""

    targets: tuple[int, ...]
    power: float


@dataclass(frozen=True)
class World:
    """A simulated animal.

    Arrays are indexed by cell (targets first) or by scene pixel; the scene is the field plus `MARGIN_PX` around it.

    Attributes:
        positions_px: (N, 2) y, x in the field of the reference day.
        radius_px: (N,).
        baseline: (N,) resting fluorescence.
        module: (N,) module of each cell.
        weights: (N, N), `weights[j, i]` from i to j.
        footprints: (N, S, S) on the scene, peak about 1.
        neuropil: (S, S) smooth field, already dimmed under the somata.
        shade: (S, S) in [0, 1]: vessels and vignette.
        field_mask: (H, W) bool, True inside the field; outside are the rim and the dark corners.
    """

    settings: WorldSettings
    seed: int
    positions_px: np.ndarray
    radius_px: np.ndarray
    baseline: np.ndarray
    module: np.ndarray
    weights: np.ndarray
    footprints: np.ndarray
    neuropil: np.ndarray
    shade: np.ndarray
    field_mask: np.ndarray

    @cached_property
    def patterns(self) -> tuple[Pattern, ...]:
        """Singles, then pairs; conditions adjacent within a target set."""
        targets: list[tuple[int, ...]] = [(i,) for i in range(self.settings.num_targets)]
        if self.settings.pairs:
            targets += combinations(range(self.settings.num_targets), 2)
        return tuple(Pattern(t, power) for t in targets for power in self.settings.powers)

    def gain_matrix(self, coupling: float) -> np.ndarray:
        """Response of every cell (rows) to a unit drive of each cell (columns): I + gW, or (I - gW)^-1.

        Raises:
            ValueError: if recurrent coupling would not settle (spectral radius of gW at or above 1).
        """
        coupled = coupling * self.weights
        identity = np.eye(len(coupled))
        if not self.settings.recurrent:
            return identity + coupled
        radius = float(np.abs(np.linalg.eigvals(coupled)).max())
        if radius >= 1:
            raise ValueError(
                f"coupling={coupling} makes the recurrent network unstable: spectral radius {radius:.2f}, must be "
                "below 1. Lower the coupling or the weights, or pass recurrent=false."
            )
        return np.linalg.inv(identity - coupled)


def make_world(settings: WorldSettings, seed: int) -> World:
    """Draw an animal; the same settings and seed give the same one, bit for bit."""
    geometry, wiring, tissue = (np.random.default_rng([seed, part]) for part in range(3))
    field_mask = _field_mask(settings)
    positions = _place_cells(settings, field_mask, geometry)
    radius = geometry.uniform(*settings.soma_radius_px, size=settings.num_cells)
    baseline = geometry.uniform(*settings.baseline, size=settings.num_cells)
    footprints = np.stack([_soma(settings, p, r, geometry) for p, r in zip(positions, radius, strict=True)])

    module = wiring.integers(len(settings.modules), size=settings.num_cells)
    for index, members in enumerate(settings.modules):
        module[[m - 1 for m in members]] = index
    weights = _wire(settings, positions, module, wiring)

    neuropil = _smooth_field(tissue, footprints.shape[1:], settings.neuropil_sigma_px)
    neuropil = settings.neuropil_level * (1 + 0.5 * neuropil).clip(0.1)
    cover = footprints.sum(axis=0).clip(0, 1)
    neuropil = neuropil * (1 - (1 - tissue.uniform(*settings.contamination)) * cover)
    return World(
        settings=settings,
        seed=seed,
        positions_px=positions,
        radius_px=radius,
        baseline=baseline,
        module=module,
        weights=weights,
        footprints=footprints.astype(np.float32),
        neuropil=neuropil.astype(np.float32),
        shade=_shade(settings, tissue).astype(np.float32),
        field_mask=field_mask,
    )


def _field_mask(settings: WorldSettings) -> np.ndarray:
    """Square field with rounded corners, inside the rim."""
    half = settings.size_px / 2
    centred = np.abs(np.arange(settings.size_px) + 0.5 - half) / (half - settings.rim_px)
    return (centred[:, None] ** 6 + centred[None, :] ** 6) <= 1.0


def _place_cells(settings: WorldSettings, field_mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Centres (N, 2), targets first: thrown at random, kept when far enough from the others and inside the field."""
    room = ndimage.distance_transform_edt(np.pad(field_mask, 1))[1:-1, 1:-1] >= settings.soma_radius_px[1]
    placed: list[np.ndarray] = []
    tries = 0
    while len(placed) < settings.num_cells:
        tries += 1
        if tries > 200_000:
            raise ValueError(
                f"only {len(placed)} of {settings.num_cells} cells fit into {settings.size_px} x {settings.size_px} "
                f"pixels {settings.min_distance_px} px apart. Use fewer cells or a larger size_px."
            )
        point = rng.uniform(0, settings.size_px, size=2)
        apart = settings.min_target_distance_px if len(placed) < settings.num_targets else settings.min_distance_px
        if room[tuple(point.astype(int))] and all(np.hypot(*(point - p)) >= apart for p in placed):
            placed.append(point)
    return np.array(placed)


def _soma(settings: WorldSettings, centre: np.ndarray, radius: float, rng: np.random.Generator) -> np.ndarray:
    """Soft-edged ellipse with a darker nucleus, on the scene."""
    side = settings.size_px + 2 * MARGIN_PX
    angle, stretch = rng.uniform(0, np.pi), 1 + rng.uniform(-1, 1) * settings.ellipticity
    y, x = np.mgrid[:side, :side] + 0.5 - (centre + MARGIN_PX)[:, None, None]
    along, across = y * np.cos(angle) + x * np.sin(angle), x * np.cos(angle) - y * np.sin(angle)
    distance = np.hypot(along / (radius * stretch), across * stretch / radius)  # 1 on the outline
    body = 1 / (1 + np.exp((distance - 1) * 8))
    return body * (1 - rng.uniform(*settings.dimple) * np.exp(-((distance / 0.5) ** 2)))


def _wire(
    settings: WorldSettings, positions_px: np.ndarray, module: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Random directed weights: likelier within a module and at short distance, log-normal in size."""
    num = settings.num_cells
    distance_um = settings.um_per_px * np.hypot(*(positions_px[:, None] - positions_px[None]).transpose(2, 0, 1))
    p = np.where(module[:, None] == module[None], settings.p_within, settings.p_between)
    connected = rng.random((num, num)) < p * np.exp(-distance_um / settings.length_um)
    weights = settings.weight_median * np.exp(settings.weight_sigma * rng.standard_normal((num, num)))
    inhibitory = rng.random(num) < settings.inhibitory_share
    weights[:, inhibitory] *= -1
    weights[~connected] = 0
    np.fill_diagonal(weights, 0)
    if not settings.followers:
        return np.zeros_like(weights)
    radius = np.abs(np.linalg.eigvals(weights)).max()
    if settings.spectral_radius is not None and radius > 0:  # 0: no loop, and responses die out by themselves
        # Animals then differ in who is wired to whom, not in how close their network is to instability.
        weights *= settings.spectral_radius / radius
    return weights


def _smooth_field(rng: np.random.Generator, shape: tuple[int, ...], sigma: float) -> np.ndarray:
    """Gaussian random field with mean 0 and standard deviation 1."""
    field = ndimage.gaussian_filter(rng.standard_normal(shape), sigma, mode="wrap")
    return (field - field.mean()) / field.std()


def _shade(settings: WorldSettings, rng: np.random.Generator) -> np.ndarray:
    """Vessels (level lines of a random field, 60 % darker) times a quadratic vignette."""
    side = settings.size_px + 2 * MARGIN_PX
    lines = np.abs(_smooth_field(rng, (side, side), settings.size_px / 7))
    vessels = lines < np.quantile(lines, settings.vessel_share)
    dark = ndimage.gaussian_filter(vessels.astype(float), 0.8)
    y, x = (np.mgrid[:side, :side] + 0.5 - side / 2) / (settings.size_px / 2)
    return (1 - 0.6 * dark) * (1 - settings.vignette * (y**2 + x**2) / 2).clip(0.2)
