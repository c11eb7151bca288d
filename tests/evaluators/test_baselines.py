import importlib.util
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.decomposition import PCA

from nissl.evaluators.baselines import Block, Method, gather, hand_made

spec = importlib.util.spec_from_file_location("cells", Path(__file__).with_name("cells.py"))
assert spec is not None and spec.loader is not None
cells = importlib.util.module_from_spec(spec)
spec.loader.exec_module(cells)

TRAIN = np.arange(30)


def values(columns: int = 4) -> np.ndarray:
    return np.random.default_rng(0).normal(3.0, np.arange(1, columns + 1), size=(50, columns))


def test_scaling_is_fitted_on_the_training_cells_alone() -> None:
    method = Method((Block(values(), "zscore"),))
    features = method.features(TRAIN)
    np.testing.assert_allclose(features[TRAIN].mean(axis=0), 0.0, atol=1e-12)
    np.testing.assert_allclose(features[TRAIN].std(axis=0), 1.0)
    other = values()
    other[40:] *= 100.0
    np.testing.assert_array_equal(Method((Block(other, "zscore"),)).features(TRAIN)[:40], features[:40])


def test_a_constant_feature_stays_finite_and_none_changes_nothing() -> None:
    x = np.concatenate([values(), np.full((50, 1), 7.0)], axis=1)
    assert np.isfinite(Method((Block(x, "zscore"),)).features(TRAIN)).all()
    np.testing.assert_array_equal(Method((Block(x, "none"),)).features(TRAIN), x)


def test_principal_components_keep_distances_of_training_cells() -> None:
    features = Method((Block(values(), "pca"),)).features(TRAIN)
    a, b = features[0] - features[1], values()[0] - values()[1]
    assert np.linalg.norm(a) == pytest.approx(np.linalg.norm(b))
    assert np.all(np.diff(features[TRAIN].var(axis=0)) <= 0)


def test_with_more_features_than_cells_the_components_are_those_of_scikit_learn() -> None:
    x = np.random.default_rng(1).normal(size=(50, 90)) * np.linspace(3, 0.1, 90)
    ours = Method((Block(x, "pca"),)).features(TRAIN)
    theirs = PCA(n_components=20, svd_solver="full").fit(x[TRAIN]).transform(x)
    np.testing.assert_allclose(np.abs(ours), np.abs(theirs), atol=1e-8)


def test_whitened_components_have_variance_1_and_no_correlation_on_the_training_cells() -> None:
    features = Method((Block(values(), "whiten"),)).features(TRAIN)
    np.testing.assert_allclose(np.cov(features[TRAIN].T, bias=True), np.eye(4), atol=1e-9)


def test_blocks_side_by_side_weigh_the_same() -> None:
    features = Method((Block(values(), "none"), Block(1000.0 * values(2), "none"))).features(TRAIN)
    variance = features[TRAIN].var(axis=0)
    assert variance[:4].sum() == pytest.approx(1.0) and variance[4:].sum() == pytest.approx(1.0)


def test_all_cells_come_in_the_order_of_the_splits_with_every_mandatory_baseline() -> None:
    source = cells.Blobs()
    task, data = cells.task_and_data(source)
    cohort = gather(task, data, 1, "none", 2, None, 0)
    assert list(cohort.methods) == [
        "learnt", "morphometrics", "density", "depth_profile", "persistence", "with_morphometrics", "untrained"
    ]  # fmt: skip
    assert len(cohort.methods["untrained"]) == 2
    np.testing.assert_array_equal(cohort.labels[cohort.rows["test"]], source.labels("test"))
    np.testing.assert_allclose(
        cohort.methods["learnt"][0].features(TRAIN)[cohort.rows["test"]], source._x["test"], rtol=1e-6
    )


def test_a_source_without_whole_cells_has_a_note_in_place_of_hand_made_features() -> None:
    source = cells.Blobs()
    bare = SimpleNamespace(
        labels=source.labels, classes=source.classes, unaugmented=source.unaugmented, collate=source.collate
    )
    assert hand_made(bare) is None
    cohort = gather(*cells.task_and_data(bare), 1, "none", 1, None, 0)
    assert list(cohort.methods) == ["learnt", "untrained"] and "no whole cells" in cohort.notes[0]
