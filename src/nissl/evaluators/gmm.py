"""Gaussian-mixture clusters of embeddings against known types, beside the same clusters of the baselines.

The number of components is the one with the lowest BIC on the training cells; labels take no part in it, and the one
that held-out likelihood would choose stands beside it. The mixture is fitted on training cells, and its clusters of the
held-out cells are compared with their labels: adjusted Rand index (ARI) and adjusted mutual information (AMI), both 1
for the same partition and near 0 for unrelated ones. Features are z-scored on the training cells, so that no axis
dominates; diagonal covariances are as in the authors' follow-up work.

Clusters need not be types. How stable they are over seeds and subsamples, and whether more than one Gaussian is called
for at all, is in the same table.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from nissl.evaluators.baselines import Block, Cohort, Method, gather
from nissl.evaluators.embeddings import Draws
from nissl.evaluators.mixtures import (
    Covariance,
    MixtureSettings,
    bootstrap_agreement,
    choose_by_bic,
    cluster_reliability,
    held_out_likelihood,
    one_standard_error,
    stability,
)
from nissl.evaluators.result import Figure, Result

UNRELIABLE = 0.75  # a cluster whose cells stay together less often is flagged; ours


class GMM:
    """Evaluator `gmm`.

    Args:
        max_components: components tried are 1 to this.
        covariance, reg_covar, num_inits: see `MixtureSettings`.
        num_repeats: held-out splits, and fits compared for stability.
        num_draws: see `embed_split`.
        num_untrained: random initialisations of the untrained baseline.
        published: safetensors of imported weights for a row of their own; None: no row.
        num_resamples: bootstrap resamples of the intervals.
        seed: seed of the fits and of the untrained encoders.
    """

    metrics = {
        "gmm/ari": "max",
        "gmm/ami": "max",
        "gmm/components": None,
        "gmm_morphometrics/ari": "max",
        "gmm_morphometrics/ami": "max",
        "gmm_morphometrics/components": None,
        "gmm_untrained/ari": "max",
        "gmm_untrained/ami": "max",
        "gmm_untrained/components": None,
        "gmm*/ari": "max",
        "gmm*/ami": "max",
        "gmm*/ari_low": None,
        "gmm*/ari_high": None,
        "gmm*/homogeneity": "max",
        "gmm*/completeness": "max",
        "gmm*/components": None,
        "gmm/components_held_out": None,
        "gmm/gain_over_one": None,
        "gmm/stability_seeds": "max",
        "gmm/stability_subsamples": "max",
    }

    def __init__(
        self,
        max_components: int,
        covariance: Covariance,
        reg_covar: float,
        num_inits: int,
        num_repeats: int,
        num_draws: Draws,
        num_untrained: int,
        published: str | None,
        num_resamples: int,
        seed: int,
    ) -> None:
        if max_components < 1:
            raise ValueError(f"gmm.max_components must be at least 1, came {max_components}")
        if covariance not in ("diag", "full", "tied", "spherical"):
            raise ValueError(f"gmm.covariance must be diag, full, tied or spherical, came {covariance!r}")
        if num_repeats < 2:
            raise ValueError(f"gmm.num_repeats must be at least 2, came {num_repeats}: one fit agrees with itself")
        if num_untrained < 1:
            raise ValueError(f"gmm.num_untrained must be at least 1, came {num_untrained}: the baseline is mandatory")
        self.max_components, self.num_repeats, self.num_draws = max_components, num_repeats, num_draws
        self.settings = MixtureSettings(covariance, reg_covar, num_inits)
        self.num_untrained, self.published = num_untrained, published
        self.num_resamples, self.seed = num_resamples, seed

    def __call__(self, task: Any, data: Any) -> Result:
        if len(data.source.labels("test")) == 0:
            raise ValueError("the test split is empty; set dataset.test_fold or dataset.test_path")
        cohort = gather(task, data, self.num_draws, "zscore", self.num_untrained, self.published, self.seed)
        train, test = cohort.rows["train"], cohort.rows["test"]
        labels = cohort.labels[test]
        scalars: dict[str, float] = {}
        table, curves = [], {}
        clusters = np.zeros(0, int)
        for name, runs in cohort.methods.items():
            metric = "gmm" if name == "learnt" else f"gmm_{name}"
            features = [_z_scored(run, train) for run in runs]
            fits = [choose_by_bic(f[train], self.max_components, self.settings, self.seed) for f in features]
            assigned = [fit.predict(f[test]) for (fit, _), f in zip(fits, features, strict=True)]
            values = self._agreement(labels, assigned)
            values["components"] = float(np.mean([fit.n_components for fit, _ in fits]))
            scalars |= {f"{metric}/{key}": value for key, value in values.items()}
            curves[metric] = np.mean([bic for _, bic in fits], axis=0)
            table.append(
                {
                    "method": metric,
                    **{key: round(value, 4) for key, value in values.items()},
                    "runs": len(runs),
                    "fitted_on": f"{len(train)} train cells",
                    "scored_on": f"{len(test)} test cells",
                    "ssl_saw_test": cohort.saw_test,
                }
            )
            if name == "learnt":
                clusters = assigned[0]
                own, fit = features[0], fits[0][0]
        likelihood = held_out_likelihood(own[train], self.max_components, self.settings, self.num_repeats, self.seed)
        seeds, samples, together = stability(own, fit.n_components, self.settings, self.num_repeats, self.seed)
        reliability = cluster_reliability(fit.predict(own), together)
        chosen = one_standard_error(likelihood)
        scalars |= {
            "gmm/components_held_out": float(chosen),
            "gmm/gain_over_one": float(likelihood.mean(axis=0).max() - likelihood[:, 0].mean()),
            "gmm/stability_seeds": seeds,
            "gmm/stability_subsamples": samples,
        }
        return Result(
            scalars=scalars,
            figures={
                "bic": _bic_figure(curves, len(train)),
                "held_out": _held_out_figure(likelihood, chosen),
                "clusters": _cluster_figure(labels, clusters, cohort.classes),
                "consensus": _consensus_figure(together, fit.predict(own)),
            },
            tables={"methods": table, "clusters": _cluster_rows(fit.predict(own), reliability, cohort)},
            notes=_notes(fit.n_components, chosen, likelihood, reliability) + cohort.notes,
        )

    def _agreement(self, labels: np.ndarray, assigned: list[np.ndarray]) -> dict[str, float]:
        from sklearn.metrics import (
            adjusted_mutual_info_score,
            adjusted_rand_score,
            completeness_score,
            homogeneity_score,
        )

        low, high = np.mean(
            [bootstrap_agreement(adjusted_rand_score, labels, a, self.num_resamples, self.seed) for a in assigned],
            axis=0,
        )
        return {
            "ari": float(np.mean([adjusted_rand_score(labels, a) for a in assigned])),
            "ari_low": float(low),
            "ari_high": float(high),
            "ami": float(np.mean([adjusted_mutual_info_score(labels, a) for a in assigned])),
            "homogeneity": float(np.mean([homogeneity_score(labels, a) for a in assigned])),
            "completeness": float(np.mean([completeness_score(labels, a) for a in assigned])),
        }


def _z_scored(method: Method, train: np.ndarray) -> np.ndarray:
    """Features of all cells with variance 1 over the training cells, also where several blocks share a method."""
    return Method((Block(method.features(train), "zscore"),)).features(train)


def _notes(by_bic: int, by_likelihood: int, likelihood: np.ndarray, reliability: dict[int, float]) -> list[str]:
    notes = [
        f"Components were chosen without labels, on training cells: {by_bic} by BIC, {by_likelihood} by held-out "
        "likelihood. Clusters are not types."
    ]
    if by_likelihood == 1:
        notes.append("Cells left out are as likely under one Gaussian: these embeddings look like a continuum.")
    unsure = [str(c) for c, share in reliability.items() if not share >= UNRELIABLE]
    if unsure:
        notes.append(
            f"Clusters {', '.join(unsure)} do not reappear: their cells stay together in fewer than {UNRELIABLE:.0%} "
            "of the fits to subsamples."
        )
    return notes


def _cluster_rows(clusters: np.ndarray, reliability: dict[int, float], cohort: Cohort) -> list[dict[str, Any]]:
    """One row per cluster of all cells: size, how often it reappears, its commonest class."""
    rows = []
    for c, share in reliability.items():
        own = cohort.labels[clusters == c]
        counts = np.bincount(own, minlength=len(cohort.classes))
        rows.append(
            {
                "cluster": c,
                "cells": len(own),
                "reappears": round(share, 4),
                "commonest_class": cohort.classes[int(counts.argmax())],
                "its_share": round(float(counts.max() / len(own)), 4),
            }
        )
    return rows


def _bic_figure(curves: dict[str, np.ndarray], num_cells: int) -> Figure:
    from matplotlib import colormaps
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=(7.5, 3.8), layout="constrained")
    axes = canvas.add_subplot()
    colours = colormaps["viridis"](np.linspace(0, 0.9, len(curves)))
    for k, (name, curve) in enumerate(curves.items()):
        style = "os^vD*Xp"[k % 8] + ("-" if k == 0 else ":")
        axes.plot(np.arange(1, len(curve) + 1), curve - curve.min(), style, label=name, color=colours[k], markersize=4)
    axes.set_xlabel("components")
    axes.set_ylabel("BIC above its minimum (nats x 2)")
    axes.set_yscale("symlog", linthresh=10.0)
    canvas.legend(loc="outside right upper", fontsize=8)
    caption = f"Choice of the number of components by BIC on {num_cells} training cells; lowest is best."
    return Figure.from_matplotlib(canvas, caption, {f"bic_{name}": curve for name, curve in curves.items()})


def _held_out_figure(likelihood: np.ndarray, chosen: int) -> Figure:
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=(5.5, 3.8))
    axes = canvas.add_subplot()
    components = np.arange(1, likelihood.shape[1] + 1)
    gain = likelihood - likelihood[:, :1]
    error = gain.std(axis=0, ddof=1) / np.sqrt(len(gain))
    axes.errorbar(components, gain.mean(axis=0), yerr=error, fmt="o-", capsize=2, color="#30688e")
    axes.axvline(chosen, color="#666666", linestyle=":", label=f"chosen: {chosen}")
    axes.axhline(0.0, color="#999999", linewidth=0.8)
    axes.set_xlabel("components")
    axes.set_ylabel("held-out log likelihood per cell\nabove one Gaussian (nats)")
    axes.legend()
    caption = (
        f"Likelihood of left-out training cells under mixtures of the embedding, {len(likelihood)} splits of 80 / 20; "
        "bars are standard errors of the gain."
    )
    return Figure.from_matplotlib(canvas, caption, {"likelihood": likelihood})


def _cluster_figure(labels: np.ndarray, clusters: np.ndarray, classes: list[str]) -> Figure:
    from matplotlib.figure import Figure as Canvas

    present, used = np.unique(labels), np.unique(clusters)
    counts = np.array([[np.sum((labels == c) & (clusters == k)) for k in used] for c in present])
    canvas = Canvas(figsize=(max(4.0, 0.45 * len(used) + 3), max(2.5, 0.35 * len(present) + 1.5)))
    axes = canvas.add_subplot()
    image = axes.imshow(counts, cmap="Blues")
    axes.set_xticks(range(len(used)), [str(k) for k in used])
    axes.set_yticks(range(len(present)), [classes[c] for c in present])
    axes.set_xlabel("cluster")
    axes.set_ylabel("class")
    for i in range(len(present)):
        for j in range(len(used)):
            if counts[i, j]:
                axes.text(j, i, str(counts[i, j]), ha="center", va="center", fontsize=8,
                          color="white" if counts[i, j] > 0.6 * counts.max() else "black")  # fmt: skip
    canvas.colorbar(image, label="cells", shrink=0.8)
    caption = f"Clusters of the embeddings of {len(labels)} held-out cells against their classes."
    return Figure.from_matplotlib(canvas, caption, {"counts": counts})


def _consensus_figure(together: np.ndarray, clusters: np.ndarray) -> Figure:
    from matplotlib.figure import Figure as Canvas

    order = np.argsort(clusters, kind="stable")
    canvas = Canvas(figsize=(5.0, 4.2))
    axes = canvas.add_subplot()
    image = axes.imshow(together[np.ix_(order, order)], cmap="viridis", vmin=0, vmax=1)
    for border in np.flatnonzero(np.diff(clusters[order])) + 0.5:
        axes.axhline(border, color="white", linewidth=0.8)
        axes.axvline(border, color="white", linewidth=0.8)
    axes.set_xlabel("cells, by cluster")
    axes.set_ylabel("cells, by cluster")
    canvas.colorbar(image, label="share of fits that put both together", shrink=0.8)
    caption = "How often two cells share a cluster when the mixture is fitted to 80 % of the cells; blocks reappear."
    return Figure.from_matplotlib(canvas, caption, {"consensus": together})
