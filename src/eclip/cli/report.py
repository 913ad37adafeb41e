"""`eclip report`: runs of `eclip eval` as one HTML file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from eclip.errors import ResultError
from eclip.results.marks import is_ours


def report(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Output folders of eclip eval.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The HTML file to write.")] = Path("report.html"),
    title: Annotated[str | None, typer.Option(help="Title of the page. Default: named after the data.")] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Also replace a file that eclip did not write.")
    ] = False,
) -> None:
    """Write runs of eclip eval to one HTML page: numbers, curves, costs, classes, best and worst images.

    One run:  eclip report voc -o voc.html

    Data sets or protocols side by side:  eclip report voc coco camvid
    """
    from eclip.evaluation.report.report import report as made
    from eclip.files import replace_file

    if out.is_dir():
        raise ResultError(f"{str(out)!r} is a folder: give a file name, such as -o {out / 'report.html'}.")
    if out.is_file() and not (overwrite or is_ours(out)):
        raise ResultError(f"{str(out)!r} exists and was not written by eclip: choose another name, or use --overwrite.")
    page = made(list(folders), title=title).encode(errors="backslashreplace")
    replace_file(out, page)
    typer.echo(f"-> {out} ({len(page) / 2**20:.1f} MiB)")
