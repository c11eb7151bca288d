"""Skeletons of neurons in EM volumes: nodes in nm (zyx), edges, and the neuron of each node."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nissl.volumes.boxes import Box


@dataclass(frozen=True)
class Skeletons:
    """A forest of ground-truth cable.

    Attributes:
        nodes_zyx_nm: (N, 3) float64.
        edges: (E, 2) integer, rows of `nodes_zyx_nm`.
        skeleton_of: (N,) integer, the skeleton (neuron) of each node. One skeleton may have several components,
            where a neuron leaves the volume and comes back.
    """

    nodes_zyx_nm: np.ndarray
    edges: np.ndarray
    skeleton_of: np.ndarray

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
        return Skeletons(self.nodes_zyx_nm[inside] - offset_nm, new_row[edges], self.skeleton_of[inside])

    def ids_at_nodes(self, segmentation: np.ndarray, voxel_size_zyx_nm: tuple[float, float, float]) -> np.ndarray:
        """Segment id under each node, (N,); 0 outside the volume."""
        voxels = self.voxels_zyx(voxel_size_zyx_nm)
        inside = Box.whole(segmentation.shape).contains(voxels)
        ids = np.zeros(len(voxels), np.int64)
        ids[inside] = segmentation[tuple(voxels[inside].T)]
        return ids


def read_npz(path: str | Path) -> Skeletons:
    """Skeletons from arrays `nodes_zyx_nm`, `edges` and `node_label` of an npz file."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"skeleton file {path} does not exist. Set dataset.skeletons, or null to go without.")
    with np.load(path, allow_pickle=False) as file:
        missing = {"nodes_zyx_nm", "edges", "node_label"} - set(file.files)
        if missing:
            raise ValueError(f"{path} lacks the arrays {sorted(missing)}; it holds {sorted(file.files)}")
        return Skeletons(
            file["nodes_zyx_nm"].astype(np.float64), file["edges"].astype(np.int64), file["node_label"].astype(np.int64)
        )
