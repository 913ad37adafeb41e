"""Is a data set whole? All files are looked for; of some, or of all, photo and mask are read as an evaluation would."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from eclip.datasets.masks import Masked, MaskSet
from eclip.datasets.pair import Pair
from eclip.errors import DataError, DataWarning, ImageError

if TYPE_CHECKING:
    from eclip.datasets import Dataset

SAMPLE = 20
"""Photos that are read where not all are, spread evenly over the split."""


@dataclass(frozen=True)
class Verified:
    """What was found of a data set.

    Attributes:
        name: of the data set.
        split: of it.
        found: photos whose files are all there.
        expected: as published; several where several lists are in use, none where no number is published.
        decoded: photos and masks that were read.
        problems: what is missing, broken or left out, each with what to do.
    """

    name: str
    split: str
    found: int
    expected: tuple[int, ...]
    decoded: int
    problems: tuple[str, ...]


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
        MissingExtraError: a package that it needs is not installed.
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
    for place in range(count):
        try:
            item = listed.items[place]
            missing = item.missing() if isinstance(item, Masked) else ""
            if not missing:
                found += 1
                if place in sample:
                    decoded += 1
                    _decode(item)
        except (DataError, ImageError) as error:
            missing = str(error)
        if missing:
            problems.append(missing)
        if progress is not None:
            progress(place + 1, count)
    if expected and found not in expected:
        wanted = " or ".join(f"{number:,}" for number in expected)
        missing = f"{dataset.name}, split {split!r}: {found:,} photos are whole, {wanted} are published."
        problems.append(f"{missing} Fetch what is missing again.")
    return Verified(dataset.name, split, found, expected, decoded, tuple(problems))


def _decode(item: Masked | Pair) -> None:
    item.open()
    if isinstance(item, Masked):
        item.read()
