"""The text of a report: the meaning of each number, the rules of a protocol, and conclusions from the intervals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

BOUND = "bound"
"""A ceiling, not a baseline to beat: the true mask on the patch grid."""

FEW = 10
"""With fewer groups of images, intervals are rough guesses."""
MINUS = "\N{MINUS SIGN}"
SIGNED = ("nonsense", "other_class", "random_weights")
"""Rank correlations: nearer to zero is better for one pair, but in a mean over pairs opposite signs cancel."""
SIZES = tuple(f"{key}_size" for key in SIGNED)
_LOWER = ("deletion", "word_deletion", *SIZES)
_NO_DIRECTION = ("flipped_miou", *SIGNED)
_PAIRED = ("miou", "pointing", "point_auroc", "word_gap", "found")
"""Numbers of which `over_control` is the difference from the best baseline."""
_DECIMAL = (*SIGNED, *SIZES)

COLUMNS: dict[str, tuple[str, str]] = {
    "miou": (
        "mIoU",
        "Intersection over union of the thresholded map and the true mask, averaged over pairs, at the single "
        "threshold that is best for all pairs (Li et al. 2023, CLIP Surgery).",
    ),
    "msc": (
        "mSC",
        "Mean of the map on the object minus its mean elsewhere, averaged over pairs (Li et al. 2022, ECLIP); below "
        "zero, the map is higher elsewhere than on the object.",
    ),
    "miou_held_out": (
        "held out",
        "mIoU if each half of the images (or of their groups, such as videos) uses the threshold that is best on the "
        "other half; the difference from mIoU is the gain from choosing the threshold on the scored images.",
    ),
    "over_control": (
        "over control",
        "mIoU, or the headline number of another task, minus that of the best baseline on the same images, so that its "
        "interval is narrower than theirs: if all of it is above zero, the method is better than every baseline.",
    ),
    "flipped_miou": (
        "flipped",
        "mIoU of the same map upside down. If it exceeds mIoU, the map marks everything but the object.",
    ),
    "class_miou": ("class mIoU", "Intersection over union, summed for each class, averaged over classes."),
    "class_msc": ("class mSC", "mSC of each class, averaged over classes, so that rare classes count equally."),
    "average_precision": ("AP", "Average precision of the map as a pixel classifier (Zhu 2004); needs no threshold."),
    "auroc": (
        "AUROC",
        "Probability that the map is higher on a pixel of the object than on another (Hanley and McNeil 1982); 50 is "
        "chance.",
    ),
    "pointing_game": ("pointing", "How often the maximum of the map lies on the object (Zhang et al. 2018)."),
    "energy": ("energy", "The share of the map's sum that lies on the object (Wang et al. 2020, Score-CAM)."),
    "box_iou": (
        "box IoU",
        "IoU of the box around the largest region above the threshold and the best box of the object, at the single "
        "threshold that is best for all pairs (after Choe et al. 2020).",
    ),
    "pointing": (
        "pointing",
        "How often the maximum of a phrase's map lies in one of the phrase's boxes.",
    ),
    "box_recall": (
        "box recall",
        "How often the box around the largest region above Otsu's threshold overlaps a box of the phrase by at least "
        "the protocol's IoU.",
    ),
    "p_miou": (
        "p-mIoU",
        "Of the points that are on the label or that the thresholded map contains, the share that are both, averaged "
        "over pairs of an image and a label (after Bousselham et al. 2024, LeGrad).",
    ),
    "point_auroc": (
        "point AUROC",
        "Probability that the map is higher at a point on the label than at a point of the image that is off it, "
        "averaged over pairs that have both; 50 is chance, and no threshold is needed.",
    ),
    "class_p_miou": ("class p-mIoU", "The same share, with points summed for each label, averaged over labels."),
    "word_gap": (
        "gap",
        "Insertion minus deletion: how far the score depends on the words that come first rather than last.",
    ),
    "word_insertion": (
        "insertion",
        "Mean cosine of image and text (times 100) while words are inserted, the most relevant first.",
    ),
    "word_deletion": (
        "deletion",
        "Mean cosine of image and text (times 100) while words are deleted, the most relevant first; low is good.",
    ),
    "found": (
        "found",
        "How often the relevance of words changes most at a word that only one of the two captions has.",
    ),
    "accuracy": ("accuracy", "How often the caption has a higher score than the wrong one (Hsieh et al. 2023)."),
    "segmentation_miou": (
        "mIoU",
        "Intersection over union of predicted and true pixels of each class over all images, averaged over classes.",
    ),
    "pixel_accuracy": ("pixels", "The share of correctly labeled pixels (Long et al. 2015)."),
    "nonsense_size": (
        "|nonsense|",
        "Absolute rank correlation of the map with that of a meaningless text, averaged over pairs; low is good.",
    ),
    "other_class_size": (
        "|other class|",
        "Absolute rank correlation with the map of a class that the image does not show; low is good.",
    ),
    "random_weights_size": (
        "|random weights|",
        "Absolute rank correlation with the map of a model with shuffled weights (Adebayo et al. 2018); low is good.",
    ),
    "nonsense": (
        "nonsense",
        "Signed rank correlation, averaged over pairs: equal and inverted maps cancel, so 0 alone is not good.",
    ),
    "other_class": ("other class", "Signed rank correlation, for a class that the image does not show."),
    "random_weights": ("random weights", "Signed rank correlation, for a model with shuffled weights."),
}
WAYS = {"deletion": "deleted", "insertion": "inserted"}
_SCORES = {"score": "the cosine of image and name", "accuracy": "whether the name ranks first"}
_RANKED = {
    "accuracy_at": ("top-{}", "The share of images whose name is among the {} most similar."),
    "image_recall_at": ("image R@{}", "The share of captions whose image is among the {} most similar."),
    "text_recall_at": ("text R@{}", "The share of images with one of their captions among the {} most similar."),
}


def column(key: str) -> tuple[str, str]:
    """The short title of a number, and its meaning."""
    if key in COLUMNS:
        return COLUMNS[key]
    way, _, rest = key.partition("_")
    fill, _, score = rest.rpartition("_")
    if way in WAYS and score in _SCORES:
        good = "low" if way == "deletion" else "high"
        return (
            f"{way} {fill}{'' if score == 'score' else ' top-1'}",
            f"Area under the curve of {_SCORES[score]} as pixels are {WAYS[way]}, highest first, with {fill} as fill; "
            f"{good} is good (Petsiuk et al. 2018, RISE).",
        )
    if key.startswith("pointing_"):
        kind = key.removeprefix("pointing_").replace("_", " ")
        return kind, f"Pointing for the phrases of the type {kind} alone."
    name, _, rank = key.rpartition("_")
    if name in _RANKED:
        title, meaning = _RANKED[name]
        return title.format(rank), meaning.format(rank)
    return key.replace("_", " "), ""


def sign(key: str) -> int:
    """1 if higher is better, -1 if lower is better, 0 if neither."""
    return 0 if key in _NO_DIRECTION else -1 if key.startswith(_LOWER) else 1


def shown(key: str, value: float | None) -> str:
    """A number as in the table: percent, or three digits for a correlation or cosine."""
    if value is None:
        return "-"
    text = f"{100 * value:.1f}" if unit(key) else f"{value:.3f}"
    return text.replace("-", MINUS) if float(text) else text.lstrip("-")


def merit(key: str, value: float) -> float:
    """The value, transformed so that higher is better."""
    return -abs(value) if key in SIGNED else (sign(key) or 1) * value


def unit(key: str) -> str:
    """The unit in which the numbers of a key are shown."""
    return "" if key in _DECIMAL or key.endswith("_score") else "%"


def rules(protocol: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Each rule of a protocol as (title, text)."""
    own, size = protocol["resize"], protocol["image_size"]
    shape = {"squash": "squashed to a square", "keep": "in its own aspect ratio"}.get(own, own)
    side = "at the training size of the model" if size is None else f"{size} pixels"
    found = [("Image", f"whole, {shape}, {side}"), ("Names", f"prompt template {protocol['templates']!r}")]
    if "positions" in protocol:
        found.append(("Positions", f"resized by {protocol['positions']!r}"))
    return found + [_rule(key, value) for key, value in protocol["rules"].items()]


def _rule(key: str, value: Any) -> tuple[str, str]:
    listed = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    if key == "least":
        share = "with at least one pixel" if value == 0 else f"with at least {100 * value:g} % of the area"
        return "Classes of an image", f"those {share}, void left out; each is a pair, scored alone"
    if key == "thresholds":
        return "Thresholds", f"{len(value)}, from {value[0]:g} to {value[-1]:g}; the best one for all pairs is used"
    if key == "iou":
        return "Found box", f"one with an IoU of at least {value:g}"
    if key == "threshold":
        return "Threshold", f"{value:g} of the map, whose smallest value is 0 and whose largest is 1"
    if key == "headline":
        return "Headline number", column(value)[0]
    if key == "background":
        return "Background", f"words: {listed}" if value else "not scored"
    if key == "scale":
        return "Probability", f"softmax over classes of the cosines times {value:g}"
    if key == "prob_threshold":
        return "Least probability", "none" if value is None else f"{value:g}; pixels below it are background"
    if key == "area_threshold":
        said = "none" if value is None else f"{100 * value:g} % of non-background pixels; smaller classes are removed"
        return "Least area", said
    if key == "window":
        return "Windows", "none, the whole image at once" if value is None else f"{value} pixels"
    if key == "stride":
        return "Stride", "-" if value is None else f"{value} pixels"
    if key == "steps":
        return "Steps", f"{value}, of equal size"
    if key == "share":
        return "Pixels changed", f"{100 * value:g} % at most"
    if key == "nonsense":
        return "Nonsense texts", ", ".join(f"“{one}”" for one in value)
    if key == "captions":
        return "Captions per image", f"the first {value}"
    return {"fills": "Fills", "at": "Ranks"}.get(key, key.replace("_", " ")), listed


def headline(results: Mapping[str, Any]) -> str:
    """The key of the protocol's headline number; if it names none, the first number."""
    named = results["protocol"]["rules"].get("headline")
    return str(named or next((key for row in results["rows"] for key in row["numbers"]), ""))


def verdicts(results: Mapping[str, Any], label: dict[int, str], order: list[int]) -> list[tuple[str, list[str], str]]:
    """Conclusions from the numbers, as (symbol, names of the rows concerned, text).

    Args:
        results: of an evaluation.
        label: name of each row, by its index.
        order: indices of rows, best first.
    """
    key, task = headline(results), results["protocol"]["task"]
    every = [(place, results["rows"][place]) for place in order]
    rows = [(place, row) for place, row in every if value_of(row, key) is not None]
    methods = [(place, row) for place, row in rows if not row["control"]]
    if not methods:
        return []
    best, row = methods[0]
    said = f"{'leads with' if len(methods) > 1 else 'has'} {column(key)[0]} {interval(key, row)}"
    if ceiling := [row for _, row in rows if row["method"] == BOUND]:
        truth = "answers" if task == "points" else "mask"
        said += f"; the true {truth} on the patch grid would reach {interval(key, ceiling[0])}"
    found = [("★", [label[best]], said)]
    if names := [label[place] for place in level_with_best(key, methods)]:
        found.append(("≈", [label[best], *names], "cannot be told apart: their 95 % intervals overlap"))
    if controls := [row for _, row in rows if row["control"] and row["method"] != BOUND]:
        found += _against(key, methods, controls, label)
    flat = [f"{label[place]} ({row['flat']} of {row['pairs']} pairs)" for place, row in every if row.get("flat")]
    if task == "localize":
        found += _upside_down(methods, label)
        found += _some("≈", flat, "flat maps, which point nowhere: they count as a map without any heat")
    if task == "sanity":
        for number, most, alike, why in (
            ("nonsense_size", 0.9, "nearly the same map for nonsense", "the text is ignored"),
            ("random_weights_size", 0.5, "similar map from shuffled weights", "the model has no effect"),
        ):
            names = [label[place] for place, row in methods if (value_of(row, number) or 0) > most]
            found += _some("▼", names, f"{alike}, or its inverse (|correlation| above {most}): {why}")
        found += _some("≈", flat, "flat maps, which have no ranks: comparisons with them are left out")
    return found


def level_with_best(key: str, methods: list[tuple[int, Any]]) -> list[int]:
    """The indices of the methods whose interval overlaps with that of the first, which is the best."""
    way = sign(key) or 1
    far, near = ("low", "high") if way > 0 else ("high", "low")
    (_, best), *others = methods
    end = best["numbers"][key][far]
    if end is None or key in SIGNED:
        return []
    reached = [(place, row["numbers"][key][near]) for place, row in others]
    return [place for place, near_end in reached if near_end is not None and way * near_end >= way * end]


def _against(
    key: str, methods: list[tuple[int, Any]], controls: list[Any], label: dict[int, str]
) -> list[tuple[str, list[str], str]]:
    """Which methods beat all baselines beyond the intervals, which only in value, and which do not."""
    way = sign(key) or 1
    far, near = ("low", "high") if way > 0 else ("high", "low")
    best = controls[0]
    told = f"{best['method']}, {interval(key, best)}"

    def reach(row: Mapping[str, Any], end: str) -> float:
        one = row["numbers"][key]
        return way * float(one["value"] if one.get(end) is None else one[end])

    clear, unsure, no = list[str](), list[str](), list[str]()
    for place, row in methods:
        over = row["numbers"].get("over_control") if key in _PAIRED else None
        if over is None:
            beyond = all(reach(row, far) > reach(one, near) for one in controls)
        else:
            beyond = over["low"] is not None and over["low"] > 0
        if reach(row, "value") <= reach(best, "value"):
            no.append(label[place])
        else:
            (clear if beyond else unsure).append(label[place])
    paired = any("over_control" in row["numbers"] for _, row in methods) and key in _PAIRED
    how = "on the same images, beyond the 95 % interval" if paired else "and the 95 % intervals do not overlap"
    found = _some("▲", clear, f"better than every baseline, {how}")
    if not clear:
        found = [("▲", [], "No method is better than every baseline beyond the 95 % intervals")]
    found += _some(
        "≈", unsure, f"better than the best baseline ({told}), but not beyond the interval: more images are needed"
    )
    return found + _some("▼", no, f"no better than the best baseline ({told}), which sees neither image nor text")


def _upside_down(methods: list[tuple[int, Any]], label: dict[int, str]) -> list[tuple[str, list[str], str]]:
    """Which maps score higher when inverted."""
    names = []
    for place, row in methods:
        upright, turned = value_of(row, "miou"), value_of(row, "flipped_miou")
        if upright is not None and turned is not None and turned > upright:
            names.append(f"{label[place]} ({shown('miou', turned)} against {shown('miou', upright)})")
    return _some("⇅", names, "better upside down: higher off the object than on it")


def _some(mark: str, names: list[str], said: str) -> list[tuple[str, list[str], str]]:
    return [(mark, names, said)] if names else []


def interval(key: str, row: Mapping[str, Any]) -> str:
    """A number with its interval."""
    one = row["numbers"][key]
    if one["low"] is None or one["high"] is None:
        return shown(key, one["value"])
    return f"{shown(key, one['value'])} ({shown(key, one['low'])} to {shown(key, one['high'])})"


def value_of(row: Mapping[str, Any], key: str) -> float | None:
    """A number without its interval; None if the row lacks it."""
    found: float | None = row["numbers"].get(key, {}).get("value")
    return found
