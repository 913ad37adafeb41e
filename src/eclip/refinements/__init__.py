"""Every refinement of a map behind one signature: `REFINEMENTS[name](maps, encoding, **options)`.

A refinement moves what a map says to where the image says it can be: patches that look alike get like values, or the
map is drawn to edges of color. It does not know the texts. To add one: a file, a line here.
The dict itself imports no torch; a refinement's file is imported when it is first called.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from eclip.errors import OptionError, ShapeError
from eclip.registry import Entry, entry_of, listed

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from eclip.backbones.encoding import Encoding


@dataclass(frozen=True)
class Refinement(Entry["Tensor"]):
    """A step after any method. Beside its function stands `check`, which refuses options outside their ranges.

    Attributes:
        keep: how many last blocks the encoding must have kept.
        finer: the refined map lies on the pixels that the model saw, not on the patch grid.
    """

    keep: int
    finer: bool

    def check(self, options: dict[str, Any]) -> dict[str, Any]:
        """As of any entry, and of values outside their ranges.

        Raises:
            OptionError: an option that this refinement does not have, a value of another type, or outside its range.
        """
        plain = super().check(options)
        if options:
            self.module.check(**{**self.options, **options})
        return plain

    def __call__(
        self, maps: Float[Tensor, "image text row col"], encoding: Encoding, **options: Any
    ) -> Float[Tensor, "image text finer_row finer_col"]:
        """Refined maps, float32, no gradient; each image and each text on its own.

        The maps stay raw: no softmax, no clipping. Twice a map gives twice the result, its negative the negative.

        Args:
            maps: raw, from a method, of the same images in the same order.
            encoding: of these images, from `eclip.encode`.
            options: see `self.options`.

        Returns:
            Maps on the patch grid; of a `finer` refinement on the pixels that the model saw (height, width of
            `encoding.pixels`). All that `Explanation` makes of a map takes either.

        Raises:
            OptionError: an option that this refinement does not have, or a value outside its range.
            ShapeError: the maps are not (image, text, row, col) of this encoding.
            KeepError: the encoding kept too few blocks.
        """
        if maps.ndim != 4 or len(maps) != len(encoding.pixels) or not maps.numel():
            raise ShapeError(
                f"maps must be (image, text, row, col) of the {len(encoding.pixels)} encoded images, "
                f"got {tuple(maps.shape)}."
            )
        options = self.check(options)
        from eclip.backbones.backbone import eval_no_grad

        with eval_no_grad(encoding.backbone.model):
            return self.function(maps.detach().to(encoding.pixels.device).float(), encoding, **options)


def check_refinement(name: Any, options: Any) -> dict[str, Any]:
    """The options of a refinement, once it is sure that it exists and has them; none of no refinement.

    Raises:
        UnknownNameError: there is no such refinement.
        OptionError: no name, an option that it does not have, a value that does not fit, or options and no refinement.
    """
    if options is not None and not isinstance(options, dict):
        raise OptionError(f"refine_options must be a dict such as {{'k': 50}}, got {options!r}.")
    if name is not None and not isinstance(name, str):
        raise OptionError(f"refine must be the name of one refinement, such as 'lposs', got {name!r}.")
    if name is None:
        if options:
            raise OptionError(f"options {listed(options)} of a refinement, but none is asked for: refine='lposs'?")
        return {}
    return entry_of(name, REFINEMENTS, "refinement", "`eclip refinements ls`").check(options or {})


# fmt: off
REFINEMENTS: dict[str, Refinement] = {refinement.name: refinement for refinement in (
    Refinement("lposs", 1, False,
               summary="Label propagation over patches that look alike and lie near (Stojnić et al. 2025, LPOSS)."),
    Refinement("lposs+", 1, True,
               summary="LPOSS, then the same over pixels of like color in a window (Stojnić et al. 2025)."),
    Refinement("pamr", 0, True,
               summary="Ten local means over pixels of like color (Araslanov and Roth 2020, PAMR)."),
)}
# fmt: on
