"""NWB files give back the movie and the stimulations that were written."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nissl.datasets.calcium_io import open_movie
from nissl.datasets.calcium_nwb import read_nwb_events

pynwb = pytest.importorskip("pynwb", reason="pynwb is not installed")
MOVIE = np.random.default_rng(0).integers(0, 4000, size=(20, 5, 6)).astype(np.uint16)


def write(path: Path, series: dict[str, dict[str, Any]], ragged: bool = False) -> Path:
    nwb = pynwb.NWBFile(
        session_description="a movie", identifier="one", session_start_time=datetime(2020, 1, 1, tzinfo=UTC)
    )
    device = nwb.create_device(name="microscope")
    channel = pynwb.ophys.OpticalChannel(name="green", description="green", emission_lambda=510.0)
    plane = nwb.create_imaging_plane(
        name="plane",
        optical_channel=channel,
        description="layer 2",
        device=device,
        excitation_lambda=920.0,
        indicator="GCaMP6",
        location="S1",
    )
    for name, given in series.items():
        nwb.add_acquisition(pynwb.ophys.TwoPhotonSeries(name=name, imaging_plane=plane, unit="n.a.", **given))
    table = pynwb.epoch.TimeIntervals(name="stimulations", description="holographic")
    table.add_column(name="cells", description="stimulated", index=ragged)
    table.add_column(name="condition", description="power")
    for start, stop, cells in [(1.0, 1.2, ["2"]), (2.25, 2.6, ["1", "4"])]:
        table.add_row(start_time=start, stop_time=stop, cells=cells if ragged else ";".join(cells), condition="p1")
    nwb.add_time_intervals(table)
    with pynwb.NWBHDF5IO(str(path), "w") as io:
        io.write(nwb)
    return path


def by_schema() -> dict[str, Any]:
    return {"data": MOVIE.transpose(0, 2, 1), "rate": 10.0, "starting_time": 0.5}


def test_the_schemas_axes_are_turned_and_others_kept(tmp_path: Path) -> None:
    path = write(tmp_path / "m.nwb", {"schema": by_schema(), "common": {"data": MOVIE, "rate": 10.0}})
    assert np.array_equal(open_movie(path, "schema").read([7, 0, 0]), MOVIE[[7, 0, 0]])
    assert np.array_equal(open_movie(path, "common", axes="TYX").read([7, 0, 0]), MOVIE[[7, 0, 0]])
    with pytest.raises(ValueError, match="must hold one photon series; it has"):
        open_movie(path)
    with pytest.raises(ValueError, match="no photon series 'red'"):
        open_movie(path, "red")


def test_a_plane_of_volumes_is_read(tmp_path: Path) -> None:
    volume = np.stack([MOVIE, MOVIE + 1], axis=3).transpose(0, 2, 1, 3)
    path = write(tmp_path / "m.nwb", {"volume": {"data": volume, "rate": 10.0}})
    assert np.array_equal(open_movie(path, plane=1).read([3]), MOVIE[[3]] + 1)


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("stamped", [False, True])
def test_stimulations_become_frames(tmp_path: Path, ragged: bool, stamped: bool) -> None:
    series = by_schema()
    if stamped:
        series = {"data": series["data"], "timestamps": 0.5 + np.arange(20) / 10}
    events = read_nwb_events(write(tmp_path / "m.nwb", {"movie": series}, ragged), "m", None, "stimulations")
    # 10 frames a second from 0.5 s: 1.0 s is frame 5, 1.2 s frame 7; 2.25 s lies in frame 17, 2.6 s would be frame 21.
    assert [(e.onset, e.cells, e.condition) for e in events] == [(5, ("2",), "p1"), (17, ("1", "4"), "p1")]
    assert events[0].offset == 7 and events[1].offset >= 20


def test_missing_tables_and_columns_are_named(tmp_path: Path) -> None:
    path = write(tmp_path / "m.nwb", {"movie": by_schema()})
    with pytest.raises(ValueError, match="no intervals 'trials'.*stimulations"):
        read_nwb_events(path, "m", None, "trials")
    with pytest.raises(ValueError, match="no column 'targets'.*start_time"):
        read_nwb_events(path, "m", None, "stimulations", {"cells": "targets"})


def test_frames_kept_outside_are_named(tmp_path: Path) -> None:
    outside = {"external_file": ["m.tif"], "starting_frame": [0], "format": "external", "timestamps": [0.0]}
    path = write(tmp_path / "m.nwb", {"movie": outside | {"dimension": [6, 5]}})
    with pytest.raises(FileNotFoundError, match="keeps its frames in m.tif; not there"):
        open_movie(path)
