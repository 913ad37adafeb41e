"""All metrics of heat maps behind `METRICS[name](...)`: pure functions that return a number (or curve) for one map.

Metrics take heat maps, masks, similarities, or a function `score(pixels)`, never a backbone. The caller averages over
pairs. To add one, write a function in a file of related metrics, a line here and a row in docs/metrics.md.
Importing the dict does not import NumPy: a metric's file is imported on its first call.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from eclip.registry import Entry


@dataclass(frozen=True)
class Metric(Entry[Any]):
    """A metric, in a file of related metrics.

    Attributes:
        kind: its inputs and its result:
            "pair": heat (height, width) in [0, 1], masks inside and outside the object (void in neither); a number.
            "labels": a confusion matrix from `segmentation.confusion`; a number.
            "steps": score(pixels), pixels, heat, a fill from `fills.fill`; a `steps.Curve`, see `steps.area`.
            "maps": two maps (row, col); a number.
            "ranking": similarity (query, candidate) and the matches of each query; a number.
            "gaze": heat in [0, 1], fixations (fixation, 2) as shares of width and height; a number.
            "rejection": confidence (item,), and which items are known or right; a number.
            "regions": maps and masks of several images; a number.
        better: "higher", "lower", or "nearer 0" if both signs are equally bad.
        least: the smallest possible value; -inf if it depends on the score.
        most: the largest possible value; inf if it depends on the score.
    """

    kind: Literal["pair", "labels", "steps", "maps", "ranking", "gaze", "rejection", "regions"]
    better: Literal["higher", "lower", "nearer 0"]
    least: float
    most: float

    def __call__(self, *given: Any, **options: Any) -> Any:
        """Compute the metric; its `kind` determines inputs and result.

        Raises:
            OptionError: an option that this metric does not have, or a value of the wrong type or out of range.
            EclipError: the inputs cannot be scored.
        """
        return self.function(*given, **self.check(options))


# fmt: off
METRICS: dict[str, Metric] = {metric.name: metric for metric in (
    Metric("contrast", "pair", "higher", -1.0, 1.0, file="localization",
        summary="Mean heat on the object minus mean heat elsewhere, averaged in mSC (Li et al. 2022, ECLIP)."),
    Metric("iou", "pair", "higher", 0.0, 1.0, file="localization",
        summary="IoU of the thresholded heat map with the object, averaged in mIoU (Li et al. 2023, CLIP Surgery)."),
    Metric("average_precision", "pair", "higher", 0.0, 1.0, file="separation",
        summary="Average precision of the heat map as a pixel classifier (Zhu 2004)."),
    Metric("auroc", "pair", "higher", 0.0, 1.0, file="separation",
        summary="Probability that a pixel of the object has more heat than another pixel (Hanley and McNeil 1982)."),
    Metric("pointing_game", "pair", "higher", 0.0, 1.0, file="pointing",
        summary="Whether the maximum of the heat map lies on the object (Zhang et al. 2018)."),
    Metric("energy", "pair", "higher", 0.0, 1.0, file="pointing",
        summary="Share of the heat that lies on the object (Wang et al. 2020, Score-CAM)."),
    Metric("box_iou", "pair", "higher", 0.0, 1.0, file="boxes",
        summary="IoU of the box around the largest region of heat with a box of the object "
                "(Choe et al. 2020, MaxBoxAcc)."),
    Metric("segmentation_miou", "labels", "higher", 0.0, 1.0, file="segmentation",
        summary="IoU of predicted and true pixels of each class, averaged over classes (Everingham et al. 2010, VOC)."),
    Metric("pixel_accuracy", "labels", "higher", 0.0, 1.0, file="segmentation",
        summary="Share of pixels that are classified correctly (Long et al. 2015)."),
    Metric("insertion", "steps", "higher", -math.inf, math.inf, file="steps",
        summary="Score as pixels are revealed in order of decreasing heat (Petsiuk et al. 2018, RISE)."),
    Metric("deletion", "steps", "lower", -math.inf, math.inf, file="steps",
        summary="Score as pixels are removed in order of decreasing heat (Petsiuk et al. 2018, RISE)."),
    Metric("rank_correlation", "maps", "nearer 0", -1.0, 1.0, file="sanity",
        summary="Rank correlation of the map with that of a randomly initialized model (Adebayo et al. 2018)."),
    Metric("recall", "ranking", "higher", 0.0, 1.0, file="ranking",
        summary="Share of queries with a matching candidate among the top k (Hodosh et al. 2013)."),
    Metric("accuracy", "ranking", "higher", 0.0, 1.0, file="ranking",
        summary="Share of images whose class is among the top k (Radford et al. 2021, CLIP)."),
    Metric("nss", "gaze", "higher", -math.inf, math.inf, file="saliency",
        summary="Mean of the standardized map at fixations of the gaze (Peters et al. 2005)."),
    Metric("density_correlation", "gaze", "higher", -1.0, 1.0, file="saliency",
        summary="Correlation of the map with the density of fixations, CC (Bylinskii et al. 2019)."),
    Metric("density_intersection", "gaze", "higher", 0.0, 1.0, file="saliency",
        summary="Intersection of the map with the density of fixations, SIM (Judd et al. 2012)."),
    Metric("density_divergence", "gaze", "lower", 0.0, math.inf, file="saliency",
        summary="Divergence of the map from the density of fixations, KL (Bylinskii et al. 2019)."),
    Metric("auc_judd", "gaze", "higher", 0.0, 1.0, file="saliency",
        summary="Probability that a fixation has more heat than a pixel without one (Judd et al. 2009)."),
    Metric("shuffled_auc", "gaze", "higher", 0.0, 1.0, file="saliency",
        summary="Probability that a fixation has more heat than one of another image (Zhang et al. 2008)."),
    Metric("known_auroc", "rejection", "higher", 0.0, 1.0, file="rejection",
        summary="Probability that a known item has more confidence than an unknown one (Hendrycks and Gimpel 2017)."),
    Metric("false_positive_rate", "rejection", "lower", 0.0, 1.0, file="rejection",
        summary="Share of the unknown accepted where 95 % of the known are, FPR95 (Liang et al. 2018)."),
    Metric("risk_coverage", "rejection", "lower", 0.0, 1.0, file="rejection",
        summary="Mean share of wrong answers among the most confident, AURC (Geifman and El-Yaniv 2017)."),
    Metric("region_overlap", "regions", "higher", 0.0, 1.0, file="anomaly",
        summary="Share of each defect that an anomaly map finds, at few false positives, PRO (Bergmann et al. 2020)."),
)}
# fmt: on
