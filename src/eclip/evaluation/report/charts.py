"""Charts of a report: curves over thresholds or pixels, and numbers against cost; one legend highlights all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from eclip.evaluation.report.numbers import BOUND, WAYS, column, unit
from eclip.evaluation.report.svg import Series, lines, scatter
from eclip.evaluation.report.table import best_control, labels, ranked, ranks
from eclip.evaluation.report.text import headline

if TYPE_CHECKING:
    from markupsafe import Markup


def figures(results: Mapping[str, Any]) -> list[tuple[str, str, Markup]]:
    """(title, note, chart) of each chart for which the results have data."""
    key, rows = headline(results), results["rows"]
    found = []
    if any("curve" in row for row in rows):
        fact, name = ("class_curve", "class mIoU") if key == "class_miou" else ("curve", "mIoU")
        thresholds = results["protocol"]["rules"]["thresholds"]
        series = _series(results, fact, thresholds)
        note = "Each line peaks at its best threshold."
        note += " All lines start at the same value: everything is inside." if thresholds[0] == 0 else ""
        found.append(("Over thresholds", note, lines("Over thresholds", series, "threshold", f"{name}, %")))
    for name in dict.fromkeys(name for row in rows for name in row.get("curves", {})):
        shares = next(row["shares"] for row in rows if "curves" in row)
        way, _, rest = name.partition("_")
        fill, _, score = rest.rpartition("_")
        title = f"{way.capitalize()}, {fill}: {'top-1' if score == 'accuracy' else 'cosine'}"
        across = f"share of pixels {WAYS.get(way, way)}"
        found.append((title, "", lines(title, _series(results, name, shares), across, "", percent=False)))
    if costs := _costs(results):
        floor = best_control(results)
        told = None if floor is None else (floor["method"], floor["numbers"][key]["value"])
        up = f"{column(key)[0]}{', %' if unit(key) else ''}"
        note = "Cost relative to one forward pass of the model; the axis is logarithmic."
        found.append(("Against cost", note, scatter("Against cost", costs, told, up, percent=bool(unit(key)))))
    return found


def legend(results: Mapping[str, Any]) -> list[Series]:
    """The methods as labeled in the charts, best first."""
    label, rank, rows = labels(results), ranks(results), results["rows"]
    shown = [place for place in ranked(results) if rows[place]["method"] != BOUND]
    return [Series(place, rank[place], label[place], []) for place in shown]


def _costs(results: Mapping[str, Any]) -> list[Series]:
    key, label, rank, found = headline(results), labels(results), ranks(results), []
    for place, row in enumerate(results["rows"]):
        timed = results.get("timing", {}).get(row["model"], {}).get("methods", {}).get(row["method"], {})
        one = row["numbers"].get(key, {"value": None})
        if timed.get("cost") and one["value"] is not None:
            point = (max(1.0, timed["cost"]), one["value"])
            found.append(Series(place, rank[place], label[place], [point], one["low"], one["high"]))
    return found


def _series(results: Mapping[str, Any], fact: str | None, across: Sequence[float]) -> list[Series]:
    """The curve of each row that has one."""
    label, rank, found = labels(results), ranks(results), []
    for place, row in enumerate(results["rows"]):
        curve = row.get("curves", row).get(fact)
        if curve and row["method"] != BOUND:
            found.append(Series(place, rank[place], label[place], list(zip(across, curve, strict=True))))
    return found
