"""An image with a mask of class numbers, and a set of such images, whatever their layout on disk."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, overload

import numpy as np
from jaxtyping import Bool, UInt16
from PIL import Image

from eclip.datasets.mask_files import BACKGROUND, VOID, indexed, short, shown
from eclip.datasets.pair import missing, numbered
from eclip.errors import DataError, DataWarning, ImageError
from eclip.images import Place, open_image, stored_size

Decode = Callable[[Path | Place], UInt16[np.ndarray, "height width"]]
"""Decodes the file of a mask to class numbers; see `eclip.datasets.mask_files`."""


@dataclass(frozen=True, slots=True)
class Masked:
    """An image and its mask.

    Attributes:
        name: unique within its set.
        image: the image's file, or its location in a tar.
        mask: the mask's file, or its location in a tar.
        numbers: classes that the mask may show, 1 to 65534.
        decode: the function that reads the mask.
        group: images of one group are not independent, such as frames of one video; "": it is alone.
    """

    name: str
    image: Path | Place
    mask: Path | Place
    numbers: frozenset[int] = field(repr=False)
    decode: Decode = indexed
    group: str = ""

    def open(self) -> Image.Image:
        """The image, upright and RGB; errors as in `open_image`."""
        return open_image(self.image)

    def read(self) -> UInt16[np.ndarray, "height width"]:
        """The mask's class numbers, with 0 for background and 65535 for void.

        Raises:
            DataError: it cannot be read, has an encoding that its data set does not use, does not have the image's
                size, or shows a number without a name.
            ImageError: the image cannot be read.
        """
        try:
            mask = self.decode(self.mask)
        except ImageError as error:
            raise DataError(f"the mask of {self.name!r} cannot be read: {error}") from error
        width, height, turn = stored_size(self.image)
        if turn > 1 and mask.shape == (height, width):
            raise DataError(
                f"{self.image} has EXIF orientation {turn}, and {self.mask} may have been drawn on the unrotated "
                "pixels: save the image upright (PIL.ImageOps.exif_transpose), and rotate the mask to match if needed."
            )
        size = (height, width) if turn > 4 else (width, height)
        if mask.shape != size[::-1]:
            raise DataError(
                f"the mask of {self.name!r}, {self.mask}, has {mask.shape[1]} x {mask.shape[0]} pixels, but its image "
                f"{size[0]} x {size[1]}: resize the mask to the image (nearest neighbor), or use the matching image."
            )
        if unnamed := set(shown(mask)) - self.numbers - {BACKGROUND, VOID}:
            raise DataError(f"{self.mask} shows {sorted(unnamed)}, but the named classes are {short(self.numbers)}.")
        return mask

    def missing(self) -> str:
        """What is wrong with its files, without reading them; "" if both exist and are not empty."""
        of_image = missing(self.image, f"the image of {self.name!r}", f", whose mask is {self.mask}")
        return of_image or missing(self.mask, f"the mask of {self.name!r}")


@dataclass(frozen=True, eq=False)
class Lazy(Sequence[Masked]):
    """Records that `make` creates on access, so that a large set takes no more memory than its names, of any type."""

    names: Sequence[Any]
    make: Callable[[Any], Masked]

    def __len__(self) -> int:
        return len(self.names)

    @overload
    def __getitem__(self, place: int) -> Masked: ...
    @overload
    def __getitem__(self, place: slice) -> Lazy: ...
    def __getitem__(self, place: int | slice) -> Masked | Lazy:
        return Lazy(self.names[place], self.make) if isinstance(place, slice) else self.make(self.names[place])

    def __iter__(self) -> Iterator[Masked]:
        return map(self.make, self.names)


@dataclass(frozen=True)
class MaskSet:
    """Images with masks.

    Attributes:
        name: of the data set and its split, or of the folder.
        classes: name of each number, without background and void.
        items: the images; `Lazy` in large data sets.
        notes: remarks on how masks are interpreted, to be reported to the user.
        meaning: what values of masks mean, where their files decide that, and they are not class numbers; see `binary`.
    """

    name: str
    classes: dict[int, str]
    items: Sequence[Masked]
    notes: tuple[str, ...] = ()
    meaning: str = ""

    def __repr__(self) -> str:
        return f"MaskSet({self.name!r}, {len(self.items)} images, {len(self.classes)} classes)"

    def warn_of_notes(self) -> None:
        """Issue each note as a DataWarning."""
        for note in self.notes:
            warnings.warn(f"{self.name}: {note}", DataWarning, stacklevel=3)

    def image_numbers(self) -> list[int]:
        """The number of each item's image, from 0, in order of first appearance.

        A `table` has an item for each text, so several items may share an image, and their scores must not count as
        those of several images. If each item has its own image: 0, 1, 2 and so on.
        """
        return numbered(item.image for item in self.items)

    def group_numbers(self) -> list[int]:
        """The number of each item's group, from 0, in order of first appearance.

        An image without a group is a group by itself: if no image has one, these are the numbers of the images.
        """
        return numbered(item.group or item.image for item in self.items)

    def digest(self) -> str:
        """16 hexadecimal digits computed from the classes, the meaning of values, and each image's name and file sizes.

        The contents of files are not read, since a data set may be large.

        Raises:
            DataError: a file is missing.
        """
        whole = hashlib.sha256((json.dumps([*self.classes.items()]) + self.meaning).encode())
        for item in self.items:
            whole.update(json.dumps([item.name, _bytes(item.image), _bytes(item.mask)]).encode())
        return whole.hexdigest()[:16]


def present(mask: UInt16[np.ndarray, "height width"], least: float = 0.01) -> list[int]:
    """Class numbers that cover at least a share `least` of the area that is not void, ascending; never background."""
    area = np.bincount(mask[mask != VOID])
    needed = max(least * area.sum(), 1)
    return [int(number) for number in np.flatnonzero(area >= needed) if number != BACKGROUND]


def sides(
    mask: UInt16[np.ndarray, "height width"], number: int
) -> tuple[Bool[np.ndarray, "height width"], Bool[np.ndarray, "height width"]]:
    """Pixels of a class, and pixels of anything else; void is in neither."""
    inside = mask == number
    return inside, ~inside & (mask != VOID)


def _bytes(file: Path | Place) -> int:
    if isinstance(file, Place):
        return file.size
    try:
        return file.stat().st_size
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}.") from error
