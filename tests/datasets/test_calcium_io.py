"""Every reader gives back the array that was written, and says what is wrong with a file it cannot read."""

import pickle
from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile

from nissl.datasets.calcium_io import open_movie, read_series

MOVIE = np.random.default_rng(0).integers(0, 4000, size=(7, 5, 6)).astype(np.uint16)
WANTED = [5, 0, 0, 3]


def write_hdf5(path: Path, **arrays: np.ndarray) -> Path:
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[name] = array
    return path


def test_hdf5_frames_come_in_the_order_asked_for(tmp_path: Path) -> None:
    movie = open_movie(write_hdf5(tmp_path / "m.h5", movie=MOVIE))
    assert movie.shape == (7, 5, 6) and movie.dtype == np.uint16
    assert np.array_equal(movie.read(WANTED), MOVIE[WANTED])


def test_hdf5_axes_and_planes_are_put_in_order(tmp_path: Path) -> None:
    volume = np.stack([MOVIE, MOVIE + 1], axis=1)  # TZYX
    path = write_hdf5(tmp_path / "m.h5", turned=MOVIE.transpose(0, 2, 1), volume=volume)
    assert np.array_equal(open_movie(path, "turned", axes="TXY").read(WANTED), MOVIE[WANTED])
    assert np.array_equal(open_movie(path, "volume", axes="TZYX", plane=1).read(WANTED), MOVIE[WANTED] + 1)


def test_a_movie_can_go_to_another_process(tmp_path: Path) -> None:
    movie = open_movie(write_hdf5(tmp_path / "m.h5", movie=MOVIE))
    movie.read([0])
    assert np.array_equal(pickle.loads(pickle.dumps(movie)).read(WANTED), MOVIE[WANTED])


@pytest.mark.parametrize("options", [{}, {"bigtiff": True}, {"imagej": True, "metadata": {"axes": "TYX"}}])
def test_tiff_stacks_round_trip(tmp_path: Path, options: dict) -> None:
    tifffile.imwrite(tmp_path / "m.tif", MOVIE, photometric="minisblack", **options)
    movie = open_movie(tmp_path / "m.tif")
    assert movie.shape == (7, 5, 6)
    assert np.array_equal(movie.read(WANTED), MOVIE[WANTED])


def test_imagej_slices_are_taken_as_time(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "m.tif", MOVIE, imagej=True, metadata={"axes": "ZYX"})
    assert np.array_equal(open_movie(tmp_path / "m.tif").read(WANTED), MOVIE[WANTED])


def test_compressed_tiff_pages_round_trip(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "m.tif", MOVIE, photometric="minisblack", compression="zlib", rowsperstrip=2)
    assert np.array_equal(open_movie(tmp_path / "m.tif").read(WANTED), MOVIE[WANTED])


def test_signed_and_float_values_are_not_wrapped(tmp_path: Path) -> None:
    for values in (MOVIE.astype(np.int16) - 2000, MOVIE / 7.0):
        tifffile.imwrite(tmp_path / "m.tif", values, photometric="minisblack")
        assert np.array_equal(open_movie(tmp_path / "m.tif").read(WANTED), values[WANTED])


def test_numpy_files_round_trip(tmp_path: Path) -> None:
    np.save(tmp_path / "m.npy", MOVIE)
    np.savez(tmp_path / "m.npz", movie=MOVIE, speed=np.zeros(7))
    for name in ("m.npy", "m.npz"):
        assert np.array_equal(open_movie(tmp_path / name).read(WANTED), MOVIE[WANTED])


def test_a_small_movie_is_kept_and_names_its_file(tmp_path: Path) -> None:
    path = write_hdf5(tmp_path / "m.h5", movie=MOVIE)
    movie = open_movie(path, memory_mb=1)
    path.write_bytes(b"")
    assert np.array_equal(movie.read(WANTED), MOVIE[WANTED]) and movie.files == [path]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="none.h5 does not exist. Check dataset.path"):
        open_movie(tmp_path / "none.h5")


def test_an_unknown_kind_of_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.doc").write_text("x")
    with pytest.raises(ValueError, match="expected .h5, .hdf5, .tif, .tiff, .npy, .npz, .nwb, .avi, .bin"):
        open_movie(tmp_path / "m.doc")


def test_a_wrong_data_set_name_lists_those_there_are(tmp_path: Path) -> None:
    path = write_hdf5(tmp_path / "m.h5", movie=MOVIE, speed=np.zeros(7))
    with pytest.raises(ValueError, match="no data set 'film' .* it has movie, speed"):
        open_movie(path, "film")
    np.savez(tmp_path / "m.npz", movie=MOVIE)
    with pytest.raises(ValueError, match="no array 'film' .* it has movie"):
        open_movie(tmp_path / "m.npz", "film")


def test_several_movies_in_a_file_need_a_key(tmp_path: Path) -> None:
    path = write_hdf5(tmp_path / "m.h5", a=MOVIE, b=MOVIE)
    with pytest.raises(ValueError, match="without key, .* it has a, b. Set key"):
        open_movie(path)


def test_values_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    path = write_hdf5(tmp_path / "m.h5", movie=MOVIE.astype(np.complex64))
    with pytest.raises(ValueError, match="holds complex64; expected integers or floats"):
        open_movie(path, "movie")


def test_a_series_of_numbers_is_no_movie(tmp_path: Path) -> None:
    path = write_hdf5(tmp_path / "m.h5", speed=np.zeros(7))
    with pytest.raises(ValueError, match="has 1 axes .* but axes='TYX' names 3"):
        open_movie(path, "speed")


def test_a_movie_of_volumes_needs_a_plane(tmp_path: Path) -> None:
    path = write_hdf5(tmp_path / "m.h5", volume=MOVIE[:, None])
    with pytest.raises(ValueError, match="choose one with plane="):
        open_movie(path, "volume", axes="TZYX")
    with pytest.raises(ValueError, match="plane=3 is outside .* which has 1 planes"):
        open_movie(path, "volume", axes="TZYX", plane=3)
    with pytest.raises(ValueError, match="axes='ZTYX' is not supported"):
        open_movie(path, "volume", axes="ZTYX", plane=0)


def test_truncated_files_are_refused(tmp_path: Path) -> None:
    hdf5 = write_hdf5(tmp_path / "m.h5", movie=MOVIE)
    hdf5.write_bytes(hdf5.read_bytes()[:900])
    with pytest.raises(ValueError, match="is not a readable HDF5 file.*truncated"):
        open_movie(hdf5)
    np.save(tmp_path / "m.npy", MOVIE)
    (tmp_path / "m.npy").write_bytes((tmp_path / "m.npy").read_bytes()[:200])
    with pytest.raises(ValueError, match="is not a readable numpy file"):
        open_movie(tmp_path / "m.npy")


@pytest.mark.parametrize("kept", [0.2, 0.6, 0.95])
def test_a_truncated_tiff_is_refused(tmp_path: Path, kept: float) -> None:
    path = tmp_path / "m.tif"
    big = np.random.default_rng(1).integers(0, 4000, size=(20, 32, 32)).astype(np.uint16)
    tifffile.imwrite(path, big, photometric="minisblack")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(ValueError, match="truncated|Truncated"):
        open_movie(path)


def test_a_text_named_tiff_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.tif").write_text("no picture at all")
    with pytest.raises(ValueError, match="is not a TIFF file: it begins with b'no p'"):
        open_movie(tmp_path / "m.tif")


def test_a_colour_tiff_is_refused(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "m.tif", np.zeros((4, 8, 8, 3), np.uint8), photometric="rgb")
    with pytest.raises(ValueError, match="is a colour TIFF"):
        open_movie(tmp_path / "m.tif")


def test_a_single_image_is_no_movie(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "m.tif", MOVIE[0], photometric="minisblack")
    with pytest.raises(ValueError, match="expected a stack of pages"):
        open_movie(tmp_path / "m.tif")


def test_a_covariate_is_read_from_hdf5_and_csv(tmp_path: Path) -> None:
    path = write_hdf5(tmp_path / "m.h5", speed=np.arange(3.0), movie=MOVIE)
    (tmp_path / "c.csv").write_text("frame,speed\n0,1.5\n1,2.5\n")
    assert read_series(path, "speed").tolist() == [0, 1, 2]
    assert read_series(tmp_path / "c.csv", "speed").tolist() == [1.5, 2.5]


def test_a_covariate_that_is_missing_or_no_series_is_refused(tmp_path: Path) -> None:
    path = write_hdf5(tmp_path / "m.h5", speed=np.arange(3.0), movie=MOVIE)
    (tmp_path / "c.csv").write_text("frame,speed\n0,fast\n")
    with pytest.raises(ValueError, match="no data set 'position' .* it has movie, speed"):
        read_series(path, "position")
    with pytest.raises(ValueError, match="must be a number per frame"):
        read_series(path, "movie")
    with pytest.raises(ValueError, match="no column 'position' .* it has frame, speed"):
        read_series(tmp_path / "c.csv", "position")
    with pytest.raises(ValueError, match="must be a number per frame"):
        read_series(tmp_path / "c.csv", "speed")
    with pytest.raises(FileNotFoundError, match="Check dataset.covariate_path"):
        read_series(tmp_path / "none.csv", "speed")
