"""The task "recognize": how good is the model itself? Zero-shot accuracy of names, recall of captions.

And how its features lie: the modality gap (Liang et al. 2022, https://arxiv.org/abs/2203.02053), alignment and
uniformity (Wang and Isola 2020, https://arxiv.org/abs/2005.10242).
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from eclip.backbones.blocks import unit
from eclip.backbones.encoding import encode
from eclip.datasets.pair import Pair, PairSet
from eclip.errors import DataError
from eclip.evaluation.bootstrap import Number, Weights, number
from eclip.evaluation.query import EvaluationQuery, readable
from eclip.evaluation.row import Row
from eclip.evaluation.rules import Recognize
from eclip.evaluation.store import BatchResult
from eclip.explanation.query import since
from eclip.metrics.ranking import ranks
from eclip.texts.encode import encode_apart, encode_texts

AT_ONCE = 512
MODEL = "model"
"""Name of the only row, since methods do not affect this task."""


class RecognizeTask:
    """Scores images with captions, or with the name of their class, under rules of class `Recognize`."""

    def __init__(self, asked: EvaluationQuery) -> None:
        assert isinstance(asked.protocol.rules, Recognize)
        self.asked, self.rules = asked, asked.protocol.rules
        assert isinstance(asked.data, PairSet)
        classes = asked.data.classes
        self.names = classes and tuple(dict.fromkeys(classes))  # ImageNet has two classes "crane": one candidate

    def score(self, items: Sequence[Pair], start: int) -> BatchResult:
        """Score a batch of images; `start` is the position of the first in the data set."""
        asked, rules = self.asked, self.asked.protocol
        failures: list[tuple[str, str]] = []
        images: list[int] = []
        captions: list[str] = []
        owners: list[int] = []
        pixels: list[Tensor] = []
        began = time.perf_counter()
        for place, item, image in readable(items, start, failures):
            pixels.append(asked.backbone.preprocess(image, rules.image_size, rules.resize))
            images.append(place)
            own = item.captions[:1] if self.names else item.captions[: self.rules.captions]
            if self.names and own[0] not in self.names:
                raise DataError(
                    f"{item.key} has the class {own[0]!r}, which is not among the {len(self.names)} classes."
                )
            captions += own
            owners += [place] * len(own)
        features = [
            unit(encode(asked.backbone, torch.stack(list(group)), 0, rules.positions).feature).float().cpu().numpy()
            for _, group in groupby(pixels, key=lambda one: one.shape)  # consecutive images of one shape share a pass
        ]
        seconds = {"forward": since(began, asked.backbone)}
        arrays: dict[str, NDArray[Any]] = {}
        if images:
            arrays = {"images": np.array(images), "features": np.concatenate(features), "owners": np.array(owners)}
            if self.names is None:
                arrays["texts"] = encode_texts(asked.backbone, captions, rules.templates).float().cpu().numpy()
            else:
                arrays["labels"] = np.array([self.names.index(name) for name in captions])
        return BatchResult(arrays, seconds, len(images), {}, failures)

    def record(self, results: Iterable[BatchResult]) -> list[Row]:
        """Compute the row of the model, see `Task`."""
        filled = [one.arrays for one in results if one.arrays]
        if not filled:
            raise DataError(f"no image of {self.asked.data.name} could be read.")
        whole = {key: np.concatenate([one[key] for one in filled]) for key in filled[0]}
        images, features = whole["images"], whole["features"]
        numbered = np.array(self.asked.data.group_numbers())
        groups, count = numbered[images], len(np.unique(numbered[images]))
        if self.names is not None:
            text = encode_apart(self.asked.backbone, list(self.names), self.asked.protocol.templates).cpu().numpy()
            found = _ranks(features, text, [[int(label)] for label in whole["labels"]])
            numbers = self._within("accuracy_at", found, groups, len(text))
            numbers |= geometry(features, text, np.arange(len(images)), whole["labels"], groups)
            return [Row(MODEL, False, len(images), len(images), numbers, groups=count)]
        texts, owners = whole["texts"], whole["owners"]
        same = np.array(self.asked.data.image_numbers())  # items that share an image are one candidate
        first, its = np.unique(same[images], return_index=True, return_inverse=True)[1:]
        places = its[np.searchsorted(images, owners)]  # index of each caption's image among the readable ones
        images, features, groups = images[first], features[first], groups[first]
        of_images: list[list[int]] = [[] for _ in images]
        for caption, image in enumerate(places.tolist()):
            of_images[image].append(caption)
        found = _ranks(texts, features, [[int(place)] for place in places])
        numbers = self._within("image_recall_at", found, numbered[owners], len(images))
        numbers |= self._within("text_recall_at", _ranks(features, texts, of_images), groups, len(texts))
        numbers |= geometry(features, texts, places, np.arange(len(texts)), groups)
        return [Row(MODEL, False, len(texts), len(images), numbers, groups=count)]

    def _within(self, name: str, places: NDArray[np.int64], groups: NDArray[np.int64], count: int) -> dict[str, Number]:
        """The share of queries found within each rank; ranks above the number of candidates are left out."""
        at = [k for k in self.rules.at if k <= count]
        hits: Float[np.ndarray, "query rank"] = (places[:, None] <= np.array(at)).astype(float)
        weights = Weights(groups)
        shares = weights.means(hits)
        return {f"{name}_{k}": number(hits[:, i].mean(), shares[:, i]) for i, k in enumerate(at)}


def geometry(
    images: Float[np.ndarray, "image feature"],
    texts: Float[np.ndarray, "text feature"],
    owners: Int[np.ndarray, " pair"],
    named: Int[np.ndarray, " pair"],
    groups: Int[np.ndarray, " image"],
) -> dict[str, Number]:
    """Modality gap, alignment of pairs, and uniformity of images, all of unit features; see `report.numbers`.

    A pair has the index of its image in `owners`, that of its text in `named`; the groups are those of the images.
    """
    images, texts, weights = images.astype(float), texts.astype(float), Weights(groups)
    center = texts.mean(axis=0)
    apart = np.square(images[owners] - texts[named]).sum(axis=1)
    of_pairs = Weights(groups[owners]).means(apart[:, None])[:, 0]
    gaps = np.linalg.norm(weights.means(images) - center, axis=1)
    near = np.full(len(images), np.nan)  # of each image, the mean over the others, in blocks that fit into memory
    for start in range(0, len(images) if len(images) > 1 else 0, AT_ONCE):
        block = np.exp(-2 * (2 - 2 * images[start : start + AT_ONCE] @ images.T).clip(0))
        block[np.arange(len(block)), start + np.arange(len(block))] = 0  # itself
        near[start : start + AT_ONCE] = block.sum(axis=1) / (len(images) - 1)
    return {
        "modality_gap": number(float(np.linalg.norm(images.mean(axis=0) - center)), gaps),
        "alignment": number(float(apart.mean()), of_pairs),
        "uniformity": number(float(np.log(near.mean())), np.log(weights.means(near[:, None]))[:, 0]),
    }


def _ranks(
    queries: Float[np.ndarray, "query feature"],
    candidates: Float[np.ndarray, "candidate feature"],
    own: Sequence[Sequence[int]],
) -> Int[np.ndarray, " query"]:
    """`ranks` of unit features, in blocks of queries, so that their similarities fit into memory."""
    spans = [slice(start, start + AT_ONCE) for start in range(0, len(queries), AT_ONCE)]
    return np.concatenate([ranks(queries[span] @ candidates.T, own[span]) for span in spans])
