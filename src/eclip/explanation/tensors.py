"""Results as torch tensors: those of an Explanation, and heat maps, masks and boxes of the maps of any method.

On the CPU, both are equal, bit for bit, to what `Explanation` returns as arrays.
"""

from __future__ import annotations

import numbers
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from eclip import heatmap
from eclip.backbones.devices import Device, resolve_device
from eclip.errors import EclipError, OptionError, ShapeError

if TYPE_CHECKING:
    from eclip.explanation.explanation import Explanation

OTSU = "otsu"
Threshold = float | np.floating | str
Origin = tuple[int, str]
"""The number of a process, and a device in it."""


@dataclass(frozen=True, eq=False, repr=False)
class ExplanationTensors:
    """The arrays of an Explanation as tensors on one device, copies that share no memory with it.

    Heat maps and masks are computed when they are first used. They have the size of their image; where all images have
    one size, `torch.stack(tensors.heatmaps)` is (image, text, height, width).

    Attributes:
        explanation: that they belong to.
        device: where they are.
    """

    explanation: Explanation
    device: torch.device

    def __repr__(self) -> str:
        return f"ExplanationTensors({self.explanation!r}, on {self.device})"

    @cached_property
    def maps(self) -> Float[Tensor, "image text row col"]:
        """The raw maps, float32, as `Explanation.maps`."""
        return self._tensor(self.explanation.maps)

    @cached_property
    def scores(self) -> Float[Tensor, "image text"]:
        """The cosines, float32, in [-1, 1], as `Explanation.scores`."""
        return self._tensor(self.explanation.scores)

    @cached_property
    def heatmaps(self) -> tuple[Float[Tensor, "text height width"], ...]:
        """For each image, the heat maps of all texts, float32, in [0, 1], as `Explanation.heatmap`."""
        return tuple(self._tensor(np.stack(heat)) for heat in self._each(self.explanation.heatmap))

    @cached_property
    def masks(self) -> tuple[Bool[Tensor, "text height width"], ...]:
        """For each image, the masks of all texts at their `Explanation.level`, as `Explanation.mask`."""
        return tuple(self._tensor(np.stack(masks)) for masks in self._each(self.explanation.mask))

    def _each(self, of: Callable[[int, int], np.ndarray]) -> Iterator[list[np.ndarray]]:
        images, texts = self.explanation.scores.shape
        for image in range(images):
            yield [of(image, text) for text in range(texts)]

    def _tensor(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(np.array(values)).to(self.device)


def tensors_of(explanation: Explanation, device: Device | None) -> ExplanationTensors:
    """The tensors of an Explanation on a device; None and errors as in `Explanation.torch`."""
    if device is None:
        process, name = explanation.origin or (0, "cpu")
        device = name if process == os.getpid() else "cpu"
    return ExplanationTensors(explanation, resolve_device(device))


def origin_of(device: torch.device) -> Origin:
    """A device in this process."""
    return os.getpid(), str(device)


def heatmaps(
    maps: Float[Tensor, "*batch row col"], size: tuple[int, int], flat: Bool[Tensor, "*batch"] | None = None
) -> Float[Tensor, "*batch height width"]:
    """Heat maps of raw maps, as `Explanation.heatmap`: min-max of each map on its grid, then bilinear resizing.

    Args:
        maps: as a method or a refinement returns them, with any leading axes, such as (image, text, row, col).
        size: (height, width) of the result in pixels.
        flat: maps that are drawn as zeros, as from `eclip.METHODS[name].flat(maps, text)`, which knows of maps that are
            rounding errors of subtracted cosines; None = only those whose own values differ by rounding.

    Returns:
        float32 in [0, 1], on the device of the maps.

    Raises:
        OptionError: the size is not positive.
        ShapeError: the maps are no tensor (..., row, col), or `flat` is not one boolean for each of them.
        EclipError: a value is NaN or infinite, or a map has no cells.
    """
    _check_tensor(maps, "maps")
    if flat is not None:
        _check_tensor(flat, "flat")
        if flat.dtype != torch.bool or flat.shape != maps.shape[:-2]:
            given = f"{tuple(flat.shape)} of {flat.dtype}"
            raise ShapeError(f"flat must be {tuple(maps.shape[:-2])}, one boolean for each map, got {given}.")
        maps = maps.where(~flat.to(maps.device)[..., None, None], 0)
    return heatmap.resize(heatmap.normalize(maps.float()), size)


def masks(
    heat: Float[Tensor, "*batch height width"], threshold: Threshold = OTSU
) -> Bool[Tensor, "*batch height width"]:
    """The pixels where a heat map reaches a threshold, as `Explanation.mask`.

    Args:
        heat: from `eclip.heatmaps`, in [0, 1], with any leading axes.
        threshold: a number in [0, 1] for all, or "otsu", found for each heat map; `Explanation.level` is that
            of `Explanation.mask`, and `backbone.levels` has the measured ones.

    Returns:
        Booleans, on the device of the heat maps.

    Raises:
        OptionError: the threshold is neither.
        ShapeError: the heat maps are no tensor (..., height, width).
        EclipError: a value is outside [0, 1] or NaN, or there is none.
    """
    _check_tensor(heat, "heat maps")
    heat = heat.detach().float()
    if heat.numel() and not (heat.amin() >= 0 and heat.amax() <= 1):
        given = f"{float(heat.amin())} to {float(heat.amax())}"
        raise EclipError(f"masks takes heat maps in [0, 1], got {given}: make them with eclip.heatmaps first.")
    number = number_of_threshold(threshold)
    if number is not None:
        return heat >= number
    each = heat.flatten(0, -3) if heat.ndim > 2 else heat[None]
    levels = [heatmap.otsu(one) for one in each.cpu().numpy()]
    return heat >= torch.tensor(levels, dtype=torch.float32, device=heat.device).reshape(*heat.shape[:-2], 1, 1)


def boxes(mask: Bool[Tensor, "height width"], *, min_area: float | None = None) -> Int[Tensor, "box 4"]:
    """Boxes around the connected regions of one mask, the largest region first, as `Explanation.boxes`.

    Args:
        mask: of one image and text, from `eclip.masks`.
        min_area: regions that cover a smaller share of the image than this, 0 to 1, are left out; None = those with
            less than a tenth of the largest region's area.

    Returns:
        Left, top, right, bottom in pixels, int64, right and bottom exclusive, on the device of the mask; (0, 4) for an
        empty mask.

    Raises:
        ShapeError: it is not one mask of booleans.
        OptionError: min_area is outside its range.
    """
    _check_tensor(mask, "a mask")
    if mask.ndim != 2 or mask.dtype != torch.bool:
        raise ShapeError(
            f"boxes takes one mask (height, width) of booleans, got {mask.dtype} {tuple(mask.shape)}: make masks with "
            "eclip.masks, and pass one at a time."
        )
    return torch.from_numpy(heatmap.boxes(mask.cpu().numpy(), min_area=min_area)).to(mask.device)


def _check_tensor(values: object, name: str) -> None:
    if not isinstance(values, Tensor):
        raise ShapeError(
            f"{name} must be a torch tensor, got {type(values).__name__}: pass torch.from_numpy(array), or use the "
            "methods of the Explanation, which return arrays."
        )


def number_of_threshold(threshold: Threshold) -> float | None:
    """The threshold as a number, None for "otsu"; OptionError for anything else."""
    if isinstance(threshold, str) and threshold == OTSU:
        return None
    if isinstance(threshold, bool | str) or not isinstance(threshold, numbers.Real) or not 0 <= threshold <= 1:
        raise OptionError(f"threshold must be 'otsu' or a number in [0, 1], got {threshold!r}.")
    return float(threshold)
