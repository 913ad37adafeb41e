"""Queries: what a user looks for, texts and examples in one list, or features in their place."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from eclip.backbones.backbone import Backbone
from eclip.backbones.view import View
from eclip.errors import OptionError
from eclip.texts.encode import are_listed, are_worth_keeping, check_texts, encode_apart
from eclip.texts.features import unit_features
from eclip.texts.like import Like

Texts = str | Like | Iterable[str | Like] | Tensor
"""What to look for: one or more texts or examples, or features (text, feature) in their place."""


def texts_or_features(texts: Texts, names: Iterable[str] | None) -> tuple[list[str | Like], Tensor | None]:
    """The texts and examples, and None; or, for features, their names and the features as unit rows.

    Without names, features are called "feature 0", "feature 1" and so on.

    Raises:
        TextError: no text, an empty one, or features that are not finite or have no length.
        ShapeError: features are not a floating-point tensor (text, feature).
        OptionError: names do not fit, or were given with texts.
    """
    if not isinstance(texts, Tensor):
        if names is not None:
            raise OptionError("names are for features; texts are their own names: leave names out.")
        return check_queries(texts), None
    features = unit_features(texts)
    if names is None:
        return [f"feature {index}" for index in range(len(features))], features
    listed: list[str | Like] = [*check_texts(names)]
    if len(listed) != len(features):
        raise OptionError(f"names must be one for each of {len(features)} features, got {len(listed)}.")
    if twice := [name for index, name in enumerate(listed) if name in listed[:index]]:
        raise OptionError(f"two features have the name {twice[0]!r}: name each differently.")
    return listed, features


def check_queries(queries: Any) -> list[str | Like]:
    """One or more texts or examples, with different names.

    Raises:
        TextError: there is none, or a text is empty.
        OptionError: an example has the name of another or of a text, although both have the names of whole paths.
    """
    if isinstance(queries, Like):
        return [queries]
    if isinstance(queries, str | bytes | Mapping) or not are_listed(queries):
        return [*check_texts(queries)]  # it says what is wrong
    listed = list(queries)
    if not any(isinstance(one, Like) for one in listed):
        return [*check_texts(listed)]
    check_texts([one for one in listed if not isinstance(one, Like)] or ["a"])
    names = names_of(listed)
    listed = [one.by_path() if isinstance(one, Like) and names.count(one.name) > 1 else one for one in listed]
    names = names_of(listed)
    for one in listed:
        if isinstance(one, Like) and names.count(one.name) > 1:
            raise OptionError(
                f"two queries have the name {one.name!r}: leave one out, or in Python, name it, like(..., name=...)."
            )
    return listed


def names_of(queries: Iterable[str | Like]) -> list[str]:
    """What results call them."""
    return [one.name if isinstance(one, Like) else one for one in queries]


def can_be_written(examples: Mapping[str, dict[str, Any]], names: Sequence[str]) -> bool:
    """Whether a command can ask for these texts and examples in this order.

    None may be in memory or renamed, all must have the same image mean, and they must come after the texts.
    """
    return (
        all(one["like"] is not None for one in examples.values())
        and len({one["image_mean"] for one in examples.values()}) <= 1
        and set(names[len(names) - len(examples) :]) == set(examples)
    )


def encode_queries(
    queries: Sequence[str | Like], backbone: Backbone, view: View, templates: str | Sequence[str]
) -> tuple[Float[Tensor, "query feature"], dict[str, dict[str, Any]]]:
    """Unit features of texts and examples, and what provenance says about each example, by name."""
    texts = [one for one in queries if isinstance(one, str)]
    features = iter(encode_apart(backbone, texts, templates, keep=are_worth_keeping(texts, templates)) if texts else ())
    rows, examples = [], {}
    for one in queries:
        if isinstance(one, Like):
            row, examples[one.name] = one.encoded(backbone, view, templates)
            rows.append(row)
        else:
            rows.append(next(features))
    return torch.stack(rows), examples
