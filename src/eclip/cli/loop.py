"""The loop of a command over its images: progress, a line for each, failures, and the summary."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from eclip.backbones.catalog import DEFAULT_MODEL, OPENAI_HINT
from eclip.cli.options import FOLDER_NAMED, QUIET
from eclip.results.folder import Folder

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

MOST_REPORTED = 5
"""The most images whose warnings are printed one by one."""


@dataclass(frozen=True)
class Run:
    """The progress of a command over its images; `failures` lists those that failed, and why."""

    writer: Folder
    images: list[Path]
    bar: Progress
    task: TaskID
    failures: list[tuple[str, str]]

    def doing(self, what: str) -> None:
        """Show the current step."""
        self.bar.update(self.task, description=what)

    def show(self, line: str, picture: str | None) -> None:
        """Print a line about an image, and where its picture is, safely for a terminal."""
        from eclip.render import printable

        typer.echo(printable(line + (f"  -> {self.writer.folder / picture}" if picture else "")))

    def count(self) -> None:
        """Move the bar to the number of images done or failed."""
        self.bar.update(self.task, completed=len(self.writer.manifest["images"]) + len(self.failures))


def over_images(
    sources: list[str], writer: Folder, repeat: Callable[[dict[str, Any]], str | None], work: Callable[[Run], None]
) -> None:
    """Find the images and run the work; failures and the full command are recorded, however the run ends.

    Args:
        sources: files, folders and patterns.
        writer: of the results; its "provenance" is from the first image, with a command for that image only.
        repeat: takes that "provenance" and returns the command for all images; None if no command can ask for these
            examples.
        work: adds results to the writer; not called if no image is found.
    """
    from eclip.images import find_images

    images, problems = find_images(sources, writer.folder)
    for source, error in problems:
        writer.fail(source, error)
    writer.steps_aside = not FOLDER_NAMED.get()
    with writer.over(map(str, images)):
        if not images:
            return
        failures: list[tuple[str, str]] = []
        try:
            with progressing() as bar:
                work(Run(writer, images, bar, bar.add_task("loading", total=len(images)), failures))
        finally:
            for source, error in failures:
                writer.fail(source, error)
            if provenance := writer.manifest["provenance"]:
                writer.manifest["provenance"] = {**provenance, "command": repeat(provenance)}


@contextmanager
def progressing() -> Iterator[Progress]:
    """A progress bar on stderr if that is a terminal, removed at the end; one more for each download meanwhile."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from eclip.backbones.hub import watchers
    from eclip.backbones.hub_errors import amount

    console = Console(stderr=True)
    with Progress(
        *(TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()),
        console=console,
        transient=True,
        disable=not console.is_terminal or QUIET.get(),
        redirect_stdout=sys.stdout.isatty(),  # results stay on stdout where it is a file
    ) as progress:
        fetched: dict[str, TaskID] = {}

        def fetching(name: str, here: int, size: int) -> None:
            if name not in fetched:
                fetched[name] = progress.add_task(f"downloading {name}, {amount(size)}", total=100)
            progress.update(fetched[name], completed=100 * here // size, visible=here < size)

        watchers.append(fetching)
        try:
            yield progress
        finally:
            watchers.remove(fetching)


def summarize(writer: Folder, done: str, models: list[str], as_json: bool, *, option: str = "--model") -> None:
    """Print what was done and what failed, or the manifest; exit code 1 if something failed."""
    count, failures = len(writer.manifest["images"]), writer.manifest["failures"]
    if as_json:
        typer.echo(json.dumps(writer.manifest, ensure_ascii=False, allow_nan=False))
    elif count and not QUIET.get():
        earlier = ", replacing the results of an earlier run" if writer.replaced else ""
        typer.echo(f"{count} {done} in {writer.folder}{earlier}", err=True)
        openai = OPENAI_HINT.replace("--model", option)
        hint = f", small and offline. {openai}" if models == [DEFAULT_MODEL] else ""
        typer.echo(f"model: {', '.join(models)}{hint}", err=True)
    for failure in failures:
        typer.echo(f"failed: {failure['error']}", err=True)
    if failures:
        typer.echo(f"{len(failures)} of {len(failures) + count} failed.", err=True)
        raise typer.Exit(1)
