"""Videos: a map for each frame, optionally smoothed along time, spans where a text is found, and a film of it all."""

from __future__ import annotations

from pathlib import PurePath

EXTENSIONS = frozenset({".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".mpg", ".mpeg"})


def is_video(source: object) -> bool:
    """Whether a path has the extension of a video."""
    return PurePath(str(source)).suffix.lower() in EXTENSIONS
