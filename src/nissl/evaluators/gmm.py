"""Gaussian-mixture clusters of embeddings against known types, beside the same clusters of the baselines.

The number of components is the one with the lowest BIC on the training cells; labels take no part in it. The mixture is
fitted on training cells, and its clusters of the held-out cells are compared with their labels: adjusted Rand index
(ARI) and adjusted mutual information (AMI), both 1 for the same partition and near 0 for unrelated ones. Features are
z-scored on the training cells, so that no axis dominates; diagonal covariances are as in the authors' follow-up work.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from nissl.evaluators.embeddings import embed_split, hand_made_features, untrained_copy
from nissl.evaluators.result import Figure, Result

Features = dict[str, np.ndarray]


class GMM:
    """Evaluator `gmm`.

    Args:
        max_components: components tried are 1 to this.
        covariance: shape of each component.
        reg_covar: added to the diagonal; the variance of a feature is 1.
        num_inits: starts of each fit; the likeliest is kept.
        num_untrained: random initialisations of the untrained baseline.
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
    }

    def __init__(
        self,
        max_components: int,
        covariance: Literal["diag", "full", "tied", "spherical"],
        reg_covar: float,
        num_inits: int,
        num_untrained: int,
        seed: int,
    ) -> None:
        if max_components < 1:
            raise ValueError(f"gmm.max_components must be at least 1, came {max_components}")
        if covariance not in ("diag", "full", "tied", "spherical"):
            raise ValueError(f"gmm.covariance must be diag, full, tied or spherical, came {covariance!r}")
        if num_untrained < 1:
            raise ValueError(f"gmm.num_untrained must be at least 1, came {num_untrained}: the baseline is mandatory")
        self.max_components, self.covariance, self.reg_covar = max_components, covariance, reg_covar
        self.num_inits, self.num_untrained, self.seed = num_inits, num_untrained, seed

    def __call__(self, task: Any, data: Any) -> Result:
        labels = data.source.labels("test")
        if len(labels) == 0:
            raise ValueError("the test split is empty; set dataset.test_fold or dataset.test_path")
        splits = ("train", "test")
        embeddings = _z_scored({split: embed_split(task.model, data, split) for split in splits})
        runs: dict[str, list[Features]] = {"gmm": [embeddings]}
        by_hand = hand_made_features(data, "train", splits)
        if by_hand is not None:
            runs["gmm_morphometrics"] = [by_hand]
        runs["gmm_untrained"] = []
        for k in range(self.num_untrained):
            fresh = untrained_copy(task.model, self.seed + k).eval()
            runs["gmm_untrained"].append(_z_scored({split: embed_split(fresh, data, split) for split in splits}))

        from sklearn.metrics import adjusted_mutual_info_score, adjusted_rand_score

        scalars, table = {}, []
        curves: dict[str, np.ndarray] = {}
        clusters = np.zeros(0, int)
        for name, features in runs.items():
            fits = [self.fit(f["train"]) for f in features]
            assigned = [fit.predict(f["test"]) for (fit, _), f in zip(fits, features, strict=True)]
            if name == "gmm":
                clusters = assigned[0]
            curves[name] = np.mean([bic for _, bic in fits], axis=0)
            scalars[f"{name}/ari"] = float(np.mean([adjusted_rand_score(labels, a) for a in assigned]))
            scalars[f"{name}/ami"] = float(np.mean([adjusted_mutual_info_score(labels, a) for a in assigned]))
            scalars[f"{name}/components"] = float(np.mean([fit.n_components for fit, _ in fits]))
            table.append(
                {
                    "method": name,
                    "ari": round(scalars[f"{name}/ari"], 4),
                    "ami": round(scalars[f"{name}/ami"], 4),
                    "components": scalars[f"{name}/components"],
                    "runs": len(features),
                    "fitted_on": f"{len(features[0]['train'])} train cells",
                    "scored_on": f"{len(labels)} test cells",
                    "ssl_saw_test": False,
                }
            )
        classes = data.source.classes
        return Result(
            scalars=scalars,
            figures={
                "bic": _bic_figure(curves, len(embeddings["train"])),
                "clusters": _cluster_figure(labels, clusters, classes),
            },
            tables={"methods": table},
            notes=["Components were chosen by BIC on training cells, without labels. Clusters are not types."],
        )

    def fit(self, features: np.ndarray) -> tuple[Any, np.ndarray]:
        """The mixture with the lowest BIC, and the BIC of 1, 2, ... components."""
        import warnings

        from sklearn.exceptions import ConvergenceWarning
        from sklearn.mixture import GaussianMixture

        best, curve = None, []
        for k in range(1, min(self.max_components, len(features) // 2) + 1):
            mixture = GaussianMixture(
                k,
                covariance_type=self.covariance,
                reg_covar=self.reg_covar,
                n_init=self.num_inits,
                random_state=self.seed,
            )
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)  # a poor fit has a poor BIC
                mixture.fit(features)
            curve.append(mixture.bic(features))
            if best is None or curve[-1] < min(curve[:-1]):
                best = mixture
        if best is None:
            raise ValueError(f"a mixture needs at least two training cells, came {len(features)}")
        return best, np.array(curve)


def _z_scored(features: Features) -> Features:
    mean, std = features["train"].mean(axis=0), features["train"].std(axis=0)
    std[std < 1e-12] = 1.0
    return {split: (values - mean) / std for split, values in features.items()}


def _bic_figure(curves: dict[str, np.ndarray], num_cells: int) -> Figure:
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=(5.5, 3.8))
    axes = canvas.add_subplot()
    for (name, curve), style in zip(curves.items(), ("o-", "s--", "^:"), strict=False):
        axes.plot(np.arange(1, len(curve) + 1), curve - curve.min(), style, label=name)
    axes.set_xlabel("components")
    axes.set_ylabel("BIC above its minimum (nats x 2)")
    axes.set_yscale("symlog", linthresh=10.0)
    axes.legend()
    caption = f"Choice of the number of components by BIC on {num_cells} training cells; lowest is best."
    return Figure.from_matplotlib(canvas, caption, {f"bic_{name}": curve for name, curve in curves.items()})


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
