"""Options shared by the commands that run a model, their checks, the loop over images and the summary."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from eclip.backbones.catalog import (
    BLOCKLESS,
    DEFAULT_MODEL,
    OPENAI_HINT,
    architectures,
    head_beside,
    split_name,
    tower_of,
)
from eclip.cli.errors import stop
from eclip.errors import ModelError, OptionError, TextError
from eclip.methods import DEFAULT_METHOD, DEFAULT_OF_CNNS, METHODS, options_for
from eclip.methods import default_method as by_head
from eclip.refinements import REFINEMENTS, check_refinement
from eclip.results.folder import FORMATS, Folder, check_place
from eclip.texts.templates import resolve

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from eclip.backbones.backbone import Backbone

MOST_REPORTED = 5
"""The most images whose warnings are printed one by one."""
Resize = StrEnum("Resize", ["squash", "keep"])
Scale = StrEnum("Scale", ["map", "row"])
Positions = StrEnum("Positions", ["bicubic_aa", "bicubic", "bilinear", "bicubic_plus01"])

Sources = Annotated[list[str], typer.Argument(metavar="SOURCE...", help="Images, folders or glob patterns.")]
Texts = Annotated[list[str] | None, typer.Option("--text", "-t", help="A text to look for; repeatable.")]
TextsFile = Annotated[Path | None, typer.Option(help="A file with one text per line.")]
Versus = Annotated[str | None, typer.Option(help="A text to contrast each text with: why A and not B?")]
Model = Annotated[str, typer.Option("--model", "-m", help="A model; eclip models ls lists them.")]
MethodSet = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="An option of the method, e.g. depth=4.")
]
Refine = Annotated[
    str | None, typer.Option(help="A step after the method: lposs, lposs+ or pamr; see eclip refinements ls.")
]
RefineSet = Annotated[
    list[str] | None, typer.Option(metavar="KEY=VALUE", help="An option of the refinement, e.g. k=50.")
]
ImageSize = Annotated[int | None, typer.Option(help="Input side in pixels. Default: the model's own.")]
Resizing = Annotated[Resize, typer.Option(help="Squash to a square, or keep the aspect ratio.")]
Template = Annotated[
    list[str] | None, typer.Option(help="none, single, imagenet80, surgery85, or a sentence with {}; repeatable.")
]
Positioning = Annotated[
    Positions, typer.Option(help="How to resize position embeddings to other grids than in training.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the results of another run in the folder.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder for pictures, arrays and manifest.json.")]
Format = Annotated[str, typer.Option("--format", help="Any of png, npz and json, joined by commas.")]
Head = Annotated[
    str | None,
    typer.Option(metavar="DIR", help="Head for the method eclip: a folder written by eclip train, or hf-hub:ORG/NAME."),
]
Device = Annotated[
    str,
    typer.Option(
        help="cpu, cuda, cuda:N, or auto: CUDA if available.",
        callback=lambda given: f"cuda:{given}" if given and given.isdecimal() else given,
    ),
]
BatchSize = Annotated[int, typer.Option(min=1, help="Images in one forward pass.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the manifest on stdout instead of a line per image.")]

FOLDER_NAMED: ContextVar[bool] = ContextVar("folder_named", default=True)
"""Whether the user chose the output folder; a default one that is taken gives way to a folder beside it."""
OUT, FORMAT = Path("eclip-out"), ",".join(FORMATS)


def parse_texts(texts: list[str] | None, file: Path | None) -> list[str]:
    """The texts of -t and of the file, checked not to be empty."""
    wanted = list(texts or []) + lines_of(file, "texts")
    if not wanted:
        raise TextError('no text was given. Add -t "a dog", once for each text, or --texts-file FILE.')
    if not all(one.strip() for one in wanted):
        raise TextError('a text is empty. Write what to look for, such as -t "a dog".')
    return wanted


def lines_of(file: Path | None, what: str) -> list[str]:
    """The non-empty lines of a file; none without a file."""
    if file is None:
        return []
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(f"cannot read the {what} file {str(file)!r}: {error}.") from error
    return [line.strip() for line in lines if line.strip()]


def parse_templates(template: list[str] | None, default: str = "none") -> str | list[str]:
    """The name of a template set, or sentences."""
    templates = template[0] if template and len(template) == 1 else template or default
    resolve(templates)
    return templates


def parse_versus(versus: str | None) -> str | None:
    """The text to contrast others with, checked not to be empty."""
    if versus is not None and not versus.strip():
        raise TextError('--versus is empty. Write a text to contrast the others with, such as --versus "a cat".')
    return versus


def parse_refinement(refine: str | None, pairs: list[str] | None) -> dict[str, Any]:
    """The refinement and its options, as `explain` and `compare` take them."""
    known = REFINEMENTS[refine].options if pairs and refine in REFINEMENTS else {}
    options = parse_options("--refine-set", pairs or [], known)
    return {"refine": refine, "refine_options": check_refinement(refine, options)}


def parse_options(flag: str, pairs: list[str], known: dict[str, Any]) -> dict[str, Any]:
    """KEY=VALUE pairs as options; a value is a string if the option's default is one, otherwise JSON."""
    given: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise OptionError(f"{flag} needs KEY=VALUE, got {pair!r}.")
        if key in given:
            raise OptionError(f"{flag} {key} is given twice: keep one of them.")
        given[key] = value
        if not isinstance(known.get(key), str):
            with suppress(json.JSONDecodeError):
                given[key] = json.loads({"True": "true", "False": "false", "None": "null"}.get(value, value))
    return given


def method_options(pairs: list[str], method: str) -> dict[str, Any]:
    """KEY=VALUE pairs as options of the method."""
    if not pairs:  # reading a method's options imports its function and torch
        return {}
    return options_for(method, [method], parse_options("--set", pairs, METHODS[method].options))


def words(joined: str) -> list[str]:
    """Words joined by commas."""
    return [word.strip() for word in joined.split(",") if word.strip()]


def parse_formats(joined: str, out: Path) -> list[str]:
    """Formats joined by commas, checked with the folder to write them into."""
    check_place(out, formats := words(joined))
    return formats


def one_method(name: str) -> str:
    """The name of a single method."""
    if "," in name:
        raise OptionError(
            f"--method takes one method, got {name!r}. `eclip compare --methods {name}` shows several side by side."
        )
    return name.strip()


def default_method(model: str, head: str | None) -> str:
    """The method to use if none is given. The tower of a model in a folder is not known before it is loaded."""
    name = split_name(model)[0]
    family, _ = tower_of(architectures().get(name, {}))
    without = DEFAULT_OF_CNNS if family in BLOCKLESS else DEFAULT_METHOD
    return by_head(head is not None or head_beside(name) is not None, without)


def check_model(name: str) -> None:
    """Check that the name of a model is valid."""
    try:
        split_name(name)
    except ModelError as error:  # a usage error here; the same class while loading is not
        stop(str(error), 2)


def check_head(head: str | None, methods: Sequence[str], models: Sequence[str]) -> None:
    """Check that a given head is used by a method and that there is a single model."""
    if head is not None and not {"eclip", "all", "fast"} & set(methods):
        raise OptionError("--head applies only to the method eclip. Add that method, or omit --head.")
    if head is not None and len(models) > 1:
        raise OptionError(f"--head belongs to one model, got {', '.join(models)}. Compare one model at a time.")


def parse_model(name: str, device: str, head: str | None) -> tuple[str | Backbone, str | None]:
    """Model and device as `explain` and `compare` take them: their names, or the model loaded with its head."""
    if head is None:
        return name, device
    from eclip.backbones.load import load

    return load(name, device=device, head=head), None


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
        repeat: takes that "provenance" and returns the command for all images.
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
        disable=not console.is_terminal,
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
    elif count:
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
