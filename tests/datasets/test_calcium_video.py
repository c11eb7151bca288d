"""Frames of a video by index, in any order; what cannot be read is named."""

from pathlib import Path

import numpy as np
import pytest

from nissl.datasets.calcium_io import open_movie

av = pytest.importorskip("av", reason="PyAV is not installed")
FRAMES = np.random.default_rng(0).integers(0, 256, size=(25, 16, 12)).astype(np.uint8)


def write(path: Path, frames: np.ndarray, codec: str = "ffv1") -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=20)
        stream.height, stream.width = frames.shape[1:]
        stream.pix_fmt, stream.gop_size = ("gray", 6) if codec == "ffv1" else ("yuvj420p", 6)
        for image in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="gray")))
        container.mux(stream.encode())
    return path


def test_frames_come_back_in_any_order_and_twice(tmp_path: Path) -> None:
    movie = open_movie(write(tmp_path / "m.avi", FRAMES))
    assert movie.shape == FRAMES.shape and movie.dtype == np.uint8
    for wanted in ([0, 1, 2], [17, 3, 3, 24], [23], [5, 4]):
        assert np.array_equal(movie.read(wanted), FRAMES[wanted])


def test_numbered_videos_follow_each_other(tmp_path: Path) -> None:
    write(tmp_path / "msCam10.avi", FRAMES[10:])
    write(tmp_path / "msCam2.avi", FRAMES[:10])
    movie = open_movie(tmp_path)
    assert movie.shape[0] == 25 and np.array_equal(movie.read([9, 10]), FRAMES[[9, 10]])


def test_a_lossy_codec_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    open_movie(write(tmp_path / "m.avi", FRAMES, "mjpeg"))
    assert "compressed with loss (mjpeg)" in caplog.text


def test_what_is_no_video_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.avi").write_bytes(b"not a video")
    with pytest.raises(ValueError, match="is not a readable video"):
        open_movie(tmp_path / "m.avi")
