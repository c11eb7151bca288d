"""EM volumes with labels and skeletons, and flood-filling examples drawn from them.

A source knows its volumes (`volumes(split)`, which evaluators segment and score) and its examples (`split(name)`,
which a task learns from). `EMVolume` reads HDF5; `EMSimulated` grows its own neurites.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch.utils.data import Dataset

from nissl.datasets.em_augment import Augment
from nissl.datasets.em_partitions import BalancedCentres, partition_map
from nissl.simulate.em import simulate_volume
from nissl.volumes.annotated import AnnotatedVolume
from nissl.volumes.boxes import Box, Triple, triple
from nissl.volumes.chunked import read_hdf5, read_resolution_nm
from nissl.volumes.skeletons import Skeletons, read_npz

Split = Literal["train", "val", "test"]
TRAIN_SHARE, VAL_SHARE = 0.70, 0.28  # of the longest axis; the gap between keeps neighbours apart


class FloodFillPatches:
    """How flood-filling examples are cut: their size, their number, and which centres are drawn.

    Args:
        fov_zyx, deltas_zyx: the network's field of view and step.
        fov_moves: an example has room for this many steps to each side.
        examples_per_epoch: training examples drawn per epoch.
        val_examples: validation examples, the same in every epoch.
        min_object_voxels: smaller objects are not grown from, at the network's resolution.
        label_gap: voxels of the native resolution that are taken off every object where it touches another one. Dense
            labels leave no voxel between bodies, and a young network that is unsure of one voxel leaks through.
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
    ) -> None:
        if label_gap < 0:
            raise ValueError(f"label_gap is a number of voxels, came {label_gap}")
        if fov_moves < 0:
            raise ValueError(f"fov_moves must be at least 0, came {fov_moves}")
        self.size_zyx = triple(np.asarray(fov_zyx) + 2 * fov_moves * np.asarray(deltas_zyx))
        self.examples_per_epoch, self.val_examples = examples_per_epoch, val_examples
        self.min_object_voxels, self.label_gap = min_object_voxels, label_gap

    @property
    def radius_zyx(self) -> Triple:
        return triple(np.asarray(self.size_zyx) // 2)


class PatchDataset(Dataset[dict[str, Any]]):
    """Examples around balanced centres; item i of epoch e is decided by its seed alone.

    Items: `image` (1, Z, Y, X) float32 normalised, `label` (1, Z, Y, X) float32: 1 where the object of the centre voxel
    is, and `draw`, the number that decides the random choices made about this example later on.
    """

    def __init__(
        self,
        volumes: Sequence[tuple[np.ndarray, np.ndarray]],
        centres: BalancedCentres,
        size_zyx: Triple,
        length: int,
        augment: Augment | None,
    ) -> None:
        self.volumes, self.centres, self.size_zyx = volumes, centres, size_zyx
        self.length, self.augment = length, augment

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < self.length:
            raise IndexError(index)
        seed = getattr(index, "seed", int(index))
        rng = np.random.default_rng(seed)
        number, centre = self.centres.draw(rng)
        image, labels = self.volumes[number]
        start = centre - np.asarray(self.size_zyx) // 2
        part = tuple(slice(a, a + size) for a, size in zip(start, self.size_zyx, strict=True))
        at_centre = labels[tuple(centre)]
        patch, label = image[part], ((labels[part] == at_centre) & (at_centre > 0)).astype(np.float32)
        if self.augment is not None:
            patch, label = self.augment(patch, label, rng)
        return {
            "image": torch.from_numpy(np.array(patch))[None],
            "label": torch.from_numpy(np.array(label))[None],
            "draw": torch.tensor(seed, dtype=torch.int64),
        }


def patch_dataset(
    volumes: Sequence[AnnotatedVolume], patches: FloodFillPatches, length: int, augment: Augment | None
) -> PatchDataset:
    """Examples from annotated volumes, at the network's resolution.

    Raises:
        ValueError: no labels, nothing labelled, or a volume too small for a single example.
    """
    pairs, partitions = [], []
    if augment is not None and len({patches.size_zyx[axis] for axis in augment.permutable_axes}) > 1:
        raise ValueError(
            f"examples of {list(patches.size_zyx)} voxels change shape when axes {augment.permutable_axes} are "
            "exchanged. Set dataset.augment.permutable_axes to axes of equal field of view and deltas."
        )
    for volume in volumes:
        labels = volume.network_labels(patches.label_gap)
        if not labels.any():
            raise ValueError(f"volume '{volume.name}' has only label 0: there is no object to learn from")
        if np.any(np.less(labels.shape, patches.size_zyx)):
            raise ValueError(
                f"volume '{volume.name}' has {list(labels.shape)} voxels at the network's resolution, fewer than an "
                f"example of {list(patches.size_zyx)}. Take a larger box or a smaller field of view."
            )
        pairs.append((volume.network_image(), labels))
        partitions.append(partition_map(labels, patches.radius_zyx, patches.min_object_voxels))
    return PatchDataset(pairs, BalancedCentres(partitions), patches.size_zyx, length, augment)


class _Source:
    """What both sources share: examples from volumes, computed once per split."""

    def __init__(self, patches: FloodFillPatches, augment: Augment) -> None:
        self.patches, self.augment = patches, augment
        self._datasets: dict[str, PatchDataset] = {}

    def volumes(self, name: Split) -> list[AnnotatedVolume]:
        raise NotImplementedError

    def split(self, name: Split) -> PatchDataset:
        if name not in self._datasets:
            train = name == "train"
            length = self.patches.examples_per_epoch if train else self.patches.val_examples
            self._datasets[name] = patch_dataset(
                self.volumes(name), self.patches, length, self.augment if train else None
            )
        return self._datasets[name]


class EMVolume(_Source):
    """One HDF5 file with an image, labels and skeletons, cut into boxes for training, validation and test.

    Args:
        path: the file.
        raw, labels: its datasets; `labels` null for a volume that is only to be segmented.
        skeletons: npz file (nodes_zyx_nm, edges, node_label), or null.
        voxel_size_zyx_nm: null reads the attribute `resolution_nm`.
        train_box, val_box, test_box: [[z0, z1], [y0, y1], [x0, x1]] in voxels. Null cuts the longest axis: its first
            70 % train, its last 28 % validate and test.
        scale_zyx: voxels per voxel that the network sees, 2 halves the resolution.
        mean, std: normalisation of grey values; null takes those of the training box.
        patches: size and number of examples.
        augment: changes made to training examples.
    """

    def __init__(
        self,
        path: str,
        raw: str,
        labels: str | None,
        skeletons: str | None,
        voxel_size_zyx_nm: Sequence[float] | None,
        train_box: Sequence[Sequence[int]] | None,
        val_box: Sequence[Sequence[int]] | None,
        test_box: Sequence[Sequence[int]] | None,
        scale_zyx: Sequence[int],
        mean: float | None,
        std: float | None,
        patches: FloodFillPatches,
        augment: Augment,
    ) -> None:
        super().__init__(patches, augment)
        image = read_hdf5(path, raw, "image")
        truth = None if labels is None else read_hdf5(path, labels, "labels")
        if truth is not None and truth.shape != image.shape:
            raise ValueError(
                f"'{raw}' {image.shape} and '{labels}' {truth.shape} of {path} differ in shape; "
                "image and labels must cover the same voxels"
            )
        if truth is not None and not truth.any():
            raise ValueError(f"labels '{labels}' of {path} are empty: every voxel is 0")
        size = voxel_size_zyx_nm if voxel_size_zyx_nm is not None else read_resolution_nm(path, raw)
        if size is None:
            raise ValueError(f"{path} does not state its voxel size. Set dataset.voxel_size_zyx_nm=[z,y,x] in nm.")
        voxel_size = (float(size[0]), float(size[1]), float(size[2]))
        graph: Skeletons | None = None if skeletons is None else read_npz(skeletons)
        self.files = [Path(path)] + ([] if skeletons is None else [Path(skeletons)])

        scale = triple(np.asarray(scale_zyx))
        whole = AnnotatedVolume(Path(path).stem, image, voxel_size, truth, graph, scale)
        default_train, default_val = default_boxes(image.shape)
        boxes = {
            name: default if given is None else Box.parse(given, image.shape, f"dataset.{name}_box")
            for name, given, default in (
                ("train", train_box, default_train),
                ("val", val_box, default_val),
                ("test", test_box, default_val),
            )
        }
        trains = whole.crop(boxes["train"])
        if mean is None or std is None:
            grey = dataclasses.replace(trains, mean=0.0, std=1.0).network_image()
            mean = float(grey.mean()) if mean is None else mean
            std = float(grey.std()) if std is None else std
        if std <= 0:
            raise ValueError(f"the grey values of {path} have standard deviation {std}: the image is constant")
        self._volumes = {}
        for name, box in boxes.items():
            self._volumes[name] = dataclasses.replace(whole.crop(box), name=f"{whole.name}/{name}", mean=mean, std=std)

    def volumes(self, name: Split) -> list[AnnotatedVolume]:
        return [self._volumes[name]]


def default_boxes(shape_zyx: Sequence[int]) -> tuple[Box, Box]:
    """Training and validation boxes when none are given: the two ends of the longest axis, with a gap between."""
    axis = int(np.argmax(shape_zyx))
    size = shape_zyx[axis]
    stop, start = list(shape_zyx), [0, 0, 0]
    stop[axis] = int(TRAIN_SHARE * size)
    start[axis] = size - int(VAL_SHARE * size)
    return Box((0, 0, 0), triple(stop)), Box(triple(start), triple(shape_zyx))


class EMSimulated(_Source):
    """Grown volumes: `num_train` to learn from, one for validation, one for test; see `nissl.simulate.em`.

    Args:
        shape_zyx: voxels of every volume.
        voxel_size_zyx_nm: its resolution.
        seed: volumes of another seed are other volumes.
        num_train: training volumes.
        num_neurites, radius_nm, branch_every_nm, noise, blur_nm: as in `simulate_volume`.
        patches: size and number of examples.
        augment: changes made to training examples.
    """

    files: list[Path] = []

    def __init__(
        self,
        shape_zyx: Sequence[int],
        voxel_size_zyx_nm: Sequence[float],
        seed: int,
        num_train: int,
        num_neurites: int,
        radius_nm: Sequence[float],
        branch_every_nm: float,
        noise: float,
        blur_nm: float,
        patches: FloodFillPatches,
        augment: Augment,
    ) -> None:
        super().__init__(patches, augment)
        if num_train < 1 or num_neurites < 1:
            raise ValueError(f"num_train and num_neurites must be at least 1, came {num_train} and {num_neurites}")
        if not 0 < radius_nm[0] <= radius_nm[1]:
            raise ValueError(f"radius_nm must be [smallest, largest], both positive, came {list(radius_nm)}")
        z, y, x = voxel_size_zyx_nm
        self._arguments: dict[str, Any] = {
            "shape_zyx": triple(np.asarray(shape_zyx)),
            "voxel_size_zyx_nm": (float(z), float(y), float(x)),
            "num_neurites": num_neurites,
            "radius_nm": (radius_nm[0], radius_nm[1]),
            "branch_every_nm": branch_every_nm,
            "noise": noise,
            "blur_nm": blur_nm,
        }
        first = 1000 * seed
        self._seeds = {"test": [first], "val": [first + 1], "train": [first + 2 + i for i in range(num_train)]}
        self._grown: dict[str, list[AnnotatedVolume]] = {}

    def volumes(self, name: Split) -> list[AnnotatedVolume]:
        if name not in self._grown:
            self._grown[name] = [simulate_volume(seed=seed, **self._arguments) for seed in self._seeds[name]]
        return self._grown[name]
