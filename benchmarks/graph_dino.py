"""What GraphDINO costs beside its published formulation: views, training step, loader and step together.

    python benchmarks/graph_dino.py [--batch 32] [--nodes 200] [--depth 7] [--heads 8] [--repeats 3] [--out FOLDER]

One process, one thread, CPU seconds, both sides in turn, the least of the repeats. The published formulation is written
here from the description of marissaweis/ssl_neuron@0a292e7178 (spec in the paper, https://openreview.net/forum?id=
ThhMzfrd6r): attention with separate q, k, v per head and adjacency and g copied per head; views by removing nodes from
sets of neighbours, one at a time; positional encodings of the whole batch inside the step. Both sides start from the
same weights, and their outputs are compared before anything is timed.

Targets: two views of a 1000-node cell to 200 nodes at most 1.3 CPU-ms; the step at least 2.5 times, loader and step at
least 3 times cheaper. Set MALLOC_MMAP_THRESHOLD_=4294967296 MALLOC_TRIM_THRESHOLD_=17179869184, which helps the
published form most (it makes tensors of 83 MB per layer), to be fair to it.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor, nn

from nissl.datasets.cell_graph import CellGraph, subtree_sizes, take
from nissl.datasets.tree_views import CachedTree, ViewSettings, draw_view, terminal_nodes
from nissl.models.ac_attention import ACAttention, Neighbours
from nissl.models.graph_dino import GraphDINO
from nissl.models.laplacian_positions import laplacian_positions
from nissl.tasks.distillation import dino_loss, teacher_probabilities, update_teacher

CELL_NODES = 1000
NUM_CUTS = 10  # sub-branches deleted per view, as released for the Allen cells

# B graphs, N nodes, D features, H heads


class PublishedAttention(nn.Module):
    """The published layer with the weights of ours."""

    def __init__(self, ours: ACAttention) -> None:
        super().__init__()
        self.qkv, self.out, self.trade_off = ours.qkv, ours.out, ours.trade_off
        self.num_heads, self.dim = ours.num_heads, ours.dim

    def forward(self, x: Tensor, neighbours_of: Neighbours, padding: Tensor | None = None) -> Tensor:
        b, n, d = x.shape
        h = self.num_heads
        q, k, v = self.qkv(x).view(b, n, 3, h, d).permute(2, 0, 3, 1, 4)  # (B, H, N, D) each
        gamma = self.trade_off(x).exp()
        local = gamma[..., 0][:, None].repeat(1, h, 1)[..., None]
        neighbours = gamma[..., 1][:, None].repeat(1, h, 1)[..., None]
        copied = neighbours_of.dense[:, None].repeat(1, h, 1, 1)
        scores = (q @ k.transpose(-2, -1)) * d**-0.5
        weights = (local * scores + neighbours * copied).softmax(dim=-1)
        return self.out((weights @ v).transpose(1, 2).reshape(b, n, h * d))


def published(model: GraphDINO) -> GraphDINO:
    """A copy whose layers attend as published."""
    other = copy.deepcopy(model)
    for block in other.blocks:
        assert isinstance(block.attention, ACAttention)
        block.attention = PublishedAttention(block.attention)
    return other


class PublishedCell:
    """What the released loader keeps of a cell: sets of neighbours, candidates for cuts, hops to the soma."""

    def __init__(self, cell: CellGraph) -> None:
        self.pos = cell.pos
        self.neighbours: dict[int, set[int]] = {k: set() for k in range(len(cell))}
        for child, above in enumerate(cell.parent.tolist()):
            if above >= 0:
                self.neighbours[child].add(above)
                self.neighbours[above].add(child)
        is_terminal = terminal_nodes(cell.parent, subtree_sizes(cell.parent))
        self.terminal = set(np.flatnonzero(is_terminal).tolist()) - {0}
        self.hops = [0] * len(cell)
        for child, above in enumerate(cell.parent.tolist()):
            if above >= 0:
                self.hops[child] = self.hops[above] + 1


def published_view(cell: PublishedCell, keep: int, num_cuts: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions (keep, 3) and dense adjacency of one view.

    As released: a copy of all sets, cuts that walk through lists, nodes that go one at a time in random order, and the
    adjacency written entry by entry.
    """
    graph = {node: set(others) for node, others in cell.neighbours.items()}
    terminal, left = set(cell.terminal), set(graph)
    for _ in range(num_cuts):
        start = list(terminal)[int(torch.randint(len(terminal), (1,)))]
        beyond = next(iter(graph[start]))
        if cell.hops[start] > cell.hops[beyond]:
            start, beyond = beyond, start
        dropped, waiting = [beyond], [node for node in graph[beyond] if node != start]
        while waiting:
            node = waiting.pop(0)
            dropped.append(node)
            waiting += [other for other in graph[node] if other not in dropped]
        if len(graph) - len(dropped) < keep:
            continue
        for node in dropped:
            for other in graph.pop(node):
                graph[other].discard(node)
        left -= set(dropped)
        terminal -= set(dropped)
    while len(graph) > keep:
        order = np.array(list(graph))[torch.randperm(len(graph)).tolist()].tolist()
        while order and len(graph) > keep:
            node = order.pop()
            if node == 0 or len(graph[node]) >= 3:
                continue
            others = list(graph.pop(node))
            for other in others:
                graph[other].discard(node)
            if len(others) == 2:
                graph[others[0]].add(others[1])
                graph[others[1]].add(others[0])
    kept = list(graph)
    row = {node: k for k, node in enumerate(kept)}
    adjacency = np.zeros((keep, keep))
    for node, around in graph.items():
        for other in around:
            i, j = row[node], row[other]
            adjacency[i, i] = True
            adjacency[i, j] = True
            adjacency[j, i] = True
    turn = Rotation.random().as_matrix()
    turn[1] = turn[:, 1] = 0.0
    turn[1, 1] = 1.0
    moved = cell.pos[kept] @ turn
    moved = moved + torch.randn(keep, 3).numpy() + 10.0 * torch.randn(3).numpy()
    return moved.astype(np.float32), adjacency.astype(np.float32)


def published_encoding(adjacency: Tensor, columns: int) -> Tensor:
    """Encodings of a batch of dense graphs, (B, N, P), all at once in the step."""
    scale = adjacency.sum(dim=-1).clamp(min=1.0) ** -0.5
    laplacian = torch.eye(adjacency.shape[-1]) - scale[..., None] * adjacency * scale[..., None, :]
    return torch.linalg.eigh(laplacian)[1].flip(-1)[..., 1 : columns + 1]


class Step:
    """One step of self-distillation on dense graphs, as published: loss, backward, Adam, teacher."""

    def __init__(self, model: GraphDINO) -> None:
        self.student, self.teacher = model, copy.deepcopy(model).requires_grad_(False)
        self.optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
        self.centre = torch.zeros(model.num_prototypes)

    def __call__(self, pos: Tensor, adjacency: Tensor, pe: Tensor) -> float:
        with torch.no_grad():
            logits = self.teacher.projector(self.teacher.embed_dense(pos, adjacency, pe))
        student = self.student.projector(self.student.embed_dense(pos, adjacency, pe))
        loss = dino_loss(student, teacher_probabilities(logits, self.centre, 0.06), 0.9)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        update_teacher(self.teacher, self.student, 0.999)
        return float(loss.detach())


def random_cell(seed: int) -> CellGraph:
    """A tree of 1000 nodes that forks now and then."""
    rng = np.random.default_rng(seed)
    parent = np.array([-1] + [int(rng.integers(max(0, i - 20), i)) if rng.random() < 0.1 else i - 1
                              for i in range(1, CELL_NODES)], np.int32)  # fmt: skip
    pos = rng.normal(0.0, 5.0, (CELL_NODES, 3))
    for i in range(1, CELL_NODES):
        pos[i] += pos[parent[i]]
    zeros = np.zeros(CELL_NODES)
    return take(CellGraph(pos.astype(np.float32), zeros, zeros.astype(np.int8), parent, id=str(seed)), parent, 0)


def least(repeats: int, *sides: Callable[[], object]) -> list[float]:
    """Least CPU seconds of each side, run in turn."""
    found = [float("inf")] * len(sides)
    for _ in range(repeats):
        for k, side in enumerate(sides):
            before = time.process_time()
            side()
            found[k] = min(found[k], time.process_time() - before)
    return found


def measure(batch: int, nodes: int, depth: int, heads: int, repeats: int) -> dict[str, float]:
    """All numbers, CPU milliseconds and ratios."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = GraphDINO(32, depth, heads, positions="reference", position_scale_um=1.0, head="reference")
    settings = ViewSettings(nodes, NUM_CUTS, rotation="axis", jitter_std_um=1.0, shift_std_um=10.0)
    rng = np.random.default_rng(0)
    cells = [random_cell(k) for k in range(batch)]
    trees = [CachedTree.from_cell(cell, CELL_NODES, rng) for cell in cells]
    theirs_of = [PublishedCell(cell) for cell in cells]

    def our_data() -> tuple[Tensor, Tensor, Tensor]:
        parts = []
        for _ in range(2):
            for tree in trees:
                points, parent = draw_view(tree, settings, rng)
                child, above = np.arange(1, nodes), parent[1:].astype(np.int64)
                edges = np.stack([np.concatenate([child, above]), np.concatenate([above, child])])
                joined = np.eye(nodes, dtype=np.float32)
                joined[edges[0], edges[1]] = 1.0
                parts.append((points, joined, laplacian_positions(edges, nodes, 32, "smooth", rng)))
        pos, adjacency, pe = (torch.from_numpy(np.stack(column)) for column in zip(*parts, strict=True))
        return pos, adjacency, pe

    def published_data() -> tuple[Tensor, Tensor, Tensor]:
        views = [published_view(cell, nodes, NUM_CUTS) for _ in range(2) for cell in theirs_of]
        pos, adjacency = (torch.from_numpy(np.stack(column)) for column in zip(*views, strict=True))
        return pos, adjacency, published_encoding(adjacency, 32)

    data = our_data()
    theirs, ours = Step(published(model)), Step(model)
    with torch.no_grad():
        difference = theirs.student.embed_dense(*data) - ours.student.embed_dense(*data)
    assert difference.abs().max() < 1e-4, "the two forms disagree"
    for _ in range(2):
        draw_view(trees[0], settings, rng)  # compiled before it is timed

    def our_views() -> None:
        for tree in trees:
            draw_view(tree, settings, rng)
            draw_view(tree, settings, rng)

    def published_views() -> None:
        for cell in theirs_of:
            published_view(cell, nodes, NUM_CUTS)
            published_view(cell, nodes, NUM_CUTS)

    views = least(repeats, published_views, our_views)
    step = least(repeats, lambda: theirs(*data), lambda: ours(*data))
    whole = least(repeats, lambda: theirs(*published_data()), lambda: ours(*our_data()))
    return {
        "two_views_published_cpu_ms": 1000 * views[0] / batch,
        "two_views_cpu_ms": 1000 * views[1] / batch,
        "two_views_ratio": views[0] / views[1],
        "step_published_cpu_ms": 1000 * step[0],
        "step_cpu_ms": 1000 * step[1],
        "step_ratio": step[0] / step[1],
        "loader_and_step_published_cpu_ms": 1000 * whole[0],
        "loader_and_step_cpu_ms": 1000 * whole[1],
        "loader_and_step_ratio": whole[0] / whole[1],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    for name, default in (("batch", 32), ("nodes", 200), ("depth", 7), ("heads", 8), ("repeats", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--out", type=Path, help="folder for summary.json")
    arguments = parser.parse_args()
    values = measure(arguments.batch, arguments.nodes, arguments.depth, arguments.heads, arguments.repeats)
    for name, value in values.items():
        print(f"{name:36} {value:10.2f}")
    print(f"torch {torch.__version__}, one thread, load average {os.getloadavg()[0]:.1f}")
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
        (arguments.out / "summary.json").write_text(json.dumps(values, indent=2) + "\n")


if __name__ == "__main__":
    main()
