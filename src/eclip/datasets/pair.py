"""An image with its captions, and the location of its bytes."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from eclip.images import Place, decode_image

__all__ = ["Bad", "Pair", "PairSet", "Place", "digest"]

Bad = list[tuple[str, str]]
"""What yields no pair: (key, reason)."""


@dataclass(frozen=True, slots=True)
class Pair:
    """An image and its captions.

    Attributes:
        key: identifies the pair in logs and results: "train-000.tar/000123", or the path of the image.
        place: the location of the image.
        captions: one or more, none empty.
        group: images of one group are not independent, such as frames of one video; "": it is alone.
        negative: a caption that is wrong in a word, to be told from the first of `captions`; "": there is none.
        kind: how it is wrong, such as "replace_obj".
    """

    key: str
    place: Place
    captions: tuple[str, ...]
    group: str = ""
    negative: str = ""
    kind: str = ""

    @property
    def name(self) -> str:
        """Its key; images of any set have a name."""
        return self.key

    def open(self) -> Image.Image:
        """The image, upright and RGB.

        Raises:
            ImageError: it is broken, not an image, or no longer there.
        """
        return decode_image(self.place.read(self.key), self.key)


@dataclass(frozen=True)
class PairSet:
    """Images with captions, or with the name of their class.

    Attributes:
        name: of the data set and its split.
        items: the images.
        classes: all class names, in order; each item then has one caption, its class name. None: images with captions.
        bad: what was left out, as (key, reason).
    """

    name: str
    items: Sequence[Pair]
    classes: tuple[str, ...] | None
    bad: Bad

    def __repr__(self) -> str:
        kind = "captions" if self.classes is None else f"{len(self.classes)} classes"
        return f"PairSet({self.name!r}, {len(self.items)} images with {kind}, {len(self.bad)} left out)"

    def image_numbers(self) -> list[int]:
        """The number of each item's image, from 0, in order of first appearance; several items may share an image."""
        return numbered(item.place for item in self.items)

    def group_numbers(self) -> list[int]:
        """The number of each item's group, from 0, by first appearance; without one, that of its image."""
        return numbered(item.group or item.place for item in self.items)

    def digest(self) -> str:
        """16 hexadecimal digits computed from the images' names and sizes, the captions and the classes."""
        whole = hashlib.sha256(json.dumps(self.classes).encode())
        whole.update(digest(self.items).encode())
        return whole.hexdigest()[:16]


def numbered(keys: Iterable[Hashable]) -> list[int]:
    """The number of each key, from 0, in order of first appearance; equal keys have one number."""
    numbers: dict[Hashable, int] = {}
    return [numbers.setdefault(key, len(numbers)) for key in keys]


def missing(file: Path | Place, what: str, aside: str = "") -> str:
    """What is wrong with a file, without reading it; "" if it exists and is not empty."""
    path = file.file if isinstance(file, Place) else file
    try:
        return "" if os.stat(path).st_size else f"{path} is empty (0 bytes)."
    except UnicodeEncodeError as error:
        return (
            f"{path}, {what}, has a name that {error.encoding}, the encoding of file names here, cannot represent: set "
            "PYTHONUTF8=1, or LC_ALL to a UTF-8 locale."
        )
    except OSError as error:
        why = "no such file" if isinstance(error, FileNotFoundError) else str(error.strerror)
        return f"{path}: {why}; it should be {what}{aside}."


def digest(pairs: Iterable[Pair]) -> str:
    """16 hexadecimal digits that identify these pairs in this order, independent of the location of files.

    They are computed from the images' names without folder or tar, their sizes in bytes, and the captions.
    """
    hashed = hashlib.sha256()
    for pair in pairs:
        record: list[Any] = [os.path.basename(pair.key), pair.place.size, pair.captions]
        record += [pair.negative, pair.kind] if pair.negative else []
        hashed.update(json.dumps(record).encode())
    return hashed.hexdigest()[:16]
