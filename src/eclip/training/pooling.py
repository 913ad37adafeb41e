"""Masked max pooling of ECLIP (Li et al. 2022, https://arxiv.org/abs/2209.07046), its variants and controls.

Training uses `DEFAULT_FORM`, which is our own; `PAPER_FORM` is masked max pooling as we read the paper.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from eclip.backbones.blocks import unit
from eclip.errors import OptionError, ShapeError
from eclip.registry import one_of
from eclip.training.config import INSIDES

FORMS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "soft": lambda tokens, guide, inside: (tokens * guide).max(dim=1).values,
    "hard": lambda tokens, guide, inside: (tokens * inside).max(dim=1).values,
    "exclusion": lambda tokens, guide, inside: tokens.masked_fill(~inside, -torch.inf).max(dim=1).values,
    "soft_unit": lambda tokens, guide, inside: (unit(tokens) * guide).max(dim=1).values,
    "exclusion_unit": lambda tokens, guide, inside: unit(tokens).masked_fill(~inside, -torch.inf).max(dim=1).values,
    "max": lambda tokens, guide, inside: tokens.max(dim=1).values,
    "masked_mean": lambda tokens, guide, inside: (tokens * guide).sum(dim=1) / guide.sum(dim=1),
    "mean": lambda tokens, guide, inside: tokens.mean(dim=1),
}
"""Poolings of tokens (image, patch, feature), given the guide (image, patch, 1) and which patches are inside."""
SIMILARITIES = ("similarity", "similarity_smooth")
"""Forms that pool the cosines with each text instead, see `match`."""
DEFAULT_FORM, PAPER_FORM = "similarity_smooth", "soft"
SHARPNESS = 20.0
"""Inverse temperature of the smooth maximum of cosines."""


def masked_max_pool(
    tokens: Float[Tensor, "image patch feature"],
    guide: Float[Tensor, "image patch"] | None = None,
    form: str = PAPER_FORM,
    threshold: str = "mean",
) -> Float[Tensor, "image feature"]:
    """The maximum of each channel over the patches selected by the guide, not normalized.

    The paper's abstract names the step; its exact form is unknown, so these are variants (P tokens, A guide):
    "soft" max_n A_n P_nc (what we believe the paper uses; a channel that is negative on the whole object ends near 0
    where A is small), "hard" max_n [n inside] P_nc, "exclusion" max over the patches inside (without this floor);
    "soft_unit" and "exclusion_unit" for tokens of unit length, so that long tokens do not dominate. Controls: "max" (no
    guide), "masked_mean" sum_n A_n P_nc / sum_n A_n, "mean".

    Args:
        tokens: projected patches.
        guide: how much each patch belongs to an object, 0 or more; it is divided by its maximum. None or a flat map
            weights all patches equally.
        form: a name in `FORMS`; the default of `eclip train` is not one of them, see `match`.
        threshold: which patches are inside: "mean", those above the map's mean; "mass", the smallest set with 60 % of
            its sum (as in DINO's visualizations, https://arxiv.org/abs/2104.14294).

    Raises:
        OptionError: form or threshold is unknown.
        ShapeError: the guide does not fit the tokens, has negative or infinite values, or is zero for an image.
    """
    if form not in FORMS:
        hint = " (this form requires texts, see `match`)" if form in SIMILARITIES else ""
        raise OptionError(f"form must be one of {', '.join(FORMS)}, got {form!r}{hint}.")
    guide = _checked(guide, tokens, threshold)
    return FORMS[form](tokens, guide[:, :, None], _inside(guide, threshold)[:, :, None])


def match(
    tokens: Float[Tensor, "image patch feature"],
    text: Float[Tensor, "text feature"],
    guide: Float[Tensor, "image patch"] | None = None,
    form: str = DEFAULT_FORM,
    threshold: str = "mean",
) -> Float[Tensor, "image text"]:
    """How well each image matches each text, the input of the contrastive loss.

    For a form in `FORMS`, it is the cosine of the pooled vector with the text. Two more forms pool the cosines c_n of
    patches with the text instead of channels, so that each text selects its own patch: "similarity" max_n A_n c_n, and
    "similarity_smooth" (1 / b) log(sum_n A_n exp(b c_n) / sum_n A_n) with b = 20, a smooth maximum that also involves
    other patches.

    Args:
        tokens: projected patches.
        text: unit length.
        guide: see `masked_max_pool`.
        form: a name in `FORMS` or `SIMILARITIES`; the default is also that of `TrainConfig`.
        threshold: see `masked_max_pool`.

    Raises:
        OptionError: form or threshold is unknown.
        ShapeError: the guide is invalid, see `masked_max_pool`.
    """
    one_of(form, "form", (*FORMS, *SIMILARITIES))
    if form in FORMS:
        return unit(masked_max_pool(tokens, guide, form, threshold)) @ text.T
    guide = _checked(guide, tokens, threshold)[:, :, None]
    cosines = unit(tokens) @ text.T  # image patch text
    if form == "similarity":
        return (guide * cosines).max(dim=1).values
    weights = (guide / guide.sum(dim=1, keepdim=True)).log()  # minus infinity for patches with weight 0
    return (SHARPNESS * cosines + weights).logsumexp(dim=1) / SHARPNESS


def _checked(guide: Tensor | None, tokens: Tensor, threshold: str) -> Float[Tensor, "image patch"]:
    """The guide divided by its maximum."""
    one_of(threshold, "threshold", INSIDES)
    if guide is None:
        return torch.ones_like(tokens[:, :, 0])
    if guide.shape != tokens.shape[:2]:
        raise ShapeError(f"guide must be (image, patch) = {tuple(tokens.shape[:2])}, got {tuple(guide.shape)}.")
    if not bool(((guide >= 0) & guide.isfinite()).all() & (guide.amax(dim=1) > 0).all()):
        raise ShapeError("guide must be finite, nonnegative everywhere and positive somewhere in each image.")
    return guide / guide.amax(dim=1, keepdim=True)


def _inside(guide: Float[Tensor, "image patch"], threshold: str) -> Bool[Tensor, "image patch"]:
    """Patches inside the object, given a guide whose maximum is 1: at least one, and all if the guide is flat."""
    peak = guide == 1
    if threshold == "mean":
        return (guide > guide.mean(dim=1, keepdim=True)) | peak  # the mean of a nearly flat map rounds to 1
    mass, order = guide.sort(dim=1, descending=True)
    before = mass.cumsum(dim=1) - mass  # the mass of all larger ones
    kept = before < 0.6 * mass.sum(dim=1, keepdim=True)
    return torch.zeros_like(kept).scatter(1, order, kept) | peak.all(dim=1, keepdim=True)
