"""`eclip words`: which words of a text made the model match it, and with --pairs, which patch for which word."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from eclip.backbones.catalog import DEFAULT_MODEL
from eclip.cli import asking
from eclip.cli.asking import Positions, Resize
from eclip.errors import ImageError, OptionError
from eclip.reported import reported
from eclip.words import DEFAULT_WORD_METHOD, WORD_METHODS, word_method
from eclip.words_writer import WordsWriter, words_command

if TYPE_CHECKING:
    from eclip.explain_words import WordRelevance
    from eclip.interactions import Box, Interactions


def words(
    sources: asking.Sources,
    text: asking.Texts = None,
    texts_file: asking.TextsFile = None,
    model: Annotated[str, typer.Option("--model", "-m", help="eclip models ls shows them.")] = DEFAULT_MODEL,
    method: Annotated[str, typer.Option(help=f"{', '.join(WORD_METHODS)}.")] = DEFAULT_WORD_METHOD,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="An option of the method, e.g. depth=4.")
    ] = None,
    pairs: Annotated[
        bool, typer.Option("--pairs", help="Also which patch for which word: a small map a word.")
    ] = False,
    box: Annotated[
        list[str] | None,
        typer.Option(metavar="X0,Y0,X1,Y1", help="With --pairs, a part of the photo in pixels: which words for it?"),
    ] = None,
    image_depth: Annotated[int, typer.Option(min=1, help="With --pairs: last attention layers of the image.")] = 1,
    text_depth: Annotated[
        int | None, typer.Option(min=1, help="With --pairs: last blocks of the text; or all.")
    ] = None,
    points: Annotated[int, typer.Option(min=1, help="With --pairs: points of the path; more are more exact.")] = 10,
    image_size: asking.ImageSize = None,
    resize: asking.Resizing = Resize.squash,
    positions: asking.Positioning = Positions.bicubic_aa,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for pages, pictures and manifest.json.")] = Path(
        "eclip-words"
    ),
    device: asking.Device = "auto",
    as_json: asking.AsJson = False,
) -> None:
    """Show which words of each text made the model match it to each photo.

    Words in color:  eclip words dog.jpg -t "a husky running in snow"

    Which patch for which word:  eclip words dog.jpg -t "a husky running in snow" --pairs
    """
    with reported():
        wanted = asking.given_texts(text, texts_file)
        asking.check_model(model)
        options = asking.given_options("--set", set_ or [], word_method(method).options)
        word_method(method).check(options)
        boxes = [_box(one) for one in box or []]
        if boxes and not pairs:
            raise OptionError("--box asks for the words of a part of the photo, which needs --pairs: add it.")
        view = {"image_size": image_size, "resize": resize.value, "positions": positions.value, "device": None}
        asked = {"method": method, "options": options, **view}
        path = {"image_depth": image_depth, "text_depth": text_depth, "points": points, **view} if pairs else None
        writer = WordsWriter(out)
        asking.over_photos(
            sources,
            writer,
            lambda photos: _all(sources, photos, wanted, (model, device), asked, path, boxes, writer, quiet=as_json),
        )
        asking.summarize(writer, "read", [model], as_json)


def _all(
    sources: list[str],
    photos: list[Path],
    texts: list[str],
    model: tuple[str, str],
    asked: dict[str, Any],
    path: dict[str, Any] | None,
    boxes: list[Box],
    writer: WordsWriter,
    *,
    quiet: bool,
) -> None:
    from eclip.backbones.load import load
    from eclip.explain_words import WordQuestion
    from eclip.interactions import PairQuestion
    from eclip.photos import read_ahead

    try:
        with asking.progressing() as progress:
            task = progress.add_task("loading", total=len(photos))
            backbone = load(model[0], device=model[1])
            question = WordQuestion(texts, backbone, **asked)
            pairs = PairQuestion(texts, backbone, **path) if path else None
            for source, photo in read_ahead(photos, 1):
                progress.update(task, description=f"reading {Path(source).name}")
                try:
                    if isinstance(photo, ImageError):
                        raise photo
                    found = pairs.answer(photo, source) if pairs else []
                    relevance = question.answer([photo], [source])
                    entry = writer.add(relevance, 0, found, boxes)
                except (ImageError, OptionError) as error:  # the latter of a box outside this photo
                    writer.fail(source, str(error))
                else:
                    if not quiet:
                        _print(relevance, found, boxes)
                        typer.echo(f"-> {writer.folder / entry['files']['page']}")
                progress.advance(task)
    finally:
        if how := writer.manifest["how"]:
            writer.manifest["how"] = {**how, "command": words_command(sources, texts, how)}


def _print(relevance: WordRelevance, found: list[Interactions], boxes: list[Box]) -> None:
    from rich.console import Console
    from rich.padding import Padding
    from rich.text import Text

    from eclip import render

    console = Console(highlight=False, soft_wrap=False)
    console.print(Text(relevance.sources[0], style="bold"), soft_wrap=True)
    for text, line in enumerate(relevance.texts):
        console.print(Text.assemble((f"{relevance.scores[0, text]:.3f}", "cyan"), f"  {line}"), soft_wrap=True)
        for row in render.terminal(relevance.words[text], relevance.values[text][0], console.width - 7):
            console.print(Padding(row, (0, 0, 0, 7)))
        for number, box in enumerate(boxes):
            console.print(Text(f"       box {number + 1}, {','.join(f'{side:g}' for side in box)}:", style="dim"))
            for row in render.terminal(found[text].words, found[text].in_box(box), console.width - 7):
                console.print(Padding(row, (0, 0, 0, 7)))


def _box(given: str) -> Box:
    try:
        left, top, right, bottom = (float(side) for side in given.split(","))
    except ValueError:
        raise OptionError(
            f"--box needs left,top,right,bottom in pixels of the photo, such as 10,20,200,180, got {given!r}."
        ) from None
    return [left, top, right, bottom]
