"""Colors as a model was trained with them: mean, standard deviation and how photos are resized, given or noted."""

from __future__ import annotations

import math
import numbers
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from eclip.errors import ModelError, OptionError
from eclip.registry import one_of

Color = Sequence[float] | float | np.ndarray | Tensor
"""A number for each of red, green and blue, or one for all."""
INTERPOLATIONS = ("bicubic", "bilinear")
COLORS = ("mean", "std", "interpolation")
RESAMPLE = {2: "bilinear", 3: "bicubic"}
"""Pillow's numbers, as image processors write them."""


def to_pixels(
    photo: Image.Image, size: tuple[int, int], mean: Sequence[float], std: Sequence[float], interpolation: str
) -> Float[Tensor, "3 height width"]:
    """A whole photo on (height, width) pixels, its colors normalized.

    Args:
        photo: of any mode; it is read as RGB.
        size: (height, width).
        mean: of each color channel, in [0, 1].
        std: of each color channel.
        interpolation: one of INTERPOLATIONS.
    """
    resample = Image.Resampling.BICUBIC if interpolation == "bicubic" else Image.Resampling.BILINEAR
    resized = photo.convert("RGB").resize(size[::-1], resample)
    values = torch.from_numpy(np.asarray(resized, dtype=np.float32) / 255.0)  # height width 3
    center, spread = (torch.tensor(one, dtype=torch.float32, device="cpu") for one in (mean, std))
    values = (values - center) / spread
    return values.permute(2, 0, 1).contiguous()


def settled(given: dict[str, Any], noted: dict[str, Any], lacking: str) -> dict[str, Any]:
    """Mean, std and interpolation as a Backbone has them: what was given, else what is noted; else bicubic.

    Args:
        given: to `wrap`; None where nothing was.
        noted: on the model, or by its processor.
        lacking: what to say where neither has mean and std.

    Raises:
        OptionError: there is no mean or std, or a value is none that can be.
    """
    mean, std, interpolation = (noted.get(name) if given[name] is None else given[name] for name in COLORS)
    if mean is None or std is None:
        raise OptionError(lacking)
    interpolation = "bicubic" if interpolation is None else interpolation
    one_of(interpolation, "interpolation", INTERPOLATIONS)
    mean, std = _three("mean", mean), _three("std", std)
    if min(std) <= 0:
        raise OptionError(f"std must be above 0 for each color, got {std}.")
    return {"mean": mean, "std": std, "interpolation": interpolation}


def colors_of(config: dict[str, Any], wanted: Collection[str] = COLORS) -> dict[str, Any]:
    """Mean, std and interpolation of the configuration of transformers' image processor, for pixels in [0, 1].

    A factor other than 1 / 255, or none, by which it scales pixels of 0 to 255, is part of mean and std then.

    Args:
        config: as `to_dict` gives it.
        wanted: which of them; the others are not read.

    Raises:
        ModelError: it resizes in another way than bilinear or bicubic, or does not say mean and std.
    """
    found: dict[str, Any] = {}
    factor = config.get("rescale_factor")
    scale = 255.0 if config.get("do_rescale") is False else 1.0 if factor is None else 255 * float(factor)
    for name, neutral in (("mean", 0.0), ("std", 1.0)):
        if name in wanted:
            value = neutral if config.get("do_normalize") is False else config.get(f"image_{name}")
            if value is None:
                raise ModelError(f"the image processor does not say image_{name}: give {name} to eclip.wrap.")
            found[name] = tuple(one / scale for one in _three(f"image_{name} of the image processor", value))
    resample = config.get("resample")
    if "interpolation" in wanted and resample is not None:
        if not isinstance(resample, int) or resample not in RESAMPLE:
            raise ModelError(
                f"the image processor resizes by Pillow's filter {resample!r}; 2 (bilinear) and 3 (bicubic) are "
                "offered: give interpolation to eclip.wrap."
            )
        found["interpolation"] = RESAMPLE[int(resample)]
    return found


def _three(name: str, value: Any) -> tuple[float, ...]:
    listed = value.tolist() if hasattr(value, "tolist") else value  # arrays and tensors
    listed = [listed] * 3 if isinstance(listed, numbers.Real) else listed
    try:
        found = tuple(float(one) for one in listed)
    except (TypeError, ValueError):
        found = ()
    if len(found) != 3 or not all(math.isfinite(one) for one in found):
        raise OptionError(f"{name} must be three numbers, of red, green and blue, got {value!r}.")
    return found
