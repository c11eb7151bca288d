"""Logistic regression on frozen embeddings, beside the baselines: what a linear reader can tell from them.

Nested: the strength of the penalty and the weighting of the classes are chosen by cross-validation inside the training
cells of each split, so the test cells choose nothing. (The follow-up of the authors, marissaweis/unsupervised_neuronal_
map@3fa84eb7dc, reports the best of its grid on the same folds.) Features are z-scored on the training cells.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from nissl.evaluators.accuracy_intervals import bootstrap_accuracy, paired_difference
from nissl.evaluators.baselines import Block, Method, gather
from nissl.evaluators.embedding_figures import methods_figure
from nissl.evaluators.embeddings import Draws
from nissl.evaluators.protocols import PROTOCOLS, Protocol, Split, fingerprint, given_or_left_out, protocol_splits
from nissl.evaluators.result import Result


class LinearProbe:
    """Evaluator `linear_probe`.

    Args:
        penalties: inverse strengths C of the l2 penalty to choose from.
        balanced: also try classes weighted by the inverse of their size.
        inner_folds: of the choice, inside the training cells.
        protocol: see `protocol_splits`.
        num_folds, num_repeats: of "repeated_folds".
        num_draws: see `embed_split`.
        num_untrained: random initialisations of the untrained baseline.
        published: safetensors of imported weights for a row of their own; None: no row.
        num_resamples: bootstrap resamples of the intervals.
        seed: of folds and untrained encoders.
    """

    metrics = {
        "linear_probe/accuracy": "max",
        "linear_probe/balanced_accuracy": "max",
        "linear_probe*/accuracy": "max",
        "linear_probe*/balanced_accuracy": "max",
        "linear_probe*/accuracy_low": None,
        "linear_probe*/accuracy_high": None,
        "linear_probe*/balanced_accuracy_low": None,
        "linear_probe*/balanced_accuracy_high": None,
        "linear_probe_minus_*/p": "min",
    }

    def __init__(
        self,
        penalties: Sequence[float],
        balanced: bool,
        inner_folds: int,
        protocol: Protocol,
        num_folds: int,
        num_repeats: int,
        num_draws: Draws,
        num_untrained: int,
        published: str | None,
        num_resamples: int,
        seed: int,
    ) -> None:
        if not penalties or min(penalties) <= 0:
            raise ValueError(f"linear_probe.penalties must be positive numbers, came {list(penalties)}")
        if inner_folds < 2:
            raise ValueError(f"linear_probe.inner_folds must be at least 2, came {inner_folds}")
        if protocol not in PROTOCOLS:
            raise ValueError(f"linear_probe.protocol must be one of {', '.join(PROTOCOLS)}, came {protocol!r}")
        if num_untrained < 1:
            raise ValueError(
                f"linear_probe.num_untrained must be at least 1, came {num_untrained}: the baseline is mandatory"
            )
        self.penalties, self.weights = sorted(penalties), [None, "balanced"] if balanced else [None]
        self.inner_folds, self.protocol = inner_folds, protocol
        self.num_folds, self.num_repeats, self.num_draws = num_folds, num_repeats, num_draws
        self.num_untrained, self.published = num_untrained, published
        self.num_resamples, self.seed = num_resamples, seed

    def __call__(self, task: Any, data: Any) -> Result:
        cohort = gather(task, data, self.num_draws, "zscore", self.num_untrained, self.published, self.seed)
        given = cohort.rows["train"], cohort.rows["test"]
        if self.protocol == "given":
            splits = given_or_left_out(cohort.labels, given, cohort.sources, cohort.groups)
        else:
            splits = protocol_splits(
                self.protocol, cohort.labels, given, self.num_folds, self.num_repeats, self.seed, cohort.groups
            )
        correct = {
            name: np.mean([self._hits(run, cohort.labels, splits) for run in runs], axis=0)
            for name, runs in cohort.methods.items()
        }
        tested = np.isfinite(correct["learnt"])
        labels = cohort.labels[tested]
        scalars: dict[str, float] = {}
        table = []
        for name, hits in correct.items():
            metric = "linear_probe" if name == "learnt" else f"linear_probe_{name}"
            score = asdict(bootstrap_accuracy(hits[tested], labels, self.num_resamples, self.seed))
            scalars |= {f"{metric}/{key}": value for key, value in score.items()}
            row: dict[str, Any] = {"method": metric, "protocol": self.protocol}
            row |= {key: round(value, 4) for key, value in score.items()}
            row |= {"difference_of_learnt": "", "difference_low": "", "difference_high": "", "p": ""}
            if name != "learnt":
                value, low, high, p = paired_difference(
                    correct["learnt"][tested], hits[tested], labels, self.num_resamples, self.seed
                )
                row.update(difference_of_learnt=round(value, 4), difference_low=round(low, 4),
                           difference_high=round(high, 4), p=round(p, 5))  # fmt: skip
                difference = f"linear_probe_minus_{name}"
                scalars |= {
                    f"{difference}/balanced_accuracy": value,
                    f"{difference}/balanced_accuracy_low": low,
                    f"{difference}/balanced_accuracy_high": high,
                    f"{difference}/p": p,
                }
            row |= {"scored_on": f"{int(tested.sum())} cells, {len(splits)} splits", "splits": fingerprint(splits)}
            table.append({**row, "ssl_saw_test": cohort.saw_test or self.protocol != "given"})
        caption = (
            f"Balanced accuracy of logistic regression on {int(tested.sum())} cells "
            f"({self.protocol.replace('_', ' ')}); 95 % bootstrap intervals over cells."
        )
        return Result(
            scalars=scalars,
            figures={"methods": methods_figure(table, "balanced_accuracy", "balanced accuracy", caption)},
            tables={"methods": table},
            notes=[
                f"{self.protocol}: penalty and class weights were chosen by {self.inner_folds} folds inside the "
                "training cells of each split."
            ]
            + cohort.notes,
        )

    def _hits(self, run: Method, labels: np.ndarray, splits: list[Split]) -> np.ndarray:
        """Share of splits in which each cell was named rightly, (n,); NaN where it was never tested."""
        hits, count = np.zeros(len(labels)), np.zeros(len(labels))
        for train, test in splits:
            features = Method((Block(run.features(train), "zscore"),)).features(train)
            hits[test] += self.fit(features[train], labels[train]).predict(features[test]) == labels[test]
            count[test] += 1
        with np.errstate(invalid="ignore"):
            return hits / count

    def fit(self, features: np.ndarray, labels: np.ndarray) -> Any:
        """The classifier with the best inner balanced accuracy, fitted on all the cells given."""
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression
        from sklearn.model_selection import GridSearchCV, StratifiedKFold

        folds = min(self.inner_folds, int(np.bincount(np.unique(labels, return_inverse=True)[1]).min()))
        model = LogisticRegression(max_iter=300)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # a poor fit has a poor score
            if folds < 2:
                return model.fit(features, labels)
            grid = {"C": self.penalties, "class_weight": self.weights}
            inner = StratifiedKFold(folds, shuffle=True, random_state=self.seed)
            return GridSearchCV(model, grid, scoring="balanced_accuracy", cv=inner).fit(features, labels)
