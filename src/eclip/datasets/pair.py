"""A photo with its captions, and where its bytes lie."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from PIL import Image

from eclip.errors import ImageError
from eclip.photos import decode_photo

Bad = list[tuple[str, str]]
"""What gives no pair: (key, why)."""


class Place(NamedTuple):
    """Where the bytes of a photo lie: inside a tar, or from offset 0 in a file of its own."""

    file: str
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Pair:
    """A photo and what people said of it.

    Attributes:
        key: tells the pair in logs and results: "train-000.tar/000123", or the path of the photo.
        place: where the photo lies.
        captions: one or more, none empty.
    """

    key: str
    place: Place
    captions: tuple[str, ...]

    def open(self) -> Image.Image:
        """The photo, upright and RGB.

        Raises:
            ImageError: it is broken, no picture, or no longer there.
        """
        try:
            with open(self.place.file, "rb") as stream:
                stream.seek(self.place.offset)
                data = stream.read(self.place.size)
        except OSError as error:
            raise ImageError(f"{self.key}: {self.place.file} cannot be read any more: {error.strerror}.") from None
        if len(data) < self.place.size:
            raise ImageError(f"{self.key}: {self.place.file} is shorter than when its pairs were listed.")
        return decode_photo(data, self.key)
