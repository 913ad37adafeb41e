"""The command line. Results go to stdout, progress and errors to stderr.

Exit codes: 0 success; 1 something failed (an image, a folder, a download) and everything else is done; 2 wrong usage.
Nothing heavy is imported before names and options are checked, so that help and usage errors appear at once.
"""

from __future__ import annotations

import io
import logging
import sys
from typing import Annotated

import typer

from eclip import __version__
from eclip.cli import compare, concepts, datasets, evaluate, explain, lists, report, segment, serve, train, words
from eclip.cli.interrupts import defer_while_importing
from eclip.cli.slips import forgiving

app = typer.Typer(
    help="Explain which part of an image makes a CLIP-like model match a text.",
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)
app.command()(explain.explain)
app.command()(compare.compare)
app.command()(words.words)
app.command()(concepts.concepts)
app.command()(segment.segment)
app.command()(serve.serve)
app.command()(train.train)
app.command("eval")(evaluate.evaluate)
app.command()(report.report)
app.command()(lists.doctor)
app.add_typer(datasets.app, name="datasets")
app.add_typer(lists.models_app, name="models")
app.add_typer(lists.methods_app, name="methods")
app.add_typer(lists.guides_app, name="guides")
app.add_typer(lists.refinements_app, name="refinements")
app.add_typer(lists.protocols_app, name="protocols")
forgiving(app)


def main() -> None:
    """Entry point of the `eclip` command."""
    defer_while_importing()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("eclip: %(message)s"))
    logging.getLogger("eclip").addHandler(handler)
    logging.getLogger().addHandler(logging.NullHandler())  # our own messages include what libraries log
    logging.getLogger("huggingface_hub").setLevel(logging.CRITICAL)  # it has its own handler
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # so that file names with invalid Unicode can be shown
    app()


def _version(asked: bool) -> bool:
    if asked:
        typer.echo(f"eclip {__version__}")
        raise typer.Exit
    return asked


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass
