"""Is a data set whole? All files are looked for; of some, or of all, image and mask are read as an evaluation would."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from eclip.datasets.mask_files import BACKGROUND, VOID
from eclip.datasets.masked import Masked, MaskSet
from eclip.errors import DataError, DataWarning, ImageError

if TYPE_CHECKING:
    from eclip.datasets import Dataset

SAMPLE = 20
"""Images that are read where not all are, spread evenly over the split."""


@dataclass(frozen=True)
class Verified:
    """What was found of a data set.

    Attributes:
        name: of the data set.
        split: of it.
        found: images whose files are all there.
        expected: as published; several where several lists are in use, none where no number is published.
        decoded: images and masks that were read.
        problems: what is missing, broken or left out, each with what to do.
        notes: what masks were taken for, and in how many groups images come; nothing is wrong with it.
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
    """See `Dataset.verify`.

    Raises:
        OptionError: there is no such split, or no root.
    """
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
            missing = item.missing() if isinstance(item, Masked) else ""
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
        missing = f"{dataset.name}, split {split!r}: {found:,} images are whole, {wanted} are published."
        problems.append(f"{missing} Fetch what is missing again.")
    notes = listed.notes if isinstance(listed, MaskSet) else ()
    if (groups := len(set(listed.group_numbers()))) < count and any(item.group for item in listed.items):
        notes += (f"the images come in {groups:,} group{'s' * (groups > 1)}, over which intervals are taken.",)
    return Verified(dataset.name, split, found, expected, decoded, (*problems, *_senseless(shown)), notes)


def _senseless(shown: list[set[int]]) -> list[str]:
    """What makes masks worthless that can all be read."""
    if shown and all(one <= {BACKGROUND, VOID} for one in shown):
        seen = "background and void (255)" if any(VOID in one for one in shown) else "background (0)"
        return [
            f"none of the {len(shown)} masks read shows a class, all are {seen} alone: write the number of its class "
            "where an object is."
        ]
    if shown and all(len(one - {VOID}) == 1 and BACKGROUND not in one for one in shown):
        return [
            f"each of the {len(shown)} masks read is of one class wherever it is not void, so that no map of it can be "
            "wrong: write 0 where there is background, or nothing of any class."
        ]
    return []
