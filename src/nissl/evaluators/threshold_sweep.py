"""Chooses the threshold of every stored method on one part of the data and scores it on another, in one figure.

What a method stores is an HDF5 file that covers the volumes' file: fragments and scored pairs (`pairs`, `scores`), or
segments and their probability (`probability`). A flooding of ours and its agglomeration need no file. Thresholds of a
baseline were scored by `watershed_sweep`, whose table is read. See `nissl.evaluators.threshold_curve` for what is done
with them.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import h5py
import numpy as np

from nissl.evaluators.erl import skeletons_of
from nissl.evaluators.result import Result
from nissl.evaluators.stored_segmentation import Segmenter
from nissl.evaluators.threshold_curve import (
    Fragments,
    agglomeration_rows,
    choose,
    curve_figure,
    probability_rows,
    score,
    with_levels,
)
from nissl.flood_fill.probability import dequantise
from nissl.volumes.annotated import AnnotatedVolume
from nissl.volumes.boxes import Box
from nissl.volumes.chunked import read_hdf5

KEYS = {"path", "ids", "pairs", "scores", "probability"}


class ThresholdSweep:
    """One curve of run length against merge rate per method.

    Args:
        methods: name -> {path, ids, pairs, scores} for scored pairs (joined from the threshold on), {path, ids,
            probability} for a threshold on probabilities (0 to 1, or uint8 0 to 255), {path, ids} for one point,
            {table} for the table `watershed_sweep_thresholds.csv` of a run with the same boxes.
        segmenter: a plain flooding becomes the method "flood_fill", with a threshold on its probabilities; the
            decisions of one that agglomerates, such as `flood_fill_staged`, become the method "agglomeration", from
            the segments before it and the certainty of each pair. None: none.
        tuning_split, test_split: "val" or "test".
        tuning_box, test_box: [[z0, z1], [y0, y1], [x0, x1]] in voxels of the file, or null for all of the split. The
            two may not share a voxel.
        num_thresholds: quantiles of the scores, or equal steps of probability.
        min_size: voxels; smaller segments are dropped behind a probability threshold.
        max_mergers_per_mm: the cap when a threshold is chosen; null for none.
        merge_threshold, contiguous: of the run length.
    """

    metrics = {
        "sweep_*/threshold": None,
        "sweep_*/mean_nm": "max",
        "sweep_*/normalized": "max",
        "sweep_*/mergers": "min",
        "sweep_*/mergers_per_mm": "min",
        "sweep_*/voi_sum": "min",
        "sweep_*/coverage": "max",
    }

    def __init__(
        self,
        methods: Mapping[str, Mapping[str, str]],
        segmenter: Segmenter | None,
        tuning_split: str,
        tuning_box: Sequence[Sequence[int]] | None,
        test_split: str,
        test_box: Sequence[Sequence[int]] | None,
        num_thresholds: int,
        min_size: int,
        max_mergers_per_mm: float | None,
        merge_threshold: int,
        contiguous: bool,
    ) -> None:
        if not methods and segmenter is None:
            raise ValueError(
                "there is nothing to sweep: give methods={name: {path: ..., ids: ..., pairs: ..., scores: ...}} or a "
                "segmenter that agglomerates"
            )
        for name, method in methods.items():
            if set(method) == {"table"}:
                continue
            extra, lacking = set(method) - KEYS, {"path", "ids"} - set(method)
            if extra or lacking or ("pairs" in method) != ("scores" in method):
                raise ValueError(
                    f"method '{name}' must have path and ids, and pairs with scores, or probability, or neither; or "
                    f"a table alone; came {sorted(method)}"
                )
        for split in (tuning_split, test_split):
            if split not in ("val", "test"):
                raise ValueError(f"tuning_split and test_split must be val or test, came {split!r}")
        if num_thresholds < 1:
            raise ValueError(f"num_thresholds must be at least 1, came {num_thresholds}")
        self.methods, self.segmenter = methods, segmenter
        self.parts = {"tuning": (tuning_split, tuning_box), "test": (test_split, test_box)}
        self.num_thresholds, self.min_size, self.max_mergers_per_mm = num_thresholds, min_size, max_mergers_per_mm
        self.merge_threshold, self.contiguous = merge_threshold, contiguous

    def __call__(self, task: Any, data: Any) -> Result:
        volumes = {}
        for name, (split, ranges) in self.parts.items():
            found = data.source.volumes(split)
            if len(found) != 1:
                raise ValueError(f"thresholds are swept in one volume at a time; split {split!r} has {len(found)}")
            volumes[name] = _part(found[0], ranges, f"evaluator.threshold_sweep.{name}_box")
        if _overlap(volumes["tuning"].box, volumes["test"].box):
            raise ValueError(
                f"thresholds would be chosen on voxels that they are tested on: tuning {volumes['tuning'].box}, test "
                f"{volumes['test'].box}. Set tuning_box and test_box to parts that do not overlap."
            )
        curves: dict[str, dict[str, list[dict[str, Any]]]] = {"tuning": {}, "test": {}}
        chosen: dict[str, int] = {}
        scalars: dict[str, float] = {}
        table: list[dict[str, Any]] = []
        sources: dict[str, Source] = {
            name: FromTable(method["table"], self) if "table" in method else FromFile(method, self)
            for name, method in self.methods.items()
        }
        if self.segmenter is not None:
            found = {
                part: self.segmenter.segment(task.model, data.source.volumes(split))[0]
                for part, (split, _) in self.parts.items()
            }
            wholes = {part: data.source.volumes(split)[0] for part, (split, _) in self.parts.items()}
            if found["tuning"].probability is None:
                sources["agglomeration"] = FromDecisions(found, wholes, self)
            else:
                sources["flood_fill"] = FromProbability(found, wholes, self)
        for name, source in sources.items():
            thresholds = source.thresholds()
            for part, volume in volumes.items():
                curves[part][name] = source.rows(part, volume, thresholds)
            chosen[name] = choose(curves["tuning"][name], self.max_mergers_per_mm)
            best = curves["test"][name][chosen[name]]
            scalars |= {
                f"sweep_{name}/{metric}": best[key]
                for metric, key in (
                    ("mean_nm", "erl_nm"),
                    *((k, k) for k in ("normalized", "mergers", "mergers_per_mm")),
                )
            }
            scalars |= {f"sweep_{name}/{key}": best[key] for key in ("threshold", "voi_sum", "coverage") if key in best}
            for part in curves:
                for index, row in enumerate(curves[part][name]):
                    table.append({"method": name, "part": part, **row, "chosen": index == chosen[name]})
        keys = list(dict.fromkeys(key for row in table for key in row))
        table = [{key: row.get(key, "") for key in keys} for row in table]
        figures = {
            part: curve_figure(curves[part], chosen, self.max_mergers_per_mm, self._caption(part, volume))
            for part, volume in volumes.items()
        }
        notes = [
            f"{name}: no threshold keeps {self.max_mergers_per_mm:g} mergers per mm; that with the fewest was taken"
            for name in chosen
            if self.max_mergers_per_mm is not None
            and curves["tuning"][name][chosen[name]]["mergers_per_mm"] > self.max_mergers_per_mm
        ]
        return Result(scalars, figures, {"curve": table}, notes=notes)

    def _caption(self, part: str, volume: AnnotatedVolume) -> str:
        use = "thresholds chosen here" if part == "tuning" else "thresholds were chosen on other voxels"
        size = " x ".join(f"{v:g}" for v in volume.voxel_size_zyx_nm)
        return (
            f"Expected run length against merge rate for each threshold of each method on {volume.name} ({part}, "
            f"{use}; voxels of {size} nm, merge threshold {self.merge_threshold} nodes). Ringed: the chosen threshold."
        )


class Source(Protocol):
    """Where the curve of one method is from."""

    def thresholds(self) -> list[float]:
        """What is tried."""

    def rows(self, part: str, volume: AnnotatedVolume, thresholds: Sequence[float]) -> list[dict[str, Any]]:
        """The numbers of each threshold on a part ("tuning" or "test")."""


class FromFile:
    """Fragments and scores, or segments and probability, that a file holds."""

    def __init__(self, method: Mapping[str, str], sweep: ThresholdSweep) -> None:
        self.method, self.sweep = method, sweep

    def thresholds(self) -> list[float]:
        if "scores" in self.method:
            return _quantiles(_read(self.method, "scores"), self.sweep.num_thresholds)
        if "probability" in self.method:
            return _probabilities(self.sweep)
        return [float("nan")]

    def rows(self, part: str, volume: AnnotatedVolume, thresholds: Sequence[float]) -> list[dict[str, Any]]:
        method, rule = self.method, (self.sweep.merge_threshold, self.sweep.contiguous)
        ids = read_hdf5(method["path"], method["ids"], "labels", volume.box).astype(np.int64)
        if "probability" in method:
            probability = read_hdf5(method["path"], method["probability"], "image", volume.box)
            return _levels(ids, probability, volume, thresholds, self.sweep)
        fragments = Fragments.of(ids, skeletons_of(volume), volume.labels, volume.voxel_size_zyx_nm)
        if "scores" in method:
            pairs, pair_scores = _read(method, "pairs"), _read(method, "scores")
            return agglomeration_rows(fragments, pairs, pair_scores, thresholds, *rule)
        return [{"threshold": float("nan")} | score(fragments, fragments.ids, *rule)]


class FromTable:
    """Rows that `watershed_sweep` wrote: a threshold and its scores on the tuning volume and on the test volume."""

    def __init__(self, path: str, sweep: ThresholdSweep) -> None:
        with open(path, newline="") as file:
            found = list(csv.DictReader(file))
        needed = {"volume", "threshold", "erl_nm", "normalized", "mergers", "mergers_per_mm", "merge_threshold"}
        lacking = needed - set(found[0] if found else ())
        if lacking:
            raise ValueError(f"{path} is no table of watershed_sweep, it lacks {sorted(lacking)}")
        self.found: dict[str, list[dict[str, Any]]] = {"tuning": [], "test": []}
        for row in found:
            values = {key: float(value) for key, value in row.items() if key != "volume"}
            if values.pop("merge_threshold") != sweep.merge_threshold:
                raise ValueError(
                    f"{path} was scored with a merge threshold of {row['merge_threshold']} nodes, this sweep has "
                    f"{sweep.merge_threshold}. Set evaluator.threshold_sweep.merge_threshold."
                )
            self.found[row["volume"]].append(values)

    def thresholds(self) -> list[float]:
        return [row["threshold"] for row in self.found["tuning"]]

    def rows(self, part: str, volume: AnnotatedVolume, thresholds: Sequence[float]) -> list[dict[str, Any]]:
        return self.found[part]


class FromProbability:
    """Segments of a plain flooding and the probability of their voxels.

    Args:
        found: part -> what the segmenter made of the volume that holds it.
        wholes: part -> that volume.
        sweep: the rules.
    """

    def __init__(self, found: Mapping[str, Any], wholes: Mapping[str, AnnotatedVolume], sweep: ThresholdSweep) -> None:
        self.found, self.wholes, self.sweep = found, wholes, sweep

    def thresholds(self) -> list[float]:
        return _probabilities(self.sweep)

    def rows(self, part: str, volume: AnnotatedVolume, thresholds: Sequence[float]) -> list[dict[str, Any]]:
        place = _place(volume, self.wholes[part])
        found = self.found[part]
        return _levels(found.ids[place], found.probability[place], volume, thresholds, self.sweep)


class FromDecisions:
    """Segments before an agglomeration, and the certainty of each pair that it decided on.

    Args:
        found: part -> what a staged segmenter made of the volume that holds it.
        wholes: part -> that volume.
        sweep: the rules.
    """

    def __init__(self, found: Mapping[str, Any], wholes: Mapping[str, AnnotatedVolume], sweep: ThresholdSweep) -> None:
        self.found, self.wholes, self.sweep = found, wholes, sweep
        if not found["tuning"].tables.get("decisions"):
            raise ValueError(
                "this segmenter decided on no pair on the tuning part and keeps no probability. "
                "Take segmenter=flood_fill_staged or flood_fill."
            )

    def thresholds(self) -> list[float]:
        certainty = np.array([row["certainty"] for row in self.found["tuning"].tables["decisions"]])
        return _quantiles(certainty, self.sweep.num_thresholds)

    def rows(self, part: str, volume: AnnotatedVolume, thresholds: Sequence[float]) -> list[dict[str, Any]]:
        found, whole = self.found[part], self.wholes[part]
        names = list(found.stages)
        before = found.stages[names[names.index("agglomeration") - 1]]
        ids = before[_place(volume, whole)]
        decisions = found.tables.get("decisions", [])
        pairs = np.array([(row["first"], row["second"]) for row in decisions], np.int64).reshape(-1, 2)
        certainty = np.array([row["certainty"] for row in decisions])
        fragments = Fragments.of(ids.astype(np.int64), skeletons_of(volume), volume.labels, volume.voxel_size_zyx_nm)
        rule = (self.sweep.merge_threshold, self.sweep.contiguous)
        return agglomeration_rows(fragments, pairs, certainty, thresholds, *rule)


def _place(part: AnnotatedVolume, whole: AnnotatedVolume) -> tuple[slice, ...]:
    """Where a part lies in the volume that holds it."""
    start = np.subtract(part.offset_zyx, whole.offset_zyx)
    return tuple(slice(a, a + n) for a, n in zip(start, part.raw.shape, strict=True))


def _levels(
    ids: np.ndarray,
    probability: np.ndarray,
    volume: AnnotatedVolume,
    thresholds: Sequence[float],
    sweep: ThresholdSweep,
) -> list[dict[str, Any]]:
    """Rows of segments whose voxels have a probability, 0 to 1 or as uint8."""
    if probability.dtype == np.uint8:
        probability = np.nan_to_num(dequantise(probability))
    levels = with_levels(ids, probability, thresholds)
    fragments = Fragments.of(levels, skeletons_of(volume), volume.labels, volume.voxel_size_zyx_nm)
    return probability_rows(fragments, thresholds, sweep.min_size, sweep.merge_threshold, sweep.contiguous)


def _probabilities(sweep: ThresholdSweep) -> list[float]:
    return np.linspace(0.5, 0.95, sweep.num_thresholds).round(4).tolist()


def _quantiles(values: np.ndarray, num: int) -> list[float]:
    """Thresholds that accept more and more of the pairs, and one above all, which accepts none."""
    return [*np.unique(np.quantile(values, np.linspace(0, 1, num))).tolist(), float(np.nextafter(values.max(), np.inf))]


def _read(method: Mapping[str, str], key: str) -> np.ndarray:
    with h5py.File(method["path"], "r") as file:
        if method[key] not in file:
            raise ValueError(f"{method['path']} has no dataset '{method[key]}'; it holds {sorted(file)}")
        found = np.asarray(file[method[key]])
    expected = 2 if key == "pairs" else 1
    if found.ndim != expected or len(found) == 0 or (key == "pairs" and found.shape[1] != 2):
        raise ValueError(
            f"'{method[key]}' of {method['path']} must be {'(P, 2)' if key == 'pairs' else '(P,)'}, P > 0, came "
            f"{found.shape}"
        )
    return found


def _part(volume: AnnotatedVolume, ranges: Sequence[Sequence[int]] | None, name: str) -> AnnotatedVolume:
    """The box of the file that a config names, as a part of the volume that holds it."""
    if ranges is None:
        return volume
    start = volume.offset_zyx
    local = [[int(a) - s, int(b) - s] for (a, b), s in zip(ranges, start, strict=True)]
    return volume.crop(Box.parse(local, volume.raw.shape, f"{name} (counted from {list(start)})"))


def _overlap(a: Box, b: Box) -> bool:
    return bool(np.all(np.less(a.start_zyx, b.stop_zyx) & np.less(b.start_zyx, a.stop_zyx)))
