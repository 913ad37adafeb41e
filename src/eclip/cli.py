"""The command line. Results go to stdout, progress and complaints to stderr.

Exit codes: 0 all done; 1 something failed (a photo, a folder, a download) and the rest is done; 2 wrong usage.
Nothing heavy is imported before names and options are checked, so that help and a wrong name answer at once.
"""

from __future__ import annotations

import io
import json
import logging
import sys
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from eclip import __version__
from eclip.backbones.catalog import DEFAULT_MODEL, OPENAI_HINT, architectures, family_of, split_name, tags
from eclip.errors import ModelError, OptionError, TextError, UnknownNameError
from eclip.methods import DEFAULT_METHOD, METHODS, options_for
from eclip.reported import reported, stop
from eclip.templates import resolve
from eclip.writer import FORMATS, Writer, command

if TYPE_CHECKING:
    from eclip.explanation import Explanation

app = typer.Typer(
    help="Which part of this image made a CLIP-like model match this text?",
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)
models_app = typer.Typer(help="Models that can be loaded.", no_args_is_help=True)
methods_app = typer.Typer(help="Methods of explanation.", no_args_is_help=True)
app.add_typer(models_app, name="models")
app.add_typer(methods_app, name="methods")

RECOMMENDED = ("ViT-B-16/openai", "ViT-B-32/openai", "ViT-L-14/openai", "RN50/openai", "ViT-B-16-SigLIP/webli")

Resize = StrEnum("Resize", ["squash", "keep"])
Positions = StrEnum("Positions", ["bicubic_aa", "bicubic", "bilinear", "bicubic_plus01"])


def main() -> None:
    """Entry point of the `eclip` command."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("eclip: %(message)s"))
    logging.getLogger("eclip").addHandler(handler)
    logging.getLogger().addHandler(logging.NullHandler())  # what libraries log is in our own messages
    logging.getLogger("huggingface_hub").setLevel(logging.CRITICAL)  # it has a handler of its own
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # file names that are no Unicode are shown all the same
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


@app.command()
def explain(
    sources: Annotated[list[str], typer.Argument(metavar="SOURCE...", help="Photos, folders or glob patterns.")],
    text: Annotated[
        list[str] | None, typer.Option("--text", "-t", help="A text to look for; may be given several times.")
    ] = None,
    texts_file: Annotated[Path | None, typer.Option(help="A file with one text a line.")] = None,
    model: Annotated[str, typer.Option("--model", "-m", help="eclip models ls shows them.")] = DEFAULT_MODEL,
    method: Annotated[str, typer.Option(help="eclip methods ls shows them.")] = DEFAULT_METHOD,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="An option of the method, e.g. depth=4.")
    ] = None,
    image_size: Annotated[int | None, typer.Option(help="Side in pixels; the model's own if left out.")] = None,
    resize: Annotated[Resize, typer.Option(help="Squash to a square, or keep the aspect ratio.")] = Resize.squash,
    template: Annotated[
        list[str] | None,
        typer.Option(help="none, single, imagenet80, surgery85, or a sentence with {}; may be given several times."),
    ] = None,
    positions: Annotated[
        Positions, typer.Option(help="How position embeddings are resized off the training grid.")
    ] = Positions.bicubic_aa,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for pictures, arrays and manifest.json.")] = Path(
        "eclip-out"
    ),
    format_: Annotated[str, typer.Option("--format", help="Any of png, npz, json, joined by commas.")] = ",".join(
        FORMATS
    ),
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:N, or auto: CUDA if there is a device.")] = "auto",
    batch_size: Annotated[int, typer.Option(min=1, help="Photos in one forward pass.")] = 8,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the manifest on stdout instead of a line a photo.")
    ] = False,
) -> None:
    """Show which part of each photo answers to each text.

    One photo, two texts:  eclip explain dogs.jpg -t "a dog" -t grass
    """
    with reported():
        wanted = _texts(text, texts_file)
        _check_names(method, model)
        templates = template[0] if template and len(template) == 1 else template or "none"
        resolve(templates)
        settings = {
            "model": model,
            "method": method,
            "image_size": image_size,
            "resize": resize.value,
            "templates": templates,
            "positions": positions.value,
            "device": device,
            "batch_size": batch_size,
            **_options(set_ or [], method),
        }
        writer = Writer(out, [name.strip() for name in format_.split(",") if name.strip()])

        from eclip.photos import find_photos

        photos, problems = find_photos(sources, out)
        for source, error in problems:
            writer.fail(source, error)
        with writer:
            if photos:
                _explain_all(sources, photos, wanted, settings, writer, quiet=as_json)
        _summarize(writer, model, as_json)


def _explain_all(
    sources: list[str], photos: list[Path], texts: list[str], settings: dict[str, Any], writer: Writer, *, quiet: bool
) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from eclip.explain import explain_each

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    failures: list[tuple[str, str]] = []
    try:
        with Progress(
            *columns,
            console=console,
            transient=True,
            disable=not console.is_terminal,
            redirect_stdout=sys.stdout.isatty(),  # results stay on stdout where it is a file
        ) as progress:
            task = progress.add_task("loading", total=len(photos))
            for explanation in explain_each(photos, texts, failures=failures, **settings):
                [entry] = writer.add(explanation)
                if not quiet:
                    _print_scores(explanation, entry, writer.folder)
                done = len(writer.manifest["photos"]) + len(failures)
                progress.update(task, description="explaining", completed=done)
    finally:
        for source, error in failures:
            writer.fail(source, error)
        if how := writer.manifest["how"]:  # noted by the first photo, for that photo alone
            writer.manifest["how"] = {**how, "command": command(sources, texts, how)}


def _summarize(writer: Writer, model: str, as_json: bool) -> None:
    done, failures = len(writer.manifest["photos"]), writer.manifest["failures"]
    if as_json:
        typer.echo(json.dumps(writer.manifest, ensure_ascii=False))
    elif done:
        typer.echo(f"{done} explained in {writer.folder}", err=True)
        hint = f", small and offline. {OPENAI_HINT}" if model == DEFAULT_MODEL else ""
        typer.echo(f"model: {model}{hint}", err=True)
    for failure in failures:
        typer.echo(f"failed: {failure['error']}", err=True)
    if failures:
        typer.echo(f"{len(failures)} of {len(failures) + done} failed.", err=True)
        raise typer.Exit(1)


def _print_scores(explanation: Explanation, entry: dict[str, Any], folder: Path) -> None:
    scores = "  ".join(
        f"{explanation.texts[text]} {explanation.scores[0, text]:.3f}" for text in explanation.best_texts()
    )
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
    try:
        split_name(model)
    except ModelError as error:  # of what was typed; the same class raised while loading is no wrong usage
        stop(str(error), 2)


def _options(pairs: list[str], method: str) -> dict[str, Any]:
    """KEY=VALUE pairs as options of the method; a value is a word if the option's default is one, else JSON."""
    given: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise OptionError(f"--set needs KEY=VALUE, got {pair!r}.")
        given[key] = value
        if not isinstance(METHODS[method].options.get(key), str):
            with suppress(json.JSONDecodeError):
                given[key] = json.loads({"True": "true", "False": "false", "None": "null"}.get(value, value))
    return options_for(method, [method], given) if given else given


@models_app.command("ls")
def models_ls(
    every: Annotated[bool, typer.Option("--all", help="Every architecture of open_clip with its tags.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Models by name, and which kind of image tower they have."""
    with reported():
        rows = [{"model": "mini", "family": "timm trunk with attention pool", "weights": "in the package"}]
        for name, config in architectures().items() if every else ():
            weights = " ".join(tags().get(name, []))
            rows.append({"model": name, "family": family_of(config) or "no adapter", "weights": weights})
        for name in () if every else RECOMMENDED:
            family = family_of(architectures()[name.partition("/")[0]]) or ""
            rows.append({"model": name, "family": family, "weights": "fetched once"})
        _table(rows, as_json)
        if not as_json:
            typer.echo(
                "also: hf-hub:ORG/NAME, local-dir:PATH, ARCH+CHECKPOINT_FILE"
                + ("" if every else "; --all shows every architecture"),
                err=True,
            )


@methods_app.command("ls")
def methods_ls(as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False) -> None:
    """Methods by name, with what they do and where they come from."""
    with reported():
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
    with reported():
        from eclip.doctor import examine

        findings = examine()
        _table(
            [{"what": f.what, "is": f.found, "": "ok" if f.fine else "!", "next": f.advice} for f in findings], as_json
        )
        if not all(finding.fine for finding in findings):
            raise typer.Exit(1)
