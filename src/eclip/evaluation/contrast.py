"""The task "contrast": is a caption told from one that is wrong in a word, and does a word method change most there?

The captions are those of SugarCrepe (Hsieh et al. 2023, https://arxiv.org/abs/2306.14610) or like them. The accuracy of
the model is theirs: how often the caption has the higher score. A method is scored by what it says of the difference:
words that both texts share change by the difference of their relevance, words of only one text by all of it, and the
largest change, by absolute value, should be at a word of only one text.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray

from eclip.backbones.blocks import cosine
from eclip.datasets.pair import Pair, PairSet
from eclip.errors import OptionError
from eclip.evaluation.query import EvaluationQuery, joined
from eclip.evaluation.row import Row, mean_rows, with_difference
from eclip.evaluation.rules import Contrast
from eclip.evaluation.store import BatchResult
from eclip.evaluation.words import image_features, word_relevance
from eclip.texts.encode import encode_texts
from eclip.words.tokens import read

BASELINES = ("random", "last")
"""Random relevance of each word of both texts, and the last word of both; neither depends on image or model."""
MODEL = "model"
"""The row of the model's own accuracy, since methods do not affect it."""


class ContrastTask:
    """Scores images with a caption and a wrong one, by word methods, under rules of class `Contrast`.

    Raises:
        OptionError: an image of the data has no wrong caption.
    """

    def __init__(self, asked: EvaluationQuery) -> None:
        assert isinstance(asked.protocol.rules, Contrast) and isinstance(asked.data, PairSet)
        self.asked, self.items = asked, asked.data.items
        if not all(item.negative for item in self.items):
            raise OptionError(
                f"{asked.data.name} has no wrong captions, which {asked.protocol.name!r} needs: use sugar_crepe."
            )

    def score(self, items: Sequence[Pair], start: int) -> BatchResult:
        """Score a batch of images; `start` is the position of the first in the data set."""
        found, failures, features, seconds = image_features(self.asked, items, start)
        not_applicable: dict[str, str] = {}
        scored: list[dict[str, float]] = []
        for (place, item), feature in zip(found, features, strict=True):
            texts = [item.captions[0], item.negative]
            true, wrong = cosine(feature[None], encode_texts(self.asked.backbone, texts))[0].tolist()
            reading = read(self.asked.backbone, texts)
            ours, theirs = ([word.letters for word in each] for each in reading.words)
            relevance = word_relevance(self.asked, reading, feature, not_applicable, seconds)
            relevance |= _baselines((len(ours), len(theirs)), place)
            changes = {name: changed(ours, theirs, *each) for name, each in relevance.items()}
            scored.append({MODEL: float(true > wrong)} | {name: _found(*each) for name, each in changes.items()})
        names = [MODEL, *(name for name in self.asked.methods if name not in not_applicable), *BASELINES]
        arrays: dict[str, NDArray[Any]] = {"names": np.array(names)}
        if scored:
            arrays["images"] = np.array([place for place, _ in found])
            arrays["numbers"] = np.zeros(len(found), dtype=int)
            arrays["values"] = np.array([[each[name] for name in names] for each in scored])
        return BatchResult(arrays, seconds, len(found), not_applicable, failures)

    def record(self, results: Iterable[BatchResult]) -> list[Row]:
        """Compute a row for the model, and one for each word method and baseline, see `Task`."""
        whole, names = joined(results, self.asked.data)
        own = np.array([self.items[item].kind for item in whole["items"]])
        kinds = sorted(set(own.tolist()) - {""})
        values = whole["values"][..., None]  # pair name 1
        by_kind = np.where((own[:, None] == kinds)[:, None], values, np.nan)  # pair name kind
        every = np.concatenate([values, by_kind], axis=2)
        keys = ["found", *(f"found_{kind}" for kind in kinds)]
        right = [key.replace("found", "accuracy") for key in keys]
        model = mean_rows([MODEL], (), right, every[:, :1], whole, listed=1)
        rows = mean_rows(names[1:], BASELINES, keys, every[:, 1:], whole, listed=1)
        rows = with_difference(rows, values[:, 1:, 0], whole["groups"])
        for row in (*model, *rows):
            row.facts["kinds"] = {kind: int((own == kind).sum()) for kind in kinds}
            for pair, kind in zip(row.each, own.tolist(), strict=True):
                pair["kind"] = kind
        return [*model, *rows]


def changed(
    true: Sequence[str],
    wrong: Sequence[str],
    to_true: Float[np.ndarray, " word"],
    to_wrong: Float[np.ndarray, " other"],
) -> tuple[Float[np.ndarray, " change"], Bool[np.ndarray, " change"]]:
    """By how much the relevance of each word changes from the true to the wrong text, and which words only one has.

    Returns:
        One value for each word that both have, in the order of the longest common blocks (case is ignored), then for
        each word of only the caption, then for each word of only the other text; and whether only one text has it.
    """
    a, b = ([word.casefold() for word in words] for words in (true, wrong))
    blocks = SequenceMatcher(None, a, b, autojunk=False).get_matching_blocks()
    common = [(one.a + step, one.b + step) for one in blocks for step in range(one.size)]
    only_true = sorted(set(range(len(a))) - {one for one, _ in common})
    only_wrong = sorted(set(range(len(b))) - {one for _, one in common})
    shared = np.array([to_true[one] - to_wrong[other] for one, other in common])
    own = np.concatenate([np.asarray(to_true)[only_true], -np.asarray(to_wrong)[only_wrong]])
    return np.concatenate([shared, own]), np.arange(len(common) + len(own)) >= len(common)


def _found(change: Float[np.ndarray, " change"], own: Bool[np.ndarray, " change"]) -> float:
    """Whether the largest change is at a word of only one text; the share that is, if several are equally large."""
    size = np.abs(change)
    return float(own[size == size.max()].mean())


def _baselines(counts: Sequence[int], place: int) -> dict[str, list[Float[np.ndarray, " word"]]]:
    generator = np.random.default_rng(place)
    ends = [np.arange(count) == count - 1 for count in counts]
    return {
        "random": [generator.random(count) for count in counts],
        "last": [ends[0].astype(float), -ends[1].astype(float)],
    }
