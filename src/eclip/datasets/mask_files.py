"""Decode the file of a mask to class numbers: one function for each encoding that data sets use.

Inside the library a mask is uint16: 0 is background, which is not a class; 65535 is void, which no score counts; every
other value is a class. Only this module knows the encodings of files.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from jaxtyping import Bool, UInt16
from PIL import Image

from eclip.errors import DataError, ResultError
from eclip.files import replace_file
from eclip.images import Place, from_file

BACKGROUND, VOID = 0, 65535
Numbers = UInt16[np.ndarray, "height width"]
Table = tuple[tuple[int, int], ...]
"""(value in the file, class number) of each value that a file may have."""
DEEP = ("I;16", "I;16B", "I")  # Pillow's modes of 16-bit gray images


def indexed(file: Path | Place, table: Table | None = None) -> Numbers:
    """Decode a palette or gray image by the value of each pixel, not by its color.

    Args:
        file: the image, with 8 or 16 bits; with one bit, white is 1.
        table: the class number of each value. None: values are class numbers, and the largest, 255 or 65535, is void.

    Raises:
        DataError: it is a JPEG, not a palette or gray image, or has a value that is not in the table.
        ImageError: it cannot be read.
    """
    picture = _picture(file)
    mode, values = picture.mode, np.array(picture, dtype=np.uint8 if picture.mode == "1" else None)
    if mode not in ("1", "P", "L", *DEEP):
        raise DataError(f"{file} must be a palette or gray image of 8 or 16 bits (P, L or I;16), got {mode}.")
    if values.min() < 0 or values.max() > VOID:
        raise DataError(f"{file} has values from {values.min()} to {values.max()}, which do not fit 16 bits.")
    if table is None:
        numbers = values.astype(np.uint16)
        if mode not in DEEP:
            numbers[values == 255] = VOID
        return numbers
    if unknown := set(shown(values)) - {value for value, _ in table}:
        raise DataError(f"{file} shows {sorted(unknown)}, but valid values are {short(value for value, _ in table)}.")
    look_up = np.zeros(VOID + 1, dtype=np.uint16)
    for value, number in table:
        look_up[value] = number
    return look_up[values]


def write_indexed(file: Path, numbers: Numbers) -> None:
    """Atomically write class numbers up to 254 as a gray image, with void as 255, which `indexed` reads.

    Raises:
        DataError: a class number is larger.
        ResultError: it cannot be written.
    """
    if more := set(shown(numbers)) - {*range(255), VOID}:
        raise DataError(f"{file} would need class {max(more)}, but an 8-bit image holds classes 1 to 254.")
    try:
        os.fsencode(file)
    except UnicodeEncodeError as error:
        raise ResultError(
            f"{file} has a name that {error.encoding}, the encoding of file names here, cannot write: set "
            "PYTHONUTF8=1, or LC_ALL to a locale of UTF-8."
        ) from error
    picture = Image.fromarray(numbers.astype(np.uint8))  # 65535 becomes 255
    replace_file(file, lambda stream: picture.save(stream, "png"))


def red_green(file: Path | Place, void: int) -> Numbers:
    """Decode an RGB image in which the class number is R + 256 G, as in ImageNet-S, and the number `void` is void.

    Raises:
        DataError: it is not RGB, or its blue channel is not 0.
        ImageError: it cannot be read.
    """
    mode, values = from_file(file, lambda picture, _: (picture.mode, np.array(picture)))
    if mode != "RGB" or values[..., 2].any():
        raise DataError(f"{file} must be RGB with class R + 256 G and a blue channel of 0, got {mode}.")
    numbers: Numbers = values[..., 0] + values[..., 1].astype(np.uint16) * 256
    numbers[numbers == void] = VOID
    return numbers


def thing(file: Path | Place, number: int) -> Numbers:
    """Decode an image in which every pixel that is not black is the object.

    Args:
        file: the image, of any mode, but not a JPEG; colors count, including those of a palette. Transparency counts
            if only it has the shape, as in a cut-out object or a black shape on a transparent background.
        number: class number of the object.

    Raises:
        DataError: it is a JPEG or looks like a former one; or its colors and its transparency show different shapes.
        ImageError: it cannot be read.
    """
    lit = object_in(_picture(file), str(file))
    return np.where(lit, np.uint16(number), np.uint16(BACKGROUND))


def object_in(picture: Image.Image, name: str) -> Bool[np.ndarray, "height width"]:
    """The pixels of a picture of any mode that are not black, see `thing`; errors call it by the name.

    Raises:
        DataError: it looks like a former JPEG, or its colors and its transparency show different shapes.
    """
    if picture.mode in ("1", "L", "RGB", "F", *DEEP):
        values = np.array(picture)
    else:
        values = shape_of(picture, name)
        if picture.mode == "P" and not values.any():  # an all-black palette
            values = np.array(picture)
    if values.ndim == 3 and np.ptp(values, axis=-1).max() <= 1:  # a gray mask; a lossy WebP of one is off by 1
        values = values.max(axis=-1)
    if values.ndim == 2:
        refuse_smooth(values, name)
    return np.asarray(values.any(axis=-1) if values.ndim == 3 else values != 0)


def lit(file: Path | Place, number: int, own: int = 1) -> Numbers:
    """Decode a binary mask: 0 is background; 1, 255 (65535 with 16 bits) or the class's own value is the object.

    Args:
        file: the mask, of any mode without colors; transparency counts if it has the shape.
        number: of the class.
        own: value of the class.

    Raises:
        DataError: it has other values, is a JPEG, or has blended edges.
        ImageError: it cannot be read.
    """
    values = plane(file)
    refuse_smooth(values, str(file))
    top = VOID if values.dtype.itemsize > 1 else 255
    found = set(shown(values))
    if other := found - {BACKGROUND, 1, own, top}:
        raise DataError(f"{file} shows {short(other)}, but masks of this set have 0 for background, {top} for objects.")
    if top in found and found & {1, own} - {BACKGROUND, top}:
        raise DataError(
            f"{file} shows {short(found)}, but other masks show only 0 and {top}, so {top} could be void or the "
            "object: encode all masks in the same way."
        )
    return np.where(values != 0, np.uint16(number), np.uint16(BACKGROUND))


def plane(file: Path | Place) -> np.ndarray:
    """The values (height, width) of a mask without colors.

    A palette counts by index; a black-and-white palette by color, since either may come first.

    Raises:
        DataError: it is a JPEG, or has colors.
        ImageError: it cannot be read.
    """
    picture = _picture(file)
    values = np.array(picture)
    if picture.mode in ("L", *DEEP):
        return values
    if picture.mode == "1":
        return values.astype(np.uint8)
    if picture.mode == "P":
        palette = np.array(picture.getpalette("RGB") or [0] * 3).reshape(-1, 3)
        used = palette[[one for one in shown(values) if one < len(palette)]]
        white, black = (used == 255).all(axis=1), (used == 0).all(axis=1)
        return np.array(picture.convert("L")) if white.any() and (white | black).all() else values
    values = shape_of(picture, str(file))
    if values.ndim == 3 and not (values == values[..., :1]).all():
        raise DataError(f"{file} must be a palette or gray image of 8 or 16 bits (P, L or I;16), got {picture.mode}.")
    return values[..., 0] if values.ndim == 3 else values


def shape_of(picture: Image.Image, name: str) -> np.ndarray:
    """Colors (height, width, 3), or the transparency (height, width) if that has the shape.

    Raises:
        DataError: both have a shape.
    """
    layers = np.array(picture.convert("RGBA"))
    color, alpha = layers[..., :3], layers[..., 3]
    if alpha.min() == alpha.max():
        return color
    visible = color[alpha > 0].astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], np.uint32)
    kinds = np.unique(visible)
    if len(kinds) == 2 and kinds[0] == 0:
        raise DataError(
            f"{name} is transparent in places, and black or one color elsewhere, so either shape could be the object: "
            "save the mask as a gray PNG without transparency."
        )
    return alpha


def _picture(file: Path | Place) -> Image.Image:
    """The image of a mask; a JPEG is a DataError, because it cannot store one exactly."""
    kind, picture = from_file(file, lambda picture, _: (picture.format, picture.copy()))
    check_exact(kind, str(file))
    return picture


def check_exact(kind: str | None, name: str) -> None:
    """Refuse a mask of a format, by Pillow's name of it, that does not store values exactly.

    Raises:
        DataError: it is a JPEG.
    """
    if kind in ("JPEG", "MPO"):
        raise DataError(
            f"{name} is a JPEG, whose compression changes values near edges: save the mask as PNG from the original "
            "drawing, not from this file."
        )


def smooth(values: np.ndarray) -> bool:
    """Whether 8-bit values look like a black-and-white mask after JPEG compression or interpolated resizing."""
    if values.dtype != np.uint8:
        return False
    counts = np.bincount(values.ravel(), minlength=256)
    between, kinds = counts[1:255].sum() / counts.sum(), np.count_nonzero(counts[1:255])
    if not counts[224:].any() or not 0 < between < 0.5:
        return False
    noise = counts[1:32].any() and counts[224:255].any()
    return bool(noise or (kinds >= 8 and between / kinds < 0.005))


def refuse_smooth(values: np.ndarray, name: str) -> None:
    """Refuse a mask with blended edges, in which the object's outline is unknown.

    Raises:
        DataError: it has blended edges.
    """
    if smooth(values):
        middle = short(one for one in shown(values) if one not in (0, 255))
        raise DataError(
            f"{name} is nearly black and white but also shows {middle}, as after JPEG compression or interpolated "
            "resizing: threshold its pixels to 0 or 255, for example at 128, and save it as PNG."
        )


def shown(values: np.ndarray) -> list[int]:
    """All values of an image of at most 16 bits, ascending."""
    return [int(value) for value in np.flatnonzero(np.bincount(values.ravel()))]


def short(numbers: Iterable[int]) -> str:
    """Numbers as a readable list, with runs as "1 to 20"."""
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    words = [f"{run[0]} to {run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in runs]
    return ", ".join(words[:8] + ["..."] * (len(words) > 8))
