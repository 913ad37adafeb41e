"""What a report says in words: what each number means, each rule of a protocol, and what follows from the intervals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

BOUND = "bound"
"""The control that is a ceiling and nothing to beat: the mask itself on the patch grid."""

FEW = 10
"""Of fewer groups of images an interval is itself a guess."""
MINUS = "\N{MINUS SIGN}"
_SIGNED = ("nonsense", "other_class", "random_weights")
"""Rank correlations: of one pair the nearer to zero the better, but in a mean over pairs opposite ones cancel."""
_SIZES = tuple(f"{key}_size" for key in _SIGNED)
_LOWER = ("deletion", *_SIZES)
_NO_DIRECTION = ("flipped_miou", *_SIGNED)
_DECIMAL = (*_SIGNED, *_SIZES)

COLUMNS: dict[str, tuple[str, str]] = {
    "miou": (
        "mIoU",
        "Overlap of the warm region with the true mask, intersection over union, meaned over pairs, at the one "
        "threshold that suits all pairs best (Li et al. 2023, CLIP Surgery).",
    ),
    "msc": (
        "mSC",
        "Mean heat on the thing minus mean heat beside it, meaned over pairs (Li et al. 2022, ECLIP); below zero, the "
        "map is warmer beside the thing than on it.",
    ),
    "miou_held_out": (
        "held out",
        "mIoU where each half of the images (of their groups, such as videos) takes the threshold that was best on the "
        "other half: what choosing the threshold on the scored images is worth is the difference.",
    ),
    "over_control": (
        "over control",
        "mIoU minus that of the best control, on the same images, so that its interval is narrower than theirs: where "
        "all of it is above zero, the map knows more than a control does.",
    ),
    "flipped_miou": (
        "flipped",
        "mIoU of the same map upside down. Where it is more than mIoU, the map marks everything but the thing.",
    ),
    "class_miou": ("class mIoU", "Intersections over unions, summed for each class, meaned over classes."),
    "class_msc": (
        "class mSC",
        "mSC of each class, meaned over classes, so that rare ones count as much as common ones.",
    ),
    "average_precision": (
        "AP",
        "Precision among the pixels as warm as each pixel of the thing, meaned (Zhu 2004); needs no threshold.",
    ),
    "auroc": (
        "AUROC",
        "The chance that a pixel of the thing is warmer than one beside it (Hanley and McNeil 1982); 50 is chance.",
    ),
    "pointing_game": ("pointing", "How often the warmest pixel lies on the thing (Zhang et al. 2018)."),
    "energy": ("energy", "The share of the heat that lies on the thing (Wang et al. 2020, Score-CAM)."),
    "box_iou": (
        "box IoU",
        "Overlap of the box of the largest warm region with the best box of the thing, at the threshold that suits all "
        "pairs best (after Choe et al. 2020).",
    ),
    "segmentation_miou": (
        "mIoU",
        "Overlap of what is called each class with what is it, over all images, meaned over classes (VOC).",
    ),
    "pixel_accuracy": ("pixels", "The share of pixels that are called what they are (Long et al. 2015)."),
    "nonsense_size": (
        "|nonsense|",
        "Rank correlation of the map with that of a text that means nothing, whatever its sign, meaned over pairs; low "
        "is good.",
    ),
    "other_class_size": (
        "|other class|",
        "Rank correlation with the map of a class that the image does not show, whatever its sign; low is good.",
    ),
    "random_weights_size": (
        "|random weights|",
        "Rank correlation with the map of a model of shuffled weights, whatever its sign (Adebayo et al. 2018); low is "
        "good.",
    ),
    "nonsense": (
        "nonsense",
        "The rank correlation with its sign, meaned over pairs: maps that stay and maps that turn around cancel, so 0 "
        "alone is not good.",
    ),
    "other_class": ("other class", "The same with its sign, for a class that the image does not show."),
    "random_weights": ("random weights", "The same with its sign, for a model of shuffled weights."),
}
WAYS = {"deletion": "taken out", "insertion": "revealed"}
_SCORES = {
    "score": "the cosine of image and name",
    "accuracy": "whether the name is the best of all",
}
_RANKED = {
    "accuracy_at": ("top-{}", "The share of images whose own name is among the {} most similar."),
    "image_recall_at": ("image R@{}", "The share of captions whose image is among the {} most similar."),
    "text_recall_at": ("text R@{}", "The share of images with one of their captions among the {} most similar."),
}


def column(key: str) -> tuple[str, str]:
    """The short title of a number, and what it means."""
    if key in COLUMNS:
        return COLUMNS[key]
    way, _, rest = key.partition("_")
    fill, _, score = rest.rpartition("_")
    if way in WAYS and score in _SCORES:
        good = "low" if way == "deletion" else "high"
        return (
            f"{way} {fill}{'' if score == 'score' else ' top-1'}",
            f"Area under {_SCORES[score]} as pixels are {WAYS[way]}, warmest first, {fill} in their place; {good} is "
            "good (Petsiuk et al. 2018, RISE).",
        )
    name, _, rank = key.rpartition("_")
    if name in _RANKED:
        title, meaning = _RANKED[name]
        return title.format(rank), meaning.format(rank)
    return key.replace("_", " "), ""


def sign(key: str) -> int:
    """1 where more is better, -1 where less is, 0 where neither."""
    return 0 if key in _NO_DIRECTION else -1 if key.startswith(_LOWER) else 1


def shown(key: str, value: float | None) -> str:
    """A number as the table has it: percent, or three digits of a correlation or cosine."""
    if value is None:
        return "-"
    text = f"{value:.3f}" if key in _DECIMAL or key.endswith("_score") else f"{100 * value:.1f}"
    return text.replace("-", MINUS) if float(text) else text.lstrip("-")


def merit(key: str, value: float) -> float:
    """A value such that more of it is better."""
    return -abs(value) if key in _SIGNED else (sign(key) or 1) * value


def unit(key: str) -> str:
    """What the numbers of a key are told in."""
    return "" if key in _DECIMAL or key.endswith("_score") else "%"


def rules(protocol: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Each rule of a protocol as (what it is about, what it says)."""
    size = protocol["image_size"]
    provenance = {"squash": "squashed to a square", "keep": "in its own aspect ratio"}.get(
        protocol["resize"], protocol["resize"]
    )
    found = [
        (
            "Image",
            f"whole, {provenance}, {'as large as the model was trained on' if size is None else f'{size} pixels'}",
        ),
        ("Names", f"prompt template {protocol['templates']!r}"),
        *([("Positions", f"resized by {protocol['positions']!r}")] if "positions" in protocol else []),
    ]
    return found + [_rule(key, value) for key, value in protocol["rules"].items()]


def _rule(key: str, value: Any) -> tuple[str, str]:
    listed = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    if key == "least":
        share = "of which a single pixel is seen" if value == 0 else f"with {100 * value:g} % of the area or more"
        return "Classes of an image", f"those {share}, void left out; each is a pair, scored alone"
    if key == "thresholds":
        return "Thresholds", f"{len(value)}, from {value[0]:g} to {value[-1]:g}; the best one for all pairs counts"
    if key == "headline":
        return "Headline number", column(value)[0]
    if key == "background":
        return "Background", f"words: {listed}" if value else "not scored"
    if key == "scale":
        return "Likelihood", f"softmax over classes of the cosines times {value:g}"
    if key == "prob_threshold":
        return "Least likelihood", "none" if value is None else f"{value:g}; below it is background"
    if key == "area_threshold":
        said = "none" if value is None else f"{100 * value:g} % of what is no background; smaller classes are left out"
        return "Least area", said
    if key == "window":
        return "Windows", "none, the whole image at once" if value is None else f"{value} pixels"
    if key == "stride":
        return "From window to window", "-" if value is None else f"{value} pixels"
    if key == "fills":
        return "In place of a pixel", listed
    if key == "steps":
        return "Steps", f"{value}, of equal size"
    if key == "share":
        return "Pixels touched", f"{100 * value:g} % at most"
    if key == "nonsense":
        return "Nonsense texts", ", ".join(f"“{one}”" for one in value)
    if key == "at":
        return "Ranks that count", listed
    if key == "captions":
        return "Captions of an image", f"the first {value}"
    return key.replace("_", " "), listed


def headline(results: Mapping[str, Any]) -> str:
    """The key of the number that the protocol is about; of those without one the first."""
    named = results["protocol"]["rules"].get("headline")
    return str(named or next((key for row in results["rows"] for key in row["numbers"]), ""))


def verdicts(results: Mapping[str, Any], label: dict[int, str], order: list[int]) -> list[tuple[str, list[str], str]]:
    """What follows from the numbers, as (a sign, the rows that it is about, what is said of them).

    Args:
        results: of an evaluation.
        label: name of each row, by its place.
        order: places of rows, best first.
    """
    key, task = headline(results), results["protocol"]["task"]
    rows = [(place, results["rows"][place]) for place in order if _value(results["rows"][place], key) is not None]
    methods = [(place, row) for place, row in rows if not row["control"]]
    if not methods:
        return []
    best, row = methods[0]
    said = f"{'leads with' if len(methods) > 1 else 'has'} {column(key)[0]} {interval(key, row)}"
    ceiling = [row for _, row in rows if row["method"] == BOUND]
    if ceiling:
        said += f"; the true mask itself, as coarse as the patch grid, would reach {interval(key, ceiling[0])}"
    found = [("★", [label[best]], said)]
    controls = [row for _, row in rows if row["control"] and row["method"] != BOUND]
    if controls:
        found += _against(key, methods, controls, label)
    if task == "localize":
        found += _upside_down(methods, label)
    if task == "sanity":
        for number, most, said in (
            (
                "nonsense_size",
                0.9,
                "nearly the same map for nonsense, or its opposite (correlation beyond 0.9): the text is not heard",
            ),
            (
                "random_weights_size",
                0.5,
                "much the same map from shuffled weights, or its opposite (beyond 0.5): the model is not explained",
            ),
        ):
            found += _some("▼", [label[place] for place, row in methods if (_value(row, number) or 0) > most], said)
        every = [(label[place], results["rows"][place]) for place in order]
        flat = [f"{name} ({row['flat']} of {row['pairs']} pairs)" for name, row in every if row.get("flat")]
        found += _some("≈", flat, "flat maps, which have no order: what was compared with them is left out")
    return found


def _against(
    key: str, methods: list[tuple[int, Any]], controls: list[Any], label: dict[int, str]
) -> list[tuple[str, list[str], str]]:
    """Which methods beat all controls beyond the intervals, which only in value, which not."""
    way = sign(key) or 1
    far, near = ("low", "high") if way > 0 else ("high", "low")
    best = controls[0]
    told = f"{best['method']}, {interval(key, best)}"
    clear: list[str] = []
    unsure: list[str] = []
    no: list[str] = []
    for place, row in methods:
        over = row["numbers"].get("over_control") if key == "miou" else None
        if way * _known(row, key) <= way * _known(best, key):
            no.append(label[place])
        elif over is not None:
            (clear if over["low"] is not None and over["low"] > 0 else unsure).append(label[place])
        elif all(way * _known(row, key, far) > way * _known(one, key, near) for one in controls):
            clear.append(label[place])
        else:
            unsure.append(label[place])
    paired = any("over_control" in row["numbers"] for _, row in methods) and key == "miou"
    provenance = (
        "on the same images, beyond the 95 % interval" if paired else "and no 95 % interval overlaps with theirs"
    )
    found = _some("▲", clear, f"better than every control, {provenance}")
    if not clear:
        found = [("▲", [], "No method is better than every control beyond the 95 % intervals")]
    found += _some(
        "≈", unsure, f"better than the best control ({told}), but not beyond the interval: more images would tell"
    )
    return found + _some("▼", no, f"no better than the best control ({told}), which knows neither text nor model")


def _upside_down(methods: list[tuple[int, Any]], label: dict[int, str]) -> list[tuple[str, list[str], str]]:
    """Which maps find more when they are turned around."""
    names = []
    for place, row in methods:
        upright, turned = _value(row, "miou"), _value(row, "flipped_miou")
        if upright is not None and turned is not None and turned > upright:
            names.append(f"{label[place]} ({shown('miou', turned)} against {shown('miou', upright)})")
    return _some("⇅", names, "better upside down: warm where the thing is not")


def _some(mark: str, names: list[str], said: str) -> list[tuple[str, list[str], str]]:
    return [(mark, names, said)] if names else []


def interval(key: str, row: Mapping[str, Any]) -> str:
    """A number with its interval."""
    one = row["numbers"][key]
    if one["low"] is None or one["high"] is None:
        return shown(key, one["value"])
    return f"{shown(key, one['value'])} ({shown(key, one['low'])} to {shown(key, one['high'])})"


def _known(row: Mapping[str, Any], key: str, end: str = "value") -> float:
    found = _value(row, key, end)
    assert found is not None, "rows without the number were left out"
    return found


def _value(row: Mapping[str, Any], key: str, end: str = "value") -> float | None:
    found: float | None = row["numbers"].get(key, {}).get(end)
    return row["numbers"].get(key, {}).get("value") if found is None else found
