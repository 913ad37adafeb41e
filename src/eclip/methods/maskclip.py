"""MaskCLIP, each patch's value projection instead of attention (Zhou et al. 2022, https://arxiv.org/abs/2112.01071).

Code: chongzhou96/MaskCLIP (Apache-2.0), commit 245d31f.
Differs from it: uses the model's own activation and norm, whereas the released ViT configuration has exact GELU and
epsilon 1e-6 instead of CLIP's QuickGELU and 1e-5; key smoothing and prompt denoising, which refine a segmentation, are
not included.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from eclip.backbones.blocks import cosine, finish
from eclip.backbones.encoding import Encoding


def maskclip(encoding: Encoding, text: Float[Tensor, "text feature"]) -> Float[Tensor, "image text row col"]:
    """Cosine of each patch's value projection with the text, as if the patch attended only to itself in the last block.

    A ViT keeps residual and MLP; in an attention pool, the patch passes through value and output projection without
    its position embedding.

    Args:
        encoding: with the last block kept.
        text: unit length.

    Returns:
        Cosines in [-1, 1].
    """
    return encoding.on_grid(cosine(patch_features(encoding), text))


def patch_features(encoding: Encoding) -> Float[Tensor, "image patch feature"]:
    """The value projection of each patch as a feature, not normalized; requires `encoding` with the last block kept."""

    def project() -> Tensor:
        [(block, x)] = encoding.tail(1, "maskclip")
        patches = x[:, encoding.prefix :]  # image patch channel
        return encoding.backbone.project(finish(block, patches, encoding.value(block, x)[:, :, encoding.prefix :]))

    return encoding.once("maskclip", project)
