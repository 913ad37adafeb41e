"""`eclip eval`: methods on a data set under a named protocol, with baselines, and a check against stored numbers."""

from __future__ import annotations

import itertools
import json
import os
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from eclip.backbones.catalog import DEFAULT_MODEL
from eclip.cli import completion, dry, loop, options
from eclip.datasets import dataset
from eclip.errors import OptionError
from eclip.evaluation.protocols import DEFAULT_PROTOCOL, protocol_of
from eclip.evaluation.scored import known_methods, scored_methods, scored_options

if TYPE_CHECKING:
    from eclip.evaluation.evaluation import Evaluation

data_option, query_option, run_option = (
    partial(typer.Option, rich_help_panel=panel) for panel in ("Images", "Query", "Run")
)
GAP = 2  # spaces between columns
IS_FIRST = os.environ.get("RANK", "0") == "0"
"""Whether this is the one of torchrun's processes that prints."""


def evaluate(
    data: Annotated[
        str,
        typer.Argument(
            metavar="DATASET", help="Name of a data set; eclip datasets ls.", autocompletion=completion.data_sets
        ),
    ],
    root: Annotated[Path | None, data_option(help="Its folder. Default: in $ECLIP_DATA.")] = None,
    split: Annotated[str | None, data_option(help="Default: that of the data set.")] = None,
    every: Annotated[int, data_option(min=1, help="Use every N-th image.")] = 1,
    limit: Annotated[int | None, data_option(min=1, help="Use at most N images.")] = None,
    methods: Annotated[
        str,
        query_option(
            help="Comma-separated names; fast: all with a single forward pass; all: also those with many.",
            autocompletion=completion.several_methods,
        ),
    ] = "fast",
    models: Annotated[
        str, query_option(help="Comma-separated names; see eclip models ls.", autocompletion=completion.model_names)
    ] = DEFAULT_MODEL,
    protocol: Annotated[
        str, query_option(help="The rules; see eclip protocols ls.", autocompletion=completion.protocols)
    ] = DEFAULT_PROTOCOL,
    head: options.Head = None,
    set_: Annotated[
        list[str] | None,
        query_option("--set", metavar="METHOD.KEY=VALUE", help="An option of a method, e.g. legrad.depth=4."),
    ] = None,
    refine: options.Refine = None,
    refine_set: options.RefineSet = None,
    out: Annotated[Path, run_option("--out", "-o", help="Folder of the run; rerun to resume.")] = Path("eclip-eval"),
    overwrite: Annotated[bool, run_option("--overwrite", help="Replace an earlier run in the folder.")] = False,
    batch_size: Annotated[int, run_option(min=1, help="Images per forward pass.")] = 16,
    examples: Annotated[int, run_option(min=0, help="Number of best and worst images to draw per method.")] = 3,
    shard: Annotated[
        str | None,
        run_option(metavar="I/N", help="Only the I-th of N parts, from 0; torchrun divides the work by itself."),
    ] = None,
    device: options.Device = "auto",
    check: Annotated[
        Path | None, run_option(metavar="FILE", help="Compare with stored numbers; exit code 1 on a mismatch.")
    ] = None,
    tolerance: Annotated[float, run_option(min=0.0, help="Of --check, as a fraction.")] = 0.002,
    as_json: Annotated[bool, run_option("--json", help="Print results.json to stdout.")] = False,
    config: options.Config = None,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    dry_run: dry.DryRun = False,
) -> None:
    """Score methods on a data set, next to baselines. After Ctrl-C, the same command resumes.

    All methods with a single forward pass:  eclip eval voc2012 --root VOCdevkit -o voc

    Compare with stored numbers:  eclip eval voc2012 --root VOCdevkit -o voc --check stored.json
    """
    dataset(data)
    names, model_names = options.words(methods), list(dict.fromkeys(options.words(models)))
    if not (names and model_names):
        raise OptionError(f"--{'models' if names else 'methods'} requires at least one name.")
    rules = protocol_of(protocol)
    scored_methods(names, rules)
    for name in model_names:
        options.check_model(name)
    options.check_head(head, names if names != ["fast"] else ["eclip"], model_names)
    given = options.options_by_method(set_ or [], known_methods(rules))
    settings: dict[str, Any] = {
        "methods": names[0] if names in (["all"], ["fast"]) else names,
        "models": model_names,
        "protocol": protocol,
        "root": root,
        "split": split,
        "every": every,
        "limit": limit,
        "head": head,
        "options": scored_options(given, given, rules),
        **options.parse_refinement(refine, refine_set),
        "batch_size": batch_size,
        "device": device,
        "overwrite": overwrite,
        "examples": examples,
        "expected": check,
        "shard": shard,
    }
    if dry_run:
        dry.tell(dry.evaluation(data, out, settings), (), as_json)
        return
    found = _run(data, out, settings)
    if found.missing:
        if IS_FIRST:
            _tell_part(found, as_json, quiet)
        return
    if as_json:
        typer.echo(json.dumps(found.results, ensure_ascii=False, allow_nan=False))
    elif not quiet:
        _show(found)
    for failure in found.results["failures"]:
        typer.echo(f"failed: {failure['error']}", err=True)
    missed = found.check(check, tolerance) if check is not None else []
    for line in missed:
        typer.echo(f"check: {line}", err=True)
    if check is not None and not missed and not quiet:
        typer.echo(f"check: all numbers match {check}.", err=True)
    if missed or (found.results["failures"] and "RANK" not in os.environ):  # torchrun would stop those that try again
        raise typer.Exit(1)


def _tell_part(part: Evaluation, as_json: bool, quiet: bool) -> None:
    if as_json:
        typer.echo(json.dumps({"folder": str(part.folder), "missing_batches": part.missing}, ensure_ascii=False))
    elif not quiet:
        left = "1 batch is" if part.missing == 1 else f"{part.missing:,} batches are"
        typer.echo(f"{left} left to the other parts of the work; the last one writes the tables", err=True)


def _run(data: str, out: Path, settings: dict[str, Any]) -> Evaluation:
    from eclip.evaluation.evaluate import evaluate as measured

    with loop.progressing() as progress:
        task = progress.add_task("loading", total=None, visible=IS_FIRST)

        def on_progress(model: str, done: int, total: int) -> None:
            progress.update(task, description=f"{model} on {data}", completed=done, total=total)

        return measured(data, out=out, on_progress=on_progress, **settings)


def _show(found: Evaluation) -> None:
    """Print the table, as wide as the terminal, and its notes."""
    from rich.console import Console
    from rich.table import Table

    from eclip.evaluation.report.numbers import unit
    from eclip.evaluation.report.text import headline

    results = found.results
    lead, columns, dim = _columns(results)
    console = Console()
    room = console.width if console.is_terminal else sys.maxsize
    ends = list(itertools.accumulate(GAP + max(map(len, each)) for each in columns))
    fitting = max(lead + 1, sum(end - GAP <= room for end in ends))
    table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0))
    for place, each in enumerate(columns[:fitting]):
        table.add_column(each[0], justify="left" if place < lead else "right", no_wrap=True)
    for place, baseline in enumerate(dim, 1):
        table.add_row(*(each[place] for each in columns[:fitting]), style="dim" if baseline else "")
    Console(width=ends[fitting - 1], markup=False, emoji=False).print(table)
    if hidden := [each[0] for each in columns[fitting:]]:
        typer.echo(f"columns not shown: {', '.join(hidden)}; see results.csv or `eclip report`", err=True)
    not_applicable: dict[str, list[str]] = {}
    for gap in results["not_applicable"]:
        not_applicable.setdefault(gap["model"], []).append(gap["method"])
    for model, left in not_applicable.items():
        typer.echo(f"left out, not applicable to {model} in this task: {', '.join(left)}", err=True)
    images = results["data"]["images"]
    pairs = max((row["pairs"] for row in results["rows"]), default=0)
    groups = results["data"].get("groups", images)
    grouped = f" in {groups} group{'s' * (groups > 1)}" if groups < images else ""
    percent = ", in percent" if unit(headline(results)) else ""
    typer.echo(
        f"{results['data']['name']}, {images} images{grouped}, {pairs} pairs, protocol "
        f"{results['protocol']['name']}{percent}; names in parentheses are baselines; saved in {found.folder}",
        err=True,
    )


def _columns(results: dict[str, Any]) -> tuple[int, list[list[str]], list[bool]]:
    """The number of name columns, all columns with their headings, best row first, and which rows are baselines."""
    from eclip.evaluation.report.numbers import column, shown
    from eclip.evaluation.report.table import keys_of, ranked
    from eclip.evaluation.report.text import headline, interval

    rows = [results["rows"][place] for place in ranked(results)]
    first = headline(results)
    columns = [["method", *(f"({row['method']})" if row["control"] else row["method"] for row in rows)]]
    if len({row["model"] for row in rows}) > 1:
        columns.insert(0, ["model", *(row["model"] for row in rows)])
    lead = len(columns)
    for key in keys_of(results):
        cells = [
            interval(key, row)
            if key == first and key in row["numbers"]
            else shown(key, row["numbers"].get(key, {}).get("value"))
            for row in rows
        ]
        columns.append([column(key)[0], *cells])
    return lead, columns, [row["control"] for row in rows]
