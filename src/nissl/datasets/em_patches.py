"""Training examples cut from annotated EM volumes, around balanced centres.

An example shows either one object (what a flood-filling network learns to grow) or all labels of its patch (what a
network learns from that predicts affinities, boundaries or tissue classes).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch.utils.data import Dataset

from nissl.datasets.em_augment import Augment, Scan, read_window
from nissl.datasets.em_partitions import IGNORE, BalancedCentres, cached_partition_map, value_map
from nissl.volumes.annotated import AnnotatedVolume, block_view, separated
from nissl.volumes.boxes import Triple, triple

Target = Literal["object", "labels"]
TARGETS = ("object", "labels")
CENTRES = ("partitions", "labels", "uniform")


class FloodFillPatches:
    """How examples are cut: their size, their number, and which centres are drawn.

    Args:
        fov_zyx, deltas_zyx: the network's field of view and step; a network that does not move has deltas of 0.
        fov_moves: an example has room for this many steps to each side.
        examples_per_epoch: training examples drawn per epoch.
        val_examples: validation examples, the same in every epoch.
        min_object_voxels: smaller objects are not grown from, at the network's resolution.
        label_gap: voxels of the native resolution that are taken off every object where it touches another one. Dense
            labels leave no voxel between bodies, and a young network that is unsure of one voxel leaks through.
        target: "object": an example's label is 1 where the object of its centre is; "labels": the ids themselves.
        centres: drawn with equal frequency from each class of "partitions" (how much of its neighbourhood the centre's
            object fills) or of "labels" (few values, such as tissue classes), or "uniform".
        class_weights: relative frequency of each class that occurs, in ascending order; null: equal.
        native: examples are cut at the volume's own resolution, `scale_zyx` times as many voxels. For tasks that pool
            them themselves.
        cache_dir: folder where partition maps are kept, named by content; null: computed anew each time.
        number_of_places: examples come from this many centres, drawn once; null: from ever new ones.
    """

    def __init__(
        self,
        fov_zyx: Sequence[int],
        deltas_zyx: Sequence[int],
        fov_moves: int,
        examples_per_epoch: int,
        val_examples: int,
        min_object_voxels: int,
        label_gap: int,
        target: str = "object",
        centres: str = "partitions",
        class_weights: Sequence[float] | None = None,
        native: bool = False,
        cache_dir: str | None = None,
        number_of_places: int | None = None,
    ) -> None:
        if label_gap < 0:
            raise ValueError(f"label_gap is a number of voxels, came {label_gap}")
        if fov_moves < 0:
            raise ValueError(f"fov_moves must be at least 0, came {fov_moves}")
        for name, value, known in (("target", target, TARGETS), ("centres", centres, CENTRES)):
            if value not in known:
                raise ValueError(f"dataset.patches.{name} must be one of {list(known)}, came {value!r}")
        self.size_zyx = triple(np.asarray(fov_zyx) + 2 * fov_moves * np.asarray(deltas_zyx))
        self.examples_per_epoch, self.val_examples = examples_per_epoch, val_examples
        self.min_object_voxels, self.label_gap = min_object_voxels, label_gap
        self.target, self.centres, self.native, self.cache_dir = target, centres, native, cache_dir
        self.class_weights = None if class_weights is None else [float(weight) for weight in class_weights]
        self.number_of_places = number_of_places

    @property
    def radius_zyx(self) -> Triple:
        return triple(np.asarray(self.size_zyx) // 2)


@dataclass(frozen=True)
class PatchSource:
    """One volume as examples are cut from it: arrays (Z, Y, X) at the resolution of the examples.

    Attributes:
        image: float32, normalised.
        labels: integer.
        ignored: bool, voxels without loss; None: every voxel counts.
        scan: voxel size and normalisation.
        step_zyx: voxels of the arrays per voxel of the map that centres are drawn from, and of the examples' size.
    """

    image: np.ndarray
    labels: np.ndarray
    ignored: np.ndarray | None
    scan: Scan
    step_zyx: Triple


class PatchDataset(Dataset[dict[str, Any]]):
    """Examples around balanced centres; item i of epoch e is decided by its seed alone.

    Items: `image` (1, Z, Y, X) float32 normalised; `label` (1, Z, Y, X): float32, 1 where the object of the centre
    voxel is, or int64 ids; `draw`, the number that decides the random choices made about this example later on;
    `weight` (1, Z, Y, X) float32, 0 where the loss must not look, if any volume has such voxels; `place`, the number
    of its centre, if there is a fixed set of them.
    """

    def __init__(
        self,
        sources: Sequence[PatchSource],
        centres: BalancedCentres,
        size_zyx: Triple,
        length: int,
        augment: Augment | None,
        target: str = "object",
        number_of_places: int | None = None,
    ) -> None:
        self.sources, self.centres, self.size_zyx = sources, centres, size_zyx
        self.length, self.augment, self.target = length, augment, target
        self.number_of_places = number_of_places
        self.has_weights = any(source.ignored is not None for source in sources)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < self.length:
            raise IndexError(index)
        seed = getattr(index, "seed", int(index))
        rng = np.random.default_rng(seed)
        item: dict[str, Any] = {"draw": torch.tensor(seed, dtype=torch.int64)}
        if self.number_of_places is None:
            number, centre = self.centres.draw(rng)
        else:
            place = int(rng.integers(self.number_of_places))
            item["place"] = torch.tensor(place)
            number, centre = self.centres.draw(np.random.default_rng([0, place]))
        source = self.sources[number]
        # At native resolution the example is exactly the blocks of voxels that the coarse one is made of.
        size = triple(np.multiply(self.size_zyx, source.step_zyx))
        first = np.multiply(centre - np.asarray(self.size_zyx) // 2, source.step_zyx)

        augment = self.augment
        margin = (0, 0, 0) if augment is None else augment.margin_zyx(size, source.scan.voxel_size_zyx_nm)
        start = first - margin
        arrays = [source.image, source.labels]
        if self.has_weights:
            ignored = np.zeros(source.image.shape, bool) if source.ignored is None else source.ignored
            arrays.append(ignored)
        patch, *maps = (read_window(array, start, np.add(size, np.multiply(2, margin))) for array in arrays)
        if augment is not None:
            patch, maps = augment(patch, maps, rng, size, source.scan)
        item["image"] = torch.from_numpy(np.array(patch))[None]
        item["label"] = torch.from_numpy(_target(maps[0], self.target))[None]
        if self.has_weights:
            item["weight"] = torch.from_numpy((~maps[1]).astype(np.float32))[None]
        return item


def _target(labels: np.ndarray, target: str) -> np.ndarray:
    if target == "labels":
        return labels.astype(np.int64)
    at_centre = labels[tuple(size // 2 for size in labels.shape)]
    return ((labels == at_centre) & (at_centre > 0)).astype(np.float32)


def patch_dataset(
    volumes: Sequence[AnnotatedVolume],
    patches: FloodFillPatches,
    length: int,
    augment: Augment | None,
    ignored: Sequence[np.ndarray | None] | None = None,
) -> PatchDataset:
    """Examples from annotated volumes, at the network's resolution or (`patches.native`) at their own.

    Args:
        ignored: per volume, voxels without loss, bool at native resolution; no example is centred on one.

    Raises:
        ValueError: no labels, nothing labelled, or a volume too small for a single example.
    """
    if augment is not None and len({patches.size_zyx[axis] for axis in augment.permutable_axes}) > 1:
        raise ValueError(
            f"examples of {list(patches.size_zyx)} voxels change shape when axes {augment.permutable_axes} are "
            "exchanged. Set dataset.augment.permutable_axes to axes of equal field of view and deltas."
        )
    sources, partitions = [], []
    for volume, mask in zip(volumes, ignored or [None] * len(volumes), strict=True):
        labels = volume.network_labels(patches.label_gap)
        if not labels.any():
            raise ValueError(f"volume '{volume.name}' has only label 0: there is no object to learn from")
        if np.any(np.less(labels.shape, patches.size_zyx)):
            raise ValueError(
                f"volume '{volume.name}' has {list(labels.shape)} voxels at the network's resolution, fewer than an "
                f"example of {list(patches.size_zyx)}. Take a larger box or a smaller field of view."
            )
        coarse_mask: np.ndarray | None = None
        if mask is not None:
            coarse_mask = np.asarray(block_view(mask, volume.scale_zyx).any(axis=-1))
        partitions.append(_centres(labels, coarse_mask, patches))
        if patches.native:
            assert volume.labels is not None
            image = (volume.raw.astype(np.float32) - np.float32(volume.mean)) / np.float32(volume.std)
            gapped = separated(volume.labels, patches.label_gap)
            sources.append(PatchSource(image, gapped, mask, _scan(volume, (1, 1, 1)), volume.scale_zyx))
        else:
            scan = _scan(volume, volume.scale_zyx)
            sources.append(PatchSource(volume.network_image(), labels, coarse_mask, scan, (1, 1, 1)))
    centres = BalancedCentres(partitions, patches.class_weights)
    return PatchDataset(sources, centres, patches.size_zyx, length, augment, patches.target, patches.number_of_places)


def _scan(volume: AnnotatedVolume, scale: Triple) -> Scan:
    z, y, x = np.multiply(volume.voxel_size_zyx_nm, scale)
    return Scan((float(z), float(y), float(x)), volume.mean, volume.std)


def _centres(labels: np.ndarray, ignored: np.ndarray | None, patches: FloodFillPatches) -> np.ndarray:
    """The map of classes from which centres are drawn, (Z, Y, X) uint8; 255: never."""
    radius = patches.radius_zyx
    if patches.centres == "partitions":
        partition = cached_partition_map(labels, radius, patches.min_object_voxels, patches.cache_dir)
    else:
        partition = value_map(labels if patches.centres == "labels" else np.zeros_like(labels), radius)
    return partition if ignored is None else np.where(ignored, np.uint8(IGNORE), partition)
