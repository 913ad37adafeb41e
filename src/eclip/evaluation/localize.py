"""The task "localize": does the map of a class lie on its object? Explanation mIoU, mSC and other metrics."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from eclip.backbones.encoding import Encoding
from eclip.evaluation.baselines import BASELINES, NAMES
from eclip.evaluation.bootstrap import Number, Weights, number
from eclip.evaluation.checks import check_baselines
from eclip.evaluation.pair_task import PairTask, Scores, ShownClass
from eclip.evaluation.query import EvaluationQuery, joined
from eclip.evaluation.row import Row
from eclip.evaluation.rules import Localize
from eclip.evaluation.store import BatchResult
from eclip.heatmap import flat, normalize, resize
from eclip.metrics.boxes import box_ious
from eclip.metrics.localization import contrast, overlaps, record_of
from eclip.metrics.pointing import energy, pointing_game
from eclip.metrics.separation import separation

MEANS = ("msc", "average_precision", "auroc", "pointing_game", "energy")
"""Numbers that are averaged over pairs."""
_COUNTS = ("hits", "unions", "flipped_hits", "flipped_unions")


class LocalizeTask(PairTask[Localize]):
    """Scores pairs of an image and a class that it shows, under rules of class `Localize`."""

    def __init__(self, asked: EvaluationQuery) -> None:
        super().__init__(asked)
        self.thresholds = np.array(self.rules.thresholds)

    def score_class(self, shown: ShownClass, encoding: Encoding) -> Scores:
        """Score a class that an image shows."""
        found = {}
        for name, raw in shown.maps.items():
            method = name not in NAMES
            numbers = self._numbers(normalize(raw) if method else raw, shown.inside, shown.outside)
            found[name] = {**numbers, "flat": method and bool(flat(raw))}
        return found

    def _numbers(
        self, normalized: Tensor, inside: Bool[np.ndarray, "height width"], outside: Bool[np.ndarray, "height width"]
    ) -> dict[str, NDArray[Any]]:
        """All numbers of one map of one class."""
        heat = resize(normalized, inside.shape).numpy()
        means = [contrast(heat, inside, outside), *separation(heat, inside, outside)]
        means += [pointing_game(heat, inside, outside), energy(heat, inside, outside)]
        boxes = box_ious(heat, inside, outside, self.thresholds)
        counts = [count for each in (heat, 1 - heat) for count in overlaps(each, inside, outside, self.thresholds)]
        own = {key: count.astype(np.int32) for key, count in zip(_COUNTS, counts, strict=True)}
        return {"means": np.array(means), **own, "boxes": boxes.astype(np.float32)}

    def record(self, results: Iterable[BatchResult]) -> list[Row]:
        """Compute a row for each method and baseline, see `Task`."""
        whole, names = joined(results, self.asked.data)
        weights = Weights(whole["groups"])
        ious = whole["hits"] / whole["unions"]  # pair name threshold
        values = dict(zip(names, ious.mean(axis=0).max(axis=1).tolist(), strict=True))
        again = {name: weights.means(ious[:, column]).max(axis=1) for column, name in enumerate(names)}
        best = max(BASELINES, key=lambda name: values[name])
        everything = whole["hits"][:, names.index("ones")] == whole["unions"][:, names.index("ones")]
        check_baselines(self.asked.data, {name: values[name] for name in NAMES}, float(everything.all(axis=1).mean()))
        rows = []
        for column, name in enumerate(names):
            over = None if name in NAMES else number(values[name] - values[best], again[name] - again[best])
            rows.append(self._row(name, column, whole, weights, again[name], over))
        return rows

    def _row(
        self,
        name: str,
        column: int,
        whole: dict[str, NDArray[Any]],
        weights: Weights,
        again: Float[np.ndarray, " replicate"],
        over: Number | None,
    ) -> Row:
        images, numbers = len(np.unique(whole["images"])), whole["numbers"]
        own = {key: whole[key][:, column].astype(float) for key in ("means", *_COUNTS, "boxes")}
        ious = own["hits"] / own["unions"]
        flipped = own["flipped_hits"] / own["flipped_unions"]
        means, boxes = weights.means(own["means"]), own["boxes"].mean(axis=0)
        record = record_of(numbers, own["means"][:, 0], own["hits"], own["unions"], self.thresholds)
        hits = np.concatenate([own["hits"], own["means"][:, :1]], axis=1)
        unions = np.concatenate([own["unions"], np.ones((len(numbers), 1))], axis=1)
        by_class = weights.class_ratios(hits, unions, numbers)  # replicate threshold, and contrast
        values = {"miou": number(record.miou, again)} | ({} if over is None else {"over_control": over})
        values |= {key: number(own["means"][:, i].mean(), means[:, i]) for i, key in enumerate(MEANS)}
        values["miou_held_out"] = self._held_out(ious, whole["groups"], weights)
        values["flipped_miou"] = number(flipped.mean(axis=0).max(), weights.means(flipped).max(axis=1))
        values["box_iou"] = number(boxes.max(), weights.means(own["boxes"]).max(axis=1))
        values["class_miou"] = number(record.class_miou, by_class[:, :-1].max(axis=1))
        values["class_msc"] = number(record.class_msc, by_class[:, -1])
        names = self.asked.classes
        facts = {
            "threshold": record.threshold,
            "class_threshold": record.class_threshold,
            "box_threshold": float(self.thresholds[boxes.argmax()]),
            "flat": int(whole["flat"][:, column].sum()),
            "curve": [round(one, 6) for one in record.curve],
            "class_curve": [round(one, 6) for one in record.class_curve],
            "classes": {
                str(one): {"name": names[one], "pairs": own.pairs, "msc": round(own.msc, 6), "iou": round(own.iou, 6)}
                for one, own in record.classes.items()
            },
        }
        best = int(np.argmax(record.curve))
        each = [
            {"image": int(item), "class": int(one), "iou": float(iou), "msc": float(msc)}
            for item, one, iou, msc in zip(whole["items"], numbers, ious[:, best], own["means"][:, 0], strict=True)
        ]
        return Row(name, name in NAMES, len(numbers), images, values, facts, each, len(weights.groups))

    def _held_out(
        self, ious: Float[np.ndarray, "pair threshold"], groups: Int[np.ndarray, " pair"], weights: Weights
    ) -> Number:
        """Mean IoU if each half of the groups, by even and odd number, uses the best threshold of the other half."""
        halves = [groups % 2 == 0, groups % 2 == 1]
        if not all(half.any() for half in halves):
            return Number(np.nan, np.nan, np.nan)
        value, replicates = 0.0, np.zeros(len(weights.counts))
        for here, there in (halves, halves[::-1]):
            chosen = int(ious[there].mean(axis=0).argmax())
            value += ious[here, chosen].sum() / len(groups)
            again = weights.sums(ious[there], np.flatnonzero(there)).argmax(axis=1)
            replicates += weights.sums(ious[here], np.flatnonzero(here))[np.arange(len(again)), again]
        count = weights.sums(np.ones((len(groups), 1)))[:, 0]
        return number(value, np.divide(replicates, count, out=np.full_like(count, np.nan), where=count > 0))
