"""One EM volume with its truth, at the resolution of the annotation and at the one that the network sees."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from nissl.volumes.boxes import Box, Triple, triple
from nissl.volumes.skeletons import Skeletons


@dataclass(frozen=True)
class AnnotatedVolume:
    """Raw image, labels and skeletons of one box.

    Attributes:
        name: for messages and captions.
        raw: (Z, Y, X) grey values, native resolution.
        voxel_size_zyx_nm: of `raw`.
        labels: (Z, Y, X) integer, 0 = unlabelled, or None.
        skeletons: nodes in nm from the first voxel's centre, or None.
        scale_zyx: native voxels per voxel that the network sees.
        mean, std: grey values are normalised as (raw - mean) / std.
        offset_zyx: where the first voxel lies in the file it was cut from, in native voxels.
    """

    name: str
    raw: np.ndarray
    voxel_size_zyx_nm: tuple[float, float, float]
    labels: np.ndarray | None = None
    skeletons: Skeletons | None = None
    scale_zyx: Triple = (1, 1, 1)
    mean: float = 128.0
    std: float = 33.0
    offset_zyx: Triple = (0, 0, 0)

    def crop(self, box: Box) -> AnnotatedVolume:
        return AnnotatedVolume(
            self.name,
            self.raw[box.slices],
            self.voxel_size_zyx_nm,
            None if self.labels is None else self.labels[box.slices],
            None if self.skeletons is None else self.skeletons.crop(box, self.voxel_size_zyx_nm),
            self.scale_zyx,
            self.mean,
            self.std,
            triple(np.add(self.offset_zyx, box.start_zyx)),
        )

    @property
    def box(self) -> Box:
        """The voxels of its file that it holds."""
        return Box(self.offset_zyx, triple(np.add(self.offset_zyx, self.raw.shape)))

    def network_image(self) -> np.ndarray:
        """Normalised image at the network's resolution, float32: block means of the raw image."""
        image = block_view(self.raw, self.scale_zyx).mean(axis=-1, dtype=np.float32)
        return (image - np.float32(self.mean)) / np.float32(self.std)

    def network_labels(self, gap: int = 0) -> np.ndarray:
        """Labels at the network's resolution: the commonest of each block, the smallest id in a tie.

        Args:
            gap: voxels within this many of another label, at native resolution and per axis, become 0.
        """
        if self.labels is None:
            raise ValueError(
                f"volume '{self.name}' has no labels. Set dataset.labels to the name of its label dataset."
            )
        return block_mode(separated(self.labels, gap), self.scale_zyx)

    def native(self, segmentation: np.ndarray) -> np.ndarray:
        """A segmentation at the network's resolution, repeated up to the shape of `raw`.

        Voxels behind the last whole block take the id before them.
        """
        for axis, scale in enumerate(self.scale_zyx):
            segmentation = np.repeat(segmentation, scale, axis=axis)
        missing = np.subtract(self.raw.shape, segmentation.shape)
        return np.pad(segmentation, [(0, int(n)) for n in missing], mode="edge")


def block_view(array: np.ndarray, scale_zyx: Triple) -> np.ndarray:
    """(Z, Y, X) -> (Z/sz, Y/sy, X/sx, sz*sy*sx); voxels behind the last whole block are left out."""
    shape = [size // scale for size, scale in zip(array.shape, scale_zyx, strict=True)]
    (Z, sz), (Y, sy), (X, sx) = zip(shape, scale_zyx, strict=True)
    blocks = array[: Z * sz, : Y * sy, : X * sx].reshape(Z, sz, Y, sy, X, sx)
    return blocks.transpose(0, 2, 4, 1, 3, 5).reshape(Z, Y, X, sz * sy * sx)


def separated(labels: np.ndarray, gap: int) -> np.ndarray:
    """`labels` (Z, Y, X) with 0 where the box of 2 * gap + 1 voxels around a voxel holds more than one value."""
    if gap == 0:
        return labels
    mixed = ndimage.maximum_filter(labels, 2 * gap + 1) != ndimage.minimum_filter(labels, 2 * gap + 1)
    return np.where(mixed, 0, labels)


def block_mode(labels: np.ndarray, scale_zyx: Triple) -> np.ndarray:
    """The commonest label of each block, (Z/sz, Y/sy, X/sx); the smallest one in a tie."""
    blocks = np.sort(block_view(labels, scale_zyx), axis=-1)  # (Z, Y, X, n), equal labels side by side
    best, count = blocks[..., 0].copy(), np.ones(blocks.shape[:-1], np.int16)
    run = count.copy()
    for i in range(1, blocks.shape[-1]):
        run = np.where(blocks[..., i] == blocks[..., i - 1], run + 1, 1).astype(np.int16)
        better = run > count
        best[better], count[better] = blocks[..., i][better], run[better]
    return best
