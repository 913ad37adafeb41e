"""How an image becomes an array of the model's size, without torch, so that light worker processes can do it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple, SupportsIndex

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from eclip.backbones.choices import RESIZES
from eclip.errors import OptionError
from eclip.images import ImageLike, open_image
from eclip.registry import one_of, whole


class Grid(NamedTuple):
    """Number of patches of an image, down and across."""

    row: int
    col: int


@dataclass(frozen=True)
class Fitting:
    """From an image to an array of whole patches; attributes as in Backbone."""

    name: str
    native: Grid
    patch_size: int
    interpolation: str

    def resized(
        self, image: ImageLike, image_size: SupportsIndex | None = None, resize: str = "squash"
    ) -> UInt8[np.ndarray, "height width 3"]:
        """A whole image, without cropping, in the model's size.

        Args:
            image: as `eclip.explain` takes and reads it: upright, on white, 16 bits scaled to 8.
            image_size: side in pixels, a multiple of `patch_size`; None = the training size.
            resize: "squash" fills the square; "keep" keeps the aspect ratio, on a grid of about as many patches.

        Raises:
            OptionError: the size is not a multiple of the patch size, or the resize is unknown.
            ImageError: it cannot be read.
        """
        picture = open_image(image)
        row, col = self.grid_for(picture.size, image_size, resize)
        resample = Image.Resampling.BICUBIC if self.interpolation == "bicubic" else Image.Resampling.BILINEAR
        return np.array(picture.resize((col * self.patch_size, row * self.patch_size), resample))

    def grid_for(self, size: tuple[int, int], image_size: SupportsIndex | None = None, resize: str = "squash") -> Grid:
        """The patch grid of an image of (width, height) pixels."""
        one_of(resize, "resize", RESIZES)
        native = self.native
        if image_size is not None:
            side = whole(image_size, "image_size", "a whole number of pixels")
            if side < self.patch_size or side % self.patch_size:
                near = max(1, round(side / self.patch_size)) * self.patch_size
                raise OptionError(
                    f"image_size must be a multiple of the patch size {self.patch_size} of {self.name}, got "
                    f"{side}. The nearest is {near}."
                )
            native = Grid(side // self.patch_size, side // self.patch_size)
        if resize == "squash":
            return native
        patches = native.row * native.col
        aspect = size[1] / size[0]  # height / width
        row = min(max(1, round(math.sqrt(patches * aspect))), patches)
        col = min(max(1, round(math.sqrt(patches / aspect))), patches)
        return Grid(row, col)
