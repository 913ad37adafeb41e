"""All refinements of maps behind one signature: `REFINEMENTS[name](maps, encoding, **options)`.

A refinement aligns a map with the content of the image: patches that look alike get similar values, or the map follows
color edges. It does not use the texts. To add one, write a file and add a line here.
Importing the dict does not import torch: a refinement's file is imported on its first call.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from eclip.errors import OptionError, ShapeError
from eclip.registry import Entry, check_kind, entry_of, listed

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from eclip.backbones.encoding import Encoding


@dataclass(frozen=True)
class Refinement(Entry["Tensor"]):
    """A step after any method. Next to its function, its file has `check`, which rejects options out of range.

    Attributes:
        keep: how many last blocks the encoding must have kept.
        finer: the refined map is on the pixels of the model's input, not on the patch grid.
    """

    keep: int
    finer: bool

    def check(self, options: dict[str, Any]) -> dict[str, Any]:
        """Check options as for any entry, and their ranges.

        Raises:
            OptionError: an option that this refinement does not have, or a value of the wrong type or out of range.
        """
        plain = super().check(options)
        if options:
            self.module.check(**{**self.options, **options})
        return plain

    def __call__(
        self, maps: Float[Tensor, "image text row col"], encoding: Encoding, **options: Any
    ) -> Float[Tensor, "image text finer_row finer_col"]:
        """Refined maps, float32, without gradient; each image and each text is refined independently.

        The maps stay raw: no softmax, no clipping. Scaling a map, also by -1, scales the result.

        Args:
            maps: raw maps from a method, for the same images in the same order.
            encoding: of these images, from `eclip.encode`.
            options: see `self.options`.

        Returns:
            Maps on the patch grid, or on the model's input pixels (height, width of `encoding.pixels`) if the
            refinement is `finer`. `Explanation` accepts both.

        Raises:
            OptionError: an option that this refinement does not have, a value outside its range, or an argument of the
                wrong type.
            ShapeError: the maps are not (image, text, row, col) of this encoding.
            KeepError: the encoding kept too few blocks.
            StaleEncodingError: the model has changed since it encoded.
        """
        from torch import Tensor

        from eclip.backbones.backbone import eval_no_grad
        from eclip.backbones.encoding import Encoding

        check_kind(maps, Tensor, "maps", "a method returns them")
        check_kind(encoding, Encoding, "encoding", "eclip.encode returns it")
        if maps.ndim != 4 or len(maps) != len(encoding.pixels) or not maps.numel():
            raise ShapeError(
                f"maps must be (image, text, row, col) of the {len(encoding.pixels)} encoded images, "
                f"got {tuple(maps.shape)}."
            )
        options = self.check(options)
        encoding.check_current()
        with eval_no_grad(encoding.backbone.model):
            return self.function(maps.detach().to(encoding.pixels.device).float(), encoding, **options)


def check_refinement(name: Any, options: Any) -> dict[str, Any]:
    """The options of a refinement, after checking that it exists and has them; none, and empty, if name is None."""
    if options is not None and not isinstance(options, dict):
        raise OptionError(f"refine_options must be a dict such as {{'k': 50}}, got {options!r}.")
    if name is not None and not isinstance(name, str):
        raise OptionError(f"refine must be the name of one refinement, such as 'lposs', got {name!r}.")
    if name is None:
        if options:
            raise OptionError(f"refine_options {listed(options)} require refine; set refine='lposs', for example.")
        return {}
    return entry_of(name, REFINEMENTS, "refinement", "`eclip refinements ls`").check(options or {})


# fmt: off
REFINEMENTS: dict[str, Refinement] = {refinement.name: refinement for refinement in (
    Refinement("lposs", 1, False,
               summary="Label propagation between nearby patches that look alike (Stojnić et al. 2025, LPOSS)."),
    Refinement("lposs+", 1, True,
               summary="LPOSS, then the same between pixels of similar color within a window (Stojnić et al. 2025)."),
    Refinement("pamr", 0, True,
               summary="Repeated local averages over pixels of similar color (Araslanov and Roth 2020, PAMR)."),
)}
# fmt: on
