"""All guides behind one signature: `GUIDES[name](seen, **options)`.

A guide is a map of how much each part of an image belongs to an object, without labels. It weights the patches when
training pools them, as in masked max pooling (Li et al. 2022, ECLIP, https://arxiv.org/abs/2209.07046); maps do not
need it afterwards, and the default, "none", trains without one. To add one, write a file with a function of the same
name and add a line here.
Importing the dict does not import torch: a guide's file is imported on its first call.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from eclip.errors import EclipError, OptionError, ShapeError
from eclip.registry import Entry, check_kind, entry_of

if TYPE_CHECKING:
    from jaxtyping import Float
    from PIL import Image
    from torch import Tensor

    from eclip.backbones.backbone import Grid
    from eclip.backbones.encoding import Encoding


@dataclass(frozen=True)
class Seen:
    """The input of a guide: the same images in the same order in three forms.

    Attributes:
        images: whole and upright, as `eclip.images.open_image` returns them.
        sources: their names, such as "images/cat.jpg" or, for an image in a tar, "train-000.tar/000123".
        encoding: from the model whose head is trained, with the last block kept.
    """

    images: list[Image.Image]
    sources: list[str]
    encoding: Encoding


@dataclass(frozen=True)
class Guide(Entry["Tensor"]):
    """A way to locate objects without labels; its function returns raw values of at least 0.

    Attributes:
        keep: how many last blocks the encoding must have kept.
    """

    keep: int

    def __call__(self, seen: Seen, **options: Any) -> Float[Tensor, "image row col"]:
        """How much each place belongs to an object, on the guide's own grid, float32, without gradient.

        Returns:
            Values in [0, 1] with maximum 1 in each map; ones if the guide finds nothing.

        Raises:
            OptionError: an option that this guide does not have, or a value outside its range.
            ShapeError: images, sources and encoding differ in number.
            KeepError: the encoding kept too few blocks.
            StaleEncodingError: the model has changed since it encoded.
            EclipError: the model's weights or pixels contain NaN or infinity; other errors of the guide's function.
        """
        check_kind(seen, Seen, "seen", "eclip.guides.Seen(images, sources, encoding) makes it")
        options = self.check(options)
        counts = (len(seen.images), len(seen.sources), len(seen.encoding.pixels))
        if len(set(counts)) > 1:
            raise ShapeError(
                "a guide needs as many sources and encoded images as images, got {} images, {} sources and an encoding "
                "of {} images.".format(*counts)
            )
        seen.encoding.check_current()
        from eclip.backbones.backbone import eval_no_grad

        with eval_no_grad(seen.encoding.backbone.model):
            return _to_peak(self.function(seen, **options), self.name)


def on_grid(guide: Float[Tensor, "image row col"], grid: Grid) -> Float[Tensor, "image other_row other_col"]:
    """A guide resized to another grid (row, col), such as the patch grid, with maximum 1 in each map again.

    Bilinear, corners not aligned, with antialiasing when the grid gets coarser.

    Raises:
        EclipError: a value is negative, NaN or infinite.
    """
    from eclip.heatmap import interpolate

    maps = _to_peak(guide, "on_grid")[:, None]  # image 1 row col
    return _to_peak(interpolate(maps, grid, mode="bilinear", antialias=True)[:, 0], "on_grid")


def _to_peak(maps: Tensor, name: str) -> Float[Tensor, "image row col"]:
    """Each map divided by its maximum; an all-zero map becomes ones, because it locates nothing."""
    maps = maps.detach()
    maps = maps if maps.element_size() > 2 else maps.float()
    if not bool((maps.isfinite() & (maps >= 0)).all()):
        raise EclipError(
            f"{name!r}: values of a guide must be finite and at least 0, got {float(maps.min())} to "
            f"{float(maps.max())}. NaN comes from NaN in the weights or pixels."
        )
    peak = maps.amax((-2, -1), keepdim=True)
    return (maps / peak).where(peak > 0, 1.0).float()


def check_guide(name: Any, options: dict[str, Any]) -> None:
    """Raise unless the guide exists and has these options."""
    if not isinstance(name, str):
        raise OptionError(f"guide must be a name, such as 'spectral', got {name!r}.")
    entry_of(name, GUIDES, "guide", "`eclip guides ls`").check(options)


# fmt: off
GUIDES: dict[str, Guide] = {guide.name: guide for guide in (
    Guide("none", 0,
          summary="Ones everywhere: pooling without a guide, the default."),
    Guide("centre", 0,
          summary="A Gaussian at the center of the image, whatever it shows: the negative control."),
    Guide("backbone", 1,
          summary="The model's own last-block attention: value-value (Li et al. 2023) or the one that pools tokens."),
    Guide("spectral", 1,
          summary="Normalized cut of the patches by similarity (Shi and Malik 2000; Wang et al. 2022, TokenCut)."),
    Guide("dino", 0,
          summary="Last-block attention of a self-supervised ViT's class token (Caron et al. 2021, DINO)."),
    Guide("folder", 0,
          summary="Your own maps from a folder: STEM.npy or STEM.png for each image."),
)}
# fmt: on
