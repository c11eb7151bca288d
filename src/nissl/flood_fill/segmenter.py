"""Segments a volume with a flood-filling network: seeds, canvas and executor behind one call.

The settings live in `conf/segmenter/flood_fill.yaml`. Evaluators that ask for the same segmentation (same weights, same
image, same settings) get the one made first: flooding is what evaluation spends its time on.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from nissl.flood_fill import executor, seeds
from nissl.flood_fill.canvas import Canvas, Origin, Thresholds
from nissl.volumes.annotated import AnnotatedVolume
from nissl.volumes.boxes import triple

log = logging.getLogger(__name__)

PRECISIONS = ("float32", "bfloat16")
SEED_POLICIES: dict[str, Callable[[np.ndarray, tuple[float, float, float]], np.ndarray]] = {"peaks": seeds.peaks}

_finished: OrderedDict[str, list[Segmentation]] = OrderedDict()
NUM_KEPT = 8  # segmentations remembered in one process


@dataclass(frozen=True)
class Segmentation:
    """What flooding one volume gave.

    Attributes:
        ids: (Z, Y, X) int32 at the volume's native resolution; 0 = unassigned.
        origins: segment id -> where it began (at the network's resolution) and its cost.
        counters: seeds and moves by outcome.
        cpu_seconds: processor time spent.
        truncated: whether `max_moves` ended it.
    """

    ids: np.ndarray
    origins: dict[int, Origin]
    counters: dict[str, int]
    cpu_seconds: float
    truncated: bool


class FloodFill:
    """Segmenter with fixed settings, for any network that knows how it moves: its `fov_zyx`, `deltas_zyx`,
    `init_activation`, `pad_value` and `move_threshold`.

    Args:
        move_threshold: null takes the one of training; another one is a choice to be measured.
        segment_threshold, min_segment_size, min_boundary_dist_zyx, disconnected_seed_threshold: see
            `nissl.flood_fill.canvas.Thresholds`.
        seed_policy: "peaks".
        batch_size: moves of different canvases evaluated together.
        max_moves: per volume; null for no limit.
        precision: "float32", or "bfloat16" for the network's convolutions; seeds stay float32. Many times faster on
            GPUs and on processors with AMX, slower than float32 on others.
        reflect_border: mirror the image at its faces by half a field of view, so that objects may start and move up to
            the last voxel. Without it, as published, what lies nearer to a face is reached only from further inside.
    """

    def __init__(
        self,
        move_threshold: float | None,
        segment_threshold: float,
        min_segment_size: int,
        min_boundary_dist_zyx: Sequence[int],
        disconnected_seed_threshold: float,
        seed_policy: str,
        batch_size: int,
        max_moves: int | None,
        precision: str,
        reflect_border: bool,
    ) -> None:
        self.move_threshold, self.segment_threshold = move_threshold, segment_threshold
        self.min_segment_size = min_segment_size
        self.min_boundary_dist_zyx = triple(np.asarray(min_boundary_dist_zyx))
        self.disconnected_seed_threshold = disconnected_seed_threshold
        if seed_policy not in SEED_POLICIES:
            raise ValueError(f"seed_policy must be one of {sorted(SEED_POLICIES)}, came {seed_policy!r}")
        if precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {list(PRECISIONS)}, came {precision!r}")
        self.seed_policy, self.batch_size, self.max_moves = seed_policy, batch_size, max_moves
        self.precision, self.reflect_border = precision, reflect_border

    def thresholds(self, network: nn.Module) -> Thresholds:
        """The settings of one run: those given here, and those that the network was trained with."""
        trained = [float(getattr(network, name)) for name in ("init_activation", "pad_value", "move_threshold")]
        move = trained[2] if self.move_threshold is None else self.move_threshold
        if move != trained[2]:
            log.warning("move_threshold is %g; the network was trained with %g", move, trained[2])
        return Thresholds(
            trained[0],
            trained[1],
            move,
            self.segment_threshold,
            self.min_segment_size,
            self.min_boundary_dist_zyx,
            self.disconnected_seed_threshold,
        )

    def segment(
        self, network: nn.Module, volumes: Sequence[AnnotatedVolume], max_moves: int | None = None
    ) -> list[Segmentation]:
        """Segment each volume, or return what an equal call gave before.

        Args:
            network: in eval mode, on the device to use; reads `fov_zyx` and `deltas_zyx`.
            volumes: each one is a canvas; they share batches.
            max_moves: a tighter limit for this call.

        Raises:
            ValueError: a volume smaller than the field of view.
        """
        limits = [limit for limit in (self.max_moves, max_moves) if limit is not None]
        limit = min(limits) if limits else None
        thresholds = self.thresholds(network)
        fov_and_deltas = (network.fov_zyx, network.deltas_zyx)
        numerics = (self.batch_size, self.precision, self.reflect_border)
        settings = (thresholds, fov_and_deltas, self.seed_policy, limit, numerics)
        key = _fingerprint(network, volumes, settings)
        if key not in _finished:
            _finished[key] = self._flood(network, volumes, thresholds, limit)
            while len(_finished) > NUM_KEPT:
                _finished.popitem(last=False)
        _finished.move_to_end(key)
        return _finished[key]

    def _flood(
        self,
        network: nn.Module,
        volumes: Sequence[AnnotatedVolume],
        thresholds: Thresholds,
        max_moves: int | None,
    ) -> list[Segmentation]:
        fov, deltas = triple(network.fov_zyx), triple(network.deltas_zyx)  # type: ignore[arg-type]
        device = next(network.parameters()).device
        canvases = []
        before = time.process_time()
        for volume in volumes:
            image = volume.network_image()
            if np.any(np.less(image.shape, fov)):
                raise ValueError(
                    f"volume '{volume.name}' has {list(image.shape)} voxels at the network's resolution, fewer than "
                    f"the field of view {list(fov)}"
                )
            voxel_size = np.multiply(volume.voxel_size_zyx_nm, volume.scale_zyx)
            starts = SEED_POLICIES[self.seed_policy](image, tuple(voxel_size))
            if self.reflect_border:
                image = np.pad(image, [(size // 2,) * 2 for size in fov], mode="reflect")
                starts = starts + np.asarray(fov) // 2
            canvases.append(Canvas(torch.from_numpy(image).to(device), fov, deltas, thresholds, starts, max_moves))
        with torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            executor.run(canvases, network, self.batch_size)
        seconds = time.process_time() - before
        segmentations = []
        for volume, canvas in zip(volumes, canvases, strict=True):
            ids, origins = canvas.segmentation.clamp(min=0).cpu().numpy(), canvas.origins
            if self.reflect_border:
                z, y, x = (slice(size // 2, -(size // 2)) for size in fov)
                ids = ids[z, y, x]
                origins = {segment: _shifted(origin, -(np.asarray(fov) // 2)) for segment, origin in origins.items()}
            counters = dict(sorted(canvas.counters.items()))
            counters["seeds"] = len(canvas.seeds)
            log.info("flooded '%s': %s", volume.name, counters)
            segmentations.append(
                Segmentation(
                    volume.native(ids),
                    origins,
                    counters,
                    cpu_seconds=seconds * canvas.counters["moves"] / max(sum(c.counters["moves"] for c in canvases), 1),
                    truncated=canvas.next_seed < len(canvas.seeds) or canvas.start is not None,
                )
            )
        return segmentations


def _shifted(origin: Origin, offset_zyx: np.ndarray) -> Origin:
    return dataclasses.replace(origin, start_zyx=triple(np.add(origin.start_zyx, offset_zyx)))


def _fingerprint(network: nn.Module, volumes: Sequence[AnnotatedVolume], settings: tuple[object, ...]) -> str:
    """Hash of everything that a segmentation depends on."""
    digest = hashlib.blake2b(repr(settings).encode())
    for name, value in network.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    for volume in volumes:
        facts = (volume.raw.shape, volume.voxel_size_zyx_nm, volume.scale_zyx, volume.mean, volume.std)
        digest.update(repr(facts).encode())
        digest.update(np.ascontiguousarray(volume.raw).tobytes())
    return digest.hexdigest()
