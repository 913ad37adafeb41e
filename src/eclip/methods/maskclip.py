"""MaskCLIP, each patch's own value instead of attention (Zhou et al. 2022, https://arxiv.org/abs/2112.01071).

Code: chongzhou96/MaskCLIP (Apache-2.0), commit 245d31f.
Differs from it: the model's own activation and norm are used, where the released ViT configuration has exact GELU and
epsilon 1e-6 against CLIP's QuickGELU and 1e-5; key smoothing and prompt denoising, which refine a segmentation, are not
part of the map.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from eclip.backbones.blocks import cosine, finish
from eclip.backbones.encoding import Encoding


def maskclip(encoding: Encoding, text: Float[Tensor, "text feature"]) -> Float[Tensor, "image text row col"]:
    """Cosine of what each patch passes on in the last block, as if it attended to itself alone.

    In a ViT residual and MLP stay; in an attention pool the patch goes through value and output projection without its
    position.

    Args:
        encoding: with the last block kept.
        text: unit length.

    Returns:
        Cosines in [-1, 1].
    """
    return encoding.on_grid(cosine(patch_features(encoding), text))


def patch_features(encoding: Encoding) -> Float[Tensor, "image patch feature"]:
    """What each patch passes on, in the space of features, not normalized; `encoding` has the last block kept."""
    [(block, x)] = encoding.tail(1, "maskclip")
    patches = x[:, encoding.prefix :]  # image patch channel
    return encoding.backbone.project(finish(block, patches, block.value(block.norm1(patches))))
