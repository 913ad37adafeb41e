"""The task "ground": does the map of a phrase lie in its boxes? Pointing, by type of phrase, energy and boxes.

A phrase is asked alone, as `eclip explain IMAGE -t PHRASE` does, so its map does not depend on the other phrases of the
image. Each phrase of each caption counts, also if several captions have the same phrase.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from eclip import heatmap
from eclip.backbones.encoding import Encoding
from eclip.datasets.phrases import Box, Phrase, Phrased, PhraseSet
from eclip.errors import ImageError, NotApplicableError
from eclip.evaluation.baselines import BASELINES, NAMES, baseline_maps
from eclip.evaluation.checks import check_baselines
from eclip.evaluation.query import EvaluationQuery, OpenedPhrases, joined
from eclip.evaluation.row import Row, mean_rows, with_difference
from eclip.evaluation.rules import GROUNDED, Ground
from eclip.evaluation.store import BatchResult
from eclip.metrics.pointing import energy, pointing_game
from eclip.texts.encode import encode_texts

SPECKS = 0.001
"""Smaller regions, as a share of the image, make no box; as in `Explanation.boxes`."""


class GroundTask:
    """Scores pairs of an image and a phrase that describes a part of it.

    Args:
        asked: the query; its protocol has rules of class `Ground`.
    """

    def __init__(self, asked: EvaluationQuery) -> None:
        assert isinstance(asked.protocol.rules, Ground) and isinstance(asked.data, PhraseSet)
        self.asked, self.rules, self.items = asked, asked.protocol.rules, asked.data.items

    def score(self, items: Sequence[Phrased], start: int) -> BatchResult:
        """Score a batch of images; `start` is the position of the first in the data set."""
        found: list[OpenedPhrases] = []
        failures: list[tuple[str, str]] = []
        for place, item in enumerate(items, start):
            try:
                found.append(OpenedPhrases(place, item.open(), item.phrases))
            except ImageError as error:
                failures.append((item.name, str(error)))
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
        maps: dict[str, Float[Tensor, "text row col"]] = {}
        for name in self.asked.methods:
            try:
                maps[name], spent = self.asked.maps_apart(name, encoding, stacked)
            except NotApplicableError as error:
                not_applicable[name] = error.why
                continue
            seconds[name] = seconds.get(name, 0.0) + spent
        known: dict[tuple[str, tuple[Box, ...]], dict[str, NDArray[Any]]] = {}
        for place, phrase in enumerate(image.phrases):
            asked = phrase.text, phrase.boxes
            if asked not in known:
                inside = covered(phrase.boxes, image.image.size[::-1])
                heat = {name: heatmap.normalize(each[texts.index(phrase.text)]) for name, each in maps.items()}
                heat |= baseline_maps(encoding.grid, (image.place, place), inside, ~inside)
                known[asked] = {name: self.numbers(each, inside, phrase) for name, each in heat.items()}
            yield known[asked]

    def numbers(
        self, normalized: Float[Tensor, "row col"], inside: Bool[np.ndarray, "height width"], phrase: Phrase
    ) -> Float[np.ndarray, " key"]:
        """The numbers in `GROUNDED` of one map, in [0, 1]."""
        heat = heatmap.resize(normalized, inside.shape).numpy()
        found = heatmap.boxes(heat >= heatmap.otsu(heat), min_area=SPECKS)
        shares = found[0] / np.tile(inside.shape[::-1], 2) if len(found) else None
        recalled = shares is not None and best_iou(shares, phrase.boxes) >= self.rules.iou
        return np.array([pointing_game(heat, inside, ~inside), energy(heat, inside, ~inside), float(recalled)])

    def record(self, results: Iterable[BatchResult]) -> list[Row]:
        """Compute a row for each method and baseline.

        Raises:
            DataError: no image could be read, or a baseline is as good as the true boxes.
        """
        whole, names = joined(results, self.asked.data)
        values = whole["values"]  # phrase name key
        pointing = values[:, :, 0]
        phrases = [self.items[item].phrases[one] for item, one in zip(whole["items"], whole["numbers"], strict=True)]
        types = sorted({kind for phrase in phrases for kind in phrase.types})
        own = np.array([[kind in phrase.types for kind in types] for phrase in phrases]).reshape(len(phrases), -1)
        by_type = np.where(own[:, None], pointing[..., None], np.nan)  # phrase name type
        keys = [*GROUNDED, *(f"pointing_{kind}" for kind in types)]
        means = dict(zip(names, pointing.mean(axis=0).tolist(), strict=True))
        filled = np.mean([(0, 0, 1, 1) in phrase.boxes for phrase in phrases])
        check_baselines(self.asked.data, {name: means[name] for name in NAMES}, float(filled))
        counts = dict(zip(types, own.sum(axis=0).tolist(), strict=True))
        rows = mean_rows(names, NAMES, keys, np.concatenate([values, by_type], axis=2), whole)
        for row in rows:
            row.facts["types"] = counts
            for pair, phrase in zip(row.each, phrases, strict=True):
                for kind in types:
                    del pair[f"pointing_{kind}"]
                pair["types"] = " ".join(phrase.types)
        return with_difference(rows, names, pointing, whole["groups"], tuple(BASELINES))


def covered(boxes: Sequence[Box], size: tuple[int, int]) -> Bool[np.ndarray, "height width"]:
    """The pixels inside any of the boxes; a box thinner than a pixel covers the one that it touches.

    Args:
        boxes: in shares of the image.
        size: height and width of the image in pixels.
    """
    mask = np.zeros(size, dtype=bool)
    for box in boxes:
        ends = [
            (min(round(low * side), side - 1), max(round(high * side), round(low * side) + 1))
            for low, high, side in ((box[1], box[3], size[0]), (box[0], box[2], size[1]))
        ]
        mask[tuple(slice(*one) for one in ends)] = True
    return mask


def best_iou(box: Float[np.ndarray, " 4"], boxes: Sequence[Box]) -> float:
    """The largest intersection over union of a box with one of several."""
    others = np.array(boxes)
    low, high = np.maximum(others[:, :2], box[:2]), np.minimum(others[:, 2:], box[2:])
    shared = (high - low).clip(0).prod(axis=1)
    areas = (others[:, 2:] - others[:, :2]).prod(axis=1) + (box[2:] - box[:2]).prod()
    return float((shared / (areas - shared)).max())
