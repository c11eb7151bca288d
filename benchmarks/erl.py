"""What scoring skeletons costs: CPU seconds and memory of expected run length on many nodes, against a plain loop.

    python benchmarks/erl.py [--nodes 1000000]

Random walks of 1,000 nodes, cut into segments of 40 nodes with splits, blanks and mergers, are scored by each variant,
with intervals and ranked error sites. The loop that the tests check against is timed on fewer nodes in the same process
and scaled up. Memory is the peak of arrays allocated while scoring (tracemalloc) and the peak of the whole process.

Target: one variant on 10^6 nodes in at most 2 CPU seconds and 1 GiB.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np

from nissl.evaluators.erl_intervals import bootstrap
from nissl.evaluators.error_sites import error_sites
from nissl.evaluators.run_lengths import VARIANTS, expected_run_length
from nissl.volumes.skeletons import Skeletons

PER_NEURON, PER_SEGMENT = 1000, 40


def data(num_nodes: int) -> tuple[Skeletons, np.ndarray]:
    """Neurons, and the segment under each node: 2 % blank, one segment in 200 joined to one of another neuron."""
    rng = np.random.default_rng(0)
    rows = np.arange(num_nodes)
    inner = rows[rows % PER_NEURON != PER_NEURON - 1]
    nodes = np.cumsum(rng.normal(size=(num_nodes, 3)) * 10, axis=0)
    skeletons = Skeletons(nodes, np.stack([inner, inner + 1], 1), rows // PER_NEURON + 1)
    names = np.arange(num_nodes // PER_SEGMENT + 1) + 1
    merged = rng.random(len(names)) < 0.005
    names[merged] = rng.permutation(names)[merged]
    segment = names[rows // PER_SEGMENT]
    return skeletons, np.where(rng.random(num_nodes) < 0.02, 0, segment)


def plain_loop(skeletons: Skeletons, segment_of: np.ndarray) -> float:
    """The funlib variant as dictionaries and a loop over edges."""
    touching: dict[int, set[int]] = {}
    for skeleton, segment in zip(skeletons.skeleton_of.tolist(), segment_of.tolist(), strict=True):
        touching.setdefault(segment, set()).add(skeleton)
    run: dict[tuple[int, int], float] = {}
    total = 0.0
    for u, v in skeletons.edges.tolist():
        length = float(np.linalg.norm(skeletons.nodes_zyx_nm[u] - skeletons.nodes_zyx_nm[v]))
        total += length
        g = int(segment_of[u])
        if g and g == segment_of[v] and len(touching[g]) == 1:
            key = (int(skeletons.skeleton_of[u]), g)
            run[key] = run.get(key, 0.0) + length
    return sum(value**2 for value in run.values()) / total


def cost(work: Callable[[], Any], repeats: int = 3) -> tuple[float, Any]:
    """Least CPU seconds of the repeats, and the last result."""
    best, result = float("inf"), None
    for _ in range(repeats):
        before = time.process_time()
        result = work()
        best = min(best, time.process_time() - before)
    return best, result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nodes", type=int, default=1_000_000)
    arguments = parser.parse_args()
    skeletons, segment = data(arguments.nodes)
    found: dict[str, float] = {"nodes": arguments.nodes}
    for name, how in VARIANTS.items():
        found[f"{name}_cpu_s"], runs = cost(lambda how=how: expected_run_length(skeletons, segment, **how))
        found[f"{name}_erl_nm"] = runs.erl_nm
    runs = expected_run_length(skeletons, segment)
    found["intervals_cpu_s"], _ = cost(lambda: bootstrap(runs, 1000, 0), 1)
    found["error_sites_cpu_s"], sites = cost(lambda: error_sites(skeletons, runs, 200), 1)
    found["error_sites"] = len(sites)

    few, few_segments = data(max(arguments.nodes // 50, 2 * PER_NEURON))
    fast = expected_run_length(few, few_segments).erl_nm
    slow_s, slow = cost(lambda: plain_loop(few, few_segments), 1)
    assert abs(fast - slow) < 1e-6 * slow, (fast, slow)
    found["plain_loop_cpu_s"] = slow_s * arguments.nodes / len(few_segments)
    found["times_faster"] = found["plain_loop_cpu_s"] / found["funlib_cpu_s"]

    tracemalloc.start()
    expected_run_length(skeletons, segment)
    found["peak_arrays_mib"] = tracemalloc.get_traced_memory()[1] / 2**20
    tracemalloc.stop()
    found["peak_process_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    print(json.dumps({key: round(value, 3) for key, value in found.items()}, indent=2))


if __name__ == "__main__":
    main()
