"""Base class of tasks that score phrases: each is asked alone, as `eclip explain IMAGE -t PHRASE` does.

So the map of a phrase does not depend on the other phrases of the image.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from eclip import heatmap
from eclip.backbones.encoding import Encoding
from eclip.datasets.phrases import Phrase, Phrased, PhraseSet
from eclip.evaluation.baselines import NAMES, Map, baseline_maps
from eclip.evaluation.query import EvaluationQuery, OpenedPhrases, readable
from eclip.evaluation.rules import Gaze, Ground, Points
from eclip.evaluation.store import BatchResult
from eclip.metrics.localization import Heat
from eclip.texts.encode import encode_texts

PhraseRules = TypeVar("PhraseRules", bound=Ground | Points | Gaze)


class PhraseTask(Generic[PhraseRules]):
    """Scores pairs of an image and a phrase that describes a part of it, of data that are a PhraseSet."""

    def __init__(self, asked: EvaluationQuery) -> None:
        assert isinstance(asked.data, PhraseSet)
        self.asked, self.items = asked, asked.data.items
        self.rules: PhraseRules = asked.protocol.rules  # type: ignore[assignment]  # their class chose the task

    def score(self, items: Sequence[Phrased], start: int) -> BatchResult:
        """Score a batch of images; `start` is the position of the first in the data set."""
        failures: list[tuple[str, str]] = []
        found = [OpenedPhrases(place, image, item.phrases) for place, item, image in readable(items, start, failures)]
        texts = list(dict.fromkeys(phrase.text for one in found for phrase in one.phrases))
        features = encode_texts(self.asked.backbone, texts, self.asked.protocol.templates) if texts else None
        not_applicable, seconds = dict[str, str](), {"forward": 0.0}
        places: list[tuple[int, int]] = []
        scores: list[dict[str, NDArray[Any]]] = []
        for group, encoding, spent in self.asked.encoded(found):
            seconds["forward"] += spent
            for index, one in enumerate(group):
                places += [(one.place, number) for number in range(len(one.phrases))]
                assert features is not None, "images of a PhraseSet have phrases"
                own = {phrase.text: features[texts.index(phrase.text)] for phrase in one.phrases}
                scores += self._scores(one, encoding.only(index), own, not_applicable, seconds)
        names = [*(name for name in self.asked.methods if name not in not_applicable), *NAMES]
        arrays: dict[str, NDArray[Any]] = {"names": np.array(names)}
        if scores:
            arrays["images"], arrays["numbers"] = np.array(places).T
            arrays["values"] = np.array([[phrase[name] for name in names] for phrase in scores])
        return BatchResult(arrays, seconds, len(found), not_applicable, failures)

    def _scores(
        self,
        image: OpenedPhrases,
        encoding: Encoding,
        features: dict[str, Float[Tensor, " feature"]],
        not_applicable: dict[str, str],
        seconds: dict[str, float],
    ) -> Iterator[dict[str, NDArray[Any]]]:
        """Scores of each phrase of an image, by name of the method or baseline."""
        texts, stacked = list(features), torch.stack([*features.values()])
        run = partial(self.asked.maps_apart, encoding=encoding, text=stacked)
        maps = self.asked.by_method(run, not_applicable, seconds)
        known: dict[tuple[str, tuple[Any, ...]], dict[str, NDArray[Any]]] = {}
        for place, phrase in enumerate(image.phrases):
            asked = phrase.text, phrase.where
            if asked not in known:
                raw = {name: self.asked.leveled(name, each[texts.index(phrase.text)]) for name, each in maps.items()}
                heat = {name: heatmap.normalize(each) for name, each in raw.items()}
                bound = self.bound(phrase, image.image.size[::-1], encoding.grid)
                heat |= baseline_maps(encoding.grid, (image.place, place), bound)
                known[asked] = {
                    name: self.numbers(heatmap.resize(each, image.image.size[::-1]).numpy(), phrase)
                    for name, each in heat.items()
                }
            yield known[asked]

    def bound(self, phrase: Phrase, size: tuple[int, int], grid: tuple[int, int]) -> Map:
        """The true map of a phrase on the patch grid, in [0, 1]; `size` is the height and width of the image."""
        raise NotImplementedError

    def numbers(self, heat: Heat, phrase: Phrase) -> Float[np.ndarray, " key"]:
        """The numbers of one map of a phrase, in [0, 1] on the pixels of the image."""
        raise NotImplementedError
