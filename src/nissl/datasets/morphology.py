"""Neuron morphologies as a source: trees in, pairs of augmented views (training) or single graphs (evaluation) out.

A batch is a `torch_geometric.data.Batch` of trees: `pos` (nodes, 3) x, y, z um, `edge_index` (2, edges) with each edge
in both directions, `ptr`, `batch`, `label` per graph, and in training `pe` (nodes, P). A *training* batch of B cells
holds 2B graphs: graphs 0 to B - 1 are the first views, B to 2B - 1 the second views of the same cells, in order.
Validation and test batches hold one graph per cell, thinned but not augmented, the same at every visit.
"""

from __future__ import annotations

import logging
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch.utils.data import Dataset
from torch_geometric.data import Batch, Data

from nissl.datasets.cell_graph import CellGraph, take
from nissl.datasets.folds import split_by_folds
from nissl.datasets.swc_collection import Preprocessing, read_collection
from nissl.datasets.swc_report import Rules
from nissl.datasets.tree_views import CachedTree, ViewSettings, draw_view, subsample
from nissl.simulate.neurons import simulate_neurons

log = logging.getLogger(__name__)

SplitName = Literal["train", "val", "test"]
Encode = Callable[..., np.ndarray]


class CellSource:
    """Cells with labels, split into train, val and test; shared by everything morphological.

    Args:
        cells: preprocessed cells of train and val, and of test where there is no separate test set.
        labels: class name of each.
        test_cells, test_labels: a separate test set; None takes `test_fold` of `cells`.
        files: what was read.
        num_folds, val_fold, test_fold, split_seed: see `split_by_folds`.
        min_class_size: a smaller class cannot be in every fold; an error, or left out if `drop_small_classes`.
        cache_nodes: cells are thinned to this once, before views are drawn; None for no bound.
        views: how training views are drawn.
        embed_nodes: nodes of an evaluation graph; None keeps all of the cached cell.
    """

    def __init__(
        self,
        cells: list[CellGraph],
        labels: list[str],
        test_cells: list[CellGraph] | None,
        test_labels: list[str] | None,
        files: list[Path],
        num_folds: int,
        val_fold: int,
        test_fold: int,
        split_seed: int,
        min_class_size: int,
        drop_small_classes: bool,
        cache_nodes: int | None,
        views: ViewSettings,
        embed_nodes: int | None,
    ) -> None:
        if cache_nodes is not None and cache_nodes < views.num_nodes:
            raise ValueError(f"dataset.cache_nodes={cache_nodes} is below dataset.num_nodes={views.num_nodes}")
        cells, labels = _without_small_classes(cells, labels, min_class_size, drop_small_classes)
        self.files, self.views = files, views
        self.encode: Encode | None = None
        self._cells = cells + (test_cells or [])
        names = labels + (test_labels or [])
        self.classes = sorted(set(names))
        number = {name: k for k, name in enumerate(self.classes)}
        self._labels = np.array([number[name] for name in names], np.int64)
        own = self._labels[: len(cells)]
        self._rows = split_by_folds(own, num_folds, val_fold, None if test_cells else test_fold, split_seed)
        if test_cells:
            self._rows["test"] = np.arange(len(cells), len(self._cells))
        self._trees = [
            CachedTree.from_cell(cell, cache_nodes, _generator(split_seed, cell.id, 0)) for cell in self._cells
        ]
        self._graphs: dict[tuple[int, int | Literal["all"]], Data] = {}
        self._embed_nodes, self._split_seed = embed_nodes, split_seed
        log.info("%d train, %d val, %d test cells", *(len(self._rows[k]) for k in ("train", "val", "test")))

    def split(self, name: SplitName) -> Dataset[Any]:
        """Pairs of views for "train", single graphs for "val" and "test"."""
        return ViewPairs(self) if name == "train" else self.unaugmented(name)

    def unaugmented(self, name: SplitName, draw: int | Literal["all"] = 0) -> Dataset[Any]:
        """One graph per cell, no augmentation: what embeddings are computed from, also for "train".

        Args:
            draw: which of the random thinnings to `embed_nodes` stands for a cell; "all" keeps all cached nodes.
        """
        return Graphs(self, self._rows[name], draw)

    def cells(self, name: SplitName) -> list[CellGraph]:
        """Whole cells of a split, in the order of its graphs; hand-made features are computed from these."""
        return [self._cells[row] for row in self._rows[name]]

    def labels(self, name: SplitName) -> np.ndarray:
        """Class of each cell of a split, (n,), indices into `classes`."""
        return self._labels[self._rows[name]]

    @staticmethod
    def collate(items: list[Any]) -> Batch:
        """A batch; pairs of views become all first views, then all second views."""
        if isinstance(items[0], tuple):
            items = [first for first, _ in items] + [second for _, second in items]
        return Batch.from_data_list(items)

    def evaluation_graph(self, row: int, draw: int | Literal["all"] = 0) -> Data:
        """A graph that stands for a cell in evaluation; the same whenever it is asked for. See `unaugmented`."""
        if (row, draw) not in self._graphs:
            tree, cell = self._trees[row], self._cells[row]
            pos, parent = tree.pos, tree.parent
            if draw != "all" and self._embed_nodes is not None and len(tree) > self._embed_nodes:
                rng = _generator(self._split_seed, cell.id, 1 + draw)
                kept, parent = subsample(tree.parent, np.ones(len(tree), bool), self._embed_nodes, rng)
                pos = tree.pos[kept]
            self._graphs[row, draw] = graph_of(pos, parent, int(self._labels[row]))
        return self._graphs[row, draw]

    def view_pair(self, row: int, rng: np.random.Generator) -> tuple[Data, Data]:
        """Two independent views of one cell, with positional encodings if a task has said how (`encode`)."""
        views = []
        for _ in range(2):
            graph = graph_of(*draw_view(self._trees[row], self.views, rng), int(self._labels[row]))
            if self.encode is not None:
                encoding = self.encode(graph.edge_index.numpy(), len(graph.pos), rng=rng)
                graph.pe = torch.from_numpy(encoding)
            views.append(graph)
        return views[0], views[1]


class ViewPairs(Dataset[tuple[Data, Data]]):
    """Training items: two views of a cell. All randomness comes from the index (its `seed`, or itself)."""

    def __init__(self, source: CellSource) -> None:
        self.source, self.rows = source, source._rows["train"]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Data, Data]:
        rng = np.random.default_rng(getattr(index, "seed", int(index)))
        return self.source.view_pair(int(self.rows[int(index)]), rng)


class Graphs(Dataset[Data]):
    """Evaluation items: the graph of each cell."""

    def __init__(self, source: CellSource, rows: np.ndarray, draw: int | Literal["all"] = 0) -> None:
        self.source, self.rows, self.draw = source, rows, draw

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Data:
        return self.source.evaluation_graph(int(self.rows[index]), self.draw)


def graph_of(pos: np.ndarray, parent: np.ndarray, label: int) -> Data:
    """A tree as PyG data: edges child to parent, then parent to child."""
    child, above = np.arange(1, len(parent)), parent[1:].astype(np.int64)
    edges = np.stack([np.concatenate([child, above]), np.concatenate([above, child])])
    return Data(pos=torch.from_numpy(pos), edge_index=torch.from_numpy(edges), label=torch.tensor(label))


def _generator(seed: int, name: str, purpose: int) -> np.random.Generator:
    """Randomness of one cell that depends on nothing but the seed and its name."""
    return np.random.default_rng([seed, zlib.crc32(name.encode()), purpose])


def _without_small_classes(
    cells: list[CellGraph], labels: list[str], min_size: int, drop: bool
) -> tuple[list[CellGraph], list[str]]:
    counts = Counter(labels)
    small = {name: n for name, n in counts.items() if n < min_size}
    if not small:
        return cells, labels
    listed = ", ".join(f"{name!r} ({n})" for name, n in sorted(small.items())[:8]) + ", ..." * (len(small) > 8)
    if not drop:
        raise ValueError(
            f"{len(small)} classes have fewer than {min_size} cells and cannot be in every fold: {listed}. "
            "Pass dataset.drop_small_classes=true to leave them out, or lower dataset.min_class_size"
        )
    log.info("left out %d classes with fewer than %d cells: %s", len(small), min_size, listed)
    kept = [k for k, name in enumerate(labels) if name not in small]
    if not kept:
        raise ValueError(f"no class has {min_size} cells: {listed}. Lower dataset.min_class_size")
    return [cells[k] for k in kept], [labels[k] for k in kept]


class Morphologies(CellSource):
    """SWC files of folders or archives with a metadata table.

    Args:
        path: folder(s) or .tar(.gz) archive(s).
        metadata: CSV with columns `file`, the label's, and optionally `archive`; None labels by folder name.
        label: column of the class.
        test_path: a separate test set, read in the same way; None holds out `test_fold`.
        test_metadata: its table.
        unmatched: "error" or "skip": rows without a file, files without a row, empty labels.
        min_class_size, drop_small_classes: see `CellSource`.
        policy, root, soma, scale_um, type_map, max_gap_um: what the reader may do, see `Rules`.
        compartments, centre_axes, min_nodes: see `Preprocessing`.
        num_folds, val_fold, test_fold, split_seed: see `split_by_folds`.
        cache_nodes, embed_nodes: see `CellSource`.
        num_nodes, num_drop_branches, cut_edge, rotation, rotation_axis, mirror, jitter_std_um, shift_std_um,
            scale_log_std: see `ViewSettings`.
    """

    def __init__(
        self,
        path: str | Sequence[str],
        metadata: str | None,
        label: str,
        test_path: str | Sequence[str] | None,
        test_metadata: str | None,
        unmatched: Literal["error", "skip"],
        min_class_size: int,
        drop_small_classes: bool,
        policy: Literal["strict", "repair"],
        root: Literal["error", "first", "largest_radius"],
        soma: Literal["error", "first", "largest"],
        scale_um: float | Sequence[float],
        type_map: dict[int, int] | None,
        max_gap_um: float | None,
        compartments: Sequence[str] | None,
        centre_axes: str,
        min_nodes: int,
        num_folds: int,
        val_fold: int,
        test_fold: int,
        split_seed: int,
        cache_nodes: int | None,
        embed_nodes: int | None,
        num_nodes: int,
        num_drop_branches: int,
        cut_edge: Literal["parent", "random"],
        rotation: Literal["none", "axis", "so3", "reference"],
        rotation_axis: Literal["x", "y", "z"],
        mirror: bool,
        jitter_std_um: float | Sequence[float],
        shift_std_um: float | Sequence[float],
        scale_log_std: float,
    ) -> None:
        if policy not in ("strict", "repair"):
            raise ValueError(f"dataset.policy must be strict or repair, came {policy!r}")
        if unmatched not in ("error", "skip"):
            raise ValueError(f"dataset.unmatched must be error or skip, came {unmatched!r}")
        views = ViewSettings(
            num_nodes,
            num_drop_branches,
            cut_edge,
            rotation,
            rotation_axis,
            mirror,
            jitter_std_um,
            shift_std_um,
            scale_log_std,
        )
        rules = Rules(
            policy=policy,
            root=root,
            soma=soma,
            scale_um=scale_um,
            type_map=type_map or {},
            max_gap_um=float("inf") if max_gap_um is None else max_gap_um,
        )
        preprocessing = Preprocessing(rules, compartments, centre_axes, min_nodes)
        collection = read_collection(path, metadata, label, preprocessing, unmatched)
        log.info("%s: %s", path, collection.summary())
        test = None
        if test_path is not None:
            test = read_collection(test_path, test_metadata, label, preprocessing, unmatched)
            log.info("test set %s: %s", test_path, test.summary())
        self.reports = collection.reports + (test.reports if test else [])
        self.left_out = collection.left_out + (test.left_out if test else [])
        super().__init__(
            cells=collection.cells,
            labels=collection.labels,
            test_cells=test.cells if test else None,
            test_labels=test.labels if test else None,
            files=list(dict.fromkeys(collection.files + (test.files if test else []))),
            num_folds=num_folds,
            val_fold=val_fold,
            test_fold=test_fold,
            split_seed=split_seed,
            min_class_size=min_class_size,
            drop_small_classes=drop_small_classes,
            cache_nodes=cache_nodes,
            views=views,
            embed_nodes=embed_nodes,
        )


class SimulatedMorphologies(CellSource):
    """Branching morphologies of known populations, see `nissl.simulate.neurons`.

    Args:
        cells_per_class: cells of each population.
        simulation_seed: seed of the cells.
        others: see `Morphologies`.
    """

    def __init__(
        self,
        cells_per_class: int,
        simulation_seed: int,
        num_folds: int,
        val_fold: int,
        test_fold: int,
        split_seed: int,
        cache_nodes: int | None,
        embed_nodes: int | None,
        num_nodes: int,
        num_drop_branches: int,
        cut_edge: Literal["parent", "random"],
        rotation: Literal["none", "axis", "so3", "reference"],
        rotation_axis: Literal["x", "y", "z"],
        mirror: bool,
        jitter_std_um: float | Sequence[float],
        shift_std_um: float | Sequence[float],
        scale_log_std: float,
    ) -> None:
        if cells_per_class < num_folds:
            raise ValueError(f"dataset.cells_per_class={cells_per_class} is below dataset.num_folds={num_folds}")
        views = ViewSettings(
            num_nodes,
            num_drop_branches,
            cut_edge,
            rotation,
            rotation_axis,
            mirror,
            jitter_std_um,
            shift_std_um,
            scale_log_std,
        )
        simulated = simulate_neurons(cells_per_class, simulation_seed)
        cells = [
            take(CellGraph(n.pos, n.radius, n.type, n.parent, id=f"{n.population}_{k}"), n.parent, 0)
            for k, n in enumerate(simulated)
        ]
        super().__init__(
            cells=cells,
            labels=[n.population for n in simulated],
            test_cells=None,
            test_labels=None,
            files=[],
            num_folds=num_folds,
            val_fold=val_fold,
            test_fold=test_fold,
            split_seed=split_seed,
            min_class_size=num_folds,
            drop_small_classes=False,
            cache_nodes=cache_nodes,
            views=views,
            embed_nodes=embed_nodes,
        )
