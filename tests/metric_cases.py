"""Each metric by hand, and oracles from other code, for test_metrics_cases.py and metric_table.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torchmetrics
import torchvision
from scipy import ndimage, stats
from scipy.spatial.distance import cityblock
from sklearn import metrics as sk
from torchmetrics import functional as tm

import eclip
from eclip.metrics.localization import THRESHOLDS, ious
from eclip.metrics.segmentation import class_ious, confusion
from eclip.metrics.steps import area

M = eclip.METRICS
HEAT = np.array([[1.0, 0.6, 0.2], [0.4, 0.5, 0.0]])
THING = np.array([[1, 1, 0], [1, 0, 0]], dtype=bool)
TRUTH = np.array([[0, 0, 1], [1, 2, 255]])
CALLED = np.array([[0, 1, 1], [1, 0, 2]])
SIMILARITY = np.array([[0.9, 0.5, 0.1], [0.9, 0.3, 0.2], [0.5, 0.5, 0.5]])
GAZE = np.array([[0.1, 0.1], [0.2, 0.3], [0.1, 0.9]])
"""On the pixels 1.0, 1.0 and 0.4 of HEAT."""
SURE, KNOWN = np.array([0.9, 0.5, 0.5, 0.1]), np.array([True, True, False, False])
WEIGHT = torch.tensor([[1.0, 2.0], [3.0, 4.0]])


def weighted(pixels: torch.Tensor) -> torch.Tensor:
    """A model whose score is the sum of its first channel's pixels, weighted 1, 2, 3, 4."""
    return (pixels[:, 0] * WEIGHT).sum((1, 2))


def walk(name: str, heat: list[list[float]]) -> float:
    """The area of a 2 x 2 image of ones on a fill of zeros under the weighted model."""
    one = torch.ones(3, 2, 2)
    return float(area(M[name](weighted, one, np.array(heat, dtype=float), torch.zeros_like(one), steps=4)))


@dataclass(frozen=True)
class ByHand:
    metric: str
    what: str
    ours: Callable[[], float]
    answer: float


# fmt: off
BY_HAND = [
    # inside 1.0, 0.6, 0.4; outside 0.2, 0.5, 0.0
    ByHand("contrast", "2.0 / 3 - 0.7 / 3", lambda: M["contrast"](HEAT, THING, ~THING), 1.3 / 3),
    # at 0.5: 1.0 and 0.6 of the three are found, and 0.5 falsely
    ByHand("iou", "at 0.5, 2 found of 3 and 1 false: 2 / 4",
           lambda: M["iou"](HEAT, THING, ~THING, threshold=0.5), 0.5),
    # at 1.0 the precision is 1/1, at 0.6 2/2, at 0.4 3/4 (0.5 is before it)
    ByHand("average_precision", "(1/1 + 2/2 + 3/4) / 3",
           lambda: M["average_precision"](HEAT, THING, ~THING), 2.75 / 3),
    # 1.0 and 0.6 are above all three outside, 0.4 above two of them
    ByHand("auroc", "(3 + 3 + 2) / 9 pairs", lambda: M["auroc"](HEAT, THING, ~THING), 8 / 9),
    # inside 0.5 and 0.2, outside 0.5 and 0.0: at 0.5 one of two is right, at 0.2 two of three
    ByHand("average_precision", "a tie: (1/2 + 2/3) / 2",
           lambda: M["average_precision"](np.array([[0.5, 0.5], [0.2, 0.0]]), np.array([[True, False], [True, False]]),
                                          np.array([[False, True], [False, True]])), 7 / 12),
    # 0.5 against 0.5 is half, against 0.0 one; 0.2 against 0.5 nothing, against 0.0 one
    ByHand("auroc", "a tie: (1/2 + 1 + 0 + 1) / 4",
           lambda: M["auroc"](np.array([[0.5, 0.5], [0.2, 0.0]]), np.array([[True, False], [True, False]]),
                              np.array([[False, True], [False, True]])), 2.5 / 4),
    # the warmest pixel, 1.0, is inside; upside down it is the 1 - 0.0 outside
    ByHand("pointing_game", "1.0 is inside", lambda: M["pointing_game"](HEAT, THING, ~THING), 1),
    ByHand("pointing_game", "two equal, one inside: 1 / 2",
           lambda: M["pointing_game"](np.array([[0.7, 0.7, 0], [0, 0, 0]]), THING & (HEAT == 1), HEAT < 1), 0.5),
    # from the corner (0, 0) to the pixel (1, 2): sqrt(1 + 4) = 2.24 pixels
    ByHand("pointing_game", "2.24 pixels beside, tolerance 2",
           lambda: M["pointing_game"](1 - HEAT, HEAT == 1, HEAT < 1, tolerance=2), 0),
    ByHand("pointing_game", "2.24 pixels beside, tolerance 3",
           lambda: M["pointing_game"](1 - HEAT, HEAT == 1, HEAT < 1, tolerance=3), 1),
    ByHand("energy", "2.0 / 2.7", lambda: M["energy"](HEAT, THING, ~THING), 2 / 2.7),
    # from 0.5 on: pixels (0, 0), (0, 1), (1, 1), box 2 x 2; the thing's box is 2 x 2 too, columns 0 and 1
    ByHand("box_iou", "at 0.5, box 2 x 2 on box 2 x 2", lambda: M["box_iou"](HEAT, THING, ~THING), 1),
    # from 0.6 on: (0, 0) and (0, 1), box 1 x 2 in the thing's 2 x 2
    ByHand("box_iou", "at 0.6, box 1 x 2 in box 2 x 2: 2 / 4",
           lambda: M["box_iou"](HEAT, THING, ~THING, threshold=0.6), 0.5),
    # class 0: hit 1, union 3 (two are it, and a 2 is called it); class 1: hits 2, union 3; class 2: 0 of 1
    ByHand("segmentation_miou", "(1/3 + 2/3 + 0/1) / 3",
           lambda: M["segmentation_miou"](confusion(CALLED, TRUTH, 4)), 1 / 3),
    # without the two pixels of class 0: class 1 hits 2 of 2, class 2 0 of 1; class 3 is nowhere
    ByHand("segmentation_miou", "without background: (2/2 + 0/1) / 2",
           lambda: M["segmentation_miou"](confusion(CALLED, TRUTH, 4), ignore_background=True), 0.5),
    ByHand("pixel_accuracy", "3 of 5 that are not void", lambda: M["pixel_accuracy"](confusion(CALLED, TRUTH, 4)), 0.6),
    # warmest first is 4, 3, 2, 1: scores 0, 4, 7, 9, 10; trapezoids of width 1/4: (0/2 + 4 + 7 + 9 + 10/2) / 4
    ByHand("insertion", "0 4 7 9 10: (0/2 + 4 + 7 + 9 + 10/2) / 4", lambda: walk("insertion", [[0, 1], [2, 3]]), 6.25),
    # taken out 4, 3, 2, 1: scores 10, 6, 3, 1, 0
    ByHand("deletion", "10 6 3 1 0: (10/2 + 6 + 3 + 1 + 0/2) / 4", lambda: walk("deletion", [[0, 1], [2, 3]]), 3.75),
    # upside down 1, 2, 3, 4: scores 0, 1, 3, 6, 10
    ByHand("insertion", "upside down 0 1 3 6 10: (1 + 3 + 6 + 10/2) / 4",
           lambda: walk("insertion", [[3, 2], [1, 0]]), 3.75),
    # ranks 1 2 3 4 and 2 1 4 3: 1 - 6 * (1 + 1 + 1 + 1) / (4 * 15)
    ByHand("rank_correlation", "1 - 6 * 4 / 60",
           lambda: M["rank_correlation"](np.array([[1.0, 2], [3, 4]]), np.array([[2.0, 1], [4, 3]])), 0.6),
    # ranks 1.5 1.5 3 4 and 1 2 3 4, centred (-1, -1, .5, 1.5) and (-1.5, -.5, .5, 1.5): 4.5 / sqrt(4.5 * 5)
    ByHand("rank_correlation", "a map of rounding alone has no ranks",
           lambda: float(np.isnan(M["rank_correlation"](0.3 + 1e-16 * np.arange(4.0).reshape(2, 2), np.eye(2)))), 1.0),
    ByHand("rank_correlation", "a tie: 4.5 / sqrt(4.5 * 5)",
           lambda: M["rank_correlation"](np.array([[0.0, 0], [3, 4]]), np.array([[1.0, 2], [3, 4]])), 4.5 / 22.5**0.5),
    # own 0.9 is first; own 0.3 is second; own 0.5 has two equals, so it is third
    ByHand("recall", "first, second, third: 1 of 3 at 1", lambda: M["recall"](SIMILARITY, [[0], [1], [2]]), 1 / 3),
    ByHand("recall", "2 of 3 at 2", lambda: M["recall"](SIMILARITY, [[0], [1], [2]], k=2), 2 / 3),
    # own 0.5 and 0.1, the best of which is second; own 0.9, first; own are all: nothing else is as near
    ByHand("recall", "several own: 2 of 3 at 1", lambda: M["recall"](SIMILARITY, [[1, 2], [0], [0, 1, 2]]), 2 / 3),
    ByHand("accuracy", "classes 0, 1, 2: 1 of 3", lambda: M["accuracy"](SIMILARITY, np.array([0, 1, 2])), 1 / 3),
    ByHand("accuracy", "classes 0, 1, 2: 2 of 3 in the first 2",
           lambda: M["accuracy"](SIMILARITY, np.array([0, 1, 2]), k=2), 2 / 3),
    # mean 0.45, standard deviation of 1.0, 0.6, 0.2, 0.4, 0.5, 0.0; looked at 1.0 twice and at 0.4 once
    ByHand("nss", "(1.0 + 1.0 + 0.4) / 3 = 0.8, minus the mean, over the spread",
           lambda: M["nss"](HEAT, GAZE), (0.8 - 0.45) / float(np.std([1.0, 0.6, 0.2, 0.4, 0.5, 0.0]))),
    # without blur, the density is 2/3 at 1.0 and 1/3 at 0.4; the map sums to 2.7
    ByHand("density_intersection", "min(2/3, 1.0/2.7) + min(1/3, 0.4/2.7)",
           lambda: M["density_intersection"](HEAT, GAZE, sigma=1e-6), 1.4 / 2.7),
    ByHand("density_divergence", "2/3 log(2/3 / (1/2.7)) + 1/3 log(1/3 / (0.4/2.7))",
           lambda: M["density_divergence"](HEAT, GAZE, sigma=1e-6),
           2 / 3 * np.log(2 / 3 * 2.7) + 1 / 3 * np.log(2.7 / 3 / 0.4)),
    ByHand("density_correlation", "of 1.0, 0.6, 0.2, 0.4, 0.5, 0.0 with 2, 0, 0, 1, 0, 0",
           lambda: M["density_correlation"](HEAT, GAZE, sigma=1e-6),
           float(np.corrcoef([1.0, 0.6, 0.2, 0.4, 0.5, 0.0], [2, 0, 0, 1, 0, 0])[0, 1])),
    # 1.0 (twice) is above 0.6, 0.2, 0.5, 0.0; 0.4 above two of these four
    ByHand("auc_judd", "(4 + 4 + 2) / (3 * 4)", lambda: M["auc_judd"](HEAT, GAZE), 10 / 12),
    # others looked at 0.6 and at 0.4: 1.0 is above both, 0.4 ties with one
    ByHand("shuffled_auc", "(2 + 2 + 0.5) / (3 * 2)",
           lambda: M["shuffled_auc"](HEAT, GAZE, np.array([[0.5, 0.1], [0.1, 0.9]])), 4.5 / 6),
    # known 0.9, 0.5; unknown 0.5, 0.1: 0.9 above both, 0.5 ties with one and is above the other
    ByHand("known_auroc", "(2 + 1.5) / 4", lambda: M["known_auroc"](SURE, KNOWN), 3.5 / 4),
    ByHand("false_positive_rate", "all known are accepted from 0.5 on, and so is one of two",
           lambda: M["false_positive_rate"](SURE, KNOWN), 0.5),
    ByHand("false_positive_rate", "half of the known from 0.9 on, and none of the others",
           lambda: M["false_positive_rate"](SURE, KNOWN, recall=0.5), 0.0),
    # sorted: 0.9 right; 0.5 right or wrong, half each; 0.1 wrong: risks 0, 0.25, 1/3, 0.5
    ByHand("risk_coverage", "(0 + 0.5/2 + 1/3 + 2/4) / 4",
           lambda: M["risk_coverage"](SURE, KNOWN), (0.25 + 1 / 3 + 0.5) / 4),
    # one defect of two pixels, found at 0.9 and 0.4; normal pixels 0.6, 0.2: rate 0, 0.5 at 0.6, overlap 0.5 until then
    ByHand("region_overlap", "0.5 all along up to a rate of 0.3",
           lambda: M["region_overlap"]([np.array([[0.9, 0.6], [0.2, 0.4]])], [np.array([[1, 0], [0, 1]], bool)]), 0.5),
    ByHand("region_overlap", "0.5 up to a rate of 0.5, then 1 at it, and 1: (0.5 * 0.5 + 0.5) / 1",
           lambda: M["region_overlap"]([np.array([[0.9, 0.6], [0.2, 0.4]])], [np.array([[1, 0], [0, 1]], bool)],
                                       limit=1.0), 0.75),
]
# fmt: on


@dataclass(frozen=True)
class Oracle:
    """Someone else's code for the same number; `differences` are of random cases, absolute."""

    metric: str
    whose: str
    differences: Callable[[], list[float]]
    atol: float = 1e-6


def pairs(count: int = 40) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Maps in float32, smooth or rough, half of them in few steps and so with ties, on masks that have void."""
    random, made = np.random.default_rng(5), []
    for index in range(count):
        height, width = random.integers(3, 30, 2)
        heat = random.random((height, width))
        heat = ndimage.zoom(random.random((4, 5)), (height / 4, width / 5), order=1) if index % 4 > 1 else heat
        heat = np.round(heat * 12) / 12 if index % 2 else heat
        part = random.choice(3, heat.shape, p=[0.2, 0.7, 0.1] if index % 3 else [0.6, 0.3, 0.1])
        part.flat[:2] = 0, 1
        made.append((heat.astype(np.float32), part == 0, part == 1))
    return made


def listed(heat: np.ndarray, inside: np.ndarray, outside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Truth and heat of the known pixels, as scikit-learn takes them."""
    known = inside | outside
    return inside[known].astype(int), heat[known].astype(np.float64)


def of_pairs(name: str, theirs: Callable[..., float], **options: Any) -> Callable[[], list[float]]:
    return lambda: [abs(M[name](*pair, **options) - theirs(*pair)) for pair in pairs()]


def slope(*pair: np.ndarray) -> float:
    truth, heat = listed(*pair)
    return stats.linregress(truth, heat).slope


def jaccard(*pair: np.ndarray) -> float:
    truth, heat = listed(*pair)
    return sk.jaccard_score(truth, heat >= 0.4)


def torch_pair(function: Callable[..., Any]) -> Callable[..., float]:
    def theirs(*pair: np.ndarray) -> float:
        truth, heat = listed(*pair)
        return float(function(torch.from_numpy(heat), torch.from_numpy(truth)))

    return theirs


def nearest(heat: np.ndarray, inside: np.ndarray, outside: np.ndarray) -> float:
    """The pointing game pixel by pixel, with tolerance 2."""
    known, hits = inside | outside, []
    for row, col in zip(*np.nonzero(known & (heat == heat[known].max())), strict=True):
        rows, cols = np.nonzero(inside)
        hits.append(bool(((rows - row) ** 2 + (cols - col) ** 2 <= 4).any()))
    return sum(hits) / len(hits)


def precision(*pair: np.ndarray) -> float:
    truth, heat = listed(*pair)
    return sk.precision_score(truth, np.ones_like(truth), sample_weight=heat)


def labelled_box(heat: np.ndarray, inside: np.ndarray, outside: np.ndarray, threshold: float = 0.4) -> float:
    """scipy labels, torchvision boxes them and gives the IoU; torchvision's boxes include their last pixel."""

    def boxes(mask: np.ndarray, known: np.ndarray) -> tuple[torch.Tensor, np.ndarray]:
        regions, count = ndimage.label(mask, np.ones((3, 3)))
        each = np.stack([(regions == number) & known for number in range(1, count + 1)])
        each = each[each.any((1, 2))]
        box = torchvision.ops.masks_to_boxes(torch.from_numpy(each))
        return box + torch.tensor([0, 0, 1, 1]), each.sum((1, 2))

    known = inside | outside
    if not (known & (heat >= threshold)).any():
        return 0.0
    found, areas = boxes(heat >= threshold, known)
    things, _ = boxes(inside, known)
    return float(torchvision.ops.box_iou(found[[int(areas.argmax())]], things).max())


def gazes(count: int = 12) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Maps above zero, with fixations of an image and of others, some of them on one pixel."""
    random, made = np.random.default_rng(8), []
    for index in range(count):
        heat = random.random(tuple(random.integers(6, 30, 2))) * 0.9 + 0.05
        heat = np.round(heat * 12) / 12 if index % 2 else heat
        points = [random.beta(2, 2, (many, 2)) for many in (9, 20)]
        points[0][1] = points[0][0]
        made.append((heat.astype(np.float32), *points))
    return made


def pixel_of(heat: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.floor(points[:, 1] * heat.shape[0]).astype(int), np.floor(points[:, 0] * heat.shape[1]).astype(int)


def flat(heat: np.ndarray, at: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    return np.unique(np.ravel_multi_index(at, heat.shape))


def blurred(heat: np.ndarray, at: tuple[np.ndarray, np.ndarray], sigma: float = 0.1) -> np.ndarray:
    """Fixations convolved along one side, then the other, with the kernel written out."""
    counts = np.histogram2d(*at, bins=[np.arange(side + 1) - 0.5 for side in heat.shape])[0]
    reach = int(4 * sigma * heat.shape[1] + 0.5)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / (sigma * heat.shape[1])) ** 2)
    for axis in (0, 1):
        counts = ndimage.convolve1d(counts, kernel / kernel.sum(), axis=axis, mode="constant")
    return counts / counts.sum()


def of_gaze(name: str, theirs: Callable[..., float], shuffled: bool = False) -> Callable[[], list[float]]:
    def differences() -> list[float]:
        found = []
        for heat, own, others in gazes():
            options = {"sigma": 0.1} if name.startswith("density") else {}
            ours = M[name](heat, own, *([others] if shuffled else []), **options)
            found.append(abs(ours - theirs(heat, pixel_of(heat, own), pixel_of(heat, others))))
        return found

    return differences


def ranked(inside: np.ndarray, outside: np.ndarray) -> float:
    return float(sk.roc_auc_score([1] * len(inside) + [0] * len(outside), np.concatenate([inside, outside])))


def of_answers(name: str, theirs: Callable[..., float], count: int = 20) -> Callable[[], list[float]]:
    def differences() -> list[float]:
        random, found = np.random.default_rng(9), []
        for index in range(count):
            known = random.random(30 + index) < 0.6
            sure = random.random(len(known)) + known * 0.3
            sure = np.round(sure * 8) / 8 if index % 2 else sure
            found.append(abs(M[name](sure, known) - theirs(sure, known)))
        return found

    return differences


def accepted(sure: np.ndarray, known: np.ndarray) -> float:
    false, true, _ = sk.roc_curve(known, sure, drop_intermediate=False)
    return float(false[np.argmax(true >= 0.95)])


def risks(sure: np.ndarray, right: np.ndarray) -> float:
    random, found = np.random.default_rng(0), []
    for _ in range(10_000):
        mixed = random.permutation(len(sure))
        order = mixed[np.argsort(-sure[mixed], kind="stable")]
        found.append(np.mean(np.cumsum(~right[order]) / np.arange(1, len(order) + 1)))
    return float(np.mean(found))


def regions_in_turn() -> list[float]:
    random, found = np.random.default_rng(10), []
    for index in range(6):
        masks = [ndimage.zoom(random.random((4, 4)), 4, order=1) > 0.6 for _ in range(3)]
        maps = [np.round(random.random((16, 16)) * 30 + 10 * mask) for mask in masks]
        limit = (0.3, 1.0, 0.05)[index % 3]
        curve = [(0.0, 0.0)]
        for threshold in np.unique(maps)[::-1]:
            shares, false = [], [((one >= threshold) & ~mask).sum() for one, mask in zip(maps, masks, strict=True)]
            for one, mask in zip(maps, masks, strict=True):
                regions, count = ndimage.label(mask, np.ones((3, 3)))
                shares += [(one >= threshold)[regions == number].mean() for number in range(1, count + 1)]
            curve.append((sum(false) / sum((~mask).sum() for mask in masks), float(np.mean(shares))))
        rate, overlap = np.array(curve).T
        inner = np.append(rate[rate < limit], limit)
        theirs = sk.auc(inner, np.interp(inner, rate, overlap)) / limit
        found.append(abs(M["region_overlap"](maps, masks, limit=limit) - theirs))
    return found


def labels() -> list[tuple[np.ndarray, np.ndarray]]:
    """Seven classes, of which the fifth is never predicted, the sixth never true, the seventh neither."""
    random, made = np.random.default_rng(6), []
    for _ in range(20):
        truth = random.choice([0, 1, 2, 3, 4, 255], (9, 11), p=[0.5, 0.2, 0.1, 0.05, 0.05, 0.1])
        called = np.where(random.random(truth.shape) < 0.6, truth, random.choice([0, 1, 2, 3, 5], truth.shape))
        made.append((np.where((called == 4) | (called == 255), 0, called), truth))
    return made


def jaccard_of_classes(ignore_background: bool) -> list[float]:
    differences = []
    for called, truth in labels():
        ours = M["segmentation_miou"](confusion(called, truth, 7), ignore_background=ignore_background)
        if ignore_background:
            truth = np.where(truth == 0, 255, truth)
        known = truth != 255
        seen = np.union1d(truth[known], called[known])
        seen = seen[seen > 0] if ignore_background else seen
        theirs = sk.jaccard_score(truth[known], called[known], labels=seen, average="macro", zero_division=0)
        differences.append(abs(ours - theirs))
    return differences


def torch_jaccard() -> list[float]:
    differences = []
    for called, truth in labels():
        arguments = torch.from_numpy(called), torch.from_numpy(truth)
        each = tm.jaccard_index(*arguments, task="multiclass", num_classes=7, average="none", ignore_index=255)
        ours = class_ious(confusion(called, truth, 7))
        differences.append(float(np.abs(np.nan_to_num(ours) - each.numpy()).max()))
    return differences


def torch_accuracy() -> list[float]:
    return [
        abs(
            M["pixel_accuracy"](confusion(called, truth, 7))
            - float(
                tm.accuracy(
                    torch.from_numpy(called),
                    torch.from_numpy(truth),
                    task="multiclass",
                    num_classes=7,
                    average="micro",
                    ignore_index=255,
                )
            )
        )
        for called, truth in labels()
    ]


def pixel_by_pixel(name: str) -> list[float]:
    """Pixels written one by one into copies, a score that is not linear, and scikit-learn's area."""
    differences, generator = [], torch.Generator().manual_seed(3)
    for seed in range(5):
        image, fill = torch.rand(2, 3, 5, 4, generator=generator)
        heat = np.random.default_rng(seed).permutation(20).reshape(5, 4) / 20
        weight = torch.rand(3, 5, 4, generator=generator)

        def score(pixels: torch.Tensor, weight: torch.Tensor = weight) -> torch.Tensor:
            total = (pixels * weight).sum((1, 2, 3))
            return torch.stack([total.tanh(), total**2], dim=1)

        curve = M[name](score, image, heat, fill, steps=10, batch_size=3)
        start, end = (fill, image) if name == "insertion" else (image, fill)
        now, scores = start.clone(), [score(start[None])[0]]
        for place, index in enumerate(sorted(range(20), key=lambda pixel: -heat.flat[pixel])):
            now[:, index // 4, index % 4] = end[:, index // 4, index % 4]
            if place % 2:
                scores.append(score(now[None])[0])
        for column in range(2):
            theirs = sk.auc(np.linspace(0, 1, 11), torch.stack(scores)[:, column].double().numpy())
            differences.append(abs(area(curve)[column] - theirs))
    return differences


def spearman() -> list[float]:
    random, differences = np.random.default_rng(4), []
    for index in range(30):
        first = random.random((6, 5))
        second = first + random.random((6, 5)) if index % 2 else random.random((6, 5))
        first, second = (np.round(one * 8) / 8 if index % 3 else one for one in (first, second))
        theirs = stats.spearmanr(first.ravel(), second.ravel()).statistic
        differences.append(abs(M["rank_correlation"](first, second) - theirs))
    return differences


def hit_rate() -> list[float]:
    """Several own candidates of each query; without ties, which torchmetrics breaks by place."""
    random, differences = np.random.default_rng(8), []
    for k in (1, 3, 5):
        similarity = random.random((12, 9)).astype(np.float32)
        own = random.random((12, 9)) < 0.2
        own[np.arange(12), random.integers(0, 9, 12)] = True
        metric = torchmetrics.retrieval.RetrievalHitRate(top_k=k)
        queries = torch.arange(12)[:, None].expand(12, 9)
        theirs = metric(torch.from_numpy(similarity), torch.from_numpy(own), indexes=queries)
        lists = [np.flatnonzero(row).tolist() for row in own]
        differences += [abs(M["recall"](similarity, given, k=k) - float(theirs)) for given in (own, lists)]
    return differences


def top_k() -> list[float]:
    random, differences = np.random.default_rng(9), []
    for k in (1, 2, 4):
        similarity, label = random.random((50, 6)), random.integers(0, 6, 50)
        theirs = sk.top_k_accuracy_score(label, similarity, k=k, labels=range(6))
        differences.append(abs(M["accuracy"](similarity, label, k=k) - theirs))
        also = tm.accuracy(
            torch.from_numpy(similarity),
            torch.from_numpy(label),
            task="multiclass",
            num_classes=6,
            average="micro",
            top_k=k,
        )
        differences.append(abs(M["accuracy"](similarity, label, k=k) - float(also)))
    return differences


def curve_of_ious() -> list[float]:
    """All thresholds at once, against one at a time."""
    worst = []
    for heat, inside, outside in pairs(10):
        theirs = [sk.jaccard_score(*listed(heat >= t, inside, outside), zero_division=0) for t in THRESHOLDS]
        worst.append(float(np.abs(ious(heat, inside, outside) - theirs).max()))
    return worst


def wholly(function: Callable[..., float]) -> Callable[..., float]:
    return lambda *pair: function(*listed(*pair))


ORACLES = [
    Oracle("contrast", "scipy: slope of heat on the mask", of_pairs("contrast", slope)),
    Oracle("iou", "scikit-learn jaccard_score", of_pairs("iou", jaccard, threshold=0.4)),
    Oracle("iou", "the same at 20 thresholds", curve_of_ious),
    Oracle(
        "average_precision",
        "scikit-learn average_precision_score",
        of_pairs("average_precision", wholly(sk.average_precision_score)),
    ),
    Oracle(
        "average_precision",
        "torchmetrics binary AP",
        of_pairs("average_precision", torch_pair(tm.classification.binary_average_precision)),
    ),
    Oracle("auroc", "scikit-learn roc_auc_score", of_pairs("auroc", wholly(sk.roc_auc_score))),
    Oracle("auroc", "torchmetrics binary AUROC", of_pairs("auroc", torch_pair(tm.classification.binary_auroc))),
    Oracle("pointing_game", "a loop over pixels, tolerance 2", of_pairs("pointing_game", nearest, tolerance=2)),
    Oracle("energy", "scikit-learn precision, weighted by heat", of_pairs("energy", precision)),
    Oracle("box_iou", "scipy label, torchvision box_iou", of_pairs("box_iou", labelled_box, threshold=0.4)),
    Oracle("segmentation_miou", "scikit-learn jaccard_score, macro", lambda: jaccard_of_classes(False)),
    Oracle("segmentation_miou", "the same without background", lambda: jaccard_of_classes(True)),
    Oracle("segmentation_miou", "torchmetrics, each class", torch_jaccard),
    Oracle("pixel_accuracy", "torchmetrics accuracy, micro", torch_accuracy),
    Oracle("insertion", "a loop over pixels, scikit-learn auc", lambda: pixel_by_pixel("insertion"), 1e-5),
    Oracle("deletion", "a loop over pixels, scikit-learn auc", lambda: pixel_by_pixel("deletion"), 1e-5),
    Oracle("rank_correlation", "scipy spearmanr", spearman),
    Oracle("recall", "torchmetrics RetrievalHitRate", hit_rate),
    Oracle("accuracy", "scikit-learn top_k and torchmetrics", top_k),
    Oracle(
        "nss",
        "scipy's zscore, read at the fixations",
        of_gaze("nss", lambda heat, at, _: float(stats.zscore(heat.astype(float), axis=None)[at].mean())),
    ),
    Oracle(
        "density_correlation",
        "scipy's pearsonr",
        of_gaze(
            "density_correlation",
            lambda heat, at, _: float(stats.pearsonr(heat.ravel(), blurred(heat, at).ravel()).statistic),
        ),
    ),
    Oracle(
        "density_intersection",
        "half of scipy's city block distance, from 1",
        of_gaze(
            "density_intersection",
            lambda heat, at, _: 1 - cityblock((heat / heat.sum()).ravel(), blurred(heat, at).ravel()) / 2,
        ),
        atol=1e-5,
    ),
    Oracle(
        "density_divergence",
        "scipy's entropy",
        of_gaze(
            "density_divergence",
            lambda heat, at, _: float(stats.entropy(blurred(heat, at).ravel(), heat.ravel().astype(float))),
        ),
        atol=1e-4,
    ),
    Oracle(
        "auc_judd",
        "scikit-learn's roc_auc_score",
        of_gaze("auc_judd", lambda heat, at, _: ranked(heat[at], np.delete(heat.ravel(), flat(heat, at)))),
    ),
    Oracle(
        "shuffled_auc",
        "scikit-learn's roc_auc_score",
        of_gaze("shuffled_auc", lambda heat, at, others: ranked(heat[at], heat[others]), shuffled=True),
    ),
    Oracle(
        "known_auroc",
        "scikit-learn's roc_auc_score",
        of_answers("known_auroc", lambda sure, known: float(sk.roc_auc_score(known, sure))),
    ),
    Oracle("false_positive_rate", "scikit-learn's roc_curve", of_answers("false_positive_rate", accepted)),
    Oracle(
        "risk_coverage",
        "the mean over orders of ties, drawn ten thousand times",
        of_answers("risk_coverage", risks, count=4),
        atol=5e-3,
    ),
    Oracle("region_overlap", "each threshold and region in turn, scikit-learn's auc", regions_in_turn),
]
