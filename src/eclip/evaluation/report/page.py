"""One file that shows evaluations: header, plain words, table, curves, costs, classes, images.

No network, no font, no library: a file:// page that can be mailed. It reads without its script too, and prints.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from eclip.evaluation.report.assets import SCRIPT, STYLE
from eclip.evaluation.report.charts import charts_of
from eclip.evaluation.report.table import best_control, keys_of, labels, ranked, side_by_side, table
from eclip.evaluation.report.text import FEW, MINUS, column, escaped, rules, unit, verdicts


@dataclass(frozen=True)
class Run:
    """An evaluation as a report shows it.

    Attributes:
        results: as `eclip.Evaluation.results`.
        pictures: JPEG of each example, by its file.
        about: what each method is, by its name.
    """

    results: Mapping[str, Any]
    pictures: Mapping[str, bytes] = field(default_factory=dict)
    about: Mapping[str, str] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """Data set and protocol."""
        return f"{self.results['data']['name']} · {self.results['protocol']['name']}"


def report_page(runs: Sequence[Run]) -> str:
    """The page; several runs come one after the other, their headline numbers side by side before them.

    Args:
        runs: at least one.
    """
    title = runs[0].title if len(runs) == 1 else f"{len(runs)} evaluations"
    parts = [_section(run, place) for place, run in enumerate(runs)]
    if len(runs) > 1:
        shared = side_by_side([run.results for run in runs], [run.title for run in runs])
        parts.insert(0, f"<section><h1>{escaped(title)}</h1><h2>Side by side</h2>\n{shared}</section>")
    body = "\n".join(parts)
    return _PAGE.format(title=escaped(title), style=STYLE, body=body, script=SCRIPT)


def _section(run: Run, place: int) -> str:
    """All of one run."""
    results = run.results
    made = [
        _head(run),
        _words(results),
        f"<h2>All numbers</h2>\n{_table(run)}",
        charts_of(results),
        _classes(results),
        _images(run),
        _method(results),
    ]
    data = json.dumps(_data(results), ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    script = f'<script type="application/json" class="data">{data}</script>'
    return f'<section class="run" id="run{place}">\n{chr(10).join(part for part in made if part)}\n{script}</section>'


def _head(run: Run) -> str:
    results = run.results
    data, protocol = results["data"], results["protocol"]
    pairs = max((row["pairs"] for row in results["rows"]), default=0)
    methods = sum(not row["control"] for row in results["rows"])
    facts = [
        (f"{data['images']:,}", "images"),
        *([(f"{data['groups']:,}", "groups")] if data.get("groups", data["images"]) < data["images"] else []),
        (f"{pairs:,}", "pairs" if protocol["task"] != "recognize" else "texts"),
        (f"{methods:,}", "methods" if protocol["task"] != "recognize" else "models"),
    ]
    shown = "".join(f"<div><dt>{what}</dt><dd>{count}</dd></div>" for count, what in facts)
    models = ", ".join(results.get("models") or dict.fromkeys(row["model"] for row in results["rows"]))
    part = [f"split {data['split']}"] if data.get("split", "all") not in (None, "all") else []
    part += [f"one image in {data['every']}"] if data.get("every", 1) > 1 else []
    part += [f"{data['limit']} at most"] if data.get("limit") else []
    tail = f" ({', '.join(part)})" if part else ""
    return (
        f'<header><p class="eyebrow">eclip evaluation · {escaped(protocol["task"])}</p>\n'
        f"<h1>{escaped(data['name'])}<small>{escaped(tail)}</small></h1>\n"
        f'<p class="lead"><b>{escaped(protocol["name"])}</b> {escaped(protocol["summary"])}<br>'
        f"model {escaped(models)}</p>\n"
        f'<dl class="facts">{shown}</dl></header>'
    )


def _words(results: Mapping[str, Any]) -> str:
    lines_ = []
    for mark, names, said in verdicts(results, labels(results), ranked(results)):
        told = ", ".join(f"<b>{escaped(name)}</b>" for name in names)
        told += (" " if mark == "★" else ": ") if told else ""
        lines_.append(f'<li><span aria-hidden="true">{mark}</span><div>{told}{escaped(said)}.</div></li>')
    if told := _groups(results["data"]):
        lines_.append(f'<li><span aria-hidden="true">!</span><div>{told}</div></li>')
    failed = len(results["failures"])
    if failed:
        lines_.append(
            f'<li><span aria-hidden="true">!</span><div>{failed} images could not be read, see below.</div></li>'
        )
    return f'<h2>In plain words</h2>\n<ul class="words">{"".join(lines_)}</ul>' if lines_ else ""


def _groups(data: Mapping[str, Any]) -> str:
    """In how many groups the images come, where they do, or are few."""
    images, groups = data["images"], data.get("groups", data["images"])
    few = " So few say little of other data: read the intervals as rough guesses." if groups < FEW else ""
    if groups < images:
        one = f"{groups} group{'s' * (groups > 1)}"
        return f"The {images:,} images come in {one}, such as videos; intervals and halves are taken over groups.{few}"
    return f"There are {images} images.{few}" if few and groups > 1 else ""


def _table(run: Run) -> str:
    results = run.results
    keys = keys_of(results)
    if not keys:
        return "<p>No number was measured.</p>"
    pick = any("classes" in row for row in results["rows"]) or bool(run.pictures)
    units = {unit(key) for key in keys}
    scale = {frozenset({"%"}): "Percent.", frozenset({""}): "Shares of 1."}.get(frozenset(units), "")
    control = best_control(results)
    floor = f" The dashed line is the best control, {escaped(control['method'])}." if control else ""
    meanings = "".join(
        f"<div><dt>{escaped(column(key)[0])}</dt><dd>{escaped(column(key)[1])}</dd></div>" for key in keys
    )
    controls = (
        " Controls know neither text nor model; the ceiling is the true mask on the patch grid." if control else ""
    )
    return (
        '<p class="note">' + scale + floor + controls + " Bold: the best method. A heading sorts. "
        '<label><input type="checkbox" class="ends"> 95 % intervals of all numbers</label></p>\n'
        f"{table(results, run.about, pick=pick)}\n"
        f'<details><summary>What the columns mean</summary><dl class="meanings">{meanings}</dl></details>'
    )


def _choice(results: Mapping[str, Any]) -> str:
    """A select of methods, best first."""
    label = labels(results)
    methods = [place for place in ranked(results) if not results["rows"][place]["control"]]
    options = "".join(f'<option value="{place}">{escaped(label[place])}</option>' for place in methods)
    return f'<label>Method <select class="choice">{options}</select></label>'


def _classes(results: Mapping[str, Any]) -> str:
    if not any("classes" in row and not row["control"] for row in results["rows"]):
        return ""
    columns = _columns(results)
    ways = [(key, told) for key, told in (("iou", "IoU"), ("msc", "mSC"), ("pairs", "count")) if key in columns]
    orders = "".join(f'<option value="{key}">{told}</option>' for key, told in [*ways, ("name", "name")])
    control = best_control(results)
    tick = f" The tick is the best control, {escaped(control['method'])}." if control else ""
    told = "IoU of all images in one count; a class that none of them shows has none."
    if "msc" in columns:
        told = "IoU at the threshold that suits the mean over classes best; "
        told += f"mSC runs from {MINUS}100 to 100, zero in the middle."
    return (
        f'<h2>By class</h2>\n<p class="controls">{_choice(results)} <label>Sorted by <select class="order">{orders}'
        f'</select></label></p>\n<div class="classes" aria-live="polite"></div>\n<p class="note">{told}{tick}</p>'
    )


def _images(run: Run) -> str:
    results, label = run.results, labels(run.results)
    where = {(row["model"], row["method"]): place for place, row in enumerate(results["rows"])}
    groups = []
    drawn = [one for one in results.get("examples", []) if one["file"] in run.pictures]
    drawn = [one for one in drawn if (one["model"], one["method"]) in where]
    for (model, method), own in groupby(drawn, lambda one: (one["model"], one["method"])):
        place, blocks = where[model, method], []
        row = results["rows"][place]
        for kind, some in groupby(own, lambda one: one["kind"]):
            figures = "".join(_picture(one, run.pictures[one["file"]], label[place]) for one in some)
            blocks.append(f"<h3>{kind.capitalize()}</h3><div class='images'>{figures}</div>")
        told = f"IoU at the threshold {row['threshold']:g}, the best for all pairs." if "threshold" in row else ""
        if row.get("threshold") == 0:
            told += " At 0 all of the image counts as found: large things score well whatever the map."
        groups.append(f'<div class="examples" data-of="{place}"><p class="note">{told}</p>{"".join(blocks)}</div>')
    if not groups:
        return ""
    return (
        f'<h2>Best and worst images</h2>\n<p class="controls">{_choice(results)}</p>\n<p class="note">Color is the '
        "heat of the map; green, the outline of the true mask; pale, where the heat is half of its peak.</p>\n"
        + "".join(groups)
    )


def _picture(one: Mapping[str, Any], picture: bytes, method: str) -> str:
    data = base64.b64encode(picture).decode()
    iou, msc = f"{100 * one['iou']:.1f}", f"{100 * one['msc']:.1f}".replace("-", MINUS)
    alt = f"{method} for {one['name']} in {one['image']}, IoU {iou}"
    return (
        f'<figure><img src="data:image/jpeg;base64,{data}" alt="{escaped(alt)}" height="240" loading="lazy">'
        f"<figcaption><b>{escaped(one['name'])}</b> IoU {iou}, mSC {msc}<br>{escaped(one['image'])}"
        "</figcaption></figure>"
    )


def _method(results: Mapping[str, Any]) -> str:
    """How it was measured: rules, models, versions, what is missing, and the command."""
    told = [("Protocol", f"{results['protocol']['name']}: {results['protocol']['summary']}")]
    told += rules(results["protocol"])
    for name, options in results.get("methods", {}).items():
        if options:
            told.append((f"Options of {name}", ", ".join(f"{key} = {value}" for key, value in options.items())))
    if results.get("refine"):
        more = ", ".join(f"{key} = {value}" for key, value in results["refine_options"].items())
        told.append(("Refined by", f"{results['refine']} {more}".strip()))
    for name, model in results.get("models", {}).items():
        head = f", head {model['head']}" if model.get("head") else ""
        told.append(("Model", f"{name}: {model['family']}{head}, {model['precision']} on {model['device']}"))
        timed = results.get("timing", {}).get(name, {})
        if timed.get("forward"):
            told.append((f"Forward pass of {name}", f"{timed['forward']:.3f} s an image on {model['device']}"))
    told.append(("Versions", ", ".join(f"{name} {one}" for name, one in results.get("versions", {}).items())))
    groups = results["data"].get("groups", results["data"]["images"])
    grouped = f" in {groups} groups" if groups < results["data"]["images"] else ""
    told.append(("Data", f"{results['data']['images']} images{grouped}, digest {results['data'].get('digest', '-')}"))
    rows = "".join(f"<div><dt>{escaped(what)}</dt><dd>{escaped(text)}</dd></div>" for what, text in told)
    parts = [f'<h2>How it was measured</h2>\n<dl class="rules">{rows}</dl>']
    if results.get("command"):
        words = " ".join(f"<span>{escaped(word)}</span>" for word in results["command"].split(" "))
        parts.append(
            f'<p class="note">The same again:</p><div class="command"><pre><code>{words}</code></pre>'
            '<button type="button" class="copy">Copy</button></div>'
        )
    lists = [
        (
            "Without a meaning for a model",
            [(f"{one['method']} on {one['model']}", one["why"]) for one in results["not_applicable"]],
        ),
        ("Images that could not be read", [(one["source"], one["error"]) for one in results["failures"]]),
    ]
    for title, some in lists:
        if some:
            items = "".join(f"<div><dt>{escaped(what)}</dt><dd>{escaped(why)}</dd></div>" for what, why in some)
            parts.append(f'<h3>{title}</h3><dl class="rules">{items}</dl>')
    return "\n".join(parts)


def _data(results: Mapping[str, Any]) -> dict[str, Any]:
    """What the script draws classes from."""
    control, columns = best_control(results), _columns(results)
    classes = [
        [[one["name"], *(one[key] for key in columns)] for one in row.get("classes", {}).values()]
        for row in results["rows"]
    ]
    known = [] if control is None else list(control.get("classes", {}).values())
    floor = {one["name"]: [one[key] for key in columns] for one in known}
    return {"columns": columns, "classes": classes, "floor": floor}


def _columns(results: Mapping[str, Any]) -> list[str]:
    """What this task knows of each class."""
    known = [one for row in results["rows"] for one in row.get("classes", {}).values()]
    return [key for key in ("pairs", "iou", "msc") if all(key in one for one in known)]


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="generator" content="made by eclip">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
{body}
</main>
<script>{script}</script>
</body>
</html>
"""
