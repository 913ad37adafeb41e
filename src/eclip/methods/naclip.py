"""NACLIP, attention that favors neighbors (Hajimiri et al. 2025, https://arxiv.org/abs/2404.08181).

Code: sinahmr/NACLIP (MIT), commit 0cac3a6, its default architecture "reduced".
Differs from it: returns cosines only, without the steps of a segmentation (sliding windows, softmax, PAMR).
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention

from eclip.backbones.backbone import Grid
from eclip.backbones.blocks import cosine, finish
from eclip.backbones.encoding import Encoding
from eclip.errors import OptionError

LEAST, MOST = 1e-6, 1e6


def naclip(
    encoding: Encoding,
    text: Float[Tensor, "text feature"],
    *,
    std: float = 5.0,
    neighbors: bool = True,
    reduced: bool = True,
) -> Float[Tensor, "image text row col"]:
    """Cosine of each patch's output of key-key attention with a bonus for near patches, softmax(k k + near) v.

    `near` is exp(-distance^2 / (2 std^2)), with the distance in patches; it is zero for prefix tokens.

    Args:
        encoding: with the last block kept. The authors resize positions as "bicubic_plus01".
        text: unit length.
        std: of the Gaussian, in patches, from 1e-6 (each patch only itself) to 1e6 (all alike).
        neighbors: False omits the bonus (the ablation "kk").
        reduced: False keeps residual and MLP (the ablation "vanilla").

    Returns:
        Cosines in [-1, 1].

    Raises:
        OptionError: std is outside its range, beyond which its square is not a number.
    """
    if not LEAST <= std <= MOST:
        raise OptionError(f"'naclip' needs a std from {LEAST:g} to {MOST:g} patches, got {std}.")

    def project() -> Tensor:
        [(block, x)] = encoding.tail(1, "naclip")
        _, k, v = encoding.qkv(block, x)
        near = pad(_near(encoding.grid, std), (encoding.prefix, 0, encoding.prefix, 0)).to(k) if neighbors else None
        patches = slice(encoding.prefix, None)
        mixed = scaled_dot_product_attention(k, k, v, attn_mask=near)[:, :, patches]
        tokens = block.out(mixed) if reduced else finish(block, x[:, patches], mixed)
        return encoding.backbone.project(tokens)

    return encoding.on_grid(cosine(encoding.once(("naclip", std, neighbors, reduced), project), text))


def _near(grid: Grid, std: float) -> Float[Tensor, "patch other"]:
    row, col = (torch.arange(side, dtype=torch.float64, device="cpu") for side in grid)
    across = [torch.exp(-((axis[:, None] - axis) ** 2) / (2 * std**2)) for axis in (row, col)]
    return torch.einsum("ij,kl->ikjl", *across).flatten(2).flatten(0, 1)  # a Gaussian is a product over the axes
