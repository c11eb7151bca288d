"""Skeletons of neurons in EM volumes: nodes in nm (zyx), edges, and the neuron of each node.

Files are read and written by `nissl.volumes.skeleton_files`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nissl.volumes.boxes import Box

# What a node may be part of; `node_type` holds indices into this.
NEURITE_TYPES = ("unknown", "soma", "axon", "dendrite", "spine")


@dataclass(frozen=True)
class Skeletons:
    """A forest of ground-truth cable.

    Attributes:
        nodes_zyx_nm: (N, 3) float64.
        edges: (E, 2) integer, rows of `nodes_zyx_nm`.
        skeleton_of: (N,) integer, the skeleton (neuron) of each node. One skeleton may have several components,
            where a neuron leaves the volume and comes back.
        node_type: (N,) index into NEURITE_TYPES, or None when the file does not say.
        depth: (N,) edges between a node and the root of its tree, -1 where there is no root; None: nowhere.
    """

    nodes_zyx_nm: np.ndarray
    edges: np.ndarray
    skeleton_of: np.ndarray
    node_type: np.ndarray | None = None
    depth: np.ndarray | None = None

    def __post_init__(self) -> None:
        num_nodes = len(self.nodes_zyx_nm)
        if self.nodes_zyx_nm.shape != (num_nodes, 3) or self.skeleton_of.shape != (num_nodes,):
            raise ValueError(
                f"skeletons need nodes (N, 3) and one skeleton id each, came {self.nodes_zyx_nm.shape} and "
                f"{self.skeleton_of.shape}"
            )
        if self.edges.ndim != 2 or self.edges.shape[1] != 2:
            raise ValueError(f"skeleton edges must be (E, 2) rows of nodes, came {self.edges.shape}")
        if len(self.edges) and not (0 <= self.edges.min() and self.edges.max() < num_nodes):
            raise ValueError(f"skeleton edges name node {self.edges.max()}, there are {num_nodes} nodes")
        if np.any(self.skeleton_of[self.edges[:, 0]] != self.skeleton_of[self.edges[:, 1]]):
            raise ValueError("a skeleton edge joins two skeletons; an edge belongs to one neuron")
        for name in ("node_type", "depth"):
            values = getattr(self, name)
            if values is not None and values.shape != (num_nodes,):
                raise ValueError(f"skeletons need one {name} for each of {num_nodes} nodes, came {values.shape}")

    @classmethod
    def concatenate(cls, parts: Sequence[Skeletons]) -> Skeletons:
        """One set of several; skeletons of different parts stay different."""
        rows = np.cumsum([0, *(len(part.skeleton_of) for part in parts)])
        firsts = np.cumsum([0, *(int(part.skeleton_of.max(initial=0)) + 1 for part in parts)])
        return cls(
            np.concatenate([part.nodes_zyx_nm for part in parts]),
            np.concatenate([part.edges + row for part, row in zip(parts, rows, strict=False)]),
            np.concatenate([part.skeleton_of + first for part, first in zip(parts, firsts, strict=False)]),
            _together([part.node_type for part in parts], rows, unknown=0),
            _together([part.depth for part in parts], rows, unknown=-1),
        )

    @property
    def edge_lengths_nm(self) -> np.ndarray:
        """(E,) Euclidean."""
        return np.linalg.norm(self.nodes_zyx_nm[self.edges[:, 0]] - self.nodes_zyx_nm[self.edges[:, 1]], axis=1)

    def voxels_zyx(self, voxel_size_zyx_nm: tuple[float, float, float]) -> np.ndarray:
        """The voxel under each node, (N, 3) integer; voxel centres lie at multiples of the voxel size."""
        return np.rint(self.nodes_zyx_nm / np.asarray(voxel_size_zyx_nm)).astype(np.int64)

    def crop(self, box: Box, voxel_size_zyx_nm: tuple[float, float, float]) -> Skeletons:
        """Nodes whose voxel lies in `box` and the edges between them, in coordinates local to the box."""
        inside = box.contains(self.voxels_zyx(voxel_size_zyx_nm))
        edges = self.edges[inside[self.edges].all(axis=1)]
        new_row = np.cumsum(inside) - 1
        offset_nm = np.asarray(box.start_zyx) * np.asarray(voxel_size_zyx_nm)
        return Skeletons(
            self.nodes_zyx_nm[inside] - offset_nm,
            new_row[edges],
            self.skeleton_of[inside],
            None if self.node_type is None else self.node_type[inside],
            None if self.depth is None else self.depth[inside],
        )

    def ids_at_nodes(self, segmentation: np.ndarray, voxel_size_zyx_nm: tuple[float, float, float]) -> np.ndarray:
        """Segment id under each node, (N,); 0 outside the volume."""
        voxels = self.voxels_zyx(voxel_size_zyx_nm)
        inside = Box.whole(segmentation.shape).contains(voxels)
        ids = np.zeros(len(voxels), np.int64)
        ids[inside] = segmentation[tuple(voxels[inside].T)]
        return ids


def _together(values: Sequence[np.ndarray | None], rows: np.ndarray, unknown: int) -> np.ndarray | None:
    """Per-node values of several parts; None if no part has any, `unknown` where a part has none."""
    if all(value is None for value in values):
        return None
    sizes = np.diff(rows)
    filled = [np.full(n, unknown) if value is None else value for value, n in zip(values, sizes, strict=True)]
    return np.concatenate(filled)
