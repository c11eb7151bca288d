"""Segments a volume with a flood-filling network: seeds, canvas and executor behind one call.

The settings live in `conf/segmenter/flood_fill.yaml`. Evaluators that ask for the same segmentation (same weights, same
image, same settings) get the one made first: flooding is what evaluation spends its time on. With a `folder`, finished
segmentations are also kept in files, and a flooding that was killed goes on from its last checkpoint.
"""

from __future__ import annotations

import copy
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from nissl.flood_fill import checkpoint, executor
from nissl.flood_fill.backends import BACKENDS, PRECISIONS, running
from nissl.flood_fill.canvas import Canvas, Masks, Moves, Origin, Thresholds
from nissl.flood_fill.frontier import ORDERS
from nissl.flood_fill.masks import ShiftMask, downsampled
from nissl.flood_fill.movement import Triple
from nissl.flood_fill.quantisation import quantised_network, require_nncf, seen_patches
from nissl.flood_fill.seeds import Scene, policy_named
from nissl.flood_fill.segmentation import Segmentation, from_arrays, nearest_within, to_arrays
from nissl.flood_fill.stage_files import StageFiles, fingerprint
from nissl.volumes.annotated import AnnotatedVolume
from nissl.volumes.boxes import triple
from nissl.volumes.chunked import read_hdf5

log = logging.getLogger(__name__)

_finished: OrderedDict[str, list[Segmentation]] = OrderedDict()
NUM_KEPT = 8  # segmentations remembered in one process
_quantised: OrderedDict[str, executor.Network] = OrderedDict()
NUM_QUANTISED = 2  # networks


class FloodFill:
    """Segmenter with fixed settings, for any network that knows how it moves: its `fov_zyx`, `deltas_zyx`,
    `init_activation`, `pad_value` and `move_threshold`.

    Args:
        move_threshold, deltas_zyx: null takes those of training; others are a choice to be measured. Longer steps are
            fewer moves, as many as they are longer along three axes.
        segment_threshold, min_segment_size, min_boundary_dist_zyx, disconnected_seed_threshold: see
            `nissl.flood_fill.canvas.Thresholds`.
        seed_policy: a name of `nissl.flood_fill.seeds`, or several, tried one after the other; "-name" reverses.
        batch_size: moves of different canvases evaluated together.
        max_moves: per volume; null for no limit.
        precision: "float32", or "bfloat16" for the network's convolutions; seeds stay float32. Many times faster on
            GPUs and on processors with AMX, slower than float32 on others. "int8" (backend openvino) is calibrated on
            the volume, see `nissl.flood_fill.quantisation`.
        reflect_border: mirror the image at its faces by half a field of view, so that objects may start and move up to
            the last voxel. Without it, as published, what lies nearer to a face is reached only from further inside.
        backend: what runs the network, see `nissl.flood_fill.backends`.
        move_order, skip_visited, saturated, long_step: see `nissl.flood_fill.canvas.Moves`.
        movement_mask, seed_mask: HDF5 files, one or several, or null; non-zero voxels of the dataset `movement_mask`
            (`seed_mask`), of the shape of the whole image file, are no place for a move (a seed).
        grow_nm: finished segments take the unassigned voxels up to this far from them, nearest first: what a network
            leaves blank that was trained with `dataset.patches.label_gap`.
        folder: keeps segmentations and checkpoints; null keeps nothing beyond this process.
        checkpoint_moves: moves between two checkpoints; without `folder` there are none.
        calibration_moves: of the float32 flooding whose fields of view int8 is calibrated on.
        shift_mask: finds jumps between sections, which no field of view may cross; null: nobody looks for them.
    """

    def __init__(
        self,
        move_threshold: float | None,
        segment_threshold: float,
        min_segment_size: int,
        min_boundary_dist_zyx: Sequence[int],
        disconnected_seed_threshold: float,
        seed_policy: str | Sequence[str],
        batch_size: int,
        max_moves: int | None,
        precision: str,
        reflect_border: bool,
        backend: str = "eager",
        move_order: str = "first_found",
        skip_visited: float | None = None,
        saturated: float | None = None,
        long_step: float = 1.5,
        movement_mask: str | Sequence[str] | None = None,
        seed_mask: str | Sequence[str] | None = None,
        grow_nm: float = 0.0,
        folder: str | None = None,
        checkpoint_moves: int = 500,
        calibration_moves: int = 120,
        shift_mask: ShiftMask | None = None,
        deltas_zyx: Sequence[int] | None = None,
    ) -> None:
        self.move_threshold, self.segment_threshold = move_threshold, segment_threshold
        self.min_segment_size = min_segment_size
        self.min_boundary_dist_zyx = triple(np.asarray(min_boundary_dist_zyx))
        self.disconnected_seed_threshold = disconnected_seed_threshold
        self.seed_policies = [seed_policy] if isinstance(seed_policy, str) else list(seed_policy)
        for name, value, known in (
            ("precision", precision, PRECISIONS),
            ("backend", backend, BACKENDS),
            ("move_order", move_order, ORDERS),
        ):
            if value not in known:
                raise ValueError(f"{name} must be one of {list(known)}, came {value!r}")
        for name in self.seed_policies:
            policy_named(name)
        if not self.seed_policies:
            raise ValueError("seed_policy needs at least one name")
        self.batch_size, self.max_moves = batch_size, max_moves
        self.precision, self.reflect_border, self.backend = precision, reflect_border, backend
        self.moves = Moves(move_order, skip_visited, saturated, long_step)
        self.mask_files = [
            [given] if isinstance(given, str) else list(given or []) for given in (movement_mask, seed_mask)
        ]
        self.shift_mask = shift_mask
        self.deltas_zyx = None if deltas_zyx is None else triple(np.asarray(deltas_zyx))
        if grow_nm < 0:
            raise ValueError(f"grow_nm is a distance, came {grow_nm}")
        self.grow_nm = grow_nm
        self.files = None if folder is None else StageFiles(Path(folder))
        self.checkpoint_moves = checkpoint_moves
        if precision == "int8" and backend != "openvino":
            raise ValueError(f"precision=int8 needs backend=openvino, came {backend!r}")
        self.calibration_moves = calibration_moves

    def with_precision(self, precision: str) -> FloodFill:
        """The same settings in another precision."""
        other = copy.copy(self)
        other.precision = precision
        return other

    @property
    def precision_key(self) -> str:
        """What of the precision decides a result."""
        return f"int8/{self.calibration_moves}" if self.precision == "int8" else self.precision

    def deltas(self, network: nn.Module) -> Triple:
        """How far the next move may lie, per axis: as given here, or as the network was trained."""
        fov = triple(network.fov_zyx)  # type: ignore[arg-type]
        deltas: Triple = triple(network.deltas_zyx) if self.deltas_zyx is None else self.deltas_zyx  # type: ignore[arg-type]
        if any(delta < 0 or 2 * delta >= size for delta, size in zip(deltas, fov, strict=True)):
            raise ValueError(
                f"segmenter.deltas_zyx {list(deltas)} must lie between 0 and half the field of view {list(fov)}"
            )
        return deltas

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
        self,
        network: nn.Module,
        volumes: Sequence[AnnotatedVolume],
        max_moves: int | None = None,
        *,
        starts_zyx: Sequence[np.ndarray] | None = None,
        existing: Sequence[np.ndarray] | None = None,
    ) -> list[Segmentation]:
        """Segment each volume, or return what an equal call gave before.

        Args:
            network: in eval mode, on the device to use; reads `fov_zyx` and `deltas_zyx`.
            volumes: each one is a canvas; they share batches.
            max_moves: a tighter limit for this call.
            starts_zyx: seeds of each volume, (S, 3) at the network's resolution, instead of the policy's.
            existing: segments of each volume at the network's resolution, to be left as they are.

        Raises:
            ValueError: a volume smaller than the field of view.
        """
        limits = [limit for limit in (self.max_moves, max_moves) if limit is not None]
        limit = min(limits) if limits else None
        thresholds = self.thresholds(network)
        masks = [self.masks(volume, triple(network.fov_zyx)) for volume in volumes]  # type: ignore[arg-type]
        key = fingerprint(
            (thresholds, network.fov_zyx, self.deltas(network), self.seed_policies, limit, self.moves),
            (self.batch_size, self.precision_key, self.reflect_border, self.backend, self.grow_nm),
            network.state_dict(),
            [volume_facts(volume) for volume in volumes],
            masks,
            starts_zyx,
            existing,
        )
        remembered = f"{self.files and self.files.folder} {key}"  # what another folder holds is not in this one
        if remembered not in _finished:
            found = self._read(key, len(volumes))
            if found is None:
                found = self._flood(network, volumes, thresholds, limit, masks, starts_zyx, existing, key)
            _finished[remembered] = found
            while len(_finished) > NUM_KEPT:
                _finished.popitem(last=False)
        _finished.move_to_end(remembered)
        return _finished[remembered]

    def masks(self, volume: AnnotatedVolume, fov_zyx: Triple) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Masks of moves and of seeds at the network's resolution."""
        found: list[np.ndarray | None] = []
        for paths, name in zip(self.mask_files, ("movement_mask", "seed_mask"), strict=True):
            parts = [downsampled(read_hdf5(path, name, "labels", volume.box) != 0, volume.scale_zyx) for path in paths]
            if name == "movement_mask" and self.shift_mask is not None:
                parts.append(self.shift_mask.of(volume.network_image(), fov_zyx))
            found.append(np.logical_or.reduce(parts) if parts else None)
        return found[0], found[1]

    def _flood(
        self,
        network: nn.Module,
        volumes: Sequence[AnnotatedVolume],
        thresholds: Thresholds,
        max_moves: int | None,
        masks: Sequence[tuple[np.ndarray | None, np.ndarray | None]],
        starts_zyx: Sequence[np.ndarray] | None,
        existing: Sequence[np.ndarray] | None,
        key: str,
    ) -> list[Segmentation]:
        before = time.process_time()
        canvases = [
            self._canvas(
                network,
                volume,
                thresholds,
                max_moves,
                masks[i],
                None if starts_zyx is None else starts_zyx[i],
                None if existing is None else existing[i],
            )
            for i, volume in enumerate(volumes)
        ]
        path = None if self.files is None else self.files.path("checkpoint", key)
        save = None if path is None else self._checkpoints(canvases, path, key)
        with self.running(network, volumes) as call:
            seconds = executor.run(canvases, call, self.batch_size, save)
        log.info("CPU-seconds: %s", seconds)
        total = time.process_time() - before
        segmentations = []
        for i, (volume, canvas) in enumerate(zip(volumes, canvases, strict=True)):
            share = canvas.counters["moves"] / max(sum(c.counters["moves"] for c in canvases), 1)
            found = self._segmentation(volume, canvas, total * share)
            log.info("flooded '%s': %s", volume.name, found.counters)
            if self.files is not None:
                self.files.write(f"flood{i}", key, *to_arrays(found))
            segmentations.append(found)
        if path is not None:
            path.unlink(missing_ok=True)
        return segmentations

    @contextmanager
    def running(self, network: nn.Module, volumes: Sequence[AnnotatedVolume]) -> Iterator[executor.Network]:
        """The network as this segmenter runs it; int8 is calibrated on the first volume."""
        fov = triple(network.fov_zyx)  # type: ignore[arg-type]
        if self.precision != "int8":
            with running(network, self.backend, self.precision, fov) as call:
                yield call
            return
        key = fingerprint(network.state_dict(), volume_facts(volumes[0]), self.calibration_moves, self.reflect_border)
        if key not in _quantised:
            _quantised[key] = self._calibrated(network, volumes[0])
            while len(_quantised) > NUM_QUANTISED:
                _quantised.popitem(last=False)
        yield _quantised[key]

    def _calibrated(self, network: nn.Module, volume: AnnotatedVolume) -> executor.Network:
        require_nncf()
        # A flooding of its own, the same for every stage and threshold, so that all of them use one network.
        plain = self.with_precision("float32")
        plain.seed_policies, plain.moves = ["peaks"], Moves()
        trained = [float(getattr(network, name)) for name in ("init_activation", "pad_value", "move_threshold")]
        thresholds = Thresholds(trained[0], trained[1], trained[2], 0.6, 0, (1, 1, 1), 0.0)
        canvas = plain._canvas(network, volume, thresholds, self.calibration_moves, (None, None), None, None)
        with plain.running(network, [volume]) as call:
            patches = seen_patches([canvas], call, every=1)
        return quantised_network(network, triple(network.fov_zyx), patches)  # type: ignore[arg-type]

    def _read(self, key: str, num_volumes: int) -> list[Segmentation] | None:
        """What an earlier process has finished, or None."""
        if self.files is None:
            return None
        stored = [self.files.read(f"flood{i}", key) for i in range(num_volumes)]
        return None if None in stored else [from_arrays(*one) for one in stored if one is not None]

    def _canvas(
        self,
        network: nn.Module,
        volume: AnnotatedVolume,
        thresholds: Thresholds,
        max_moves: int | None,
        masks: tuple[np.ndarray | None, np.ndarray | None],
        starts_zyx: np.ndarray | None,
        existing: np.ndarray | None,
    ) -> Canvas:
        fov, deltas = triple(network.fov_zyx), self.deltas(network)  # type: ignore[arg-type]
        image = volume.network_image()
        if np.any(np.less(image.shape, fov)):
            raise ValueError(
                f"volume '{volume.name}' has {list(image.shape)} voxels at the network's resolution, fewer than "
                f"the field of view {list(fov)}"
            )
        z, y, x = np.multiply(volume.voxel_size_zyx_nm, volume.scale_zyx)
        border = np.asarray(fov) // 2 if self.reflect_border else np.zeros(3, np.int64)
        inner = triple(border), image.shape
        unwanted = [mask for mask in masks if mask is not None]
        forbidden = np.logical_or.reduce(unwanted) if unwanted else None

        def seeds(name: str, segmentation: np.ndarray) -> np.ndarray:
            scene = Scene(image, (float(z), float(y), float(x)), cropped(segmentation, *inner), forbidden)
            return policy_named(name)(scene) + border

        padded = np.pad(image, [(n, n) for n in border], mode="reflect")
        before = np.zeros(padded.shape, np.int32)
        if existing is not None:
            before = np.pad(existing, [(n, n) for n in border], mode="reflect").astype(np.int32)
        first = seeds(self.seed_policies[0], before) if starts_zyx is None else starts_zyx + border
        later = [] if starts_zyx is not None else [partial(seeds, name) for name in self.seed_policies[1:]]
        device = next(network.parameters()).device

        def on_device(mask: np.ndarray | None) -> torch.Tensor | None:
            if mask is None:
                return None
            return torch.from_numpy(np.pad(mask, [(n, n) for n in border], mode="reflect")).to(device)

        return Canvas(
            torch.from_numpy(padded).to(device),
            fov,
            deltas,
            thresholds,
            first,
            max_moves,
            moves=self.moves,
            masks=Masks(on_device(masks[0]), on_device(masks[1])),
            existing=None if existing is None else torch.from_numpy(before).to(device),
            more_seeds=later,
            keep_probability=existing is None,
        )

    def _segmentation(self, volume: AnnotatedVolume, canvas: Canvas, cpu_seconds: float) -> Segmentation:
        ids = canvas.segmentation.clamp(min=0).cpu().numpy()
        offset = np.asarray(canvas.fov) // 2 if self.reflect_border else np.zeros(3, np.int64)
        inner = triple(offset), triple(np.subtract(ids.shape, 2 * offset))
        ids = volume.native(cropped(ids, *inner))
        probability = None if canvas.probability is None else volume.native(cropped(canvas.probability, *inner))
        if self.grow_nm and ids.any():
            nearest = nearest_within(ids, self.grow_nm, volume.voxel_size_zyx_nm)
            ids, probability = ids[nearest], None if probability is None else probability[nearest]
        origins = {
            segment: Origin(triple(np.subtract(origin.start_zyx, offset)), origin.num_moves, origin.num_voxels)
            for segment, origin in canvas.origins.items()
        }
        rejected = [
            (triple(np.subtract(start, offset)), reason, num_moves) for start, reason, num_moves in canvas.rejected
        ]
        counters = dict(sorted(canvas.counters.items()))
        counters["seeds"] = canvas.num_seeds
        return Segmentation(
            ids,
            origins,
            counters,
            cpu_seconds,
            not canvas.is_complete,
            canvas.overlaps,
            rejected,
            probability=probability,
        )

    def _checkpoints(self, canvases: Sequence[Canvas], path: Path, key: str) -> Callable[[], None]:
        """Put fresh canvases into their last saved state, if any; returns what saves them from time to time."""
        if path.exists():
            checkpoint.restore(canvases, path, key)
            log.info("going on from %s", path)

        def moves() -> int:
            return sum(canvas.counters["moves"] for canvas in canvases)

        saved_at = moves()

        def save() -> None:
            nonlocal saved_at
            if moves() - saved_at >= self.checkpoint_moves:
                saved_at = moves()
                checkpoint.save(canvases, path, key)

        return save


def volume_facts(volume: AnnotatedVolume) -> tuple[object, ...]:
    """What of a volume a segmentation depends on."""
    return (volume.raw, volume.voxel_size_zyx_nm, volume.scale_zyx, float(volume.mean), float(volume.std))


def cropped(array: np.ndarray, start_zyx: Sequence[int], shape_zyx: Sequence[int]) -> np.ndarray:
    z, y, x = (slice(start, start + size) for start, size in zip(start_zyx, shape_zyx, strict=True))
    return array[z, y, x]
