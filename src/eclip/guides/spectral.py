"""Normalized cut of the patches in two (Shi and Malik 2000, https://doi.org/10.1109/34.868688), thing and rest.

On tokens of a ViT: TokenCut (Wang et al. 2022, https://arxiv.org/abs/2202.11539) and Melas-Kyriazi et al. (2022,
https://arxiv.org/abs/2205.07839). Written from the formulas.
Differs from them: tokens of the model that is trained, not of DINO, less what all patches of the image share, since
CLIP's tokens are all alike otherwise; likeness is the cosine itself, not whether it reaches a threshold; the thing is
the side that touches less of the border; the eigenvector is not made a mask.
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
"""Likeness of patches that are not alike, which keeps the graph in one piece: TokenCut's."""
AT_ONCE = 1 << 22
"""Weights that are in memory at a time; more images than that allows take turns."""


def spectral(
    seen: Seen,
    *,
    features: str = "inputs",
    centered: bool = True,
    tau: float | None = None,
    foreground: str = "border",
) -> Float[Tensor, "image row col"]:
    """The second eigenvector y of `(D - W) y = lambda D y`, min-max, high where the thing is.

    W is the likeness of patches, D the diagonal of its row sums; y has one sign on each side of the cheapest cut that
    leaves much on both sides. Its cost is the patches cubed: on 32 x 32 of them a third of a second an image.

    Args:
        seen: its encoding has the last block kept.
        features: what makes patches alike: "inputs", "keys" or "values" of the last block, or "tokens", its output.
        centered: the mean of the image's patches is taken from each before cosines.
        tau: None: W is the cosine, at least 1e-5; a number: 1 where the cosine is at least tau, 1e-5 elsewhere.
        foreground: which side of the mean of y the thing is: "border", that with fewer of the image's outermost
            patches, or "largest", that with the largest absolute value of y (TokenCut), which also decides a tie.

    Returns:
        Values in [0, 1]; zeros of an image whose patches are all equally alike.

    Raises:
        OptionError: an option outside its range.
        KeepError: the last block was not kept.
        EclipError: the tokens hold NaN or infinity.
    """
    for option, value, known in (("features", features, FEATURES), ("foreground", foreground, FOREGROUNDS)):
        if value not in known:
            raise OptionError(f"'spectral' needs {option} one of {', '.join(known)}, got {value!r}.")
    if tau is not None and not -1 <= tau <= 1:
        raise OptionError(f"'spectral' needs tau between -1 and 1, as cosines are, or none, got {tau}.")
    grid = seen.encoding.grid
    tokens = patch_features(seen.encoding, features, "spectral").double()
    if not bool(tokens.isfinite().all()):
        raise EclipError("'spectral': tokens are NaN or infinite: the model's weights or pixels hold such values.")
    count = max(1, AT_ONCE // tokens.shape[1] ** 2)
    found = torch.cat([_cut(likeness(some, centered, tau)) for some in tokens.split(count)])
    found = torch.where(_is_below(found, grid, foreground)[:, None], -found, found)
    return heatmap.normalize(found.unflatten(1, grid))


def _cut(weights: Float[Tensor, "image patch other"]) -> Float[Tensor, "image patch"]:
    """The eigenvector, or zeros where all weights are one and any cut is as good."""
    alike = (weights == weights[:, :1, :1]).flatten(1).all(dim=1, keepdim=True)
    if bool(alike.all()):
        return torch.zeros_like(weights[:, 0])
    return second_eigenvector(weights).masked_fill(alike, 0)


def likeness(
    tokens: Float[Tensor, "image patch channel"], centered: bool, tau: float | None
) -> Float[Tensor, "image patch other"]:
    """W: cosines of patches, 1e-5 where they are not alike. See `spectral`."""
    if centered:
        apart = tokens - tokens.mean(dim=1, keepdim=True)
        rounding = 1e-6 * tokens.norm(dim=-1, keepdim=True)
        tokens = apart.masked_fill(apart.norm(dim=-1, keepdim=True) <= rounding, 0)
    rows = unit(tokens)
    cosines = rows @ rows.transpose(1, 2)
    return cosines.clamp_min(LEAST) if tau is None else (cosines >= tau).to(cosines).clamp_min(LEAST)


def second_eigenvector(weights: Float[Tensor, "image patch other"]) -> Float[Tensor, "image patch"]:
    """The y of the second smallest lambda in `(D - W) y = lambda D y`; its sign and length mean nothing.

    With `z = D^(1/2) y` it is the eigenvector of the symmetric `I - D^(-1/2) W D^(-1/2)`.

    Args:
        weights: W, symmetric, above 0, of two patches or more.
    """
    root = weights.sum(dim=-1).rsqrt()
    one = torch.eye(weights.shape[-1], dtype=weights.dtype, device=weights.device)
    laplacian = one - root[:, :, None] * weights * root[:, None]
    return torch.linalg.eigh(laplacian).eigenvectors[..., 1] * root


def _is_below(found: Float[Tensor, "image patch"], grid: Grid, foreground: str) -> Bool[Tensor, " image"]:
    """Whether the thing is where the eigenvector is below its mean."""
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
