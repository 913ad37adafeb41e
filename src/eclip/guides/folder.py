"""Maps made beforehand, by any network or by hand: one file per image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from eclip.errors import OptionError, ShapeError
from eclip.files import read_array
from eclip.guides import Seen, on_grid
from eclip.images import EXTENSIONS

GRAY = ("1", "L", "I", "I;16", "I;16B")
"""Pillow's grayscale modes; older versions use "I" for 16 bits."""


def folder(seen: Seen, *, path: str | Path | None = None) -> Float[Tensor, "image row col"]:
    """Each image's map from a file, resized to the patch grid.

    Args:
        seen: its sources determine the file names, its encoding the grid.
        path: the folder. For the image "some/where/NAME.jpg" or "train-000.tar/NAME", it contains `NAME.npy`, an
            array (row, col) of numbers of at least 0 that covers the whole image, or else `NAME.png`, grayscale with 8
            or 16 bits. Maps may have any size and scale. Images of the same name share a map.

    Raises:
        OptionError: path is missing or not a folder, or the file of an image is missing, unreadable or invalid.
        ShapeError: an array is not (row, col).
    """
    if path is None:
        raise OptionError("'folder' requires path, a folder with STEM.npy or STEM.png for each image.")
    if not Path(path).is_dir():
        raise OptionError(f"'folder' requires path to be a folder of maps, but {str(path)!r} is not a folder.")
    encoding = seen.encoding
    maps = [_read(Path(path), source) for source in seen.sources]
    return torch.cat([on_grid(one[None].to(encoding.pixels.device), encoding.grid) for one in maps])


def _read(path: Path, source: str) -> Float[Tensor, "row col"]:
    name = Path(source).name
    stem = name[: -len(Path(name).suffix)] if Path(name).suffix.lower() in EXTENSIONS else name
    array, picture = path / f"{stem}.npy", path / f"{stem}.png"
    if not (array.is_file() or picture.is_file()):
        raise OptionError(f"'folder' found no map for {source!r}: expected {str(array)!r} or {picture.name!r} there.")
    file = array if array.is_file() else picture
    try:
        values = read_array(file) if file is array else _from_gray(file)
    except (OSError, ValueError, SyntaxError, UnidentifiedImageError) as error:
        if isinstance(error, OptionError):
            raise
        raise OptionError(f"the map {str(file)!r} cannot be read: {error}.") from error
    if values.dtype.kind not in "fiub":
        raise OptionError(f"the map {str(file)!r} must hold numbers, got {values.dtype}.")
    if values.ndim != 2 or not values.size:
        raise ShapeError(f"the map {str(file)!r} must be (row, col), got {values.shape}.")
    values = values.astype(np.float64)
    if not np.isfinite(values).all() or values.min() < 0:
        raise OptionError(f"the map {str(file)!r} must contain only finite numbers of at least 0.")
    return torch.from_numpy(values)


def _from_gray(file: Path) -> NDArray[Any]:
    with Image.open(file) as picture:
        if picture.mode not in GRAY:
            raise OptionError(f"the map {str(file)!r} must be 8- or 16-bit grayscale, got Pillow mode {picture.mode}.")
        return np.asarray(picture)
