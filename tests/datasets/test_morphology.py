"""The source that training and evaluators see."""

import multiprocessing
import os
import pickle
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nissl.datasets.datamodule import DataModule, Draw
from nissl.datasets.morphology import Morphologies, SimulatedMorphologies
from nissl.datasets.swc import write_swc
from nissl.datasets.swc_report import Rules
from nissl.models.laplacian_positions import laplacian_positions

VIEWS: dict[str, Any] = {
    "num_nodes": 24, "num_drop_branches": 1, "cut_edge": "parent", "rotation": "axis", "rotation_axis": "y",
    "mirror": False, "jitter_std_um": 1.0, "shift_std_um": 5.0, "scale_log_std": 0.0,
}  # fmt: skip
FOLDS: dict[str, Any] = {"num_folds": 5, "val_fold": 1, "test_fold": 0, "split_seed": 0}


def simulated(**changes: Any) -> SimulatedMorphologies:
    options = {"cells_per_class": 5, "simulation_seed": 0, **FOLDS, "cache_nodes": 300, "embed_nodes": 24, **VIEWS}
    return SimulatedMorphologies(**{**options, **changes})


def write_cells(folder: Path, labels: list[str], prefix: str = "cell", seed: int = 0) -> Path:
    """Simulated cells as SWC files in folders named by label."""
    cells = simulated(cells_per_class=8, simulation_seed=seed).cells("train")
    for k, label in enumerate(labels):
        (folder / label).mkdir(parents=True, exist_ok=True)
        write_swc(cells[k % len(cells)], folder / label / f"{prefix}_{k}.swc")
    return folder


def from_files(path: Any, **changes: Any) -> Morphologies:
    options: dict[str, Any] = {
        "path": path, "metadata": None, "label": "label", "test_path": None, "test_metadata": None,
        "unmatched": "error", "min_class_size": 5, "drop_small_classes": False, "policy": "repair", "root": "error",
        "soma": "error", "scale_um": 1.0, "type_map": None, "max_gap_um": None, "compartments": None,
        "centre_axes": "xyz", "min_nodes": 10, **FOLDS, "cache_nodes": 300, "embed_nodes": 24, **VIEWS,
    }  # fmt: skip
    return Morphologies(**{**options, **changes})


def test_splits_are_disjoint_and_hold_every_class() -> None:
    source = simulated(cells_per_class=10)
    ids = {name: {cell.id for cell in source.cells(name)} for name in ("train", "val", "test")}  # type: ignore[arg-type]
    assert sum(map(len, ids.values())) == len(set.union(*ids.values())) == 50
    assert set(source.labels("test")) == set(range(5)) and len(source.classes) == 5


def test_a_training_batch_holds_first_views_then_second_views_of_the_same_cells() -> None:
    source = simulated()
    items = source.split("train")
    batch = source.collate([items[k] for k in range(4)])
    assert batch.num_graphs == 8 and batch.pos.shape == (8 * 24, 3)
    assert torch.equal(batch.label[:4], batch.label[4:])
    assert not torch.equal(batch.pos[: 4 * 24], batch.pos[4 * 24 :])
    assert batch.edge_index.shape == (2, 8 * 2 * 23)


def test_evaluation_graphs_are_the_same_at_every_visit_and_not_augmented() -> None:
    source, again = simulated(), simulated()
    a, b = source.unaugmented("test")[0], again.split("test")[0]
    assert torch.equal(a.pos, b.pos) and torch.equal(a.pos[0], torch.zeros(3))
    positions = {tuple(p) for p in source.cells("test")[0].pos}
    assert {tuple(p) for p in a.pos.numpy()} <= positions
    assert int(a.label) == source.labels("test")[0]


def test_another_draw_keeps_other_nodes_and_all_keeps_all() -> None:
    source = simulated()
    first, again, second = (source.unaugmented("test", draw)[0].pos for draw in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, second) and len(second) == 24
    assert len(source.unaugmented("test", "all")[0].pos) == min(300, len(source.cells("test")[0]))


def test_views_come_from_the_seed_of_the_draw_alone() -> None:
    items = simulated().split("train")
    np.random.seed(1)
    first = items[Draw(3, seed=9)]
    np.random.seed(2)
    again, other = items[Draw(3, seed=9)], items[Draw(3, seed=10)]
    assert torch.equal(first[0].pos, again[0].pos) and torch.equal(first[1].pos, again[1].pos)
    assert not torch.equal(first[0].pos, other[0].pos)


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_workers_give_the_same_batches(context: str) -> None:
    """Under spawn the source is pickled whole."""
    source = simulated()

    def positions(num_workers: int) -> list[torch.Tensor]:
        data = DataModule(source, 5, num_workers=num_workers)
        loader = data.train_dataloader()
        if num_workers:
            loader.multiprocessing_context = context  # type: ignore[assignment]
        batches = [batch.pos for batch in loader]
        del loader
        return batches

    alone, shared = positions(0), positions(2 if context == "fork" else 1)  # a spawned worker imports everything anew
    assert len(alone) == len(shared) == 3 and all(torch.equal(a, b) for a, b in zip(alone, shared, strict=True))
    multiprocessing.active_children()


def test_the_source_pickles() -> None:
    again = pickle.loads(pickle.dumps(simulated()))
    assert len(again.split("train")) == 15


def test_positional_encodings_come_from_the_tasks_function_with_the_seed_of_the_draw() -> None:
    source = simulated()
    seen = []

    def encode(edge_index: np.ndarray, num_nodes: int, rng: np.random.Generator) -> np.ndarray:
        seen.append(rng.random())
        return np.full((num_nodes, 3), len(seen), np.float32)

    source.encode = encode
    first, second = source.split("train")[0]
    assert first.pe.shape == (24, 3) and not torch.equal(first.pe, second.pe)
    source.split("train")[0]
    assert seen[:2] == seen[2:]


def test_files_in_folders_become_a_source(tmp_path: Path) -> None:
    source = from_files(write_cells(tmp_path, ["a"] * 5 + ["b"] * 5))
    assert source.classes == ["a", "b"] and len(source.files) == 10
    assert [len(source.cells(n)) for n in ("train", "val", "test")] == [6, 2, 2]  # type: ignore[arg-type]


def test_a_separate_test_set_leaves_all_folds_but_one_for_training(tmp_path: Path) -> None:
    train = write_cells(tmp_path / "train", ["a"] * 5 + ["b"] * 5)
    test = write_cells(tmp_path / "test", ["a", "b", "c"], "other", seed=1)
    source = from_files(train, test_path=test)
    assert [len(source.cells(n)) for n in ("train", "val", "test")] == [8, 2, 3]  # type: ignore[arg-type]
    assert source.classes == ["a", "b", "c"] and source.labels("test").tolist() == [0, 1, 2]


def test_a_class_with_one_member_is_an_error_that_names_it_or_left_out(tmp_path: Path) -> None:
    folder = write_cells(tmp_path, ["a"] * 5 + ["b"] * 5 + ["rare"])
    with pytest.raises(ValueError, match=r"fewer than 5 cells.*'rare' \(1\).*drop_small_classes=true"):
        from_files(folder)
    assert from_files(folder, drop_small_classes=True).classes == ["a", "b"]
    with pytest.raises(ValueError, match="no class has 9 cells"):
        from_files(folder, drop_small_classes=True, min_class_size=9)


def test_what_was_found_in_a_file_is_in_the_reports(tmp_path: Path) -> None:
    folder = write_cells(tmp_path, ["a"] * 5)
    (folder / "a" / "tabs.swc").write_text((folder / "a" / "cell_0.swc").read_text().replace(" ", "\t"))
    assert any("tabs" in report.codes for report in from_files(folder).reports)


def test_files_of_one_neuron_stay_on_one_side(tmp_path: Path) -> None:
    folder = write_cells(tmp_path, ["a"] * 20)
    for k, path in enumerate(sorted((folder / "a").iterdir())):
        path.rename(folder / "a" / f"{'axon' if k % 2 else 'dendrite'}_{k // 2}.swc")
    source = from_files(folder)
    sides = {name: set(source.groups(name)) for name in ("train", "val", "test")}  # type: ignore[arg-type]
    assert sum(map(len, sides.values())) == len(set.union(*sides.values())) == 10
    assert source.group_reasons == [
        "20 files are parts or clones of 10 neurons, such as a/axon_0.swc and a/dendrite_0.swc"
    ]
    for part in source.partitions("k_fold", seed=0, num_folds=5):
        groups = source.groups("all")
        assert not set(groups[part.train]) & set(groups[part.test])


def test_training_on_all_uses_cells_without_a_class_and_says_so(tmp_path: Path) -> None:
    folder = write_cells(tmp_path, ["a"] * 5 + ["b"] * 5 + ["unknown"] * 2 + ["rare"])
    options = {"exclude_labels": ["unknown"], "drop_small_classes": True}
    few, all_cells = from_files(folder, **options), from_files(folder, **options, train_on="all")
    assert few.classes == all_cells.classes == ["a", "b"] and len(all_cells.labels("all")) == 10
    assert len(few.split("train")) == 6 and len(all_cells.split("train")) == 13  # type: ignore[arg-type]
    assert not few.ssl_saw_test and all_cells.ssl_saw_test
    with pytest.raises(ValueError, match="exclude_labels names 'glia'"):
        from_files(folder, exclude_labels=["glia"])


def test_the_tables_own_split_is_taken(tmp_path: Path) -> None:
    folder = write_cells(tmp_path / "cells", ["a"] * 10)
    rows = [f"a/cell_{k}.swc,a,{'train' if k < 6 else 'val' if k < 8 else 'test'}" for k in range(10)]
    (tmp_path / "t.csv").write_text("\n".join(["file,label,fold", *rows]))
    source = from_files(folder, metadata=str(tmp_path / "t.csv"), split_column="fold")
    assert [cell.id for cell in source.cells("test")] == ["a/cell_8.swc", "a/cell_9.swc"]
    (part,) = source.partitions("given", seed=0)
    assert part.test.tolist() == [8, 9] and part.val.tolist() == [6, 7]
    with pytest.raises(ValueError, match="split_column='split' is no column"):
        from_files(folder, metadata=str(tmp_path / "t.csv"), split_column="split")


def test_a_second_reading_comes_from_the_cache_and_is_the_same(tmp_path: Path) -> None:
    folder, cache = write_cells(tmp_path / "cells", ["a"] * 5), str(tmp_path / "cache")
    plain, cold, warm = (from_files(folder, cache_dir=c) for c in (None, cache, cache))
    for source in (cold, warm):
        np.testing.assert_array_equal(source.cells("all")[3].pos, plain.cells("all")[3].pos)
        assert torch.equal(source.split("train")[0][1].pos, plain.split("train")[0][1].pos)
        assert source.files == plain.files
    assert len(list((tmp_path / "cache" / "cells").iterdir())) == 1


def test_graphs_carry_encodings_that_are_computed_once(tmp_path: Path) -> None:
    folder, cache = write_cells(tmp_path / "cells", ["a"] * 5), str(tmp_path / "cache")
    for computed in (5, 0):
        source = from_files(folder, cache_dir=cache)
        encode = partial(laplacian_positions, num_columns=4)
        graphs = [source.unaugmented("all", encode=encode)[k] for k in range(5)]
        assert source._encodings.computed == computed
        batch = source.collate(graphs)
        expected = laplacian_positions(graphs[2].edge_index.numpy(), len(graphs[2].pos), 4)
        np.testing.assert_array_equal(graphs[2].pe.numpy(), expected)
        assert batch.pe.shape == (len(batch.pos), 4) and "pe" not in source.unaugmented("all")[0]


def test_a_batch_holds_whole_views_and_then_local_ones(tmp_path: Path) -> None:
    source = from_files(write_cells(tmp_path, ["a"] * 5), num_views=3, num_local_views=2, local_nodes=10)
    items = source.split("train")
    batch = source.collate([items[0], items[1]])
    assert batch.num_graphs == 10
    assert torch.bincount(batch.batch).tolist() == [24] * 6 + [10] * 4


def test_as_published_small_cells_are_embedded_but_not_trained_on(tmp_path: Path) -> None:
    folder = write_cells(tmp_path, ["a"] * 5)
    (folder / "a" / "small.swc").write_text(
        "\n".join(["1 1 0 0 0 5 -1", *(f"{k} 3 0 {k}0 0 1 {k - 1}" for k in range(2, 16))])
    )
    source = from_files(folder, reference=True, train_on="all")
    assert len(source.labels("all")) == 6 and len(source.split("train")) == 5  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no cell has dataset.num_nodes=10000"):
        from_files(folder, reference=True, num_nodes=10_000, cache_nodes=None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tissue": "cortex", "rotation": "so3"}, "dataset.tissue=cortex and other settings contradict"),
        ({"train_on": "test"}, "train_on must be train or all"),
        ({"upright": {"z": "angle"}}, "takes angles from a metadata table"),
        ({"policy": "diagnose"}, "policy must be strict or repair"),
        ({"unmatched": "guess"}, "unmatched must be error or skip"),
        ({"cache_nodes": 10}, "cache_nodes=10 is below dataset.num_nodes=24"),
        ({"path": "nowhere"}, "no such folder or archive"),
        ({"num_folds": 2}, "num_folds must be at least 3"),
    ],
)
def test_wrong_arguments_are_errors(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    folder = write_cells(tmp_path, ["a"] * 5)
    with pytest.raises(ValueError, match=message):
        from_files(**{"path": folder, **changes})


def test_simulated_families_and_compartments_are_chosen() -> None:
    names = ["direct", "martinotti", "chandelier", "basket"]
    source = simulated(populations=names, label="family", compartments=["soma", "dendrite"])
    assert source.classes == ["axonal", "interneuron", "wired"] and len(source.labels("all")) == 20
    assert all(set(cell.type) <= {1, 3} for cell in source.cells("all"))
    with pytest.raises(ValueError, match="dataset.label must be population or family"):
        simulated(label="species")


def test_too_few_simulated_cells_are_an_error() -> None:
    with pytest.raises(ValueError, match="cells_per_class=3 is below"):
        simulated(cells_per_class=3)


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize(
    ("archive", "cells", "scale_um"),
    [("allen_visual", 70, 1.0), ("fly_pn", 23, 1.0), ("hemibrain_da1", 5, 0.008), ("l6b", 28, 1.0)],
)
def test_real_archives_load_whole(archive: str, cells: int, scale_um: float) -> None:
    root = Path(os.environ.get("NISSL_DATA", "data")) / "swc"
    if not root.is_dir():
        pytest.skip(f"needs {root}; set NISSL_DATA")
    from nissl.datasets.swc_cells import Preprocessing
    from nissl.datasets.swc_collection import read_collection

    rules = Rules(root="first", scale_um=scale_um)
    collection = read_collection(root / f"{archive}.tar.gz", root / "metadata.csv", "label", Preprocessing(rules))
    assert len(collection.cells) == cells and collection.left_out == []
