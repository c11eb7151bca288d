"""From a volume to agglomerated neurons: floodings, consensus, filling, agglomeration, one stage after the other.

The settings live in `conf/segmenter/flood_fill_staged.yaml`. Each stage but the first can be switched off with null.

1. `coarse`: large objects at a lower resolution, frozen for what follows.
2. `flood`: the flooding proper, then again from its origins in reverse order.
3. consensus of the two: what either splits is split.
4. `fill`: objects in what is left, usually with a smaller minimum size.
5. agglomeration: pairs of segments are grown anew and joined.
6. parts that do not touch are parted, dust is removed, and segments are extended towards membranes.

With a `folder`, every stage is written there under the hash of what it depends on, and read instead of made the next
time; floodings also go on from their checkpoints. Source of the order: Januszewski et al. 2018; coarse-to-fine after
its supplement as far as public, with one network for all scales.
"""

from __future__ import annotations

import csv
import dataclasses
import logging
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from nissl.flood_fill.agglomeration import FEATURES, Rule, Vetoes, agglomerate, disputed_pairs
from nissl.flood_fill.consensus import connected_parts, split_consensus
from nissl.flood_fill.decision_points import DecisionPoint, decision_points
from nissl.flood_fill.resegmentation import PairScores, Resegmentation, Surroundings, resegment
from nissl.flood_fill.seeds import reversed_origins
from nissl.flood_fill.segmentation import Segmentation, grown, network_ids
from nissl.flood_fill.segmenter import FloodFill, volume_facts
from nissl.flood_fill.stage_files import StageFiles, fingerprint
from nissl.volumes.annotated import AnnotatedVolume, block_mode
from nissl.volumes.boxes import triple
from nissl.volumes.chunked import read_hdf5

log = logging.getLogger(__name__)

PAIRS_PER_FILE = 64  # what an agglomeration that is killed loses at most


class Agglomeration:
    """Settings of one agglomeration; see `decision_points`, `Resegmentation`, `Rule` and `Vetoes`.

    Args:
        pairs: "disputed" looks at pairs that one of the floodings held together, "all" at every pair that comes close.
        min_voxels: pairs with a smaller segment are left alone; most pairs have one, and cost as much as others.
        tissue_path: HDF5 file whose dataset `classes`, of the shape of the whole image file, says what each voxel is;
            for the vetoes by nuclei, axons and dendrites.
        calibration: table `stages_calibration.csv` of an evaluation with the evaluator `stages`; null: published rule.
    """

    def __init__(
        self,
        pairs: str,
        max_distance_nm: float,
        radius_zyx: Sequence[int],
        analysis_radius_zyx: Sequence[int],
        exclusion_radius_zyx: Sequence[int],
        max_tries: int,
        recovered: float,
        min_iou: float,
        min_consistency: float,
        max_deleted: float,
        calibration: str | None,
        min_probability: float,
        soma_radius_nm: float | None,
        max_fragments: int | None,
        max_caliber_ratio: float | None,
        min_turn_degrees: float | None,
        min_voxels: int = 0,
        terminate_early: bool = False,
        crosses_mask: bool = False,
        tissue_path: str | None = None,
        nucleus_class: int | None = None,
        min_nucleus_voxels: int = 1,
        axon_class: int | None = None,
        dendrite_class: int | None = None,
        min_type_share: float = 0.8,
        max_loop_nm: float | None = None,
    ) -> None:
        if pairs not in ("disputed", "all"):
            raise ValueError(f"pairs must be disputed or all, came {pairs!r}")
        self.pairs, self.max_distance_nm, self.min_voxels = pairs, max_distance_nm, min_voxels
        self.resegmentation = Resegmentation(
            triple(np.asarray(radius_zyx)),
            triple(np.asarray(analysis_radius_zyx)),
            triple(np.asarray(exclusion_radius_zyx)),
            max_tries,
            recovered,
            terminate_early,
        )
        weights = None if calibration is None else read_calibration(Path(calibration))
        self.rule = Rule(min_iou, min_consistency, max_deleted, weights, min_probability)
        if (axon_class is None) != (dendrite_class is None):
            raise ValueError(f"axon_class and dendrite_class go together, came {axon_class} and {dendrite_class}")
        self.vetoes = Vetoes(
            soma_radius_nm=soma_radius_nm,
            max_fragments=max_fragments,
            max_caliber_ratio=max_caliber_ratio,
            min_turn_degrees=min_turn_degrees,
            crosses_mask=crosses_mask,
            nucleus_class=nucleus_class,
            min_nucleus_voxels=min_nucleus_voxels,
            axon_class=axon_class,
            dendrite_class=dendrite_class,
            min_type_share=min_type_share,
            max_loop_nm=max_loop_nm,
        )
        if self.vetoes.need_tissue and tissue_path is None:
            raise ValueError(
                "nucleus_class, axon_class and dendrite_class need tissue_path, an HDF5 file with `classes`"
            )
        self.tissue_path = tissue_path


def read_calibration(path: Path) -> tuple[float, ...]:
    """Weights of FEATURES and the constant from a table with the columns feature and weight."""
    with path.open() as file:
        weights = {row["feature"]: float(row["weight"]) for row in csv.DictReader(file)}
    missing = {*FEATURES, "constant"} - weights.keys()
    if missing:
        raise ValueError(f"{path} is no calibration: it lacks {sorted(missing)}, it holds {sorted(weights)}")
    return tuple(weights[name] for name in (*FEATURES, "constant"))


class StagedFloodFill:
    """Segmenter of several stages.

    Args:
        flood: the flooding proper; its seeds, thresholds, backend and folder.
        reverse: flood again from the origins in reverse order and take the consensus.
        consensus_min_size: parts with fewer voxels are dropped.
        coarse, coarse_scale_zyx, coarse_min_size: first a flooding by the same network in which `coarse_scale_zyx`
            voxels become one; objects of at least `coarse_min_size` voxels (of the flooding proper) are kept as they
            are. A scale of null leaves it out.
        fill, refill: a flooding of what is left, if `refill`.
        agglomeration: settings, or null.
        dust: connected parts with fewer voxels are removed at the end.
        grow_nm: how far segments are extended into what is left.
        max_moves: of each flooding; null for no limit.
    """

    def __init__(
        self,
        flood: FloodFill,
        reverse: bool,
        consensus_min_size: int,
        coarse: FloodFill,
        coarse_scale_zyx: Sequence[int] | None,
        coarse_min_size: int,
        fill: FloodFill,
        refill: bool,
        agglomeration: Agglomeration | None,
        dust: int,
        grow_nm: float,
        max_moves: int | None,
        folder: str | None,
    ) -> None:
        self.flood, self.reverse, self.consensus_min_size = flood, reverse, consensus_min_size
        self.coarse, self.coarse_min_size = coarse, coarse_min_size
        self.coarse_scale = None if coarse_scale_zyx is None else triple(np.asarray(coarse_scale_zyx))
        self.fill, self.refill, self.agglomeration = fill, refill, agglomeration
        self.dust, self.grow_nm, self.max_moves = dust, grow_nm, max_moves
        self.files = None if folder is None else StageFiles(Path(folder))

    def segment(
        self, network: nn.Module, volumes: Sequence[AnnotatedVolume], max_moves: int | None = None
    ) -> list[Segmentation]:
        """Segment each volume; see `FloodFill.segment`."""
        limits = [limit for limit in (self.max_moves, max_moves) if limit is not None]
        return [self._segment(network, volume, min(limits) if limits else None) for volume in volumes]

    def _segment(self, network: nn.Module, volume: AnnotatedVolume, max_moves: int | None) -> Segmentation:
        stages: dict[str, np.ndarray] = {}  # at the network's resolution
        floodings: list[Segmentation] = []

        def flooded(segmenter: FloodFill, existing: np.ndarray | None, **seeds: Any) -> np.ndarray:
            (found,) = segmenter.segment(
                network, [volume], max_moves, existing=None if existing is None else [existing], **seeds
            )
            floodings.append(found)
            return network_ids(found.ids, volume)

        frozen = None
        if self.coarse_scale is not None:
            frozen = stages["coarse"] = self._coarse(network, volume, max_moves, floodings)
        ids = stages["forward"] = flooded(self.flood, frozen)
        others = [ids]
        if self.reverse:
            starts = reversed_origins([origin.start_zyx for origin in floodings[-1].origins.values()])
            other = stages["reverse"] = flooded(self.flood, frozen, starts_zyx=[starts])
            others.append(other)
            ids = stages["consensus"] = split_consensus(ids, other, self.consensus_min_size)
        if self.refill:
            ids = stages["fill"] = flooded(self.fill, ids)
        tables: dict[str, list[dict[str, Any]]] = {}
        if self.agglomeration is not None:
            ids, tables["decisions"], moves = self._agglomerated(network, volume, ids, others)
            stages["agglomeration"] = ids
            floodings.append(Segmentation(ids, {}, {"moves": moves}, 0.0, False))
        z, y, x = np.multiply(volume.voxel_size_zyx_nm, volume.scale_zyx)
        ids = grown(connected_parts(ids, self.dust), self.grow_nm, (float(z), float(y), float(x)))
        stages["final"] = ids
        counters: Counter[str] = Counter()
        for flooding in floodings:
            counters.update(flooding.counters)
        left = set(np.unique(ids).tolist())
        if self.files is not None:
            facts = {"volume": volume.name, "counters": dict(counters), "tables": tables}
            self.files.write("segmentation", fingerprint(volume_facts(volume), stages), stages, facts)
        return Segmentation(
            volume.native(ids),
            {segment: origin for segment, origin in floodings[0].origins.items() if segment in left},
            dict(sorted(counters.items())),
            sum(flooding.cpu_seconds for flooding in floodings),
            any(flooding.truncated for flooding in floodings),
            rejected=[entry for flooding in floodings for entry in flooding.rejected],
            stages={name: volume.native(found) for name, found in stages.items()},
            tables=tables,
        )

    def _coarse(
        self, network: nn.Module, volume: AnnotatedVolume, max_moves: int | None, floodings: list[Segmentation]
    ) -> np.ndarray:
        """Large objects of a coarser flooding, at the network's resolution."""
        assert self.coarse_scale is not None
        scale = triple(np.multiply(volume.scale_zyx, self.coarse_scale))
        (found,) = self.coarse.segment(network, [dataclasses.replace(volume, scale_zyx=scale)], max_moves)
        floodings.append(found)
        return connected_parts(network_ids(found.ids, volume), self.coarse_min_size)

    def _agglomerated(
        self, network: nn.Module, volume: AnnotatedVolume, ids: np.ndarray, others: Sequence[np.ndarray]
    ) -> tuple[np.ndarray, list[dict[str, Any]], int]:
        """Joined segments, the decisions, and the moves they took."""
        settings = self.agglomeration
        assert settings is not None
        z, y, x = np.multiply(volume.voxel_size_zyx_nm, volume.scale_zyx)
        voxel_size = (float(z), float(y), float(x))
        points = decision_points(ids, voxel_size, settings.max_distance_nm)
        sizes = np.bincount(ids.ravel())
        points = [point for point in points if min(sizes[point.first], sizes[point.second]) >= settings.min_voxels]
        if settings.pairs == "disputed":
            wanted = disputed_pairs(ids, others, self.dust)
            points = [point for point in points if (point.first, point.second) in wanted]
        scores = self._scores(network, volume, ids, points, voxel_size)
        forbidden, _ = self.flood.masks(volume, triple(network.fov_zyx))  # type: ignore[arg-type]
        tissue = None
        if settings.tissue_path is not None:
            tissue = block_mode(read_hdf5(settings.tissue_path, "classes", "labels", volume.box), volume.scale_zyx)
        joined, rows = agglomerate(ids, voxel_size, points, scores, settings.rule, settings.vetoes, forbidden, tissue)
        log.info("agglomeration: %d of %d pairs joined", sum(row["joined"] for row in rows), len(rows))
        return joined, rows, sum(score.moves for score in scores)

    def _scores(
        self,
        network: nn.Module,
        volume: AnnotatedVolume,
        ids: np.ndarray,
        points: Sequence[DecisionPoint],
        voxel_size: tuple[float, float, float],
    ) -> list[PairScores]:
        settings = self.agglomeration
        assert settings is not None
        fov, deltas = triple(network.fov_zyx), self.flood.deltas(network)  # type: ignore[arg-type]
        thresholds = self.flood.thresholds(network)
        key = fingerprint(
            network.state_dict(), fov, deltas, thresholds, settings.resegmentation, self.flood.moves,
            (self.flood.precision_key, self.flood.backend), volume_facts(volume), ids,
        )  # fmt: skip
        forbidden, _ = self.flood.masks(volume, fov)
        around = Surroundings(
            torch.from_numpy(volume.network_image()), ids, voxel_size, fov, deltas, thresholds, forbidden
        )
        scores: list[PairScores] = []
        before = time.process_time()
        with self.flood.running(network, [volume]) as call:
            for start in range(0, len(points), PAIRS_PER_FILE):
                some = points[start : start + PAIRS_PER_FILE]
                part = fingerprint(key, some)
                stored = None if self.files is None else self.files.read("scores", part)
                if stored is not None:
                    scores += [PairScores(*values) for values in stored[1]["scores"]]
                    continue
                found = resegment(some, around, call, settings.resegmentation, self.flood.batch_size)
                scores += found
                if self.files is not None:
                    self.files.write("scores", part, {}, {"scores": [dataclasses.astuple(score) for score in found]})
                log.info("resegmentation: %d of %d pairs", len(scores), len(points))
        log.info("resegmentation of %d pairs: %.0f CPU-seconds", len(points), time.process_time() - before)
        return scores
