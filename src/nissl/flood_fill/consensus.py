"""What two segmentations of the same voxels agree on: an object is split wherever either of them splits it.

Two floodings that differ in the order of their seeds seldom leak through the same membrane, so a merger that only one
of them made disappears; what is lost are true connections that only one found, which agglomeration can restore.
Source: oversegmentation consensus of Januszewski et al. 2018 and google/ffn (inference/consensus.py). Loading
segmentations fails there in every case; ties are decided here, so that the result is a function of its inputs.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage


def split_consensus(first: np.ndarray, second: np.ndarray, min_size: int) -> np.ndarray:
    """Each pair of ids that occurs becomes a segment of its own.

    Voxels that `first` leaves unassigned stay so; voxels that only `second` leaves unassigned are a part like any
    other. The part of a segment of `first` with the most voxels keeps its id (in a tie, the part with the smaller id
    in `second`); other parts get new ids above all old ones, in the order of (id in first, id in second).

    Args:
        first, second: (Z, Y, X) integer, 0 = unassigned.
        min_size: parts of fewer voxels become unassigned.

    Returns:
        (Z, Y, X) int32.

    >>> split_consensus(np.array([[[1, 1, 1, 2]]]), np.array([[[5, 5, 6, 6]]]), min_size=1)
    array([[[1, 1, 3, 2]]], dtype=int32)
    """
    if first.shape != second.shape:
        raise ValueError(f"two segmentations of the same voxels are needed, came shapes {first.shape}, {second.shape}")
    held = first > 0
    packed = (first[held].astype(np.uint64) << np.uint64(32)) | second[held].astype(np.uint64)
    pairs, index, counts = np.unique(packed, return_inverse=True, return_counts=True)
    of_first = (pairs >> np.uint64(32)).astype(np.int64)
    # `pairs` ascend in (first, second), and argsort is stable: of equal counts the smaller second id comes first.
    by_size = np.lexsort((-counts, of_first))
    largest = by_size[np.unique(of_first[by_size], return_index=True)[1]]
    new_ids = np.zeros(len(pairs), np.int64)
    new_ids[largest] = of_first[largest]
    rest = np.setdiff1d(np.arange(len(pairs)), largest)
    rest = rest[counts[rest] >= min_size]
    new_ids[rest] = int(of_first.max(initial=0)) + 1 + np.arange(len(rest))
    new_ids[counts < min_size] = 0
    result = np.zeros(first.shape, np.int32)
    result[held] = new_ids[index.ravel()]
    return result


def connected_parts(segmentation: np.ndarray, min_size: int) -> np.ndarray:
    """The same segments with each face-connected part as one of its own, and dust gone.

    Args:
        segmentation: (Z, Y, X) integer, 0 = unassigned.
        min_size: parts of fewer voxels become unassigned.

    Returns:
        (Z, Y, X) int32. The largest part of a segment keeps its id (in a tie, the one that comes first in the volume);
        others get new ids.
    """
    result = np.zeros(segmentation.shape, np.int32)
    next_id = int(segmentation.max(initial=0)) + 1
    for segment, box in enumerate(ndimage.find_objects(segmentation), start=1):
        if box is None:
            continue
        parts, num_parts = ndimage.label(segmentation[box] == segment)
        sizes = np.bincount(parts.ravel(), minlength=num_parts + 1)[1:]
        ids = np.zeros(num_parts + 1, np.int32)
        for rank, part in enumerate(np.argsort(-sizes, kind="stable")):
            if sizes[part] < min_size:
                break
            if rank == 0:
                ids[part + 1] = segment
            else:
                ids[part + 1], next_id = next_id, next_id + 1
        inside = parts > 0
        result[box][inside] = ids[parts[inside]]
    return result
