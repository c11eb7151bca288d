"""Which maps recover the wiring? Saliency methods, activation patterns and what needs no network, in one table.

All methods see the same frames and are compared at one resolution: ZNCC of pattern maps against the true matrix of a
simulated experiment, over all pairs of patterns, over those without a common cell (the only ones that speak of
connectivity), over single cells, and given the distance of the targets. On real data the table has no truth, and says
how far each method agrees with the evoked maps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, combinations_with_replacement
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader

from nissl.evaluators import gradcam as cam
from nissl.evaluators import map_activation as activation
from nissl.evaluators import map_baselines as baseline
from nissl.evaluators import map_method_figures as draw
from nissl.evaluators.map_cells import module_auroc
from nissl.evaluators.map_entries import networks_of
from nissl.evaluators.map_saliency import Saliency, centre, explain, parse_saliency
from nissl.evaluators.pattern_distance import disc_maps, disjoint_pairs, partial_mantel, target_distances
from nissl.evaluators.pattern_maps import pool_images, pool_mask
from nissl.evaluators.result import Result
from nissl.evaluators.zncc import compare_matrices, summarise_matrix, zncc_matrix

TRUTH = ("truth_r_all", "truth_r_disjoint", "truth_r_singles", "truth_auroc_module", "truth_r_given_distance")
ACTIVITY = ("activation_pattern", "reconstruction", "confidence_evoked")


@dataclass(frozen=True)
class Seen:
    """One pass over the frames of a part.

    Attributes:
        pixels: (n, D) inside the mask, at map resolution.
        logits: (n, C); hidden: (n, U), what the last linear layer reads.
        pattern: (n,).
        traces: (n, N) of the stimulated cells, or None without positions.
        saliency: method -> mean map (P, D) inside the mask.
        mask: (h, w).
    """

    pixels: np.ndarray
    logits: np.ndarray
    hidden: np.ndarray
    pattern: np.ndarray
    traces: np.ndarray | None
    saliency: dict[str, np.ndarray]
    mask: np.ndarray


class MapMethods:
    """Compare map methods on the reference day.

    Args:
        part: frames: train, val or test.
        saliency: methods by name, see `map_saliency`; gradcam must be among them.
        ridge: of the reconstruction from hidden units, in units of a unit's mean variance.
        linear_ridge: of the linear decoder, in units of a pixel's mean variance.
        mantel_draws: exchanges of cells for the p of the correlation given distance.
        untrained: also measure a network with random weights.
        seed: of random weights and draws.
        batch_size: frames at a time.
    """

    metrics = {
        "map_methods/*_truth_r_disjoint": "max",
        "map_methods/*_truth_r_all": "max",
        "map_methods/*_truth_r_singles": "max",
        "map_methods/*_truth_auroc_module": "max",
        "map_methods/*_truth_r_given_distance": "max",
        "map_methods/*": None,
    }

    def __init__(
        self,
        part: str,
        saliency: Sequence[str],
        ridge: float,
        linear_ridge: float,
        mantel_draws: int,
        untrained: bool,
        seed: int,
        batch_size: int,
    ) -> None:
        self.saliency = [parse_saliency(name) for name in saliency]
        if "gradcam" not in saliency:
            raise ValueError(f"saliency must hold gradcam, what the others are compared with; came {list(saliency)}")
        if min(ridge, linear_ridge) <= 0:
            raise ValueError(f"ridge and linear_ridge must be above 0, came {ridge} and {linear_ridge}")
        self.part, self.ridge, self.linear_ridge, self.mantel_draws = part, ridge, linear_ridge, mantel_draws
        self.untrained, self.seed, self.batch_size = untrained, seed, batch_size

    def __call__(self, task: Any, data: Any) -> Result:
        source = data.source
        day = source.days[0]
        view = source.of_day(day)
        if view.patterns[-1].cells:
            return Result({}, notes=["skipped: map methods are compared on data with frames without stimulation"])
        rows: list[dict[str, Any]] = []
        matrices: dict[str, list[np.ndarray]] = {}
        networks = [network for network in networks_of(task) if network.day in (None, day)]
        influence: dict[str, float] = {}
        for number, network in enumerate(networks):
            seen = look(network, view, self.part, self.saliency, self.batch_size)
            maps = {"network": self._network_maps(seen, view)}
            if number == 0:  # the same frames for all networks
                maps["none"] = self._network_free_maps(seen, view)
                influence = _influence(seen, view)
                truth = true_matrix(view, seen.mask)
            if self.untrained:
                maps["untrained"] = self._untrained_maps(network, view)
            for kind, own in maps.items():
                for name, images in own.items():
                    matrix = zncc_matrix(images)
                    matrices.setdefault(name, []).append(matrix)
                    scores = score_matrix(matrix, truth, view, self.mantel_draws, self.seed)
                    rows.append({"method": name, "network": kind, "seed": network.seed} | scores)
        means = mean_rows(rows)
        known = TRUTH if truth is not None else ("evoked_r_disjoint",)
        if truth is None:
            for row in means:
                evoked = np.mean(matrices["evoked"], axis=0)
                found = compare_matrices(np.mean(matrices[row["method"]], axis=0), evoked, _cells(view))
                row["evoked_r_disjoint"] = found["truth_r_disjoint"]
        scalars = {f"map_methods/{row['method']}_{key}": float(row[key]) for row in means for key in known}
        scalars |= {f"map_methods/{row['method']}_disjoint_mean": float(row["disjoint_mean"]) for row in means}
        scalars |= {f"map_methods/influence_{key}": value for key, value in influence.items()}
        scalars["map_methods/networks"] = float(len(networks))
        shown = {name: np.mean(own, axis=0) for name, own in matrices.items()}
        if truth is not None:
            shown["truth"] = truth
        notes = self._notes(means, len(networks)) if truth is not None else []
        return Result(
            scalars=scalars,
            figures={
                "agreement": draw.agreement(rows, "truth_r_disjoint" if truth is not None else "disjoint_mean"),
                "matrices": draw.some_matrices(shown, [pattern.name for pattern in view.patterns]),
            },
            tables={"methods": means, "networks": rows, "stability": stability_rows(matrices, _cells(view))},
            arrays={f"matrix_{name}": matrix for name, matrix in shown.items()},
            notes=notes,
        )

    def _network_maps(self, seen: Seen, view: Any) -> dict[str, np.ndarray]:
        """Maps (P, D) that a trained network makes."""
        labels, probabilities = view.labels, _sigmoid(seen.logits)
        moments = activation.measure_moments(probabilities, seen.pixels)
        own = labels[seen.pattern]
        confidence = (probabilities * own).sum(axis=1) / own.sum(axis=1)
        num = len(labels)
        return seen.saliency | {
            "activation_pattern": activation.activation_maps(moments, labels, True),
            "reconstruction": activation.reconstructed_maps(seen.hidden, seen.pixels, seen.pattern, num, self.ridge),
            "confidence_evoked": activation.weighted_evoked_maps(confidence, seen.pixels, seen.pattern, num),
        }

    def _network_free_maps(self, seen: Seen, view: Any) -> dict[str, np.ndarray]:
        """Maps (P, D) from the frames and labels alone."""
        labels = view.labels
        mean = activation.mean_by_pattern(seen.pixels, seen.pattern, len(labels))
        told = activation.measure_moments(labels[seen.pattern], seen.pixels)
        weights, _ = baseline.decode_linearly(seen.pixels, labels[seen.pattern], self.linear_ridge)
        maps = {
            "evoked": mean - mean[-1],
            "raw_mean": mean,
            "label_regression": activation.activation_maps(told, labels, True),
            "linear_decoder": baseline.linear_maps(weights, seen.pixels, seen.pattern, labels),
        }
        if view.cells.positions_px is not None:
            scale = np.array(seen.mask.shape) / np.array(view.mask.shape)
            places = (view.cells.positions_px + 0.5) * scale - 0.5
            size = (seen.mask.shape[0], seen.mask.shape[1])
            discs = disc_maps(_cells(view), view.cells.names, places, 1.0, size)
            maps["target_discs"] = discs[:, seen.mask].astype(np.float64)
        return maps

    def _untrained_maps(self, network: Any, view: Any) -> dict[str, np.ndarray]:
        model = baseline.untrained_copy(network.model, self.seed + network.seed)
        bare = _Network(model, network.device, network.seed)
        seen = look(bare, view, self.part, [parse_saliency("gradcam")], self.batch_size)
        maps = self._network_maps(seen, view)
        return {f"untrained_{name}": maps[name] for name in ("gradcam", "activation_pattern", "reconstruction")}

    def _notes(self, means: list[dict[str, Any]], num_networks: int) -> list[str]:
        found = {row["method"]: row for row in means}
        evoked = found["evoked"]["truth_r_disjoint"]
        ours = [row for row in means if row["network"] == "network"]
        best = max(ours, key=lambda row: _or_low(row["truth_r_disjoint"]))
        verdict = "at or above" if best["truth_r_disjoint"] >= evoked else "below"
        label = found["label_regression"]["truth_r_disjoint"]
        return [
            "simulated data, correlation with the true matrix over pairs without a common cell "
            f"({num_networks} network(s)): Grad-CAM {found['gradcam']['truth_r_disjoint']:.3f}; the best map method of "
            f"the network, {best['method']}, {best['truth_r_disjoint']:.3f}, "
            f"is {verdict} the evoked map's {evoked:.3f}",
            f"regression on the labels, which needs no network, reaches {label:.3f}: "
            f"{found['activation_pattern']['truth_r_disjoint'] - label:+.3f} is what the network's answers add; both "
            "assume that responses add up, as they do in the simulated world",
        ]


@dataclass(frozen=True)
class _Network:
    model: nn.Module
    device: Any
    seed: int


def look(network: Any, view: Any, part: str, chosen: Sequence[Saliency], batch_size: int) -> Seen:
    """Show a network every frame of a part, once."""
    model, device = network.model, network.device
    front, rest = cam.split_model(model)
    before, last = _split_head(rest)
    positions = view.cells.positions_px
    weights = None
    if positions is not None:
        radius = view.cells.radius_px if view.cells.radius_px is not None else np.ones(len(positions))
        weights = baseline.disc_weights(view.mask.shape, positions, radius)
    pixels, logits, hidden, patterns, traces = [], [], [], [], []
    mask = np.zeros((0, 0), dtype=bool)
    sums: dict[str, np.ndarray] = {}
    counts: dict[str, np.ndarray] = {}
    num = len(view.patterns)
    for batch in DataLoader(view.unvaried(part), batch_size=batch_size):
        frames, labels = batch["frames"].to(device), batch["label"].to(device)
        features = cam.extract_features(front, frames)
        with torch.no_grad():
            states = before(features)
            logits.append(last(states).float().cpu().numpy())
        hidden.append(states.flatten(1).float().cpu().numpy())
        size = (features.shape[2], features.shape[3])
        if mask.size == 0:
            mask = pool_mask(torch.from_numpy(view.mask), size).numpy()
        pattern = view.table.pattern[batch["index"].numpy()]
        patterns.append(pattern)
        pooled = functional.adaptive_avg_pool2d(frames.mean(dim=1), size).double().cpu().numpy()
        pixels.append(pooled[:, mask])
        if weights is not None:
            traces.append(frames.mean(dim=1).flatten(1).double().cpu().numpy() @ weights.T)
        inside = torch.from_numpy(mask).to(device)
        for name, maps in explain(model, frames, labels, chosen, size).items():
            scaled = cam.normalise(maps * inside, "l2").double().cpu().numpy()[:, mask]
            alive = (scaled != 0).any(axis=1)
            total = sums.setdefault(name, np.zeros((num, scaled.shape[1])))
            number = counts.setdefault(name, np.zeros(num))
            np.add.at(total, pattern[alive], scaled[alive])
            np.add.at(number, pattern[alive], 1)
    stimulated = np.array([bool(p.cells) for p in view.patterns])
    saliency = {}
    for method in chosen:
        number = np.where(counts[method.name] > 0, counts[method.name], np.nan)
        maps = sums[method.name] / number[:, None]
        saliency[method.name] = centre(maps, stimulated) if method.centred else maps
    return Seen(
        pixels=np.concatenate(pixels),
        logits=np.concatenate(logits).astype(np.float64),
        hidden=np.concatenate(hidden).astype(np.float64),
        pattern=np.concatenate(patterns),
        traces=np.concatenate(traces) if traces else None,
        saliency=saliency,
        mask=mask,
    )


def true_matrix(view: Any, mask: np.ndarray) -> np.ndarray | None:
    """ZNCC of the noise-free responses at map resolution; None for real data."""
    if view.truth is None:
        return None
    return zncc_matrix(pool_images(view.truth.evoked, (mask.shape[0], mask.shape[1]))[:, mask])


def score_matrix(
    matrix: np.ndarray, truth: np.ndarray | None, view: Any, mantel_draws: int, seed: int
) -> dict[str, float]:
    """Sum, means, and agreement with the truth over all, disjoint and single pairs, and given distance."""
    cells = _cells(view)
    summary = summarise_matrix(matrix, cells)
    scores = {"zncc_sum": summary["sum"], "disjoint_mean": summary.get("disjoint_mean", float("nan"))}
    scores["undefined_maps"] = summary["undefined_maps"]
    if truth is None:
        return scores
    scores |= compare_matrices(matrix, truth, cells)
    scores["truth_auroc_module"] = module_auroc(matrix, cells, view)
    scores["truth_r_given_distance"], scores["truth_p_given_distance"] = float("nan"), float("nan")
    defined = disjoint_pairs(cells) & ~np.isnan(matrix)
    varied = defined.sum() > 6 and np.ptp(matrix[defined]) > 0
    if view.cells.positions_px is not None and varied:
        mean, smallest = target_distances(cells, view.cells.names, view.cells.positions_px * (view.um_per_px or 1.0))
        stimulated = [i for i, own in enumerate(cells) if own]
        block = np.ix_(stimulated, stimulated)
        conditions = [view.patterns[i].condition for i in stimulated]
        patterns = [cells[i] for i in stimulated]
        r, p = partial_mantel(
            matrix[block], truth[block], [mean[block], smallest[block]], patterns, conditions, mantel_draws, seed
        )
        scores["truth_r_given_distance"], scores["truth_p_given_distance"] = r, p
    return scores


def mean_rows(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row per method: means over networks, and the range of the correlation over disjoint pairs."""
    means = []
    for name in dict.fromkeys(row["method"] for row in rows):
        own = [row for row in rows if row["method"] == name]
        numbers = [key for key in own[0] if key not in ("method", "network", "seed")]
        mean: dict[str, Any] = {"method": name, "network": own[0]["network"], "networks": len(own)}
        mean |= {key: float(np.mean([row[key] for row in own])) for key in numbers}
        if "truth_r_disjoint" in own[0]:
            values = [row["truth_r_disjoint"] for row in own]
            mean |= {"truth_r_disjoint_least": min(values), "truth_r_disjoint_most": max(values)}
        means.append(mean)
    return means


def stability_rows(matrices: dict[str, list[np.ndarray]], cells: Sequence[Sequence[str]]) -> list[dict[str, Any]]:
    """Spearman's correlation of the off-diagonals of two methods' matrices, and of one method's between networks.

    Args:
        matrices: method -> one matrix per network; compared between methods network by network.
    """
    upper = np.triu(np.ones((len(cells), len(cells)), dtype=bool), 1)
    groups = {"all": upper, "disjoint": disjoint_pairs(cells)}

    def alike(pairs: list[tuple[np.ndarray, np.ndarray]], chosen: np.ndarray) -> float:
        found = []
        for a, b in pairs:
            both = chosen & ~np.isnan(a) & ~np.isnan(b)
            if both.sum() > 2 and np.ptp(a[both]) > 0 and np.ptp(b[both]) > 0:
                found.append(float(spearmanr(a[both], b[both])[0]))
        return float(np.mean(found)) if found else float("nan")

    rows = []
    for name, other in combinations_with_replacement(matrices, 2):
        own, theirs = matrices[name], matrices[other]
        pairs = list(combinations(own, 2)) if name == other else list(zip(own, theirs, strict=False))
        if pairs:
            rows.append({"method": name, "other": "other networks" if name == other else other}
                        | {group: alike(pairs, chosen) for group, chosen in groups.items()})  # fmt: skip
    return rows


def _influence(seen: Seen, view: Any) -> dict[str, float]:
    """Influence between the stimulated cells, against the true gains and modules."""
    if seen.traces is None or view.truth is None:
        return {}
    labels = view.labels[:, :-1]
    found = baseline.influence_between_cells(seen.traces, seen.pattern, labels)
    true = view.truth.gain.T  # gain is [follower, driver]
    both = ~np.isnan(found) & ~np.eye(len(found), dtype=bool)
    similar = baseline.influence_similarity(found)
    module = view.truth.module
    upper = np.triu(~np.isnan(similar), 1)
    same = (module[:, None] == module[None])[upper]
    told = {"truth_r_gain": float(np.corrcoef(found[both], true[both])[0, 1]) if np.ptp(true[both]) > 0 else np.nan}
    told["truth_auroc_module"] = (
        float(roc_auc_score(same, similar[upper])) if same.any() and not same.all() else float("nan")
    )
    return told


def _split_head(head: nn.Module) -> tuple[nn.Module, nn.Module]:
    """(features -> hidden units, hidden units -> logits): before and from the head's last linear layer."""
    if isinstance(head, nn.Sequential) and len(head) > 1 and isinstance(head[-1], nn.Linear):
        return head[:-1], head[-1]
    return nn.Identity(), head


def _cells(view: Any) -> list[tuple[str, ...]]:
    return [tuple(pattern.cells) for pattern in view.patterns]


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logits.clip(-60, 60)))


def _or_low(value: float) -> float:
    return -2.0 if np.isnan(value) else value
