"""Data sets for evaluation: `eclip datasets ls`, `verify` and `prepare`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from eclip.cli.lists import print_table
from eclip.cli.loop import progressing
from eclip.datasets import DATASETS, ROOT, dataset

app = typer.Typer(help="List, verify and prepare data sets for evaluation.", no_args_is_help=True)

SHOWN = 10
"""Number of problems that are printed; --json prints all."""
Name = Annotated[str, typer.Argument(help="Name of a data set; see eclip datasets ls.")]
Root = Annotated[Path | None, typer.Option(metavar="DIR", help=f"Its folder. Default: its usual folder below ${ROOT}.")]
Split = Annotated[str | None, typer.Option(help="Default: the first split of the data set.")]


@app.command("ls")
def datasets_ls(as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with layouts.")] = False) -> None:
    """List data sets with their kind and splits."""
    rows = [
        {"dataset": one.name, "kind": one.kind, "splits": " ".join(one.splits), "what": one.summary}
        for one in DATASETS.values()
    ]
    print_table(rows, as_json, [asdict(one) for one in DATASETS.values()])


@app.command("verify")
def datasets_verify(
    name: Name,
    root: Root = None,
    split: Split = None,
    every: Annotated[bool, typer.Option("--all", help="Read every image and mask instead of 20.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with all problems.")] = False,
) -> None:
    """Check that every file of a data set exists, and read some images and masks. Exit code 1 if there is a problem."""
    chosen = dataset(name)
    with _bar(f"verifying {name}") as progress:
        found = chosen.verify(root, split, every=every, progress=progress)
    if as_json:
        typer.echo(json.dumps(asdict(found), ensure_ascii=False))
    else:
        published = " or ".join(f"{number:,}" for number in found.expected)
        of = f" of {published}" if published else ""
        typer.echo(f"{found.name}, split {found.split}: {found.found:,}{of} images, {found.decoded:,} of them read")
        for line in (*found.notes, *found.problems[:SHOWN]):
            typer.echo(f"  {line}")
        if (more := len(found.problems) - SHOWN) > 0:
            typer.echo(f"  and {more:,} more; --json prints all")
    if found.problems:
        raise typer.Exit(1)


@app.command("prepare")
def datasets_prepare(name: Name, root: Root = None, split: Split = None) -> None:
    """Write the files that make a data set readable or faster to read. Existing files are kept, so it can resume."""
    chosen = dataset(name)
    if not chosen.prepares:
        typer.echo(f"{name} needs no preparation.")
        return
    with _bar(f"preparing {name}") as progress:
        made = chosen.prepare(root, split, progress)
    typer.echo(f"{made}: {chosen.prepares}")


@contextmanager
def _bar(what: str) -> Iterator[Callable[[int, int], None]]:
    with progressing() as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, count: bar.update(task, completed=done, total=count)
