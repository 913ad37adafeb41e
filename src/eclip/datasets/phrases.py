"""An image with phrases and where each applies (boxes or points), and a set of such images, whatever their layout."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from eclip.datasets.pair import Bad, missing, numbered
from eclip.errors import DataError
from eclip.images import Place, open_image

Box = tuple[float, float, float, float]
"""Left, top, right and bottom, as shares of the image's width and height, 0 to 1."""
Point = tuple[float, float]
"""Distance from the left edge and from the top, as shares of the image's width and height, 0 to 1."""


@dataclass(frozen=True, slots=True)
class Phrase:
    """A phrase that describes a part of an image.

    Attributes:
        text: the phrase.
        boxes: of what it describes; a phrase such as "two dogs" has several. None if it has points instead.
        types: what it describes, such as "people" or "clothing", in the data set's words; empty if it has none.
        caption: the sentence that contains it; "" if it stands alone.
        start: position of its first character in the caption.
        yes: points that lie on what it describes; at least one if it has no boxes.
        no: points that do not.
    """

    text: str
    boxes: tuple[Box, ...]
    types: tuple[str, ...] = ()
    caption: str = ""
    start: int = 0
    yes: tuple[Point, ...] = ()
    no: tuple[Point, ...] = ()

    @property
    def where(self) -> tuple[Any, ...]:
        """What is known of its place: its boxes, or its points as (yes, no)."""
        return (self.yes, self.no) if self.yes else self.boxes


@dataclass(frozen=True, slots=True)
class Phrased:
    """An image and its phrases.

    Attributes:
        name: unique within its set.
        image: the image's file, or its location in a tar.
        phrases: one or more.
        group: images of one group are not independent, such as frames of one video; "": it is alone.
    """

    name: str
    image: Path | Place
    phrases: tuple[Phrase, ...]
    group: str = ""

    def open(self) -> Image.Image:
        """The image, upright and RGB; errors as in `open_image`."""
        return open_image(self.image)

    def missing(self) -> str:
        """What is wrong with its file, without reading it; "" if it exists and is not empty."""
        return missing(self.image, f"the image of {self.name!r}")


@dataclass(frozen=True)
class PhraseSet:
    """Images with phrases and their boxes or points.

    Attributes:
        name: of the data set and its split.
        items: the images.
        bad: what was left out, as (name, reason).
    """

    name: str
    items: Sequence[Phrased]
    bad: Bad

    def __repr__(self) -> str:
        return f"PhraseSet({self.name!r}, {len(self.items)} images, {len(self.bad)} left out)"

    def image_numbers(self) -> list[int]:
        """The number of each item's image, from 0: each item has its own."""
        return list(range(len(self.items)))

    def group_numbers(self) -> list[int]:
        """The number of each item's group, from 0, in order of first appearance; see `Phrased`."""
        return numbered(item.group or place for place, item in enumerate(self.items))

    def digest(self) -> str:
        """16 hexadecimal digits computed from the phrases and their places, and each image's name and file size.

        Raises:
            DataError: a file is missing.
        """
        whole = hashlib.sha256()
        for item in self.items:
            if why := item.missing():
                raise DataError(why)
            size = item.image.size if isinstance(item.image, Place) else item.image.stat().st_size
            phrases = [[one.text, one.where, one.types, one.caption, one.start] for one in item.phrases]
            whole.update(json.dumps([item.name, size, phrases]).encode())
        return whole.hexdigest()[:16]


def fitted(left: float, top: float, right: float, bottom: float, width: float, height: float) -> Box | None:
    """A box in pixels as shares of the image, cut to it; None if nothing of it is inside.

    Left and top are those of the first column and row; right and bottom are after the last ones.
    """
    x0, x1 = max(left, 0) / width, min(right, width) / width
    y0, y1 = max(top, 0) / height, min(bottom, height) / height
    return (x0, y0, x1, y1) if x0 < x1 and y0 < y1 else None
