"""How a run is divided: pairs in a batch, steps in an epoch, and the learning rate of each step."""

from __future__ import annotations

import logging
import math

from eclip.errors import DataError, OptionError
from eclip.training.config import TrainConfig
from eclip.training.loss import MIXED

USUAL_BATCH, LEAST_BATCH, FEW_STEPS = 256, 16, 8
"""Pairs in a batch if there are many, and at least; and how many steps an epoch should have."""
_log = logging.getLogger("eclip")


def fitting(pairs: int, shares: int) -> int:
    """The batch size for so many pairs, divisible by the parts into which it is split; see `TrainConfig.batch_size`."""
    size = min(USUAL_BATCH, max(LEAST_BATCH, pairs // FEW_STEPS), max(pairs, 1))
    return size // shares * shares or shares


def steps_of(good: int, count: int, size: int, world: int, config: TrainConfig, *, worded: bool) -> int:
    """The number of steps in an epoch of `good` pairs of `count`, checked; `worded`: some pairs have no known word."""
    shares = world * config.accum_freq
    which = " with words" if worded else ""
    if not good:
        raise DataError(
            f"none of the {count} pairs has a known word in its captions: train on the captions themselves "
            "(--train-texts captions), or on more pairs."
        )
    if good < max(2, shares):
        split = f", and cannot be divided among {world} processes x {config.accum_freq} parts" if good > 1 else ""
        raise DataError(
            f"there are too few pairs{which}: {good}{split}. Train on more pairs"
            + (f", or set a smaller --accum-freq than {config.accum_freq}." if config.accum_freq > 1 else ".")
        )
    if good < size:
        fits = good // shares * shares
        raise OptionError(f"batch_size={size} exceeds the number of pairs{which}, {good}: set --batch-size {fits}.")
    if size < 2:
        raise OptionError(
            f"batch_size={size} leaves nothing to contrast, because the other pairs of a batch are an image's "
            "negatives: set --batch-size 2 or more."
        )
    if size % shares:
        raise OptionError(
            f"batch_size={size} is not divisible by {world} processes x {config.accum_freq} parts: set "
            f"--batch-size {size // shares * shares or shares}."
        )
    if config.mix and size // shares < MIXED:
        raise OptionError(
            f"mix needs {MIXED} pairs in each part, but batch_size={size} has {size // shares} in each of {shares}: "
            f"set --batch-size {shares * MIXED} or more."
        )
    return good // size


def warn_of_little(steps: int, size: int, good: int, config: TrainConfig) -> None:
    """Say that a run is too short to do much: few steps in an epoch, or no more than its warm-up."""
    if (total := steps * config.epochs) <= config.warmup:
        _log.warning(
            "this run has %d steps, and the learning rate still rises in the first %d, so the head will hardly change: "
            "train more epochs (--epochs), or warm up for less (--warmup %d)",
            *(total, config.warmup, total // 10),
        )
    if steps < FEW_STEPS // 2:
        _log.warning(
            "an epoch has only %d step%s of %d pairs, for %d pairs: set a smaller --batch-size, or train on more pairs",
            *(steps, "s" * (steps > 1), size, good),
        )


def rate_at(step: int, steps: int, config: TrainConfig) -> float:
    """The learning rate of a step: linear warm-up, then cosine decay to zero."""
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    return config.lr * 0.5 * (1 + math.cos(math.pi * (step - config.warmup) / max(1, steps - config.warmup)))
