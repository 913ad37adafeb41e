"""Features that a user passes in place of texts: checked, and scaled to unit length."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from eclip.backbones.backbone import Backbone
from eclip.backbones.blocks import unit
from eclip.errors import OptionError, ShapeError, TextError

NEAR = 1e-6
"""Rows of float32 whose length differs from one by less are used as they are, so that maps equal those of the texts."""


def unit_features(features: Tensor) -> Float[Tensor, "text feature"]:
    """The features as unit rows in float32 at least, without a graph; those of unit length keep their bits.

    Raises:
        ShapeError: they are not a floating-point tensor (text, feature) with one row or more.
        TextError: a value is NaN or infinite, or a row has no length.
    """
    if features.ndim != 2 or 0 in features.shape or not features.is_floating_point():
        hint = " Add the first axis with [None]." if features.ndim == 1 else ""
        raise ShapeError(
            "features in place of texts must be a floating-point tensor (text, feature), as from eclip.encode_texts, "
            f"got {features.dtype} {tuple(features.shape)}.{hint}"
        )
    if features.is_meta:
        raise TextError("the features are on the device 'meta' and have no values: create them on a real device.")
    with torch.inference_mode(False), torch.no_grad():
        rows = features.to(torch.promote_types(features.dtype, torch.float32))
        for wrong, what in (
            (~rows.isfinite().all(dim=-1), "contains NaN or infinity"),
            (~rows.any(dim=-1), "is all zeros, so it has no direction"),
        ):
            if wrong.any():
                raise TextError(f"feature {int(wrong.nonzero()[0, 0]) + 1} of {len(rows)} {what}.")
        near = (rows.norm(dim=-1, keepdim=True) - 1).abs() < NEAR
        return torch.where(near, rows, unit(rows / rows.abs().amax(dim=-1, keepdim=True)))


def check_given(
    features: Float[Tensor, "text feature"],
    backbone: Backbone,
    names: Sequence[str],
    templates: str | tuple[str, ...],
    versus: str | None,
) -> Float[Tensor, "text feature"]:
    """Unit rows on the model's device, in its precision but float32 at least, if the options of `explain` fit them.

    Raises:
        ShapeError: they are not of this model's feature size.
        OptionError: templates were given, or versus is not one of the names.
    """
    if templates != "none":
        raise OptionError("templates are for texts; features are used as they are: leave templates out.")
    if versus is not None and versus not in names:
        raise OptionError(f"versus must be the name of one of the features, {', '.join(names)}, got {versus!r}.")
    if features.shape[1] != backbone.feature_size:
        raise ShapeError(
            f"features of {backbone.name} have {backbone.feature_size} values each, got {tuple(features.shape)}: use "
            "those of the same model."
        )
    weight = backbone.weight
    return features.to(weight.device, torch.promote_types(weight.dtype, torch.float32))
