"""`eclip explain`, `eclip segment` and `eclip words` on many images: shards with an index instead of pictures.

A run can be resumed, and shared by several processes or machines.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from eclip.cli import dry, loop, options
from eclip.cli.errors import stop
from eclip.errors import DataError, OptionError

if TYPE_CHECKING:
    from collections.abc import Callable

    from eclip.stream.stream import Written

MOST_PICTURED = 2000
"""The most images of which pictures and one manifest are written by default."""
MOST_LISTED = 20
"""The most failures that are printed one by one."""
Layout = StrEnum("Layout", ["tar", "folder"])
Index = StrEnum("Index", ["jsonl", "parquet"])
Engine = StrEnum("Engine", ["process", "ray"])
Precision = StrEnum("Precision", ["float32", "bfloat16"])
_option = partial(typer.Option, rich_help_panel="Many images")
Write = Annotated[
    str | None,
    _option(
        help="Write shards with these, joined by commas: maps, masks, boxes, points, overlays, table. "
        "Default: maps,boxes."
    ),
]
WriteLabels = Annotated[
    str | None,
    _option(
        "--write",
        help="Write shards with these, joined by commas: labels, confidences, masks, boxes, overlays. Default: labels.",
    ),
]
LayoutOption = Annotated[Layout | None, _option("--layout", help="Each shard is a tar (WebDataset) or a folder.")]
IndexOption = Annotated[Index | None, _option("--index", help="Rows of each image, as JSON lines or Parquet.")]
Shard = Annotated[str | None, _option(metavar="I/N", help="Do only the I-th of N parts of the work, from 0.")]
EngineOption = Annotated[Engine | None, _option("--engine", help="This process, or Ray.")]
RayAddress = Annotated[str | None, _option(help="A Ray cluster, such as auto. Default: a local one.")]
Concurrency = Annotated[int | None, _option(min=1, help="Ray actors. Default: one for each GPU, or two without.")]
Workers = Annotated[int | None, _option(min=0, help="Processes that decode images. Default: half the cores.")]
Timeout = Annotated[float | None, _option(help="Seconds after which an image is skipped. Default: 60.")]
ShardSize = Annotated[int | None, _option(min=1, help="Images in a shard. Default: 512.")]
Threads = Annotated[int | None, _option(min=1, help="Threads of torch on a CPU. Default: torch's own number.")]
PrecisionOption = Annotated[Precision | None, _option("--precision", help="Precision of the model. Default: float32.")]


@dataclass(frozen=True)
class Many:
    """The options for many images; None where not given."""

    write: str | None
    layout: Layout | None
    index: Index | None
    shard: str | None
    engine: Engine | None
    ray_address: str | None
    concurrency: int | None
    workers: int | None
    timeout: float | None
    shard_size: int | None
    threads: int | None
    precision: Precision | None

    def reason(self, sources: list[str], formats: str, out: Path) -> str:
        """Why shards are to be written, in words; empty if pictures and a manifest are.

        Raises:
            OptionError: --format was given with something that only shards can be written of.
        """
        what = self.asks(sources)
        pictures = formats != options.FORMAT or options.FORMAT_NAMED.get()
        if pictures and what:
            raise OptionError(
                f"--format is for pictures of each image, not for shards, which {what} asks for: omit it. "
                "--write table puts a table into their index."
            )
        return what if pictures or what or not _are_many(sources, out) else many_images()

    def asks(self, sources: list[str]) -> str:
        """The first option that was given, or source, of which only shards can be written; empty if there is none."""
        given = [f"--{name.replace('_', '-')}" for name, value in vars(self).items() if value is not None]
        return next(itertools.chain(given, filter(is_streamed, sources)), "")

    def run(
        self,
        task: str,
        sources: list[str],
        texts: list[str],
        out: Path,
        reason: str,
        *,
        dry_run: bool,
        overwrite: bool,
        as_json: bool,
        **settings: Any,
    ) -> None:
        """Write the shards and print a summary; exit code 1 if an image failed. In a dry run, say what it would do.

        The task is one of `eclip.stream.tasks.TASKS`; the texts of "segment" are its classes. The reason is that of
        `reason` or `asks`.
        """
        if dry_run:
            dry.tell(*dry.shards(task, sources, texts, out, self, settings), as_json)
            return
        if options.talks(as_json) and reason == many_images():
            typer.echo(f"{reason}: writing shards with an index; --format png,json writes pictures of each", err=True)
        from eclip.stream.decoding import default_workers
        from eclip.stream.stream import explain_dataset, segment_dataset, words_dataset

        datasets: dict[str, Callable[..., Written]] = {
            "explain": explain_dataset,
            "segment": segment_dataset,
            "words": words_dataset,
        }
        doing = "segmenting" if task == "segment" else "explaining"
        own: dict[str, Any] = {"workers": default_workers()}
        for name, value in vars(self).items():
            if value is not None:
                own[name] = str(value) if isinstance(value, StrEnum) else value
        if self.write is not None:
            own["write"] = options.words(self.write)
        alone = os.environ.get("RANK", "0") == "0"
        with loop.progressing() as bar:
            shown = bar.add_task("loading", total=None, visible=alone)

            def progress(done: int, total: int | None) -> None:
                bar.update(shown, description=doing, completed=done, total=total)

            try:
                written = datasets[task](
                    sources, texts, out, overwrite=overwrite, on_progress=progress, **own, **settings
                )
            except KeyboardInterrupt:
                signal.signal(signal.SIGINT, signal.SIG_IGN)  # nothing is left to interrupt but the end of this process
                again = "run the same command again" + (", without --overwrite," if overwrite else "")
                stop(f"interrupted; everything done so far is kept: {again} to continue.", 130)
        if alone:
            _summarize(written, as_json)


def many_images() -> str:
    """The reason to write shards that nobody asked for."""
    return f"{options.MORE} {MOST_PICTURED:,} images"


def is_streamed(source: str) -> bool:
    """Whether a source is a tar, a table, a URL, or several by braces: for these, only shards can be written."""
    from eclip.images import is_url
    from eclip.stream.sources import is_table, is_tar

    return is_url(source) or is_tar(source) or is_table(source) or ("{" in source and not os.path.exists(source))


def _are_many(sources: list[str], out: Path) -> bool:
    from eclip.stream.sources import list_images

    try:
        return sum(1 for _ in itertools.islice(list_images(sources, out), MOST_PICTURED + 1)) > MOST_PICTURED
    except DataError:  # told later, with everything that could be found
        return False


def _summarize(written: Written, as_json: bool) -> None:
    failed = written.failed()
    if as_json:
        from eclip.stream.job import SCHEMA

        told: dict[str, Any] = {"schema": SCHEMA, "folder": str(written.folder), "images": written.images}
        told |= {"missing_shards": written.missing, "failures": [{"source": one, "error": why} for one, why in failed]}
        typer.echo(json.dumps(told, ensure_ascii=False))
    else:
        from eclip.render import printable

        if options.talks(as_json):
            typer.echo(f"{written.images:,} images in {written.folder}: shards, index and run.json", err=True)
        for _, error in itertools.islice(failed, MOST_LISTED):
            typer.echo(f"failed: {printable(error)}", err=True)
        if written.failures > MOST_LISTED:
            typer.echo(f"... and {written.failures - MOST_LISTED:,} more in {written.folder / 'failures'}", err=True)
        if written.missing and options.talks(as_json):
            left = "1 shard is" if written.missing == 1 else f"{written.missing:,} shards are"
            typer.echo(f"{left} left to the other parts of the work", err=True)
    if written.failures:
        typer.echo(f"{written.failures:,} of {written.failures + written.images:,} failed.", err=True)
        if "RANK" not in os.environ:  # torchrun would stop the processes that are still at work
            raise typer.Exit(1)
