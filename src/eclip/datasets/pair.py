"""An image with its captions, and where its bytes lie."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from PIL import Image

from eclip.images import Place, decode_image

__all__ = ["Bad", "Pair", "PairSet", "Place", "digest"]

Bad = list[tuple[str, str]]
"""What gives no pair: (key, why)."""


@dataclass(frozen=True, slots=True)
class Pair:
    """An image and what people said of it.

    Attributes:
        key: tells the pair in logs and results: "train-000.tar/000123", or the path of the image.
        place: where the image lies.
        captions: one or more, none empty.
        group: images of one group are not independent, such as frames of one video; "": it stands alone.
    """

    key: str
    place: Place
    captions: tuple[str, ...]
    group: str = ""

    def open(self) -> Image.Image:
        """The image, upright and RGB.

        Raises:
            ImageError: it is broken, no picture, or no longer there.
        """
        return decode_image(self.place.read(self.key), self.key)


@dataclass(frozen=True)
class PairSet:
    """Images with captions, or with the name of the one class that each shows.

    Attributes:
        name: of the data set and its split.
        items: the images.
        classes: all names that an image may have, in order; each item then has one caption, its name. None: captions.
        bad: what was left out, (key, why).
    """

    name: str
    items: Sequence[Pair]
    classes: tuple[str, ...] | None
    bad: Bad

    def group_numbers(self) -> list[int]:
        """The number of each item's group, from 0, in the order in which groups first come; see `Pair`."""
        numbers: dict[str | int, int] = {}
        return [numbers.setdefault(item.group or place, len(numbers)) for place, item in enumerate(self.items)]

    def digest(self) -> str:
        """16 hexadecimal digits that follow from the images' names and sizes, the captions, and the classes."""
        whole = hashlib.sha256(json.dumps(self.classes).encode())
        whole.update(digest(self.items).encode())
        return whole.hexdigest()[:16]


def digest(pairs: Iterable[Pair]) -> str:
    """16 hexadecimal digits that name these pairs in this order, the same wherever the files lie.

    They follow from the images' names without folder or tar, their sizes in bytes, and the captions.
    """
    hashed = hashlib.sha256()
    for pair in pairs:
        record = [os.path.basename(pair.key), pair.place.size, pair.captions]
        hashed.update(json.dumps(record).encode())
    return hashed.hexdigest()[:16]
