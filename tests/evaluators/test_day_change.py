"""What may be compared between days, and when a change is called an effect."""

import numpy as np
import pytest

from nissl.evaluators.day_change import (
    Change,
    align_patterns,
    check_comparable,
    describe_change,
    find_effect,
    holm,
    permute_seeds,
)

SETTING = {"cells": ["1", "2"], "area": "S1", "patterns": ["1", "2", "1+2"], "mask": np.ones((2, 2), bool), "layer": 3}


def change(**changed: object) -> Change:
    values: dict = {
        "reference": np.array([208.0, 209, 208, 210, 209]),
        "day": np.array([262.0, 263, 261, 262, 262]),
        "p_trial": np.array([0.001, 0.002, 0.03, 0.001, 0.002]),
        "p_seed": 2 / 252,
        "interval": (40.0, 60.0),
        "scope": "per_day",
    }
    return Change(**(values | changed))


def test_equal_settings_may_be_compared() -> None:
    check_comparable(SETTING, {**SETTING, "mask": np.ones((2, 2), bool)})


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"area": "M1"}, "area: 'S1' and 'M1'"),
        ({"layer": 2}, "layer: 3 and 2"),
        ({"patterns": ["1", "2"]}, r"only in the reference \['1\+2'\], only in the other none"),
        ({"patterns": ["2", "1", "1+2"]}, "same in another order"),
        ({"mask": np.eye(2, dtype=bool)}, "mask: 2 of 4 positions differ"),
        ({"mask": np.ones((3, 2), bool)}, r"mask: shape \(2, 2\) and \(3, 2\)"),
        ({"area": "M1", "layer": 2}, "area: .*; layer: "),
    ],
)
def test_every_difference_is_listed(changed: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_comparable(SETTING, SETTING | changed)


def test_alignment_keeps_common_patterns_in_the_references_order() -> None:
    first, second, dropped = align_patterns(["1", "2", "3"], ["3", "4", "1"])
    assert first.tolist() == [0, 2] and second.tolist() == [2, 0] and dropped == ["2", "4"]
    with pytest.raises(ValueError, match="share 1 pattern"):
        align_patterns(["1", "2"], ["2", "3"])


@pytest.mark.parametrize(("seeds", "p"), [(5, 2 / 252), (4, 2 / 70), (3, 2 / 20)])
def test_the_smallest_p_over_seeds(seeds: int, p: float) -> None:
    assert permute_seeds(np.arange(seeds), 100.0 + np.arange(seeds)) == pytest.approx(p)


def test_equal_seeds_give_p_one() -> None:
    assert permute_seeds(np.ones(4), np.ones(4)) == 1


def test_many_seeds_are_drawn_and_few_refused() -> None:
    assert permute_seeds(np.arange(12), 100.0 + np.arange(12), draws=99) == 1 / 100
    with pytest.raises(ValueError, match="came 0 and 2"):
        permute_seeds(np.array([]), np.ones(2))


def test_holm_by_hand() -> None:
    corrected = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.9})
    assert corrected == pytest.approx({"a": 0.04, "b": 0.09, "c": 0.09, "d": 0.9})
    assert list(corrected) == ["a", "b", "c", "d"]


def test_an_effect_needs_trials_seeds_and_interval() -> None:
    assert find_effect(change()) == (True, "")
    assert not find_effect(change(p_seed=0.1))[0]
    assert not find_effect(change(p_trial=np.full(5, 0.2)))[0]
    assert "holds 0" in find_effect(change(interval=(-1.0, 60.0)))[1]
    assert not find_effect(change(p_trial=np.full(5, np.nan)))[0]


def test_joint_networks_must_agree_on_the_sign() -> None:
    joint = change(scope="joint", p_seed=0.5)
    assert find_effect(joint)[0]
    mixed = change(scope="joint", day=np.array([262.0, 200, 261, 262, 262]))
    assert "seeds disagree" in find_effect(mixed)[1]


def test_too_many_effects_in_null_worlds_withhold_the_headline() -> None:
    assert find_effect(change(), 2, 20)[0]
    assert "3 of 20 worlds" in find_effect(change(), 3, 20)[1]


def test_the_sentence_says_what_was_found() -> None:
    sentence = describe_change(change(), "the ZNCC sum", ("POD0", "POD3"), "S1", 1, 1, 20)
    assert sentence == (
        "In this animal (S1), the ZNCC sum rose from 208.8 (POD0) to 262 (POD3): change +53.2 (+25.5 %), "
        "95 % interval +40 to +60, p over trials 0.002 (conditional on the networks of each day), "
        "p over seeds 0.0079, 5 + 5 seeds; 1 of 20 worlds without an effect gave one."
    )
    unsure = describe_change(change(interval=(-1.0, 60.0)), "the ZNCC sum", ("POD0", "POD3"), "S1", 3)
    assert unsure.startswith("In 3 animals (S1), the ZNCC sum was not distinguishable between POD0 (208.8) and POD3")


def test_scopes_are_checked() -> None:
    with pytest.raises(ValueError, match="scope='both' is unknown"):
        change(scope="both")
    with pytest.raises(ValueError, match="came 1 and 5 seeds"):
        change(scope="joint", reference=np.ones(1))
