"""Cells with labels as a source: pairs of augmented views (training) or single graphs (evaluation) out.

A batch is a `torch_geometric.data.Batch` of trees: `pos` (nodes, 3) x, y, z um, `edge_index` (2, edges) with each edge
in both directions, `ptr`, `batch`, per graph `label` and `source`, and in training `pe` (nodes, P), and `profile` (see
`tree_profiles`) if a task asked for it (`describe`). A *training* batch of B cells holds 2B graphs: graphs 0 to B - 1
are the first views, B to 2B - 1 the second views of the same cells, in order. With `num_views` and `num_local_views`
(of `source.views`) there are more: all further whole views in the same way, then all local ones, which are connected
pieces with fewer nodes.
Validation and test batches hold one graph per cell, thinned but not augmented, the same at every visit.

Evaluators ask by the name of a split, or "all" for every labelled cell: `unaugmented`, `cells`, `labels`, `groups`
(what is one neuron, see `morphology_groups`), `sources`, and `partitions` (protocols of `folds`).
"""

from __future__ import annotations

import logging
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch.utils.data import Dataset
from torch_geometric.data import Batch, Data

from nissl.datasets.cell_graph import CellGraph
from nissl.datasets.folds import Partition, Protocol, check_no_leak, partitions, split_by_folds
from nissl.datasets.morphology_cache import DiskCache, Encode, EncodingMemory, edges_of
from nissl.datasets.morphology_groups import group_cells
from nissl.datasets.tree_profiles import tree_profiles
from nissl.datasets.tree_views import CachedTree, ViewSettings, draw_views, subsample

log = logging.getLogger(__name__)

SplitName = Literal["train", "val", "test", "all"]
NO_LABEL = -1


@dataclass
class Cells:
    """Cells as read, and what each belongs to.

    Attributes:
        cells: preprocessed.
        labels: class name of each.
        sources: name of the archive or folder of each; empty where there is only one.
    """

    cells: list[CellGraph]
    labels: list[str]
    sources: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Division:
    """Which cells train, validate and test.

    Attributes:
        num_folds, val_fold, test_fold, split_seed: see `split_by_folds`.
        min_class_size: a smaller class cannot be in every fold; an error, or left out if `drop_small_classes`.
        exclude_labels: classes without meaning, such as "unknown"; left out.
        train_on: "all" trains without labels on every cell, also on those left out and those of val and test; then
            `ssl_saw_test` is true, and a score is one of embeddings that have seen the tested cells (never labels).
        split_column: column of the metadata table that says train, val or test; None divides by folds.
        group_pattern: see `group_cells`.
    """

    num_folds: int
    val_fold: int
    test_fold: int
    split_seed: int
    min_class_size: int = 1
    drop_small_classes: bool = False
    exclude_labels: Sequence[str] = ()
    train_on: Literal["train", "all"] = "train"
    split_column: str | None = None
    group_pattern: str | None = None

    def __post_init__(self) -> None:
        if self.train_on not in ("train", "all"):
            raise ValueError(f"dataset.train_on must be train or all, came {self.train_on!r}")


class CellSource:
    """Cells with labels, split into train, val and test; shared by everything morphological.

    Args:
        read: cells of train and val, and of test where there is no separate test set.
        test: a separate test set; None takes `test_fold` of the cells.
        files: what was read.
        division: which cells do what.
        cache_nodes: cells are thinned to this once, before views are drawn; None for no bound.
        views: how training views are drawn.
        embed_nodes: nodes of an evaluation graph; None keeps all of the cached cell.
        cache: where positional encodings of evaluation graphs are kept.
        normalise: "source" divides positions by the size of a typical cell of its source, see `source_scales`.
        sampling: share of each source in the training draws, see `draws_per_pass`.
    """

    def __init__(
        self,
        read: Cells,
        test: Cells | None,
        files: list[Path],
        division: Division,
        cache_nodes: int | None,
        views: ViewSettings,
        embed_nodes: int | None,
        cache: DiskCache | None = None,
        normalise: Literal["none", "source"] = "none",
        sampling: Literal["proportional", "sqrt", "equal"] = "proportional",
    ) -> None:
        if cache_nodes is not None and cache_nodes < views.num_nodes:
            raise ValueError(f"dataset.cache_nodes={cache_nodes} is below dataset.num_nodes={views.num_nodes}")
        self.files, self.views, self.division = files, views, division
        self.encode: Encode | None = None
        self.describe = False  # a task that predicts profiles sets it
        self._profiles: np.ndarray | None = None
        num_own = len(read.cells)
        self._cells = read.cells + (test.cells if test else [])
        names = read.labels + (test.labels if test else [])
        of_source = _source_names(read, "data") + (_source_names(test, "test") if test else [])
        self.source_names = list(dict.fromkeys(of_source))
        self._source = np.array([self.source_names.index(name) for name in of_source], np.int64)

        unknown = set(division.exclude_labels) - set(names)
        if unknown:
            listed = ", ".join(map(repr, sorted(unknown)))
            raise ValueError(f"dataset.exclude_labels names {listed}, which is no label here")
        used = _usable(read.labels, division) + [name not in division.exclude_labels for name in names[num_own:]]
        self.classes = sorted({name for name, is_used in zip(names, used, strict=True) if is_used})
        number = {name: k for k, name in enumerate(self.classes)}
        self._labels = np.array([number.get(name, NO_LABEL) for name in names], np.int64)
        self._labels[~np.array(used)] = NO_LABEL
        self._groups, self.group_reasons = group_cells(self._cells, pattern=division.group_pattern)
        for reason in self.group_reasons:
            log.info("kept on one side of every split: %s", reason)
        self._rows = self._divide(num_own)
        self._rows["all"] = np.flatnonzero(self._labels != NO_LABEL)
        self._train_rows = np.arange(num_own) if division.train_on == "all" else self._rows["train"]
        if views.reference:  # smaller cells are embedded, but not trained on
            self._train_rows = np.array(
                [k for k in self._train_rows if len(self._cells[k]) >= views.num_nodes], np.int64
            )
            if len(self._train_rows) == 0:
                raise ValueError(f"dataset.reference=true, and no cell has dataset.num_nodes={views.num_nodes} nodes")
        seen = set(self._groups[self._train_rows].tolist())
        self.ssl_saw_test = any(group in seen for group in self._groups[self._rows["test"]].tolist())

        self._scale = np.ones(len(self._cells))
        if normalise == "source":
            self._scale = source_scales(self._cells, self._source)
        elif normalise != "none":
            raise ValueError(f"dataset.normalise must be none or source, came {normalise!r}")
        self._draws = draws_per_pass(self._source[self._train_rows], sampling, division.split_seed)
        seed = division.split_seed
        self._trees = [
            CachedTree.from_cell(
                cell if scale == 1.0 else cell.moved(cell.pos * scale), cache_nodes, _generator(seed, cell.id, 0)
            )
            for cell, scale in zip(self._cells, self._scale, strict=True)
        ]
        self._graphs: dict[tuple[int, int | Literal["all"]], Data] = {}
        self._encodings = EncodingMemory(cache)
        self._embed_nodes, self._split_seed = embed_nodes, seed
        log.info("%d train, %d val, %d test cells", *(len(self._rows[k]) for k in ("train", "val", "test")))

    def split(self, name: SplitName) -> Dataset[Any]:
        """Views for "train", single graphs for "val" and "test"."""
        return ViewPairs(self) if name == "train" else self.unaugmented(name)

    def unaugmented(
        self, name: SplitName, draw: int | Literal["all"] = 0, encode: Encode | None = None
    ) -> Dataset[Any]:
        """One graph per cell, no augmentation: what embeddings are computed from, also for "train".

        Args:
            draw: which of the random thinnings to `embed_nodes` stands for a cell; "all" keeps all cached nodes.
            encode: how to encode positions (a model's `position_encoder()`): graphs then carry `pe`, from memory or
                disk if this tree was encoded like that before.
        """
        return Graphs(self, self._rows[name], draw, encode)

    def cells(self, name: SplitName) -> list[CellGraph]:
        """Whole cells of a split, in the order of its graphs; hand-made features are computed from these."""
        return [self._cells[row] for row in self._rows[name]]

    def labels(self, name: SplitName) -> np.ndarray:
        """Class of each cell of a split, (n,), indices into `classes`."""
        return self._labels[self._rows[name]]

    def groups(self, name: SplitName) -> np.ndarray:
        """Neuron of each cell of a split, (n,): files of one neuron and exact duplicates share a number."""
        return self._groups[self._rows[name]]

    def sources(self, name: SplitName) -> np.ndarray:
        """Where each cell of a split is from, (n,), indices into `source_names`."""
        return self._source[self._rows[name]]

    def partitions(self, protocol: Protocol, seed: int, num_folds: int = 5, num_repeats: int = 1) -> list[Partition]:
        """Train and test rows of an evaluation protocol, in the order of the split "all"; see `folds`."""
        rows = self._rows["all"]
        split_of = None
        if protocol == "given":
            side = {int(row): name for name in ("train", "val", "test") for row in self._rows[name]}
            split_of = [side[int(row)] for row in rows]
        return partitions(
            protocol,
            self._labels[rows],
            seed,
            self._groups[rows],
            num_folds=num_folds,
            num_repeats=num_repeats,
            split_of=split_of,
        )

    @staticmethod
    def collate(items: list[Any]) -> Batch:
        """A batch; views become all first views, then all second views, and so on."""
        if not isinstance(items[0], tuple):
            return Batch.from_data_list(items)
        return Batch.from_data_list([item[k] for k in range(len(items[0])) for item in items])

    def evaluation_graph(self, row: int, draw: int | Literal["all"] = 0) -> Data:
        """A graph that stands for a cell in evaluation; the same whenever it is asked for. See `unaugmented`."""
        if (row, draw) not in self._graphs:
            tree, cell = self._trees[row], self._cells[row]
            pos, parent = tree.pos, tree.parent
            if draw != "all" and self._embed_nodes is not None and len(tree) > self._embed_nodes:
                rng = _generator(self._split_seed, cell.id, 1 + draw)
                kept, parent = subsample(tree.parent, np.ones(len(tree), bool), self._embed_nodes, rng)
                pos = tree.pos[kept]
            graph = graph_of(pos, parent, int(self._labels[row]), int(self._source[row]))
            self._graphs[row, draw] = graph
        return self._graphs[row, draw]

    def encodings(self, graphs: Sequence[Data], encode: Encode) -> list[torch.Tensor]:
        """Positional encoding (n, P) of each evaluation graph, never computed twice."""
        parents = [_parents_of(graph) for graph in graphs]
        return [torch.from_numpy(pe) for pe in self._encodings.encodings(parents, encode)]

    def profiles(self) -> np.ndarray:
        """What each cell is like, (cells, columns), see `tree_profiles`; of the whole cell, no labels used."""
        if self._profiles is None:
            self._profiles = tree_profiles([(tree.pos, tree.parent) for tree in self._trees], self._source)
        return self._profiles

    def draw_item(self, row: int, rng: np.random.Generator) -> tuple[Data, ...]:
        """Independent views of one cell, with positional encodings if a task has said how (`encode`)."""
        views = []
        for pos, parent in draw_views(self._trees[row], self.views, rng):
            graph = graph_of(pos, parent, int(self._labels[row]), int(self._source[row]))
            if self.encode is not None:
                encoding = self.encode(graph.edge_index.numpy(), len(graph.pos), rng=rng)
                graph.pe = torch.from_numpy(encoding)
            if self.describe:
                graph.profile = torch.from_numpy(self.profiles()[row : row + 1])
            views.append(graph)
        return tuple(views)

    def _divide(self, num_own: int) -> dict[str, np.ndarray]:
        """Rows of train, val and test among the cells with a label."""
        division = self.division
        has_label = np.flatnonzero(self._labels[:num_own] != NO_LABEL)
        is_apart = num_own < len(self._cells)
        if division.split_column is not None:
            rows = _by_column([self._cells[k] for k in has_label], division.split_column)
        else:
            rows = split_by_folds(
                self._labels[has_label],
                division.num_folds,
                division.val_fold,
                None if is_apart else division.test_fold,
                division.split_seed,
                self._groups[has_label],
            )
        rows = {name: has_label[part] for name, part in rows.items()}
        if is_apart:
            rows["test"] = num_own + np.flatnonzero(self._labels[num_own:] != NO_LABEL)
        names = [cell.id for cell in self._cells]
        check_no_leak(Partition("train, val and test", rows["train"], rows["test"], rows["val"]), self._groups, names)
        return rows


class ViewPairs(Dataset[tuple[Data, ...]]):
    """Training items: views of a cell. All randomness comes from the index (its `seed`, or itself)."""

    def __init__(self, source: CellSource) -> None:
        self.source, self.rows = source, source._train_rows[source._draws]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Data, ...]:
        rng = np.random.default_rng(getattr(index, "seed", int(index)))
        return self.source.draw_item(int(self.rows[int(index)]), rng)


class Graphs(Dataset[Data]):
    """Evaluation items: the graph of each cell."""

    def __init__(
        self,
        source: CellSource,
        rows: np.ndarray,
        draw: int | Literal["all"] = 0,
        encode: Callable[..., np.ndarray] | None = None,
    ) -> None:
        self.source, self.rows, self.draw, self.encode = source, rows, draw, encode
        self._encoded: list[torch.Tensor] | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Data:
        graph = self.source.evaluation_graph(int(self.rows[index]), self.draw)
        if self.encode is None:
            return graph
        if self._encoded is None:
            graphs = [self.source.evaluation_graph(int(row), self.draw) for row in self.rows]
            self._encoded = self.source.encodings(graphs, self.encode)
        encoded = graph.clone()
        encoded.pe = self._encoded[index]
        return encoded


def graph_of(pos: np.ndarray, parent: np.ndarray, label: int, source: int = 0) -> Data:
    """A tree as PyG data: edges child to parent, then parent to child."""
    return Data(
        pos=torch.from_numpy(pos),
        edge_index=torch.from_numpy(edges_of(parent)),
        label=torch.tensor(label),
        source=torch.tensor(source),
    )


def source_scales(cells: Sequence[CellGraph], source: np.ndarray) -> np.ndarray:
    """Factor per cell, (N,), that gives a typical cell of each source a root mean square radius of 100 um.

    Typical is the median over the source's cells, so that sizes within a source still differ; no labels are used.
    """
    radius = np.array([np.sqrt(np.mean(np.sum((cell.pos - cell.pos[0]).astype(float) ** 2, axis=1))) for cell in cells])
    factor = np.ones(len(cells))
    for k in np.unique(source):
        factor[source == k] = 100.0 / max(float(np.median(radius[source == k])), 1e-6)
    return factor


def draws_per_pass(source: np.ndarray, sampling: str, seed: int) -> np.ndarray:
    """Rows of one pass through the training cells, each at least once, (draws,).

    "proportional": every cell once. "equal": every source equally often. "sqrt": in proportion to the root of its
    number of cells. Small sources are repeated, whole passes first and a random part of one for the rest.

    Args:
        source: source of each training cell, (n,).
    """
    names, counts = np.unique(source, return_counts=True)
    if sampling not in ("proportional", "sqrt", "equal"):
        raise ValueError(f"dataset.sampling must be proportional, sqrt or equal, came {sampling!r}")
    if sampling == "proportional" or len(names) < 2:
        return np.arange(len(source))
    weight = np.ones(len(names)) if sampling == "equal" else np.sqrt(counts)
    # The source that is rarest for its weight is drawn once per cell; no cell is left out of a pass.
    quota = np.round(weight * np.max(counts / weight)).astype(int)
    rng = np.random.default_rng([seed, 2])
    draws = []
    for name, count, wanted in zip(names, counts, quota, strict=True):
        rows = np.flatnonzero(source == name)
        draws += [np.tile(rows, wanted // count), rng.permutation(rows)[: wanted % count]]
    return np.concatenate(draws)


def _generator(seed: int, name: str, purpose: int) -> np.random.Generator:
    """Randomness of one cell that depends on nothing but the seed and its name."""
    return np.random.default_rng([seed, zlib.crc32(name.encode()), purpose])


def _parents_of(graph: Data) -> np.ndarray:
    """Parents (n,) from the first half of the edges, see `edges_of`."""
    edges = graph.edge_index.numpy()
    half = edges.shape[1] // 2
    return np.concatenate([[-1], edges[1, :half]]).astype(np.int32)


def _source_names(cells: Cells, default: str) -> list[str]:
    return cells.sources or [default] * len(cells.cells)


def _by_column(cells: list[CellGraph], column: str) -> dict[str, np.ndarray]:
    values = []
    for cell in cells:
        if column not in cell.meta:
            raise ValueError(f"dataset.split_column={column!r} is no column of the metadata table")
        values.append(cell.meta[column])
    wrong = sorted(set(values) - {"train", "val", "test"})
    if wrong:
        raise ValueError(f"column {column!r} must hold train, val or test, came {', '.join(map(repr, wrong[:3]))}")
    return {name: np.flatnonzero(np.array(values) == name) for name in ("train", "val", "test")}


def _usable(labels: list[str], division: Division) -> list[bool]:
    """Which cells have a class that counts; the others can only be trained on (`train_on: all`)."""
    excluded = set(division.exclude_labels)
    counts = Counter(name for name in labels if name not in excluded)
    min_size = division.min_class_size
    small = {name: n for name, n in counts.items() if n < min_size}
    if small:
        listed = ", ".join(f"{name!r} ({n})" for name, n in sorted(small.items())[:8]) + ", ..." * (len(small) > 8)
        if not division.drop_small_classes:
            raise ValueError(
                f"{len(small)} classes have fewer than {min_size} cells and cannot be in every fold: {listed}. "
                "Pass dataset.drop_small_classes=true to leave them out, or lower dataset.min_class_size"
            )
        log.info("left out %d classes with fewer than %d cells: %s", len(small), min_size, listed)
        if len(small) == len(counts):
            raise ValueError(f"no class has {min_size} cells: {listed}. Lower dataset.min_class_size")
    return [name in counts and name not in small for name in labels]
