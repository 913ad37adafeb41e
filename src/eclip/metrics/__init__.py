"""What a heat map is worth: `METRICS[name](...)`, one number (or curve) for one map, pure functions without a model.

Metrics see heat maps, masks, similarities, or a function `score(pixels)`; never a backbone. Who calls them takes the
means over pairs. To add one: a function in the file of its kin, a line here, its row in docs/metrics.md.
The dict itself imports no NumPy; a metric's file is imported when the metric is first called.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from eclip.registry import Entry


@dataclass(frozen=True)
class Metric(Entry[Any]):
    """A metric, in the file of its kin.

    Attributes:
        kind: what it takes and gives:
            "pair": heat (height, width) in [0, 1], masks of the thing and of the rest (void in neither); a number.
            "labels": a confusion matrix of `segmentation.confusion`; a number.
            "steps": score(pixels), pixels, heat, a fill of `fills.fill`; a `steps.Curve`; `steps.area` is its number.
            "maps": two maps (row, col); a number.
            "ranking": similarity (query, candidate) and what belongs to each query; a number.
        better: "higher", "lower", or "nearer 0" where both signs are as bad.
        least: the smallest value it can have; -inf: that of the score.
        most: the largest; inf: that of the score.
    """

    kind: Literal["pair", "labels", "steps", "maps", "ranking"]
    better: Literal["higher", "lower", "nearer 0"]
    least: float
    most: float

    def __call__(self, *given: Any, **options: Any) -> Any:
        """What its kind gives of what its kind takes.

        Raises:
            OptionError: an option that this metric does not have, a value of another type, or outside its range.
            EclipError: what was given cannot be scored.
        """
        return self.function(*given, **self.check(options))


# fmt: off
METRICS: dict[str, Metric] = {metric.name: metric for metric in (
    Metric("contrast", "pair", "higher", -1.0, 1.0, file="localization",
        summary="Mean heat on the thing minus mean heat beside it, the term of mSC (Li et al. 2022, ECLIP)."),
    Metric("iou", "pair", "higher", 0.0, 1.0, file="localization",
        summary="Overlap of the heat from a threshold on with the thing, the term of mIoU "
                "(Li et al. 2023, CLIP Surgery)."),
    Metric("average_precision", "pair", "higher", 0.0, 1.0, file="separation",
        summary="Precision among the pixels as warm as each pixel of the thing, meaned (Zhu 2004)."),
    Metric("auroc", "pair", "higher", 0.0, 1.0, file="separation",
        summary="The chance that a pixel of the thing is warmer than one beside it (Hanley and McNeil 1982)."),
    Metric("pointing_game", "pair", "higher", 0.0, 1.0, file="pointing",
        summary="Whether the warmest pixel lies on the thing (Zhang et al. 2018)."),
    Metric("energy", "pair", "higher", 0.0, 1.0, file="pointing",
        summary="The share of the heat that lies on the thing (Wang et al. 2020, Score-CAM)."),
    Metric("box_iou", "pair", "higher", 0.0, 1.0, file="boxes",
        summary="Overlap of the box of the largest warm region with a box of the thing (Choe et al. 2020, MaxBoxAcc)."),
    Metric("segmentation_miou", "labels", "higher", 0.0, 1.0, file="segmentation",
        summary="Overlap of what is called each class with what is it, meaned over classes "
                "(Everingham et al. 2010, VOC)."),
    Metric("pixel_accuracy", "labels", "higher", 0.0, 1.0, file="segmentation",
        summary="The share of pixels that are called what they are (Long et al. 2015)."),
    Metric("insertion", "steps", "higher", -math.inf, math.inf, file="steps",
        summary="The score as pixels are revealed, warmest first (Petsiuk et al. 2018, RISE)."),
    Metric("deletion", "steps", "lower", -math.inf, math.inf, file="steps",
        summary="The score as pixels are taken out, warmest first (Petsiuk et al. 2018, RISE)."),
    Metric("rank_correlation", "maps", "nearer 0", -1.0, 1.0, file="sanity",
        summary="Whether the map of a model of random weights orders the patches alike (Adebayo et al. 2018)."),
    Metric("recall", "ranking", "higher", 0.0, 1.0, file="ranking",
        summary="The share of queries with one of their own among the k nearest (Hodosh et al. 2013)."),
    Metric("accuracy", "ranking", "higher", 0.0, 1.0, file="ranking",
        summary="The share of images whose class is among the k most similar (Radford et al. 2021, CLIP)."),
)}
# fmt: on
