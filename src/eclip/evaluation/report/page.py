"""One HTML file that shows evaluations: header, summary in words, table, curves, costs, classes, images.

It needs no network, font or library, so it can be mailed and opened as a file; it is readable without its script, and
prints well.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from eclip.errors import ResultError
from eclip.evaluation.report.charts import figures, legend
from eclip.evaluation.report.numbers import FEW, MINUS, column, unit
from eclip.evaluation.report.table import best_control, by_method, by_run, keys_of, labels, ranked
from eclip.evaluation.report.text import rules, truth, verdicts
from eclip.render.html import render

if TYPE_CHECKING:
    from eclip.evaluation.evaluation import Evaluation


def page_of(evaluations: Sequence[Evaluation], heading: str | None = None) -> str:
    """One self-contained HTML page: a comparison if there are several evaluations, then each of them in turn.

    Args:
        evaluations: at least one.
        heading: the title of the page; None = named after the data.

    Raises:
        ResultError: an example image that the results list cannot be read.
    """
    found = [one.results for one in evaluations]
    titles = [f"{one['data']['name']} · {one['protocol']['name']}" for one in found]
    title, beside = titles[0], None
    if len(found) > 1:
        title, beside = f"{len(found)} evaluations", by_run(found, titles)
    runs = [_run(one) for one in evaluations]
    return str(render(__name__, "page.html", title=heading or title, heading=heading, beside=beside, runs=runs))


def _run(evaluation: Evaluation) -> dict[str, Any]:
    """The template's data for one evaluation."""
    results = evaluation.results
    rows, label, control = results["rows"], labels(results), best_control(results)
    keys = keys_of(results)
    units = {unit(key) for key in keys}
    by_class = any("classes" in row and not row["control"] for row in rows)
    columns = _columns(results)
    told = {"iou": "IoU", "msc": "mSC", "pairs": "count"}
    orders = [(key, told[key]) for key in told if key in columns] + [("name", "name")]
    pick = any("classes" in row for row in rows) or bool(results.get("examples"))
    return {
        "results": results,
        "part": _part(results["data"]),
        "models": list(results.get("models") or dict.fromkeys(row["model"] for row in rows)),
        "facts": _facts(results),
        "said": _said(results),
        "unit": "Percent." if units == {"%"} else "Shares of 1." if units == {""} else "",
        "control": control and control["method"],
        "truth": truth(results),
        "table": by_method(results, pick=pick) if keys else None,
        "meanings": [column(key) for key in keys],
        "figures": figures(results),
        "legend": legend(results),
        "methods": [(place, label[place]) for place in ranked(results) if not rows[place]["control"]],
        "orders": orders if by_class else [],
        "classes": _classes(results, columns),
        "examples": _examples(evaluation),
        "rules": _rules(results),
        "command": results.get("command"),
        "lists": _lists(results),
    }


def _part(data: Mapping[str, Any]) -> list[str]:
    """Which part of the data was used, if not all."""
    part = [f"split {data['split']}"] if data.get("split", "all") not in (None, "all") else []
    part += [f"one in {data['every']} images"] if data.get("every", 1) > 1 else []
    return part + ([f"{data['limit']} at most"] if data.get("limit") else [])


def _facts(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    data, rows, names = results["data"], results["rows"], results["protocol"]["task"] == "recognize"
    methods = sum(not row["control"] for row in rows)
    return [
        ("images", f"{data['images']:,}"),
        *([("groups", f"{data['groups']:,}")] if data.get("groups", data["images"]) < data["images"] else []),
        ("texts" if names else "pairs", f"{max((row['pairs'] for row in rows), default=0):,}"),
        ("models" if names else "methods", f"{methods:,}"),
    ]


def _said(results: Mapping[str, Any]) -> list[tuple[str, list[str], str]]:
    """Sentences: those of `verdicts`, and notes on few images and unreadable ones."""
    found = [(mark, names, f"{said}.") for mark, names, said in verdicts(results, labels(results), ranked(results))]
    images, groups = results["data"]["images"], results["data"].get("groups", results["data"]["images"])
    few = " So few say little about other data: the intervals are rough guesses." if groups < FEW else ""
    if groups < images:
        one = f"{groups} group{'s' * (groups > 1)}"
        said = f"The {images:,} images form {one}, such as videos; intervals and halves are taken over groups.{few}"
        found.append(("!", [], said))
    elif few and groups > 1:
        found.append(("!", [], f"There are {images} images.{few}"))
    if failed := len(results["failures"]):
        found.append(("!", [], f"{failed} images could not be read, see below."))
    return found


def _columns(results: Mapping[str, Any]) -> list[str]:
    """The columns that this task has for each class."""
    known = [one for row in results["rows"] for one in row.get("classes", {}).values()]
    return [key for key in ("pairs", "iou", "msc") if all(key in one for one in known)]


def _classes(results: Mapping[str, Any], columns: Sequence[str]) -> dict[str, Any]:
    """The data from which the script draws classes."""
    known = [list(row.get("classes", {}).values()) for row in results["rows"]]
    floor = list((best_control(results) or {}).get("classes", {}).values())
    return {
        "columns": columns,
        "classes": [[[one["name"], *(one[key] for key in columns)] for one in own] for own in known],
        "floor": {one["name"]: [one[key] for key in columns] for one in floor},
    }


def _examples(evaluation: Evaluation) -> list[dict[str, Any]]:
    """The best and worst images of each method."""
    rows, label, found = evaluation.results["rows"], labels(evaluation.results), []
    where = {(row["model"], row["method"]): place for place, row in enumerate(rows)}
    drawn = [one for one in evaluation.results.get("examples", []) if (one["model"], one["method"]) in where]
    for key, own in groupby(drawn, lambda one: (one["model"], one["method"])):
        kinds = [
            (kind, [_picture(evaluation, one) for one in some]) for kind, some in groupby(own, lambda one: one["kind"])
        ]
        place = where[key]
        threshold = rows[place].get("threshold")
        found.append({"place": place, "method": label[place], "threshold": threshold, "kinds": kinds})
    return found


def _picture(evaluation: Evaluation, one: Mapping[str, Any]) -> dict[str, str]:
    path = evaluation.folder / one["file"]
    if not path.resolve().is_relative_to(evaluation.folder.resolve()) or path.suffix != ".jpg":
        raise ResultError(f"{one['file']!r} in {evaluation.folder} is not a picture of this run.")
    try:
        jpeg = base64.b64encode(path.read_bytes()).decode()
    except OSError as error:
        raise ResultError(
            f"{path} cannot be read ({error.strerror}): rerun the command of the run to draw it again."
        ) from error
    iou, msc = f"{100 * one['iou']:.1f}", f"{100 * one['msc']:.1f}".replace("-", MINUS)
    return {"jpeg": jpeg, "name": one["name"], "image": one["image"], "iou": iou, "msc": msc}


def _rules(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The section on methodology: rules, options, models, versions and data."""
    data, protocol = results["data"], results["protocol"]
    told = [("Protocol", f"{protocol['name']}: {protocol['summary']}"), *rules(protocol)]
    told += [(f"Options of {name}", _options(own)) for name, own in results.get("methods", {}).items() if own]
    if results.get("refine"):
        told.append(("Refinement", f"{results['refine']} {_options(results['refine_options'])}".strip()))
    for name, model in results.get("models", {}).items():
        head = f", head {model['head']}" if model.get("head") else ""
        told.append(("Model", f"{name}: {model['family']}{head}, {model['precision']} on {model['device']}"))
        if forward := results.get("timing", {}).get(name, {}).get("forward"):
            told.append((f"Forward pass of {name}", f"{forward:.3f} s per image on {model['device']}"))
    told.append(("Versions", ", ".join(f"{name} {one}" for name, one in results.get("versions", {}).items())))
    groups = data.get("groups", data["images"])
    grouped = f" in {groups} groups" if groups < data["images"] else ""
    return [*told, ("Data", f"{data['images']} images{grouped}, digest {data.get('digest', '-')}")]


def _options(own: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} = {value}" for key, value in own.items())


def _lists(results: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """What is missing, with the reason."""
    not_applicable = [(f"{one['method']} on {one['model']}", one["why"]) for one in results["not_applicable"]]
    failed = [(one["source"], one["error"]) for one in results["failures"]]
    listed = [("Methods not applicable to a model", not_applicable), ("Unreadable images", failed)]
    return [(title, some) for title, some in listed if some]
