"""The pairs of a run in their random order, and how many of them may be bad."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from eclip.datasets.caption_sources import Pair, read_pairs
from eclip.errors import DataError
from eclip.training.config import TrainConfig
from eclip.training.word_prompts import as_words

BAD_SHARE, BAD_LEAST = 0.05, 200
"""A run stops if more than this share of pairs are bad, once at least this number has been examined."""


def drawn_pairs(config: TrainConfig) -> tuple[list[Pair], list[tuple[str, str]], list[tuple[str, ...]]]:
    """All pairs in a random order, those that cannot be used and why, and the texts of each pair.

    Raises:
        DataError: pairs cannot be read, or too many are bad.
    """
    pairs, unusable = read_pairs(
        config.train_data, image_key=config.image_key, caption_key=config.caption_key, separator=config.separator
    )
    check_bad(unusable, len(unusable) + len(pairs))
    mixed = [pairs[place] for place in drawn(0).permutation(len(pairs))]
    return mixed, unusable, as_words(mixed) if config.texts == "words" else [pair.captions for pair in mixed]


def check_bad(bad: Sequence[tuple[str, str]], looked: int) -> None:
    """Raise a DataError if too many of the pairs that were looked at are bad, given with the reasons."""
    if looked >= BAD_LEAST and len(bad) > BAD_SHARE * looked:
        some = " ".join(told(key, why) for key, why in bad[:3])
        raise DataError(
            f"{len(bad)} of {looked} pairs are bad, more than {BAD_SHARE:.0%}. The first: {some} "
            "Fix the data, or remove these pairs."
        )


def told(key: str, why: str) -> str:
    """What is wrong with a pair, in a sentence."""
    return why if key in why else f"{key}: {why}"


def drawn(*seeds: int) -> np.random.Generator:
    """Random numbers that depend on these alone."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seeds)))
