import h5py
import numpy as np
import pytest

from nissl.volumes.chunked import read_hdf5, read_resolution_nm


def write(path, **datasets):
    with h5py.File(path, "w") as file:
        for name, array in datasets.items():
            file[name] = array
        file.attrs["resolution_nm"] = (40.0, 4.0, 4.0)
    return path


RAW = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)


def test_a_volume_and_its_resolution_come_back(tmp_path):
    path = write(tmp_path / "a.h5", raw=RAW)
    assert np.array_equal(read_hdf5(path, "raw", "image"), RAW)
    assert read_resolution_nm(path, "raw") == (40.0, 4.0, 4.0)


def test_the_resolution_of_a_dataset_goes_before_that_of_the_file(tmp_path):
    path = write(tmp_path / "a.h5", raw=RAW)
    with h5py.File(path, "a") as file:
        file["raw"].attrs["resolution"] = (8.0, 8.0, 8.0)
    assert read_resolution_nm(path, "raw") == (8.0, 8.0, 8.0)


def test_a_file_may_be_silent_about_its_resolution(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["raw"] = RAW
    assert read_resolution_nm(tmp_path / "a.h5", "raw") is None


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.h5 does not exist"):
        read_hdf5(tmp_path / "nowhere.h5", "raw", "image")


def test_a_wrong_dataset_name_gets_a_suggestion(tmp_path):
    path = write(tmp_path / "a.h5", **{"volumes/labels": RAW, "volumes/raw": RAW})
    with pytest.raises(ValueError, match=r"no dataset 'volumes/label'; it holds volumes/labels, volumes/raw.*Did you"):
        read_hdf5(path, "volumes/label", "labels")
    with pytest.raises(ValueError, match="no dataset 'volumes'"):
        read_hdf5(path, "volumes", "image")


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.97])
def test_a_truncated_file_is_called_so(tmp_path, kept):
    noise = np.random.default_rng(0).integers(0, 255, (20, 40, 50)).astype(np.uint8)
    path = write(tmp_path / "a.h5", raw=noise)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(ValueError, match="cannot be read as HDF5, it is truncated"):
        read_hdf5(path, "raw", "image")


def test_another_format_is_called_so(tmp_path):
    (tmp_path / "a.h5").write_text("z,y,x\n")
    with pytest.raises(ValueError, match="cannot be read as HDF5"):
        read_hdf5(tmp_path / "a.h5", "raw", "image")


@pytest.mark.parametrize(
    ("array", "kind", "message"),
    [
        (RAW.astype(np.float32), "labels", "are float32; expected integers"),
        (RAW.astype(np.int32) - 3, "labels", "go down to -3"),
        (np.where(RAW == 5, np.nan, RAW), "image", "1 NaN or infinite voxels"),
        (RAW > 3, "image", "is bool; expected grey values"),
        (RAW[0], "image", "expected three axes"),
    ],
)
def test_contents_of_the_wrong_kind_are_refused(tmp_path, array, kind, message):
    path = write(tmp_path / "a.h5", data=array)
    with pytest.raises(ValueError, match=message):
        read_hdf5(path, "data", kind)
