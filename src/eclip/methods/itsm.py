"""ITSM, the image-text similarity map of ECLIP (Li et al. 2022, https://arxiv.org/abs/2209.07046).

We could not read the body of the paper. Like the authors' later code (xmed-lab/CLIP_Surgery, commit d4696d4, plain
branch), we project every token with the pooled token's output head and take cosines.
Differs from it: no min-max and no resizing here, several images at once, any grid.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from eclip.backbones.blocks import cosine
from eclip.backbones.encoding import Encoding
from eclip.errors import OptionError


def itsm(
    encoding: Encoding, text: Float[Tensor, "text feature"], *, plain: bool = False
) -> Float[Tensor, "image text row col"]:
    """Cosine of each patch token with the text, after the model's own output head.

    Args:
        encoding: any; no block is rerun.
        text: unit length.
        plain: for SigLIP's MAP head, compare the normalized tokens directly with the text, without the head.

    Returns:
        Cosines in [-1, 1]. With CLIP, the background tends to score higher than the object: see `rclip`.

    Raises:
        OptionError: plain=True for a tower without MAP head, or whose tokens and texts differ in width.
    """
    patches = encoding.tokens[:, encoding.prefix :]
    if plain:
        if encoding.backbone.bare is None:
            raise OptionError(
                f"'itsm' with plain=True requires a MAP head (SigLIP), but {encoding.backbone.name} is a "
                f"{encoding.backbone.family}. Leave plain out."
            )
        features = encoding.backbone.bare(patches)
        if features.shape[-1] != text.shape[-1]:
            raise OptionError(
                f"'itsm' with plain=True compares tokens with texts directly, but tokens of {encoding.backbone.name} "
                f"have {features.shape[-1]} channels and its texts {text.shape[-1]}. Leave plain out."
            )
    else:
        features = encoding.backbone.project(patches)
    return encoding.on_grid(cosine(features, text))
