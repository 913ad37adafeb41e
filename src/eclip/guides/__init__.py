"""Free attention behind one signature: `GUIDES[name](seen, **options)`.

A guide says how much each place of an image belongs to the thing, and no one has labeled anything for it. It weighs the
patches where training pools them, as in masked max pooling (Li et al. 2022, ECLIP, https://arxiv.org/abs/2209.07046);
no map needs it afterwards, and the default, "none", trains without one. To add one: a file with a function of the
file's name, a line here.
The dict itself imports no torch; a guide's file is imported when it is first called.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from eclip.errors import EclipError, OptionError, ShapeError
from eclip.registry import Entry, entry_of

if TYPE_CHECKING:
    from jaxtyping import Float
    from PIL import Image
    from torch import Tensor

    from eclip.backbones.backbone import Grid
    from eclip.backbones.encoding import Encoding


@dataclass(frozen=True)
class Seen:
    """What a guide may look at, of the same images in the same order.

    Attributes:
        images: whole and upright, as `eclip.images.open_image` gives them.
        sources: their names, such as "images/cat.jpg" or, of an image in a tar, "train-000.tar/000123".
        encoding: by the model that is trained, with the last block kept.
    """

    images: list[Image.Image]
    sources: list[str]
    encoding: Encoding


@dataclass(frozen=True)
class Guide(Entry["Tensor"]):
    """A way to tell where the thing is, without a label; its function gives raw values of at least 0.

    Attributes:
        keep: how many last blocks the encoding must have kept.
    """

    keep: int

    def __call__(self, seen: Seen, **options: Any) -> Float[Tensor, "image row col"]:
        """How much each place belongs to the thing, on the guide's own grid, float32, no gradient.

        Args:
            seen: the images.
            options: see `self.options`.

        Returns:
            Values in [0, 1], the largest of each map 1; ones where a guide has nothing to say.

        Raises:
            OptionError: an option that this guide does not have, or a value outside its range.
            ShapeError: images, sources and encoding are not of one number.
            KeepError: the encoding kept too few blocks.
            EclipError: the model's weights or pixels hold NaN or infinity; or of the guide's own, see its function.
        """
        options = self.check(options)
        counts = (len(seen.images), len(seen.sources), len(seen.encoding.pixels))
        if len(set(counts)) > 1:
            raise ShapeError(
                "a guide sees images, their sources and their encoding, of one number each, got {} images, {} sources "
                "and an encoding of {}.".format(*counts)
            )
        from eclip.backbones.backbone import eval_no_grad

        with eval_no_grad(seen.encoding.backbone.model):
            return _to_peak(self.function(seen, **options), self.name)


def on_grid(guide: Float[Tensor, "image row col"], grid: Grid) -> Float[Tensor, "image other_row other_col"]:
    """The same on another grid, such as that of the tokens; the largest value of each map is 1 again.

    Bilinear, corners not aligned. Where the grid gets coarser, the triangle widens to take in all cells (antialias).

    Args:
        guide: values of at least 0.
        grid: cells down and across.

    Raises:
        EclipError: a value is negative, NaN or infinite.
    """
    from eclip.heatmap import interpolate

    maps = _to_peak(guide, "on_grid")[:, None]  # image 1 row col
    row, col = grid
    return _to_peak(interpolate(maps, (row, col), mode="bilinear", antialias=True)[:, 0], "on_grid")


def _to_peak(maps: Tensor, name: str) -> Float[Tensor, "image row col"]:
    """Each map over its largest value; zeros, as all that is flat, become ones: they say nothing."""
    maps = maps.detach()
    maps = maps if maps.element_size() > 2 else maps.float()
    if not bool((maps.isfinite() & (maps >= 0)).all()):
        raise EclipError(
            f"{name!r}: values of a guide must be finite and at least 0, got {float(maps.min())} to "
            f"{float(maps.max())}. NaN comes of weights or pixels that hold it."
        )
    peak = maps.amax((-2, -1), keepdim=True)
    return (maps / peak).where(peak > 0, 1.0).float()


def check_guide(name: Any, options: dict[str, Any]) -> None:
    """The guide exists and has these options.

    Raises:
        UnknownNameError: there is no such guide.
        OptionError: the name is none, or an option is not the guide's.
    """
    if not isinstance(name, str):
        raise OptionError(f"guide must be the name of one, such as 'spectral', got {name!r}.")
    entry_of(name, GUIDES, "guide", "`eclip guides ls`").check(options)


# fmt: off
GUIDES: dict[str, Guide] = {guide.name: guide for guide in (
    Guide("none", 0,
          summary="Ones everywhere: pooling without a mask, the default."),
    Guide("centre", 0,
          summary="A Gaussian in the middle of the image, whatever it shows: the negative control."),
    Guide("backbone", 1,
          summary="The model's own attention in the last block, value to value (Li et al. 2023) or that which pools."),
    Guide("spectral", 1,
          summary="Normalized cut of the patches by their likeness (Shi and Malik 2000; Wang et al. 2022, TokenCut)."),
    Guide("dino", 0,
          summary="Attention of a self-supervised ViT's class token in its last block (Caron et al. 2021, DINO)."),
    Guide("folder", 0,
          summary="Maps that you have made, from a folder: STEM.npy or STEM.png for each image."),
)}
# fmt: on
