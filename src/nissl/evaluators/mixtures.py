"""Gaussian mixtures of embeddings as plain functions: how many components, how stable, a mixture at all?

Two choices of the number of components, neither of which sees a label: the lowest BIC, and the likelihood of cells that
the mixture was not fitted on (repeated 80 / 20, the smallest number within one standard error of the best).
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

Covariance = Literal["diag", "full", "tied", "spherical"]
HELD_OUT_SHARE = 0.2


@dataclass(frozen=True)
class MixtureSettings:
    """How a mixture is fitted.

    Attributes:
        covariance: shape of each component.
        reg_covar: added to the diagonal; the variance of a feature is 1.
        num_inits: starts of each fit; the likeliest is kept.
    """

    covariance: Covariance
    reg_covar: float
    num_inits: int


def fit_mixture(features: np.ndarray, components: int, settings: MixtureSettings, seed: int) -> Any:
    """A fitted `sklearn.mixture.GaussianMixture`; a fit that did not converge is kept, its score tells."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    mixture = GaussianMixture(
        components,
        covariance_type=settings.covariance,
        reg_covar=settings.reg_covar,
        n_init=settings.num_inits,
        random_state=seed,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return mixture.fit(features)


def component_range(num_cells: int, max_components: int) -> range:
    """1, 2, ... components, at most one per two cells.

    Raises:
        ValueError: for fewer than two cells.
    """
    if num_cells < 2:
        raise ValueError(f"a mixture needs at least two training cells, came {num_cells}")
    return range(1, min(max_components, num_cells // 2) + 1)


def choose_by_bic(
    features: np.ndarray, max_components: int, settings: MixtureSettings, seed: int
) -> tuple[Any, np.ndarray]:
    """The mixture with the lowest BIC, and the BIC of 1, 2, ... components."""
    fits = [fit_mixture(features, k, settings, seed) for k in component_range(len(features), max_components)]
    curve = np.array([fit.bic(features) for fit in fits])
    return fits[int(curve.argmin())], curve


def held_out_likelihood(
    features: np.ndarray, max_components: int, settings: MixtureSettings, repeats: int, seed: int
) -> np.ndarray:
    """Mean log likelihood per left-out cell, nats, (repeats, components); every repeat leaves out another fifth."""
    num_out = max(1, round(HELD_OUT_SHARE * len(features)))
    sizes = component_range(len(features) - num_out, max_components)
    scores = np.empty((repeats, len(sizes)))
    for r in range(repeats):
        order = np.random.default_rng([seed, r]).permutation(len(features))
        fitted, left_out = features[order[num_out:]], features[order[:num_out]]
        scores[r] = [fit_mixture(fitted, k, settings, seed + r).score(left_out) for k in sizes]
    return scores


def one_standard_error(scores: np.ndarray) -> int:
    """Smallest number of components whose mean score is within one standard error of the best; scores (repeats, k).

    The error is that of the differences from the best within repeats, for what a repeat leaves out moves all alike.
    """
    mean = scores.mean(axis=0)
    best = int(mean.argmax())
    lag = scores[:, best][:, None] - scores
    error = lag.std(axis=0, ddof=1) / np.sqrt(len(scores)) if len(scores) > 1 else np.zeros(len(mean))
    return int(np.flatnonzero(lag.mean(axis=0) <= error)[0]) + 1


def stability(
    features: np.ndarray, components: int, settings: MixtureSettings, repeats: int, seed: int
) -> tuple[float, float, np.ndarray]:
    """Agreement of repeated fits: over seeds on all cells, over 80 % subsamples, and the consensus matrix.

    Returns:
        Mean adjusted Rand index of all pairs of seeds; of all pairs of subsamples, each assigning every cell; and the
        share of subsample fits that put two cells together, (n, n). 1 is perfect; one component is perfectly stable.
    """
    from sklearn.metrics import adjusted_rand_score

    by_seed = [fit_mixture(features, components, settings, seed + r).predict(features) for r in range(repeats)]
    by_sample = []
    for r in range(repeats):
        rng = np.random.default_rng([seed, 1, r])
        kept = rng.permutation(len(features))[: max(components, round((1 - HELD_OUT_SHARE) * len(features)))]
        by_sample.append(fit_mixture(features[kept], components, settings, seed).predict(features))

    def agreement(fits: list[np.ndarray]) -> float:
        pairs = [adjusted_rand_score(a, b) for i, a in enumerate(fits) for b in fits[:i]]
        return float(np.mean(pairs)) if pairs else 1.0

    together = np.mean([a[:, None] == a[None, :] for a in by_sample], axis=0)
    return agreement(by_seed), agreement(by_sample), together


def cluster_reliability(clusters: np.ndarray, together: np.ndarray) -> dict[int, float]:
    """Mean consensus of the pairs inside each cluster; near 1 means it reappears. NaN for a cluster of one."""
    reliability = {}
    for c in np.unique(clusters):
        own = np.flatnonzero(clusters == c)
        pairs = together[np.ix_(own, own)][~np.eye(len(own), dtype=bool)]
        reliability[int(c)] = float(pairs.mean()) if len(pairs) else float("nan")
    return reliability


def bootstrap_agreement(
    score: Any, labels: np.ndarray, clusters: np.ndarray, num_resamples: int, seed: int
) -> tuple[float, float]:
    """95 % percentile interval of `score(labels, clusters)` over resampled cells."""
    rng = np.random.default_rng(seed)
    draws = rng.integers(0, len(labels), size=(num_resamples, len(labels)))
    values = [score(labels[d], clusters[d]) for d in draws]
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)
