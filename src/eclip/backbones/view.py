"""View, how a model sees images: size, resizing and positions in one object, checked once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, SupportsIndex

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from eclip.backbones.backbone import Backbone, Grid
from eclip.backbones.choices import DEFAULT_POSITIONS, POSITIONS, RESIZES
from eclip.backbones.encoding import Encoding, encode
from eclip.registry import one_of, whole_or_none


@dataclass(frozen=True)
class View:
    """How any model sees images.

    Attributes:
        image_size: side in pixels, a multiple of the patch size; None = the model's training size.
        resize: "squash" fills a square; "keep" keeps the aspect ratio of the image, on about as many patches.
        positions: how position embeddings are resized off the training grid, see `encode`.

    Raises:
        OptionError: the size is not a whole number, or the resize or positions are unknown.
    """

    image_size: SupportsIndex | None = None
    resize: str = "squash"
    positions: str = DEFAULT_POSITIONS

    def __post_init__(self) -> None:
        """Check all three, and convert a NumPy integer to Python's."""
        size = whole_or_none(self.image_size, "image_size", "a whole number of pixels")
        object.__setattr__(self, "image_size", size)
        one_of(self.resize, "resize", RESIZES)
        one_of(self.positions, "positions", POSITIONS)

    @property
    def settings(self) -> dict[str, Any]:
        """The three settings by name, as recorded in results."""
        return asdict(self)

    def check(self, backbone: Backbone) -> None:
        """Raise early what would otherwise be raised for each image.

        Raises:
            OptionError: the size is not a multiple of the model's patch size.
        """
        backbone.grid_for((1, 1), self.image_size, self.resize)

    def grid(self, backbone: Backbone, image: Image.Image) -> Grid:
        """The patch grid that an image will have; errors as in `check`."""
        return backbone.grid_for(image.size, self.image_size, self.resize)

    def pixels(self, backbone: Backbone, images: Iterable[Image.Image]) -> Float[Tensor, "image 3 height width"]:
        """Preprocessed pixels of images that share one grid; errors as in `check`."""
        return torch.stack([backbone.preprocess(image, self.image_size, self.resize) for image in images])

    def encode(self, backbone: Backbone, images: Iterable[Image.Image], keep: SupportsIndex | None = None) -> Encoding:
        """Encode images that share one grid, in one forward pass; `keep` and errors as in `eclip.encode`."""
        return encode(backbone, self.pixels(backbone, images), keep, self.positions)
