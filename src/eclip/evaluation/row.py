"""A row of a result: one method, or baseline, on one model."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

from eclip.evaluation.bootstrap import Number, Weights, number
from eclip.evaluation.report.numbers import BOUND


@dataclass(frozen=True)
class Row:
    """The scores of a method or baseline.

    Attributes:
        method: name of the method or baseline.
        baseline: whether it is a baseline.
        pairs: number of maps that were scored.
        images: number of their images.
        numbers: by name of the metric.
        facts: further results: thresholds, curves, classes.
        each: one dict per pair: "image" (position of the item in the data set), "class", and numbers.
        groups: number of groups of images, over which the intervals are computed.
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
    listed: int | None = None,
) -> list[Row]:
    """One row per name: the mean of each key over pairs, leaving out NaN.

    Args:
        names: of methods and baselines.
        baselines: those that are baselines.
        keys: of the numbers.
        values: of each pair; NaN if a pair has no such number.
        whole: arrays over pairs, from `joined`: "images", "groups", "items" and "numbers" (the class).
        listed: each pair lists this many of the keys, from the first on; None = all.
    """
    weights, rows, images = Weights(whole["groups"]), [], len(np.unique(whole["images"]))
    for column, name in enumerate(names):
        own = values[:, column].astype(float)
        replicates = weights.means(own)
        found = {key: number(known_mean(own[:, i]), replicates[:, i]) for i, key in enumerate(keys)}
        each = [
            {"image": int(item), "class": int(one), **dict(zip(keys[:listed], pair.tolist(), strict=True))}
            for item, one, pair in zip(whole["items"], whole["numbers"], own[:, :listed], strict=True)
        ]
        rows.append(Row(name, name in baselines, len(own), images, found, {}, each, len(weights.groups)))
    return rows


def with_difference(
    rows: list[Row], values: Float[np.ndarray, "pair row"], groups: Int[np.ndarray, " pair"]
) -> list[Row]:
    """Add `over_control` after the first number of each method: its difference from the best baseline, image by image.

    Args:
        rows: of methods and baselines, from `mean_rows`; they are changed.
        values: the first number of each pair; NaN if a pair has no such number.
        groups: of the pairs.
    """
    known = (~np.isnan(values)).sum(axis=0)
    means = np.divide(np.nansum(values, axis=0), known, out=np.full(len(rows), np.nan), where=known > 0)
    baselines = [column for column, row in enumerate(rows) if row.baseline and row.method != BOUND]
    best = max(baselines, key=lambda column: means[column])
    replicates = Weights(groups).means(values)
    for column, row in enumerate(rows):
        if not row.baseline:
            first, *others = row.numbers.items()
            over = number(means[column] - means[best], replicates[:, column] - replicates[:, best])
            row.numbers.clear()
            row.numbers.update([first, ("over_control", over), *others])
    return rows


def known_mean(values: Float[np.ndarray, " pair"]) -> float:
    """Mean of the values that are not NaN; NaN if there are none."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else np.nan
