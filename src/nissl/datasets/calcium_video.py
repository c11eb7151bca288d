"""Grey frames of a video file (AVI, and whatever else PyAV decodes), read lazily.

Frames are counted in the file itself, never taken from the header, which recorders leave wrong. Codecs that lose
information change the noise of a movie; they are named in a warning. miniscope recordings are folders of numbered
videos; they are joined in natural order.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nissl.datasets.calcium_stacks import JoinedMovie, natural_key

log = logging.getLogger(__name__)
VIDEO_SUFFIXES = (".avi", ".mkv", ".mp4", ".mov")
LOSSLESS = ("ffv1", "rawvideo", "huffyuv", "ffvhuff", "png", "utvideo", "qtrle")


class VideoMovie:
    """The only video stream of a file, as 8-bit grey (the luma of colour videos)."""

    def __init__(self, path: Path) -> None:
        self.path, self.files = path, [path]
        av = _import_av()
        try:
            with av.open(str(path)) as container:
                if len(container.streams.video) != 1:
                    raise ValueError(f"{path} holds {len(container.streams.video)} video streams; expected one")
                stream = container.streams.video[0]
                packets = [(p.pts, p.is_keyframe) for p in container.demux(stream) if p.pts is not None]
                size, codec, rate = (stream.height, stream.width), stream.codec_context.name, stream.average_rate
        except av.FFmpegError as error:
            raise ValueError(f"{path} is not a readable video: {error}. Truncated? Copy it again.") from error
        if not packets:
            raise ValueError(f"{path} holds no frame. Truncated? Copy it again.")
        if codec not in LOSSLESS:
            log.warning("%s is compressed with loss (%s): its noise is not the camera's", path, codec)
        self._pts = np.sort([pts for pts, _ in packets])
        self._keys = np.sort([pts for pts, is_key in packets if is_key])
        self.shape: tuple[int, int, int] = (len(packets), *size)
        self.dtype: np.dtype[Any] = np.dtype(np.uint8)
        self.fps = float(rate) if rate else None

    def read(self, frames: Sequence[int] | np.ndarray) -> np.ndarray:
        av = _import_av()
        wanted, back = np.unique(np.asarray(frames), return_inverse=True)
        result = np.empty((len(wanted), *self.shape[1:]), self.dtype)
        with av.open(str(self.path)) as container:
            stream = container.streams.video[0]
            decoded, position = None, -1
            for place, index in enumerate(wanted):
                key = int(
                    np.searchsorted(self._pts, self._keys[np.searchsorted(self._keys, self._pts[index], "right") - 1])
                )
                if decoded is None or index <= position or key > position + 1:
                    container.seek(int(self._pts[key]), stream=stream)
                    decoded = container.decode(stream)
                for frame in decoded:
                    position = int(np.searchsorted(self._pts, frame.pts))
                    if position == index:
                        result[place] = frame.to_ndarray(format="gray")
                        break
                else:
                    raise ValueError(f"{self.path}: frame {index} cannot be decoded. Truncated? Copy it again.")
        return result[back]


def open_videos(path: Path) -> JoinedMovie:
    """A folder of numbered videos (msCam1.avi, msCam2.avi, ...), one after the other."""
    files = sorted((file for file in path.iterdir() if file.suffix.lower() in VIDEO_SUFFIXES), key=natural_key)
    return JoinedMovie([VideoMovie(file) for file in files], str(path))


def has_videos(path: Path) -> bool:
    return any(file.suffix.lower() in VIDEO_SUFFIXES for file in path.iterdir())


def _import_av() -> Any:
    try:
        import av
    except ImportError as error:
        raise ValueError("video files need PyAV: pip install 'nissl[video]' (or pip install av)") from error
    return av
