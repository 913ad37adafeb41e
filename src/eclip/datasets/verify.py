"""Is a data set complete? Check that all files exist, and read some or all images and masks as an evaluation would."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from eclip.datasets.mask_files import BACKGROUND, VOID
from eclip.datasets.masked import Masked, MaskSet
from eclip.datasets.pair import Pair
from eclip.errors import DataError, DataWarning, ImageError

if TYPE_CHECKING:
    from eclip.datasets import Dataset

SAMPLE = 20
"""Number of images that are read unless all are, spread evenly over the split."""


@dataclass(frozen=True)
class Verified:
    """The result of verifying a data set.

    Attributes:
        name: of the data set.
        split: of the data set.
        found: number of images whose files all exist.
        expected: published numbers; several if several lists are in use, none if no number is published.
        decoded: number of images that were read with their masks.
        problems: what is missing, broken or left out, each with its remedy.
        notes: how masks are interpreted, and the number of groups of images; these are not problems.
    """

    name: str
    split: str
    found: int
    expected: tuple[int, ...]
    decoded: int
    problems: tuple[str, ...]
    notes: tuple[str, ...] = ()


def verify(
    dataset: Dataset,
    root: str | Path | None,
    split: str | None,
    every: bool,
    progress: Callable[[int, int], None] | None,
) -> Verified:
    """See `Dataset.verify`."""
    split = dataset.checked(split)
    expected = dataset.counts.get(split, ())
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always", DataWarning)
            listed = dataset.listed(root, split)
    except DataError as error:
        return Verified(dataset.name, split, 0, expected, 0, (str(error),))
    problems = [] if isinstance(listed, MaskSet) else [f"{key}: {why}" for key, why in listed.bad]
    problems += [str(one.message) for one in told if issubclass(one.category, DataWarning)]
    count = len(listed.items)
    sample = set(range(count) if every else np.linspace(0, count - 1, min(SAMPLE, count)).round().astype(int).tolist())
    found = decoded = 0
    shown: list[set[int]] = []
    for place in range(count):
        try:
            item = listed.items[place]
            missing = "" if isinstance(item, Pair) else item.missing()
            if not missing:
                found += 1
                if place in sample:
                    decoded += 1
                    item.open()
                    if isinstance(item, Masked):
                        shown.append(set(np.unique(item.read()).tolist()))
        except (DataError, ImageError) as error:
            missing = str(error)
        if missing:
            problems.append(missing)
        if progress is not None:
            progress(place + 1, count)
    if expected and found not in expected:
        wanted = " or ".join(f"{number:,}" for number in expected)
        missing = f"{dataset.name}, split {split!r}: {found:,} images are complete, but {wanted} are published."
        problems.append(f"{missing} Download the missing files again.")
    notes = listed.notes if isinstance(listed, MaskSet) else ()
    if (groups := len(set(listed.group_numbers()))) < count and any(item.group for item in listed.items):
        notes += (f"the images form {groups:,} group{'s' * (groups > 1)}; confidence intervals are over groups.",)
    return Verified(dataset.name, split, found, expected, decoded, (*problems, *_senseless(shown)), notes)


def _senseless(shown: list[set[int]]) -> list[str]:
    """What makes readable masks useless."""
    if shown and all(one <= {BACKGROUND, VOID} for one in shown):
        seen = "background and void (255)" if any(VOID in one for one in shown) else "background (0)"
        return [
            f"none of the {len(shown)} masks read shows a class, only {seen}: write the class number of each object "
            "into its pixels."
        ]
    if shown and all(len(one - {VOID}) == 1 and BACKGROUND not in one for one in shown):
        return [
            f"each of the {len(shown)} masks read has one class in all pixels that are not void, so no map can be "
            "wrong: write 0 into background pixels."
        ]
    return []
