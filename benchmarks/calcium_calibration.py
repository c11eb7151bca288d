"""How well stimulated cells can be named from the simulated cells' true activity, without pictures: coarse calibration.

    OMP_NUM_THREADS=1 python benchmarks/calcium_calibration.py [--worlds 100 101 102] [--couplings 1.0 1.5 1.8] \
        [--set spontaneous_hz=[0.003,0.01] ...]

Settings are those of conf/dataset/calcium_pod.yaml, changed by --set. A linear decoder reads log-scaled calcium of all
cells (with a little noise), trained on trials 1 to 6 and tested on 9 and 10, as the network's frames are labelled. It
takes about two CPU-seconds a world and day, where a network takes a minute: knobs are found here, then confirmed by
`experiment=calcium_cfa`. Calibration worlds are not those of the experiments (world_seed 1, 300 to 319).
"""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from nissl.simulate.calcium import PARTS, Day, WorldSettings, make_world
from nissl.simulate.calcium.activity import run_session

CONF = Path(__file__).parents[1] / "conf/dataset"
NOISE = 0.15  # dF/F of a cell's trace; about what photons leave of a soma
RIDGE = 1.0


def settings_of(changes: dict[str, Any]) -> WorldSettings:
    """The world of calcium_pod.yaml with changes."""
    values = yaml.safe_load((CONF / "calcium_simulated.yaml").read_text())
    values |= {**yaml.safe_load((CONF / "calcium_pod.yaml").read_text()), **changes}
    values["frame_rate_hz"] = values.pop("fps")
    known = {field.name for field in fields(WorldSettings)}
    own = {name: value for name, value in values.items() if name in known}
    own["modules"] = tuple(tuple(module) for module in own["modules"])
    return WorldSettings(**{name: tuple(v) if isinstance(v, list) else v for name, v in own.items()})


def decode(settings: WorldSettings, seed: int, coupling: float) -> dict[str, float]:
    """Lenient accuracy on test trials: of all frames, of idle ones, of singles, of pairs."""
    world = make_world(settings, seed)
    rngs = {part: np.random.default_rng([seed, 0, i]) for i, part in enumerate(PARTS)}
    activity = run_session(world, Day("day", coupling), rngs)
    assert settings.window_frames is not None, "trials are cut out of the recording by their window"
    before, after = settings.window_frames
    traces = activity.calcium.T + NOISE * rngs["noise"].standard_normal(activity.calcium.T.shape)
    trials = traces.reshape(len(activity.pattern), before + after, -1)
    # One laser frame and one on both sides are dropped; a second of frames is labelled.
    shown, idle = trials[:, before + 2 : before + 8], trials[:, : before - 1]
    targets = np.zeros((len(trials), settings.num_targets + 1))
    for row, pattern in zip(targets, activity.pattern, strict=True):
        row[list(world.patterns[pattern].targets)] = 1
    nothing = np.zeros_like(targets)
    nothing[:, -1] = 1
    frames = np.concatenate([part.reshape(-1, traces.shape[1]) for part in (shown, idle)])
    label = np.concatenate([np.repeat(targets, shown.shape[1], axis=0), np.repeat(nothing, idle.shape[1], axis=0)])
    repeat = np.concatenate([np.repeat(activity.repeat, part.shape[1]) for part in (shown, idle)])
    features = np.log1p(3 * frames.clip(0))
    squares = features[:, : settings.num_targets] ** 2
    features = np.concatenate([features, squares, np.ones((len(features), 1))], axis=1)
    train, test = repeat < 0.6 * settings.trials, repeat >= 0.8 * settings.trials
    gram = features[train].T @ features[train] + RIDGE * np.eye(features.shape[1])
    answer = (features[test] @ np.linalg.solve(gram, features[train].T @ label[train])).argmax(axis=1)
    true = label[test]
    hit, size, none = true[np.arange(len(true)), answer], true.sum(axis=1), true[:, -1] > 0
    groups = {"all": np.ones(len(true), bool), "none": none, "single": (size == 1) & ~none, "pair": size == 2}
    return {name: float(hit[group].mean()) for name, group in groups.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", type=int, nargs="+", default=[100, 101, 102])
    parser.add_argument("--couplings", type=float, nargs="+", default=[1.0, 1.8])
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE")
    arguments = parser.parse_args()
    changes = {key: yaml.safe_load(value) for key, value in (item.split("=", 1) for item in arguments.set)}
    settings = settings_of(changes)
    for coupling in arguments.couplings:
        scores = [decode(settings, world, coupling) for world in arguments.worlds]
        values = {name: np.array([score[name] for score in scores]) for name in scores[0]}
        parts = ", ".join(f"{name} {value.mean():.3f}" for name, value in values.items())
        spread = " ".join(f"{value:.3f}" for value in values["all"])
        print(f"coupling {coupling}: {parts}; worlds {spread}", flush=True)


if __name__ == "__main__":
    main()
