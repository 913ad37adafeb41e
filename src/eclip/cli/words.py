"""`eclip words`: which words of a text made the model match it, and with --pairs, which patches match each word."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from eclip.backbones.catalog import DEFAULT_MODEL
from eclip.cli import completion, dry, loop, many
from eclip.cli import options as cli_options
from eclip.cli.options import Positions, Resize
from eclip.errors import OptionError
from eclip.words import DEFAULT_WORD_METHOD, WORD_METHODS, word_method
from eclip.words.folder import WordsWriter, words_command

INDENT = 7  # columns before the words, as wide as a score

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eclip.words.interactions import Box, Interactions
    from eclip.words.relevance import WordRelevance


def words(
    sources: Annotated[
        list[str],
        typer.Argument(metavar="SOURCE...", help="Images, folders, glob patterns; also tars, tables and URLs."),
    ],
    text: cli_options.Texts = None,
    texts_file: cli_options.TextsFile = None,
    model: cli_options.Model = DEFAULT_MODEL,
    method: Annotated[
        str, typer.Option(help=f"One of {', '.join(WORD_METHODS)}.", autocompletion=completion.word_methods)
    ] = DEFAULT_WORD_METHOD,
    set_: cli_options.MethodSet = None,
    pairs: Annotated[
        bool, typer.Option("--pairs", help="Also show which patches match each word, as a small map per word.")
    ] = False,
    box: Annotated[
        list[str] | None, typer.Option(metavar="X0,Y0,X1,Y1", help="With --pairs: a region in pixels; lists its words.")
    ] = None,
    image_depth: Annotated[
        int | None, typer.Option(min=1, help="With --pairs: how many last image attention layers. Default: 1.")
    ] = None,
    text_depth: Annotated[
        int | None, typer.Option(min=1, help="With --pairs: how many last text blocks. Default: all.")
    ] = None,
    points: Annotated[
        int | None, typer.Option(min=1, help="With --pairs: points on the path; more are more exact. Default: 10.")
    ] = None,
    image_size: cli_options.ImageSize = None,
    resize: cli_options.Resizing = Resize.squash,
    positions: cli_options.Positioning = Positions.bicubic_aa,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for pages, pictures and manifest.json.")] = Path(
        "eclip-words"
    ),
    overwrite: cli_options.Overwrite = False,
    device: cli_options.Device = "auto",
    batch_size: cli_options.BatchSize = 8,
    as_json: cli_options.AsJson = False,
    config: cli_options.Config = None,
    quiet: cli_options.Quiet = False,
    verbose: cli_options.Verbose = False,
    dry_run: dry.DryRun = False,
    layout: many.LayoutOption = None,
    index: many.IndexOption = None,
    shard: many.Shard = None,
    engine: many.EngineOption = None,
    ray_address: many.RayAddress = None,
    concurrency: many.Concurrency = None,
    workers: many.Workers = None,
    timeout: many.Timeout = None,
    shard_size: many.ShardSize = None,
    threads: many.Threads = None,
    precision: many.PrecisionOption = None,
) -> None:
    """Show which words of each text made the model match it to each image.

    There is no --template, since each word of a text has its own relevance: write the whole sentence as the text.

    Words in color:  eclip words dog.jpg -t "a husky running in snow"

    Patches for each word:  eclip words dog.jpg -t "a husky running in snow" --pairs

    A data set, resumable:  eclip words "train-{000..127}.tar" -t "a husky running in snow"
    """
    wanted = cli_options.parse_texts(text, texts_file)
    cli_options.check_model(model)
    options = cli_options.parse_options("--set", set_ or [], word_method(method).options)
    word_method(method).check(options)
    boxes = [_box(one) for one in box or []]
    path: dict[str, Any] = {"image_depth": image_depth, "text_depth": text_depth, "points": points}
    path = {name: value for name, value in path.items() if value is not None}
    needing = [*(["box"] if boxes else []), *path]
    if needing and not pairs:
        raise OptionError(f"--{needing[0].replace('_', '-')} requires --pairs; add --pairs.")
    asked = many.Many(
        *(None, layout, index, shard, engine, ray_address),
        *(concurrency, workers, timeout, shard_size, threads, precision),
    )
    settings: dict[str, Any] = {"model": model, "device": device, "method": method, "batch_size": batch_size}
    settings |= {"image_size": image_size, "resize": resize.value, "positions": positions.value, **options}
    if reason := asked.asks(sources):
        if pairs:
            raise OptionError(f"--pairs is for a page of each image, not for shards, which {reason} asks for: omit it.")
        settings |= {"dry_run": dry_run, "overwrite": overwrite}
        asked.run("words", sources, wanted, out, reason, as_json=as_json, **settings)
        return
    if dry_run:
        dry.tell(*dry.pictures("words", sources, wanted, out, ("html",), settings), as_json)
        return
    writer = WordsWriter(out, overwrite=overwrite)

    def work(run: loop.Run) -> None:
        from eclip.backbones.view import View
        from eclip.images import read_batches
        from eclip.render import printable
        from eclip.words.interactions import PairQuery, check_box
        from eclip.words.query import WordQuery
        from eclip.words.relevance import relevance

        query = WordQuery(wanted, model=model, device=device, view=View(image_size, resize.value, positions.value))
        by_pair = PairQuery(query, **path) if pairs else None
        for batch in read_batches(run.images, batch_size, run.failures):
            good = []
            for source, picture in batch:
                try:
                    for one in boxes:
                        check_box(one, picture.size, source)
                    good.append((source, picture))
                except OptionError as outside:
                    run.failures.append((source, str(outside)))
            if not good:
                continue
            found = relevance(query, good, method, options)
            for image, (source, picture) in enumerate(good):
                run.doing(f"explaining {Path(source).name}")
                own = by_pair.answer(picture, source) if by_pair else []
                entry = writer.add(found, image, own, boxes)
                if cli_options.talks(as_json):
                    _print(found, image, own, boxes)
                    typer.echo(printable(f"-> {writer.folder / entry['files']['page']}"))
                run.count()

    loop.over_images(sources, writer, lambda provenance: words_command(sources, wanted, provenance), work)
    loop.summarize(writer, "explained", [model], as_json)


def _print(relevance: WordRelevance, image: int, found: list[Interactions], boxes: list[Box]) -> None:
    from rich.console import Console

    from eclip import render
    from eclip.words.interactions import PAIRS

    console = Console(highlight=False)

    def show(words: Sequence[str], values: Any) -> None:
        for row in render.terminal(words, values, console.width - INDENT):
            console.print(" " * INDENT, row, sep="", no_wrap=True, overflow="ignore", crop=False)

    indent = " " * INDENT
    typer.echo(render.printable(relevance.sources[image]))
    for text, line in enumerate(relevance.texts):
        typer.echo(f"{relevance.scores[image, text]:.3f}  {render.printable(' '.join(line.split()))}")
        if found:  # two quantities that need not agree, so each has its name
            typer.echo(
                f"{indent}relevance: what each word alone does to the score, by {relevance.provenance['method']}"
            )
        show(relevance.words[text], relevance.values[text][image])
        if found:
            typer.echo(f"{indent}{PAIRS}, as in the picture")
            show(found[text].words, found[text].values.sum(axis=(1, 2)))
        for number, box in enumerate(boxes, 1):
            typer.echo(f"{indent}pairs in box {number}, {','.join(f'{side:g}' for side in box)}:")
            show(found[text].words, found[text].in_box(box))


def _box(given: str) -> Box:
    try:
        left, top, right, bottom = (float(side) for side in given.split(","))
    except ValueError:
        raise OptionError(
            f"--box must be left,top,right,bottom in pixels of the image, such as 10,20,200,180, got {given!r}."
        ) from None
    if not (0 <= left < right and 0 <= top < bottom):
        raise OptionError(f"--box must have 0 <= left < right and 0 <= top < bottom, got {given!r}.")
    return [left, top, right, bottom]
