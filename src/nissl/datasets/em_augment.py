"""Augmentation of EM patches: one random draw for image, labels and masks together.

Order: deformations (rotation, affine sections, elastic), shifted sections, section faults of the image (missing, out of
focus), grey values by section, then exchanged and mirrored axes, contrast and brightness. What has probability 0 or is
left out takes no random number, so that switching one thing on leaves the rest of a training's draws in their order.

Source: google/ffn (training/augmentation.py) and Lee et al. 2017, https://arxiv.org/abs/1706.00120; the arithmetic is
in `em_sections` and `em_deform`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from nissl.datasets import em_deform, em_sections
from nissl.volumes.boxes import Triple, triple


@dataclass(frozen=True)
class Scan:
    """What an augmentation has to know of a volume: voxel size in nm (zyx), and how its grey values were normalised."""

    voxel_size_zyx_nm: tuple[float, float, float] = (1.0, 1.0, 1.0)
    mean: float = 128.0
    std: float = 33.0


@dataclass(frozen=True)
class _Step:
    p: float

    def __post_init__(self) -> None:
        name = type(self).__name__
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, int | float) and not isinstance(value, bool) and value < 0:
                raise ValueError(f"augment: {field.name} of {name} must not be negative, came {value}")
        if self.p > 1:
            raise ValueError(f"augment: p of {name} is a probability, came {self.p}")


@dataclass(frozen=True)
class Rotation(_Step):
    """Turns image and labels about the centre, in nm.

    Attributes:
        p: how often.
        max_degrees: angle uniform in -+ this.
        about_z_only: in the plane of the sections; false: about any axis.
    """

    max_degrees: float
    about_z_only: bool


@dataclass(frozen=True)
class Affine(_Step):
    """Single sections turned, stretched and sheared in their plane.

    Attributes:
        p: how often.
        ratio: share of the sections, at least one.
        rotate_degrees, scale, shear: largest changes; see `em_deform.affine_sections`.
        image_only: labels stay, as in the reference.
    """

    ratio: float
    rotate_degrees: float
    scale: float
    shear: float
    image_only: bool


@dataclass(frozen=True)
class Elastic(_Step):
    """A smooth random displacement.

    Attributes:
        p: how often.
        grid_ratio: control points per voxel.
        stdev_ratio: their displacement, in units of the shortest side.
        image_only: labels stay, as in the reference.
    """

    grid_ratio: float
    stdev_ratio: float
    image_only: bool


@dataclass(frozen=True)
class Misalignment(_Step):
    """Sections out of their place, with their labels.

    Attributes:
        p: how often.
        max_offset: voxels in y and x.
        slip_ratio: how often one section slips; else everything beyond a cut moves.
    """

    max_offset: int
    slip_ratio: float


@dataclass(frozen=True)
class Missing(_Step):
    """Sections without an image.

    Attributes:
        p: how often.
        ratio: share of the sections, at least one.
        fill: grey value (0 to 255); null draws one for each section.
    """

    ratio: float
    fill: float | None


@dataclass(frozen=True)
class OutOfFocus(_Step):
    """Blurred sections.

    Attributes:
        p: how often.
        ratio: share of the sections, at least one.
        sigma_max: largest standard deviation of the blur, voxels.
    """

    ratio: float
    sigma_max: float


@dataclass(frozen=True)
class Grayscale(_Step):
    """Uneven staining; see `em_sections.regraded`.

    Attributes:
        p: how often.
        contrast, brightness: full widths of their ranges, in units of 1 and of white.
        gamma: whether a power between 1/2 and 2 is drawn as well.
    """

    contrast: float
    brightness: float
    gamma: bool


class Augment:
    """All changes made to a training patch.

    Args:
        permutable_axes: axes (0 z, 1 y, 2 x) that may be exchanged: all of an isotropic volume, [1, 2] of sections.
        reflectable_axes: axes that may be mirrored, each with probability one half.
        contrast: the normalised image is multiplied by a factor uniform in 1 -+ contrast.
        brightness: and shifted by a value uniform in -+ brightness (standard deviations of the grey values).
        rotation, affine, elastic, misalignment, missing, out_of_focus, grayscale: see their classes; null: never.
    """

    def __init__(
        self,
        permutable_axes: Sequence[int],
        reflectable_axes: Sequence[int],
        contrast: float,
        brightness: float,
        rotation: Rotation | None = None,
        affine: Affine | None = None,
        elastic: Elastic | None = None,
        misalignment: Misalignment | None = None,
        missing: Missing | None = None,
        out_of_focus: OutOfFocus | None = None,
        grayscale: Grayscale | None = None,
    ) -> None:
        for name, axes in (("permutable_axes", permutable_axes), ("reflectable_axes", reflectable_axes)):
            if not set(axes) <= {0, 1, 2} or len(set(axes)) != len(axes):
                raise ValueError(f"{name} must name different axes among 0 (z), 1 (y), 2 (x), came {list(axes)}")
        if not 0 <= contrast < 1 or brightness < 0:
            raise ValueError(f"contrast must be in [0, 1), brightness at least 0, came {contrast} and {brightness}")
        self.permutable_axes = sorted(permutable_axes)
        self.reflectable_axes = list(reflectable_axes)
        self.contrast, self.brightness = contrast, brightness
        self.rotation, self.affine, self.elastic, self.misalignment = rotation, affine, elastic, misalignment
        self.missing, self.out_of_focus, self.grayscale = missing, out_of_focus, grayscale

    def margin_zyx(self, size_zyx: Triple, voxel_size_zyx_nm: Sequence[float]) -> Triple:
        """Voxels that a patch of `size_zyx` needs on each side, so that what is turned or shifted in is real tissue."""
        margin = np.zeros(3, int)
        if self.rotation is not None and self.rotation.p > 0:
            extent = np.multiply(size_zyx, voxel_size_zyx_nm) / 2
            reach = np.full(3, np.linalg.norm(extent))
            if self.rotation.about_z_only:
                reach = np.array([extent[0], *[np.linalg.norm(extent[1:])] * 2])
            margin += np.ceil((reach - extent) / voxel_size_zyx_nm).astype(int)
        if self.misalignment is not None and self.misalignment.p > 0:
            margin += [0, self.misalignment.max_offset, self.misalignment.max_offset]
        return triple(margin)

    def __call__(
        self,
        image: np.ndarray,
        maps: Sequence[np.ndarray],
        rng: np.random.Generator,
        size_zyx: Triple | None = None,
        scan: Scan | None = None,
    ) -> tuple[np.ndarray, list[np.ndarray]]:
        """A patch of `size_zyx` (before axes are exchanged) from the middle of what is given; new arrays.

        Args:
            image: (Z, Y, X) float32, normalised, with the margin of `margin_zyx` around the patch.
            maps: labels and masks of the same voxels; interpolated by nearest neighbour.
            rng: everything random comes from it.
            size_zyx: null when there is no margin.
            scan: needed by what depends on voxel size or grey values.
        """
        size = triple(image.shape) if size_zyx is None else size_zyx
        scan = scan or Scan()
        image, maps = self._deform(image, list(maps), rng, scan)
        image, maps = self._shift(image, maps, rng, size)
        image = self._spoil(image, rng, scan)
        return self._turn(image, maps, rng)

    def _deform(
        self, image: np.ndarray, maps: list[np.ndarray], rng: np.random.Generator, scan: Scan
    ) -> tuple[np.ndarray, list[np.ndarray]]:
        shared = for_image = None
        if _happens(self.rotation, rng):
            assert self.rotation is not None
            matrix = em_deform.rotation_matrix(self.rotation.max_degrees, self.rotation.about_z_only, rng)
            shared = em_deform.rotated(em_deform.identity(image.shape), matrix, np.asarray(scan.voxel_size_zyx_nm))
        for step in (self.affine, self.elastic):
            if not _happens(step, rng):
                continue
            before = for_image if for_image is not None else shared
            before = em_deform.identity(image.shape) if before is None else before
            if isinstance(step, Affine):
                sections = em_sections.affected_sections(len(image), step.ratio, rng)
                after = em_deform.affine_sections(before, sections, step.rotate_degrees, step.scale, step.shear, rng)
            else:
                assert isinstance(step, Elastic)
                after = em_deform.elastic(before, step.grid_ratio, step.stdev_ratio, rng)
            if not step.image_only:
                shared = after if shared is None else shared + (after - before)
            for_image = after
        for_image = shared if for_image is None else for_image
        if for_image is not None:
            image = em_deform.warped(image, for_image, 1)
        if shared is not None:
            maps = [em_deform.warped(array, shared, 0) for array in maps]
        return image, maps

    def _shift(
        self, image: np.ndarray, maps: list[np.ndarray], rng: np.random.Generator, size: Triple
    ) -> tuple[np.ndarray, list[np.ndarray]]:
        # What rotations needed is cut off first; the sections then have the misalignment's margin left.
        step = self.misalignment
        spare = 0 if step is None or step.p == 0 else step.max_offset
        keep = (size[0], size[1] + 2 * spare, size[2] + 2 * spare)
        image, *maps = (_middle(array, keep) for array in (image, *maps))
        if spare == 0:
            return image, maps
        assert step is not None
        shifts = np.zeros((len(image), 2), int)
        if _happens(step, rng):
            shifts = em_sections.section_shifts(len(image), step.max_offset, step.slip_ratio, rng)
        image, *maps = (em_sections.shift_sections(array, shifts, spare) for array in (image, *maps))
        return image, maps

    def _spoil(self, image: np.ndarray, rng: np.random.Generator, scan: Scan) -> np.ndarray:
        if _happens(self.missing, rng):
            assert self.missing is not None
            sections = em_sections.affected_sections(len(image), self.missing.ratio, rng)
            low, high = ((grey - scan.mean) / scan.std for grey in (0.0, 255.0))
            fill = (low, high) if self.missing.fill is None else (self.missing.fill - scan.mean) / scan.std
            image = em_sections.missing_sections(image, sections, fill, rng)
        if _happens(self.out_of_focus, rng):
            assert self.out_of_focus is not None
            sections = em_sections.affected_sections(len(image), self.out_of_focus.ratio, rng)
            image = em_sections.blurred_sections(image, sections, self.out_of_focus.sigma_max, rng)
        if _happens(self.grayscale, rng):
            assert self.grayscale is not None
            step = self.grayscale
            share = (image * scan.std + scan.mean) / 255
            share = em_sections.regraded(share, step.contrast, step.brightness, step.gamma, rng)
            image = ((share * 255 - scan.mean) / scan.std).astype(np.float32)
        return image

    def _turn(
        self, image: np.ndarray, maps: list[np.ndarray], rng: np.random.Generator
    ) -> tuple[np.ndarray, list[np.ndarray]]:
        axes = [0, 1, 2]
        for axis, source in zip(self.permutable_axes, rng.permutation(self.permutable_axes), strict=True):
            axes[axis] = int(source)
        flips = [axis for axis, flip in zip(self.reflectable_axes, rng.random(3) < 0.5, strict=False) if flip]
        image, *maps = (np.flip(array.transpose(axes), tuple(flips)) for array in (image, *maps))
        factor = 1 + self.contrast * rng.uniform(-1, 1)
        shift = self.brightness * rng.uniform(-1, 1)
        return image * np.float32(factor) + np.float32(shift), [array.copy() for array in maps]


def _happens(step: Any, rng: np.random.Generator) -> bool:
    return step is not None and step.p > 0 and bool(rng.random() < step.p)


def _middle(array: np.ndarray, size_zyx: Triple) -> np.ndarray:
    start = [(have - want) // 2 for have, want in zip(array.shape, size_zyx, strict=True)]
    return array[tuple(slice(a, a + want) for a, want in zip(start, size_zyx, strict=True))]


def read_window(array: np.ndarray, start_zyx: np.ndarray, size_zyx: Sequence[int] | np.ndarray) -> np.ndarray:
    """The box of `size_zyx` from `start_zyx`; what lies outside the array is mirrored in."""
    stop = start_zyx + size_zyx
    before = np.maximum(-start_zyx, 0)
    after = np.maximum(stop - array.shape, 0)
    inside = tuple(slice(max(a, 0), min(b, size)) for a, b, size in zip(start_zyx, stop, array.shape, strict=True))
    if not (before.any() or after.any()):
        return array[inside]
    if math.prod(part.stop - part.start for part in inside) <= 0:
        raise ValueError(f"the window from {start_zyx.tolist()} of {list(size_zyx)} voxels lies outside the volume")
    return np.pad(array[inside], list(zip(before, after, strict=True)), mode="symmetric")
