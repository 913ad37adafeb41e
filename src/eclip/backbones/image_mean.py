"""The image mean: the part of image features that all images share and texts lack, which SpLiCE subtracts."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path
from typing import Any, SupportsIndex

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from eclip.backbones.backbone import DEFAULT_POSITIONS, Backbone
from eclip.backbones.blocks import unit
from eclip.backbones.catalog import DEFAULT_MODEL
from eclip.backbones.load import backbone_of, is_made_as
from eclip.backbones.view import View
from eclip.errors import ImageError, OptionError, ShapeError
from eclip.files import read_array
from eclip.images import ImageLike, find_images, read_ahead

MINI_MEAN = "backbones/assets/mini/image_mean.npy"
"""The image mean of `mini`, computed by recipes/concepts/image_mean.py."""


def image_mean(
    images: ImageLike | Iterable[ImageLike],
    model: str | Backbone = DEFAULT_MODEL,
    *,
    image_size: SupportsIndex | None = None,
    resize: str = "squash",
    positions: str = DEFAULT_POSITIONS,
) -> Float[Tensor, " feature"]:
    """The mean of the unit features of images, for `image_mean` of `eclip.concepts`; save it with `numpy.save`.

    Args:
        images: at least two, preferably hundreds, similar to those to be explained.
        model: a name for `eclip.load`, or a Backbone.
        image_size: as for the concepts, also for the arguments below.
        resize: see `eclip.explain`.
        positions: see `eclip.encode`.

    Raises:
        ImageError: an image cannot be read, or there are fewer than two.
        EclipError: other invalid input; `eclip.errors` lists the classes.
    """
    backbone, view = backbone_of(model, None), View(image_size, resize, positions)
    total, count = torch.zeros((), dtype=torch.float32, device=backbone.weight.device), 0
    for _, image in read_ahead(images, 2):
        if isinstance(image, ImageError):
            raise image
        total, count = total + unit(view.encode(backbone, [image], 0).feature)[0], count + 1
    if count < 2:
        raise ImageError(f"the image mean needs at least 2 images, preferably hundreds, got {count}.")
    return total / count


def mean_for(
    backbone: Backbone, given: Any, folder: str | Path | None, settings: dict[str, Any]
) -> Float[Tensor, " feature"]:
    """The image mean: as given, computed from a folder's images, or included with the model.

    Raises:
        OptionError: there is none, it cannot be read, or it is not a mean of unit features.
        ShapeError: it is not a vector.
        ImageError: an image in the folder cannot be read, or there are fewer than two.
    """
    if given is not None and folder is not None:
        raise OptionError("image_mean and mean_from both set the image mean; omit one of them.")
    if folder is not None:
        if not isinstance(folder, str | Path):
            raise OptionError(f"mean_from must be the path of a folder of images, got {folder!r}.")
        images, problems = find_images([folder])
        if problems:
            raise ImageError(problems[0][1])
        return image_mean(images, backbone, **settings)
    if given is None:
        if not _is_mini(backbone):
            raise OptionError(
                f"{backbone.name} has no image mean, which SpLiCE subtracts. Set mean_from (--mean-from), a folder of "
                "hundreds of images like yours, or image_mean (--image-mean), a .npy file of their mean."
            )
        with files("eclip").joinpath(MINI_MEAN).open("rb") as file:
            given = np.load(file)
    elif isinstance(given, str | Path):
        given = _read(given)
    if isinstance(given, np.ndarray) and np.issubdtype(given.dtype, np.floating):
        given = torch.from_numpy(given.astype(np.float32))
    if not (isinstance(given, Tensor) and given.is_floating_point()):
        kind = f"{given.dtype} numbers" if isinstance(given, np.ndarray | Tensor) else type(given).__name__
        raise OptionError(
            f"the image mean must be an array of floating-point numbers or the path of a .npy file, got {kind}."
        )
    mean = given.detach().float().to(backbone.weight.device)
    if mean.ndim != 1:
        raise ShapeError(f"the image mean must be (feature,), got an array of shape {tuple(mean.shape)}.")
    if not bool(mean.isfinite().all()) or float(mean.norm()) > 1.001 or not bool(mean.any()):
        raise OptionError(
            f"the image mean must be the mean of unit features, so its norm must be above 0 and at most 1, got norm "
            f"{float(mean.norm()):.3g}. Normalize each feature before averaging, as eclip.image_mean does."
        )
    return mean


def known_mean(backbone: Backbone, given: Any = None) -> Float[Tensor, " feature"] | None:
    """The image mean as given, or included with the model; None if there is neither.

    Raises:
        ShapeError: it is not a vector of the model's feature size.
        OptionError: as in `mean_for`.
    """
    if given is None and not _is_mini(backbone):
        return None
    mean = mean_for(backbone, given, None, {})
    if len(mean) != backbone.feature_size:
        raise ShapeError(
            f"the image mean has {len(mean)} values, but features of {backbone.name} have {backbone.feature_size}: it "
            "must be that of this model."
        )
    return mean


def _is_mini(backbone: Backbone) -> bool:
    """Whether it is `mini` as loaded by `load`, with any head; a wrapped model may only share its name."""
    return is_made_as(backbone, DEFAULT_MODEL)


def _read(path: str | Path) -> Any:
    try:
        return read_array(Path(path))
    except (OSError, ValueError) as error:
        raise OptionError(f"cannot read the image mean {str(path)!r} as a .npy file: {error}.") from error
