import os
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from nissl.datasets.datamodule import DataModule, Draw
from nissl.datasets.em import EMSimulated, EMVolume, default_boxes
from nissl.datasets.em_augment import Augment, Misalignment, Rotation
from nissl.datasets.em_patches import FloodFillPatches

DATA = Path(os.environ.get("NISSL_DATA", "data"))


def patches(**changed):
    values = {
        "fov_zyx": [5, 5, 5],
        "deltas_zyx": [2, 2, 2],
        "fov_moves": 1,
        "examples_per_epoch": 12,
        "val_examples": 4,
        "min_object_voxels": 20,
        "label_gap": 0,
    }
    return FloodFillPatches(**(values | changed))


def arrays(shape=(14, 15, 40)):
    rng = np.random.default_rng(0)
    coarse = rng.integers(1, 6, [-(-size // 5) for size in shape])
    labels = np.kron(coarse, np.ones((5, 5, 5), int))[tuple(slice(size) for size in shape)].astype(np.uint32)
    return {"raw": rng.integers(0, 255, shape).astype(np.uint8), "labels": labels}


def write(path, **datasets):
    with h5py.File(path, "w") as file:
        for name, array in datasets.items():
            file[name] = array
            file[name].attrs["resolution_nm"] = (10.0, 10.0, 10.0)
    return path


def source(path, **changed):
    values = {
        "path": str(path),
        "raw": "raw",
        "labels": "labels",
        "skeletons": None,
        "voxel_size_zyx_nm": None,
        "train_box": None,
        "val_box": None,
        "test_box": None,
        "scale_zyx": [1, 1, 1],
        "mean": None,
        "std": None,
        "patches": patches(),
        "augment": Augment([0, 1, 2], [0, 1, 2], 0.2, 0.2),
    }
    return EMVolume(**(values | changed))


@pytest.fixture
def path(tmp_path):
    return write(tmp_path / "em.h5", **arrays())


def test_an_example_shows_one_object_around_its_centre(path):
    data = source(path)
    for index in range(12):
        example = data.split("train")[Draw(index, 100 + index)]
        assert example["image"].shape == example["label"].shape == (1, 9, 9, 9)
        assert example["image"].dtype == example["label"].dtype == torch.float32
        assert example["label"][0, 4, 4, 4] == 1 and set(example["label"].unique().tolist()) <= {0.0, 1.0}


def test_image_and_label_of_an_example_are_from_the_same_voxels(tmp_path):
    """The image *is* the label map here, so the object must be where the image has its grey value."""
    labels = arrays()["labels"]
    path = write(tmp_path / "em.h5", raw=labels.astype(np.uint8), labels=labels)
    data = source(path, mean=0.0, std=1.0, augment=Augment([0, 1, 2], [0, 1, 2], 0.0, 0.0))
    for index in range(12):
        example = data.split("train")[Draw(index, index)]
        assert torch.equal(example["image"] == example["image"][0, 4, 4, 4], example["label"] == 1)


def test_a_draw_decides_its_example_whatever_came_before(path):
    one, two = source(path).split("train"), source(path).split("train")
    two[Draw(5, 77)]
    first, second = one[Draw(0, 9)], two[Draw(3, 9)]
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_do_not_depend_on_the_number_of_workers(path, num_workers):
    batches = list(DataModule(source(path), batch_size=4, num_workers=num_workers).train_dataloader())
    expected = list(DataModule(source(path), batch_size=4).train_dataloader())
    assert len(batches) == 3
    assert all(torch.equal(a["image"], b["image"]) for a, b in zip(batches, expected, strict=True))


def test_validation_examples_are_the_same_every_time_and_not_augmented(path):
    data = source(path)
    first, second = ([item["image"] for item in data.split("val")] for _ in range(2))
    assert len(first) == 4 and all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_no_training_voxel_is_validated(tmp_path):
    train, val = default_boxes((14, 15, 40))
    assert train.stop_zyx == (14, 15, 28) and val.start_zyx == (0, 0, 29)
    contents = arrays()
    contents["raw"][:, :, 28:] = 200
    contents["raw"][:, :, :28] = 50
    data = source(write(tmp_path / "em.h5", **contents), mean=0.0, std=1.0, augment=Augment([], [], 0.0, 0.0))
    assert all((data.split("train")[i]["image"] == 50).all() for i in range(12))
    assert all((item["image"] == 200).all() for item in data.split("val"))


def test_boxes_of_the_config_are_used(path):
    data = source(path, train_box=[[0, 14], [0, 15], [0, 20]], val_box=[[0, 14], [0, 15], [22, 40]])
    assert data.volumes("train")[0].raw.shape == (14, 15, 20)
    assert data.volumes("val")[0].raw.shape == (14, 15, 18)
    assert data.volumes("test")[0].raw.shape == (14, 15, 11)
    with pytest.raises(ValueError, match="dataset.val_box: x from 22 to 60"):
        source(path, val_box=[[0, 14], [0, 15], [22, 60]])


def test_half_resolution_halves_the_examples_reach_and_keeps_native_truth(path):
    data = source(path, scale_zyx=[1, 1, 2], patches=patches(min_object_voxels=5))
    assert data.split("train").sources[0].image.shape == (14, 15, 14)
    assert data.volumes("test")[0].labels.shape == (14, 15, 11)


def test_unset_grey_statistics_are_those_of_the_training_box(path):
    image = source(path).volumes("train")[0].network_image()
    assert image.mean() == pytest.approx(0, abs=1e-5) and image.std() == pytest.approx(1, abs=1e-5)


def test_the_files_read_are_named_for_the_record(path, tmp_path):
    np.savez(tmp_path / "s.npz", nodes_zyx_nm=np.zeros((1, 3)), edges=np.zeros((0, 2), int), node_label=np.ones(1))
    assert source(path, skeletons=str(tmp_path / "s.npz")).files == [path, tmp_path / "s.npz"]


def test_a_volume_without_labels_can_be_opened_but_not_learned_from(path):
    data = source(path, labels=None)
    assert data.volumes("test")[0].labels is None
    with pytest.raises(ValueError, match="has no labels"):
        data.split("train")


@pytest.mark.parametrize(
    ("contents", "changed", "message"),
    [
        ({"labels": np.zeros((14, 15, 40), np.uint32)}, {}, "are empty: every voxel is 0"),
        ({"labels": np.ones((14, 15, 39), np.uint32)}, {}, "differ in shape"),
        ({"labels": np.ones((14, 15, 40), np.float32)}, {}, "expected integers"),
        ({"raw": np.full((14, 15, 40), np.nan, np.float32)}, {}, "NaN"),
        ({"raw": np.full((14, 15, 40), 9, np.uint8)}, {}, "the image is constant"),
        ({}, {"raw": "row"}, "Did you mean 'raw'"),
        ({}, {"path": "/nowhere/em.h5"}, "does not exist"),
        ({}, {"skeletons": "/nowhere/s.npz"}, "does not exist"),
    ],
)
def test_bad_input_is_refused_when_the_source_is_made(tmp_path, contents, changed, message):
    path = write(tmp_path / "em.h5", **(arrays() | contents))
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        source(**({"path": path} | changed))


def test_a_truncated_file_is_refused_when_the_source_is_made(path):
    path.write_bytes(path.read_bytes()[:9000])
    with pytest.raises(ValueError, match="truncated"):
        source(path)


def test_a_file_without_voxel_size_asks_for_it(tmp_path):
    with h5py.File(tmp_path / "em.h5", "w") as file:
        for name, array in arrays().items():
            file[name] = array
    with pytest.raises(ValueError, match="Set dataset.voxel_size_zyx_nm"):
        source(tmp_path / "em.h5")
    given = source(tmp_path / "em.h5", voxel_size_zyx_nm=[30, 6, 6])
    assert given.volumes("val")[0].voxel_size_zyx_nm == (30.0, 6.0, 6.0)


def test_examples_that_do_not_fit_are_refused(path):
    with pytest.raises(ValueError, match="fewer than an example of"):
        source(path, patches=patches(fov_zyx=[13, 13, 13])).split("train")
    with pytest.raises(ValueError, match="change shape when axes"):
        source(path, patches=patches(fov_zyx=[3, 5, 5], deltas_zyx=[1, 2, 2])).split("train")


def test_a_training_box_without_objects_is_refused(tmp_path):
    contents = arrays()
    contents["labels"][:, :, :20] = 0
    data = source(write(tmp_path / "em.h5", **contents), train_box=[[0, 14], [0, 15], [0, 20]])
    with pytest.raises(ValueError, match="has only label 0"):
        data.split("train")


def test_simulated_volumes_differ_between_splits_and_give_examples():
    data = EMSimulated(
        shape_zyx=[30, 32, 32],
        voxel_size_zyx_nm=[20.0, 20.0, 20.0],
        seed=0,
        num_train=2,
        num_neurites=12,
        radius_nm=[60.0, 160.0],
        branch_every_nm=1000.0,
        noise=8.0,
        blur_nm=14.0,
        patches=patches(),
        augment=Augment([0, 1, 2], [0, 1, 2], 0.2, 0.2),
    )
    assert data.files == [] and len(data.volumes("train")) == 2
    volumes = [*data.volumes("train"), *data.volumes("val"), *data.volumes("test")]
    assert len({volume.labels.tobytes() for volume in volumes}) == 4
    assert data.volumes("test")[0] is data.volumes("test")[0]
    assert data.split("train")[0]["image"].shape == (1, 9, 9, 9)


def test_examples_can_be_cut_at_native_resolution_around_the_same_voxels(path):
    coarse = source(path, scale_zyx=[1, 2, 2], patches=patches(min_object_voxels=5, fov_moves=0), augment=None)
    native = source(
        path, scale_zyx=[1, 2, 2], patches=patches(min_object_voxels=5, fov_moves=0, native=True), augment=None
    )
    for index in range(12):
        one, two = coarse.split("train")[index]["image"], native.split("train")[index]["image"]
        assert two.shape == (1, 5, 10, 10)
        assert torch.allclose(torch.nn.functional.avg_pool3d(two[None], (1, 2, 2))[0], one, atol=1e-5)


def test_an_example_can_show_all_labels_of_its_patch(path):
    example = source(path, patches=patches(target="labels", centres="uniform")).split("train")[0]
    assert example["label"].dtype == torch.int64 and set(example["label"].unique().tolist()) <= set(range(1, 6))
    assert len(example["label"].unique()) > 1


def test_examples_from_a_fixed_set_of_places_repeat_their_centres(path):
    data = source(path, patches=patches(number_of_places=3), augment=None).split("train")
    items = [data[Draw(0, seed)] for seed in range(20)]
    seen = {int(item["place"]): item["image"] for item in items}
    assert set(seen) == {0, 1, 2}
    assert all(torch.equal(item["image"], seen[int(item["place"])]) for item in items)


def test_masked_voxels_have_no_weight_and_no_example_is_centred_on_one(tmp_path):
    contents = arrays()
    contents["painted"] = np.zeros((14, 15, 40), np.uint8)
    contents["painted"][:, :7], contents["painted"][:, 7] = 3, 9
    path = write(tmp_path / "em.h5", **contents)
    by_value = source(path, loss_mask="painted", loss_mask_values=[3], augment=Augment([], [], 0.0, 0.0))
    for index in range(12):
        item = by_value.split("train")[Draw(index, index)]
        assert item["weight"].shape == item["image"].shape and item["weight"][0, 4, 4, 4] == 1
        assert 0 < item["weight"].mean() <= 1
    all_set = source(path, loss_mask="painted").ignored("train")[0]
    inverted = source(path, loss_mask="painted", loss_mask_inverted=True).ignored("train")[0]
    assert all_set[:, :8].all() and not all_set[:, 8:].any() and np.array_equal(inverted, ~all_set)
    assert "weight" not in source(path).split("train")[0]


def test_a_volume_may_be_annotated_in_several_boxes(path):
    boxes = [[[0, 14], [0, 15], [0, 12]], [[0, 14], [0, 15], [14, 27]]]
    data = source(path, train_box=boxes, val_box=[[0, 14], [0, 15], [28, 40]])
    assert [volume.raw.shape[2] for volume in data.volumes("train")] == [12, 13]
    assert len(data.split("train").sources) == 2 and len(data.volumes("val")) == 1
    with pytest.raises(ValueError, match="dataset.train_box: x from 14 to 99"):
        source(path, train_box=[boxes[0], [[0, 14], [0, 15], [14, 99]]])


def test_further_volumes_are_trained_on_with_their_own_grey_values(path, tmp_path):
    bright = arrays()
    bright["raw"] = bright["raw"] // 2 + 100
    other = source(write(tmp_path / "two.h5", **bright))
    data = source(path, more={"two": other}, augment=Augment([0, 1, 2], [0, 1, 2], 0.0, 0.0))
    assert len(data.files) == 2 and len(data.volumes("train")) == 2
    assert len(data.volumes("val")) == len(data.volumes("test")) == 1
    means = [volume.mean for volume in data.volumes("train")]
    assert means[1] - means[0] > 20
    assert all(abs(source.image.mean()) < 1e-4 for source in data.split("train").sources)
    drawn = {data.split("train").centres.draw(np.random.default_rng(seed))[0] for seed in range(20)}
    assert drawn == {0, 1}


def test_volumes_of_different_resolution_are_not_mixed(path):
    with pytest.raises(ValueError, match="Set dataset.more.two.scale_zyx"):
        source(path, more={"two": source(path, scale_zyx=[1, 2, 2])})


def test_deformed_examples_still_show_one_object_around_their_centre(path):
    augment = Augment([0, 1, 2], [0, 1, 2], 0.2, 0.2, Rotation(1.0, 90.0, False), None, None, Misalignment(1.0, 2, 0.5))
    data = source(path, augment=augment).split("train")
    for index in range(12):
        example = data[Draw(index, index)]
        assert example["image"].shape == (1, 9, 9, 9) and example["label"][0, 4, 4, 4] == 1


def test_unknown_kinds_of_examples_are_refused():
    with pytest.raises(ValueError, match="target must be one of"):
        patches(target="mask")
    with pytest.raises(ValueError, match="centres must be one of"):
        patches(centres="balanced")


def test_simulated_obstacles_come_with_their_truth_and_examples_of_sections_keep_their_axis():
    data = EMSimulated(
        shape_zyx=[20, 48, 48],
        voxel_size_zyx_nm=[20.0, 9.0, 9.0],
        seed=0,
        num_train=1,
        num_neurites=10,
        radius_nm=[50.0, 110.0],
        branch_every_nm=1000.0,
        noise=8.0,
        blur_nm=10.0,
        patches=patches(fov_zyx=[3, 5, 5], deltas_zyx=[1, 2, 2]),
        augment=Augment([1, 2], [0, 1, 2], 0.2, 0.2, misalignment=Misalignment(1.0, 2, 0.5)),
        vessel_radius_nm=60.0,
        misalignments=[[12, 3, -2]],
    )
    (scene,) = data.scenes("test")
    assert scene.volume is data.volumes("test")[0] and scene.vessel.any()
    assert scene.shifts_yx[12].tolist() == [3, -2] and not scene.shifts_yx[11].any()
    assert data.split("train")[0]["image"].shape == (1, 5, 9, 9)
    data.tissue_labels, data._grown = True, {}
    kinds = data.volumes("test")[0].labels
    assert np.array_equal(kinds == 2, scene.vessel) and np.array_equal(kinds == 1, ~scene.vessel)


@pytest.mark.data
@pytest.mark.skipif(not (DATA / "em/fib25_train.h5").is_file(), reason="set NISSL_DATA to the data folder")
def test_the_fib25_volume_is_read_with_its_skeletons_and_partitioned_in_time():
    import time

    from nissl.datasets.em_partitions import partition_map

    data = source(DATA / "em/fib25_train.h5", skeletons=str(DATA / "em/fib25_train_skeletons.npz"),
                  train_box=[[0, 165], [0, 250], [0, 175]], test_box=[[0, 165], [0, 250], [180, 250]])  # fmt: skip
    test = data.volumes("test")[0]
    assert test.raw.shape == (165, 250, 70) and test.voxel_size_zyx_nm == (10.0, 10.0, 10.0)
    ids = test.skeletons.ids_at_nodes(test.labels, test.voxel_size_zyx_nm)
    assert np.array_equal(ids, test.skeletons.skeleton_of)
    with h5py.File(DATA / "em/fib25_train.h5") as file:
        labels = file["labels"][:]
    before = time.process_time()
    partition_map(labels, (24, 24, 24), 10_000)
    assert time.process_time() - before < 30
