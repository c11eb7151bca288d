"""Deformations of EM patches: elastic fields, affine changes of single sections, rotations.

Each is a field of coordinates to sample from; images are interpolated linearly, labels take their nearest voxel.
Source of the elastic field and the affine changes: google/ffn (training/augmentation.py), after Lee et al. 2017,
https://arxiv.org/abs/1706.00120. The rotation there needs a compiled operation that is not public; this one is ours.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

Coordinates = np.ndarray  # (3, Z, Y, X): the place in the source of each voxel of the result


def identity(shape_zyx: tuple[int, ...]) -> Coordinates:
    """Every voxel from its own place."""
    return np.stack(np.meshgrid(*(np.arange(size, dtype=np.float32) for size in shape_zyx), indexing="ij"))


def warped(array: np.ndarray, coordinates: Coordinates, order: int) -> np.ndarray:
    """`array` sampled at `coordinates`, mirrored beyond its faces; order 1 for images, 0 for labels."""
    return ndimage.map_coordinates(array, coordinates, order=order, mode="reflect", output=array.dtype)


def elastic(coordinates: Coordinates, grid_ratio: float, stdev_ratio: float, rng: np.random.Generator) -> Coordinates:
    """Coordinates displaced by a smooth random field.

    Args:
        grid_ratio: the field is drawn at this many control points per voxel along each axis, at least 2.
        stdev_ratio: standard deviation of their displacement, in units of the patch's shortest side.
    """
    shape = coordinates.shape[1:]
    points = [max(round(grid_ratio * size), 2) for size in shape]
    jitter = rng.normal(0, stdev_ratio * min(shape), (3, *points))
    where = np.stack(np.meshgrid(*(np.linspace(0, n - 1, size) for n, size in zip(points, shape, strict=True)),
                                 indexing="ij"))  # fmt: skip
    field = [ndimage.map_coordinates(component, where, order=3, mode="reflect") for component in jitter]
    return coordinates + np.asarray(field, np.float32)


def affine_sections(
    coordinates: Coordinates,
    sections: np.ndarray,
    rotate_degrees: float,
    scale: float,
    shear: float,
    rng: np.random.Generator,
) -> Coordinates:
    """Coordinates with each of `sections` turned, stretched and sheared in its own plane about its centre.

    Args:
        rotate_degrees: uniform in -+ this.
        scale: each axis by a factor uniform in 1 -+ this.
        shear: uniform in -+ this.
    """
    coordinates = coordinates.copy()
    centre = (np.asarray(coordinates.shape[2:]) - 1) / 2
    for z in sections:
        angle = np.deg2rad(rotate_degrees) * rng.uniform(-1, 1)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        stretch = np.diag(1 + scale * rng.uniform(-1, 1, 2))
        slide = np.array([[1, shear * rng.uniform(-1, 1)], [0, 1]])
        relative = coordinates[1:, z] - centre[:, None, None]
        coordinates[1:, z] = np.tensordot(turn @ slide @ stretch, relative, 1) + centre[:, None, None]
    return coordinates


def rotation_matrix(max_degrees: float, about_z_only: bool, rng: np.random.Generator) -> np.ndarray:
    """A rotation in physical space (z, y, x): about z by an angle in -+ max_degrees, or about a uniform random axis."""
    angle = np.deg2rad(max_degrees) * rng.uniform(-1, 1)
    axis = np.array([1.0, 0.0, 0.0]) if about_z_only else rng.normal(size=3)
    z, y, x = axis / np.linalg.norm(axis)
    cross = np.array([[0, -x, y], [x, 0, -z], [-y, z, 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross  # Rodrigues


def rotated(coordinates: Coordinates, matrix: np.ndarray, voxel_size_zyx_nm: np.ndarray) -> Coordinates:
    """Coordinates turned about the patch's centre, in nm: a sphere stays a sphere in anisotropic voxels."""
    centre = ((np.asarray(coordinates.shape[1:]) - 1) / 2)[:, None, None, None]
    size = np.asarray(voxel_size_zyx_nm, float)
    in_voxels = matrix * size[None, :] / size[:, None]
    return (np.tensordot(in_voxels, coordinates - centre, 1) + centre).astype(np.float32)
