"""Tree operations against small cases and slow forms."""

import numpy as np
import pytest

from nissl.datasets.cell_graph import (
    CellGraph,
    depth_first_order,
    join_components,
    reroot,
    root_of_each,
    subtree_sizes,
    take,
)


def random_parent(n: int, rng: np.random.Generator) -> np.ndarray:
    """A random tree with parents before children."""
    return np.array([-1] + [int(rng.integers(0, i)) for i in range(1, n)], np.int32)


def test_depth_first_order_keeps_subtrees_together() -> None:
    # 0 has children 1 and 2; 3 and 5 hang on 1; 4 on 2.
    parent = np.array([-1, 0, 0, 1, 2, 1])
    assert depth_first_order(parent, 0).tolist() == [0, 1, 3, 5, 2, 4]


@pytest.mark.parametrize("seed", range(5))
def test_a_subtree_is_an_interval_after_ordering(seed: int) -> None:
    rng = np.random.default_rng(seed)
    parent = random_parent(60, rng)
    cell = CellGraph(
        rng.normal(size=(60, 3)).astype(np.float32), np.ones(60, np.float32), np.zeros(60, np.int8), parent
    )
    ordered = take(cell, parent, 0)
    size = subtree_sizes(ordered.parent)
    below: list[set[int]] = [set() for _ in range(60)]
    for node in range(60):
        above = node
        while above >= 0:
            below[above].add(node)
            above = int(ordered.parent[above])
    for node in range(60):
        assert below[node] == set(range(node, node + size[node]))
    assert ordered.edge_length_um.sum() == pytest.approx(cell.edge_length_um.sum(), rel=1e-5)


def test_nodes_on_or_below_a_cycle_have_no_root() -> None:
    parent = np.array([-1, 0, 3, 2, 3])
    assert root_of_each(parent).tolist() == [0, 0, -1, -1, -1]


def test_rerooting_turns_the_edges_above_round() -> None:
    parent = np.array([-1, 0, 1, 1])
    reroot(parent, 2)
    assert parent.tolist() == [1, 2, -1, 1]


def test_the_nearest_piece_is_joined_first_and_an_isolated_node_too() -> None:
    pos = np.array([[0, 0, 0], [10, 0, 0], [14, 0, 0], [20, 0, 0], [50, 0, 0]], float)
    parent = np.array([-1, 0, -1, 2, -1])
    joins = join_components(pos, parent, 0)
    assert joins.lengths_um == (4.0, 30.0)
    assert parent.tolist() == [-1, 0, 1, 2, 3]


def test_pieces_beyond_the_gap_limit_stay_apart_and_are_counted() -> None:
    pos = np.array([[0, 0, 0], [10, 0, 0], [100, 0, 0], [110, 0, 0]], float)
    parent = np.array([-1, 0, -1, 2])
    joins = join_components(pos, parent, 0, max_gap_um=50.0)
    assert joins.lengths_um == () and joins.num_dropped_nodes == 2
