"""Several archives as one source: own readers, one size, chosen shares, and cohorts never trained on."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nissl.datasets.morphology_joint import JointMorphologies
from nissl.datasets.morphology_source import draws_per_pass

VIEWS: dict[str, Any] = {
    "num_nodes": 8, "num_drop_branches": 1, "cut_edge": "parent", "rotation": "axis", "rotation_axis": "y",
    "mirror": False, "jitter_std_um": 1.0, "shift_std_um": 5.0, "scale_log_std": 0.0, "num_views": 2,
    "num_local_views": 0, "local_share": 0.3, "local_nodes": 5,
}  # fmt: skip


def write(folder: Path, labels: list[str], size_um: float, seed: int) -> dict[str, Any]:
    """Random trees of 12 nodes in folders named by label, `size_um` from node to node."""
    rng = np.random.default_rng(seed)
    for k, label in enumerate(labels):
        (folder / label).mkdir(parents=True, exist_ok=True)
        lines, pos = ["1 1 0 0 0 5 -1"], np.zeros((12, 3))
        for i in range(1, 12):
            parent = int(rng.integers(max(0, i - 3), i))
            pos[i] = pos[parent] + rng.normal(0, size_um, 3)
            lines.append(f"{i + 1} 3 {pos[i, 0]} {pos[i, 1]} {pos[i, 2]} 1 {parent + 1}")
        (folder / label / f"{k}.swc").write_text("\n".join(lines))
    return {"path": str(folder)}


def joint(sources: dict[str, Any], **changes: Any) -> JointMorphologies:
    options: dict[str, Any] = {
        "sources": sources, "normalise": "source", "sampling": "proportional", "test_path": None, "test_reading": None,
        "min_class_size": 3, "centre_axes": "xyz", "min_nodes": 5, "unmatched": "error", "train_on": "train",
        "num_folds": 3, "val_fold": 1, "test_fold": 0, "split_seed": 0, "group_pattern": None, "cache_nodes": None,
        "embed_nodes": 8, **VIEWS, "cache_dir": None,
    }  # fmt: skip
    return JointMorphologies(**{**options, **changes})


@pytest.fixture
def two(tmp_path: Path) -> dict[str, Any]:
    return {
        "rat": write(tmp_path / "rat", ["a"] * 6 + ["b"] * 6 + ["rare"], 20.0, 0),
        "fly": write(tmp_path / "fly", ["a"] * 3, 2000.0, 1),
    }


def test_classes_and_cells_know_their_source(two: dict[str, Any]) -> None:
    source = joint(two)
    assert source.classes == ["fly: a", "rat: a", "rat: b"] and source.source_names == ["rat", "fly"]
    assert len(source.labels("all")) == 15, "the class with one cell is not judged"
    for split in ("train", "val", "test"):
        names = [source.source_names[k] for k in source.sources(split)]  # type: ignore[arg-type]
        classes = [source.classes[k] for k in source.labels(split)]  # type: ignore[arg-type]
        assert [c.split(":")[0] for c in classes] == names
    item = source.split("train")[0]
    assert int(item[0].source) in (0, 1) and source.cells("train")[0].id.startswith(("rat/", "fly/"))


def test_a_typical_cell_of_every_source_has_one_size_and_whole_cells_keep_theirs(two: dict[str, Any]) -> None:
    source, raw = joint(two), joint(two, normalise="none")

    def radius(which: JointMorphologies, k: int) -> float:
        rows = np.flatnonzero(which.sources("all") == k)
        graphs = [which.unaugmented("all")[int(row)] for row in rows]
        return float(np.median([graph.pos.square().sum(dim=1).mean().sqrt() for graph in graphs]))

    assert 50 < radius(source, 0) < 200 and 50 < radius(source, 1) < 200
    assert radius(raw, 1) > 20 * radius(raw, 0)
    np.testing.assert_array_equal(source.cells("all")[-1].pos, raw.cells("all")[-1].pos)


def test_draws_follow_the_sampling_and_leave_no_cell_out(two: dict[str, Any]) -> None:
    source = np.repeat([0, 1], [9, 4])
    counts = {s: np.bincount(source[draws_per_pass(source, s, 0)]).tolist() for s in ("proportional", "sqrt", "equal")}
    assert counts == {"proportional": [9, 4], "sqrt": [9, 6], "equal": [9, 9]}
    for sampling in counts:
        assert set(draws_per_pass(source, sampling, 0)) == set(range(13))
    assert len(joint(two, sampling="equal").split("train")) > len(joint(two).split("train"))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="sampling must be proportional"):
        draws_per_pass(source, "all", 0)


def test_a_cohort_never_trained_on_is_a_source_of_its_own(two: dict[str, Any], tmp_path: Path) -> None:
    other = write(tmp_path / "other", ["x"] * 3 + ["y"] * 3 + ["rare"], 20.0, 2)
    source = joint(two, test_path=other["path"], test_reading={"root": "first"})
    assert source.source_names == ["rat", "fly", "other"] and not source.ssl_saw_test
    assert set(source.sources("test")) == {2} and len(source.labels("test")) == 6
    assert {source.classes[k] for k in source.labels("test")} == {"other: x", "other: y"}
    with pytest.raises(ValueError, match="in both train and test"):
        joint(two, test_path=two["rat"]["path"])


def test_training_on_all_takes_the_unjudged_and_says_that_it_saw_the_test_cells(two: dict[str, Any]) -> None:
    source = joint(two, train_on="all")
    assert len(source.split("train")) == 16 and source.ssl_saw_test  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ({}, "dataset.sources is empty"),
        ({"rat": {}}, "dataset.sources.rat has no path"),
        ({"rat": {"path": "x", "labels": "y"}}, "says 'labels'; it may say path, metadata, label"),
    ],
)
def test_a_source_that_says_too_little_or_nonsense_is_an_error(sources: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        joint(sources)
