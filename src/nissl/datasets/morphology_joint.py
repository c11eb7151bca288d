"""Several archives as one source: trained together, told apart afterwards.

Every archive has its own reader (units, compartments, label column); positions may be divided by the size of a typical
cell of the source, so that none of them is all jitter or all structure; and small sources may be drawn more often.
Classes carry the name of their source ("l6b: Tangential"), because equal words of two cohorts are not one class.

`source_names`, `sources(split)` and the `source` of each graph tell sources apart in tables. A cohort that was never
trained on is given by `test_path`: each of its archives or folders is a source of its own.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from nissl.datasets.morphology_cache import DiskCache, open_cache
from nissl.datasets.morphology_source import Cells, CellSource, Division
from nissl.datasets.swc_cells import Preprocessing
from nissl.datasets.swc_collection import Collection, read_collection, source_name
from nissl.datasets.swc_report import Rules, SwcReport
from nissl.datasets.tree_views import ViewSettings

log = logging.getLogger(__name__)

# What one source may say, and what it means if it does not; see `Morphologies`.
READING: dict[str, Any] = {
    "path": None,
    "metadata": None,
    "label": "label",
    "min_class_size": None,
    "exclude_labels": None,
    "root": "first",
    "soma": "first",
    "scale_um": 1.0,
    "type_map": None,
    "max_gap_um": None,
    "compartments": None,
    "axes": None,
    "centre_axes": None,
    "upright": None,
    "units": "um",
    "pattern": "*.swc",
}


class JointMorphologies(CellSource):
    """Cells of several archives.

    Args:
        sources: name -> how to read it, a mapping with keys of `READING`; `path` is needed.
        normalise: "source" gives a typical cell of each source the same size; "none" keeps um.
        sampling: share of the sources in the training draws, see `draws_per_pass`.
        test_path: folders or archives to embed that were not trained on; None holds out `test_fold` of every source.
        test_reading: how to read them, with the keys of `READING` except `path`.
        min_class_size: a source without its own has this; smaller classes are never judged, see `train_on`.
        centre_axes: as in `Morphologies`, for sources without their own.
        min_nodes, unmatched: as in `Morphologies`, for all sources.
        train_on, num_folds, val_fold, test_fold, split_seed, group_pattern: see `Division`.
        cache_nodes, embed_nodes: see `CellSource`.
        num_nodes, num_drop_branches, cut_edge, rotation, rotation_axis, mirror, jitter_std_um, shift_std_um,
            scale_log_std, num_views, num_local_views, local_share, local_nodes: see `ViewSettings`.
        cache_dir: as in `Morphologies`.
    """

    def __init__(
        self,
        sources: Mapping[str, Mapping[str, Any]],
        normalise: Literal["none", "source"],
        sampling: Literal["proportional", "sqrt", "equal"],
        test_path: str | Sequence[str] | None,
        test_reading: Mapping[str, Any] | None,
        min_class_size: int,
        centre_axes: str,
        min_nodes: int,
        unmatched: Literal["error", "skip"],
        train_on: Literal["train", "all"],
        num_folds: int,
        val_fold: int,
        test_fold: int,
        split_seed: int,
        group_pattern: str | None,
        cache_nodes: int | None,
        embed_nodes: int | None,
        num_nodes: int,
        num_drop_branches: int,
        cut_edge: Literal["parent", "random"],
        rotation: Literal["none", "axis", "so3", "reference"],
        rotation_axis: Literal["x", "y", "z"],
        mirror: bool,
        jitter_std_um: float | Sequence[float],
        shift_std_um: float | Sequence[float],
        scale_log_std: float,
        num_views: int,
        num_local_views: int,
        local_share: float,
        local_nodes: int,
        cache_dir: str | None,
    ) -> None:
        if not sources:
            raise ValueError("dataset.sources is empty; name at least one: {rat_s1: {path: ...}}")
        views = ViewSettings(
            num_nodes,
            num_drop_branches,
            cut_edge,
            rotation,
            rotation_axis,
            mirror,
            jitter_std_um,
            shift_std_um,
            scale_log_std,
            num_views,
            num_local_views,
            local_share,
            local_nodes,
        )
        cache = open_cache(cache_dir)
        cells, files = Cells([], []), []
        self.reports: list[SwcReport] = []
        self.left_out: list[tuple[str, str]] = []

        def read(name: str, given: Mapping[str, Any], into: Cells) -> None:
            options = _options(name, given, min_class_size)
            found = _read(options, centre_axes, min_nodes, unmatched, cache)
            log.info("%s: %s", name, found.summary())
            labels = _judged(found.labels, options)
            into.cells += [replace(cell, id=f"{name}/{cell.id}") for cell in found.cells]
            into.labels += [f"{name}: {label}" if label else UNJUDGED for label in labels]
            into.sources += [name] * len(found.cells)
            files.extend(found.files)
            self.reports += found.reports
            self.left_out += found.left_out

        for name, given in sources.items():
            read(str(name), given, cells)
        test = None
        if test_path is not None:
            test = Cells([], [])
            for path in [test_path] if isinstance(test_path, str) else test_path:
                name = source_name(Path(path))
                read(name if name not in sources else f"{name} (test)", {**(test_reading or {}), "path": path}, test)
        super().__init__(
            read=cells,
            test=test,
            files=list(dict.fromkeys(files)),
            division=Division(
                num_folds,
                val_fold,
                test_fold,
                split_seed,
                exclude_labels=[UNJUDGED] if UNJUDGED in cells.labels + (test.labels if test else []) else [],
                train_on=train_on,
                group_pattern=group_pattern,
            ),
            cache_nodes=cache_nodes,
            views=views,
            embed_nodes=embed_nodes,
            cache=cache,
            normalise=normalise,
            sampling=sampling,
        )


UNJUDGED = "(not judged)"  # cells of too small or meaningless classes: trained on with train_on=all, never scored


def _options(name: str, given: Mapping[str, Any], min_class_size: int) -> dict[str, Any]:
    """What one source says, completed and checked."""
    unknown = sorted(set(given) - set(READING))
    if unknown:
        raise ValueError(
            f"dataset.sources.{name} says {', '.join(map(repr, unknown))}; it may say {', '.join(READING)}"
        )
    options = {**READING, "min_class_size": min_class_size, **given}
    if options["path"] is None:
        raise ValueError(f"dataset.sources.{name} has no path")
    return options


def _read(
    options: Mapping[str, Any], centre_axes: str, min_nodes: int, unmatched: Literal["error", "skip"],
    cache: DiskCache | None,
) -> Collection:  # fmt: skip
    scale = options["scale_um"]
    rules = Rules(
        root=options["root"],
        soma=options["soma"],
        scale_um=1.0 if isinstance(scale, Mapping) else scale,
        type_map=options["type_map"] or {},
        max_gap_um=float("inf") if options["max_gap_um"] is None else options["max_gap_um"],
    )
    preprocessing = Preprocessing(
        rules,
        options["compartments"],
        centre_axes if options["centre_axes"] is None else options["centre_axes"],
        min_nodes,
        dict(scale) if isinstance(scale, Mapping) else {},
        options["axes"],
        options["units"],
    )
    return read_collection(
        options["path"],
        options["metadata"],
        options["label"],
        preprocessing,
        unmatched,
        options["pattern"],
        options["upright"],
        cache,
    )


def _judged(labels: list[str], options: Mapping[str, Any]) -> list[str]:
    """Labels, empty where the class is excluded or too small to be judged."""
    excluded = set(options["exclude_labels"] or ())
    return [
        label if label not in excluded and labels.count(label) >= options["min_class_size"] else "" for label in labels
    ]
