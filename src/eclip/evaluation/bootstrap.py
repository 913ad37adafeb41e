"""Confidence intervals by a streaming bootstrap over groups of images.

The bootstrap resamples groups, such as the frames of one video, since images of one group are not independent (cluster
bootstrap: Field and Welsh 2007, "Bootstrapping clustered data"); an image without a group is a group of one. Each group
counts Poisson(1) times in each replicate, instead of a multinomial draw from all; for more than a few dozen groups both
give the same spread, and Poisson weights need no list of groups (Chamandy et al. 2012, "Estimating uncertainty for
massive data streams"). A group's weights depend only on its number in the data set, so results do not depend on
batches, and methods are compared on the same replicates.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, UInt8

REPLICATES = 1000
BETWEEN = (2.5, 97.5)
"""Percentiles: a 95 % interval."""
_AT_ONCE = 100  # replicates in one product, which bounds memory


@dataclass(frozen=True)
class Number:
    """A value and its 95 % bootstrap interval, which contains 95 % of resampled sets of images; NaN if unknown."""

    value: float
    low: float
    high: float

    def plain(self) -> dict[str, float | None]:
        """As stored in results, rounded to six digits."""
        return {key: None if np.isnan(one) else round(float(one), 6) for key, one in vars(self).items()}


def number(value: float, replicates: Float[np.ndarray, " replicate"]) -> Number:
    """A value with the interval of its replicates; undefined replicates (NaN) are left out."""
    known = replicates[~np.isnan(replicates)]
    low, high = np.percentile(known, BETWEEN) if len(known) else (np.nan, np.nan)
    return Number(float(value), float(low), float(high))


class Weights:
    """How often each group counts in each replicate.

    Args:
        groups: the number of each row's group in the data set, in any order; rows of one group share their weights.
        replicates: number of replicates.
    """

    def __init__(self, groups: Int[np.ndarray, " row"], replicates: int = REPLICATES) -> None:
        self.groups, self._column = np.unique(groups, return_inverse=True)
        self.counts: UInt8[np.ndarray, "replicate known"] = np.zeros((replicates, len(self.groups)), np.uint8)
        if len(self.groups) == 1:  # it tells nothing about others, so there is no interval
            return
        for column, group in enumerate(self.groups):
            generator = np.random.Generator(np.random.Philox(key=int(group)))
            self.counts[:, column] = generator.poisson(1.0, replicates)

    def sums(
        self, values: Float[np.ndarray, "row value"], rows: Int[np.ndarray, " row"] | slice = slice(None)
    ) -> Float[np.ndarray, "replicate value"]:
        """Sum over rows of each value, in each replicate.

        Args:
            values: of all rows, or of some.
            rows: positions of these among all rows; default: all.
        """
        column = self._column[rows]
        own = np.zeros((len(self.groups), values.shape[1]))
        np.add.at(own, column, values)
        used = np.unique(column)
        parts = [
            self.counts[start : start + _AT_ONCE, used].astype(float) @ own[used]
            for start in range(0, len(self.counts), _AT_ONCE)
        ]
        return np.concatenate(parts)

    def means(self, values: Float[np.ndarray, "row value"]) -> Float[np.ndarray, "replicate value"]:
        """Mean over all rows of each value that is not NaN, in each replicate; NaN if there is none."""
        known = ~np.isnan(values)
        sums, counts = self.sums(np.where(known, values, 0)), self.sums(known.astype(float))
        return np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)

    def class_ratios(
        self,
        under: Float[np.ndarray, "row value"],
        over: Float[np.ndarray, "row value"],
        classes: Int[np.ndarray, " row"],
    ) -> Float[np.ndarray, "replicate value"]:
        """The mean over classes of the sum of `under` divided by that of `over`, in each replicate.

        A class without rows in a replicate, or whose `over` sums to 0, is left out of it; NaN if all are.

        Args:
            under: of each row, such as pixels of the intersection.
            over: of each row, such as pixels of the union; not negative.
            classes: the number of each row's class.
        """
        total = np.zeros((len(self.counts), under.shape[1]))
        known = np.zeros_like(total)
        for one in np.unique(classes):
            rows = np.flatnonzero(classes == one)
            above, below = self.sums(under[rows], rows), self.sums(over[rows], rows)
            total += np.divide(above, below, out=np.zeros_like(total), where=below > 0)
            known += below > 0
        return np.divide(total, known, out=np.full_like(total, np.nan), where=known > 0)
