"""The configured data sets: items, splits, cells, and what a user can get wrong."""

import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import tifffile
import torch
import yaml

from nissl.datasets.calcium import CalciumMovie, CalciumSimulated
from nissl.datasets.calcium_splits import PARTS
from nissl.datasets.datamodule import DataModule, Draw

CONF = Path(__file__).parents[2] / "conf/dataset"
TINY = {
    "size_px": 36, "num_cells": 8, "num_targets": 4, "modules": [[1, 4], [2], [3]], "trials": 3, "num_outputs": 5,
    "min_target_distance_px": 7.0,
}  # fmt: skip


def configured(name: str, **changes: Any) -> dict[str, Any]:
    values = yaml.safe_load((CONF / f"{name}.yaml").read_text())
    del values["_target_"]
    return {**values, **changes}


def simulated(**changes: Any) -> CalciumSimulated:
    return CalciumSimulated(**configured("calcium_simulated", **{**TINY, **changes}))


EVENTS = [(20 * i + 5, 20 * i + 6, cells) for i, cells in enumerate(["1", "2", "1;2"] * 3)]


def write_movie(folder: Path, dtype: str = "uint16") -> dict[str, str]:
    """A movie of 180 frames with three trials of each of three patterns, and its event and cell tables."""
    rng = np.random.default_rng(0)
    movie = rng.integers(90, 110, size=(180, 16, 12)).astype(dtype)
    with h5py.File(folder / "m.h5", "w") as file:
        file["movie"] = movie
        file["speed"] = np.arange(180) % 3
    rows = "".join(f"{on},{off},{cells}\n" for on, off, cells in EVENTS)
    (folder / "events.csv").write_text("onset_frame,offset_frame,cells\n" + rows)
    (folder / "cells.csv").write_text("cell,y_px,x_px,radius_px\n1,4,4,2\n2,10,8,2\n")
    return {name: str(folder / file) for name, file in [("path", "m.h5"), ("events_path", "events.csv")]}


def movie(folder: Path, **changes: Any) -> CalciumMovie:
    made = write_movie(folder)
    values = {
        "key": "movie",
        "fps": 4.0,
        "num_outputs": 3,
        "guard_s": 0.5,
        "cells_path": str(folder / "cells.csv"),
        **made,
    }
    return CalciumMovie(**configured("calcium_movie", **{**values, **changes}))


def test_an_item_is_a_frame_with_its_label_and_its_row() -> None:
    source = simulated()
    item = source.split("val")[0]
    assert item["frames"].shape == (1, 36, 36) and item["frames"].dtype == torch.float32
    assert item["label"].shape == (5,) and item["index"] == source.rows("val")[0]
    pattern = source.patterns[source.table.pattern[item["index"]]]
    named = [source.outputs[i] for i in torch.nonzero(item["label"])[:, 0]]
    assert tuple(named) == (pattern.cells or ("none",))


def test_the_loader_gives_the_batch_of_the_contract() -> None:
    batch = next(iter(DataModule(simulated(), batch_size=16).val_dataloader()))
    assert batch["frames"].shape == (16, 1, 36, 36) and batch["label"].shape == (16, 5)
    assert batch["index"].dtype == torch.int64


def test_the_design_of_eight_cells_has_37_patterns_and_nine_outputs() -> None:
    source = CalciumSimulated(**configured("calcium_simulated"))
    assert len(source.patterns) == 37 and len(source.outputs) == 9
    assert [p.name for p in source.patterns][:9] == ["1", "2", "3", "4", "5", "6", "7", "8", "1+2"]
    assert source.patterns[-1].name == "none" and len(source.table) == 3960


def test_two_builds_read_the_same_frames() -> None:
    first, again = simulated(), simulated()
    rows = first.rows("test")
    assert np.array_equal(first.read(rows), again.read(rows)) and np.array_equal(first.part, again.part)


def test_training_frames_vary_with_the_draws_seed_alone() -> None:
    train = simulated().split("train")
    one, again, other = (train[Draw(3, seed)]["frames"] for seed in (1, 1, 2))
    assert torch.equal(one, again) and not torch.equal(one, other)
    in_batch = train.__getitems__([Draw(0, 9), Draw(3, 1)])[1]["frames"]
    assert torch.equal(in_batch, one)


def test_evaluation_frames_do_not_vary() -> None:
    source = simulated()
    test = source.split("test")
    assert torch.equal(test[Draw(0, 1)]["frames"], test[Draw(0, 2)]["frames"])
    assert torch.equal(source.unvaried("train")[Draw(0, 1)]["frames"], source.unvaried("train")[0]["frames"])


def test_frames_are_zero_outside_the_mask_varied_or_not() -> None:
    source = simulated()
    outside = ~source.mask
    assert outside.any()
    for item in (source.split("train")[Draw(0, 5)], source.split("test")[0]):
        assert (item["frames"][0].numpy()[outside] == 0).all()


def test_no_trial_is_in_two_parts_and_every_pattern_in_each() -> None:
    source = simulated()
    trials = [set(source.table.trial[source.rows(part)]) for part in PARTS]
    assert not (trials[0] & trials[1] or trials[0] & trials[2] or trials[1] & trials[2])
    assert all(set(source.table.pattern[source.rows(part)]) == set(range(11)) for part in PARTS)


DAYS = {"days": {"POD0": 1.0, "POD3": 2.0}}


def test_two_days_share_patterns_mask_and_normalisation_but_not_truth() -> None:
    source = simulated(**DAYS)
    assert source.days == ("POD0", "POD3") and source.truth is source.truths["POD0"]
    late = source.of_day("POD3")
    rows = late.rows("test")
    assert (source.day[rows] == 1).all() and set(rows) < set(source.rows("test"))
    assert late.truth is source.truths["POD3"] and late.truth.coupling == 2.0
    assert late.patterns == source.patterns and late.mask is source.mask
    assert np.array_equal(late.read(rows), source.read(rows))
    assert source.patterns_of("POD3") == [pattern.name for pattern in source.patterns]
    assert {row["day"] for row in late.frame_rows() if row["split"]} == {"POD3"}
    grown = late.truth.gain - np.eye(4)
    assert np.allclose(grown, 2 * (source.truth.gain - np.eye(4)))  # type: ignore[union-attr]


def test_each_network_gets_its_own_days_frames_in_its_own_order() -> None:
    source = simulated(**DAYS, network_seeds=[0, 1])
    assert [(n.seed, n.day) for n in source.networks] == [(0, "POD0"), (0, "POD3"), (1, "POD0"), (1, "POD3")]
    train = source.split("train")
    items = [train[i] for i in range(len(train))]  # type: ignore[arg-type]
    assert items[0]["frames"].shape == (4, 1, 36, 36) and items[0]["label"].shape == (4, 5)
    seen = torch.stack([item["index"] for item in items], dim=1).numpy()  # (networks, items)
    for network, rows in zip(source.networks, seen, strict=True):
        assert network.day is not None
        assert sorted(rows) == sorted(source.of_day(network.day).rows("train"))
    assert not np.array_equal(seen[0], seen[2])


def test_networks_vary_the_same_draw_differently_and_joint_ones_see_all_days() -> None:
    source = simulated(**DAYS, network_seeds=[0, 1], scope="joint", contrast=[0.5, 1.5])
    train = source.split("train")
    rows = torch.stack([train[i]["index"] for i in range(len(train))])  # type: ignore[arg-type]
    assert set(rows[:, 0].tolist()) == set(source.rows("train"))
    assert torch.equal(train[Draw(0, 5)]["frames"], train[Draw(0, 5)]["frames"])
    first = train[Draw(0, 5)]["frames"][0]
    assert not torch.equal(first, train[Draw(0, 6)]["frames"][0])


def test_wrong_networks_are_refused() -> None:
    with pytest.raises(ValueError, match=r"network_seeds must be distinct and at least 0, came \[1, 1\]"):
        simulated(network_seeds=[1, 1])
    with pytest.raises(ValueError, match="scope='daily' is unknown"):
        simulated(scope="daily")
    with pytest.raises(ValueError, match="no day 'POD7'; the days are POD0"):
        simulated().of_day("POD7")


def test_a_frame_split_tears_trials_apart() -> None:
    source = simulated(split_group="frame")
    assert set(source.table.trial[source.rows("train")]) & set(source.table.trial[source.rows("test")])


def test_the_frame_table_restores_the_split(tmp_path: Path) -> None:
    source = simulated(split_seed=4)
    lines = [f"{row['recording']},{row['frame']},{row['split']}" for row in source.frame_rows()]
    (tmp_path / "frames.csv").write_text("\n".join(["recording,frame,split", *lines]))
    assert np.array_equal(simulated(split_path=str(tmp_path / "frames.csv")).part, source.part)


def test_thinning_drops_idle_training_frames_only() -> None:
    whole, thinned = simulated(), simulated(none_fraction=0.5)
    idle = whole.table.role == 1
    count = [[int((idle & (s.part == p)).sum()) for p in range(3)] for s in (whole, thinned)]
    assert count[1] == [round(count[0][0] / 2), *count[0][1:]]


def test_cells_and_truth_shrink_with_the_frames() -> None:
    full, half = simulated(), simulated(resize=[18, 18])
    assert half.cells.positions_px is not None and full.cells.positions_px is not None
    assert np.allclose(half.cells.positions_px + 0.5, (full.cells.positions_px + 0.5) / 2)
    assert half.truth is not None and half.truth.evoked.shape == (11, 18, 18) and half.um_per_px == 4.0


def test_truth_peaks_on_the_named_cell_and_is_zero_for_none() -> None:
    source = simulated()
    assert source.truth is not None and source.cells.positions_px is not None
    for i in range(4):
        peak = np.unravel_index(source.truth.evoked[i].argmax(), (36, 36))
        assert np.hypot(*(np.array(peak) - source.cells.positions_px[i])) < 4
    assert not source.truth.evoked[-1].any()


def test_a_file_with_events_gives_the_frames_it_holds(tmp_path: Path) -> None:
    source = movie(tmp_path, mask="none", normalise="none")
    with h5py.File(tmp_path / "m.h5") as file:
        stored = file["movie"][:]
    rows = source.rows("train")
    assert np.array_equal(source.read(rows), stored[source.table.frame[rows]].astype(np.float32))
    assert {path.name for path in source.files} == {"m.h5", "events.csv", "cells.csv"}


def test_a_tiff_and_an_hdf5_of_one_movie_give_one_batch(tmp_path: Path) -> None:
    source = movie(tmp_path)
    with h5py.File(tmp_path / "m.h5") as file:
        tifffile.imwrite(tmp_path / "m.tif", file["movie"][:], photometric="minisblack")
        np.save(tmp_path / "m.npy", file["movie"][:])
    for name in ("m.tif", "m.npy"):
        other = movie(tmp_path, path=str(tmp_path / name), key=None, memory_mb=0)
        rows = source.rows("test")
        assert np.array_equal(source.read(rows), other.read(rows))


def test_a_large_movie_is_read_by_the_frame(tmp_path: Path) -> None:
    held, lazy = movie(tmp_path), movie(tmp_path, memory_mb=0)
    assert type(held.recordings[0].movie) is not type(lazy.recordings[0].movie)
    assert np.array_equal(held.read(held.rows("val")), lazy.read(lazy.rows("val")))


def test_a_covariate_is_cut_into_classes_split_by_blocks(tmp_path: Path) -> None:
    source = movie(
        tmp_path, events_path=None, cells_path=None, covariate="speed", class_edges=[0.5, 1.5],
        class_names=["a", "b", "c"], block_frames=10, split_group="block",
    )  # fmt: skip
    assert source.outputs == ("a", "b", "c") and len(source.patterns) == 3
    blocks = [set(source.table.block[source.rows(part)]) for part in PARTS]
    assert not (blocks[0] & blocks[1] or blocks[0] & blocks[2] or blocks[1] & blocks[2])


def test_statistics_come_from_training_frames(tmp_path: Path) -> None:
    source = movie(tmp_path, mask="none")
    values = source.read(source.rows("train"))
    assert values.mean() == pytest.approx(0, abs=1e-5) and values.std() == pytest.approx(1, rel=1e-5)
    with h5py.File(tmp_path / "m.h5") as file:
        frames = file["movie"][:][source.table.frame[source.rows("train")]]
    assert np.allclose(source.mean_image, frames.mean(axis=0))


def test_a_disc_mask_shows_the_cells_alone(tmp_path: Path) -> None:
    source = movie(tmp_path, mask="discs")
    assert source.mask[4, 4] and source.mask[10, 8] and source.mask.sum() == 26


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_outputs": 9}, "num_outputs=9, but the data have 3 outputs: 1, 2, none. Set dataset.num_outputs=3"),
        ({"key": "film"}, "no data set 'film'"),
        ({"fps": None}, "dataset.tail_s is in seconds, but the frame rate of 'm' is None. Set dataset.fps"),
        ({"events_path": None}, "set exactly one of dataset.events_path"),
        ({"covariate": "speed"}, "set exactly one of dataset.events_path"),
        ({"mask": "round"}, "dataset.mask='round' is unknown; choose one of none, fov, file, discs"),
        ({"mask": "file"}, "dataset.mask=file needs dataset.mask_path"),
        ({"mask": "discs", "cells_path": None}, "needs the cells' y_px, x_px and radius_px"),
        ({"normalise": "zscore"}, "dataset.normalise='zscore' is unknown"),
        ({"contrast": [1.3, 0.7]}, "dataset.contrast must be a range above 0"),
        ({"resize": [32, 24]}, "resize=.* is larger than the stored frames"),
        ({"split_group": "recording"}, "needs every pattern in 3 recordings or more"),
    ],
)
def test_a_configuration_that_does_not_fit_the_data_is_refused(tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        movie(tmp_path, **changes)


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("events.csv", "onset_frame,offset_frame,cells\n178,181,1\n", "outside recording 'm', which has 180 frames"),
        ("events.csv", "onset_frame,offset_frame,cells\n5,6,9\n", "unknown cell '9'; the cell table has 1, 2"),
        ("cells.csv", "cell,y_px,x_px\n1,4,4\n2,10,80\n", "cell '2' at y=10.0, x=80.0 is outside .* swapped"),
    ],
)
def test_tables_that_do_not_fit_the_movie_are_refused(tmp_path: Path, file: str, text: str, message: str) -> None:
    made = write_movie(tmp_path)
    (tmp_path / file).write_text(text)
    values = {"key": "movie", "fps": 4.0, "num_outputs": 3, "cells_path": str(tmp_path / "cells.csv"), **made}
    with pytest.raises(ValueError, match=message):
        CalciumMovie(**configured("calcium_movie", **values))


def test_a_pattern_with_one_trial_is_refused(tmp_path: Path) -> None:
    made = write_movie(tmp_path)
    header, first, *rest = Path(made["events_path"]).read_text().splitlines()
    Path(made["events_path"]).write_text("\n".join([header, first, *(row for row in rest if not row.endswith(",1"))]))
    with pytest.raises(ValueError, match=r"pattern '1' has only 1 trial\(s\)"):
        CalciumMovie(**configured("calcium_movie", key="movie", fps=4.0, num_outputs=3, **made))


def test_a_movie_with_nan_is_refused_before_training(tmp_path: Path) -> None:
    made = write_movie(tmp_path)
    with h5py.File(tmp_path / "m.h5", "r+") as file:
        bad = file["movie"][:].astype(np.float32)
        bad[100, 3, 3] = np.nan
        file["float"] = bad
    with pytest.raises(ValueError, match="recording 'm' has NaN or infinite values, first in frame 100"):
        CalciumMovie(**configured("calcium_movie", key="float", fps=4.0, num_outputs=3, **made))


def test_a_covariate_of_another_length_is_refused(tmp_path: Path) -> None:
    write_movie(tmp_path)
    (tmp_path / "c.csv").write_text("speed\n1\n2\n")
    with pytest.raises(ValueError, match="covariate 'speed' has 2 values, but the movie has 180 frames"):
        movie(
            tmp_path, events_path=None, cells_path=None, covariate="speed", covariate_path=str(tmp_path / "c.csv"),
            class_edges=[1.5], class_names=["a", "b"], num_outputs=2, block_frames=5,
        )  # fmt: skip


@pytest.mark.data
def test_the_real_movie_is_split_into_blocks_of_time() -> None:
    path = Path(os.environ.get("NISSL_DATA", "data")) / "calcium/mouse_s1_navigation.h5"
    if not path.exists():
        pytest.skip(f"{path} is not there; set NISSL_DATA")
    values = yaml.safe_load((CONF / "calcium_mouse_s1.yaml").read_text())
    del values["defaults"]
    source = CalciumMovie(**configured("calcium_movie", **{**values, "path": str(path)}))
    blocks = [set(source.table.block[source.rows(part)]) for part in PARTS]
    assert not blocks[0] & blocks[2] and len(source.table) == 350 and source.outputs == ("near", "middle", "far")


def test_a_cell_outside_the_mask_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"cell\(s\) 1, 2 lie outside the mask, so no network can see them"):
        movie(tmp_path, border_px=5)


def test_motion_is_taken_out_and_the_border_grows_with_it(tmp_path: Path) -> None:
    still, moving = movie(tmp_path), movie(tmp_path, motion="rigid", border_px=0, mask="none")
    rows = still.rows("test")
    assert moving.read(rows).shape == still.read(rows).shape and not np.array_equal(moving.read(rows), still.read(rows))
    with pytest.raises(ValueError, match="dataset.motion='elastic' is unknown"):
        movie(tmp_path, motion="elastic")


def test_folds_and_twins_need_seeds_and_a_split_of_their_own(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="train several networks: set dataset.network_seeds"):
        movie(tmp_path, folds=3)
    with pytest.raises(ValueError, match="dataset.folds and dataset.split_path cannot be set together"):
        movie(tmp_path, folds=3, network_seeds=[0], split_path="frames.csv")
    source = movie(tmp_path, folds=3, network_seeds=[0], leak_split="frame", embargo_s=0.5, scope="joint")
    assert [(n.fold, n.leaky) for n in source.networks] == [
        (fold, leaky) for fold in range(3) for leaky in (False, True)
    ]
    assert source.part is source.view(source.networks[0]).part and source.leak_split == "frame"
