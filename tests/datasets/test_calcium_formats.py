"""One movie and its events in every format give the same batches, bit for bit."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import tifffile
import torch
import yaml

from nissl.datasets.calcium import CalciumMovie
from nissl.datasets.datamodule import DataModule

CONF = Path(__file__).parents[2] / "conf/dataset"
FPS = 4.0
FRAMES = np.random.default_rng(0).integers(90, 250, size=(180, 16, 12)).astype(np.uint16)
EVENTS = [(20 * i + 5, 20 * i + 6, cells) for i, cells in enumerate(["1", "2", "1;2"] * 3)]


def write_nwb(path: Path, external: bool = False) -> Path:
    """The series as the schema has it, (frame, x, y); stimulations as a table of intervals."""
    pynwb = pytest.importorskip("pynwb", reason="pynwb is not installed")
    nwb = pynwb.NWBFile(
        session_description="a movie", identifier="one", session_start_time=datetime(2020, 1, 1, tzinfo=UTC)
    )
    device = nwb.create_device(name="microscope")
    green = pynwb.ophys.OpticalChannel(name="green", description="green", emission_lambda=510.0)
    plane = nwb.create_imaging_plane(
        name="plane", optical_channel=green, description="layer 2", device=device, excitation_lambda=920.0,
        indicator="GCaMP6", location="S1",
    )  # fmt: skip
    if external:
        for i, part in enumerate((FRAMES[:100], FRAMES[100:])):
            tifffile.imwrite(path.parent / f"part{i}.tif", part)
        frames: dict[str, Any] = {
            "external_file": ["part0.tif", "part1.tif"], "starting_frame": [0, 100], "format": "external",
            "dimension": [12, 16], "timestamps": np.arange(180) / FPS,
        }  # fmt: skip
    else:
        frames = {"data": FRAMES.transpose(0, 2, 1), "rate": FPS}
    nwb.add_acquisition(pynwb.ophys.TwoPhotonSeries(name="movie", imaging_plane=plane, unit="n.a.", **frames))
    table = pynwb.epoch.TimeIntervals(name="holography", description="stimulated cells")
    table.add_column(name="targets", description="cells", index=True)
    for onset, offset, cells in EVENTS:
        table.add_row(start_time=onset / FPS, stop_time=offset / FPS, targets=cells.split(";"))
    nwb.add_time_intervals(table)
    with pynwb.NWBHDF5IO(str(path), "w") as io:
        io.write(nwb)
    return path


def write_avi(path: Path) -> Path:
    """Lossless, so that the values survive."""
    av = pytest.importorskip("av", reason="PyAV is not installed")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=4)
        stream.height, stream.width, stream.pix_fmt, stream.gop_size = 16, 12, "gray", 12
        for image in FRAMES.astype(np.uint8):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="gray")))
        container.mux(stream.encode())
    return path


def write(folder: Path, kind: str) -> dict[str, Any]:
    """Write the movie; returns what the configuration must say about it."""
    from_nwb = {"events_path": None, "events_table": "holography", "events_columns": {"cells": "targets"}, "fps": None}
    if kind == "hdf5":
        with h5py.File(folder / "m.h5", "w") as file:
            file.create_dataset("movie", data=FRAMES, chunks=(7, 16, 12))
        return {"path": str(folder / "m.h5")}
    if kind == "tiff":
        tifffile.imwrite(folder / "m.tif", FRAMES)
        return {"path": str(folder / "m.tif")}
    if kind == "imagej":
        tifffile.imwrite(folder / "m.tif", FRAMES, imagej=True, metadata={"axes": "ZYX"})  # time called Z, as often
        return {"path": str(folder / "m.tif")}
    if kind == "folder":
        (folder / "frames").mkdir()
        for i, image in enumerate(FRAMES):
            tifffile.imwrite(folder / "frames" / f"frame_{i + 1}.tif", image)
        return {"path": str(folder / "frames")}
    if kind == "zarr":
        zarr = pytest.importorskip("zarr", reason="zarr is not installed")
        zarr.create_array(str(folder / "m.zarr"), data=FRAMES, chunks=(20, 16, 12))
        return {"path": str(folder / "m.zarr")}
    if kind == "avi":
        return {"path": str(write_avi(folder / "m.avi"))}
    return {"path": str(write_nwb(folder / "m.nwb", external=kind == "external")), **from_nwb}


def batches(folder: Path, kind: str) -> list[dict[str, torch.Tensor]]:
    folder.mkdir()
    rows = "".join(f"{on},{off},{cells}\n" for on, off, cells in EVENTS)
    (folder / "events.csv").write_text("onset_frame,offset_frame,cells\n" + rows)
    values = yaml.safe_load((CONF / "calcium_movie.yaml").read_text())
    del values["_target_"]
    values |= {"fps": FPS, "num_outputs": 3, "guard_s": 0.5, "memory_mb": 0, "day": "1"}
    values |= {"events_path": str(folder / "events.csv"), **write(folder, kind)}
    data = DataModule(CalciumMovie(**values), batch_size=16, seed=3)
    return [*data.train_dataloader(), *data.test_dataloader()]


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, torch.Tensor]]:
    return batches(tmp_path_factory.mktemp("reference") / "hdf5", "hdf5")


@pytest.mark.parametrize("kind", ["tiff", "imagej", "folder", "zarr", "nwb", "external", "avi"])
def test_every_format_gives_the_batches_of_hdf5(
    kind: str, reference: list[dict[str, torch.Tensor]], tmp_path: Path
) -> None:
    came = batches(tmp_path / kind, kind)
    assert len(came) == len(reference) > 2
    for ours, theirs in zip(came, reference, strict=True):
        assert all(torch.equal(ours[name], theirs[name]) for name in ("frames", "label", "index", "day"))


def test_external_files_that_are_missing_or_too_short_are_named(tmp_path: Path) -> None:
    from nissl.datasets.calcium_io import open_movie

    path = write_nwb(tmp_path / "m.nwb", external=True)
    tifffile.imwrite(tmp_path / "part0.tif", FRAMES[:90])
    with pytest.raises(ValueError, match=r"start at frames \[0, 100\], but by their lengths they start at \[0, 90\]"):
        open_movie(path)
    (tmp_path / "part1.tif").unlink()
    with pytest.raises(FileNotFoundError, match=r"not there \(relative to the NWB file\): part1.tif"):
        open_movie(path)


def test_an_events_table_is_for_nwb_files_and_nwb_files_need_one(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="dataset.events_table must be null: it names a table in an NWB file"):
        batches_with(tmp_path / "a", events_table="trials")
    with pytest.raises(ValueError, match="dataset.events_table must be the name of its table of intervals"):
        batches_with(tmp_path / "b", events_path="stimuli.nwb")


def batches_with(folder: Path, **changes: Any) -> None:
    folder.mkdir()
    values = yaml.safe_load((CONF / "calcium_movie.yaml").read_text())
    del values["_target_"]
    (folder / "events.csv").write_text("onset_frame,offset_frame,cells\n1,2,1\n")
    values |= {"fps": FPS, "num_outputs": 3, "events_path": str(folder / "events.csv"), **write(folder, "hdf5")}
    CalciumMovie(**{**values, **changes})
