import importlib.util
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nissl.evaluators.linear_probe import LinearProbe

spec = importlib.util.spec_from_file_location("cells", Path(__file__).with_name("cells.py"))
assert spec is not None and spec.loader is not None
cells = importlib.util.module_from_spec(spec)
spec.loader.exec_module(cells)


def probe(**changes: Any) -> LinearProbe:
    options = {
        "penalties": [0.1, 1.0], "balanced": False, "inner_folds": 2, "protocol": "given", "num_folds": 3,
        "num_repeats": 1, "num_draws": 1, "num_untrained": 1, "published": None, "num_resamples": 100, "seed": 0,
    }  # fmt: skip
    return LinearProbe(**{**options, **changes})


def test_classes_on_two_sides_of_a_plane_are_told_apart_beside_every_baseline() -> None:
    result = probe()(*cells.task_and_data(cells.Blobs(spread=6.0)))
    assert result.scalars["linear_probe/balanced_accuracy"] == 1.0
    assert len(result.tables["methods"]) == 7
    assert all(any(fnmatch(name, pattern) for pattern in LinearProbe.metrics) for name in result.scalars)


def test_the_penalty_is_chosen_without_the_test_cells() -> None:
    rng = np.random.default_rng(0)
    features, labels = rng.normal(size=(60, 5)), np.arange(60) % 3
    assert probe(penalties=[1e-3, 1.0]).fit(features, labels).best_params_["C"] in (1e-3, 1.0)
    assert probe().fit(features[:3], np.array([0, 1, 2])).predict(features[:3]).shape == (3,)


def test_shuffled_labels_score_at_chance() -> None:
    source = cells.Blobs(sizes=(90, 15, 60))
    rng = np.random.default_rng(1)
    for name in ("train", "test"):
        source._labels[name] = rng.permutation(source._labels[name])
    scalars = probe()(*cells.task_and_data(source)).scalars
    assert scalars["linear_probe/balanced_accuracy_low"] < 1 / 3 < scalars["linear_probe/balanced_accuracy_high"] + 0.05


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"penalties": []}, "penalties"),
        ({"inner_folds": 1}, "inner_folds"),
        ({"protocol": "best"}, "protocol"),
        ({"num_untrained": 0}, "mandatory"),
    ],
)
def test_wrong_settings_are_errors(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        probe(**changes)
