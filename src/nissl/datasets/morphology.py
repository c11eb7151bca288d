"""Neuron morphologies from files, or simulated ones, as a source of trees; `morphology_source` says what it offers."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Literal

from nissl.datasets.cell_graph import CellGraph, take
from nissl.datasets.morphology_cache import open_cache
from nissl.datasets.morphology_source import Cells, CellSource, Division
from nissl.datasets.morphology_tissue import check_tissue
from nissl.datasets.swc_cells import Preprocessing, select_compartments
from nissl.datasets.swc_collection import Collection, read_collection
from nissl.datasets.swc_report import Rules
from nissl.datasets.tree_views import ViewSettings
from nissl.simulate.neurons import FAMILY, POPULATIONS, simulate_neurons

log = logging.getLogger(__name__)

ScaleUm = float | Sequence[float] | Mapping[str, float | Sequence[float]]


class Morphologies(CellSource):
    """SWC files of folders or archives with a metadata table.

    Args:
        path: folder(s), .tar(.gz) or .zip archive(s), or file(s).
        metadata: CSV with columns `file`, the label's, and optionally `archive`; None labels by folder name.
        label: column of the class.
        test_path: a separate test set, read in the same way; None holds out `test_fold`.
        test_metadata: its table.
        unmatched: "error" or "skip": rows without a file, files without a row, empty labels.
        min_class_size, drop_small_classes, exclude_labels, train_on, split_column, group_pattern: see `Division`.
        policy, root, soma, type_map, max_gap_um, merge_coincident, min_soma_radius_um: see `Rules`.
        scale_um: um per unit of the files: one number, three (x, y, z), or pattern -> either, the first match counts.
        compartments, centre_axes, min_nodes, axes, units: see `Preprocessing`.
        num_folds, val_fold, test_fold, split_seed: see `split_by_folds`.
        cache_nodes, embed_nodes: see `CellSource`.
        num_nodes, num_drop_branches, cut_edge, rotation, rotation_axis, mirror, jitter_std_um, shift_std_um,
            scale_log_std, num_views, num_local_views, local_share, local_nodes, reference: see `ViewSettings`.
        pattern: which paths inside are neurons, see `members`.
        upright: axis -> column with an angle, see `morphology_tissue.upright`.
        oriented: whether the axes are those of the tissue; None: not known.
        tissue: what the augmentation must respect, see `morphology_tissue`; None: nothing.
        cache_dir: where cells as read are kept: a folder, "auto" for the user's (NISSL_CACHE), None for nowhere.
    """

    def __init__(
        self,
        path: str | Sequence[str],
        metadata: str | None,
        label: str,
        test_path: str | Sequence[str] | None,
        test_metadata: str | None,
        unmatched: Literal["error", "skip"],
        min_class_size: int,
        drop_small_classes: bool,
        policy: Literal["strict", "repair"],
        root: Literal["error", "first", "largest_radius"],
        soma: Literal["error", "first", "largest"],
        scale_um: ScaleUm,
        type_map: dict[int, int] | None,
        max_gap_um: float | None,
        compartments: Sequence[str] | None,
        centre_axes: str,
        min_nodes: int,
        num_folds: int,
        val_fold: int,
        test_fold: int,
        split_seed: int,
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
        num_views: int = 2,
        num_local_views: int = 0,
        local_share: float = 0.3,
        local_nodes: int = 50,
        reference: bool = False,
        exclude_labels: Sequence[str] | None = None,
        train_on: Literal["train", "all"] = "train",
        split_column: str | None = None,
        group_pattern: str | None = None,
        pattern: str = "*.swc",
        axes: Sequence[str] | None = None,
        upright: Mapping[str, str] | None = None,
        oriented: bool | None = None,
        tissue: Literal["cortex", "retina", "fly", "isotropic"] | None = None,
        units: str = "um",
        merge_coincident: bool = False,
        min_soma_radius_um: float = 0.0,
        cache_dir: str | None = None,
    ) -> None:
        if policy not in ("strict", "repair"):
            raise ValueError(f"dataset.policy must be strict or repair, came {policy!r}")
        if unmatched not in ("error", "skip"):
            raise ValueError(f"dataset.unmatched must be error or skip, came {unmatched!r}")
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
            reference,
        )
        check_tissue(tissue, views, centre_axes, oriented)
        by_pattern = dict(scale_um) if isinstance(scale_um, Mapping) else {}
        rules = Rules(
            policy=policy,
            root=root,
            soma=soma,
            scale_um=1.0 if isinstance(scale_um, Mapping) else scale_um,
            type_map=type_map or {},
            max_gap_um=float("inf") if max_gap_um is None else max_gap_um,
            merge_coincident=merge_coincident,
            min_soma_radius_um=min_soma_radius_um,
        )
        preprocessing = Preprocessing(rules, compartments, centre_axes, min_nodes, by_pattern, axes, units)
        cache = open_cache(cache_dir)

        def read(paths: str | Sequence[str], table: str | None) -> Collection:
            found = read_collection(paths, table, label, preprocessing, unmatched, pattern, upright, cache)
            log.info("%s: %s", paths, found.summary())
            return found

        own = read(path, metadata)
        test = None if test_path is None else read(test_path, test_metadata)
        self.units = units
        self.reports = own.reports + (test.reports if test else [])
        self.left_out = own.left_out + (test.left_out if test else [])
        super().__init__(
            read=Cells(own.cells, own.labels, own.sources),
            test=Cells(test.cells, test.labels, test.sources) if test else None,
            files=list(dict.fromkeys(own.files + (test.files if test else []))),
            division=Division(
                num_folds=num_folds,
                val_fold=val_fold,
                test_fold=test_fold,
                split_seed=split_seed,
                min_class_size=min_class_size,
                drop_small_classes=drop_small_classes,
                exclude_labels=exclude_labels or (),
                train_on=train_on,
                split_column=split_column,
                group_pattern=group_pattern,
            ),
            cache_nodes=cache_nodes,
            views=views,
            embed_nodes=embed_nodes,
            cache=cache,
        )


class SimulatedMorphologies(CellSource):
    """Branching morphologies of known populations, see `nissl.simulate.neurons`.

    Args:
        cells_per_class: cells of each population.
        simulation_seed: seed of the cells.
        populations: names of `simulate.neurons.FAMILY`; None takes the first five.
        label: "population", or "family" for the coarser class of each.
        compartments: SWC types to keep, as in `Morphologies`; None keeps all.
        others: see `Morphologies`.
    """

    def __init__(
        self,
        cells_per_class: int,
        simulation_seed: int,
        num_folds: int,
        val_fold: int,
        test_fold: int,
        split_seed: int,
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
        populations: Sequence[str] | None = None,
        label: Literal["population", "family"] = "population",
        compartments: Sequence[str] | None = None,
    ) -> None:
        if cells_per_class < num_folds:
            raise ValueError(f"dataset.cells_per_class={cells_per_class} is below dataset.num_folds={num_folds}")
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
        )
        if label not in ("population", "family"):
            raise ValueError(f"dataset.label must be population or family, came {label!r}")
        kept_types = Preprocessing(Rules(), compartments).kept_types
        simulated = simulate_neurons(cells_per_class, simulation_seed, populations or POPULATIONS)
        cells = [
            select_compartments(
                take(CellGraph(n.pos, n.radius, n.type, n.parent, id=f"{n.population}_{k}"), n.parent, 0), kept_types
            )
            for k, n in enumerate(simulated)
        ]
        super().__init__(
            read=Cells(cells, [FAMILY[n.population] if label == "family" else n.population for n in simulated]),
            test=None,
            files=[],
            division=Division(num_folds, val_fold, test_fold, split_seed, min_class_size=num_folds),
            cache_nodes=cache_nodes,
            views=views,
            embed_nodes=embed_nodes,
        )
