"""Charts of a report: curves over thresholds or pixels, and numbers against cost; one legend lights up all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from eclip.evaluation.report.svg import COLORED, Series, lines, scatter
from eclip.evaluation.report.table import best_control, labels, ranked, ranks
from eclip.evaluation.report.text import BOUND, column, escaped, headline, unit


def charts_of(results: Mapping[str, Any]) -> str:
    """All charts that the results have something for, and their legend; empty for none."""
    key, rows = headline(results), results["rows"]
    figures = []
    if any("curve" in row for row in rows):
        fact, name = ("class_curve", "class mIoU") if key == "class_miou" else ("curve", "mIoU")
        series = _series(results, fact, results["protocol"]["rules"]["thresholds"])
        note = "Where each line peaks is the threshold that counts. All begin at the same value: everything is inside."
        figures.append(_figure("Over thresholds", note, lines("Over thresholds", series, "threshold", f"{name}, %")))
    for name in dict.fromkeys(name for row in rows for name in row.get("curves", {})):
        shares = next(row["shares"] for row in rows if "curves" in row)
        way, _, rest = name.partition("_")
        fill, _, score = rest.rpartition("_")
        title = f"{way.capitalize()}, {fill}: {'top-1' if score == 'accuracy' else 'cosine'}"
        drawn = lines(
            title, _series(results, name, shares), f"share of pixels {_TOUCHED.get(way, way)}", "", percent=False
        )
        figures.append(_figure(title, "", drawn))
    costs = _costs(results)
    if costs:
        floor = best_control(results)
        told = None if floor is None else (floor["method"], floor["numbers"][key]["value"])
        up = f"{column(key)[0]}{', %' if unit(key) else ''}"
        drawn = scatter("Against cost", costs, told, up, percent=bool(unit(key)))
        note = "What an answer costs, in times of one forward pass of the model; the axis is logarithmic."
        figures.append(_figure("Against cost", note, drawn))
    if not figures:
        return ""
    return f'<div class="figures">{"".join(figures)}</div>{_legend(results)}'


_TOUCHED = {"deletion": "taken out", "insertion": "revealed"}


def _figure(title: str, note: str, drawn: str) -> str:
    below = f'<figcaption class="note">{escaped(note)}</figcaption>' if note else ""
    return f"<figure><h2>{escaped(title)}</h2>{drawn}{below}</figure>"


def _legend(results: Mapping[str, Any]) -> str:
    label, rank = labels(results), ranks(results)
    chips = []
    for place in ranked(results):
        if results["rows"][place]["method"] == BOUND:
            continue
        number = rank[place]
        style = "control" if not number else f"c{number}" if number <= COLORED else "other"
        told = f"<i>{number}</i>" if number else "<i>┄</i>"
        chips.append(
            f'<button type="button" class="chip {style}" data-m="{place}">{told}{escaped(label[place])}</button>'
        )
    return f'<div class="legend" role="group" aria-label="Light up a method">{"".join(chips)}</div>'


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
        curve = row.get("curves", {}).get(fact) if "curves" in row else row.get(fact)
        if curve and row["method"] != BOUND:
            found.append(Series(place, rank[place], label[place], list(zip(across, curve, strict=True))))
    return found
