import numpy as np
import pytest

from nissl.evaluators.protocols import PROTOCOLS, fingerprint, protocol_splits

LABELS = np.repeat([0, 1, 2], [165, 70, 40])  # 275 cells, as the excitatory ones of M1 Patch-seq
GIVEN = np.arange(100), np.arange(100, 140)


def splits_of(protocol: str, seed: int = 0, labels: np.ndarray = LABELS) -> list[tuple[np.ndarray, np.ndarray]]:
    return protocol_splits(protocol, labels, GIVEN, 5, 2, seed)  # type: ignore[arg-type]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_no_cell_is_fitted_and_scored_in_one_split(protocol: str) -> None:
    assert all(len(np.intersect1d(train, test)) == 0 for train, test in splits_of(protocol))


def test_leave_one_out_scores_every_cell_once_against_all_others() -> None:
    splits = splits_of("leave_one_out")
    assert [test.tolist() for _, test in splits] == [[k] for k in range(275)]
    assert all(len(train) == 274 for train, _ in splits)


def test_repeated_folds_score_every_cell_once_per_repeat_with_its_classes_share() -> None:
    splits = splits_of("repeated_folds")
    assert np.bincount(np.concatenate([test for _, test in splits])).tolist() == [2] * 275
    assert all(np.bincount(LABELS[test]).tolist() == [33, 14, 8] for _, test in splits)
    assert (
        fingerprint(splits) == fingerprint(splits_of("repeated_folds")) != fingerprint(splits_of("repeated_folds", 1))
    )


def test_five_fold_is_80_to_20() -> None:
    assert [(len(train), len(test)) for train, test in splits_of("five_fold")] == [(220, 55)] * 5


def test_the_split_of_160_55_60_is_numpys_of_seed_17_and_three_further() -> None:
    splits = splits_of("morphvae")
    assert [(len(train), len(test)) for train, test in splits] == [(160, 60)] * 4
    np.random.seed(17)  # as the published code does
    order = np.random.permutation(275)
    np.testing.assert_array_equal(splits[0][0], np.sort(order[:160]))
    np.testing.assert_array_equal(splits[0][1], np.sort(order[215:]))
    assert fingerprint(splits_of("morphvae", seed=5)) == fingerprint(splits), "no seed of ours moves it"


def test_files_of_one_neuron_are_never_on_both_sides() -> None:
    groups = np.arange(275) // 2
    for protocol in ("leave_one_out", "repeated_folds", "morphvae"):
        splits = protocol_splits(protocol, LABELS, GIVEN, 5, 1, 0, groups)  # type: ignore[arg-type]
        assert all(len(np.intersect1d(groups[train], groups[test])) == 0 for train, test in splits)
    train, _ = protocol_splits("leave_one_out", LABELS, GIVEN, 5, 1, 0, groups)[0]
    assert train[0] == 2 and len(train) == 273


def test_what_cannot_be_split_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 2 cells per class"):
        splits_of("leave_one_out", labels=np.array([0, 0, 1]))
    with pytest.raises(ValueError, match="test split is empty"):
        protocol_splits("given", LABELS, (np.arange(3), np.arange(0)), 5, 1, 0)
    with pytest.raises(ValueError, match="protocol must be one of"):
        splits_of("best")
