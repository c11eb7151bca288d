"""Folders, ScanImage, Suite2p and Zarr give back the array that was written, or say what is wrong."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import tifffile

from nissl.datasets.calcium_io import open_movie
from nissl.datasets.calcium_stacks import natural_key

zarr = pytest.importorskip("zarr", reason="zarr is not installed")
MOVIE = np.random.default_rng(0).integers(-50, 4000, size=(12, 5, 6)).astype(np.int16)
WANTED = [11, 0, 0, 3]


def write_scanimage(path: Path, pages: np.ndarray, channels: str, slices: int, flyback: int = 0) -> Path:
    header = (
        f"SI.hChannels.channelSave = {channels}\nSI.hStackManager.enable = {'true' if slices > 1 else 'false'}\n"
        f"SI.hStackManager.numSlices = {slices}\nSI.hFastZ.numDiscardFlybackFrames = {flyback}\n"
    )
    tifffile.imwrite(path, pages, photometric="minisblack", metadata=None, software=header)
    return path


def test_frame_2_comes_before_frame_10() -> None:
    names = ["f10.tif", "f2.tif", "F1.tif", "f2b.tif"]
    assert [p.name for p in sorted(map(Path, names), key=natural_key)] == ["F1.tif", "f2.tif", "f2b.tif", "f10.tif"]


def test_a_folder_of_frames_is_read_in_natural_order(tmp_path: Path) -> None:
    for i, frame in enumerate(MOVIE):
        tifffile.imwrite(tmp_path / f"frame_{i}.tif", frame)
    (tmp_path / "notes.txt").write_text("not a frame")
    movie = open_movie(tmp_path)
    assert movie.shape == MOVIE.shape and movie.dtype == np.int16 and len(movie.files) == 12
    assert np.array_equal(movie.read(WANTED), MOVIE[WANTED])


def test_a_folder_of_stacks_is_one_movie(tmp_path: Path) -> None:
    for i, part in enumerate(np.split(MOVIE, [3, 5])):
        tifffile.imwrite(tmp_path / f"part_{i + 9}.tif", part, photometric="minisblack")
    movie = open_movie(tmp_path)
    assert movie.shape == MOVIE.shape and len(movie.files) == 3
    assert np.array_equal(movie.read(range(12)), MOVIE)
    assert np.array_equal(movie.read(WANTED), MOVIE[WANTED])
    tifffile.imwrite(tmp_path / "part_99.tif", MOVIE[:2, :4], photometric="minisblack")
    with pytest.raises(ValueError, match="differ in frame size"):
        open_movie(tmp_path)


def test_a_frame_of_another_size_is_named_when_read(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a1.tif", MOVIE[0])
    tifffile.imwrite(tmp_path / "a2.tif", MOVIE[1, :3])
    movie = open_movie(tmp_path)
    with pytest.raises(ValueError, match=r"a2.tif holds int16 \(3, 6\)"):
        movie.read([1])
    with pytest.raises(IndexError, match="asked of a movie of 2"):
        movie.read([-1])


def test_broken_or_stacked_files_among_frames_are_named(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a1.tif", MOVIE[0])
    (tmp_path / "a2.tif").write_bytes(b"II*\0 no image")
    tifffile.imwrite(tmp_path / "a3.tif", MOVIE[:2], photometric="minisblack")
    movie = open_movie(tmp_path)
    with pytest.raises(ValueError, match="a2.tif is not a readable TIFF image"):
        movie.read([1])
    with pytest.raises(ValueError, match="a3.tif holds .* expected one grey image"):
        movie.read([2])


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no TIFF file"):
        open_movie(tmp_path)


def test_scanimage_channels_and_planes_are_taken_apart(tmp_path: Path) -> None:
    # Page by page: volume, then slice (2, and 1 flyback), then channel (2): 2 volumes of 6 pages.
    path = write_scanimage(tmp_path / "si.tif", MOVIE, "[1;3]", slices=2, flyback=1)
    movie = open_movie(path, key="3", plane=1)
    assert movie.shape == (2, 5, 6)
    assert np.array_equal(movie.read([1, 0]), MOVIE[[9, 3]])
    assert np.array_equal(open_movie(path, key="1", plane=0).read([0, 1]), MOVIE[[0, 6]])


def test_an_incomplete_last_volume_is_left_out(tmp_path: Path) -> None:
    path = write_scanimage(tmp_path / "si.tif", MOVIE[:11], "1", slices=3)
    assert open_movie(path, plane=2).shape[0] == 3


def test_one_channel_and_plane_need_no_choice(tmp_path: Path) -> None:
    path = write_scanimage(tmp_path / "si.tif", MOVIE, "1", slices=1)
    assert np.array_equal(open_movie(path).read(WANTED), MOVIE[WANTED])


def test_scanimage_asks_for_channel_and_plane(tmp_path: Path) -> None:
    path = write_scanimage(tmp_path / "si.tif", MOVIE, "[1;3]", slices=2, flyback=1)
    with pytest.raises(ValueError, match=r"channels \[1, 3\]; came None"):
        open_movie(path, plane=0)
    with pytest.raises(ValueError, match=r"channels \[1, 3\]; came 2"):
        open_movie(path, key="2", plane=0)
    with pytest.raises(ValueError, match="2 plane.*came plane=None"):
        open_movie(path, key="1")
    with pytest.raises(ValueError, match="key='green'.*number"):
        open_movie(path, key="green", plane=0)


def test_suite2p_binaries_round_trip(tmp_path: Path) -> None:
    MOVIE.tofile(tmp_path / "data.bin")
    movie = open_movie(tmp_path / "data.bin", key="5x6")
    assert movie.shape == MOVIE.shape
    assert np.array_equal(movie.read(WANTED), MOVIE[WANTED])
    with pytest.raises(ValueError, match="set key to Ly x Lx"):
        open_movie(tmp_path / "data.bin")
    with pytest.raises(ValueError, match="no whole number of int16 frames of 7x6"):
        open_movie(tmp_path / "data.bin", key="7x6")


@pytest.mark.parametrize("version", [2, 3])
def test_zarr_stores_round_trip(tmp_path: Path, version: int) -> None:
    path = tmp_path / "m.zarr"
    group = zarr.open_group(str(path), mode="w", zarr_format=version)
    for name, array, chunks in [
        ("raw/movie", MOVIE, (4, 5, 6)),
        ("volume", np.stack([MOVIE, MOVIE + 1], axis=3).transpose(0, 2, 1, 3), (2, 6, 5, 2)),
    ]:
        group.create_array(name, shape=array.shape, dtype=array.dtype, chunks=chunks)[...] = array
    movie = open_movie(path)  # the only array with three axes
    assert movie.shape == MOVIE.shape and movie.files
    assert np.array_equal(pickle.loads(pickle.dumps(movie)).read(WANTED), MOVIE[WANTED])
    turned = open_movie(path, "volume", axes="TXYZ", plane=1)
    assert np.array_equal(turned.read(WANTED), MOVIE[WANTED] + 1)
    with pytest.raises(ValueError, match="no array 'missing'.*raw/movie, volume"):
        open_movie(path, "missing")


def test_a_zarr_store_that_is_an_array_needs_no_key(tmp_path: Path) -> None:
    array = zarr.create_array(str(tmp_path / "a.zarr"), shape=MOVIE.shape, dtype="int16", chunks=(3, 5, 6))
    array[...] = MOVIE
    assert np.array_equal(open_movie(tmp_path / "a.zarr").read(WANTED), MOVIE[WANTED])
    with pytest.raises(ValueError, match="is a single array"):
        open_movie(tmp_path / "a.zarr", "movie")


def test_several_zarr_movies_need_a_key(tmp_path: Path) -> None:
    group = zarr.open_group(str(tmp_path / "m.zarr"), mode="w")
    for name in ("a", "b"):
        group.create_array(name, shape=MOVIE.shape, dtype="int16")
    with pytest.raises(ValueError, match="exactly one array"):
        open_movie(tmp_path / "m.zarr")
