"""Views against slow forms of the published rules, and their geometry."""

import numpy as np
import pytest
from scipy.stats import kstest

from nissl.datasets.cell_graph import CellGraph, subtree_sizes, take
from nissl.datasets.tree_views import (
    CachedTree,
    ViewSettings,
    augment_positions,
    draw_view,
    draw_views,
    drop_branches,
    neighbourhood,
    remove_in_order,
    rotation_matrix,
    subsample,
    terminal_nodes,
    unbranched_trunk,
)

SHAPES = ("random", "path", "star", "caterpillar")


def make_tree(shape: str, n: int, seed: int = 0) -> CachedTree:
    rng = np.random.default_rng(seed)
    if shape == "random":
        parent = [-1] + [int(rng.integers(max(0, i - 4), i)) for i in range(1, n)]
    elif shape == "path":
        parent = list(range(-1, n - 1))
    elif shape == "star":
        parent = [-1] + [0] * (n - 1)
    else:  # a path with a leg on every second node
        parent = [-1] + [i - 1 if i % 2 else max(i - 2, 0) for i in range(1, n)]
    links = np.array(parent, np.int32)
    pos = rng.normal(0, 50, (n, 3)).astype(np.float32)
    cell = take(CellGraph(pos, np.ones(n, np.float32), np.zeros(n, np.int8), links), links, 0)
    return CachedTree.from_cell(cell, None, rng)


def slow_subsample(parent: np.ndarray, keep: int, orders: list[np.ndarray]) -> tuple[list[int], set[frozenset[int]]]:
    """The published rule with sets of neighbours; returns kept nodes and edges."""
    near: dict[int, set[int]] = {i: set() for i in range(len(parent))}
    for i, p in enumerate(parent):
        if p >= 0:
            near[i].add(int(p))
            near[int(p)].add(i)
    for order in orders:
        for node in order.tolist():
            if len(near) == keep:
                break
            if node == 0 or len(near[node]) >= 3:
                continue
            ends = near.pop(node)
            for end in ends:
                near[end].discard(node)
            if len(ends) == 2:
                a, b = ends
                near[a].add(b)
                near[b].add(a)
    return sorted(near), {frozenset((i, j)) for i in near for j in near[i]}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("keep", [1, 2, 25, 50])
def test_subsampling_gives_a_tree_of_exactly_the_wanted_size(shape: str, keep: int) -> None:
    tree = make_tree(shape, 50)
    kept, parent = subsample(tree.parent, np.ones(50, bool), keep, np.random.default_rng(0))
    assert len(kept) == len(parent) == keep
    assert kept[0] == 0 and parent[0] == -1
    assert np.all(np.diff(kept) > 0) and np.all(parent[1:] >= 0) and np.all(parent[1:] < np.arange(1, keep))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("seed", range(4))
def test_fast_and_slow_subsampling_agree_node_for_node(shape: str, seed: int) -> None:
    tree = make_tree(shape, 60, seed)
    rng = np.random.default_rng(seed)
    orders = [rng.permutation(np.arange(1, 60)) for _ in range(8)]
    for keep in (5, 20, 45):
        alive, up = np.ones(60, bool), tree.parent.astype(np.int32)
        children = np.bincount(tree.parent[1:], minlength=60).astype(np.int32)
        surplus, used = 60 - keep, []
        for order in orders:
            order = order[alive[order]]
            used.append(order)
            surplus = remove_in_order(up, alive, children, order, surplus)
        kept, edges = slow_subsample(tree.parent, keep, used)
        assert np.flatnonzero(alive).tolist() == kept
        fast_edges = set()
        for i in kept[1:]:
            above = int(tree.parent[i])
            while not alive[above]:
                above = int(tree.parent[above])
            fast_edges.add(frozenset((i, above)))
        assert fast_edges == edges


def test_a_star_keeps_its_centre() -> None:
    tree = make_tree("star", 5)
    kept, parent = subsample(tree.parent, np.ones(5, bool), 3, np.random.default_rng(1))
    assert kept[0] == 0 and parent.tolist() == [-1, 0, 0]


def test_keeping_more_nodes_than_there_are_is_an_error_with_both_numbers() -> None:
    with pytest.raises(ValueError, match="cannot keep 6 nodes of a cell with 5"):
        subsample(make_tree("path", 5).parent, np.ones(5, bool), 6, np.random.default_rng(0))


def test_terminal_nodes_are_leaves_and_the_chains_above_them() -> None:
    # 0 - 1 - 2 forks into 3 - 4 and 5
    parent = np.array([-1, 0, 1, 2, 3, 2], np.int32)
    assert terminal_nodes(parent, subtree_sizes(parent)).tolist() == [False, False, False, True, True, True]


@pytest.mark.parametrize("cut_edge", ["parent", "random"])
@pytest.mark.parametrize("shape", ["random", "caterpillar"])
def test_branch_deletion_removes_whole_ends_and_never_too_much(shape: str, cut_edge: str) -> None:
    tree = make_tree(shape, 80)
    for seed in range(30):
        settings = ViewSettings(40, num_drop_branches=15, cut_edge=cut_edge)  # type: ignore[arg-type]
        alive = drop_branches(tree, settings, np.random.default_rng(seed))
        assert alive[0] and alive.sum() >= 40
        assert np.all(alive[tree.parent[1:]] | ~alive[1:]), "what hangs on a cut node is gone too"


def test_one_cut_removes_the_drawn_node_and_all_beyond_it() -> None:
    tree = make_tree("path", 20)
    for seed in range(20):
        alive = drop_branches(tree, ViewSettings(2, num_drop_branches=1), np.random.default_rng(seed))
        left = int(alive.sum())
        assert alive[:left].all() and not alive[left:].any()


def test_a_view_is_a_tree_on_positions_of_the_cell() -> None:
    tree = make_tree("random", 200)
    pos, parent = draw_view(tree, ViewSettings(64, num_drop_branches=3), np.random.default_rng(0))
    assert pos.shape == (64, 3) and pos.dtype == np.float32
    assert {tuple(p) for p in pos} <= {tuple(p) for p in tree.pos}
    np.testing.assert_array_equal(pos[0], tree.pos[0])
    small, _ = draw_view(make_tree("random", 20), ViewSettings(64), np.random.default_rng(0))
    assert len(small) == 20, "a smaller cell keeps what it has"


@pytest.mark.parametrize("shape", SHAPES)
def test_a_neighbourhood_is_the_nearest_nodes_along_the_tree(shape: str) -> None:
    tree = make_tree(shape, 40)
    steps = np.full((40, 40), 99)
    np.fill_diagonal(steps, 0)
    for i in range(1, 40):
        steps[i, :i] = steps[tree.parent[i], :i] + 1
        steps[:i, i] = steps[i, :i]
    for start, count in ((0, 7), (13, 1), (13, 12), (39, 40)):
        inside = neighbourhood(tree.parent, tree.size, start, count)
        assert inside.sum() == count and inside[start]
        assert steps[start][inside].max() <= np.sort(steps[start])[count - 1]
        rows = np.flatnonzero(inside)
        assert np.all(inside[tree.parent[rows[1:]]]), "all but the top hang on a node of the piece"


def test_a_local_view_is_a_small_connected_tree_of_the_cell() -> None:
    tree = make_tree("random", 200)
    settings = ViewSettings(64, num_local_views=2, local_share=0.2, local_nodes=16)
    views = list(draw_views(tree, settings, np.random.default_rng(0)))
    assert [len(pos) for pos, _ in views] == [64, 64, 16, 16]
    for pos, parent in views:
        assert parent[0] == -1 and np.all(parent[1:] >= 0) and np.all(parent[1:] < np.arange(1, len(parent)))
        assert {tuple(p) for p in pos} <= {tuple(p) for p in tree.pos}
    spread = [np.linalg.norm(pos - pos.mean(axis=0), axis=1).mean() for pos, _ in views]
    assert len(spread) == 4 and not np.array_equal(views[2][0], views[3][0])


def test_further_views_leave_the_first_two_as_they_were() -> None:
    tree = make_tree("random", 100)
    two = list(draw_views(tree, ViewSettings(30, 2), np.random.default_rng(5)))
    more = list(draw_views(tree, ViewSettings(30, 2, num_views=3, num_local_views=1), np.random.default_rng(5)))
    assert len(two) == 2 and len(more) == 4
    for (a, _), (b, _) in zip(two, more, strict=False):
        np.testing.assert_array_equal(a, b)


def test_the_trunk_of_a_soma_with_one_neurite_ends_at_the_first_fork() -> None:
    assert unbranched_trunk(np.array([-1, 0, 1, 2, 2])).tolist() == [0, 1]
    assert unbranched_trunk(np.array([-1, 0, 0])).tolist() == []
    assert unbranched_trunk(np.array([-1, 0, 1])).tolist() == [0, 1]


def test_as_published_means_the_published_rotation_cuts_and_wasted_cuts() -> None:
    resolved = ViewSettings(10, rotation="axis", reference=True).resolved()
    assert (resolved.cut_edge, resolved.rotation) == ("random", "reference")
    assert ViewSettings(10, rotation="none", reference=True).resolved().rotation == "none"
    # A trunk of 40 nodes that forks into two tips of one node: nearly every published cut falls on the trunk.
    parent = np.array([-1, *range(39), 39, 39], np.int32)
    tree = CachedTree(np.zeros((42, 3), np.float32), parent, subtree_sizes(parent), np.arange(42) >= 40)
    left = {
        reference: np.mean(
            [
                drop_branches(tree, ViewSettings(41, 1, reference=reference), np.random.default_rng(k)).sum()
                for k in range(100)
            ]
        )
        for reference in (False, True)
    }
    assert left[False] == 41 and left[True] > 41.8


def test_the_same_seed_draws_the_same_view_and_another_seed_another() -> None:
    tree = make_tree("random", 200)
    settings = ViewSettings(64, 3, rotation="so3", jitter_std_um=1.0, shift_std_um=10.0)
    a, b, c = (draw_view(tree, settings, np.random.default_rng(s))[0] for s in (7, 7, 8))
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a, c)


@pytest.mark.parametrize("rotation", ["axis", "so3"])
def test_a_rotation_keeps_distances_and_has_determinant_1(rotation: str) -> None:
    settings = ViewSettings(10, rotation=rotation, rotation_axis="y")  # type: ignore[arg-type]
    pos = np.random.default_rng(0).normal(0, 100, (40, 3))
    for seed in range(20):
        matrix = rotation_matrix(settings, np.random.default_rng(seed))
        turned = pos @ matrix
        assert np.linalg.det(matrix) == pytest.approx(1.0, abs=1e-12)
        np.testing.assert_allclose(
            np.linalg.norm(turned[:, None] - turned, axis=-1), np.linalg.norm(pos[:, None] - pos, axis=-1), atol=1e-5
        )
        if rotation == "axis":
            np.testing.assert_allclose(turned[:, 1], pos[:, 1])


def test_rotation_angles_are_uniform() -> None:
    settings, rng = ViewSettings(10, rotation="axis", rotation_axis="z"), np.random.default_rng(0)
    angles = [np.arctan2(m[0, 1], m[0, 0]) for m in (rotation_matrix(settings, rng) for _ in range(4000))]
    assert kstest(angles, "uniform", args=(-np.pi, 2 * np.pi)).pvalue > 0.01


def test_the_reference_rotation_is_none() -> None:
    """Its area factor has median 0.5, and half of the draws mirror."""
    settings, rng = ViewSettings(10, rotation="reference", rotation_axis="y"), np.random.default_rng(0)
    determinant = np.array([np.linalg.det(rotation_matrix(settings, rng)) for _ in range(20_000)])
    assert np.median(np.abs(determinant)) == pytest.approx(0.5, abs=0.02)
    assert np.mean(determinant < 0) == pytest.approx(0.5, abs=0.02)


def test_a_mirrored_view_has_determinant_minus_1_half_of_the_time() -> None:
    settings, rng = ViewSettings(10, rotation="axis", mirror=True), np.random.default_rng(0)
    determinant = np.array([np.linalg.det(rotation_matrix(settings, rng)) for _ in range(2000)])
    np.testing.assert_allclose(np.abs(determinant), 1.0)
    assert np.mean(determinant < 0) == pytest.approx(0.5, abs=0.04)


def test_jitter_and_shift_have_the_stated_standard_deviation_per_axis() -> None:
    rng = np.random.default_rng(0)
    zero = np.zeros((100_000, 3))
    jittered = augment_positions(zero, ViewSettings(10, jitter_std_um=[2.0, 0.5, 0.0]), rng)
    np.testing.assert_allclose(jittered.std(axis=0), [2.0, 0.5, 0.0], rtol=0.02)
    shifts = [augment_positions(zero[:5], ViewSettings(10, shift_std_um=[3.0, 0.0, 1.0]), rng) for _ in range(4000)]
    assert all(np.all(s == s[0]) for s in shifts), "a shift moves all nodes by one vector"
    np.testing.assert_allclose(np.std([s[0] for s in shifts], axis=0), [3.0, 0.0, 1.0], rtol=0.05)


def test_zero_strengths_are_the_identity() -> None:
    pos = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    np.testing.assert_array_equal(augment_positions(pos, ViewSettings(10), np.random.default_rng(0)), pos)


def test_scaling_multiplies_all_distances_by_one_factor() -> None:
    pos = np.random.default_rng(0).normal(size=(20, 3))
    moved = augment_positions(pos, ViewSettings(10, scale_log_std=0.3), np.random.default_rng(0))
    factor = np.linalg.norm(moved, axis=1) / np.linalg.norm(pos, axis=1)
    np.testing.assert_allclose(factor, factor[0], rtol=1e-5)
    assert factor[0] != pytest.approx(1.0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_nodes": 1}, "num_nodes must be at least 2"),
        ({"num_drop_branches": -1}, "num_drop_branches must be 0 or more"),
        ({"rotation": "so4"}, "rotation must be one of none, axis, so3, reference"),
        ({"jitter_std_um": [1.0, 2.0]}, "jitter_std_um must be one number"),
        ({"shift_std_um": -1.0}, "shift_std_um must be one number"),
        ({"scale_log_std": -0.1}, "scale_log_std must be 0 or more"),
        ({"num_views": 1}, "num_views must be at least 2"),
        ({"num_local_views": -1}, "num_local_views must be 0 or more"),
        ({"local_share": 0.0}, "local_share must be above 0"),
        ({"local_nodes": 1}, "local_nodes must be at least 2"),
        ({"reference": True, "mirror": True}, "nothing the reference lacks: mirror"),
    ],
)
def test_a_wrong_setting_says_what_is_allowed(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ViewSettings(**{"num_nodes": 10, **settings})
