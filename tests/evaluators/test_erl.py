import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nissl.evaluators.erl import expected_run_length, join
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


def slow_erl(skeletons, segment_of, merge_threshold=0):
    """The definition as loops over edges and dictionaries, non-contiguous."""
    nodes_of = {}
    for skeleton, segment in zip(skeletons.skeleton_of, segment_of, strict=True):
        nodes_of[skeleton, segment] = nodes_of.get((skeleton, segment), 0) + 1
    pairs = {pair for pair, count in nodes_of.items() if pair[1] != 0 and count >= max(1, merge_threshold)}
    mergers = {g for s, g in pairs if sum(other == g for _, other in pairs) > 1}
    run, total = {}, 0.0
    for u, v in skeletons.edges:
        length = np.linalg.norm(skeletons.nodes_zyx_nm[u] - skeletons.nodes_zyx_nm[v])
        total += length
        s, g = skeletons.skeleton_of[u], segment_of[u]
        if g != 0 and g == segment_of[v] and not (g in mergers and (s, g) in pairs):
            run[s, g] = run.get((s, g), 0.0) + length
    return sum(value**2 for value in run.values()) / total


def test_the_worked_example_gives_its_published_numbers():
    runs = expected_run_length(*WORKED)
    assert runs.erl_nm == pytest.approx(71.428571, abs=1e-6)
    assert runs.gt_erl_nm == pytest.approx(300)
    assert runs.normalized == pytest.approx(0.238095, abs=1e-6)
    assert runs.skeleton_erl_nm.tolist() == [100, 50, 0]
    assert runs.num_mergers == 1 and runs.num_merged_pairs == 1 and runs.num_splits == 1
    assert runs.count_of == {"omitted": 2, "split": 1, "merged": 1, "correct": 3}


def test_a_merge_threshold_of_two_nodes_forgives_the_single_node():
    runs = expected_run_length(*WORKED, merge_threshold=2)
    assert runs.erl_nm == pytest.approx(85.714286, abs=1e-6)
    assert runs.normalized == pytest.approx(0.285714, abs=1e-6)
    assert expected_run_length(*WORKED, merge_threshold=1).erl_nm == expected_run_length(*WORKED).erl_nm


def test_one_split_of_five_nodes_agrees_with_funlib():
    line = lines(5, spacing=1.0)
    assert expected_run_length(line, np.array([1, 1, 1, 2, 2])).erl_nm == pytest.approx(1.25)
    assert expected_run_length(line, np.array([1, 1, 1, 1, 2])).erl_nm == pytest.approx(2.25)


def test_separated_stretches_of_one_id_add_up_unless_contiguous():
    line, ids = lines(5, spacing=1.0), np.array([1, 1, 0, 1, 1])
    assert expected_run_length(line, ids).erl_nm == pytest.approx(4 / 4)
    assert expected_run_length(line, ids, contiguous=True).erl_nm == pytest.approx(2 / 4)


def test_a_forbidden_segment_counts_as_merged():
    line = lines(3)
    runs = expected_run_length(line, np.array([1, 1, 1]), forbidden=[1])
    assert runs.erl_nm == 0 and runs.length_of["merged"] == 200 and runs.num_mergers == 0


def test_all_background_and_one_segment_score_zero():
    two = lines(4, 4)
    assert expected_run_length(two, np.zeros(8, int)).erl_nm == 0
    assert expected_run_length(two, np.ones(8, int)).erl_nm == 0


def test_the_true_ids_score_the_maximum():
    two = lines(4, 7)
    assert expected_run_length(two, two.skeleton_of).normalized == pytest.approx(1)


def test_wrong_number_of_ids_and_missing_cable_are_refused():
    with pytest.raises(ValueError, match="one segment id for each of 4 nodes"):
        expected_run_length(lines(4), np.zeros(3, int))
    with pytest.raises(ValueError, match="no cable"):
        expected_run_length(lines(1), np.zeros(1, int))


@st.composite
def forests(draw):
    skeletons = lines(*draw(st.lists(st.integers(2, 7), min_size=1, max_size=4)))
    ids = draw(st.lists(st.integers(0, 4), min_size=len(skeletons.skeleton_of), max_size=len(skeletons.skeleton_of)))
    return skeletons, np.array(ids)


@settings(max_examples=60, deadline=None)
@given(forests(), st.integers(0, 4))
def test_erl_agrees_with_a_slow_loop_and_keeps_its_properties(forest, threshold):
    skeletons, ids = forest
    runs = expected_run_length(skeletons, ids, threshold)
    assert runs.erl_nm == pytest.approx(slow_erl(skeletons, ids, threshold))
    assert 0 <= runs.erl_nm <= runs.gt_erl_nm + 1e-9
    assert expected_run_length(skeletons, ids, threshold, contiguous=True).erl_nm <= runs.erl_nm + 1e-9
    assert expected_run_length(skeletons, ids, threshold + 1).erl_nm >= runs.erl_nm - 1e-9
    renamed = np.array([0, 40, 9, 700, 3])[ids]
    assert expected_run_length(skeletons, renamed, threshold).erl_nm == pytest.approx(runs.erl_nm)
    longer = Skeletons(2 * skeletons.nodes_zyx_nm, skeletons.edges, skeletons.skeleton_of)
    assert expected_run_length(longer, ids, threshold).erl_nm == pytest.approx(2 * runs.erl_nm)


@settings(max_examples=30, deadline=None)
@given(forests(), forests())
def test_joining_data_sets_is_the_length_weighted_mean(first, second):
    runs = [expected_run_length(*first), expected_run_length(*second)]
    expected = sum(r.erl_nm * r.total_nm for r in runs) / sum(r.total_nm for r in runs)
    assert expected_run_length(*join([first, second])).erl_nm == pytest.approx(expected)


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
