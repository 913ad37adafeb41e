"""Tables of a report: one row per method, with dots and intervals for the headline number; and runs side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from eclip.evaluation.report.numbers import BOUND, column, merit, shown, sign, unit
from eclip.evaluation.report.text import headline, interval, value_of
from eclip.methods import METHODS
from eclip.render.html import render


def labels(results: Mapping[str, Any]) -> dict[int, str]:
    """A name for each row, by its index; includes the model if there are several."""
    several = len({row["model"] for row in results["rows"]}) > 1
    return {place: _name(row, several) for place, row in enumerate(results["rows"])}


def _name(row: Mapping[str, Any], several: bool) -> str:
    return f"{row['method']} · {row['model']}" if several else str(row["method"])


def ranked(results: Mapping[str, Any]) -> list[int]:
    """Indices of rows, best first by the headline number; those without it last."""
    key, rows = headline(results), results["rows"]

    def order(place: int) -> tuple[bool, float]:
        value = value_of(rows[place], key)
        return value is None, 0.0 if value is None else -merit(key, value)

    return sorted(range(len(rows)), key=order)


def ranks(results: Mapping[str, Any]) -> dict[int, int]:
    """The rank of each method, 1 for the best, by the index of its row; 0 for baselines."""
    found, count = {}, 0
    for place in ranked(results):
        control = results["rows"][place]["control"]
        count += not control
        found[place] = 0 if control else count
    return found


def keys_of(results: Mapping[str, Any]) -> list[str]:
    """All numbers, the headline first."""
    keys = dict.fromkeys(key for row in results["rows"] for key in row["numbers"])
    first = headline(results)
    return [key for key in dict.fromkeys([first, *keys]) if key in keys]


def best_control(results: Mapping[str, Any]) -> dict[str, Any] | None:
    """The row of the best baseline by the headline number; the bound is not a baseline."""
    rows = (results["rows"][place] for place in ranked(results))
    baselines = (row for row in rows if row["control"] and row["method"] != BOUND)
    return next((row for row in baselines if value_of(row, headline(results)) is not None), None)


def by_method(results: Mapping[str, Any], *, pick: bool) -> dict[str, Any]:
    """The template's data for the table: one row per method, best first; there is at least one number.

    With `pick`, names are buttons that select a method for the other sections of the page.
    """
    keys, label, rank, rows = keys_of(results), labels(results), ranks(results), results["rows"]
    best = {key: _best(key, rows) for key in keys}
    scale = _scale(results)
    return {
        "pick": pick,
        "heads": [(*column(key), sign(key)) for key in keys],
        "ends": scale and [shown(keys[0], end) for end in scale],
        "rows": [
            {
                "place": place,
                "rank": rank[place],
                "name": label[place],
                "about": METHODS[rows[place]["method"]].summary if rows[place]["method"] in METHODS else "",
                "control": rows[place]["control"] and ("ceiling" if rows[place]["method"] == BOUND else "baseline"),
                "cells": [_cell(key, rows[place], best[key] == place) for key in keys],
                "dots": _dots(results, rows[place]),
            }
            for place in ranked(results)
        ],
    }


def plain_table(results: Mapping[str, Any]) -> str:
    """The table without script and style, for notebooks."""
    keys, label, rows = keys_of(results), labels(results), []
    for place in ranked(results):
        row = results["rows"][place]
        cells = [
            interval(key, row) if key == keys[0] and key in row["numbers"] else shown(key, value_of(row, key))
            for key in keys
        ]
        rows.append((label[place], row["control"], cells))
    return str(render(__name__, "plain_table.html", heads=[column(key) for key in keys], rows=rows))


def by_run(runs: Sequence[Mapping[str, Any]], titles: Sequence[str]) -> dict[str, Any]:
    """The template's data for the table of runs: one row per method, one column per run, with its headline number."""
    several = len({row["model"] for run in runs for row in run["rows"]}) > 1
    found = [{_name(row, several): row for row in run["rows"]} for run in runs]
    rows = []
    for name in dict.fromkeys(name for one in found for name in one):
        own = [one.get(name, {"numbers": {}}) for one in found]
        control = any(row["control"] for run, row in zip(runs, own, strict=True) if headline(run) in row["numbers"])
        each = [(_cell(headline(run), row, False), _dots(run, row)) for run, row in zip(runs, own, strict=True)]
        rows.append((name, control, each))
    heads = [(title, column(headline(run))[0]) for run, title in zip(runs, titles, strict=True)]
    return {"heads": heads, "rows": rows}


def _cell(key: str, row: Mapping[str, Any], best: bool) -> dict[str, Any]:
    one = row["numbers"].get(key, {"value": None})
    if one["value"] is None:
        return {"value": None}
    ends = f"{shown(key, one['low'])} to {shown(key, one['high'])}" if one["low"] is not None else ""
    return {"value": one["value"], "text": shown(key, one["value"]), "ends": ends, "best": best}


def _best(key: str, rows: Sequence[Mapping[str, Any]]) -> int | None:
    """The index of the best method; None if a number has no better direction, or there is only one method."""
    known = [place for place, row in enumerate(rows) if not row["control"] and value_of(row, key) is not None]
    if not sign(key) or len(known) < 2:
        return None
    return max(known, key=lambda place: merit(key, rows[place]["numbers"][key]["value"]))


def _scale(results: Mapping[str, Any]) -> tuple[float, float] | None:
    """The ends of the dots' axis, which covers all rows except the ceiling."""
    key = headline(results)
    rows = [row for row in results["rows"] if row["method"] != BOUND and key in row["numbers"]]
    ends = [end for row in rows for end in row["numbers"][key].values() if end is not None]
    if not ends:
        return None
    low, high = min(ends), max(ends)
    pad = 0.04 * (high - low) or 0.01
    return low - pad, high + pad


def _dots(results: Mapping[str, Any], row: Mapping[str, Any]) -> dict[str, Any] | None:
    """A dot with its interval, and a dashed line at the best baseline: (kind, style, text) of each mark."""
    key, scale, control = headline(results), _scale(results), best_control(results)
    one = row["numbers"].get(key, {"value": None})
    if one["value"] is None or scale is None:
        return None
    low, high = scale

    def at(value: float) -> float:
        return 100 * (value - low) / (high - low)

    marks = [] if control is None else [("floor", f"left:{at(control['numbers'][key]['value']):.2f}%", "")]
    if at(one["value"]) > 100:
        marks.append(("beyond", "", "→"))
    else:
        if one["low"] is not None:
            left, right = at(one["low"]), at(one["high"])
            marks.append(("whisker", f"left:{left:.2f}%;width:{right - left:.2f}%", ""))
        marks.append(("dot", f"left:{at(one['value']):.2f}%", ""))
    return {"told": f"{interval(key, row)} {unit(key)}".strip(), "marks": marks}
