"""Base class of tasks that score pairs: each image is encoded once, and each class that it shows makes a pair."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

import numpy as np
from jaxtyping import Bool
from numpy.typing import NDArray
from torch import Tensor

from eclip.backbones.encoding import Encoding
from eclip.datasets.masks import Masked, present, sides
from eclip.evaluation.baselines import NAMES, baseline_maps
from eclip.evaluation.query import EvaluationQuery, Opened, opened
from eclip.evaluation.rules import Faithful, Localize, Sanity
from eclip.evaluation.store import BatchResult
from eclip.metrics.bound import grid_bound

PairRules = TypeVar("PairRules", bound=Localize | Faithful | Sanity)
Scores = dict[str, dict[str, Any]]
"""Numbers of a pair, by name of the method or baseline, then by name of the number."""


class EncodedImages(NamedTuple):
    """Images with the same grid, the classes that each shows, and the indices of these classes among the texts."""

    images: list[Opened]
    encoding: Encoding
    numbers: list[list[int]]
    shown: list[list[int]]


class ShownClass(NamedTuple):
    """A class that an image shows.

    Attributes:
        place: index of the image in the batch.
        image: the image and its mask.
        column: index of the class among the texts.
        inside: pixels of the class.
        outside: pixels of anything else, void left out.
        maps: raw maps (row, col) of methods and baselines by name.
    """

    place: int
    image: Opened
    column: int
    inside: Bool[np.ndarray, "height width"]
    outside: Bool[np.ndarray, "height width"]
    maps: dict[str, Tensor]


class PairTask(Generic[PairRules]):
    """Scores pairs of an image and a class that it shows, under the rules of the query's protocol."""

    baselines: ClassVar[Sequence[str]] = NAMES

    def __init__(self, asked: EvaluationQuery) -> None:
        self.asked = asked
        self.rules: PairRules = asked.protocol.rules  # type: ignore[assignment]  # the class of the rules chose the task
        self.columns = {number: column for column, number in enumerate(asked.classes)}
        self.text = asked.texts()

    def score(self, items: Sequence[Masked], start: int) -> BatchResult:
        """Score a batch of images; `start` is the position of the first in the data set."""
        found, failures = opened(items, start, self.asked.classes)
        not_applicable, seconds = dict[str, str](), {"forward": 0.0}
        places: list[tuple[int, int]] = []
        scores: list[Scores] = []
        for group, encoding, spent in self.asked.encoded(found):
            seconds["forward"] += spent
            numbers = [present(one.mask, self.rules.least) for one in group]
            shown = [[self.columns[number] for number in own] for own in numbers]
            places += [(one.place, number) for one, own in zip(group, numbers, strict=True) for number in own]
            scores += self.scores(EncodedImages(group, encoding, numbers, shown), not_applicable, seconds)
        names = [*(name for name in self.asked.methods if name not in not_applicable), *self.baselines]
        arrays: dict[str, NDArray[Any]] = {"names": np.array(names)}
        if scores:
            arrays["images"], arrays["numbers"] = np.array(places).T
            for key in scores[0][names[0]] if names else ():
                arrays[key] = np.array([[pair[name][key] for name in names] for pair in scores])
        return BatchResult(arrays, seconds, len(found), not_applicable, failures)

    def scores(
        self, batch: EncodedImages, not_applicable: dict[str, str], seconds: dict[str, float]
    ) -> Iterator[Scores]:
        """Scores of each pair of a batch, image by image; updates `not_applicable` and `seconds`."""
        run = partial(self.asked.maps, encoding=batch.encoding, text=self.text, shown=batch.shown)
        maps = self.asked.by_method(run, not_applicable, seconds)
        for image, picture in enumerate(batch.images):
            for place, number in enumerate(batch.numbers[image]):
                inside, outside = sides(picture.mask, number)
                own = {name: self.asked.leveled(name, each[image][place]) for name, each in maps.items()}
                bound = grid_bound(inside, outside, batch.encoding.grid)
                beside = baseline_maps(batch.encoding.grid, (picture.place, number), bound)
                own |= {name: beside[name] for name in self.baselines}
                one = ShownClass(image, picture, batch.shown[image][place], inside, outside, own)
                yield self.score_class(one, batch.encoding)

    def score_class(self, shown: ShownClass, encoding: Encoding) -> Scores:
        """Score a class that an image shows."""
        raise NotImplementedError
