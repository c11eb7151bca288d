"""Nearest-neighbour classification of embeddings, beside the baselines it has to beat, on the same cells.

Weis et al. 2023 vote with k = 5. The first protocol of the list is the headline and gives `knn/accuracy`; the others
stand in the table and under `knn/<protocol>/...`. Nothing is tuned on test: where several k are given, one is chosen
per split by leave-one-out within its training cells. Every method gets intervals (bootstrap over cells, stratified by
class), and every baseline the paired difference of the embedding from it, alone and side by side with morphometrics.

Under "given", a test source whose classes are all unknown to the training cells (`dataset.test_path` of an archive that
was never seen) is scored by leave-one-out within itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Literal

import numpy as np

from nissl.evaluators.accuracy_intervals import bootstrap_accuracy, paired_difference
from nissl.evaluators.baselines import EMBEDDING_SCALINGS, Cohort, EmbeddingScaling, Method, gather
from nissl.evaluators.embedding_figures import (
    confusion_figure,
    effective_rank,
    embedding_figure,
    methods_figure,
    spectrum_figure,
)
from nissl.evaluators.embeddings import Draws
from nissl.evaluators.neighbours import balanced_accuracy, choose_k, knn_predict
from nissl.evaluators.protocols import (
    PROTOCOLS,
    Protocol,
    Split,
    fingerprint,
    given_or_left_out,
    never_seen,
    protocol_splits,
    within_sources,
)
from nissl.evaluators.result import Result

COMPARED = {"learnt": "learnt_minus_this", "with_morphometrics": "with_morphometrics_minus_this"}  # table columns
MANY_SPLITS = 60  # above it single splits (left-out cells) have no row of their own


class KNN:
    """Evaluator `knn`.

    Args:
        k: neighbours; of several candidates one is chosen on the training cells of each split.
        metric: distance between features.
        temperature: soft votes, see `knn_predict`; None counts votes.
        scaling: of embeddings; hand-made features are z-scored, pictures reduced by PCA.
        protocols: see `protocol_splits`; the first is the headline.
        num_folds, num_repeats: of "repeated_folds".
        num_draws: random thinnings averaged into an embedding, or "all" nodes.
        num_untrained: random initialisations of the untrained baseline.
        published: safetensors of imported weights for a row of their own; None: no row.
        num_resamples: bootstrap resamples of the intervals.
        seed: seed of everything random here.
        within_source: cells are named by cells of their own archive alone, and scaled by these; for joint data.
    """

    metrics = {
        "knn/accuracy": "max",
        "knn/balanced_accuracy": "max",
        "knn_morphometrics/accuracy": "max",
        "knn_morphometrics/balanced_accuracy": "max",
        "knn_untrained/accuracy": "max",
        "knn_untrained/balanced_accuracy": "max",
        "knn_majority/accuracy": None,
        "knn_majority/balanced_accuracy": None,
        "knn*/accuracy": "max",
        "knn*/balanced_accuracy": "max",
        "knn*/accuracy_low": None,
        "knn*/accuracy_high": None,
        "knn*/balanced_accuracy_low": None,
        "knn*/balanced_accuracy_high": None,
        "knn/effective_rank": "max",
        "knn_minus_*/balanced_accuracy": "max",
        "knn_minus_*/balanced_accuracy_low": None,
        "knn_minus_*/balanced_accuracy_high": None,
        "knn_minus_*/p": "min",
        "knn_with_morphometrics_minus_*/balanced_accuracy": "max",
        "knn_with_morphometrics_minus_*/balanced_accuracy_low": None,
        "knn_with_morphometrics_minus_*/balanced_accuracy_high": None,
        "knn_with_morphometrics_minus_*/p": "min",
    }

    def __init__(
        self,
        k: int | Sequence[int],
        metric: Literal["euclidean", "cosine"],
        temperature: float | None,
        scaling: EmbeddingScaling,
        protocols: Sequence[Protocol],
        num_folds: int,
        num_repeats: int,
        num_draws: Draws,
        num_untrained: int,
        published: str | None,
        num_resamples: int,
        seed: int,
        within_source: bool = False,
    ) -> None:
        self.candidates = [k] if isinstance(k, int) else sorted(k)
        if not self.candidates or self.candidates[0] < 1:
            raise ValueError(f"knn.k must be at least 1, came {k}")
        if metric not in ("euclidean", "cosine"):
            raise ValueError(f"knn.metric must be euclidean or cosine, came {metric!r}")
        if temperature is not None and not temperature > 0:
            raise ValueError(f"knn.temperature must be positive, or null for counted votes, came {temperature}")
        if scaling not in EMBEDDING_SCALINGS:
            raise ValueError(f"knn.scaling must be one of {', '.join(EMBEDDING_SCALINGS)}, came {scaling!r}")
        if not protocols or set(protocols) - set(PROTOCOLS):
            raise ValueError(f"knn.protocols must be a list of {', '.join(PROTOCOLS)}, came {list(protocols)}")
        if num_folds < 2 or num_repeats < 1:
            raise ValueError(f"knn.num_folds must be at least 2 and num_repeats 1, came {num_folds} and {num_repeats}")
        if num_draws != "all" and num_draws < 1:
            raise ValueError(f"knn.num_draws must be at least 1, or all, came {num_draws!r}")
        if num_untrained < 1:
            raise ValueError(f"knn.num_untrained must be at least 1, came {num_untrained}: the baseline is mandatory")
        self.metric, self.temperature, self.scaling, self.protocols = metric, temperature, scaling, list(protocols)
        self.num_folds, self.num_repeats, self.num_draws = num_folds, num_repeats, num_draws
        self.num_untrained, self.published = num_untrained, published
        self.num_resamples, self.seed, self.within_source = num_resamples, seed, within_source

    def __call__(self, task: Any, data: Any) -> Result:
        source = data.source
        if "given" in self.protocols:
            check_given_split(source, self.candidates[0])
        cohort = gather(task, data, self.num_draws, self.scaling, self.num_untrained, self.published, self.seed)
        scalars: dict[str, float] = {}
        tables: dict[str, list[dict[str, Any]]] = {"methods": [], "splits": []}
        figures, notes = {}, list(cohort.notes)
        for protocol in self.protocols:
            is_headline = protocol == self.protocols[0]
            splits = self._splits(protocol, cohort)
            scored = {name: self._score(runs, cohort, splits) for name, runs in cohort.methods.items()}
            scored["majority"] = _majority(cohort.labels, splits)
            rows, values = self._table(protocol, cohort, splits, scored, "" if is_headline else f"/{protocol}")
            scalars |= values
            tables["methods"] += rows
            if 1 < len(splits) <= MANY_SPLITS:
                tables["splits"] += _split_rows(protocol, scored)
            notes.append(self._statement(protocol, cohort, splits))
            if is_headline:
                tested = np.flatnonzero(np.isfinite(scored["learnt"].correct))
                tables["recall"] = _recall_table(scored, cohort.labels, cohort.classes, tested)
                if len(set(cohort.sources)) > 1:
                    tables["sources"] = _source_rows(scored, cohort, tested, self.num_resamples, self.seed)
                predicted = scored["learnt"].last_prediction[tested]
                what = f"the vote on the embedding of {len(tested)} cells ({protocol.replace('_', ' ')})"
                figures["confusion"] = confusion_figure(cohort.labels[tested], predicted, cohort.classes, what)
                sizes = np.unique(cohort.labels[tested], return_counts=True)[1]
                if sizes.min() < 20:
                    notes.append(
                        f"{int((sizes < 20).sum())} of {len(sizes)} classes have fewer than 20 scored cells: intervals "
                        "are wide; see the recall per class."
                    )
        learnt = cohort.methods["learnt"][0].blocks[0].values
        is_test = np.isin(np.arange(len(cohort.labels)), cohort.rows["test"])
        figures["embedding"] = embedding_figure(learnt, cohort.labels, is_test, cohort.classes, self.seed)
        figures["spectrum"] = spectrum_figure(learnt, cohort.methods["untrained"][0].blocks[0].values)
        scalars["knn/effective_rank"] = effective_rank(learnt)[0]
        figures["methods"] = methods_figure(
            tables["methods"], "balanced_accuracy", "balanced accuracy",
            "Balanced accuracy of the vote on each method's features; 95 % bootstrap intervals over cells.",
        )  # fmt: skip
        if not tables["splits"]:
            del tables["splits"]
        arrays = {f"embedding_{split}": learnt[rows] for split, rows in cohort.rows.items()}
        arrays |= {f"label_{split}": cohort.labels[rows] for split, rows in cohort.rows.items()}
        return Result(scalars=scalars, figures=figures, tables=tables, arrays=arrays, notes=notes)

    def _splits(self, protocol: Protocol, cohort: Cohort) -> list[Split]:
        given = cohort.rows["train"], cohort.rows["test"]
        if protocol == "given":
            splits = given_or_left_out(cohort.labels, given, cohort.sources, cohort.groups)
        else:
            splits = protocol_splits(
                protocol, cohort.labels, given, self.num_folds, self.num_repeats, self.seed, cohort.groups
            )
        return within_sources(splits, cohort.sources) if self.within_source else splits

    def _score(self, runs: list[Method], cohort: Cohort, splits: list[Split]) -> Scores:
        """The vote of every run of a method on every split."""
        hits, count = np.zeros(len(cohort.labels)), np.zeros(len(cohort.labels))
        last, per_split, chosen = np.full(len(cohort.labels), -1), np.zeros(len(splits)), []
        for method in runs:
            for s, (train, test) in enumerate(splits):
                features = method.features(train)
                own = cohort.labels[train]
                k = choose_k(features[train], own, self.candidates, self.metric, self.temperature)
                predicted = knn_predict(features[train], own, features[test], k, self.metric, self.temperature)
                hits[test] += predicted == cohort.labels[test]
                count[test] += 1
                last[test] = predicted
                per_split[s] += balanced_accuracy(predicted, cohort.labels[test]) / len(runs)
                chosen.append(k)
        with np.errstate(invalid="ignore"):
            return Scores(hits / count, last, per_split, chosen)

    def _table(
        self, protocol: str, cohort: Cohort, splits: list[Split], scored: dict[str, Scores], suffix: str
    ) -> tuple[list[dict[str, Any]], dict[str, float]]:
        """Rows of the table and scalars of one protocol."""
        tested = np.isfinite(scored["learnt"].correct)
        labels = cohort.labels[tested]
        facts = {
            "k": _listed(self.candidates),
            "metric": self.metric,
            "votes": "counted" if self.temperature is None else f"soft, temperature {self.temperature:g}",
            "scaling": self.scaling,
            "draws": self.num_draws,
            "fitted_on": f"{len(splits[0][0])} cells",
            "scored_on": f"{int(tested.sum())} cells, {len(splits)} splits",
            "classes": len(np.unique(labels)),
            "splits": fingerprint(splits),
            "ssl_saw_test": cohort.saw_test or protocol != "given",
        }
        rows: list[dict[str, Any]] = []
        scalars: dict[str, float] = {}
        for name, scores in scored.items():
            metric = "knn" if name == "learnt" else f"knn_{name}"
            score = asdict(bootstrap_accuracy(scores.correct[tested], labels, self.num_resamples, self.seed))
            scalars |= {f"{metric}{suffix}/{key}": value for key, value in score.items()}
            row: dict[str, Any] = {"method": metric, "protocol": protocol}
            row |= {key: round(value, 4) for key, value in score.items()}
            for ours, prefix in COMPARED.items():
                columns = [prefix, f"{prefix}_low", f"{prefix}_high", f"{prefix}_p"]
                row |= dict.fromkeys(columns, "")
                if ours not in scored or name in (ours, "learnt"):
                    continue
                values = paired_difference(
                    scored[ours].correct[tested], scores.correct[tested], labels, self.num_resamples, self.seed
                )
                row |= {c: round(value, 5) for c, value in zip(columns, values, strict=True)}
                difference = f"{'knn' if ours == 'learnt' else f'knn_{ours}'}_minus_{name}{suffix}"
                keys = ("balanced_accuracy", "balanced_accuracy_low", "balanced_accuracy_high", "p")
                scalars |= {f"{difference}/{key}": value for key, value in zip(keys, values, strict=True)}
            row["chosen_k"] = _listed(sorted(set(scores.chosen_k)))
            rows.append({**row, **facts})
        return rows, scalars

    def _statement(self, protocol: str, cohort: Cohort, splits: list[Split]) -> str:
        train, tested = len(splits[0][0]), len(np.unique(np.concatenate([test for _, test in splits])))
        saw = "false for this run's training"
        if cohort.saw_test:
            saw = "true, this run's training saw all cells, without labels"
        elif protocol != "given":
            saw = f"this run's training saw the {len(cohort.rows['train'])} cells of its train split, without labels"
        new = never_seen(cohort.labels, (cohort.rows["train"], cohort.rows["test"]), cohort.sources)
        how = "within each source, " if self.within_source else ""
        if protocol == "given" and len(new):
            names = ", ".join(sorted(set(cohort.sources[new])))
            how += f"leave-one-out within {names} (no training cell has its classes), "
        return (
            f"{protocol}: {_listed(self.candidates)}-NN ({self.metric}), {how}fitted on {train}, scored on "
            f"{tested} cells. "
            f"ssl_saw_test: {saw}; what imported weights saw is not known."
        )


class Scores:
    """How one method did on one protocol.

    Attributes:
        correct: share of right votes on each cell over splits and runs, (n,); NaN where it was never tested.
        last_prediction: class the cell was given last, (n,); -1 where never.
        per_split: balanced accuracy of each split, mean over runs.
        chosen_k: k of each vote.
    """

    def __init__(
        self, correct: np.ndarray, last_prediction: np.ndarray, per_split: np.ndarray, chosen_k: list[int]
    ) -> None:
        self.correct, self.last_prediction, self.per_split, self.chosen_k = (
            correct,
            last_prediction,
            per_split,
            chosen_k,
        )


def _majority(labels: np.ndarray, splits: list[Split]) -> Scores:
    hits, count, per_split = np.zeros(len(labels)), np.zeros(len(labels)), []
    last = np.full(len(labels), -1)
    for train, test in splits:
        commonest = np.bincount(labels[train]).argmax()
        last[test] = commonest
        hits[test] += labels[test] == commonest
        count[test] += 1
        per_split.append(balanced_accuracy(last[test], labels[test]))
    with np.errstate(invalid="ignore"):
        return Scores(hits / count, last, np.array(per_split), [])


def _split_rows(protocol: str, scored: dict[str, Scores]) -> list[dict[str, Any]]:
    """Balanced accuracy over splits: mean, standard deviation, least and greatest."""
    return [
        {
            "method": "knn" if name == "learnt" else f"knn_{name}",
            "protocol": protocol,
            "splits": len(s.per_split),
            "mean": round(float(s.per_split.mean()), 4),
            "std": round(float(s.per_split.std(ddof=1)), 4),
            "least": round(float(s.per_split.min()), 4),
            "greatest": round(float(s.per_split.max()), 4),
        }
        for name, s in scored.items()
    ]


def _recall_table(
    scored: dict[str, Scores], labels: np.ndarray, classes: list[str], tested: np.ndarray
) -> list[dict[str, Any]]:
    rows = []
    for c in np.unique(labels[tested]):
        own = tested[labels[tested] == c]
        names = {name: "knn" if name == "learnt" else f"knn_{name}" for name in scored}
        recalls = {names[name]: round(float(s.correct[own].mean()), 4) for name, s in scored.items()}
        rows.append({"class": classes[c], "test_cells": len(own), **recalls})
    return rows


def _source_rows(
    scored: dict[str, Scores], cohort: Cohort, tested: np.ndarray, num_resamples: int, seed: int
) -> list[dict[str, Any]]:
    """Balanced accuracy of every method within each archive of a joint data set, with 95 % intervals."""
    rows = []
    for source in sorted(set(cohort.sources[tested])):
        own = tested[cohort.sources[tested] == source]
        labels = np.unique(cohort.labels[own], return_inverse=True)[1]
        row: dict[str, Any] = {"source": source, "test_cells": len(own), "classes": len(np.unique(labels))}
        for name, s in scored.items():
            score = bootstrap_accuracy(s.correct[own], labels, num_resamples, seed)
            metric = "knn" if name == "learnt" else f"knn_{name}"
            row[metric] = round(score.balanced_accuracy, 4)
            row[f"{metric}_low"] = round(score.balanced_accuracy_low, 4)
            row[f"{metric}_high"] = round(score.balanced_accuracy_high, 4)
        rows.append(row)
    return rows


def _listed(values: Sequence[int]) -> str:
    return " or ".join(str(value) for value in values)


def check_given_split(source: Any, k: int) -> None:
    """Refuse a split that a vote of k cannot be fitted or scored on."""
    train, test = (np.asarray(source.labels(split)) for split in ("train", "test"))
    if len(test) == 0:
        raise ValueError("the test split is empty; set dataset.test_fold or dataset.test_path")
    labels, rows = np.concatenate([train, test]), np.arange(len(train) + len(test))
    names = np.zeros(len(rows), int)
    if hasattr(source, "sources"):
        names = np.concatenate([np.asarray(source.sources(split)) for split in ("train", "test")])
    new = never_seen(labels, (rows[: len(train)], rows[len(train) :]), names)
    for name in np.unique(names[new]):  # these are scored by leave-one-out within their source
        own = labels[new[names[new] == name]]
        if k >= len(own) or np.unique(own, return_counts=True)[1].min() < 2:
            raise ValueError(
                f"leave-one-out within the new source needs more than knn.k={k} cells and 2 of each class, and it has "
                f"{len(own)} cells; lower knn.k, raise dataset.min_class_size or give it training cells"
            )
    known = np.setdiff1d(rows[len(train) :], new)
    if len(known) == 0:
        return
    if len(np.unique(train)) < 2:
        raise ValueError("kNN needs at least two classes among the training cells; choose another dataset.label")
    if k > len(train):
        raise ValueError(f"knn.k={k} is more than the {len(train)} training cells")
    unseen = np.setdiff1d(labels[known], train)
    if len(unseen):
        listed = ", ".join(repr(source.classes[c]) for c in unseen[:5])
        raise ValueError(f"test classes without a training cell: {listed}. kNN cannot name them; leave them out")
