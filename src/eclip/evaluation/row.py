"""A row of a result: one method, or baseline, on one model."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from eclip.evaluation.bootstrap import Number, Weights, number


@dataclass(frozen=True)
class Row:
    """What was measured of one map.

    Attributes:
        method: its name, or that of a baseline.
        baseline: it knows neither text nor model.
        pairs: how many maps were scored.
        images: of so many images.
        numbers: by name of the metric.
        facts: what else there is to say: thresholds, curves, classes.
        each: the pairs one by one: "image" (place of the item in the data set), "class", and numbers.
        groups: how many groups the images come in, over which the intervals are.
    """

    method: str
    baseline: bool
    pairs: int
    images: int
    numbers: dict[str, Number]
    facts: dict[str, Any] = field(default_factory=dict)
    each: list[dict[str, Any]] = field(default_factory=list, repr=False)
    groups: int = 0


def mean_rows(
    names: Sequence[str],
    baselines: Collection[str],
    keys: Sequence[str],
    values: Float[np.ndarray, "pair name key"],
    whole: dict[str, NDArray[Any]],
) -> list[Row]:
    """A row a name: the mean over pairs of each key; NaN where a pair has no such number, and it is left out.

    Args:
        names: of methods and baselines.
        baselines: those that are baselines.
        keys: of the numbers.
        values: of each pair.
        whole: of each pair, as `joined` has them: "images", "groups", "items" and "numbers", its class.
    """
    weights, rows, images = Weights(whole["groups"]), [], len(np.unique(whole["images"]))
    for column, name in enumerate(names):
        own = values[:, column].astype(float)
        replicates = weights.means(own)
        found = {key: number(known_mean(own[:, i]), replicates[:, i]) for i, key in enumerate(keys)}
        each = [
            {"image": int(item), "class": int(one), **dict(zip(keys, pair.tolist(), strict=True))}
            for item, one, pair in zip(whole["items"], whole["numbers"], own, strict=True)
        ]
        rows.append(Row(name, name in baselines, len(own), images, found, {}, each, len(weights.groups)))
    return rows


def known_mean(values: Float[np.ndarray, " pair"]) -> float:
    """Of those that are known; NaN where none is."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else np.nan
