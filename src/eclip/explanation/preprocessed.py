"""Pixels that went through `backbone.preprocess` before they reach `explain`, as from a DataLoader."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from eclip.backbones.backbone import Backbone
from eclip.backbones.view import View
from eclip.errors import ImageError, RawPixelsWarning, ShapeError
from eclip.pixels import OVERSHOOT, check_dense
from eclip.refinements.colors import unnormalized

STACK = "torch.stack([backbone.preprocess(image), ...])"
RAW = "or leave preprocessed out and pass raw images, uint8 or floating point in [0, 1]"
"""The other way to pass tensors, for errors."""


def check_preprocessed(images: object, backbone: Backbone) -> Float[Tensor, "image 3 height width"]:
    """Preprocessed pixels of one image or a batch, as a batch without a graph, after checking all that can be checked.

    Raises:
        ImageError: they are not a tensor, not finite, or out of the range that this preprocessing gives.
        ShapeError: the shape is wrong, or a side is not a multiple of the patch.
    """
    if isinstance(images, list | tuple | Mapping):
        raise ImageError(
            f"preprocessed=True takes one tensor, got a {type(images).__name__} of {len(images)}: of a DataLoader's "
            f"batch (images, labels) pass the images alone, or stack single images with {STACK}."
        )
    if not isinstance(images, Tensor):
        raise ImageError(f"preprocessed=True takes a tensor, got {type(images).__name__}: make it with {STACK}, {RAW}.")
    shape, patch = tuple(images.shape), backbone.patch_size
    if images.ndim not in (3, 4) or shape[-3] != 3 or 0 in shape or not images.is_floating_point():
        raise ShapeError(
            "preprocessed pixels must be floating point and (3, height, width) or (image, 3, height, width), got "
            f"{images.dtype} {shape}: make them with {STACK}, {RAW}."
        )
    if shape[-2] % patch or shape[-1] % patch:
        raise ShapeError(
            f"height and width of preprocessed pixels must be multiples of the patch size {patch} of {backbone.name}, "
            f"got {shape}: make them with {STACK}, {RAW}."
        )
    if images.is_meta:
        raise ImageError("the tensor is on the device 'meta' and has no values: create it on a real device.")
    check_dense(images)
    with torch.inference_mode(False), torch.no_grad():
        pixels = images.detach().as_subclass(Tensor)
        pixels = pixels if pixels.ndim == 4 else pixels[None]
        if not pixels.isfinite().all():
            raise ImageError("preprocessed pixels contain NaN or infinity.")
        shares = unnormalized(pixels, backbone)
        least, most = float(shares.amin()), float(shares.amax())
    low, high = float(pixels.amin()), float(pixels.amax())
    if least < -OVERSHOOT or most > 1 + OVERSHOOT:
        raise ImageError(
            f"pixels from {low:.3g} to {high:.3g} did not go through the preprocessing of {backbone.name}, which gives "
            f"{_range(backbone)}: make them with {STACK}, {RAW}."
        )
    if 0 <= low < 0.1 and 0.9 < high <= 1:
        warnings.warn(
            f"the pixels passed as preprocessed are {low:.3g} to {high:.3g}, like those of raw images, while those of "
            f"{backbone.name} are {_range(backbone)}: if they are raw images, leave preprocessed out.",
            RawPixelsWarning,
            stacklevel=3,
        )
    return pixels


def view_of(pixels: Float[Tensor, "image 3 height width"], backbone: Backbone, positions: str) -> View:
    """The view under which preprocessed pixels are explained: at the training size, another square, or any grid."""
    height, width = pixels.shape[2:]
    if (height // backbone.patch_size, width // backbone.patch_size) == tuple(backbone.native):
        return View(None, "squash", positions)
    return View(height, "squash", positions) if height == width else View(None, "keep", positions)


def shown(pixels: Float[Tensor, "image 3 height width"], backbone: Backbone) -> list[Image.Image]:
    """What the model saw, as images: preprocessing undone, but not its resizing."""
    values = (unnormalized(pixels, backbone).clamp(0, 1) * 255).round().to(torch.uint8)
    return [Image.fromarray(np.ascontiguousarray(one)) for one in values.permute(0, 2, 3, 1).cpu().numpy()]


def _range(backbone: Backbone) -> str:
    colors = list(zip(backbone.mean, backbone.std, strict=True))
    least, most = min(-mean / std for mean, std in colors), max((1 - mean) / std for mean, std in colors)
    return f"{least:.3g} to {most:.3g}"
