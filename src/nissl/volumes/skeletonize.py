"""Skeletons from a label volume, where nobody has traced any: TEASAR as kimimaro does it.

Sato et al. 2000 (TEASAR), kimimaro of the Seung lab, https://github.com/seung-lab/kimimaro. It is an extra, since only
this needs it: `pip install "nissl[skeletons]"`. Skeletons of a label volume are not traced truth: they inherit every
error of the labels, and their ends stop short of the tips by about the local radius.
"""

from __future__ import annotations

import logging

import numpy as np

from nissl.volumes.skeletons import Skeletons

log = logging.getLogger(__name__)


def skeletonize(
    labels: np.ndarray,
    voxel_size_zyx_nm: tuple[float, float, float],
    min_voxels: int,
    scale: float,
    const_nm: float,
) -> Skeletons:
    """One skeleton per label, on voxel centres.

    Args:
        labels: (Z, Y, X) integer, 0 = none.
        voxel_size_zyx_nm: nm.
        min_voxels: smaller labels get none.
        scale, const_nm: a path invalidates what lies within scale * radius + const around it, so larger values leave
            out more side branches.

    Raises:
        ValueError: kimimaro is not installed, or no label is large enough.
    """
    try:
        import kimimaro
    except ModuleNotFoundError:
        raise ValueError(
            'skeletons of a label volume need kimimaro, which is not installed: pip install "nissl[skeletons]"'
        ) from None
    found = kimimaro.skeletonize(
        np.asfortranarray(labels),
        teasar_params={"scale": scale, "const": const_nm},
        anisotropy=voxel_size_zyx_nm,
        dust_threshold=min_voxels,
        progress=False,
        parallel=1,
    )
    parts = []
    for label in sorted(found):
        nodes, edges = np.asarray(found[label].vertices, np.float64), np.asarray(found[label].edges, np.int64)
        if len(edges):
            parts.append((label, nodes, edges.reshape(-1, 2)))
    if not parts:
        raise ValueError(f"no label of at least {min_voxels} voxels gave a skeleton; lower the limit")
    rows = np.cumsum([0, *(len(nodes) for _, nodes, _ in parts)])
    log.info("%d of %d labels have a skeleton", len(parts), len(np.unique(labels[labels > 0])))
    return Skeletons(
        np.concatenate([nodes for _, nodes, _ in parts]),
        np.concatenate([edges + row for (_, _, edges), row in zip(parts, rows, strict=False)]),
        np.concatenate([np.full(len(nodes), label, np.int64) for label, nodes, _ in parts]),
    )
