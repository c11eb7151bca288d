"""Are the maps those of what was learned, and is it the brain that was learned? Checks with pass lines and warnings.

Not in the source presentation. Parameter randomisation, deletion and insertion, the pointing game; how much accuracy is
left when every stimulated cell is hidden (that part can only come from other cells: the claim about connectivity), and
when nothing else is shown; whether laser light gives the label away; whether the frames before a stimulation foretell
it; how a network does on another day.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from nissl.evaluators import gradcam as cam
from nissl.evaluators import map_check_figures as draw
from nissl.evaluators.map_baselines import decode_linearly, disc_weights, lenient_accuracy, untrained_copy
from nissl.evaluators.map_entries import networks_of
from nissl.evaluators.map_perturbation import (
    map_similarities,
    perturbation_curves,
    pointing_hits,
    randomised_copies,
    target_discs,
)
from nissl.evaluators.pattern_maps import pool_mask
from nissl.evaluators.rate_intervals import trial_bootstrap_interval, wilson_interval
from nissl.evaluators.result import Figure, Result

ORDERS = ("map", "random", "reversed")
LATE = 2  # frames since onset from which the laser is off; light cannot reach them, calcium can


class MapChecks:
    """Check the maps and answers of the reference day's network.

    Args:
        method, layer: of the maps, as in gradcam_zncc.
        frames: test frames, drawn evenly, that maps are checked on.
        steps: of deletion and insertion.
        margin_px: added to 1.5 radii when targets are hidden: the microscope's blur.
        decoder_side: frames are averaged to this side for the linear decoder that is trained with targets hidden.
        linear_ridge: of that decoder, in mean variances of a pixel.
        retrain_steps: also train the network anew with targets hidden, and with labels exchanged between trials, for
            this many batches of 64; 0 leaves it out.
        retrain_rate: learning rate of that.
        draws: bootstrap samples of intervals over trials.
        seed: of all draws.
        batch_size: frames at a time.
    """

    metrics = {
        "map_checks/randomised_zncc": "min",
        "map_checks/randomised_spearman": "min",
        "map_checks/randomised_ssim": "min",
        "map_checks/between_networks_zncc": "max",
        "map_checks/deletion_gain": "max",
        "map_checks/insertion_gain": "max",
        "map_checks/pointing*": "max",
        "map_checks/accuracy*": None,
        "map_checks/linear_*": None,
        "map_checks/retrained_*": None,
        "map_checks/majority": None,
        "map_checks/laser_*": None,
        "map_checks/before_onset*": None,
        "map_checks/transfer_*": None,
        "map_checks/warnings": "min",
    }

    def __init__(
        self,
        method: str,
        layer: int | None,
        frames: int,
        steps: int,
        margin_px: float,
        decoder_side: int,
        linear_ridge: float,
        retrain_steps: int,
        retrain_rate: float,
        draws: int,
        seed: int,
        batch_size: int,
    ) -> None:
        if frames < 1 or steps < 2:
            raise ValueError(f"frames must be at least 1 and steps at least 2, came {frames} and {steps}")
        self.method, self.layer, self.frames, self.steps = method, layer, frames, steps
        self.margin_px, self.decoder_side, self.linear_ridge = margin_px, decoder_side, linear_ridge
        self.retrain_steps, self.retrain_rate = retrain_steps, retrain_rate
        self.draws, self.seed, self.batch_size = draws, seed, batch_size

    def __call__(self, task: Any, data: Any) -> Result:
        whole, day = data.source, data.source.days[0]
        source = whole.of_day(day)
        networks = networks_of(task)
        own = [network for network in networks if network.day in (None, day)]
        network = own[0]
        scalars: dict[str, float] = {}
        figures: dict[str, Figure] = {}
        tables: dict[str, list[dict[str, Any]]] = {}
        notes: list[str] = []
        test = Frames(source, "test", self.batch_size)
        scalars["map_checks/majority"] = float(np.bincount(test.majority()).max() / len(test.rows))

        sample = test.sample(self.frames, stimulated=True)
        self._randomise(own, source, sample, scalars, figures, tables)
        self._perturb(network, source, test, sample, scalars, figures)
        self._point(network, source, sample, scalars, notes)
        self._hide(network, source, test, scalars, figures, notes)
        warnings = self._laser(network, source, scalars, figures) + self._before_onset(network, source, scalars)
        self._transfer(networks, whole, scalars, tables)
        scalars["map_checks/warnings"] = float(len(warnings))
        return Result(scalars, figures, tables, notes=[*(f"warning: {text}" for text in warnings), *notes])

    def _maps(self, model: nn.Module, source: Any, rows: np.ndarray, device: Any) -> np.ndarray:
        frames, labels = tensors(source, rows, device)
        front, rest = cam.split_model(model, self.layer)
        return cam.gradcam(rest, cam.extract_features(front, frames), labels, self.method).cpu().numpy()

    def _randomise(
        self, networks: list[Any], source: Any, rows: np.ndarray, scalars: dict[str, float],
        figures: dict[str, Figure], tables: dict[str, list[dict[str, Any]]],
    ) -> None:  # fmt: skip
        network = networks[0]
        maps = self._maps(network.model, source, rows, network.device)
        mask = pool_mask(torch.from_numpy(source.mask), maps.shape[1:]).numpy()
        steps: list[dict[str, Any]] = [{"redrawn": "nothing", "zncc": 1.0, "spearman": 1.0, "ssim": 1.0}]
        for name, model in randomised_copies(network.model, self.seed):
            changed = self._maps(model, source, rows, network.device)
            steps.append({"redrawn": name} | map_similarities(maps, changed, mask))
        for kind in ("zncc", "spearman", "ssim"):
            scalars[f"map_checks/randomised_{kind}"] = float(steps[-1][kind])
        others = [self._maps(other.model, source, rows, other.device) for other in networks[1:]]
        if others:
            between = [map_similarities(maps, other, mask)["zncc"] for other in others]
            scalars["map_checks/between_networks_zncc"] = float(np.mean(between))
        tables["randomisation"] = steps
        figures["randomisation"] = draw.randomisation(steps, scalars.get("map_checks/between_networks_zncc"))

    def _perturb(
        self, network: Any, source: Any, test: Frames, rows: np.ndarray, scalars: dict[str, float],
        figures: dict[str, Figure],
    ) -> None:  # fmt: skip
        frames, labels = tensors(source, rows, network.device)
        maps = torch.from_numpy(self._maps(network.model, source, rows, network.device))
        size = (frames.shape[2], frames.shape[3])
        inside = torch.from_numpy(np.flatnonzero(source.mask.ravel()))
        big = cam.upsample(maps, size).flatten(1)[:, inside]
        draws = torch.rand(big.shape, generator=torch.Generator().manual_seed(self.seed))
        # Ties, as in maps of zeros, fall at random rather than from corner to corner.
        ranks = {"map": big + 1e-9 * draws, "random": draws, "reversed": -big + 1e-9 * draws}
        idle = torch.from_numpy(test.mean_idle())
        curves = {
            name: perturbation_curves(
                network.model, frames, labels, inside[rank.argsort(dim=1, descending=True)], idle, self.steps
            )
            for name, rank in ranks.items()
        }
        areas = {name: [c.mean(axis=0) for c in both] for name, both in curves.items()}  # mean over equal steps
        scalars["map_checks/deletion_gain"] = float((areas["random"][0] - areas["map"][0]).mean())
        scalars["map_checks/insertion_gain"] = float((areas["map"][1] - areas["random"][1]).mean())
        figures["perturbation"] = draw.perturbation(curves)

    def _point(self, network: Any, source: Any, rows: np.ndarray, scalars: dict[str, float], notes: list[str]) -> None:
        if source.cells.positions_px is None:
            notes.append("pointing game and hidden targets skipped: the data have no cell positions")
            return
        maps = self._maps(network.model, source, rows, network.device)
        mask = pool_mask(torch.from_numpy(source.mask), maps.shape[1:]).numpy()
        scale = np.array(maps.shape[1:]) / np.array(source.mask.shape)
        places = dict(zip(source.cells.names, (source.cells.positions_px + 0.5) * scale - 0.5, strict=True))
        # Half the diagonal of a position: the one that holds the target is always within reach.
        reach = max(float(_radius(source).mean() * scale.mean()), 0.5**0.5)
        patterns = [source.patterns[p] for p in source.table.pattern[rows]]
        alive = maps.reshape(len(maps), -1).any(axis=1)
        targets = [np.array([places[cell] for cell in pattern.cells]) for pattern in patterns]
        hits, chances = pointing_hits(maps, mask, targets, reach)
        hits &= alive
        low, high = trial_bootstrap_interval(
            hits.astype(float), source.table.trial[rows], source.table.pattern[rows], self.draws, self.seed
        )
        scalars |= {
            "map_checks/pointing": float(hits.mean()),
            "map_checks/pointing_low": low,
            "map_checks/pointing_high": high,
            "map_checks/pointing_chance": float(chances.mean()),
        }

    def _hide(
        self, network: Any, source: Any, test: Frames, scalars: dict[str, float], figures: dict[str, Figure],
        notes: list[str],
    ) -> None:  # fmt: skip
        if source.cells.positions_px is None:
            return
        train = Frames(source, "train", self.batch_size)
        shape = (source.mask.shape[0], source.mask.shape[1])
        discs = target_discs(shape, source.cells.positions_px, _radius(source), self.margin_px) & source.mask
        fill = train.mean()
        views = {"": None, "_targets_hidden": discs, "_targets_only": source.mask & ~discs}
        hits: dict[str, np.ndarray] = {}
        for name, hidden in views.items():
            hits[name] = test.hits(network, hidden, fill)
            low, high = trial_bootstrap_interval(
                hits[name], source.table.trial[test.rows], test.pattern, self.draws, self.seed
            )
            scalars[f"map_checks/accuracy{name}"] = float(hits[name].mean())
            scalars[f"map_checks/accuracy{name}_low"], scalars[f"map_checks/accuracy{name}_high"] = low, high
        for name, hidden in views.items():
            x, y = (part.pooled(self.decoder_side, hidden, fill) for part in (train, test))
            weights, offset = decode_linearly(x, source.labels[train.pattern], self.linear_ridge)
            accuracy = lenient_accuracy(y @ weights + offset, source.labels[test.pattern])
            scalars[f"map_checks/linear_accuracy{name}"] = accuracy
        if self.retrain_steps:
            rng = np.random.default_rng(self.seed)
            exchanged = exchange_labels(source.table.trial[train.rows], train.pattern, rng)
            for name, hidden, pattern in (("_targets_hidden", discs, train.pattern), ("_exchanged", None, exchanged)):
                model = retrain(
                    network.model, train, pattern, hidden, fill, self.retrain_steps, self.retrain_rate, self.seed
                )
                anew = _Network(model, network.device)
                scalars[f"map_checks/retrained_accuracy{name}"] = float(test.hits(anew, hidden, fill).mean())
        else:
            notes.append(
                "the network was not trained anew with targets hidden (retrain_steps=0); the linear decoder was"
            )
        notes.append(
            f"with every stimulated cell hidden ({discs.sum() / source.mask.sum():.0%} of the field), a linear decoder "
            f"trained so names {scalars['map_checks/linear_accuracy_targets_hidden']:.3f} of test frames (lenient; "
            f"commonest answer {scalars['map_checks/majority']:.3f}, nothing hidden "
            f"{scalars['map_checks/linear_accuracy']:.3f}): what is above comes from other cells"
        )
        figures["hidden"] = draw.hidden_targets(scalars)

    def _laser(self, network: Any, source: Any, scalars: dict[str, float], figures: dict[str, Figure]) -> list[str]:
        """Light at the stimulated spot is there at once and gone with the laser; calcium rises and lingers."""
        warnings = []
        table = source.table
        test = source.rows("test")
        stim = test[[bool(source.patterns[p].cells) for p in table.pattern[test]]]
        since = table.since_onset[stim]
        if (since == 0).any() and (since >= LATE).any():
            hit = Frames.of_rows(source, stim, self.batch_size).hits(network)
            lit, late = hit[since == 0], hit[since >= LATE]
            scalars["map_checks/laser_accuracy_lit"] = float(lit.mean())
            scalars["map_checks/laser_accuracy_late"] = float(late.mean())
            # Frames of a trial are alike: intervals count trials.
            trials = [len(np.unique(table.trial[stim[chosen]])) for chosen in (since == 0, since >= LATE)]
            low, _ = wilson_interval(lit.mean() * trials[0], trials[0])
            _, high = wilson_interval(late.mean() * trials[1], trials[1])
            if low > high:
                warnings.append(
                    f"accuracy in the frame of the laser is {lit.mean():.2f}, later {late.mean():.2f}: the network "
                    "reads laser light, which calcium cannot follow at once. Set dataset.drop_laser_frames=true"
                )
        course = self._course(source)
        if course is not None:
            frames, values, errors = course
            figures["laser"] = draw.laser(frames, values, errors)
            onset = np.flatnonzero(frames == 0)
            later = np.flatnonzero(frames >= LATE)
            if len(onset) and len(later):
                peak = later[np.argmax(values[later])]
                scalars["map_checks/laser_brightness_onset"] = float(values[onset[0]])
                scalars["map_checks/laser_brightness_later"] = float(values[peak])
                excess = values[onset[0]] - values[peak]
                if excess > 3 * float(np.hypot(errors[onset[0]], errors[peak])):
                    used = "used" if (since == 0).any() else "not used"
                    warnings.append(
                        f"stimulated cells are brighter at onset ({values[onset[0]]:.2f} deviations) than at any later "
                        f"frame ({values[peak]:.2f}): laser light reaches the detector. Those frames are {used}"
                    )
        return warnings

    def _course(self, source: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
        """Brightness of stimulated cells above idle by frame since onset, excluded frames included; errors of means."""
        if source.cells.positions_px is None:
            return None
        table, names = source.table, list(source.cells.names)
        weights = disc_weights(source.mask.shape, source.cells.positions_px, _radius(source))
        used = source.rows("train")
        stimulated = used[[bool(source.patterns[p].cells) for p in table.pattern[used]]]
        pattern_of = dict(zip(table.trial[stimulated].tolist(), table.pattern[stimulated].tolist(), strict=True))
        # All frames of those trials, whatever their role.
        rows = np.flatnonzero(np.isin(table.trial, list(pattern_of)) & (table.since_onset >= 0))
        idle = used[table.pattern[used] == len(source.patterns) - 1]
        if not len(rows) or not len(idle) or source.patterns[-1].cells:
            return None
        base = self._traces(source, idle[:: max(1, len(idle) // 500)], weights).mean(axis=0)
        rows = rows[:: max(1, len(rows) // 4000)]
        traces = self._traces(source, rows, weights) - base
        own = np.array([
            traces[i, [names.index(cell) for cell in source.patterns[pattern_of[int(trial)]].cells]].mean()
            for i, trial in enumerate(table.trial[rows])
        ])  # fmt: skip
        frames = np.unique(table.since_onset[rows])
        frames = frames[[np.count_nonzero(table.since_onset[rows] == f) >= 5 for f in frames]]
        groups = [own[table.since_onset[rows] == f] for f in frames]
        means = np.array([group.mean() for group in groups])
        return frames, means, np.array([group.std() / np.sqrt(len(group)) for group in groups])

    def _traces(self, source: Any, rows: np.ndarray, weights: np.ndarray) -> np.ndarray:
        blocks = np.array_split(rows, max(1, len(rows) // self.batch_size))
        return np.concatenate([source.read(block).reshape(len(block), -1) @ weights.T for block in blocks])

    def _before_onset(self, network: Any, source: Any, scalars: dict[str, float]) -> list[str]:
        """Frames before a stimulation must not foretell it."""
        table, outputs = source.table, list(source.outputs)
        test = source.rows("test")
        stimulated = test[[bool(source.patterns[p].cells) for p in table.pattern[test]]]
        pattern_of = dict(zip(table.trial[stimulated].tolist(), table.pattern[stimulated].tolist(), strict=True))
        before = test[(table.since_onset[test] < 0) & np.isin(table.trial[test], list(pattern_of))]
        if not len(before) or source.patterns[-1].cells:
            return []
        coming = source.labels[[pattern_of[int(trial)] for trial in table.trial[before]]]
        logits = Frames.of_rows(source, before, self.batch_size).logits(network)
        cells = [i for i, name in enumerate(outputs) if name != "none"]
        hits = coming[np.arange(len(before)), np.array(cells)[logits[:, cells].argmax(axis=1)]]
        chance = float(coming[:, cells].sum(axis=1).mean() / len(cells))
        trials = len(np.unique(table.trial[before]))
        low, _ = wilson_interval(float(hits.mean()) * trials, trials)
        scalars["map_checks/before_onset"] = float(hits.mean())
        scalars["map_checks/before_onset_chance"] = chance
        if low > chance:
            return [
                f"frames before onset foretell the stimulation in {hits.mean():.2f} of cases (chance {chance:.2f}): "
                "labels are confounded with time or recording"
            ]
        return []

    def _transfer(
        self, networks: list[Any], whole: Any, scalars: dict[str, float], tables: dict[str, list[dict[str, Any]]]
    ) -> None:
        """Each network's test accuracy on each day."""
        if len(whole.days) < 2:
            return
        rows: list[dict[str, Any]] = []
        parts = {day: Frames(whole.of_day(day), "test", self.batch_size) for day in whole.days}
        for network in networks:
            for day, part in parts.items():
                accuracy = float(part.hits(network).mean())
                rows.append({"trained_on": network.day or "all days", "seed": network.seed, "tested_on": day}
                            | {"accuracy": accuracy})  # fmt: skip
        tables["transfer"] = rows
        for same, name in ((True, "own_day"), (False, "other_day")):
            values = [row["accuracy"] for row in rows if (row["trained_on"] in ("all days", row["tested_on"])) == same]
            if values:
                scalars[f"map_checks/transfer_{name}"] = float(np.mean(values))


class _Network:
    def __init__(self, model: nn.Module, device: Any) -> None:
        self.model, self.device = model, device


class Frames:
    """Rows of a source as the checks need them: answers, means, samples, with places hidden or not."""

    def __init__(self, source: Any, part: str, batch_size: int) -> None:
        self._set(source, source.rows(part), batch_size)

    @classmethod
    def of_rows(cls, source: Any, rows: np.ndarray, batch_size: int) -> Frames:
        made = cls.__new__(cls)
        made._set(source, rows, batch_size)
        return made

    def _set(self, source: Any, rows: np.ndarray, batch_size: int) -> None:
        self.source, self.rows, self.batch_size = source, rows, batch_size
        self.pattern = source.table.pattern[rows]

    def blocks(self, hidden: np.ndarray | None, fill: np.ndarray | None) -> Iterator[np.ndarray]:
        """Frames (n, H, W) block by block, hidden pixels filled from the mean frame."""
        for start in range(0, len(self.rows), self.batch_size):
            frames = self.source.read(self.rows[start : start + self.batch_size])
            if hidden is not None:
                assert fill is not None, "hidden pixels need something in their place"
                frames = np.where(hidden, fill, frames).astype(np.float32)
            yield frames

    def logits(self, network: Any, hidden: np.ndarray | None = None, fill: np.ndarray | None = None) -> np.ndarray:
        with torch.inference_mode():
            answers = [
                network.model(torch.from_numpy(frames)[:, None].to(network.device)).float().cpu().numpy()
                for frames in self.blocks(hidden, fill)
            ]
        return np.concatenate(answers)

    def hits(self, network: Any, hidden: np.ndarray | None = None, fill: np.ndarray | None = None) -> np.ndarray:
        """1 where the strongest output is in the label set (n,)."""
        logits = self.logits(network, hidden, fill)
        return self.source.labels[self.pattern][np.arange(len(logits)), logits.argmax(axis=1)].astype(float)

    def mean(self) -> np.ndarray:
        """Mean frame (H, W)."""
        total = np.zeros(self.source.mask.shape)
        for frames in self.blocks(None, None):
            total += frames.sum(axis=0, dtype=np.float64)
        return (total / len(self.rows)).astype(np.float32)

    def mean_idle(self) -> np.ndarray:
        """Mean frame without stimulation, of all frames where there is none."""
        source = self.source
        idle = self.rows[[not source.patterns[p].cells for p in self.pattern]]
        return Frames.of_rows(source, idle if len(idle) else self.rows, self.batch_size).mean()

    def pooled(self, side: int, hidden: np.ndarray | None, fill: np.ndarray | None) -> np.ndarray:
        """Frames averaged to side x side, flat (n, side * side)."""
        size = (min(side, self.source.mask.shape[0]), min(side, self.source.mask.shape[1]))
        return np.concatenate(
            [
                functional.adaptive_avg_pool2d(torch.from_numpy(frames)[:, None], size).flatten(1).double().numpy()
                for frames in self.blocks(hidden, fill)
            ]
        )

    def sample(self, count: int, stimulated: bool) -> np.ndarray:
        """Rows drawn evenly, of stimulated frames only if asked for and there are any."""
        rows = self.rows
        if stimulated:
            chosen = np.array([bool(self.source.patterns[p].cells) for p in self.pattern])
            rows = rows[chosen] if chosen.any() else rows
        return rows[np.unique(np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(int))]

    def majority(self) -> np.ndarray:
        """Outputs as if always answered for every frame: how often each is in the label set, as repeated indices."""
        return np.repeat(np.arange(self.source.labels.shape[1]), (self.source.labels[self.pattern] > 0).sum(axis=0))


def tensors(source: Any, rows: np.ndarray, device: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Frames (n, 1, H, W) and labels (n, C) of rows."""
    frames = torch.from_numpy(source.read(rows))[:, None].to(device)
    return frames, torch.from_numpy(source.labels[source.table.pattern[rows]]).to(device)


def exchange_labels(trial: np.ndarray, pattern: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Patterns (n,) with those of stimulated trials exchanged between trials; idle frames keep theirs.

    The last pattern is "none".
    """
    none = pattern.max()
    trials, first = np.unique(trial[pattern != none], return_index=True)
    shown = pattern[pattern != none][first]
    new = dict(zip(trials.tolist(), rng.permutation(shown).tolist(), strict=True))
    return np.array([p if p == none else new[int(t)] for t, p in zip(trial, pattern, strict=True)])


def retrain(
    model: nn.Module, train: Frames, pattern: np.ndarray, hidden: np.ndarray | None, fill: np.ndarray, steps: int,
    rate: float, seed: int,
) -> nn.Module:  # fmt: skip
    """The same architecture trained from random weights on frames with places hidden, on the CPU, in eval mode."""
    fresh = untrained_copy(model, seed).cpu().train()
    frames = torch.from_numpy(np.concatenate(list(train.blocks(hidden, fill))))[:, None]
    labels = torch.from_numpy(train.source.labels[pattern]).float()
    optimizer = torch.optim.AdamW(fresh.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    draw = torch.Generator().manual_seed(seed)
    with torch.enable_grad():
        for _ in range(steps):
            chosen = torch.randint(len(frames), (64,), generator=draw)
            loss = functional.binary_cross_entropy_with_logits(fresh(frames[chosen]), labels[chosen])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
    return fresh.eval().to(next(model.parameters()).device)


def _radius(source: Any) -> np.ndarray:
    radius = source.cells.radius_px
    return np.full(len(source.cells.names), 4.0) if radius is None else np.asarray(radius, dtype=float)
