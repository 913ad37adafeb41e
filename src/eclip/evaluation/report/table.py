"""The table of a report: a row a method, dots with intervals for the headline number; and runs side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from eclip.evaluation.report.text import BOUND, column, escaped, headline, interval, merit, shown, sign, unit


def labels(results: Mapping[str, Any]) -> dict[int, str]:
    """A name for each row, by its place; with its model where there are several."""
    several = len({row["model"] for row in results["rows"]}) > 1
    return {
        place: f"{row['method']} · {row['model']}" if several else row["method"]
        for place, row in enumerate(results["rows"])
    }


def ranked(results: Mapping[str, Any]) -> list[int]:
    """Places of rows, best first by the headline number; those without it last."""
    key, rows = headline(results), results["rows"]

    def order(place: int) -> tuple[bool, float]:
        value = rows[place]["numbers"].get(key, {}).get("value")
        return value is None, 0.0 if value is None else -merit(key, value)

    return sorted(range(len(rows)), key=order)


def ranks(results: Mapping[str, Any]) -> dict[int, int]:
    """1 for the best method and so on, by the place of its row; 0 for controls."""
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
    """The row of the best control by the headline number; the bound is none."""
    rows = [results["rows"][place] for place in ranked(results)]
    key = headline(results)
    known = (row for row in rows if row["numbers"].get(key, {}).get("value") is not None)
    return next((row for row in known if row["control"] and row["method"] != BOUND), None)


def table(results: Mapping[str, Any], about: Mapping[str, str], *, pick: bool) -> str:
    """The table, sortable by the page's script.

    Args:
        results: of an evaluation.
        about: what each method is, by its name.
        pick: names are buttons that choose a method for the rest of the page.
    """
    keys, label, rank = keys_of(results), labels(results), ranks(results)
    first, rows = keys[0] if keys else "", results["rows"]
    best = {key: _best(key, rows) for key in keys}
    scale, control = _scale(results), best_control(results)
    head = ['<th scope="col" class="rank" data-sort="1"><button type="button" title="Rank">#</button></th>']
    head.append('<th scope="col"><button type="button">method</button></th>')
    for key in keys:
        title, meaning = column(key)
        down = ' aria-sort="descending"' if key == first and sign(key) >= 0 else ""
        down = ' aria-sort="ascending"' if key == first and sign(key) < 0 else down
        head.append(
            f'<th scope="col" class="number"{down}><button type="button" title="{escaped(meaning)}">{escaped(title)}'
            "</button></th>"
        )
        if key == first and scale:
            ends = f"<span>{shown(key, scale[0])}</span><span>{shown(key, scale[1])}</span>"
            told = "95 % of resampled sets of images lie between the ends"
            head.append(f'<th scope="col" class="dots" title="{told}"><div>{ends}</div></th>')
    lines = []
    for place in ranked(results):
        row, name = rows[place], escaped(label[place])
        what = escaped(about.get(row["method"], ""))
        told = f'<button type="button" class="pick" data-pick="{place}" title="{what}">{name}</button>'
        if row["control"]:
            told = f"{name} <small>{'ceiling' if row['method'] == BOUND else 'control'}</small>"
        elif not pick:
            told = f'<span title="{what}">{name}</span>'
        number = rank[place]
        cells = [f'<td class="rank" data-v="{number or 1e6:g}">{number or "·"}</td>']
        cells.append(f'<th scope="row" data-v="{name}">{told}</th>')
        for key in keys:
            cells.append(_cell(key, row, place == best[key]))
            if key == first and scale:
                cells.append(f'<td class="dots">{_dots(key, row, scale, control)}</td>')
        kind = ' class="control"' if row["control"] else ""
        lines.append(f'<tr{kind} data-m="{place}">{"".join(cells)}</tr>')
    return (
        f'<div class="scroll"><table class="sortable"><thead><tr>{"".join(head)}</tr></thead>\n'
        f"<tbody>{chr(10).join(lines)}</tbody></table></div>"
    )


def plain_table(results: Mapping[str, Any]) -> str:
    """The table without script and style, for notebooks."""
    keys, label = keys_of(results), labels(results)
    head = "".join(f'<th title="{escaped(column(key)[1])}">{escaped(column(key)[0])}</th>' for key in keys)
    lines = []
    for place in ranked(results):
        row = results["rows"][place]
        name = f"<i>({escaped(label[place])})</i>" if row["control"] else escaped(label[place])
        cells = [
            "<td>-</td>"
            if key not in row["numbers"]
            else f"<td>{interval(key, row) if key == keys[0] else shown(key, row['numbers'][key]['value'])}</td>"
            for key in keys
        ]
        lines.append(f'<tr><th style="text-align:left">{name}</th>{"".join(cells)}</tr>')
    return f"<table><thead><tr><th></th>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def side_by_side(runs: Sequence[Mapping[str, Any]], titles: Sequence[str]) -> str:
    """A row a method, a column a run: the headline number of each."""
    several = len({row["model"] for run in runs for row in run["rows"]}) > 1
    found: list[dict[str, Any]] = []
    for run in runs:
        found.append({})
        for row in run["rows"]:
            name = f"{row['method']} · {row['model']}" if several else row["method"]
            found[-1][name] = row
    names = list(dict.fromkeys(name for one in found for name in one))
    heads = "".join(
        f'<th scope="col" class="number" colspan="2"><a href="#run{place}">{escaped(title)}</a>'
        f"<br><small>{escaped(column(headline(run))[0])}</small></th>"
        for place, (run, title) in enumerate(zip(runs, titles, strict=True))
    )
    scales = [_scale(run) for run in runs]
    lines = []
    for name in names:
        cells, control = [], False
        for run, one, scale in zip(runs, found, scales, strict=True):
            key, row = headline(run), one.get(name)
            if row is None or key not in row["numbers"]:
                cells.append('<td class="number">-</td><td class="dots"></td>')
                continue
            control = row["control"]
            dots = _dots(key, row, scale, best_control(run)) if scale else ""
            cells.append(f'{_cell(key, row, False)}<td class="dots">{dots}</td>')
        kind = ' class="control"' if control else ""
        lines.append(f'<tr{kind}><th scope="row">{escaped(name)}</th>{"".join(cells)}</tr>')
    return (
        f'<div class="scroll"><table><thead><tr><th scope="col">method</th>{heads}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _cell(key: str, row: Mapping[str, Any], best: bool) -> str:
    one = row["numbers"].get(key)
    if one is None or one["value"] is None:
        return '<td class="number" data-v="">-</td>'
    ends = f"{shown(key, one['low'])} to {shown(key, one['high'])}" if one["low"] is not None else ""
    value = f"<b>{shown(key, one['value'])}</b>" if best else shown(key, one["value"])
    return f'<td class="number" data-v="{one["value"]}" title="{ends}">{value}<small>{ends}</small></td>'


def _best(key: str, rows: Sequence[Mapping[str, Any]]) -> int | None:
    """The place of the best method; None where a number has no better, or there is one method alone."""
    known = [
        place
        for place, row in enumerate(rows)
        if not row["control"] and row["numbers"].get(key, {}).get("value") is not None
    ]
    if not sign(key) or len(known) < 2:
        return None
    return max(known, key=lambda place: merit(key, rows[place]["numbers"][key]["value"]))


def _scale(results: Mapping[str, Any]) -> tuple[float, float] | None:
    """Ends of the dots' axis, which all but the ceiling fit on."""
    key = headline(results)
    rows = [row for row in results["rows"] if row["method"] != BOUND and key in row["numbers"]]
    ends = [end for row in rows for end in row["numbers"][key].values() if end is not None]
    if not ends:
        return None
    low, high = min(ends), max(ends)
    pad = 0.04 * (high - low) or 0.01
    return low - pad, high + pad


def _dots(key: str, row: Mapping[str, Any], scale: tuple[float, float], control: Mapping[str, Any] | None) -> str:
    """A dot with its interval, and a dashed line at the best control."""

    def at(value: float) -> float:
        return 100 * (value - scale[0]) / (scale[1] - scale[0])

    one = row["numbers"].get(key)
    if one is None or one["value"] is None:
        return ""
    parts = []
    if control is not None:
        parts.append(f'<i class="floor" style="left:{at(control["numbers"][key]["value"]):.2f}%"></i>')
    if at(one["value"]) > 100:
        parts.append('<i class="beyond">→</i>')
    else:
        if one["low"] is not None:
            left, right = at(one["low"]), at(one["high"])
            parts.append(f'<i class="whisker" style="left:{left:.2f}%;width:{right - left:.2f}%"></i>')
        parts.append(f'<i class="dot" style="left:{at(one["value"]):.2f}%"></i>')
    name = f"{interval(key, row)} {unit(key)}".strip()
    return f'<div role="img" aria-label="{name}">{"".join(parts)}</div>'
