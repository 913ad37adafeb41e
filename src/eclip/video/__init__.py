"""Videos: a map for each frame, optionally smoothed along time, spans where a text is found, and a film of it all."""

from __future__ import annotations

from pathlib import PurePath

from eclip.files import VIDEOS


def is_video(source: object) -> bool:
    """Whether a path has the extension of a video."""
    return PurePath(str(source)).suffix.lower() in VIDEOS
