"""How an image becomes pixels, without the model, so that it can be pickled for worker processes.

`DataLoader(..., num_workers=2)` pickles its transform where processes are spawned, and the other functions of a
Backbone are closures over a model, which cannot be pickled. Mean, standard deviation and interpolation are passed to
`wrap`, or recorded on the model or by its processor.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, SupportsIndex

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from eclip.backbones.fitting import Fitting
from eclip.backbones.fitting import Grid as Grid
from eclip.errors import ModelError, OptionError
from eclip.images import ImageLike
from eclip.registry import one_of

Color = Sequence[float] | float | np.ndarray | Tensor
"""One number each for red, green and blue, or one for all."""
INTERPOLATIONS = ("bicubic", "bilinear")
COLORS = ("mean", "std", "interpolation")
RESAMPLE = {2: "bilinear", 3: "bicubic"}
"""Pillow's filter numbers, as image processors store them."""


@dataclass(frozen=True)
class Preprocess(Fitting):
    """From an image to pixels, as a model was trained; attributes as in Backbone."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(
        self, image: ImageLike, image_size: SupportsIndex | None = None, resize: str = "squash"
    ) -> Float[Tensor, "3 height width"]:
        """Resize a whole image, see `resized`, and normalize its colors as in the model's training."""
        return self.normalized(torch.from_numpy(self.resized(image, image_size, resize))[None])[0]

    def normalized(self, images: UInt8[Tensor, "image height width 3"]) -> Float[Tensor, "image 3 height width"]:
        """Pixels, float32, of images of 0 to 255 in the model's size, on their device."""
        numbers = (255, self.mean, self.std)
        full, mean, std = (torch.tensor(one, dtype=torch.float32, device=images.device) for one in numbers)
        values = images.permute(0, 3, 1, 2).contiguous().float()
        return values.div_(full).sub_(mean[:, None, None]).div_(std[:, None, None])


def settled(given: dict[str, Any], recorded: dict[str, Any], missing: str) -> dict[str, Any]:
    """Mean, std and interpolation for a Backbone: as given to `wrap`, else as recorded; else bicubic.

    `missing` is the error message if neither has mean and std.

    Raises:
        OptionError: there is no mean or std, or a value is invalid, such as a mean above 1.
    """
    mean, std, interpolation = (recorded.get(name) if given[name] is None else given[name] for name in COLORS)
    if mean is None or std is None:
        raise OptionError(missing)
    interpolation = "bicubic" if interpolation is None else interpolation
    one_of(interpolation, "interpolation", INTERPOLATIONS)
    mean, std = _three("mean", mean), _three("std", std)
    if max(mean) > 1:
        raise OptionError(f"mean must be that of pixels in [0, 1], got {mean}: divide mean and std by 255.")
    if min(std) <= 0:
        raise OptionError(f"std must be positive for each color, got {std}.")
    return {"mean": mean, "std": std, "interpolation": interpolation}


def colors_of(config: dict[str, Any], wanted: Collection[str] = COLORS) -> dict[str, Any]:
    """Mean, std and interpolation from the configuration of transformers' image processor, for pixels in [0, 1].

    If it scales pixels of 0 to 255 by a factor other than 1 / 255, or not at all, mean and std account for that. What
    is not wanted is not read.

    Raises:
        ModelError: its resizing is neither bilinear nor bicubic, or it does not define mean and std.
    """
    found: dict[str, Any] = {}
    factor = config.get("rescale_factor")
    scale = 255.0 if config.get("do_rescale") is False else 1.0 if factor is None else 255 * float(factor)
    for name, neutral in (("mean", 0.0), ("std", 1.0)):
        if name in wanted:
            value = neutral if config.get("do_normalize") is False else config.get(f"image_{name}")
            if value is None:
                raise ModelError(f"the image processor does not define image_{name}: pass {name} to eclip.wrap.")
            found[name] = tuple(one / scale for one in _three(f"image_{name} of the image processor", value))
    resample = config.get("resample")
    if "interpolation" in wanted and resample is not None:
        if not isinstance(resample, int) or resample not in RESAMPLE:
            raise ModelError(
                f"the image processor resizes with Pillow's filter {resample!r}, but only 2 (bilinear) and 3 (bicubic) "
                "are supported: pass interpolation to eclip.wrap."
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
        raise OptionError(f"{name} must be three numbers (red, green, blue), got {value!r}.")
    return found
