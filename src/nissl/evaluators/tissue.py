"""How well a tissue classifier agrees with painted labels, and the mask that flood filling takes from it.

Per class: recall and intersection over union on one split's volumes. The mask forbids moves in the named classes; it is
in the result's arrays as `movement_mask`, (Z, Y, X) bool of the first volume, True = forbidden.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import ndimage

from nissl.evaluators.result import Figure, Result
from nissl.volumes.annotated import AnnotatedVolume
from nissl.volumes.irregularities import write_movement_mask
from nissl.watershed.prediction import predict


def confusion(truth: np.ndarray, found: np.ndarray, num_classes: int) -> np.ndarray:
    """Voxels by (true class, found class), (C, C); classes below 0 are unknown and left out."""
    known = truth >= 0
    pairs = truth[known].astype(np.int64) * num_classes + found[known]
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def forbidden_voxels(found: np.ndarray, forbidden: Sequence[int], min_size: int) -> np.ndarray:
    """Where the class is one of `forbidden` in a connected piece of at least `min_size` voxels, bool."""
    mask = np.isin(found, list(forbidden))
    pieces, _ = ndimage.label(mask)
    kept = np.bincount(pieces.ravel()) >= min_size
    kept[0] = False
    return kept[pieces]


class TissueScores:
    """Classifies the volumes of one split.

    Args:
        split: "val" or "test".
        classes: name -> painted values, as of the task.
        forbidden: names of classes that flood filling may not enter.
        min_size: smaller pieces of them do not count, voxels at the network's resolution.
        margin: voxels of each block's faces that another block answers for.
        precision: "float32" or "bfloat16".
        mask_file: HDF5 file to be written with the mask of the first volume, as `segmenter.movement_mask` reads it, or
            None.
    """

    metrics = {"tissue/mean_iou": "max", "tissue/accuracy": "max", "tissue/iou_*": "max", "tissue/recall_*": "max",
               "tissue/forbidden": None}  # fmt: skip

    def __init__(
        self,
        split: str,
        classes: Mapping[str, Sequence[int]],
        forbidden: Sequence[str],
        min_size: int,
        margin: int,
        precision: str,
        mask_file: str | None = None,
    ) -> None:
        if split not in ("val", "test"):
            raise ValueError(f"split must be val or test, came {split!r}")
        unknown = sorted(set(forbidden) - set(classes))
        if unknown:
            raise ValueError(f"forbidden names {unknown}, which are none of the classes {sorted(classes)}")
        self.split, self.margin, self.precision, self.min_size = split, margin, precision, min_size
        self.classes = {name: list(values) for name, values in classes.items()}
        self.mask_file = mask_file
        self.forbidden = [list(classes).index(name) for name in forbidden]

    def __call__(self, task: Any, data: Any) -> Result:
        volumes: list[AnnotatedVolume] = data.source.volumes(self.split)
        table = np.zeros((len(self.classes),) * 2, np.int64)
        masks, classified = [], []
        for volume in volumes:
            found = predict(task.model, volume.network_image(), self.margin, self.precision, "softmax").argmax(0)
            truth = np.full(found.shape, -1)
            for index, values in enumerate(self.classes.values()):
                truth[np.isin(volume.network_labels(), values)] = index
            table += confusion(truth, found, len(self.classes))
            masks.append(volume.native(forbidden_voxels(found, self.forbidden, self.min_size)))
            classified.append(volume.native(found.astype(np.uint8)))
        if self.mask_file is not None:
            first = volumes[0]
            write_movement_mask(self.mask_file, masks[0], first.voxel_size_zyx_nm, first.offset_zyx)
        hit = np.diag(table).astype(float)
        union, true = table.sum(0) + table.sum(1) - hit, table.sum(1)
        with np.errstate(invalid="ignore", divide="ignore"):
            iou, recall = hit / union, hit / true  # NaN for a class that is neither there nor found
        scalars = {
            "tissue/mean_iou": float(np.nanmean(iou)),
            "tissue/accuracy": float(hit.sum() / max(table.sum(), 1)),
            "tissue/forbidden": float(np.mean([mask.mean() for mask in masks])),
        }
        rows = []
        for index, name in enumerate(self.classes):
            scalars[f"tissue/iou_{name}"], scalars[f"tissue/recall_{name}"] = float(iou[index]), float(recall[index])
            rows.append({"class": name, "voxels": int(true[index]), "iou": iou[index], "recall": recall[index]})
        figure = mask_figure(volumes[0], classified[0], masks[0], list(self.classes))
        arrays = {"movement_mask": masks[0], "classes": classified[0]}
        return Result(scalars, {"classes": figure}, {"classes": rows}, arrays)


# Okabe and Ito, without black.
COLOURS = np.array([[230, 159, 0], [86, 180, 233], [0, 158, 115], [240, 228, 66], [0, 114, 178], [213, 94, 0],
                    [204, 121, 167]]) / 255  # fmt: skip


def mask_figure(volume: AnnotatedVolume, classes: np.ndarray, mask: np.ndarray, names: Sequence[str]) -> Figure:
    """The middle section: raw, with its classes, and with the mask in dark red."""
    z = len(volume.raw) // 2
    low, high = np.percentile(volume.raw[z], [0.5, 99.5])
    grey = np.clip((volume.raw[z] - low) / max(high - low, 1e-6), 0, 1)[..., None].repeat(3, -1)
    coloured = 0.55 * grey + 0.45 * COLOURS[classes[z] % len(COLOURS)]
    masked = np.where(mask[z][..., None], 0.5 * grey + 0.5 * np.array([0.5, 0, 0]), grey)
    gutter = np.ones((grey.shape[0], 4, 3))
    image = np.hstack([grey, gutter, coloured, gutter, masked])
    words = ("orange", "sky blue", "green", "yellow", "blue", "vermilion", "purple")
    legend = ", ".join(f"{name} {words[index % len(words)]}" for index, name in enumerate(names))
    caption = (
        f"{volume.name}, section z = {z} (voxels of {volume.voxel_size_zyx_nm[1]:g} nm). Left raw, middle classes "
        f"({legend}), right in red what flood filling may not enter."
    )
    return Figure.from_array((255 * image).astype(np.uint8), caption)
