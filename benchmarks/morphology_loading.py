"""What neurons cost before the network sees them: views, reading, positional encodings; and embedding all of them.

    python benchmarks/morphology_loading.py [--repeats 40] [--archives $NISSL_DATA/swc] [--embed]

Views: two augmented views of a 1000-node cell, thinned to 200 nodes, 10 branches cut, with dense adjacency; ours beside
the published rules written out in plain Python over sets of neighbours, in turn in one process, the least of each one's
repeats. Target: at most 1.3 CPU-ms. The plain form here is leaner than the authors' program (marissaweis/ssl_neuron
@0a292e7178: 34 to 40 CPU-ms on a Cascade Lake core), which also looks cells up through a multiprocessing.Manager.

Reading: every archive below --archives into cells, cold (parsed, repaired, stored) and warm (from the cache).

Embedding (--embed): all these cells through an untrained GraphDINO of depth 7, 8 heads, 200 nodes: loading from the
cache, positional encodings computed and then found on disk, the network. Target: at most 60 CPU-seconds for all 723.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

NUM_NODES, NUM_CUTS, CELL_NODES = 200, 10, 1000


def a_cell(num_nodes: int, seed: int) -> Any:
    """A random tree with a few hundred tips, thinned to a number of nodes as the loader does."""
    from nissl.datasets.cell_graph import CellGraph, take
    from nissl.datasets.tree_views import CachedTree

    rng = np.random.default_rng(seed)
    n = 3 * num_nodes
    # Growing tips: a node continues the last one, or starts a side branch somewhere.
    parent = np.array([-1] + [i - 1 if rng.random() > 0.04 else int(rng.integers(0, i)) for i in range(1, n)], np.int32)
    pos = np.zeros((n, 3), np.float32)
    for i in range(1, n):
        pos[i] = pos[parent[i]] + rng.normal(0, 3, 3)
    cell = take(CellGraph(pos, np.ones(n, np.float32), np.zeros(n, np.int8), parent), parent, 0)
    return CachedTree.from_cell(cell, num_nodes, rng)


# The published rules, in plain Python ---------------------------------------------------------------------------------


class PlainCell:
    """What the published loader keeps of a cell: neighbours, hop distances to the soma, nodes of terminal branches."""

    def __init__(self, pos: np.ndarray, parent: np.ndarray) -> None:
        self.pos = pos
        self.near: dict[int, set[int]] = {i: set() for i in range(len(parent))}
        for i, above in enumerate(parent.tolist()):
            if above >= 0:
                self.near[i].add(above)
                self.near[above].add(i)
        self.hops = {0: 0}
        queue = [0]
        for node in queue:
            for other in self.near[node]:
                if other not in self.hops:
                    self.hops[other] = self.hops[node] + 1
                    queue.append(other)
        self.terminal = set()
        for tip in (node for node, others in self.near.items() if len(others) == 1):
            previous, node = None, tip
            while len(self.near[node]) <= 2:
                self.terminal.add(node)
                onward = [other for other in self.near[node] if other != previous]
                if not onward:
                    break
                previous, node = node, onward[0]


def plain_view(cell: PlainCell, rng: random.Random, draw: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """One view by the published rules: positions (200, 3) and adjacency (200, 200) with ones on the diagonal."""
    near = {node: set(others) for node, others in cell.near.items()}
    terminal = list(cell.terminal)
    for _ in range(NUM_CUTS):
        if not terminal:
            break
        node = terminal[rng.randrange(len(terminal))]
        other = next(iter(near[node]), None)
        if other is None:
            continue
        inner, outer = (node, other) if cell.hops[node] < cell.hops[other] else (other, node)
        lost, stack = {outer}, [outer]
        while stack:
            for further in near[stack.pop()]:
                if further != inner and further not in lost:
                    lost.add(further)
                    stack.append(further)
        if len(near) - len(lost) < NUM_NODES:
            continue
        for gone in lost:
            for further in near.pop(gone):
                if further in near:
                    near[further].discard(gone)
        terminal = [left for left in terminal if left not in lost]
    while len(near) > NUM_NODES:
        order = list(near)
        rng.shuffle(order)
        for node in order:
            if len(near) == NUM_NODES:
                break
            others = near[node]
            if node == 0 or len(others) >= 3:
                continue
            del near[node]
            for other in others:
                near[other].discard(node)
            if len(others) == 2:
                one, two = others
                near[one].add(two)
                near[two].add(one)
    row = {node: k for k, node in enumerate(near)}
    adjacency = np.eye(len(near), dtype=np.float32)
    for node, others in near.items():
        for other in others:
            adjacency[row[node], row[other]] = 1.0
    pos = np.array([cell.pos[node] for node in near])
    matrix, _ = np.linalg.qr(draw.standard_normal((3, 3)))
    matrix[1, :], matrix[:, 1] = 0.0, 0.0
    matrix[1, 1] = 1.0
    pos = pos @ matrix + draw.normal(0.0, 1.0, pos.shape) + draw.normal(0.0, 10.0, 3)
    return pos.astype(np.float32), adjacency


# Ours -----------------------------------------------------------------------------------------------------------------


def our_view(tree: Any, settings: Any, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """One view by `draw_view`, with the same dense adjacency."""
    from nissl.datasets.tree_views import draw_view

    pos, parent = draw_view(tree, settings, rng)
    adjacency = np.eye(len(pos), dtype=np.float32)
    child, above = np.arange(1, len(pos)), parent[1:]
    adjacency[child, above] = adjacency[above, child] = 1.0
    return pos, adjacency


def least_ms(first: Callable[[], Any], second: Callable[[], Any], repeats: int) -> tuple[float, float]:
    """Least CPU-ms of two functions called in turn."""
    best = [np.inf, np.inf]
    for _ in range(repeats):
        for k, function in enumerate((first, second)):
            start = time.process_time()
            function()
            best[k] = min(best[k], (time.process_time() - start) * 1e3)
    return best[0], best[1]


def views(repeats: int) -> dict[str, float]:
    """CPU-ms of two views, published in plain Python and ours."""
    from nissl.datasets.morphology_source import graph_of
    from nissl.datasets.tree_views import ViewSettings, draw_view

    tree = a_cell(CELL_NODES, seed=0)
    plain = PlainCell(tree.pos, tree.parent)
    settings = ViewSettings(NUM_NODES, NUM_CUTS, rotation="axis", jitter_std_um=1.0, shift_std_um=10.0)
    seed, draw = random.Random(0), np.random.default_rng(0)
    for _ in range(3):  # compile, and fill caches
        _check(*our_view(tree, settings, draw))
        _check(*plain_view(plain, seed, draw))
    published, ours = least_ms(
        lambda: [plain_view(plain, seed, draw) for _ in range(2)],
        lambda: [our_view(tree, settings, draw) for _ in range(2)],
        repeats,
    )
    _, graphs = least_ms(
        lambda: None, lambda: [graph_of(*draw_view(tree, settings, draw), 0) for _ in range(2)], repeats
    )
    return {
        "published_ms": round(published, 3),
        "ours_ms": round(ours, 3),
        "ours_as_sparse_graphs_ms": round(graphs, 3),
        "ratio": round(published / ours, 1),
        "target_ms": 1.3,
    }


def _check(pos: np.ndarray, adjacency: np.ndarray) -> None:
    """Both make a tree of 200 nodes."""
    assert pos.shape == (NUM_NODES, 3) and adjacency.shape == (NUM_NODES, NUM_NODES)
    assert adjacency.sum() == NUM_NODES + 2 * (NUM_NODES - 1) and np.array_equal(adjacency, adjacency.T)


def reading(archives: list[Path], cache_dir: str) -> dict[str, float]:
    """CPU-seconds to read the archives into cells, with an empty and with a filled cache."""
    from nissl.datasets.morphology_cache import open_cache
    from nissl.datasets.swc_cells import Preprocessing, read_source
    from nissl.datasets.swc_report import Rules

    preprocessing = Preprocessing(Rules(root="first"))
    result: dict[str, float] = {}
    count = 0
    for name in ("cold_s", "warm_s"):
        cache, start = open_cache(cache_dir), time.process_time()
        count = sum(len(read_source(path, [], preprocessing, cache=cache).cells) for path in archives)
        result[name] = round(time.process_time() - start, 2)
    return {"neurons": count, **result, "ratio": round(result["cold_s"] / max(result["warm_s"], 1e-3), 1)}


def embedding(archives: list[Path], cache_dir: str) -> dict[str, float]:
    """CPU-seconds to embed every cell of the archives, with encodings computed and kept."""
    import torch
    from torch.utils.data import DataLoader

    from nissl.datasets.morphology_joint import JointMorphologies
    from nissl.models.graph_dino import GraphDINO

    torch.set_num_threads(1)
    sources = {path.name.split(".")[0]: {"path": str(path)} for path in archives}
    options: dict[str, Any] = {
        "normalise": "none", "sampling": "proportional", "test_path": None, "test_reading": None, "min_class_size": 1,
        "centre_axes": "xyz", "min_nodes": 2, "unmatched": "error", "train_on": "all", "num_folds": 3, "val_fold": 1,
        "test_fold": 0, "split_seed": 0, "group_pattern": None, "cache_nodes": 1000, "embed_nodes": NUM_NODES,
        "num_nodes": NUM_NODES, "num_drop_branches": 10, "cut_edge": "parent", "rotation": "axis",
        "rotation_axis": "y", "mirror": False, "jitter_std_um": 1.0, "shift_std_um": 10.0, "scale_log_std": 0.0,
        "num_views": 2, "num_local_views": 0, "local_share": 0.3, "local_nodes": 50, "cache_dir": cache_dir,
    }  # fmt: skip
    result: dict[str, float] = {}
    torch.manual_seed(0)
    model = GraphDINO().eval()
    for name in ("computed", "kept"):
        start = time.process_time()
        source = JointMorphologies(sources, **options)
        loaded = time.process_time()
        dataset: Any = source.unaugmented("all", encode=model.position_encoder())
        graphs = [dataset[k] for k in range(len(dataset))]
        encoded = time.process_time()
        result["neurons"] = len(graphs)
        result["loading_s"] = round(loaded - start, 2)
        result[f"encodings_{name}_s"] = round(encoded - loaded, 2)
    start = time.process_time()
    with torch.no_grad():
        for batch in DataLoader(graphs, batch_size=32, collate_fn=source.collate):  # type: ignore[arg-type]
            model.embed(batch)
    result["network_s"] = round(time.process_time() - start, 2)
    total = result["loading_s"] + result["encodings_computed_s"] + result["network_s"]
    return {**result, "total_s": round(total, 2), "target_s": 60}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=40)
    parser.add_argument("--archives", type=Path, help="folder of .tar.gz archives of SWC files")
    parser.add_argument("--embed", action="store_true", help="also embed all of their cells")
    arguments = parser.parse_args()
    result: dict[str, Any] = {"views": views(arguments.repeats)}
    print(json.dumps(result["views"]), flush=True)
    if arguments.archives is not None:
        archives = sorted(arguments.archives.glob("*.tar.gz"))
        with tempfile.TemporaryDirectory() as folder:
            result["reading"] = reading(archives, folder)
            print(json.dumps(result["reading"]), flush=True)
            if arguments.embed:
                result["embedding"] = embedding(archives, folder)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
