"""The task "segment": each pixel gets a class, as in `eclip.segment`; mIoU over classes, from counts over all images.

Without background (no words for it, no threshold), background pixels are void, as in the papers' VOC20 and Context59.
The mean is over classes that some image shows. mmsegmentation counts a class that is predicted but shown by no image as
0; in complete data sets there is none, and in a subset its pixels already count as misses of other classes.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from eclip.backbones.encoding import encode
from eclip.datasets.masks import BACKGROUND, VOID, Masked
from eclip.errors import DataError
from eclip.evaluation.baselines import random
from eclip.evaluation.bootstrap import Weights, number
from eclip.evaluation.checks import check_baselines, nothing_shown
from eclip.evaluation.query import EvaluationQuery, Opened, check_own_images, joined, opened
from eclip.evaluation.report.numbers import BOUND
from eclip.evaluation.row import Row
from eclip.evaluation.rules import Segment
from eclip.evaluation.store import BatchResult
from eclip.explanation.query import since
from eclip.methods import BETWEEN_TEXTS, METHODS
from eclip.metrics.bound import grid_bound
from eclip.metrics.segmentation import confusion
from eclip.refinements import REFINEMENTS
from eclip.segmentation.classes import BACKGROUND as BEHIND
from eclip.segmentation.classes import ClassWords
from eclip.segmentation.labels import Piece, label_pixels, pieces_of
from eclip.segmentation.windows import check_windows
from eclip.texts.encode import encode_apart

BASELINES = ("random", BOUND)
AT_ONCE = 16
"""Windows in one forward pass."""
ALONE = (
    " With one class and no background, every pixel gets that class: use a protocol with background, such as "
    "ovseg-argmax-background, or explain-v1."
)
Labels = NDArray[np.integer[Any]]


class SegmentTask:
    """Labels images under rules of class `Segment`; maps that are not comparable between texts are not applicable."""

    def __init__(self, asked: EvaluationQuery) -> None:
        rules = asked.protocol.rules
        assert isinstance(rules, Segment)
        able = {name: own for name, own in asked.methods.items() if METHODS[name].kind in BETWEEN_TEXTS}
        self.not_applicable = {
            name: "its maps are not comparable between texts" for name in asked.methods if name not in able
        }
        self.asked = replace(asked, methods=able)
        names = tuple(asked.classes.values())
        taken = {name.casefold() for name in names}
        behind = tuple(word for word in rules.background if word.casefold() not in taken)
        self.words = ClassWords((BEHIND, *names), (behind, *((name,) for name in names)))
        self.text = encode_apart(asked.backbone, self.words.texts, asked.protocol.templates)
        slid = check_windows(rules.window, rules.stride, asked.protocol.image_size if rules.window else None)
        self.slid = None if rules.window is None or slid is None else (rules.window, *slid)
        self.view = (rules.window, "squash") if self.slid else (asked.protocol.image_size, asked.protocol.resize)
        self.cuts = {key: getattr(rules, key) for key in ("scale", "prob_threshold", "area_threshold")}
        self.behind = bool(rules.background) or rules.prob_threshold is not None
        if self.behind:
            check_own_images(asked)
        self.labels = np.full(VOID + 1, VOID, np.int64)  # of each number of a mask
        self.labels[list(asked.classes)] = np.arange(1, len(asked.classes) + 1)
        self.labels[BACKGROUND] = 0 if self.behind else VOID

    def score(self, items: Sequence[Masked], start: int) -> BatchResult:
        """Score a batch of images; `start` is the position of the first in the data set."""
        found, failures = opened(items, start, self.asked.classes)
        not_applicable, seconds = dict(self.not_applicable), {"forward": 0.0}
        finer = self.asked.refine is not None and REFINEMENTS[self.asked.refine].finer
        groups: dict[tuple[int, ...], list[Opened]] = {}
        for one in found:  # maps on pixels take so much memory that images are processed one at a time
            groups.setdefault((one.place,) if finer else self._grid(one), []).append(one)
        images: list[int] = []
        counts: list[dict[str, NDArray[np.int32]]] = []
        for group in groups.values():
            whole, at_once = [one.image for one in group], AT_ONCE if self.slid else len(group)
            pieces = pieces_of(whole, self.slid, at_once, lambda some, _: self._maps(some, not_applicable, seconds))
            for place, one in enumerate(group):
                truth, size = self.labels[one.mask], one.mask.shape
                labels = {
                    name: label_pixels(own[place], size, self.words.places, **self.cuts)[0]
                    for name, own in pieces.items()
                }
                labels |= self._baselines(one, truth)
                images.append(one.place)
                counts.append({name: self._counts(each, truth) for name, each in labels.items()})
        names = [name for name in self.asked.methods if name not in not_applicable] + [*BASELINES]
        arrays: dict[str, NDArray[Any]] = {"names": np.array(names)}
        if images:
            arrays["images"] = np.array(images)
            arrays["counts"] = np.array([[own[name] for name in names] for own in counts])
        return BatchResult(arrays, seconds, len(found), not_applicable, failures)

    def _maps(
        self, images: list[Image.Image], not_applicable: dict[str, str], seconds: dict[str, float]
    ) -> dict[str, list[Tensor]]:
        """Raw maps of all words by method, for images or windows with the same grid."""
        asked = self.asked
        pixels = torch.stack([asked.backbone.preprocess(image, *self.view) for image in images])
        began = time.perf_counter()
        encoding = encode(asked.backbone, pixels, asked.keep, asked.protocol.positions)
        seconds["forward"] += since(began, asked.backbone)
        every = [list(range(len(self.text)))] * len(images)
        run = partial(asked.maps, encoding=encoding, text=self.text, shown=every)
        return asked.by_method(run, not_applicable, seconds)

    def _grid(self, one: Opened) -> tuple[int, int]:
        """Patches (row, col) of the whole image, as the model sees it at once or in windows."""
        backbone, (height, width) = self.asked.backbone, one.mask.shape
        if self.slid is None:
            row, col = backbone.grid_for(one.image.size, *self.view)
            return row, col
        patch = backbone.patch_size * min(height, width) / self.slid[2]  # in the image's own pixels
        return max(1, round(height / patch)), max(1, round(width / patch))

    def _baselines(self, one: Opened, truth: Int[np.ndarray, "height width"]) -> dict[str, Labels]:
        """Label maps of the baselines, and of the true mask on the patch grid."""
        grid, size = self._grid(one), one.mask.shape
        labels = range(0 if self.behind else 1, len(self.words.names))
        known = truth != VOID
        shown = set(np.unique(truth[known]).tolist())
        maps: dict[str, list[Float[np.ndarray, "row col"]]] = {
            "random": [random(grid, (one.place, label)) for label in labels],
            BOUND: [
                grid_bound(truth == label, known & (truth != label), grid) if label in shown else np.full(grid, -1.0)
                for label in labels
            ],
        }
        places, box = {label: [place] for place, label in enumerate(labels)}, (0, 0, size[1], size[0])
        return {
            name: label_pixels([Piece(box, torch.from_numpy(np.stack(each)).float())], size, places, scale=1.0)[0]
            for name, each in maps.items()
        }

    def _counts(self, labels: Labels, truth: Int[np.ndarray, "height width"]) -> Int[np.ndarray, "3 label"]:
        """Pixel counts of each label: correct, in the true mask, in the prediction."""
        counted = confusion(labels.astype(np.int64), truth, len(self.words.names), void=VOID)
        return np.stack([counted.diagonal(), counted.sum(axis=1), counted.sum(axis=0)]).astype(np.int32)

    def record(self, results: Iterable[BatchResult]) -> list[Row]:
        """Compute a row for each method and baseline, see `Task`."""
        whole, names = joined(results, self.asked.data)
        images = whole["images"]
        weights = Weights(whole["groups"])
        if not whole["counts"][:, 0, 1, 1:].any():  # background is not a class
            why = nothing_shown(self.asked.data)
            raise DataError(f"no pixel of {self.asked.data.name} belongs to a class.{why}")
        rows = []
        for column, name in enumerate(names):
            counts = whole["counts"][:, column].astype(float)  # image 3 label
            again = weights.sums(counts.reshape(len(images), -1)).reshape(-1, *counts.shape[1:])
            own = counts.sum(axis=0)
            ious = _ious(own[None])[0]
            values = {
                "segmentation_miou": number(float(np.nanmean(ious)), _mean(_ious(again))),
                "pixel_accuracy": number(own[0].sum() / own[1].sum(), _share(again[:, 0], again[:, 1])),
            }
            classes = {
                str(one): {"name": label, "iou": None if np.isnan(iou) else round(float(iou), 6)}
                for one, label, iou in zip([BACKGROUND, *self.asked.classes], self.words.names, ious, strict=True)
                if one != BACKGROUND or self.behind
            }
            shown, groups = (len(images), len(np.unique(images))), len(weights.groups)
            rows.append(Row(name, name in BASELINES, *shown, values, {"classes": classes}, groups=groups))
        scores = {row.method: row.numbers["segmentation_miou"].value for row in rows if row.baseline}
        check_baselines(self.asked.data, scores, 0.0, "" if self.behind or len(self.asked.classes) > 1 else ALONE)
        return rows


def _ious(counts: Float[np.ndarray, "replicate 3 label"]) -> Float[np.ndarray, "replicate label"]:
    """IoU of each label; NaN if no image shows it."""
    hits, union = counts[:, 0], counts[:, 1] + counts[:, 2] - counts[:, 0]
    return np.divide(hits, union, out=np.full_like(hits, np.nan), where=counts[:, 1] > 0)


def _mean(ious: Float[np.ndarray, "replicate label"]) -> Float[np.ndarray, " replicate"]:
    known = ~np.isnan(ious)
    return _share(np.where(known, ious, 0), known.astype(float))


def _share(
    part: Float[np.ndarray, "replicate label"], whole: Float[np.ndarray, "replicate label"]
) -> Float[np.ndarray, " replicate"]:
    """The sum of part over the sum of whole; NaN if the latter is 0."""
    under, over = part.sum(axis=1), whole.sum(axis=1)
    return np.divide(under, over, out=np.full_like(under, np.nan), where=over > 0)
