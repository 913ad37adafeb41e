"""Photos as users have them, made into upright RGB pictures; and the files behind what a user points at."""

from __future__ import annotations

import glob
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from eclip.errors import ImageError

EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif", ".jfif"})
MAX_PIXELS = 178_956_970
"""Larger photos are refused before they are decoded: Pillow's own limit against decompression bombs (535 MB as RGB)."""


def open_photo(source: str | Path | Image.Image | np.ndarray[Any, Any]) -> Image.Image:
    """An upright RGB picture, whatever the source is.

    Args:
        source: a file, a PIL picture, or an array (height, width), (height, width, 3) or (height, width, 4), 8-bit or
            floating point in [0, 1]. Of an animation the first frame is taken, EXIF rotation is applied, transparency is
            laid on white, 16 bits are scaled to 8.

    Raises:
        ImageError: it is missing, empty, broken, no picture, or too large.
    """
    if isinstance(source, Image.Image):
        return _to_rgb(source, "the picture")
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if isinstance(source, str | Path):
        return _from_file(Path(source))
    raise ImageError(f"a photo must be a path, a PIL picture or a NumPy array, got {type(source).__name__}.")


def _from_file(path: Path) -> Image.Image:
    if "://" in str(path) or str(path).startswith(("http:/", "https:/")):
        raise ImageError(f"{path} is an address, not a file: fetch it first.")
    if not path.exists():
        raise ImageError(f"{path}: no such file.")
    if path.is_dir():
        raise ImageError(f"{path} is a folder, not a photo.")
    try:
        size = path.stat().st_size
        if size == 0:
            raise ImageError(f"{path} is empty (0 bytes).")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of odd metadata and of sizes that we check ourselves
            with Image.open(path) as picture:
                return _to_rgb(picture, str(path))
    except Image.UnidentifiedImageError:
        raise ImageError(f"{path} is not a picture that Pillow reads ({size} bytes).") from None
    except Image.DecompressionBombError:
        raise ImageError(f"{path} has more than {MAX_PIXELS:,} pixels; make it smaller first.") from None
    except PermissionError:
        raise ImageError(f"{path} may not be read: permission denied.") from None
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, TypeError, OverflowError) as error:
        # Pillow's decoders raise all of these for damaged files
        if isinstance(error, ImageError):
            raise
        raise ImageError(f"{path} is damaged: {error}.") from error


def _to_rgb(picture: Image.Image, name: str) -> Image.Image:
    if picture.width * picture.height > MAX_PIXELS:
        raise ImageError(
            f"{name} has {picture.width} x {picture.height} pixels; at most {MAX_PIXELS:,} are read. Make it smaller first."
        )
    if picture.width == 0 or picture.height == 0:
        raise ImageError(f"{name} has no pixels ({picture.width} x {picture.height}).")
    if getattr(picture, "n_frames", 1) > 1:
        picture.seek(0)
    upright = ImageOps.exif_transpose(picture)
    if upright.mode.startswith("I") or upright.mode == "F":
        return _from_deep(upright)
    if upright.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in upright.info:
        layered = upright.convert("RGBA")
        white = Image.new("RGBA", layered.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layered).convert("RGB")
    return upright.convert("RGB")


def _from_deep(picture: Image.Image) -> Image.Image:
    """16-bit, 32-bit or float grey: full scale becomes 255, which `convert` would clip instead."""
    values = np.asarray(picture, dtype=np.float64)
    if picture.mode == "F":
        full = 1.0 if values.max() <= 1.0 else 255.0
    else:
        full = 65535.0 if values.max() > 255 or picture.mode.startswith("I;16") else 255.0
    return Image.fromarray((np.clip(values / full, 0, 1) * 255).round().astype(np.uint8)).convert("RGB")


def _from_array(values: np.ndarray[Any, Any]) -> Image.Image:
    shape = values.shape
    if values.ndim not in (2, 3) or (values.ndim == 3 and shape[2] not in (1, 3, 4)) or 0 in shape:
        hint = " It looks like (3, height, width): move the channels last." if values.ndim == 3 and shape[0] == 3 else ""
        raise ImageError(f"an array must be (height, width) or (height, width, 1, 3 or 4), got {shape}.{hint}")
    if values.dtype == np.uint16:
        values = values / 65535.0
    if np.issubdtype(values.dtype, np.floating):
        if not np.isfinite(values).all() or values.min() < 0 or values.max() > 1:
            raise ImageError(
                f"a floating-point array must lie in [0, 1], got {values.min():.3g} to {values.max():.3g}. "
                "Scale it, or give 8-bit values."
            )
        values = (values * 255).round().astype(np.uint8)
    elif values.dtype == bool:
        values = values.astype(np.uint8) * 255
    elif values.dtype != np.uint8:
        raise ImageError(f"an array must be 8-bit or floating point, got {values.dtype}.")
    if values.ndim == 3 and shape[2] == 1:
        values = values[:, :, 0]
    return _to_rgb(Image.fromarray(np.ascontiguousarray(values)), "the array")


def find_photos(sources: Iterable[str | Path]) -> tuple[list[Path], list[str]]:
    """The files that sources name, in order, each once.

    Args:
        sources: files, folders (their pictures, sub-folders included) and glob patterns.

    Returns:
        (files, problems): problems name folders without pictures and patterns without match. A missing file is a file: it
        is reported when it is opened.
    """
    found: dict[Path, None] = {}
    problems = []
    for source in sources:
        path = Path(source)
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in EXTENSIONS and p.is_file())
            if not inside:
                problems.append(f"{path}: no picture in this folder ({', '.join(sorted(EXTENSIONS))}).")
            found.update(dict.fromkeys(inside))
        elif not path.exists() and glob.has_magic(str(source)):
            matches = sorted(Path(match) for match in glob.glob(str(source), recursive=True))
            inside = [match for match in matches if match.is_file()]
            if not inside:
                problems.append(f"{source}: no file matches.")
            found.update(dict.fromkeys(inside))
        else:
            found[path] = None
    return list(found), problems
