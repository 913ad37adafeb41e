"""Frames of a video file, in order, as upright RGB images with their times; and a file of such images. Needs PyAV."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from eclip.errors import DataError, MissingExtraError, ResultError
from eclip.registry import real

MISSING = 0.5
"""Seconds by which frames may end before the file says that they do, as it rounds."""
USUAL_RATE = 25
"""Frames a second of a video whose file does not say."""
CODECS = ("libx264", "mpeg4")
"""The first that this build of PyAV has writes films."""


class Frame(NamedTuple):
    """A frame.

    Attributes:
        number: of the frame in the file, from 0.
        time: in seconds from the first frame.
        image: upright, RGB.
    """

    number: int
    time: float
    image: Image.Image


def rate_of(fps: Any) -> float | None:
    """A rate in frames a second, checked; None = all frames.

    Raises:
        OptionError: it is not a number above 0.
    """
    wanted = "a number of frames a second above 0, or None for all"
    return None if fps is None else real(fps, "fps", wanted, lambda rate: 0 < rate < math.inf)


def frames_of(path: str | Path, fps: float | None = None) -> Iterator[Frame]:
    """Yield the frames of a video.

    Args:
        path: of the file.
        fps: at most this many frames a second, as from `rate_of`.

    Raises:
        DataError: it cannot be read as a video, or, after the frames before, a part of it is damaged or missing.
        MissingExtraError: PyAV is not installed.
    """
    av, start = _av(), None
    time = end = 0.0
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise DataError(f"{path} has no video stream.")
            wanted = 0
            for number, frame in enumerate(container.decode(video=0)):
                time = number / USUAL_RATE if frame.time is None else float(frame.time)
                start = time if start is None else start
                end = time + float((frame.duration or 0) * (frame.time_base or 0))
                if fps is None or (time - start) * fps >= wanted - 1e-6:
                    wanted = 0 if fps is None else math.floor((time - start) * fps + 1e-6) + 1
                    turned = getattr(frame, "rotation", 0) or 0
                    image = frame.to_image()
                    wide = round(image.width * (container.streams.video[0].sample_aspect_ratio or 1))
                    image = image if wide == image.width else image.resize((wide, image.height))
                    yield Frame(number, time - start, image.rotate(turned, expand=True) if turned else image)
            if start is None:
                raise DataError(f"{path} has no frame.")
            ends = _end_of(container.streams.video[0], start)
            if ends is not None and end < ends - MISSING:
                raise DataError(
                    f"{path} ends after {end - start:.2f} of {ends - start:.2f} s: the rest is missing or damaged."
                )
    except (av.FFmpegError, OSError) as error:
        what = "no such file" if not Path(path).exists() else f"cannot be read as a video ({error})"
        if start is not None:
            what = f"cannot be read after {time - start:.2f} s ({error})"
        raise DataError(f"{path}: {what}.") from None


def _end_of(stream: Any, start: float) -> float | None:
    """When a video stream that starts then ends, as the file says; None if it does not. Matroska has it in a tag."""
    if stream.duration is not None:
        return start + float(stream.duration * stream.time_base)
    clock = re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)", stream.metadata.get("DURATION", ""))
    return None if clock is None else 3600 * int(clock[1]) + 60 * int(clock[2]) + float(clock[3])


def length_of(path: str | Path, fps: float | None) -> int | None:
    """About how many frames `frames_of` yields; None if the file does not say."""
    av, fps = _av(), rate_of(fps)
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            seconds = None if container.duration is None else container.duration / av.time_base
            if fps is not None:
                return None if seconds is None else max(1, int(seconds * fps))
            return int(stream.frames) or None
    except (av.FFmpegError, OSError, IndexError):
        return None


def write_film(path: Path, images: Iterable[Image.Image], rate: float) -> None:
    """Write images of one size as an MP4 of this many frames a second.

    Sides of odd length lose a pixel. The file is complete after an exception or Ctrl-C too.

    Raises:
        ResultError: it cannot be written.
    """
    av, stream = _av(), None
    codec = next(name for name in CODECS if name in av.codecs_available)
    try:
        with av.open(str(path), "w") as container:
            try:
                for image in images:
                    width, height = image.width // 2 * 2, image.height // 2 * 2
                    if stream is None:
                        most = 1001 if rate > 0.01 else 1_000_000
                        stream = container.add_stream(codec, rate=Fraction(rate).limit_denominator(most))
                        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
                        stream.codec_context.thread_count = 1  # so that the bytes do not depend on the cores
                        # mbtree: with it, x264 gave one film in some thousands other bytes
                        stream.options = {"crf": "20", "mbtree": "0"} if codec == CODECS[0] else {"qscale": "3"}
                    pixels = np.asarray(image.crop((0, 0, width, height)))
                    container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
            finally:
                if stream is not None:
                    container.mux(stream.encode())
    except (av.FFmpegError, OSError) as error:
        raise ResultError(f"{path} cannot be written: {error}.") from None


def _av() -> ModuleType:
    try:
        import av
    except ImportError:
        raise MissingExtraError("a video", "av", "video") from None
    return av
