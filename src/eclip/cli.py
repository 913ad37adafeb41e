"""The command line. Results go to stdout, progress and complaints to stderr.

Exit codes: 0 all done; 1 something failed (a photo, a folder, a download) and the rest is done; 2 wrong usage.
Nothing heavy is imported before names and options are checked, so that help and a wrong name answer at once.
"""

from __future__ import annotations

import json
import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from eclip import __version__
from eclip.backbones.catalog import DEFAULT_MODEL, OPENAI_HINT, architectures, family_of, split_name
from eclip.errors import (
    DeviceError,
    DownloadError,
    EclipError,
    ModelError,
    OptionError,
    TextError,
    UnknownNameError,
)
from eclip.methods import METHODS, options_for

if TYPE_CHECKING:
    from eclip.explanation import Explanation

app = typer.Typer(
    help="Which part of this image made a CLIP-like model match this text?",
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)
models_app = typer.Typer(help="Models that can be loaded.", no_args_is_help=True)
methods_app = typer.Typer(help="Methods of explanation.", no_args_is_help=True)
app.add_typer(models_app, name="models")
app.add_typer(methods_app, name="methods")

USAGE_ERRORS = (UnknownNameError, OptionError, TextError, DeviceError)
"""What was typed is wrong: exit code 2. All other errors of ours: exit code 1."""


class Resize(StrEnum):
    """How a photo is fitted to the model."""

    squash = "squash"
    keep = "keep"


def main() -> None:
    """Entry point of the `eclip` command."""
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="eclip: %(message)s")
    for noisy in ("httpx", "huggingface_hub", "root"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    app()


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"eclip {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


@app.command()
def explain(
    sources: Annotated[list[str], typer.Argument(metavar="SOURCE...", help="Photos, folders or glob patterns.")],
    text: Annotated[
        list[str] | None, typer.Option("--text", "-t", help="A text to look for; may be given several times.")
    ] = None,
    texts_file: Annotated[Path | None, typer.Option(help="A file with one text a line.")] = None,
    model: Annotated[str, typer.Option("--model", "-m", help="`eclip models ls` shows them.")] = DEFAULT_MODEL,
    method: Annotated[str, typer.Option(help="`eclip methods ls` shows them.")] = "surgery",
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="An option of the method, e.g. depth=4.")
    ] = None,
    image_size: Annotated[int | None, typer.Option(help="Side in pixels; the model's own if left out.")] = None,
    resize: Annotated[Resize, typer.Option(help="Squash to a square, or keep the aspect ratio.")] = Resize.squash,
    template: Annotated[
        list[str] | None,
        typer.Option(help="none, single, imagenet80, surgery85, or a sentence with {}; may be given several times."),
    ] = None,
    positions: Annotated[str, typer.Option(help="How position embeddings are resized.")] = "bicubic_aa",
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for pictures, arrays and manifest.json.")] = Path(
        "eclip-out"
    ),
    format_: Annotated[str, typer.Option("--format", help="Any of png, npz, json, joined by commas.")] = "png,npz,json",
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:N, or auto: CUDA if there is a device.")] = "auto",
    batch_size: Annotated[int, typer.Option(min=1, help="Photos in one forward pass.")] = 8,
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest on stdout instead of a table.")] = False,
) -> None:
    """Show which part of each photo answers to each text.

    One photo, two texts:  `eclip explain dogs.jpg -t "a dog" -t grass`
    """
    with _reported():
        wanted = _texts(text, texts_file)
        _check_names(method, model)
        options = _options(set_ or [], method)
        templates = _templates(template)
        formats = [name.strip() for name in format_.split(",") if name.strip()]

        from eclip.explanation import Writer
        from eclip.photos import find_photos

        photos, problems = find_photos(sources)
        writer = Writer(out, formats)
        for problem in problems:
            writer.fail(problem.partition(":")[0], problem)
        settings = {
            "model": model,
            "method": method,
            "image_size": image_size,
            "resize": resize.value,
            "templates": templates,
            "positions": positions,
            "device": device,
            **options,
        }
        with writer:
            _explain_all(photos, wanted, batch_size, settings, writer, quiet=as_json)
        failures = writer.manifest["failures"]
        if as_json:
            typer.echo(json.dumps(writer.manifest, ensure_ascii=False))
        elif writer.manifest["photos"]:
            typer.echo(f"{len(writer.manifest['photos'])} explained in {out}", err=True)
            if model == DEFAULT_MODEL:
                typer.echo(f"model: mini, small and offline. {OPENAI_HINT}", err=True)
        for failure in failures:
            typer.echo(f"failed: {failure['error']}", err=True)
        if failures:
            typer.echo(f"{len(failures)} of {len(failures) + len(writer.manifest['photos'])} failed.", err=True)
            raise typer.Exit(1)


def _explain_all(
    photos: list[Path], texts: list[str], batch_size: int, settings: dict[str, Any], writer: Any, *, quiet: bool
) -> None:
    if not photos:
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from eclip.explain import explain_each

    console = Console(stderr=True)
    columns = (TextColumn("[progress.description]{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    failures: list[tuple[str, str]] = []
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("loading", total=len(photos))
        for explanation in explain_each(photos, texts, batch_size=batch_size, failures=failures, **settings):
            progress.update(task, description="explaining")
            [entry] = writer.add(explanation)
            if not quiet:
                _print_scores(explanation, entry, writer.folder)
            progress.update(task, completed=len(writer.manifest["photos"]) + len(failures))
    for source, error in failures:
        writer.fail(source, error)


def _print_scores(explanation: Explanation, entry: dict[str, Any], folder: Path) -> None:
    scores = "  ".join(f"{explanation.texts[text]} {explanation.scores[0, text]:.3f}" for text in explanation.best_texts())
    picture = entry["files"].get("strip")
    typer.echo(f"{explanation.sources[0]}: {scores}" + (f"  -> {folder / picture}" if picture else ""))


def _texts(texts: list[str] | None, file: Path | None) -> list[str]:
    wanted = list(texts or [])
    if file is not None:
        try:
            lines = file.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise OptionError(f"the texts file {str(file)!r} cannot be read: {error}.") from error
        wanted += [line.strip() for line in lines if line.strip()]
    if not wanted:
        raise TextError('no text was given: add -t "a dog", several times if you like, or --texts-file FILE.')
    if not all(one.strip() for one in wanted):
        raise TextError('a text is empty: write what to look for, such as -t "a dog".')
    return wanted


def _check_names(method: str, model: str) -> None:
    if method not in METHODS:
        raise UnknownNameError("method", method, METHODS, "`eclip methods ls`")
    split_name(model)


def _options(pairs: list[str], method: str) -> dict[str, Any]:
    """KEY=VALUE pairs as the method's options; a value is read as JSON if it is JSON, else as a word."""
    given: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise OptionError(f"--set needs KEY=VALUE, got {pair!r}.")
        word = {"True": "true", "False": "false", "None": "null"}.get(value, value)
        try:
            given[key.strip()] = json.loads(word)
        except json.JSONDecodeError:
            given[key.strip()] = value
    return options_for(method, [method], given) if given else {}


def _templates(given: list[str] | None) -> str | list[str]:
    from eclip.templates import resolve

    templates = "none" if not given else given[0] if len(given) == 1 else given
    resolve(templates)
    return templates


@contextmanager
def _reported() -> Iterator[None]:
    """Our errors become one message and an exit code; warnings become lines on stderr."""

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        typer.echo(f"warning: {message}", err=True)

    shown, warnings.showwarning = warnings.showwarning, show  # type: ignore[assignment]
    try:
        yield
    except EclipError as error:
        _stop(str(error), 2 if isinstance(error, USAGE_ERRORS) or _is_typo(error) else 1)
    except KeyboardInterrupt:
        _stop("stopped; what was done so far is kept.", 130)
    except BrokenPipeError:
        sys.stderr.close()
        raise typer.Exit(1) from None
    finally:
        warnings.showwarning = shown


def _is_typo(error: EclipError) -> bool:
    """A model that cannot be meant, against one whose files are missing or broken."""
    return isinstance(error, ModelError) and not isinstance(error, DownloadError) and error.__cause__ is None


def _stop(message: str, code: int) -> NoReturn:
    typer.echo(f"error: {message}", err=True)
    raise typer.Exit(code)


@models_app.command("ls")
def models_ls(
    every: Annotated[bool, typer.Option("--all", help="Every architecture of open_clip with its tags.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Models by name, and which kind of image tower they have."""
    with _reported():
        rows = [{"model": "mini", "family": "timm trunk with attention pool", "weights": "in the package"}]
        if every:
            rows += _open_clip_rows()
        else:
            for name in ("ViT-B-16/openai", "ViT-B-32/openai", "ViT-L-14/openai", "RN50/openai", "ViT-B-16-SigLIP/webli"):
                family = family_of(architectures()[name.partition("/")[0]])
                rows.append({"model": name, "family": family or "", "weights": "fetched once"})
        _table(rows, as_json)
        if not as_json:
            typer.echo(
                "also: hf-hub:ORG/NAME, local-dir:PATH, ARCH+CHECKPOINT_FILE"
                + ("" if every else "; --all shows every architecture"),
                err=True,
            )


def _open_clip_rows() -> list[dict[str, str]]:
    import open_clip

    rows = []
    for name, config in architectures().items():
        family = family_of(config) or "no adapter"
        rows.append({"model": name, "family": family, "weights": " ".join(open_clip.list_pretrained_tags_by_model(name))})
    return rows


@methods_app.command("ls")
def methods_ls(as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False) -> None:
    """Methods by name, with what they do and where they come from."""
    with _reported():
        _table([{"method": method.name, "what": method.summary} for method in METHODS.values()], as_json)


def _table(rows: list[dict[str, str]], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(rows, ensure_ascii=False))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for key in rows[0]:
        table.add_column(key, overflow="fold", no_wrap=key in ("model", "method"))
    for row in rows:
        table.add_row(*row.values())
    Console().print(table)


@app.command()
def doctor(as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False) -> None:
    """Check the installation: versions, whether torch and torchvision fit, devices, cached weights, what to do next."""
    with _reported():
        from eclip.doctor import examine

        findings = examine()
        _table([{"what": f.what, "is": f.found, "": "ok" if f.fine else "!", "next": f.advice} for f in findings], as_json)
        if not all(finding.fine for finding in findings):
            raise typer.Exit(1)

