"""Branching morphologies of known populations: data with a right answer for tests, CI and the first run.

A cell is a soma at 0 with arbours of unit-step branches; y points to the pia, lengths are um. Five populations:

- tufted, untufted: an apical trunk with obliques and a basal skirt; only the first ends in a tuft. Trunk length and
  number of branches are drawn from the same ranges, so neither extent nor size tells them apart.
- bitufted: narrow bundles up and down.
- stellate, basket: stems in all directions; the first has few, straight ones that fork late, the second many winding
  ones that fork early and often, near the soma.

Four more are for questions about what an encoder uses, and are simulated on request:

- thrifty, direct: the same cloud of points around the soma, wired with least cable, or with short paths to the soma
  (minimum spanning tree with a balancing factor, Cuntz et al. 2010, https://doi.org/10.1371/journal.pcbi.1000877). Only
  the topology tells them apart; no position does.
- martinotti, chandelier: the same dendrites with different axons (type 2): one climbs and spreads in a plane, the other
  hangs full of short vertical rows. Without the axon they are one population.

Populations belong to families (`FAMILY`): pyramidal, interneuron, wired, axonal.

Within a population cells vary as much as real ones do: overall size by more than a factor of two, any rotation
about y, a tilt, and lost branches. Overall size is drawn from one distribution for all, so it says nothing about the
population. Synthetic, and no model of any species.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

POPULATIONS = ("tufted", "untufted", "bitufted", "stellate", "basket")
MORE_POPULATIONS = ("thrifty", "direct", "martinotti", "chandelier")
FAMILY = {
    "tufted": "pyramidal",
    "untufted": "pyramidal",
    "bitufted": "interneuron",
    "stellate": "interneuron",
    "basket": "interneuron",
    "thrifty": "wired",
    "direct": "wired",
    "martinotti": "axonal",
    "chandelier": "axonal",
}
STEP_UM = 4.0
SOMA, AXON, DENDRITE, APICAL = 1, 2, 3, 4
NUM_TARGETS = 70  # points of a cloud to be wired
BALANCING = {"thrifty": 0.0, "direct": 0.7}  # weight of the path to the soma against new cable
SIZE_UM = 110.0  # root mean square distance of a typical cell's nodes from the soma
SIZE_SPREAD = 0.25  # standard deviation of log size
TILT_SPREAD_DEG = 8.0
LOST_BRANCHES = 0.1  # chance of a branch to be missing, with all beyond it


@dataclass(frozen=True)
class SimulatedNeuron:
    """A cell: soma first, parents before children; x, y, z and radius in um."""

    pos: np.ndarray  # (N, 3) float32
    radius: np.ndarray  # (N,) float32
    type: np.ndarray  # (N,) int8, as in SWC
    parent: np.ndarray  # (N,) int32
    population: str


class _Tree:
    """A growing list of nodes."""

    def __init__(self) -> None:
        self.pos: list[np.ndarray] = [np.zeros((1, 3))]
        self.parent: list[np.ndarray] = [np.array([-1])]
        self.type: list[np.ndarray] = [np.array([SOMA])]
        self.size = 1
        self.at: dict[int, np.ndarray] = {0: np.zeros(3)}

    def branch(
        self, rng: np.random.Generator, start: int, direction: np.ndarray, length_um: float, wiggle: float, kind: int
    ) -> tuple[int, np.ndarray]:
        """Grow one branch; returns its last node and its final direction."""
        steps = max(int(length_um / STEP_UM), 1)
        drift = np.cumsum(rng.standard_normal((steps, 3)) * wiggle, axis=0)
        heading = _unit(direction) + drift
        heading /= np.linalg.norm(heading, axis=1, keepdims=True)
        nodes = self.at[start] + np.cumsum(heading * STEP_UM, axis=0)
        self.pos.append(nodes)
        self.parent.append(np.concatenate([[start], np.arange(self.size, self.size + steps - 1)]))
        self.type.append(np.full(steps, kind))
        first = self.size
        self.size += steps
        for k in range(steps):
            self.at[first + k] = nodes[k]
        return self.size - 1, heading[-1]


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)


def _tuft(
    tree: _Tree, rng: np.random.Generator, start: int, direction: np.ndarray, reach_um: float, orders: int,
    spread: float, kind: int, early: float = 0.5, wiggle: float = 0.06,
) -> None:  # fmt: skip
    """A binary subtree: each fork turns its two children apart; `early` is where along the reach it forks (0..1)."""
    if orders == 0 or reach_um < 2 * STEP_UM:
        tree.branch(rng, start, direction, reach_um, wiggle, kind)
        return
    first = reach_um * np.clip(rng.normal(early, 0.08), 0.05, 0.9)
    fork, heading = tree.branch(rng, start, direction, first, wiggle, kind)
    for side in (-1.0, 1.0):
        if rng.random() < LOST_BRANCHES:
            continue
        across = _unit(np.cross(heading, rng.standard_normal(3)))
        turned = heading + side * spread * across
        _tuft(tree, rng, fork, turned, reach_um - first, orders - 1, spread, kind, early, wiggle)


def _pyramidal(tree: _Tree, rng: np.random.Generator, tufted: bool) -> None:
    up = np.array([0.0, 1.0, 0.0])
    for _ in range(rng.integers(3, 6)):
        angle = rng.uniform(0, 2 * np.pi)
        skirt = np.array([np.cos(angle), rng.uniform(-0.8, 0.1), np.sin(angle)])
        _tuft(tree, rng, 0, skirt, rng.uniform(70, 120), 2, 0.6, DENDRITE, 0.3)
    trunk_um, heading, node = rng.uniform(250, 350), up, 0
    num_obliques = rng.integers(3, 6)
    # The same number of branches leaves the trunk: as obliques all along it, or fewer of them and a tuft at its end.
    places = np.sort(rng.uniform(0.15, 0.95 if not tufted else 0.6, num_obliques + (0 if tufted else 3)))
    for place, before in zip([*places, 1.0], [0.0, *places], strict=True):
        node, heading = tree.branch(rng, node, up + 0.3 * heading, (place - before) * trunk_um, 0.03, APICAL)
        if place < 1.0 and rng.random() > LOST_BRANCHES:
            angle = rng.uniform(0, 2 * np.pi)
            aside = np.array([np.cos(angle), rng.uniform(-0.2, 0.5), np.sin(angle)])
            tree.branch(rng, node, aside, rng.uniform(50, 110), 0.06, APICAL)
    if tufted:
        for _ in range(3):
            aside = 0.5 * up + rng.standard_normal(3) * np.array([1, 0.2, 1])
            _tuft(tree, rng, node, aside, rng.uniform(90, 140), 1, 0.6, APICAL, 0.3)


def _bitufted(tree: _Tree, rng: np.random.Generator) -> None:
    for sign in (-1.0, 1.0):
        for _ in range(rng.integers(1, 4)):
            aim = np.array([0.0, sign, 0.0]) + 0.2 * rng.standard_normal(3)
            _tuft(tree, rng, 0, aim, rng.uniform(140, 240), 2, 0.3, DENDRITE, 0.35)


def _stellate(tree: _Tree, rng: np.random.Generator) -> None:
    for _ in range(rng.integers(3, 6)):
        _tuft(tree, rng, 0, rng.standard_normal(3), rng.uniform(180, 280), 1, 0.4, DENDRITE, 0.6)


def _basket(tree: _Tree, rng: np.random.Generator) -> None:
    for _ in range(rng.integers(6, 11)):
        _tuft(tree, rng, 0, rng.standard_normal(3), rng.uniform(60, 110), 2, 1.0, DENDRITE, 0.2, 0.25)


def _wired(tree: _Tree, rng: np.random.Generator, balancing: float) -> None:
    """Targets in a ball, denser near the soma, wired one at a time to where cable plus weighted path is least."""
    direction = rng.standard_normal((NUM_TARGETS, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    targets = direction * 180.0 * rng.random((NUM_TARGETS, 1)) ** 0.5
    # The order in which targets are reached is that of their distance in both populations, so that branches are grown
    # with the same random numbers whatever the wiring.
    targets = targets[np.argsort(np.linalg.norm(targets, axis=1))]
    places, nodes, paths = [np.zeros(3)], [0], [0.0]
    for target in targets:
        reach = np.linalg.norm(np.array(places) - target, axis=1)
        chosen = int(np.argmin(reach + balancing * (np.array(paths) + reach)))
        node, _ = tree.branch(rng, nodes[chosen], target - places[chosen], float(reach[chosen]), 0.0, DENDRITE)
        places.append(tree.at[node])
        nodes.append(node)
        paths.append(paths[chosen] + float(reach[chosen]))


def _axonal(tree: _Tree, rng: np.random.Generator, chandelier: bool) -> None:
    for _ in range(rng.integers(4, 7)):
        _tuft(tree, rng, 0, rng.standard_normal(3), rng.uniform(80, 130), 1, 0.5, DENDRITE, 0.4)
    up = np.array([0.0, 1.0, 0.0])
    if chandelier:
        for _ in range(rng.integers(3, 5)):
            node, heading = 0, _unit(rng.standard_normal(3) * np.array([1, 0.3, 1]))
            for _ in range(rng.integers(3, 6)):
                node, heading = tree.branch(rng, node, heading, rng.uniform(20, 40), 0.08, AXON)
                if rng.random() > LOST_BRANCHES:
                    tree.branch(rng, node, rng.choice([-1.0, 1.0]) * up, rng.uniform(25, 45), 0.02, AXON)
        return
    node, heading = tree.branch(rng, 0, up, rng.uniform(200, 280), 0.03, AXON)
    for _ in range(rng.integers(3, 6)):
        aside = rng.standard_normal(3) * np.array([1, 0.1, 1])
        _tuft(tree, rng, node, aside, rng.uniform(100, 160), 1, 0.7, AXON, 0.4)


def simulate_neuron(population: str, rng: np.random.Generator) -> SimulatedNeuron:
    """One cell of a population."""
    tree = _Tree()
    if population in ("tufted", "untufted"):
        _pyramidal(tree, rng, tufted=population == "tufted")
    elif population == "bitufted":
        _bitufted(tree, rng)
    elif population == "stellate":
        _stellate(tree, rng)
    elif population == "basket":
        _basket(tree, rng)
    elif population in BALANCING:
        _wired(tree, rng, BALANCING[population])
    elif population in ("martinotti", "chandelier"):
        _axonal(tree, rng, chandelier=population == "chandelier")
    else:
        raise ValueError(f"unknown population {population!r}; choose from {', '.join(FAMILY)}")
    pos = np.concatenate(tree.pos)
    pos *= SIZE_UM / np.sqrt(np.sum(pos**2, axis=1).mean()) * np.exp(rng.normal(0.0, SIZE_SPREAD))
    turn, (tilt_x, tilt_z) = rng.uniform(0, 2 * np.pi), np.radians(TILT_SPREAD_DEG) * rng.standard_normal(2)
    pos = pos @ _rotation(0, tilt_x) @ _rotation(2, tilt_z) @ _rotation(1, turn)
    return SimulatedNeuron(
        pos=pos.astype(np.float32),
        radius=np.where(np.arange(len(pos)) == 0, 6.0, 0.5).astype(np.float32),
        type=np.concatenate(tree.type).astype(np.int8),
        parent=np.concatenate(tree.parent).astype(np.int32),
        population=population,
    )


def _rotation(axis: int, angle: float) -> np.ndarray:
    i, j = [k for k in range(3) if k != axis]
    matrix = np.eye(3)
    matrix[i, i] = matrix[j, j] = np.cos(angle)
    matrix[i, j], matrix[j, i] = -np.sin(angle), np.sin(angle)
    return matrix


def simulate_neurons(
    cells_per_population: int, seed: int, populations: Sequence[str] = POPULATIONS
) -> list[SimulatedNeuron]:
    """Cells of each population in turn; cell k of one depends on the seed, the population and k alone."""
    number = {population: k for k, population in enumerate(FAMILY)}
    return [
        simulate_neuron(population, np.random.default_rng([seed, number.get(population, 0), k]))
        for population in populations
        for k in range(cells_per_population)
    ]
