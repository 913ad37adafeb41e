"""The text of a report: the meaning of each number, the rules of a protocol, and conclusions from the intervals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from eclip.evaluation.report.numbers import BOUND, PAIRED, SIGNED, column, shown, sign


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
    if key == "sigma":
        return "Density", f"fixations blurred by a Gaussian of {100 * value:g} % of the width"
    if key == "others":
        return "Fixations of others", f"those of {value} other images are the negatives of sAUC"
    return {"fills": "Fills", "at": "Ranks"}.get(key, key.replace("_", " ")), listed


def headline(results: Mapping[str, Any]) -> str:
    """The key of the protocol's headline number; if it names none, the first number."""
    named = results["protocol"]["rules"].get("headline")
    return str(named or next((key for row in results["rows"] for key in row["numbers"]), ""))


def verdicts(results: Mapping[str, Any], label: dict[int, str], order: list[int]) -> list[tuple[str, list[str], str]]:
    """Conclusions from the numbers, as (symbol, names of the rows concerned, text).

    Of each row, `label` is its name, by its index; `order` has the indices, best first.
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
        said += f"; the true {truth(results)} on the patch grid would reach {interval(key, ceiling[0])}"
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


def truth(results: Mapping[str, Any]) -> str:
    """What the ceiling shows on the patch grid; "" if there is no ceiling."""
    shown = {"points": "answers", "gaze": "fixations", "ground": "boxes"}.get(results["protocol"]["task"], "mask")
    return shown if any(row["method"] == BOUND for row in results["rows"]) else ""


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
        over = row["numbers"].get("over_control") if key in PAIRED else None
        if over is None:
            beyond = all(reach(row, far) > reach(one, near) for one in controls)
        else:
            beyond = over["low"] is not None and over["low"] > 0
        if reach(row, "value") <= reach(best, "value"):
            no.append(label[place])
        else:
            (clear if beyond else unsure).append(label[place])
    paired = any("over_control" in row["numbers"] for _, row in methods) and key in PAIRED
    how = "on the same images, beyond the 95 % interval" if paired else "and the 95 % intervals do not overlap"
    found = _some("▲", clear, f"better than every baseline, {how}")
    if not clear:
        found = [("▲", [], "No method is better than every baseline beyond the 95 % intervals")]
    found += _some(
        "≈", unsure, f"better than the best baseline ({told}), but not beyond the interval: more images are needed"
    )
    return found + _some("▼", no, f"no better than the best baseline ({told}), which uses neither image nor model")


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
