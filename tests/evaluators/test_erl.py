import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nissl.evaluators.erl_intervals import bootstrap
from nissl.evaluators.erl_variants import variants_table
from nissl.evaluators.error_sites import closest_approaches, error_sites
from nissl.evaluators.neurite_types import by_type, edge_shares, spines
from nissl.evaluators.run_lengths import (
    VARIANTS,
    by_length,
    expected_run_length,
    join,
    segments_in_mask,
)
from nissl.volumes.skeletons import Skeletons


def lines(*node_counts, spacing=100.0):
    """Straight skeletons 1, 2, ... with this many nodes each."""
    nodes, edges, ids = [], [], []
    for skeleton, count in enumerate(node_counts, 1):
        first = len(ids)
        nodes += [(skeleton * 1e6, 0.0, i * spacing) for i in range(count)]
        edges += [(first + i, first + i + 1) for i in range(count - 1)]
        ids += [skeleton] * count
    return Skeletons(np.array(nodes), np.array(edges, int).reshape(-1, 2), np.array(ids))


WORKED = lines(5, 3, 2), np.array([1, 1, 1, 0, 2, 3, 3, 4, 4, 4])


def slow_runs(skeletons, segment_of, merge_threshold=0, contiguous=False, labelled_only=False, forbidden=()):
    """ERL and its normalised form as loops over edges and dictionaries; nothing shared with the fast one."""
    nodes_of = {}
    for skeleton, segment in zip(skeletons.skeleton_of.tolist(), segment_of.tolist(), strict=True):
        nodes_of[skeleton, segment] = nodes_of.get((skeleton, segment), 0) + 1
    touching = {pair for pair, count in nodes_of.items() if pair[1] != 0 and count >= max(1, merge_threshold)}
    mergers = {g for _, g in touching if sum(other == g for _, other in touching) > 1} | set(forbidden)
    group = list(range(len(segment_of)))  # of a connected stretch: the smallest node in it
    length_of, labelled, runs, merged = {}, {}, {}, set()
    edges = []
    for u, v in skeletons.edges.tolist():
        length = float(np.linalg.norm(skeletons.nodes_zyx_nm[u] - skeletons.nodes_zyx_nm[v]))
        s, g = int(skeletons.skeleton_of[u]), int(segment_of[u])
        length_of[s] = length_of.get(s, 0.0) + length
        if g != 0 and g == segment_of[v]:
            labelled[s] = labelled.get(s, 0.0) + length
            edges.append((u, length, s, g))
            a, b = sorted((group[u], group[v]))
            group = [a if k == b else k for k in group]
    for u, length, s, g in edges:
        key = (s, g, group[u]) if contiguous else (s, g)
        runs[key] = runs.get(key, 0.0) + length
        if g in mergers and (s, g) in touching:
            merged.add(key)
    erl_of = dict.fromkeys(length_of, 0.0)
    for key, run in runs.items():
        if key not in merged:
            erl_of[key[0]] += run**2
    for s in erl_of:
        whole = labelled.get(s, 0.0) if labelled_only else length_of[s]
        erl_of[s] = erl_of[s] / whole if whole else 0.0
    total = sum(length_of.values())
    erl = sum(erl_of[s] * length_of[s] for s in erl_of) / total
    if labelled_only:
        return erl, sum(erl_of.values()) / total
    return erl, erl / (sum(length**2 for length in length_of.values()) / total)


def test_the_worked_example_gives_its_published_numbers():
    runs = expected_run_length(*WORKED)
    assert runs.erl_nm == pytest.approx(71.428571, abs=1e-6)
    assert runs.gt_erl_nm == pytest.approx(300)
    assert runs.normalized == pytest.approx(0.238095, abs=1e-6)
    assert runs.skeleton_erl_nm.tolist() == [100, 50, 0]
    assert runs.num_mergers == 1 and runs.num_merged_pairs == 1 and runs.num_splits == 1
    assert runs.count_of == {"omitted": 2, "split": 1, "merged": 1, "correct": 3}
    assert runs.skeleton_mergers.tolist() == [0, 0.5, 0.5] and runs.skeleton_splits.tolist() == [0, 1, 0]
    assert runs.num_fragments == 2  # one piece too many of the first neuron, one of the second


def test_a_merge_threshold_of_two_nodes_forgives_the_single_node():
    runs = expected_run_length(*WORKED, merge_threshold=2)
    assert runs.erl_nm == pytest.approx(85.714286, abs=1e-6)
    assert runs.normalized == pytest.approx(0.285714, abs=1e-6)
    assert expected_run_length(*WORKED, merge_threshold=1).erl_nm == expected_run_length(*WORKED).erl_nm


def test_every_variant_of_the_worked_example_is_as_worked_by_hand():
    rows = {(r["variant"], r["merge_threshold_nodes"]): r for r in variants_table(*WORKED, [0, 2], 50, 0)}
    assert set(rows) == {("funlib", 0)} | {(name, t) for name in ("em_erl", "strict", "allen") for t in (0, 2)}
    for name in ("funlib", "em_erl", "strict"):  # no neuron has two stretches of one id
        assert rows[name, 0]["erl_nm"] == pytest.approx(71.428571, abs=1e-6)
    assert rows["em_erl", 2]["erl_nm"] == rows["strict", 2]["erl_nm"] == pytest.approx(85.714286, abs=1e-6)
    # Means within the neurons over labelled cable: 200, 100 and 0 (merged) or 100.
    assert rows["allen", 0]["erl_nm"] == pytest.approx((400 * 200 + 200 * 100) / 700)
    assert rows["allen", 0]["normalized"] == pytest.approx((200 + 100) / 700)
    assert rows["allen", 2]["erl_nm"] == pytest.approx((400 * 200 + 200 * 100 + 100 * 100) / 700)
    for row in rows.values():
        assert row["normalized_low"] < row["normalized"] < row["normalized_high"]
    assert rows["em_erl", 2]["merge_threshold_nm"] == 200 and rows["em_erl", 0]["mergers"] == 1


def test_one_split_of_five_nodes_agrees_with_funlib():
    line = lines(5, spacing=1.0)
    assert expected_run_length(line, np.array([1, 1, 1, 2, 2])).erl_nm == pytest.approx(1.25)
    assert expected_run_length(line, np.array([1, 1, 1, 1, 2])).erl_nm == pytest.approx(2.25)


def test_separated_stretches_of_one_id_add_up_unless_contiguous():
    line, ids = lines(5, spacing=1.0), np.array([1, 1, 0, 1, 1])
    assert expected_run_length(line, ids).erl_nm == pytest.approx(4 / 4)
    assert expected_run_length(line, ids, contiguous=True).erl_nm == pytest.approx(2 / 4)


def test_the_mean_over_neurons_is_weighted_by_their_length():
    runs = expected_run_length(*WORKED)
    wrong = runs.skeleton_erl_nm.sum() / runs.skeleton_nm.sum()
    assert runs.erl_nm == pytest.approx(np.average(runs.skeleton_erl_nm, weights=runs.skeleton_nm)) != wrong


def test_a_forbidden_segment_counts_as_merged():
    line = lines(3)
    runs = expected_run_length(line, np.array([1, 1, 1]), forbidden=[1])
    assert runs.erl_nm == 0 and runs.length_of["merged"] == 200 and runs.num_mergers == 0
    assert (
        expected_run_length(line, np.array([1, 1, 2]), merge_threshold=2, forbidden=[2, 1]).length_of["merged"] == 100
    )


def test_a_segment_is_forbidden_with_more_than_the_threshold_of_voxels_in_the_mask():
    segmentation = np.array([[[1, 1, 2, 2, 2, 0]]])
    mask = np.array([[[1, 1, 1, 0, 0, 1]]])
    assert segments_in_mask(segmentation, mask, 1) == {1} and segments_in_mask(segmentation, mask, 0) == {1, 2}
    with pytest.raises(ValueError, match="differ in shape"):
        segments_in_mask(segmentation, mask[..., :3], 0)


def test_all_background_and_one_segment_score_zero():
    two = lines(4, 4)
    assert expected_run_length(two, np.zeros(8, int)).erl_nm == 0
    assert expected_run_length(two, np.ones(8, int)).erl_nm == 0


def test_the_true_ids_score_the_maximum_in_every_variant():
    two = lines(4, 7)
    for how in VARIANTS.values():
        runs = expected_run_length(two, two.skeleton_of, **how)
        assert runs.erl_nm == pytest.approx(runs.gt_erl_nm)


def test_wrong_number_of_ids_and_missing_cable_are_refused():
    with pytest.raises(ValueError, match="one segment id for each of 4 nodes"):
        expected_run_length(lines(4), np.zeros(3, int))
    with pytest.raises(ValueError, match="no cable"):
        expected_run_length(lines(1), np.zeros(1, int))


@st.composite
def forests(draw, most_segments=4):
    """Branching trees with lengths of their own and random ids, in a random order of nodes."""
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    edges, ids = [], []
    for skeleton in range(1, draw(st.integers(1, 4)) + 1):
        first = len(ids)
        num = draw(st.integers(2, 8))
        edges += [(first + i, first + int(rng.integers(max(0, i - 2), i))) for i in range(1, num)]
        ids += [skeleton] * num
    order = rng.permutation(len(ids))
    nodes = rng.normal(size=(len(ids), 3)) * 100
    segment = rng.integers(0, most_segments + 1, len(ids))
    new = np.argsort(order)
    return Skeletons(nodes[order], new[np.array(edges)], np.array(ids)[order]), segment[order]


@pytest.mark.parametrize("name", VARIANTS)
@settings(max_examples=25, deadline=None)
@given(forest=forests(), threshold=st.integers(0, 4))
def test_each_variant_agrees_with_a_slow_loop(name, forest, threshold):
    skeletons, ids = forest
    forbidden = [2] if name != "funlib" and threshold % 2 else []
    threshold = 0 if name == "funlib" else threshold
    runs = expected_run_length(skeletons, ids, threshold, forbidden=forbidden, **VARIANTS[name])
    erl, normalized = slow_runs(skeletons, ids, threshold, forbidden=forbidden, **VARIANTS[name])
    assert runs.erl_nm == pytest.approx(erl) and runs.normalized == pytest.approx(normalized)


@settings(max_examples=25, deadline=None)
@given(forests(), st.integers(0, 4), st.booleans())
def test_erl_keeps_its_properties(forest, threshold, contiguous):
    skeletons, ids = forest
    runs = expected_run_length(skeletons, ids, threshold, contiguous)
    assert 0 <= runs.erl_nm <= runs.gt_erl_nm + 1e-9
    assert expected_run_length(skeletons, ids, threshold, contiguous=True).erl_nm <= runs.erl_nm + 1e-9
    assert expected_run_length(skeletons, ids, threshold + 1, contiguous).erl_nm >= runs.erl_nm - 1e-9
    renamed = np.array([0, 40, 9, 700, 3])[ids]
    assert expected_run_length(skeletons, renamed, threshold, contiguous).erl_nm == pytest.approx(runs.erl_nm)
    longer = Skeletons(2 * skeletons.nodes_zyx_nm, skeletons.edges, skeletons.skeleton_of)
    assert expected_run_length(longer, ids, threshold, contiguous).erl_nm == pytest.approx(2 * runs.erl_nm)
    assert sum(runs.length_of.values()) == pytest.approx(runs.total_nm)
    assert runs.skeleton_mergers.sum() == pytest.approx(runs.num_mergers)


@settings(max_examples=25, deadline=None)
@given(forests(), st.integers(0, 10**6))
def test_cutting_a_segment_that_merges_nothing_never_raises_erl(forest, seed):
    skeletons, ids = forest
    ids = np.where(ids > 0, ids + 10 * skeletons.skeleton_of, 0)  # no mergers
    half = np.random.default_rng(seed).random(len(ids)) < 0.5
    cut = np.where(half & (ids > 0), ids + 1000, ids)
    assert expected_run_length(skeletons, cut).erl_nm <= expected_run_length(skeletons, ids).erl_nm + 1e-9


@settings(max_examples=25, deadline=None)
@given(forests(), forests())
def test_joining_data_sets_is_the_length_weighted_mean(first, second):
    runs = [expected_run_length(*first), expected_run_length(*second)]
    expected = sum(r.erl_nm * r.total_nm for r in runs) / sum(r.total_nm for r in runs)
    assert expected_run_length(*join([first, second])).erl_nm == pytest.approx(expected)


def test_lengths_group_neurons_and_leave_none_out():
    rows = by_length(expected_run_length(*WORKED), [150, 1000])
    assert [row["skeletons"] for row in rows] == [1, 2, 0]
    assert rows[1]["erl_nm"] == pytest.approx((400 * 100 + 200 * 50) / 600) and rows[1]["gt_nm"] == pytest.approx(
        1e5 / 300
    )
    assert np.isnan(rows[2]["erl_nm"])


# --- intervals -------------------------------------------------------------------------------------------------------


def test_the_interval_of_equal_neurons_is_a_point_and_others_hold_the_estimate():
    equal = lines(3, 3, 3)
    intervals = bootstrap(expected_run_length(equal, np.repeat([1, 2, 3], 3)), 50, 0)
    assert intervals["mean_nm"] == pytest.approx((200, 200)) and intervals["normalized"] == pytest.approx((1, 1))
    runs = expected_run_length(*WORKED)
    intervals = bootstrap(runs, 500, 0)
    for name, value in (("mean_nm", runs.erl_nm), ("normalized", runs.normalized), ("mergers", 1), ("splits", 1)):
        low, high = intervals[name]
        assert low < value < high
    assert intervals == bootstrap(runs, 500, 0)


# --- error sites -----------------------------------------------------------------------------------------------------


def test_the_sites_of_the_worked_example_gain_what_is_computed_by_hand():
    skeletons, ids = WORKED
    sites = {site.kind: site for site in error_sites(skeletons, expected_run_length(skeletons, ids), 10)}
    # The merger: 100^2 on C alone (B holds a single node of it).
    assert sites["merge"].gain_nm == pytest.approx(100**2 / 700) and sites["merge"].cable_nm == 100
    # The blank edges of A, filled with id 1: 100 more (the edge to id 2 becomes a split).
    assert sites["omission"].gain_nm == pytest.approx((300**2 - 200**2) / 700) and sites["omission"].node == 3
    assert sites["split"].gain_nm == 0  # joining 3 with the merger 4 helps nobody
    assert [site.kind for site in error_sites(skeletons, expected_run_length(skeletons, ids), 1)] == ["omission"]


@settings(max_examples=25, deadline=None)
@given(forests(most_segments=3), st.booleans())
def test_a_gain_is_what_putting_the_site_right_gains(forest, contiguous):
    skeletons, ids = forest
    runs = expected_run_length(skeletons, ids, contiguous=contiguous)
    for site in error_sites(skeletons, runs, 100):
        fixed = ids.copy()
        if site.kind == "merge":  # its own id on every neuron
            at = ids == ids[site.node]
            fixed[at] = 100 + skeletons.skeleton_of[at]
        elif site.kind == "split":
            a, b = ids[site.node], ids[site.other_node]
            if any(len(np.unique(skeletons.skeleton_of[ids == g])) > 1 for g in (a, b)):
                assert site.gain_nm == 0
                continue
            if contiguous:  # all stretches between these two segments would join, not only the two at this place
                continue
            fixed[ids == b] = a
        else:
            piece = {site.node}
            while grown := {
                int(v if u in piece else u)
                for u, v in skeletons.edges
                if (u in piece) != (v in piece) and ids[u] == ids[v] == 0
            }:
                piece |= grown
            fixed[list(piece)] = ids[site.other_node] if site.other_node >= 0 else 99
        gained = expected_run_length(skeletons, fixed, contiguous=contiguous).erl_nm - runs.erl_nm
        assert site.gain_nm == pytest.approx(gained, abs=1e-9), site


def test_a_merger_of_three_has_two_places_where_it_is_closest():
    nodes = np.array([[0, 0, 0], [0, 0, 10], [0, 3, 10], [0, 3, 20], [0, 50, 20], [0, 50, 30.0]])
    skeletons = Skeletons(nodes, np.array([[0, 1], [2, 3], [4, 5]]), np.array([1, 1, 2, 2, 3, 3]))
    runs = expected_run_length(skeletons, np.full(6, 9))
    assert closest_approaches(skeletons, runs, 9) == [(1, 2), (3, 4)]
    sites = error_sites(skeletons, runs, 1)
    assert len(sites) == 2 and all(site.num_sites == 2 for site in sites)
    assert sites[0].position_zyx_nm == (0, 1.5, 10) and sites[0].gain_nm == pytest.approx(10)


# --- neurite types ---------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(forests(), st.integers(0, 10**6), st.sampled_from([None, 0, 1]), st.booleans())
def test_run_lengths_of_neurite_types_add_up_to_that_of_all_cable(forest, seed, depth, contiguous):
    skeletons, ids = forest
    rng = np.random.default_rng(seed)
    types = rng.integers(0, 5, len(ids))
    depths = None if depth is None else rng.integers(-1, 4, len(ids)) * depth
    typed = Skeletons(skeletons.nodes_zyx_nm, skeletons.edges, skeletons.skeleton_of, types, depths)
    assert edge_shares(typed).sum(axis=1) == pytest.approx(1)
    runs = expected_run_length(typed, ids, contiguous=contiguous)
    rows = by_type(typed, runs)
    assert sum(row["cable_nm"] for row in rows) == pytest.approx(runs.total_nm)
    assert sum(row["cable_nm"] * row["erl_nm"] for row in rows) == pytest.approx(runs.erl_nm * runs.total_nm)
    for row in rows:
        assert row["recall"] + row["omitted"] + row["split"] + row["merged"] == pytest.approx(1)


def test_a_mixed_edge_has_the_type_of_the_node_farther_from_the_root():
    line = lines(3)
    types = np.array([2, 3, 3])
    assert edge_shares(Skeletons(line.nodes_zyx_nm, line.edges, line.skeleton_of, types))[0, 2:4].tolist() == [0.5, 0.5]
    for depth, expected in ((np.array([0, 1, 2]), [0, 1]), (np.array([2, 1, 0]), [1, 0])):
        rooted = Skeletons(line.nodes_zyx_nm, line.edges, line.skeleton_of, types, depth)
        assert edge_shares(rooted)[0, 2:4].tolist() == expected


def spiny():
    """Two dendrites of four nodes along x; each carries a spine of two nodes at its second node."""
    nodes, edges, ids, types = [], [], [], []
    for skeleton in (1, 2):
        first, y = len(ids), 1000.0 * skeleton
        nodes += [(0, y, 100.0 * i) for i in range(4)] + [(0, y + 50, 100.0), (0, y + 100, 100.0)]
        edges += [(first + a, first + b) for a, b in ((0, 1), (1, 2), (2, 3), (1, 4), (4, 5))]
        ids += [skeleton] * 6
        types += [3, 3, 3, 3, 4, 4]
    return Skeletons(np.array(nodes), np.array(edges), np.array(ids), np.array(types))


@pytest.mark.parametrize(
    ("ids", "recall", "precision"),
    [
        ([1] * 6 + [2] * 6, 1.0, 1.0),
        ([1] * 4 + [0, 0] + [2] * 6, 0.5, 1.0),  # one spine blank
        ([1] * 4 + [8, 8] + [2] * 6, 0.5, 1.0),  # one spine in a fragment of its own
        ([1] * 4 + [0, 2] + [2] * 6, 0.0, 0.5),  # its tip on the other dendrite, which is a merger now
    ],
)
def test_spines_are_right_when_their_tip_belongs_to_their_dendrite(ids, recall, precision):
    skeletons = spiny()
    counted = spines(skeletons, expected_run_length(skeletons, np.array(ids)))
    assert counted == {"num": 2, "recall": recall, "precision": precision}


def test_skeletons_without_spines_count_none():
    skeletons, ids = WORKED
    assert spines(skeletons, expected_run_length(skeletons, ids))["num"] == 0


def test_a_million_nodes_take_less_than_two_seconds():
    import time

    rng = np.random.default_rng(0)
    per_line = 1000
    nodes = np.cumsum(rng.normal(size=(1_000_000, 3)), axis=0)
    rows = np.arange(1_000_000)
    inner = rows[rows % per_line != per_line - 1]
    skeletons = Skeletons(nodes, np.stack([inner, inner + 1], 1), rows // per_line)
    ids = rows // 40
    before = time.process_time()
    expected_run_length(skeletons, ids)
    assert time.process_time() - before < 2
