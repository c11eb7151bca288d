"""Figures shared by the evaluators of embeddings: confusion, map of the cells, spectrum, methods side by side."""

from __future__ import annotations

from typing import Any

import numpy as np

from nissl.evaluators.result import Figure

MARKERS = "os^Dv<>Pp*hX"


def confusion_figure(labels: np.ndarray, predicted: np.ndarray, classes: list[str], what: str) -> Figure:
    """Counts and recalls of `predicted` against `labels`, (n,) each; `what` ends the caption's first sentence."""
    from matplotlib.figure import Figure as Canvas

    present = np.union1d(labels, predicted)
    matrix = np.array([[np.sum((labels == a) & (predicted == b)) for b in present] for a in present])
    names = [classes[c] for c in present]
    size = max(3.0, 0.35 * len(names) + 2.0)
    canvas = Canvas(figsize=(size + 1, size))
    axes = canvas.add_subplot()
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(names)), names, rotation=60, ha="right")
    axes.set_yticks(range(len(names)), names)
    if len(names) <= 25:
        for i in range(len(names)):
            for j in range(len(names)):
                if matrix[i, j]:
                    colour = "white" if share[i, j] > 0.6 else "black"
                    axes.text(j, i, str(matrix[i, j]), ha="center", va="center", color=colour, fontsize=8)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    canvas.colorbar(image, label="share of the true class", shrink=0.8)
    caption = f"Confusion of {what}; numbers are cells, colour is recall."
    return Figure.from_matplotlib(canvas, caption, {"confusion": matrix})


def plane_projections(values: np.ndarray, seed: int) -> tuple[dict[str, np.ndarray], float]:
    """t-SNE and PCA of features (n, D) to the plane, (n, 2) each, and the perplexity of the former."""
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    pca = PCA(n_components=2, svd_solver="full").fit_transform(values)
    perplexity = min(30.0, max(2.0, (len(values) - 1) / 4))
    scaled = (values - values.mean(axis=0)) / np.maximum(values.std(axis=0).mean(), 1e-12)
    tsne = TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(scaled)
    return {"t-SNE": tsne, "PCA": pca}, perplexity


def effective_rank(values: np.ndarray) -> tuple[float, np.ndarray]:
    """exp of the entropy of the normalised singular values of centred embeddings (n, D), and these; NaN if all equal.

    Source: Roy and Vetterli 2007, https://ieeexplore.ieee.org/document/7098875.
    """
    singular = np.linalg.svd(values - values.mean(axis=0), compute_uv=False)
    if singular.sum() == 0:
        return float("nan"), singular
    share = singular / singular.sum()
    seen = share[share > 0]
    return float(np.exp(-np.sum(seen * np.log(seen)))), share


def spectrum_figure(values: np.ndarray, reference: np.ndarray) -> Figure:
    """Singular values of embeddings (n, D) beside those of an untrained network: how many directions are in use."""
    from matplotlib.figure import Figure as Canvas

    rank, share = effective_rank(values)
    untrained, before = effective_rank(reference)
    canvas = Canvas(figsize=(5.5, 3.6))
    axes = canvas.add_subplot()
    axes.bar(np.arange(1, len(share) + 1), share, color="#0072B2", label=f"learnt, effective rank {rank:.1f}")
    axes.plot(np.arange(1, len(before) + 1), before, "o", ms=4, color="#D55E00", label=f"untrained, {untrained:.1f}")
    axes.set_xlabel("component of the centred embeddings")
    axes.set_ylabel("share of the sum of singular values")
    axes.legend()
    caption = f"Spectrum of the embeddings of {len(values)} cells. One bar alone is a collapsed embedding."
    return Figure.from_matplotlib(canvas, caption, {"learnt": share, "untrained": before})


def embedding_figure(
    values: np.ndarray, labels: np.ndarray, is_test: np.ndarray, classes: list[str], seed: int
) -> Figure:
    """t-SNE and PCA of embeddings (n, D); held-out cells are filled."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure as Canvas

    planes, perplexity = plane_projections(values, seed)
    present = np.unique(labels)
    colours = colormaps["viridis"](np.linspace(0, 0.95, len(present)))
    canvas = Canvas(figsize=(11, 4.8))
    for position, (title, xy) in enumerate(planes.items(), start=1):
        axes = canvas.add_subplot(1, 2, position)
        for k, c in enumerate(present):
            here, marker = labels == c, MARKERS[k % len(MARKERS)]
            (x, y), (u, v) = xy[here & ~is_test].T, xy[here & is_test].T
            axes.scatter(x, y, s=22, marker=marker, facecolors="none", edgecolors=[colours[k]])
            axes.scatter(u, v, s=26, marker=marker, color=[colours[k]], label=classes[c])
        axes.set_xlabel(f"{title} 1 (a.u.)")
        axes.set_ylabel(f"{title} 2 (a.u.)")
    if len(present) <= 24:
        canvas.legend(*axes.get_legend_handles_labels(), loc="outside right upper", fontsize=8)
    caption = (
        f"Embeddings of {int((~is_test).sum())} training and validation (open) and {int(is_test.sum())} held-out cells "
        f"(filled), t-SNE with perplexity {perplexity:.0f} and PCA."
    )
    data = {"tsne": planes["t-SNE"], "pca": planes["PCA"], "label": labels, "is_test": is_test}
    return Figure.from_matplotlib(canvas, caption, data)


def methods_figure(rows: list[dict[str, Any]], value: str, axis_label: str, caption: str) -> Figure:
    """One point with its interval per method and row group.

    Args:
        rows: with `method`, `protocol`, and `<value>`, `<value>_low`, `<value>_high`.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure as Canvas

    protocols = list(dict.fromkeys(row["protocol"] for row in rows))
    methods = list(dict.fromkeys(row["method"] for row in rows))
    canvas = Canvas(figsize=(6.5, 0.32 * len(methods) * max(1, 0.6 * len(protocols)) + 1.6))
    axes = canvas.add_subplot()
    colours = colormaps["viridis"](np.linspace(0, 0.8, len(protocols)))
    for p, protocol in enumerate(protocols):
        own = [row for row in rows if row["protocol"] == protocol]
        y = np.array([methods.index(row["method"]) for row in own]) + (p - (len(protocols) - 1) / 2) * 0.22
        middle = np.array([row[value] for row in own], float)
        ends = np.array([[row[f"{value}_low"], row[f"{value}_high"]] for row in own], float)
        error = np.maximum(np.abs(ends.T - middle), 0.0)
        axes.errorbar(middle, y, xerr=error, fmt=MARKERS[p], color=colours[p], capsize=2, markersize=5, label=protocol)
    axes.set_yticks(range(len(methods)), methods)
    axes.invert_yaxis()
    axes.set_xlabel(axis_label)
    axes.grid(axis="x", alpha=0.3)
    if len(protocols) > 1:
        axes.legend(fontsize=8, loc="best")
    return Figure.from_matplotlib(canvas, caption)
