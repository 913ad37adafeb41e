"""An image whose pixels have class numbers, and a set of such images, whatever layout they come from."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, overload

import numpy as np
from jaxtyping import Bool, UInt16
from PIL import Image

from eclip.datasets.mask_files import BACKGROUND, VOID, indexed, short, shown
from eclip.errors import DataError, DataWarning, ImageError
from eclip.images import Place, open_image, stored_size

Decode = Callable[[Path | Place], UInt16[np.ndarray, "height width"]]
"""From the file of a mask to class numbers: `eclip.datasets.mask_files` has those of pictures."""


@dataclass(frozen=True, slots=True)
class Masked:
    """An image and its mask.

    Attributes:
        name: tells it from the others of its set.
        image: the image's file, or its place in a tar.
        mask: where the mask is read from, likewise.
        numbers: classes that the mask may show, 1 to 65534.
        decode: what reads it.
        group: images of one group are not independent, such as frames of one video; "": it stands alone.
    """

    name: str
    image: Path | Place
    mask: Path | Place
    numbers: frozenset[int] = field(repr=False)
    decode: Decode = indexed
    group: str = ""

    def open(self) -> Image.Image:
        """The image, upright and RGB.

        Raises:
            ImageError: it cannot be read.
        """
        return open_image(self.image)

    def read(self) -> UInt16[np.ndarray, "height width"]:
        """The mask's class numbers, 0 where there is background and 65535 where there is void.

        Raises:
            DataError: it cannot be read, is of no form that its data set has, is not of the image's size, or shows a
                number without a name.
            ImageError: the image cannot be read.
        """
        try:
            mask = self.decode(self.mask)
        except ImageError as error:
            raise DataError(f"the mask of {self.name!r} cannot be read: {error}") from error
        width, height, turn = stored_size(self.image)
        if turn > 1 and mask.shape == (height, width):
            raise DataError(
                f"{self.image} is turned by its EXIF orientation {turn}, and {self.mask} may be drawn on the pixels as "
                "they are stored: save the image upright (PIL.ImageOps.exif_transpose), and the mask as it then lies."
            )
        size = (height, width) if turn > 4 else (width, height)
        if mask.shape != size[::-1]:
            raise DataError(
                f"the mask of {self.name!r}, from {self.mask}, has {mask.shape[1]} x {mask.shape[0]} pixels, its image "
                f"{size[0]} x {size[1]}: resize the mask to the image, by nearest neighbor, or fetch the right image."
            )
        unnamed = set(shown(mask)) - self.numbers - {BACKGROUND, VOID}
        if unnamed:
            raise DataError(
                f"{self.mask} shows {sorted(unnamed)}, but the classes with a name are {short(self.numbers)}."
            )
        return mask

    def missing(self) -> str:
        """What is wrong with its files as far as a look at the folder tells; nothing if they are there."""
        for what, file in (("image", self.image), ("mask", self.mask)):
            path = file.file if isinstance(file, Place) else file
            try:
                if not os.stat(path).st_size:
                    return f"{path} is empty (0 bytes)."
            except UnicodeEncodeError as error:
                return (
                    f"{path} has a name that {error.encoding}, the encoding of file names here, cannot write, but it "
                    f"is the {what} of {self.name!r}: set PYTHONUTF8=1, or LC_ALL to a locale of UTF-8."
                )
            except OSError as error:
                why = "no such file" if isinstance(error, FileNotFoundError) else str(error.strerror)
                mask = f", whose mask is {self.mask}" if what == "image" else ""
                return f"{path}: {why}, but it is the {what} of {self.name!r}{mask}."
        return ""


@dataclass(frozen=True, eq=False)
class Lazy(Sequence[Masked]):
    """Records that are made when they are asked for, so that a large set costs no more than its names.

    Attributes:
        names: one of each record, of any kind.
        make: the record of a name.
    """

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
        classes: name of each number, background and void left out.
        items: the images; `Lazy` where a data set is large.
        notes: what is to be told of how masks are read.
    """

    name: str
    classes: dict[int, str]
    items: Sequence[Masked]
    notes: tuple[str, ...] = ()

    def tell(self) -> None:
        """Warn of the notes.

        Warns:
            DataWarning: each of them.
        """
        for note in self.notes:
            warnings.warn(f"{self.name}: {note}", DataWarning, stacklevel=3)

    def image_numbers(self) -> list[int]:
        """The number of each item's image, from 0, in the order in which images first come.

        A `table` has an item for each text, so that several may share an image: scores of one image are then not taken
        for scores of several. Where each item has an image of its own, 0, 1, 2 and so on.
        """
        numbers: dict[Path | Place, int] = {}
        return [numbers.setdefault(item.image, len(numbers)) for item in self.items]

    def group_numbers(self) -> list[int]:
        """The number of each item's group, from 0, in the order in which groups first come.

        An image without a group is one by itself: where no image has any, these are the numbers of the images.
        """
        numbers: dict[str | Path | Place, int] = {}
        return [numbers.setdefault(item.group or item.image, len(numbers)) for item in self.items]

    def digest(self) -> str:
        """16 hexadecimal digits that follow from the classes, and from the name and the files' sizes of each image.

        What is in the files is not read: a data set may be large.

        Raises:
            DataError: a file is not there.
        """
        whole = hashlib.sha256(json.dumps([*self.classes.items()]).encode())
        for item in self.items:
            whole.update(json.dumps([item.name, _bytes(item.image), _bytes(item.mask)]).encode())
        return whole.hexdigest()[:16]


def present(mask: UInt16[np.ndarray, "height width"], least: float = 0.01) -> list[int]:
    """Class numbers with at least a share `least` of the area that is not void, ascending; background is none."""
    area = np.bincount(mask[mask != VOID])
    needed = max(least * area.sum(), 1)
    return [int(number) for number in np.flatnonzero(area >= needed) if number != BACKGROUND]


def sides(
    mask: UInt16[np.ndarray, "height width"], number: int
) -> tuple[Bool[np.ndarray, "height width"], Bool[np.ndarray, "height width"]]:
    """Pixels of a class, and pixels of anything else; those of void are in neither."""
    inside = mask == number
    return inside, ~inside & (mask != VOID)


def _bytes(file: Path | Place) -> int:
    if isinstance(file, Place):
        return file.size
    try:
        return file.stat().st_size
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}.") from error
