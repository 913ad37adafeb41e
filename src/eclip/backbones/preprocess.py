"""How an image becomes pixels, told without the model, so that it goes to worker processes by pickle.

`DataLoader(..., num_workers=2)` sends its transform by pickle where processes are spawned, and the other functions of a
Backbone are closures over a model, which do not pickle.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple, SupportsIndex

from jaxtyping import Float
from PIL import Image
from torch import Tensor

from eclip.backbones.choices import RESIZES
from eclip.backbones.normalization import to_pixels
from eclip.errors import OptionError
from eclip.registry import one_of, whole


class Grid(NamedTuple):
    """How many patches an image has, down and across."""

    row: int
    col: int


@dataclass(frozen=True)
class Preprocess:
    """An image to pixels, as a model was trained; attributes as of a Backbone."""

    name: str
    native: Grid
    patch_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str

    def __call__(
        self, image: Image.Image, image_size: SupportsIndex | None = None, resize: str = "squash"
    ) -> Float[Tensor, "3 height width"]:
        """Resize a whole photo, nothing cropped, and normalize its colors as the model was trained.

        Args:
            image: photo of any mode; it is read as RGB.
            image_size: side in pixels, a multiple of `patch_size`; None = the training size.
            resize: "squash" fills the square; "keep" keeps the aspect ratio, on a grid of about as many patches.

        Raises:
            OptionError: the size is no multiple of the patch, or the resize is unknown.
        """
        grid = self.grid_for(image.size, image_size, resize)
        size = (grid.row * self.patch_size, grid.col * self.patch_size)
        return to_pixels(image, size, self.mean, self.std, self.interpolation)

    def grid_for(self, size: tuple[int, int], image_size: SupportsIndex | None = None, resize: str = "squash") -> Grid:
        """The patch grid of a photo of (width, height) pixels."""
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
