"""The task "words": does the unaltered model need the words that a method calls relevant? Deletion and insertion.

After the text test of Grad-ECLIP (Zhao et al. 2024, https://arxiv.org/abs/2502.18816): words of a caption are deleted
in the order of their relevance, or inserted into the empty text in that order, and the score is the model's own cosine
of image and text. Differs from it: both curves go over all words of a caption that the model reads, the words that are
there keep their order, and the number is the area under the curve by the trapezoidal rule over the share of words.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from eclip.backbones.blocks import cosine, unit
from eclip.datasets.pair import Pair, PairSet
from eclip.errors import OptionError
from eclip.evaluation.query import EvaluationQuery, joined, readable
from eclip.evaluation.row import Row, mean_rows, with_difference
from eclip.evaluation.rules import WORDED, Words
from eclip.evaluation.store import BatchResult
from eclip.texts.encode import check_texts, read_in_full
from eclip.words import WORD_METHODS
from eclip.words.tokens import Reading, Word, read

TEXTS_AT_ONCE = 256
Order = Int[np.ndarray, " word"]
"""Numbers of the words of a text, the most relevant first."""


def random(count: int, seed: Sequence[int]) -> Order:
    """The words in random order, different for each caption but reproducible."""
    return np.random.default_rng(list(seed)).permutation(count)


def last(count: int, seed: Sequence[int]) -> Order:
    """The last word first: a causal text tower reads its feature from the end."""
    return np.arange(count)[::-1]


ORDERS: dict[str, Callable[[int, Sequence[int]], Order]] = {"random": random, "last": last}
"""Baselines: orders of words that depend on neither image nor model."""


class WordsTask:
    """Scores pairs of an image and one of its captions, by word methods, under rules of class `Words`.

    Raises:
        OptionError: the data have names of classes instead of captions.
    """

    def __init__(self, asked: EvaluationQuery) -> None:
        assert isinstance(asked.protocol.rules, Words) and isinstance(asked.data, PairSet)
        self.asked, self.captions = asked, asked.protocol.rules.captions
        if asked.data.classes is not None:
            raise OptionError(f"{asked.data.name} has names of classes, but {asked.protocol.name!r} needs captions.")

    def score(self, items: Sequence[Pair], start: int) -> BatchResult:
        """Score a batch of images; `start` is the position of the first in the data set."""
        found, failures, features, seconds = image_features(self.asked, items, start)
        not_applicable: dict[str, str] = {}
        places: list[tuple[int, int]] = []
        walks: list[dict[str, list[list[str]]]] = []
        for (place, item), feature in zip(found, features, strict=True):
            captions = read_in_full(self.asked.backbone, check_texts(item.captions[: self.captions]))
            reading = read(self.asked.backbone, captions)
            relevance = word_relevance(self.asked, reading, feature, not_applicable, seconds)
            for caption, words in enumerate(reading.words):
                orders = {name: np.argsort(-each[caption], kind="stable") for name, each in relevance.items()}
                orders |= {name: order(len(words), (place, caption)) for name, order in ORDERS.items()}
                walks.append({name: _texts(reading.texts[caption], words, one) for name, one in orders.items()})
                places.append((place, caption))
        names = [*(name for name in self.asked.methods if name not in not_applicable), *ORDERS]
        arrays: dict[str, NDArray[Any]] = {"names": np.array(names)}
        if places:
            arrays["images"], arrays["numbers"] = np.array(places).T
            arrays["values"] = self._areas(
                walks, names, places, {place: row for row, (place, _) in enumerate(found)}, features
            )
        return BatchResult(arrays, seconds, len(found), not_applicable, failures)

    def _areas(
        self,
        walks: list[dict[str, list[list[str]]]],
        names: list[str],
        places: list[tuple[int, int]],
        rows: dict[int, int],
        features: Float[Tensor, "image feature"],
    ) -> Float[np.ndarray, "caption name key"]:
        """The numbers in `WORDED` of each walk; each distinct text of the batch is encoded once."""
        texts = {text: None for walk in walks for name in names for way in walk[name] for text in way}
        numbered = {text: row for row, text in enumerate(texts)}
        encode, listed = self.asked.backbone.encode_text, list(texts)
        parts = [encode(listed[at : at + TEXTS_AT_ONCE]) for at in range(0, len(listed), TEXTS_AT_ONCE)]
        scores = cosine(features, unit(torch.cat(parts))).float().cpu().numpy()  # image text
        found = []
        for walk, (place, _) in zip(walks, places, strict=True):
            own = scores[rows[place]]
            both = [[_area(own[[numbered[text] for text in way]]) for way in walk[name]] for name in names]
            found.append([[insertion - deletion, insertion, deletion] for deletion, insertion in both])
        return np.array(found)

    def record(self, results: Iterable[BatchResult]) -> list[Row]:
        """Compute a row for each word method and baseline, see `Task`."""
        whole, names = joined(results, self.asked.data)
        rows = mean_rows(names, ORDERS, WORDED, whole["values"], whole)
        return with_difference(rows, whole["values"][:, :, 0], whole["groups"])


def image_features(
    asked: EvaluationQuery, items: Sequence[Pair], start: int
) -> tuple[list[tuple[int, Pair]], list[tuple[str, str]], Float[Tensor, "image feature"], dict[str, float]]:
    """Unit features of the images of a batch.

    Returns:
        (place, item) of each image that could be read, (name, error) of the others, the features, and the seconds.
    """
    failures: list[tuple[str, str]] = []
    found = list(readable(items, start, failures))
    features, spent = asked.features([image for _, _, image in found])
    return [(place, item) for place, item, _ in found], failures, features, {"forward": spent}


def word_relevance(
    asked: EvaluationQuery,
    reading: Reading,
    feature: Float[Tensor, " feature"],
    not_applicable: dict[str, str],
    seconds: dict[str, float],
) -> dict[str, list[Float[np.ndarray, " word"]]]:
    """Relevance of the words of each text for one image, by method; updates `not_applicable` and `seconds`."""

    def run(name: str) -> list[Float[np.ndarray, " word"]]:
        values = WORD_METHODS[name](reading, feature[None], **asked.methods[name])
        return [each[0].cpu().numpy() for each in reading.by_word(values)]

    return asked.by_method(run, not_applicable, seconds)


def _texts(text: str, words: Sequence[Word], order: Order) -> list[list[str]]:
    """The texts on the way of deletion, from the whole text to the empty one, and of insertion, back."""
    ranks = np.argsort(order)
    return [
        [_kept(text, words, ranks >= count) for count in range(len(words) + 1)],
        [_kept(text, words, ranks < count) for count in range(len(words) + 1)],
    ]


def _kept(text: str, words: Sequence[Word], keep: NDArray[np.bool_]) -> str:
    """The text without the words that are not kept, and without double spaces; the whole text as it is."""
    if keep.all():
        return text
    for word, kept in zip(reversed(words), keep[::-1], strict=True):
        text = text if kept else f"{text[: word.start]} {text[word.stop :]}"
    return " ".join(text.split())


def _area(scores: Float[np.ndarray, " step"]) -> float:
    return float((scores[1:] + scores[:-1]).mean() / 2) if len(scores) > 1 else float(scores[0])
