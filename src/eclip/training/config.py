"""The configuration of a training run, and which fields a resumed run may change."""

from __future__ import annotations

import json
import math
import os
import tomllib
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from eclip.errors import OptionError
from eclip.guides import check_guide
from eclip.registry import check_options, one_of, plain_options

FORMS = (
    *("soft", "hard", "exclusion", "soft_unit", "exclusion_unit", "max", "masked_mean", "mean"),
    *("similarity", "similarity_smooth"),
)
TEXTS = ("captions", "words")
MOST_SEED = 2**64
INSIDES, SOURCES, STARTS = ("mean", "mass"), ("value", "output"), ("model", "random")
"""Names of `eclip.training.pooling` and `eclip.backbones.head`, to check them without importing torch."""
PRECISIONS = ("float32", "bfloat16")
CHECKPOINT = "checkpoint.pt"
FREE = (
    *("epochs", "out", "workers", "device", "cache", "checkpoint_every", "masks", "mask_count"),
    *("train_data", "image_key", "caption_key", "separator"),  # the pairs themselves are compared
)
"""Fields that a resumed run may change; any other change would make it a different run."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """A training run.

    Attributes:
        train_data: sources of image-caption pairs, see `eclip.datasets.caption_sources.read_pairs`.
        out: folder for the head, the log, the curve and the checkpoint.
        model: a name for `eclip.load`.
        guide: a name in `eclip.guides.GUIDES`; the paper uses a guide, the default is "none".
        guide_options: its options.
        form: a name in `eclip.training.pooling.FORMS` or `SIMILARITIES`; "soft" is masked max pooling as we read the
            paper.
        texts: "captions", or "words", a prompt for each word that they mention, see `training.word_prompts`.
        near: words with a larger cosine, after subtracting the mean of all words, are not negatives of each other.
        threshold: "mean" or "mass", see `masked_max_pool`.
        source: "value" or "output", see `eclip.backbones.head.head_rows`.
        init: "model" or "random", see `EclipHead.start`.
        hidden: width of the head's nonlinear branch; 0 = none.
        text: also train a projection of texts.
        epochs: how often each image is seen, each time with one of its captions.
        batch_size: pairs per step, over all processes and parts. None = 256, or, of fewer than 2,048 pairs, an eighth,
            but at least 16: the other pairs of a batch are its negatives, and an epoch should have several steps.
        lr: peak learning rate of AdamW; it rises over `warmup` steps and decays to zero along a cosine.
        wd: weight decay, of matrices only.
        warmup: number of warm-up steps.
        learn_scale: also train the logit scale; otherwise it is the model's own.
        precision: "float32", or "bfloat16" for the head's products.
        accum_freq: parts in which a process handles its pairs; the gradient is that of the whole batch, except of
            `mix` and `separate`, which see one part.
        mix: weight of a loss that tells which image of four a patch is from, see `training.loss.mixed`; 0 = none.
        separate: weight of a loss between images, see `training.loss.separated`; 0 = none.
        seed: for the order of images, the choice of captions, and random weights.
        limit: number of pairs to use, the first in a fixed random order; None = all.
        shuffle_captions: give each image the captions of another: a control, from which nothing can be learned.
        workers: threads that read images.
        image_size: side in pixels; None = the model's own.
        device: "cpu", "cuda", "cuda:N" or "auto"; under torchrun, each process uses the GPU of its local rank.
        cache: folder for encoded pairs; None = `eclip/training` in the user's cache.
        stream: use no cache and encode each batch when it is needed.
        masks: a folder with images and masks on which maps are scored after each epoch; None = none.
        mask_count: number of its images to use, evenly spaced.
        checkpoint_every: steps between checkpoints.
        image_key: column of images in a CSV.
        caption_key: column of captions in a CSV.
        separator: of a CSV.
    """

    train_data: tuple[str, ...]
    out: str = "eclip-head"
    model: str = "mini"
    guide: str = "none"
    guide_options: dict[str, Any] = field(default_factory=dict)
    form: str = "similarity_smooth"
    texts: str = "words"
    near: float = 0.5
    threshold: str = "mean"
    source: str = "value"
    init: str = "model"
    hidden: int = 0
    text: bool = False
    epochs: int = 4
    batch_size: int | None = None
    lr: float = 1e-3
    wd: float = 0.0
    warmup: int = 30
    learn_scale: bool = False
    precision: str = "float32"
    accum_freq: int = 1
    mix: float = 0.0
    separate: float = 0.0
    seed: int = 0
    limit: int | None = None
    shuffle_captions: bool = False
    workers: int = 2
    image_size: int | None = None
    device: str = "auto"
    cache: str | None = None
    stream: bool = False
    masks: str | None = None
    mask_count: int = 100
    checkpoint_every: int = 200
    image_key: str = "filepath"
    caption_key: str = "title"
    separator: str = "\t"

    def __post_init__(self) -> None:
        """Turn NumPy's numbers into Python's, lists into tuples, and paths into strings, which can be recorded."""
        for name, value in plain_options(vars(self)).items():
            if name == "train_data" and isinstance(value, tuple):
                value = tuple(str(one) if isinstance(one, Path) else one for one in value)
            if name == "guide_options" and isinstance(value, dict):
                value = plain_options(value)
            object.__setattr__(self, name, str(value) if isinstance(value, Path) else value)

    def plain(self) -> dict[str, Any]:
        """The fields as JSON values, for records."""
        return json.loads(json.dumps(asdict(self), default=str))

    def check(self) -> None:
        """Check the value of every field.

        Raises:
            OptionError: a value is invalid.
            UnknownNameError: there is no such guide.
        """
        if not isinstance(self.train_data, tuple) or not all(isinstance(one, str) for one in self.train_data):
            raise OptionError(f"train_data must be a tuple of path strings, got {self.train_data!r:.100}.")
        if not isinstance(self.guide_options, dict):
            raise OptionError(f"guide_options must be a dict such as {{'tau': 0.2}}, got {self.guide_options!r:.100}.")
        others = {name: value for name, value in vars(self).items() if name not in ("train_data", "guide_options")}
        check_options("train", TrainConfig, others)
        one_of(self.form, "form", FORMS)
        one_of(self.texts, "texts", TEXTS)
        one_of(self.threshold, "threshold", INSIDES)
        one_of(self.source, "source", SOURCES)
        one_of(self.init, "init", STARTS)
        one_of(self.precision, "precision", PRECISIONS)
        check_guide(self.guide, self.guide_options)
        for option, value in self.guide_options.items():
            if not isinstance(value, str | int | float | Path | None):
                raise OptionError(
                    f"guide_options must be strings and numbers, which can be recorded, got {option}={value!r:.60}."
                )
        counts = ("epochs", "batch_size", "accum_freq", "checkpoint_every", "mask_count", "limit")
        least_zero = ("hidden", "warmup", "workers", "wd", "seed", "mix", "separate")
        for name in counts:
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise OptionError(f"{name} must be at least 1, got {getattr(self, name)}.")
        for name in least_zero:
            if not 0 <= getattr(self, name) < math.inf:
                raise OptionError(f"{name} must be 0 or more, got {getattr(self, name)}.")
        if not -1 <= self.near <= 1:
            raise OptionError(f"near must be a cosine, between -1 and 1, got {self.near}.")
        if not 0 < self.lr < 1:
            raise OptionError(f"lr must be between 0 and 1, got {self.lr}.")
        if self.seed >= MOST_SEED:
            raise OptionError(f"seed must be below 2**64, got {self.seed}.")
        if not self.train_data:
            raise OptionError("no training data was given: set --train-data to tars, a CSV or a folder with captions.")


def from_toml(file: str | Path) -> dict[str, Any]:
    """Read fields of `TrainConfig` from a TOML file.

    Raises:
        OptionError: it cannot be read, or has an unknown field or a value of the wrong type.
    """
    try:
        values = tomllib.loads(Path(file).read_text(encoding="utf-8-sig"))  # as PowerShell writes it
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise OptionError(f"the configuration {str(file)!r} cannot be read: {error}.") from error
    values = plain_options(values)
    data = values.pop("train_data", ())
    options = values.pop("guide_options", {})
    check_options(str(file), TrainConfig, values)
    data = (data,) if isinstance(data, str) else data
    if not isinstance(data, tuple) or not all(isinstance(one, str) for one in data):
        raise OptionError(f"train_data in {str(file)!r} must be a list of paths, got {data!r}.")
    if not isinstance(options, dict):
        raise OptionError(f"guide_options in {str(file)!r} must be a table, got {options!r}.")
    for name in ("out", "cache", "masks"):  # a shell expands "~", a file does not
        if isinstance(values.get(name), str):
            values[name] = os.path.expanduser(values[name])
    return {**values, "train_data": tuple(map(os.path.expanduser, data)), "guide_options": options}
