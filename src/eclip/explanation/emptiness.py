"""Does an image look empty to the model? Then no text is in it, however it ranks among words.

On a plain gray image some word has the highest score, too: a rank has no floor. The floor here is sixteen images
without content (colors, noise, blurs, gradients and patterns), encoded once per model. An image is empty if its feature
is far closer to one of them than they are to each other. docs/health.md has the figures behind the threshold. Our own.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from eclip.backbones.backbone import Backbone
from eclip.backbones.blocks import cosine, unit
from eclip.backbones.cached import Kept, announce, cached, rounded, side_hash
from eclip.backbones.encoding import encode
from eclip.backbones.host import image_side, is_all_plain
from eclip.backbones.view import View

SIDE = 320
"""Of the empty images, in pixels, before the model's own resizing."""
ALIKE = 0.9
"""Median cosine between different kinds of empty images from which a model cannot tell images apart well enough."""


def empty_images() -> list[Image.Image]:
    """Sixteen images without content: six colors, noise, blurred noise, gradients and patterns."""
    down, across = np.mgrid[:SIDE, :SIDE][..., None]
    ramp = down / (SIDE - 1)
    random = np.random.default_rng(0)
    colors = ((128, 128, 128), (0, 0, 0), (255, 255, 255), (200, 30, 30), (40, 160, 60), (30, 60, 180))
    noise = [random.normal(110, 30, (SIDE, SIDE, 3)), random.uniform(0, 255, (SIDE, SIDE, 3))]
    noise += [random.normal(128, 35, (SIDE, SIDE, 1))]
    gradients = (255 * (1 - ramp), ramp * (230, 230, 240) + (1 - ramp) * (30, 90, 160))
    patterns = (255 * (across // 12 % 2), 80 + 90 * (down // 40 % 2), 255 * ((down // 28 + across // 28) % 2))
    plain = [Image.new("RGB", (SIDE, SIDE), color) for color in colors]
    blurred = [_image(random.uniform(0, 255, (cells, cells, 3))).resize((SIDE, SIDE), 2) for cells in (27, 6)]
    return [*plain, *map(_image, noise), *blurred, *map(_image, (*gradients, *patterns))]


def _image(values: NDArray[np.floating | np.integer]) -> Image.Image:
    return Image.fromarray(np.broadcast_to(values, (*values.shape[:2], 3)).clip(0, 255).astype(np.uint8))


def empty_features(backbone: Backbone, view: View) -> Float[Tensor, "empty feature"]:
    """Unit features of the empty images, computed once per model and image size; squashed, which they do not mind."""
    square = replace(view, resize="squash")

    def make() -> Tensor:
        pixels = square.pixels(backbone, empty_images())

        def features(some: Tensor) -> Tensor:
            return unit(encode(backbone, some, keep=0, positions=view.positions).feature)

        def all_of_them() -> Tensor:
            announce(f"{len(pixels)} empty images", backbone, lambda: features(pixels[:1]), len(pixels))
            return torch.cat([features(one[None]) for one in pixels])

        state = None
        if "encode_image" not in backbone.model.__dict__ and all(map(is_all_plain, image_side(backbone))):
            state = side_hash(backbone, rounded(features(pixels[:1])), of_images=True)
        name = hashlib.sha256(pixels.numpy().tobytes()).hexdigest()[:16]
        return Kept(backbone, "images", state).get(f"empty-{name}", all_of_them)

    return cached(backbone, f"empty {view.image_size} {view.positions}", make, of_images=True)


def emptiness(
    feature: Float[Tensor, "image feature"], empty: Float[Tensor, "empty feature"]
) -> Float[Tensor, " image"]:
    """How empty images look to the model, in [0, 1].

    With c the largest cosine of an image's feature with those of the empty images, and m the median cosine between two
    of these: (c - m) / (1 - m), at least 0. NaN if m is above `ALIKE`.
    """
    with torch.autocast(empty.device.type, enabled=False):  # of the caller
        between = (empty @ empty.T)[~torch.eye(len(empty), dtype=torch.bool, device=empty.device)].median()
    nearest = cosine(feature, empty).amax(dim=-1)
    return ((nearest - between) / (1 - between)).clamp(0, 1).where(between <= ALIKE, torch.nan)
