"""The task "absent": does the model know what an image does not show?

Each class that an image shows is a known pair, each class without a pixel an unknown one, and rules that give a
confidence to image and name are compared by AUROC and FPR95 over all pairs. The same is asked of whole images: once
with all names, once without those that it shows, so that every name is wrong; and whether the best name is right.

Rules, with c the cosines of an image with all names and s the scale: "score" c (MaxLogit, Hendrycks et al. 2022);
"softmax" of s c over the names (MCM, Ming et al. 2022, https://arxiv.org/abs/2211.13445); "energy" log sum exp(s c)
(Liu et al. 2020, https://arxiv.org/abs/2010.03759), of whole images only; "presence" of `eclip.explanation.health`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from eclip.backbones.blocks import cosine
from eclip.datasets.masks import Masked, present
from eclip.errors import DataError, EclipError
from eclip.evaluation.bootstrap import Weights, number
from eclip.evaluation.query import EvaluationQuery, check_own_images, joined, opened
from eclip.evaluation.row import Row
from eclip.evaluation.rules import REJECTED, Absent
from eclip.evaluation.store import BatchResult
from eclip.explanation.checkup import Checkup
from eclip.metrics.rejection import false_positive_rate, known_auroc, risk_coverage

NAMES = ("score", "softmax", "energy", "presence", "random")
REPLICATES = 200


class AbsentTask:
    """Scores rules of rejection, not methods, under rules of class `Absent`."""

    def __init__(self, asked: EvaluationQuery) -> None:
        assert isinstance(asked.protocol.rules, Absent)
        check_own_images(asked)
        self.asked, self.rules = asked, asked.protocol.rules
        self.numbers, self.text = list(asked.classes), asked.texts()
        names = list(asked.classes.values())
        self.checkup = Checkup(
            asked.backbone, names, self.text, asked.protocol.templates, asked.view, only_presence=True
        )

    def score(self, items: Sequence[Masked], start: int) -> BatchResult:
        """Score a batch of images; `start` is the position of the first in the data set."""
        found, failures = opened(items, start, self.asked.classes)
        seconds, rows = {"forward": 0.0}, list[tuple[int, NDArray[Any], NDArray[Any]]]()
        for group, encoding, spent in self.asked.encoded(found):
            seconds["forward"] += spent
            cosines, there = cosine(encoding.feature, self.text), self.checkup.presence(encoding)
            for image, one in enumerate(group):
                shown, some = present(one.mask, self.rules.least), set(np.unique(one.mask).tolist())
                state = [1 if each in shown else -1 if each in some else 0 for each in self.numbers]
                rows.append((one.place, np.array(state), _confidences(cosines[image], there[image], self.rules.scale)))
        arrays: dict[str, NDArray[Any]] = {"names": np.array(NAMES)}
        if rows:
            arrays["images"], arrays["numbers"] = np.array([place for place, _, _ in rows]), np.zeros(len(rows), int)
            arrays["filled"] = np.stack([state for _, state, _ in rows])
            arrays["values"] = np.stack([values for _, _, values in rows])
        return BatchResult(arrays, seconds, len(found), {}, failures)

    def record(self, results: Iterable[BatchResult]) -> list[Row]:
        """Compute a row for each rule, and one for random numbers; DataError if every image shows every class."""
        whole, names = joined(results, self.asked.data)
        shown, values = whole["filled"], whole["values"]  # image class; image name class
        if not (shown == 0).any():
            raise DataError(
                f"{self.asked.protocol.name} needs classes that some images lack, but every image of "
                f"{self.asked.data.name} shows every class: use data with more classes."
            )
        values[:, names.index("random")] = np.random.default_rng(0).random(shown.shape)
        weights, rows = Weights(whole["groups"], REPLICATES), []
        counts = weights.counts[:, np.unique(whole["groups"], return_inverse=True)[1]]
        for column, name in enumerate(names):
            own = _numbers(values[:, column], shown, name)
            drawn = np.array([_resampled(values[:, column], shown, name, one) for one in counts]).reshape(-1, len(own))
            found = {key: number(one, drawn[:, i]) for i, (key, one) in enumerate(zip(REJECTED, own, strict=True))}
            rows.append(
                Row(name, name == "random", int((shown >= 0).sum()), len(shown), found, groups=len(weights.groups))
            )
        return rows


def _confidences(
    cosines: Float[Tensor, " text"], presence: Float[Tensor, " text"], scale: float
) -> Float[np.ndarray, "name text"]:
    shares = (scale * cosines).softmax(dim=0)
    nothing = torch.full_like(cosines, torch.nan)
    return torch.stack([cosines, shares, scale * cosines, presence.to(cosines), nothing]).double().cpu().numpy()


def _resampled(
    values: Float[np.ndarray, "image text"], shown: NDArray[Any], name: str, counts: NDArray[Any]
) -> Float[np.ndarray, " key"]:
    places = np.repeat(np.arange(len(shown)), counts)
    try:
        return _numbers(values[places], shown[places], name)
    except EclipError:  # none known, or none unknown
        return np.full(len(REJECTED), np.nan)


def _numbers(values: Float[np.ndarray, "image text"], shown: NDArray[Any], name: str) -> Float[np.ndarray, " key"]:
    """The numbers in `REJECTED`; of energy, which belongs to whole images, no pairs."""
    asked = shown >= 0  # classes on a few pixels are neither known nor unknown
    some = asked.any(axis=1)
    pairs = [np.nan, np.nan]
    if name != "energy":
        confidence, known = values[asked], shown[asked] == 1
        pairs = [known_auroc(confidence, known), false_positive_rate(confidence, known)]
    shown, values, asked = shown[some], values[some], asked[some]  # images of which some class is asked
    of_all, of_strangers = (_of_image(values, mask, name) for mask in (asked, shown == 0))
    with_some = (shown == 1).any(axis=1)
    both = np.concatenate([of_all[with_some], of_strangers[(shown == 0).any(axis=1)]])
    known = np.arange(len(both)) < with_some.sum()
    best = np.where(asked, values, -np.inf).argmax(axis=1)
    right: Bool[np.ndarray, " image"] = shown[np.arange(len(shown)), best] == 1
    images = [known_auroc(both, known), false_positive_rate(both, known), risk_coverage(of_all, right)]
    return np.array([*pairs, *images])


def _of_image(values: Float[np.ndarray, "image text"], mask: NDArray[Any], name: str) -> Float[np.ndarray, " image"]:
    kept = np.where(mask, values, -np.inf)
    if name == "energy":
        return np.logaddexp.reduce(kept, axis=1)
    if name == "softmax":  # over the names that are asked
        return kept.max(axis=1) / np.where(mask, values, 0).sum(axis=1).clip(1e-12)
    return kept.max(axis=1)
