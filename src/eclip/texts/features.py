"""Features that a user passes in place of texts: checked, and scaled to unit length."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from eclip.backbones.backbone import Backbone
from eclip.backbones.blocks import unit
from eclip.errors import OptionError, ShapeError, TextError
from eclip.texts.encode import check_texts

Texts = str | Iterable[str] | Tensor
"""What to look for: one or more texts, or features (text, feature) in their place."""
NEAR = 1e-6
"""Rows of float32 whose length differs from one by less are used as they are, so that maps equal those of the texts."""


def texts_or_features(texts: Texts, names: Iterable[str] | None) -> tuple[list[str], Tensor | None]:
    """The texts and None; or, for features, their names and the features as unit rows.

    Args:
        texts: what the user passed.
        names: of the features; None = "feature 0", "feature 1" and so on.

    Raises:
        TextError: no text, an empty one, or features that are not finite or have no length.
        ShapeError: features are not a floating-point tensor (text, feature).
        OptionError: names do not fit, or were given with texts.
    """
    if not isinstance(texts, Tensor):
        if names is not None:
            raise OptionError("names are for features; texts are their own names: leave names out.")
        return check_texts(texts), None
    features = unit_features(texts)
    if names is None:
        return [f"feature {index}" for index in range(len(features))], features
    listed = check_texts(names)
    if len(listed) != len(features):
        raise OptionError(f"names must be one for each of {len(features)} features, got {len(listed)}.")
    if twice := [name for index, name in enumerate(listed) if name in listed[:index]]:
        raise OptionError(f"two features have the name {twice[0]!r}: name each differently.")
    return listed, features


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
    """The features on the model's device, in its precision but float32 at least, if all else fits them.

    Args:
        features: unit rows.
        backbone: the model.
        names: of the features.
        templates: as in `eclip.explain`, of which features have none.
        versus: as in `eclip.explain`.

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
