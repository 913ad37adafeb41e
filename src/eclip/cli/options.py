"""Options shared by the commands that run a model, and their checks."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from contextvars import ContextVar
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from eclip.backbones.catalog import BLOCKLESS, SCHEMES, architectures, head_beside, split_name, tower_of
from eclip.cli import completion
from eclip.cli.config import take_config, why
from eclip.cli.errors import stop
from eclip.errors import ModelError, OptionError, TextError
from eclip.methods import DEFAULT_METHOD, DEFAULT_OF_CNNS, METHODS, options_for
from eclip.methods import default_method as by_head
from eclip.refinements import REFINEMENTS, check_refinement
from eclip.results.folder import FORMATS, check_place
from eclip.texts.templates import resolve

if TYPE_CHECKING:
    from eclip.backbones.backbone import Backbone
    from eclip.registry import Entry

Resize = StrEnum("Resize", ["squash", "keep"])
Scale = StrEnum("Scale", ["map", "row"])
Positions = StrEnum("Positions", ["bicubic_aa", "bicubic", "bilinear", "bicubic_plus01"])

QUIET: ContextVar[bool] = ContextVar("quiet", default=False)
"""Whether the user wants neither progress nor results on the terminal."""


def _hush(given: bool) -> bool:
    QUIET.set(given)
    return given


def _talk(given: bool) -> bool:
    logging.getLogger("eclip").setLevel(logging.INFO if given else logging.NOTSET)
    return given


Sources = Annotated[list[str], typer.Argument(metavar="SOURCE...", help="Images, folders or glob patterns.")]
Texts = Annotated[list[str] | None, typer.Option("--text", "-t", help="A text to look for; repeatable.")]
Like = Annotated[
    list[str] | None,
    typer.Option(
        metavar="FILE",
        help="Look for what an image shows: FILE, FILE:x0,y0,x1,y1, a folder or a .npy vector; joined by ' + ' and "
        "' - ', also with text:WORDS; repeatable.",
    ),
]
ImageMean = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Mean image feature of the model, a .npy file, for --like.")
]
TextsFile = Annotated[Path | None, typer.Option(help="A file with one text per line.")]
Versus = Annotated[str | None, typer.Option(help="A text to contrast each text with: why A and not B?")]
Model = Annotated[
    str,
    typer.Option("--model", "-m", help="A model; eclip models ls lists them.", autocompletion=completion.model_names),
]
MethodSet = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="An option of the method, e.g. depth=4.")
]
Refine = Annotated[
    str | None,
    typer.Option(
        help="A step after the method: lposs, lposs+ or pamr; see eclip refinements ls.",
        autocompletion=completion.refinements,
    ),
]
RefineSet = Annotated[
    list[str] | None, typer.Option(metavar="KEY=VALUE", help="An option of the refinement, e.g. k=50.")
]
ImageSize = Annotated[int | None, typer.Option(min=1, help="Input side in pixels. Default: the model's own.")]
Resizing = Annotated[Resize, typer.Option(help="Squash to a square, or keep the aspect ratio.")]
Template = Annotated[
    list[str] | None,
    typer.Option(
        help="none, single, imagenet80, surgery85, or a sentence with {}; repeatable.",
        autocompletion=completion.templates,
    ),
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
Config = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="TOML file with options of this command; flags override it.",
        is_eager=True,
        callback=take_config,
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print only warnings and errors.", callback=_hush)]
Verbose = Annotated[
    bool,
    typer.Option(
        "--verbose",
        "-v",
        help="Also print to stderr which model, head and device are used, and the seconds of each stage.",
        callback=_talk,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the manifest on stdout instead of a line per image.")]

FOLDER_NAMED: ContextVar[bool] = ContextVar("folder_named", default=True)
"""Whether the user chose the output folder; a default one that is taken gives way to a folder beside it."""
FORMAT_NAMED: ContextVar[bool] = ContextVar("format_named", default=False)
"""Whether the user chose the formats; by default, more images than a few thousand are written as shards."""
OUT, FORMAT = Path("eclip-out"), ",".join(FORMATS)
MORE = "more than"
"""How the reason begins to write shards that nobody asked for."""


def talks(as_json: bool) -> bool:
    """Whether a command prints a line for each image."""
    return not (as_json or QUIET.get())


def parse_queries(
    texts: list[str] | None, file: Path | None, likes: list[str] | None, image_mean: Path | None
) -> list[Any]:
    """The texts of -t and of the file, and the examples of --like, checked."""
    examples = parse_likes(likes, image_mean)
    if not examples:
        return parse_texts(texts, file)
    wanted = parse_texts(texts, file) if texts or file is not None else []
    from eclip.texts.queries import check_queries  # imports torch

    return check_queries([*wanted, *examples])


def parse_likes(likes: list[str] | None, image_mean: Path | None) -> list[Any]:
    """The examples of --like."""
    if not likes:
        if image_mean is not None:
            raise OptionError("--image-mean is for --like: omit it.")
        return []
    from eclip.texts.like import read_like  # imports torch

    found = [read_like(one, image_mean) for one in likes]
    names = [one.name for one in found]
    return [one.by_path() if names.count(one.name) > 1 else one for one in found]


def parse_texts(texts: list[str] | None, file: Path | None) -> list[str]:
    """The texts of -t and of the file, checked not to be empty."""
    wanted = list(texts or []) + lines_of(file, "texts")
    if not wanted:
        raise TextError('no text was given. Add -t "a dog", once for each text, or --texts-file FILE.')
    if not all(one.strip() for one in wanted):
        raise TextError('a text is empty. Write what to look for, such as -t "a dog".')
    return wanted


ONE_BY_ONE = {
    "texts": '-t "a dog", once for each text, or name a file with one text per line',
    "classes": "-c dog, once for each class, or name a file with one class per line",
}
"""How to give what is no file."""


def lines_of(file: Path | None, what: str) -> list[str]:
    """The non-empty lines of a file; none without a file."""
    if file is None:
        return []
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError as error:
        raise OptionError(f"cannot read the {what} file {str(file)!r}: write {ONE_BY_ONE[what]}.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(f"cannot read the {what} file {str(file)!r}: {why(error)}.") from error
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


def options_by_method(pairs: list[str], known: Mapping[str, Entry[Any]]) -> dict[str, dict[str, Any]]:
    """METHOD.KEY=VALUE pairs as options of methods, not checked yet."""
    given: dict[str, list[str]] = {}
    for pair in pairs:
        method, dot, rest = pair.partition(".")
        if not dot or method not in known:
            names = "`eclip methods ls`" if known is METHODS else ", ".join(known)
            raise OptionError(
                f"--set must be METHOD.KEY=VALUE, such as gem.depth=4, with a method of {names}, got {pair!r}."
            )
        given.setdefault(method, []).append(rest)
    return {method: parse_options("--set", own, known[method].options) for method, own in given.items()}


def method_options(pairs: list[str], method: str) -> dict[str, Any]:
    """KEY=VALUE pairs as options of the method."""
    if not pairs:  # reading a method's options imports its function and torch
        return {}
    return options_for(method, [method], parse_options("--set", pairs, METHODS[method].options))


def words(joined: str) -> list[str]:
    """Words joined by commas."""
    return [word.strip() for word in joined.split(",") if word.strip()]


def parse_formats(joined: str, out: Path, known: Sequence[str] = FORMATS) -> list[str]:
    """Formats joined by commas, checked with the folder to write them into."""
    check_place(out, formats := words(joined), known)
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
    if "," in name and not name.startswith(SCHEMES) and "+" not in name:
        raise OptionError(
            f"--model takes one model, got {name!r}. `eclip compare --models {name}` shows several side by side."
        )
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


def shards(why: str) -> str:
    """Shards and the reason to write them, in words for a message."""
    return f"shards, as which {why} are written" if why.startswith(MORE) else f"shards, which {why} asks for"
