"""EM volumes with labels and skeletons, and training examples drawn from them.

A source knows its volumes (`volumes(split)`, which evaluators segment and score) and its examples (`split(name)`,
which a task learns from). `EMVolume` reads an HDF5 file, and may train on further ones, each with its own boxes and
grey values; `EMSimulated` grows its own neurites.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from nissl.datasets.em_augment import Augment
from nissl.datasets.em_patches import FloodFillPatches, PatchDataset, patch_dataset
from nissl.simulate.em import Obstacles, Scene, simulate_scene
from nissl.volumes.annotated import AnnotatedVolume
from nissl.volumes.boxes import Box, triple
from nissl.volumes.chunked import read_hdf5, read_resolution_nm
from nissl.volumes.skeleton_files import read_skeletons
from nissl.volumes.skeletons import Skeletons

Split = Literal["train", "val", "test"]
TRAIN_SHARE, VAL_SHARE = 0.70, 0.28  # of the longest axis; the gap between keeps neighbours apart


class _Source:
    """What both sources share: examples from volumes, computed once per split."""

    def __init__(self, patches: FloodFillPatches, augment: Augment) -> None:
        self.patches, self.augment = patches, augment
        self._datasets: dict[str, PatchDataset] = {}

    def volumes(self, name: Split) -> list[AnnotatedVolume]:
        raise NotImplementedError

    def ignored(self, name: Split) -> list[np.ndarray | None]:
        """Per volume the voxels without loss, bool at native resolution, or None."""
        return [None] * len(self.volumes(name))

    def split(self, name: Split) -> PatchDataset:
        if name not in self._datasets:
            train = name == "train"
            length = self.patches.examples_per_epoch if train else self.patches.val_examples
            self._datasets[name] = patch_dataset(
                self.volumes(name), self.patches, length, self.augment if train else None, self.ignored(name)
            )
        return self._datasets[name]


class EMVolume(_Source):
    """One HDF5 file with an image, labels and skeletons, cut into boxes for training, validation and test.

    Args:
        path: the file.
        raw, labels: its datasets; `labels` null for a volume that is only to be segmented.
        skeletons: npz file (nodes_zyx_nm, edges, node_label), or null.
        voxel_size_zyx_nm: null reads the attribute `resolution_nm`.
        train_box, val_box, test_box: [[z0, z1], [y0, y1], [x0, x1]] in voxels, or a list of such boxes. Null cuts the
            longest axis: its first 70 % train, its last 28 % validate and test.
        scale_zyx: voxels per voxel that the network sees, 2 halves the resolution.
        mean, std: normalisation of grey values; null takes those of the training box.
        patches: size and number of examples.
        augment: changes made to training examples.
        loss_mask: dataset of the file whose voxels take no part in the loss where it is not 0, or one of
            `loss_mask_values`; no example is centred on one.
        loss_mask_values: null: every value but 0.
        loss_mask_inverted: everything else takes no part in it instead.
        more: name -> further volumes to train on, each normalised by its own mean and std; their `patches`, `augment`,
            validation and test boxes are not used. A volume is drawn as often as it has centres of the class drawn.
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
        loss_mask: str | None = None,
        loss_mask_values: Sequence[int] | None = None,
        loss_mask_inverted: bool = False,
        more: Mapping[str, EMVolume] | None = None,
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
        graph: Skeletons | None = None if skeletons is None else read_skeletons(skeletons)
        self.files = [Path(path)] + ([] if skeletons is None else [Path(skeletons)])

        scale = triple(np.asarray(scale_zyx))
        whole = AnnotatedVolume(Path(path).stem, image, voxel_size, truth, graph, scale)
        default_train, default_val = default_boxes(image.shape)
        boxes = {
            name: parse_boxes(given, image.shape, f"dataset.{name}_box") or [default]
            for name, given, default in (
                ("train", train_box, default_train),
                ("val", val_box, default_val),
                ("test", test_box, default_val),
            )
        }
        if mean is None or std is None:
            trains = [dataclasses.replace(whole.crop(box), mean=0.0, std=1.0) for box in boxes["train"]]
            grey = np.concatenate([volume.network_image().ravel() for volume in trains])
            mean = float(grey.mean()) if mean is None else mean
            std = float(grey.std()) if std is None else std
        if std <= 0:
            raise ValueError(f"the grey values of {path} have standard deviation {std}: the image is constant")
        ignored = None if loss_mask is None else read_hdf5(path, loss_mask, "labels")
        if ignored is not None:
            if ignored.shape != image.shape:
                raise ValueError(
                    f"'{raw}' {image.shape} and the loss mask '{loss_mask}' {ignored.shape} of {path} differ in shape"
                )
            ignored = ignored != 0 if loss_mask_values is None else np.isin(ignored, list(loss_mask_values))
            ignored = ignored != loss_mask_inverted
        self._volumes: dict[str, list[AnnotatedVolume]] = {}
        self._ignored: dict[str, list[np.ndarray | None]] = {}
        for name, parts in boxes.items():
            numbers = [""] if len(parts) == 1 else [f" {number}" for number in range(len(parts))]
            self._volumes[name] = [
                dataclasses.replace(whole.crop(box), name=f"{whole.name}/{name}{number}", mean=mean, std=std)
                for box, number in zip(parts, numbers, strict=True)
            ]
            self._ignored[name] = [None if ignored is None else ignored[box.slices] for box in parts]
        for name, other in (more or {}).items():
            self._train_on(name, other)

    def _train_on(self, name: str, other: EMVolume) -> None:
        own, its = (
            np.multiply(volume.voxel_size_zyx_nm, volume.scale_zyx).tolist()
            for volume in (self.volumes("train")[0], other.volumes("train")[0])
        )
        if own != its:
            raise ValueError(
                f"the network would see voxels of {own} nm (zyx) and in dataset.more.{name} of {its} nm. "
                f"Set dataset.more.{name}.scale_zyx."
            )
        self._volumes["train"] = [*self._volumes["train"], *other.volumes("train")]
        self._ignored["train"] = [*self._ignored["train"], *other.ignored("train")]
        self.files += other.files

    def volumes(self, name: Split) -> list[AnnotatedVolume]:
        return self._volumes[name]

    def ignored(self, name: Split) -> list[np.ndarray | None]:
        return self._ignored[name]


def parse_boxes(given: Sequence[Any] | None, shape_zyx: Sequence[int], name: str) -> list[Box]:
    """The boxes that a config gives as one or as a list; none if it gives null.

    Raises:
        ValueError: naming the config key, if a box is malformed, empty or leaves the volume.
    """
    if given is None:
        return []
    is_list = len(given) > 0 and all(len(box) > 0 and isinstance(box[0], Sequence) for box in given)
    return [Box.parse(box, shape_zyx, name) for box in (given if is_list else [given])]


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
        vessel_radius_nm, misalignments, num_somata, soma_radius_nm: see `nissl.simulate.em.Obstacles`; every volume has
            them.
        tissue_labels: labels are kinds of tissue, 1 neuropil and 2 blood vessel, instead of neurites.
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
        vessel_radius_nm: float = 0.0,
        misalignments: Sequence[Sequence[int]] = (),
        num_somata: int = 0,
        soma_radius_nm: float = 0.0,
        tissue_labels: bool = False,
    ) -> None:
        super().__init__(patches, augment)
        self.tissue_labels = tissue_labels
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
            "obstacles": Obstacles(
                vessel_radius_nm, tuple((z, dy, dx) for z, dy, dx in misalignments), num_somata, soma_radius_nm
            ),
        }
        first = 1000 * seed
        self._seeds = {"test": [first], "val": [first + 1], "train": [first + 2 + i for i in range(num_train)]}
        self._grown: dict[str, list[Scene]] = {}

    def scenes(self, name: Split) -> list[Scene]:
        """The volumes of a split with the truth about their obstacles."""
        if name not in self._grown:
            grown = [simulate_scene(seed=seed, **self._arguments) for seed in self._seeds[name]]
            self._grown[name] = [_with_tissue(scene) for scene in grown] if self.tissue_labels else grown
        return self._grown[name]

    def volumes(self, name: Split) -> list[AnnotatedVolume]:
        return [scene.volume for scene in self.scenes(name)]


def _with_tissue(scene: Scene) -> Scene:
    """The scene with kinds of tissue for labels."""
    kinds = np.where(scene.vessel, 2, 1).astype(np.uint8)
    return dataclasses.replace(scene, volume=dataclasses.replace(scene.volume, labels=kinds))
