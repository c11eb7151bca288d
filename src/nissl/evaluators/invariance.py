"""How far an embedding moves when the cell is the same: turned, shifted, re-thinned, jittered, with branches missing.

For each disturbance the mean distance between a cell's embedding before and after, relative to the mean distance
between two different cells (0: does not move; 1: as far as to another cell), and the share of cells that are still
nearest to their own undisturbed embedding. It tells whether a model can be trusted at the quality of one's
reconstructions. Not an accuracy: an encoder that gives every cell the same vector does not move either, so the spread
of the embeddings stands beside it.
"""

from __future__ import annotations

import copy
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from nissl.evaluators.result import Figure, Result

# An item is one graph: pos (N, 3) um, edge_index (2, E) with the first half child to parent; node 0 is the soma


class Invariance:
    """Evaluator `invariance`.

    Args:
        split: cells it is measured on.
        max_cells: at most as many, the first ones.
        angles_deg: rotations about the y axis.
        shifts_um, jitters_um: standard deviations.
        scales: factors of size.
        missing: shares of branches cut off.
        seed: of the disturbances; a cell is always disturbed alike.
    """

    metrics = {"invariance/spread": None, "invariance/own_*": "max", "invariance/*": "min"}

    def __init__(
        self,
        split: str,
        max_cells: int,
        angles_deg: Sequence[float],
        shifts_um: Sequence[float],
        jitters_um: Sequence[float],
        scales: Sequence[float],
        missing: Sequence[float],
        seed: int,
    ) -> None:
        if split not in ("train", "val", "test"):
            raise ValueError(f"invariance.split must be train, val or test, came {split!r}")
        if max_cells < 3:
            raise ValueError(f"invariance.max_cells must be at least 3, came {max_cells}")
        if any(not 0 < share < 1 for share in missing):
            raise ValueError(f"invariance.missing must be shares between 0 and 1, came {list(missing)}")
        if any(not factor > 0 for factor in scales):
            raise ValueError(f"invariance.scales must be positive, came {list(scales)}")
        self.split, self.max_cells, self.seed = split, max_cells, seed
        self.strengths: dict[str, Sequence[float]] = {
            "rotation_y_deg": angles_deg,
            "shift_um": shifts_um,
            "jitter_um": jitters_um,
            "scale": scales,
            "missing_branches": missing,
        }

    def __call__(self, task: Any, data: Any) -> Result:
        source, model = data.source, task.model
        if not hasattr(source, "unaugmented"):
            raise ValueError("invariance needs single graphs of whole cells: this data set offers no unaugmented()")
        items = _items(source.unaugmented(self.split), self.max_cells)
        if len(items) < 3:
            raise ValueError(f"the {self.split} split has {len(items)} cells; invariance needs at least 3")
        batch_size = data.batch_size
        before = embed_items(model, items, source.collate, batch_size)
        between = _mean_distance(before)

        trials: list[tuple[str, float | str, list[Any]]] = []
        for kind, strengths in self.strengths.items():
            for strength in strengths:
                rngs = [np.random.default_rng([self.seed, zlib.crc32(kind.encode()), k]) for k in range(len(items))]
                disturbed = [DISTURBANCES[kind](item, strength, rng) for item, rng in zip(items, rngs, strict=True)]
                trials.append((kind, strength, disturbed))
        rng = np.random.default_rng(self.seed)
        trials.append(("free_rotation", "-", [_turned(item, _random_rotation(rng)) for item in items]))
        trials.append(("node_order", "-", [_reordered(item, rng) for item in items]))
        trials.append(("other_thinning", "-", _items(source.unaugmented(self.split, 1), self.max_cells)))
        trials.append(("all_nodes", "-", _items(source.unaugmented(self.split, "all"), self.max_cells)))
        if hasattr(model, "position_encoder"):
            trials.append(("encoding_signs", "-", _with_encoding(model, items, rng)))
            trials.append(("encoding_zero", "-", _with_encoding(model, items, None)))

        rows, scalars = [], {"invariance/spread": between}
        for kind, shown, disturbed in trials:
            after = embed_items(model, disturbed, source.collate, batch_size)
            moved = float(np.linalg.norm(after - before, axis=1).mean() / between)
            own = float((_distances(after, before).argmin(axis=1) == np.arange(len(before))).mean())
            rows.append(
                {"disturbance": kind, "strength": shown, "moved": round(moved, 4), "own_nearest": round(own, 4)}
            )
            name = kind if isinstance(shown, str) else f"{kind}_{shown:g}"
            scalars[f"invariance/{name}"] = moved
            scalars[f"invariance/own_{name}"] = own
        tables = {"disturbances": rows}
        notes = [f"{len(items)} cells of the {self.split} split; distances relative to {between:.4g} between cells."]
        if hasattr(model, "repeated_eigenvalues"):
            counts = [model.repeated_eigenvalues(item.edge_index.numpy(), len(item.pos)) for item in items]
            tables["repeated_eigenvalues"] = [
                {"cell": k, "nodes": len(item.pos), "columns": count}
                for k, (item, count) in enumerate(zip(items, counts, strict=True))
            ]
            notes.append(
                f"{sum(count > 0 for count in counts)} of {len(items)} cells share eigenvalues among columns of their "
                f"positional encoding ({np.mean(counts):.1f} columns on average): these are the solver's choice."
            )
        return Result(scalars=scalars, figures={"moved": _figure(rows, len(items))}, tables=tables, notes=notes)


def _items(dataset: Any, count: int) -> list[Any]:
    return [dataset[k] for k in range(min(count, len(dataset)))]


@torch.no_grad()
def embed_items(model: nn.Module, items: list[Any], collate: Any, batch_size: int) -> np.ndarray:
    """Embeddings of single graphs, (items, D) float64."""
    device = next(model.parameters()).device
    batches = [collate(items[k : k + batch_size]).to(device) for k in range(0, len(items), batch_size)]
    return np.concatenate([model.embed(batch).double().cpu().numpy() for batch in batches])  # type: ignore[operator]


def _distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.linalg.norm(a[:, None] - b[None], axis=-1)


def _mean_distance(embeddings: np.ndarray) -> float:
    """Mean distance between two different rows.

    Raises:
        ValueError: if all rows are the same.
    """
    n = len(embeddings)
    mean = float(_distances(embeddings, embeddings).sum() / (n * (n - 1)))
    if mean == 0:
        raise ValueError("all cells have the same embedding: collapsed, nothing to compare with")
    return mean


# Disturbances ---------------------------------------------------------------------------------------------------------


def _moved(item: Any, pos: torch.Tensor) -> Any:
    other = copy.copy(item)
    other.pos = pos.to(item.pos)
    return other


def _turned(item: Any, matrix: np.ndarray) -> Any:
    return _moved(item, item.pos.double() @ torch.from_numpy(matrix).T)


def _turned_about_y(item: Any, angle_deg: float, rng: np.random.Generator) -> Any:
    cos, sin = np.cos(np.deg2rad(angle_deg)), np.sin(np.deg2rad(angle_deg))
    return _turned(item, np.array([[cos, 0.0, sin], [0.0, 1.0, 0.0], [-sin, 0.0, cos]]))


def _random_rotation(rng: np.random.Generator) -> np.ndarray:
    matrix, triangle = np.linalg.qr(rng.normal(size=(3, 3)))
    matrix = matrix * np.sign(np.diag(triangle))
    return matrix * np.sign(np.linalg.det(matrix))


def _shifted(item: Any, std_um: float, rng: np.random.Generator) -> Any:
    return _moved(item, item.pos + torch.from_numpy(rng.normal(0.0, std_um, 3)))


def _jittered(item: Any, std_um: float, rng: np.random.Generator) -> Any:
    return _moved(item, item.pos + torch.from_numpy(rng.normal(0.0, std_um, tuple(item.pos.shape))))


def _scaled(item: Any, factor: float, rng: np.random.Generator) -> Any:
    return _moved(item, item.pos * factor)


def _without_branches(item: Any, share: float, rng: np.random.Generator) -> Any:
    """Cut subtrees above random nodes until about `share` of the nodes is gone; never more than that."""
    n = len(item.pos)
    child, above = item.edge_index[:, : n - 1].tolist()
    parent = [-1] * n
    for c, p in zip(child, above, strict=True):
        parent[c] = p
    left, alive = round(share * n), np.ones(n, bool)
    for node in rng.permutation(np.arange(1, n)).tolist():
        if not alive[node]:
            continue
        below = np.zeros(n, bool)
        below[node] = True
        for k in range(node + 1, n):  # parents come first
            below[k] = parent[k] >= 0 and below[parent[k]]
        below &= alive
        if below.sum() <= left:
            alive &= ~below
            left -= int(below.sum())
    keep = torch.from_numpy(np.flatnonzero(alive))
    return _part(item, keep)


def _part(item: Any, keep: torch.Tensor) -> Any:
    """The graph of some nodes, in the order given."""
    row = torch.full((len(item.pos),), -1)
    row[keep] = torch.arange(len(keep))
    edges = row[item.edge_index]
    other = copy.copy(item)
    other.pos, other.edge_index = item.pos[keep], edges[:, (edges >= 0).all(dim=0)]
    return other


def _reordered(item: Any, rng: np.random.Generator) -> Any:
    """Other node numbers, soma included; positional encodings depend on the numbers in their signs at most."""
    return _part(item, torch.from_numpy(rng.permutation(len(item.pos))))


def _with_encoding(model: Any, items: list[Any], rng: np.random.Generator | None) -> list[Any]:
    """The same graphs with encodings of random signs, or of zeros where there is no generator."""
    encode, changed = model.position_encoder(), []
    for item in items:
        other = copy.copy(item)
        encoding = torch.from_numpy(encode(item.edge_index.numpy(), len(item.pos), rng=rng))
        other.pe = encoding if rng is not None else torch.zeros_like(encoding)
        changed.append(other)
    return changed


DISTURBANCES: dict[str, Callable[[Any, float, np.random.Generator], Any]] = {
    "rotation_y_deg": _turned_about_y,
    "shift_um": _shifted,
    "jitter_um": _jittered,
    "scale": _scaled,
    "missing_branches": _without_branches,
}


def _figure(rows: list[dict[str, Any]], num_cells: int) -> Figure:
    from matplotlib.figure import Figure as Canvas

    names = [row["disturbance"] + ("" if row["strength"] == "-" else f" {row['strength']:g}") for row in rows]
    canvas = Canvas(figsize=(7.5, 0.24 * len(rows) + 1.2))
    left, right = canvas.add_subplot(1, 2, 1), canvas.add_subplot(1, 2, 2)
    places = np.arange(len(rows))
    left.barh(places, [row["moved"] for row in rows], color="#30688e")
    right.barh(places, [row["own_nearest"] for row in rows], color="#8fb339")
    left.set_yticks(places, names, fontsize=8)
    right.set_yticks([])
    for axes in (left, right):
        axes.invert_yaxis()
        axes.grid(axis="x", alpha=0.3)
    left.axvline(1.0, color="#c0392b", linestyle=":")
    left.set_xlabel("embedding moved\n(1: as far as to another cell)")
    right.set_xlabel("share of cells nearest\nto themselves")
    right.set_xlim(0, 1)
    caption = f"What moves the embeddings of {num_cells} cells; strengths in um, degrees, factors and shares of nodes."
    return Figure.from_matplotlib(canvas, caption)
