"""The task "localize": does the map of a class lie on it? Explanation mIoU, mSC and what else tells maps apart."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from eclip.datasets.masks import VOID, Masked, present
from eclip.evaluation.baselines import CONTROLS, NAMES, control_maps
from eclip.evaluation.bootstrap import Number, Weights, number
from eclip.evaluation.checks import check_controls
from eclip.evaluation.protocols import Localize
from eclip.evaluation.query import Asked, Opened, joined, opened
from eclip.evaluation.row import Row
from eclip.evaluation.store import Part
from eclip.heatmap import normalize, resize
from eclip.metrics.boxes import box_ious
from eclip.metrics.localization import contrast, overlaps
from eclip.metrics.pointing import energy, pointing_game
from eclip.metrics.separation import separation

MEANS = ("msc", "average_precision", "auroc", "pointing_game", "energy")
"""Numbers of a pair that are averaged as they are."""
_COUNTS = ("hits", "unions", "flipped_hits", "flipped_unions")


class LocalizeTask:
    """Scores pairs of a photo and a class that it shows.

    Args:
        asked: the question; its protocol has rules of class `Localize`.
    """

    def __init__(self, asked: Asked) -> None:
        assert isinstance(asked.protocol.rules, Localize)
        self.asked, self.rules = asked, asked.protocol.rules
        self.thresholds = np.array(self.rules.thresholds)
        self.columns = {number: column for column, number in enumerate(asked.classes)}
        self.text = asked.texts()

    def score(self, items: Sequence[Masked], start: int) -> Part:
        """What a batch of photos gives; `start` is the place of the first in the data set."""
        found, failures = opened(items, start)
        gaps: dict[str, str] = {}
        seconds: dict[str, float] = {"forward": 0.0}
        rows: list[dict[str, NDArray[Any]]] = []
        for group, encoding, spent in self.asked.encoded(found):
            seconds["forward"] += spent
            numbers = [present(one.mask, self.rules.least) for one in group]
            shown = [[self.columns[number] for number in own] for own in numbers]
            maps = dict(self.asked.try_maps(encoding, self.text, shown, gaps, seconds))
            for image, one in enumerate(group):
                own = {name: each[image] for name, each in maps.items()}
                rows += self._photo(one, numbers[image], own, encoding.grid)
        names = [name for name in self.asked.methods if name not in gaps] + [*NAMES]
        arrays = {key: np.stack([row[key] for row in rows]) for key in rows[0]} if rows else {}
        return Part({**arrays, "names": np.array(names)}, seconds, len(found), gaps, failures)

    def _photo(
        self, photo: Opened, numbers: Sequence[int], maps: dict[str, Tensor], grid: tuple[int, int]
    ) -> Iterator[dict[str, NDArray[Any]]]:
        """Each pair of a photo: its place, its class, and a row of numbers for each method and control."""
        for column, one in enumerate(numbers):
            inside = photo.mask == one
            outside = ~inside & (photo.mask != VOID)
            heat = [normalize(each[column].float()) for each in maps.values()]
            heat += control_maps(grid, (photo.place, one), inside, outside)
            scored = [self._pair(each, inside, outside) for each in heat]
            found = {key: np.stack([score[key] for score in scored]) for key in scored[0]}
            yield {"photos": np.array(photo.place), "numbers": np.array(one), **found}

    def _pair(
        self, normalized: Tensor, inside: Bool[np.ndarray, "height width"], outside: Bool[np.ndarray, "height width"]
    ) -> dict[str, NDArray[Any]]:
        """All numbers of one map of one class."""
        heat = resize(normalized, inside.shape).numpy()
        hits, unions = overlaps(heat, inside, outside, self.thresholds)
        flipped_hits, flipped_unions = overlaps(1 - heat, inside, outside, self.thresholds)
        precision, auroc = separation(heat, inside, outside)
        means = [contrast(heat, inside, outside), precision, auroc]
        means += [pointing_game(heat, inside, outside), energy(heat, inside, outside)]
        counts = (one.astype(np.int32) for one in (hits, unions, flipped_hits, flipped_unions))
        boxes = box_ious(heat, inside, outside, self.thresholds)
        own = dict(zip(_COUNTS, counts, strict=True))
        return {"means": np.array(means), **own, "boxes": boxes.astype(np.float32)}

    def record(self, parts: Iterable[Part]) -> list[Row]:
        """A row for each method and control.

        Raises:
            DataError: no photo shows a class.
        """
        whole, names = joined(parts, self.asked.data)
        weights = Weights(whole["groups"])
        ious = whole["hits"] / whole["unions"]  # pair name threshold
        values = dict(zip(names, ious.mean(axis=0).max(axis=1), strict=True))
        again = {name: weights.means(ious[:, column]).max(axis=1) for column, name in enumerate(names)}
        best = max(CONTROLS, key=lambda name: values[name])
        everything = whole["hits"][:, names.index("ones")] == whole["unions"][:, names.index("ones")]
        check_controls(self.asked.data, {name: values[name] for name in NAMES}, float(everything.all(axis=1).mean()))
        rows = []
        for column, name in enumerate(names):
            over = None if name in NAMES else number(values[name] - values[best], again[name] - again[best])
            rows.append(self._row(name, column, whole, weights, number(values[name], again[name]), over))
        return rows

    def _row(
        self,
        name: str,
        column: int,
        whole: dict[str, NDArray[Any]],
        weights: Weights,
        miou: Number,
        over: Number | None,
    ) -> Row:
        photos, numbers = len(np.unique(whole["photos"])), whole["numbers"]
        own = {key: whole[key][:, column].astype(float) for key in ("means", *_COUNTS, "boxes")}
        ious = own["hits"] / own["unions"]
        flipped = own["flipped_hits"] / own["flipped_unions"]
        means = weights.means(own["means"])
        values = {"miou": miou} | ({} if over is None else {"over_control": over})
        values |= {key: number(own["means"][:, i].mean(), means[:, i]) for i, key in enumerate(MEANS)}
        curve, boxes = ious.mean(axis=0), own["boxes"].mean(axis=0)
        values["miou_held_out"] = self._held_out(ious, whole["groups"], weights)
        values["flipped_miou"] = number(flipped.mean(axis=0).max(), weights.means(flipped).max(axis=1))
        values["box_iou"] = number(boxes.max(), weights.means(own["boxes"]).max(axis=1))
        by_class, class_curve, values["class_miou"], values["class_msc"] = self._classes(own, numbers, weights)
        best, class_best = int(curve.argmax()), int(class_curve.argmax())
        classes = {
            str(one): {
                "name": self.asked.classes[one],
                "pairs": int((numbers == one).sum()),
                "msc": round(float(own["means"][numbers == one, 0].mean()), 6),
                "iou": round(float(each[class_best]), 6),
            }
            for one, each in by_class.items()
        }
        facts = {
            "threshold": self.rules.thresholds[best],
            "class_threshold": self.rules.thresholds[class_best],
            "box_threshold": self.rules.thresholds[int(boxes.argmax())],
            "curve": [round(one, 6) for one in curve.tolist()],
            "class_curve": [round(one, 6) for one in class_curve.tolist()],
            "classes": classes,
        }
        each = [
            {"photo": int(item), "class": int(one), "iou": float(iou), "msc": float(msc)}
            for item, one, iou, msc in zip(whole["items"], numbers, ious[:, best], own["means"][:, 0], strict=True)
        ]
        return Row(name, name in NAMES, len(numbers), photos, values, facts, each, len(weights.groups))

    def _held_out(
        self,
        ious: Float[np.ndarray, "pair threshold"],
        groups: Int[np.ndarray, " pair"],
        weights: Weights,
    ) -> Number:
        """Mean IoU where each half of the groups, by even and odd number, takes the best threshold of the other."""
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

    def _classes(
        self, own: dict[str, NDArray[Any]], numbers: Int[np.ndarray, " pair"], weights: Weights
    ) -> tuple[dict[int, Float[np.ndarray, " threshold"]], Float[np.ndarray, " threshold"], Number, Number]:
        """IoU of each class at each threshold, their mean, and the two numbers that are means over classes.

        The IoU of a class is the sum of its intersections over the sum of its unions; a replicate in which a class has
        no photo leaves it out.
        """
        by_class, contrasts = {}, []
        width = own["hits"].shape[1]
        total = np.zeros((len(weights.counts), width + 1))  # IoU at each threshold, and contrast
        known = np.zeros((len(weights.counts), 1))
        for one in np.unique(numbers):
            rows = np.flatnonzero(numbers == one)
            hits, unions, means = own["hits"][rows], own["unions"][rows], own["means"][rows, :1]
            by_class[int(one)] = hits.sum(axis=0) / unions.sum(axis=0)
            contrasts.append(means.mean())
            over = weights.sums(np.concatenate([unions, np.ones_like(means)], axis=1), rows)
            there = over[:, -1:] > 0
            under = weights.sums(np.concatenate([hits, means], axis=1), rows)
            total += np.divide(under, over, out=np.zeros_like(total), where=there)
            known += there
        means = np.divide(total, known, out=np.full_like(total, np.nan), where=known > 0)
        class_curve = np.mean(list(by_class.values()), axis=0)
        miou = number(class_curve.max(), means[:, :-1].max(axis=1))
        return by_class, class_curve, miou, number(float(np.mean(contrasts)), means[:, -1])
