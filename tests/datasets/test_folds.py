import numpy as np
import pytest

from nissl.datasets.folds import Partition, Protocol, check_no_leak, partitions, split_by_folds, stratified_folds


def test_every_class_is_spread_evenly_over_folds_of_equal_size() -> None:
    labels = np.repeat([0, 1, 2], [20, 13, 7])
    fold = stratified_folds(labels, 5, seed=0)
    for c in range(3):
        counts = np.bincount(fold[labels == c], minlength=5)
        assert counts.max() - counts.min() <= 1
    sizes = np.bincount(fold, minlength=5)
    assert sizes.max() - sizes.min() <= 1


def test_splits_are_disjoint_complete_and_seeded() -> None:
    labels = np.repeat([0, 1], 15)
    a, b, c = (split_by_folds(labels, 5, 1, 0, seed) for seed in (0, 0, 1))
    assert sorted(np.concatenate(list(a.values())).tolist()) == list(range(30))
    assert all(np.array_equal(a[k], b[k]) for k in a) and not np.array_equal(a["test"], c["test"])


def test_without_a_test_fold_nothing_is_held_out_for_testing() -> None:
    parts = split_by_folds(np.zeros(20, int), 5, 0, None, 0)
    assert len(parts["test"]) == 0 and len(parts["val"]) == 4


@pytest.mark.parametrize(("folds", "val", "test"), [(2, 0, 1), (5, 5, 0), (5, 1, -1), (5, 2, 2)])
def test_impossible_folds_are_errors(folds: int, val: int, test: int) -> None:
    with pytest.raises(ValueError, match="dataset\\."):
        split_by_folds(np.zeros(20, int), folds, val, test, 0)


LABELS = np.repeat([0, 1, 2], [30, 20, 10])


def test_groups_stay_together_and_groups_of_one_change_nothing() -> None:
    groups = np.arange(60) // 2
    fold = stratified_folds(LABELS, 5, 0, groups)
    assert np.all(fold[::2] == fold[1::2])
    for c in range(3):
        counts = np.bincount(fold[LABELS == c], minlength=5)
        assert counts.max() - counts.min() <= 2
    np.testing.assert_array_equal(stratified_folds(LABELS, 5, 0, np.arange(60)[::-1]), stratified_folds(LABELS, 5, 0))


@pytest.mark.parametrize("protocol", ["leave_one_out", "k_fold", "five_fold"])
def test_every_cell_is_tested_once_per_repeat_and_never_with_its_own_group(protocol: Protocol) -> None:
    groups = np.arange(60) // 2
    parts = partitions(protocol, LABELS, 0, groups, num_folds=4, num_repeats=1)
    assert sorted(np.concatenate([part.test for part in parts]).tolist()) == list(range(60))
    assert len(parts) == {"leave_one_out": 30, "k_fold": 4, "five_fold": 5}[protocol]
    for part in parts:
        assert not set(groups[part.train]) & set(groups[part.test])
        assert len(part.train) + len(part.test) == 60


def test_repeats_are_new_shuffles_and_seeds_repeat_them() -> None:
    parts = partitions("k_fold", LABELS, 3, num_folds=3, num_repeats=2)
    again = partitions("k_fold", LABELS, 3, num_folds=3, num_repeats=2)
    assert len(parts) == 6 and all(np.array_equal(a.test, b.test) for a, b in zip(parts, again, strict=True))
    assert not np.array_equal(parts[0].test, parts[3].test)


def test_the_patch_seq_protocol_has_160_55_and_60_cells_with_each_class_in_proportion() -> None:
    labels = np.repeat([0, 1, 2], [150, 75, 50])
    (part,) = partitions("sized", labels, seed=17)
    assert (len(part.train), len(part.val), len(part.test)) == (160, 55, 60)
    for rows, share in ((part.train, 160 / 275), (part.val, 55 / 275), (part.test, 60 / 275)):
        np.testing.assert_allclose(np.bincount(labels[rows]), np.array([150, 75, 50]) * share, atol=2)
    (small,) = partitions("sized", LABELS, seed=17)
    assert (len(small.train), len(small.val), len(small.test)) == (35, 12, 13)


def test_the_given_split_is_the_tables() -> None:
    names = ["train"] * 40 + ["val"] * 5 + ["test"] * 15
    (part,) = partitions("given", LABELS, 0, split_of=names)
    assert part.test.tolist() == list(range(45, 60)) and len(part.val) == 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"protocol": "bootstrap"}, "protocol must be one of leave_one_out"),
        ({"protocol": "given"}, "needs a column 'split'"),
        ({"protocol": "given", "split_of": ["Train"] * 60}, "came 'Train'"),
        ({"protocol": "given", "split_of": ["train"] * 60}, "0 test cells"),
        ({"protocol": "k_fold", "num_folds": 1}, "num_folds must be at least 2"),
        ({"protocol": "k_fold", "num_repeats": 0}, "num_repeats must be at least 1"),
        ({"protocol": "sized", "sizes": (1, 2)}, "sizes must be three"),
        ({"protocol": "given", "split_of": ["train", "test"] * 30, "groups": np.arange(60) // 2}, "in both train"),
    ],
)  # fmt: skip
def test_what_cannot_be_divided_is_an_error(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        partitions(**{"labels": LABELS, "seed": 0, **options})


def test_a_leak_names_the_cells() -> None:
    part = Partition("fold 0", np.array([0, 1]), np.array([2]))
    check_no_leak(part, [0, 1, 2])
    with pytest.raises(ValueError, match=r"fold 0: 1 neurons are in both train and test \(a.swc, c.swc"):
        check_no_leak(part, [0, 1, 0], ["a.swc", "b.swc", "c.swc"])
