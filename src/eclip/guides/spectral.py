"""Normalized cut of the patches into object and background (Shi and Malik 2000, https://doi.org/10.1109/34.868688).

On tokens of a ViT: TokenCut (Wang et al. 2022, https://arxiv.org/abs/2202.11539) and Melas-Kyriazi et al. (2022,
https://arxiv.org/abs/2205.07839). Written from the formulas.
Differs from them: uses tokens of the model whose head is trained, not of DINO, after subtracting the mean over patches,
because CLIP's tokens are all similar otherwise; similarity is the cosine itself, not whether it reaches a threshold;
the object is the side that touches less of the border; the eigenvector is not turned into a mask.
TokenCut's choice is `features="keys", centered=False, tau=0.2, foreground="largest"`.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from eclip import heatmap
from eclip.backbones.backbone import Grid
from eclip.backbones.blocks import unit
from eclip.backbones.patches import patch_features
from eclip.errors import EclipError, OptionError
from eclip.guides import Seen

FEATURES = ("inputs", "keys", "values", "tokens")
FOREGROUNDS = ("border", "largest")
LEAST = 1e-5
"""Similarity of patches that are not alike, which keeps the graph connected: TokenCut's value."""
AT_ONCE = 1 << 22
"""Most graph weights held in memory at once; larger batches are processed in parts."""


def spectral(
    seen: Seen, *, features: str = "inputs", centered: bool = True, tau: float | None = None, foreground: str = "border"
) -> Float[Tensor, "image row col"]:
    """The second eigenvector y of `(D - W) y = lambda D y`, min-max normalized, high on the object.

    W is the similarity of patches and D the diagonal matrix of its row sums; the sign of y separates the two sides of
    the cheapest balanced cut. The cost is cubic in the number of patches: a third of a second per image for 32 x 32.

    Args:
        seen: its encoding must have the last block kept.
        features: what is compared: "inputs", "keys" or "values" of the last block, or "tokens", its output.
        centered: subtract the mean over the image's patches before taking cosines.
        tau: None: W is the cosine, at least 1e-5; a number: 1 where the cosine is at least tau, 1e-5 elsewhere.
        foreground: which side of the mean of y is the object: "border", the side with fewer patches on the image
            border, or "largest", the side with the largest absolute value of y (TokenCut), which also breaks ties.

    Returns:
        Values in [0, 1]; zeros for an image whose patches are all equally similar.

    Raises:
        OptionError: an option outside its range.
        KeepError: the last block was not kept.
        EclipError: the tokens contain NaN or infinity.
    """
    for option, value, known in (("features", features, FEATURES), ("foreground", foreground, FOREGROUNDS)):
        if value not in known:
            raise OptionError(f"'spectral' needs {option} to be one of {', '.join(known)}, got {value!r}.")
    if tau is not None and not -1 <= tau <= 1:
        raise OptionError(f"'spectral' needs tau to be None or a cosine between -1 and 1, got {tau}.")
    grid = seen.encoding.grid
    tokens = patch_features(seen.encoding, features, "spectral").double()
    if not bool(tokens.isfinite().all()):
        raise EclipError("'spectral': tokens are NaN or infinite, because the model's weights or pixels are.")
    count = max(1, AT_ONCE // tokens.shape[1] ** 2)
    found = torch.cat([_cut(likeness(some, centered, tau)) for some in tokens.split(count)])
    found = torch.where(_is_below(found, grid, foreground)[:, None], -found, found)
    return heatmap.normalize(found.unflatten(1, grid))


def _cut(weights: Float[Tensor, "image patch other"]) -> Float[Tensor, "image patch"]:
    """The eigenvector, or zeros if all weights are equal, so that all cuts are equally good."""
    alike = (weights == weights[:, :1, :1]).flatten(1).all(dim=1, keepdim=True)
    if bool(alike.all()):
        return torch.zeros_like(weights[:, 0])
    return second_eigenvector(weights).masked_fill(alike, 0)


def likeness(
    tokens: Float[Tensor, "image patch channel"], centered: bool, tau: float | None
) -> Float[Tensor, "image patch other"]:
    """W: cosines of patches, at least 1e-5. See `spectral`."""
    if centered:
        apart = tokens - tokens.mean(dim=1, keepdim=True)
        rounding = 1e-6 * tokens.norm(dim=-1, keepdim=True)
        tokens = apart.masked_fill(apart.norm(dim=-1, keepdim=True) <= rounding, 0)
    rows = unit(tokens)
    cosines = rows @ rows.transpose(1, 2)
    return cosines.clamp_min(LEAST) if tau is None else (cosines >= tau).to(cosines).clamp_min(LEAST)


def second_eigenvector(weights: Float[Tensor, "image patch other"]) -> Float[Tensor, "image patch"]:
    """The y of the second smallest lambda in `(D - W) y = lambda D y`; its sign and length are arbitrary.

    With `z = D^(1/2) y` it is the eigenvector of the symmetric `I - D^(-1/2) W D^(-1/2)`.

    Args:
        weights: W, symmetric, above 0, of two patches or more.
    """
    root = weights.sum(dim=-1).rsqrt()
    one = torch.eye(weights.shape[-1], dtype=weights.dtype, device=weights.device)
    laplacian = one - root[:, :, None] * weights * root[:, None]
    return torch.linalg.eigh(laplacian).eigenvectors[..., 1] * root


def _is_below(found: Float[Tensor, "image patch"], grid: Grid, foreground: str) -> Bool[Tensor, " image"]:
    """Whether the object is where the eigenvector is below its mean."""
    apart = found - found.mean(dim=1, keepdim=True)
    largest = found.abs().argmax(dim=1, keepdim=True)
    below = apart.gather(1, largest)[:, 0] < 0
    if foreground == "largest":
        return below
    border = torch.ones(grid, dtype=torch.bool, device=found.device)
    border[1:-1, 1:-1] = False
    outer = apart[:, border.flatten()]
    over, under = (outer > 0).sum(dim=1), (outer < 0).sum(dim=1)
    return torch.where(over == under, below, over > under)
