"""`eclip explain`: one method on many images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from eclip.backbones.catalog import DEFAULT_MODEL
from eclip.cli import completion, dry, figures, loop, many, options, tables, video
from eclip.cli import sam as sam_masks
from eclip.cli.loop import MOST_REPORTED
from eclip.cli.options import Positions, Resize
from eclip.errors import ImageError
from eclip.methods import check_methods
from eclip.results.earlier import MANIFEST
from eclip.results.folder import EXPLAIN_FORMATS

if TYPE_CHECKING:
    from eclip.explanation.explanation import Explanation


def explain(
    sources: Annotated[
        list[str],
        typer.Argument(metavar="SOURCE...", help="Images, folders, glob patterns; tars, tables, URLs; or a video."),
    ],
    text: options.Texts = None,
    texts_file: options.TextsFile = None,
    like: options.Like = None,
    image_mean: options.ImageMean = None,
    model: options.Model = DEFAULT_MODEL,
    method: Annotated[
        str | None,
        typer.Option(
            help="eclip methods ls lists them. Default: eclip with a head, else surgery, or gradcam for CNNs.",
            autocompletion=completion.method_names,
        ),
    ] = None,
    set_: options.MethodSet = None,
    head: options.Head = None,
    versus: options.Versus = None,
    refine: options.Refine = None,
    refine_set: options.RefineSet = None,
    image_size: options.ImageSize = None,
    resize: options.Resizing = Resize.squash,
    template: options.Template = None,
    positions: options.Positioning = Positions.bicubic_aa,
    out: options.Out = options.OUT,
    format_: tables.Format = options.FORMAT,
    overwrite: options.Overwrite = False,
    device: options.Device = "auto",
    batch_size: options.BatchSize = 8,
    health: Annotated[
        bool,
        typer.Option(
            "--health/--no-health",
            help=f"Warn on stderr about misleading maps; for more than {MOST_REPORTED} images, only count them.",
        ),
    ] = True,
    as_json: options.AsJson = False,
    config: options.Config = None,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    dry_run: dry.DryRun = False,
    sort: tables.SortOption = None,
    min_presence: tables.MinPresence = None,
    top: tables.Top = None,
    max_side: tables.MaxSide = None,
    width: figures.Width = None,
    theme: figures.ThemeOption = None,
    colormap: figures.Colormap = None,
    dpi: figures.Dpi = None,
    columns: figures.Columns = None,
    sam: sam_masks.SamOption = None,
    fps: video.Fps = None,
    smooth: video.Smooth = None,
    write: many.Write = None,
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
    """Show which part of each image matches each text.

    One image, two texts:  eclip explain dogs.jpg -t "a dog" -t grass

    A table of a folder:  eclip explain images/ -t "a dog" --format csv --sort score

    A data set, resumable:  eclip explain "train-{000..127}.tar" -t "a dog" --write maps,boxes

    A film of a video:  eclip explain clip.mp4 -t "a dog" --smooth 0.2
    """
    wanted = options.parse_queries(text, texts_file, like, image_mean)
    options.check_model(model)
    method = options.default_method(model, head) if method is None else options.one_method(method)
    check_methods([method], versus=versus is not None)
    options.check_head(head, [method], [model])
    settings: dict[str, Any] = {
        "model": model,
        "device": device,
        "method": method,
        "versus": options.parse_versus(versus),
        **options.parse_refinement(refine, refine_set),
        "image_size": image_size,
        "resize": resize.value,
        "templates": options.parse_templates(template),
        "positions": positions.value,
        "batch_size": batch_size,
        "health": health,
        **options.method_options(set_ or [], method),
    }
    typed = format_
    format_, write, index = tables.with_parquet(format_, write, index)
    formats = options.parse_formats(format_, out, EXPLAIN_FORMATS)
    style = figures.style_of(formats, width, theme, colormap, dpi, columns)
    asked = many.Many(
        *(write, layout, index, shard, engine, ray_address),
        *(concurrency, workers, timeout, shard_size, threads, precision),
    )
    others = {"sam": sam, "sort": sort, "min-presence": min_presence, "top": top, "max-side": max_side}
    others |= {"format": typed != options.FORMAT, "dry-run": dry_run, **vars(asked)}
    if (film := video.check_video(sources, fps, smooth, others)) is not None:
        settings |= {"fps": fps, "smooth": smooth, "head": head}
        video.run(film, wanted, out, overwrite=overwrite, as_json=as_json, **settings)
        return
    reason = asked.reason(sources, format_, out) if typed == format_ else f"--format {typed}"
    sam_masks.check_sam(sam, formats, reason, as_json=as_json)
    if reason:
        tables.check_no_shards(reason, sort, min_presence, top)
        settings |= {"head": head, "max_side": max_side, "dry_run": dry_run, "overwrite": overwrite}
        asked.run("explain", sources, wanted, out, reason, as_json=as_json, **settings)
        return
    tables.check_pictures(formats, max_side)
    presence = health and versus is None and any(isinstance(one, str) for one in wanted)
    kept = tables.check_selection(formats, sort, min_presence, top, presence=presence)
    if dry_run:
        dry.tell(*dry.pictures("explain", sources, wanted, out, formats, settings), as_json)
        return
    from eclip.backbones.sam import load_sam
    from eclip.explanation.explain import explain_each  # imports torch, so after the checks
    from eclip.explanation.folder import ExplanationWriter, explain_command
    from eclip.explanation.rows import Selection
    from eclip.texts.queries import names_of

    more: dict[str, Any] = {"selection": Selection(**kept), "max_side": max_side, "style": style}
    writer = ExplanationWriter(out, formats, overwrite=overwrite, entries=as_json, **more)

    def work(run: loop.Run) -> None:
        several = len(run.images) > MOST_REPORTED
        if sam is not None:
            load_sam(sam, device)  # before any image, so that what is wrong with it is said at once
        settings["model"], settings["device"] = options.parse_model(model, device, head)
        try:
            for explanation in explain_each(run.images, wanted, failures=run.failures, **settings):
                run.doing("explaining")
                try:
                    masks = None if sam is None else explanation.sam(sam, device=device)
                except ImageError as error:
                    run.failures.append((explanation.sources[0], f"{explanation.sources[0]}: {error}"))
                    continue
                [entry] = writer.add(explanation, masks)
                if options.talks(as_json):
                    _print_scores(run, explanation, entry, warn=not several)
                run.count()
        finally:
            if several and options.talks(as_json) and (warned := writer.warned):
                place = f"; {MANIFEST} lists them" if "json" in formats else ""
                typer.echo(f"{warned} of {len(writer.manifest['images'])} images have health warnings{place}", err=True)

    def repeat(made: dict[str, Any]) -> str | None:  # none if no command can ask for these examples
        return made["command"] and explain_command(sources, names_of(wanted), made)

    loop.over_images(sources, writer, repeat, work)
    if options.talks(as_json):
        for name in writer.manifest.get("exports", {}).values():
            typer.echo(f"{writer.folder / name}", err=True)
    loop.summarize(writer, "explained", [model], as_json)


def _print_scores(run: loop.Run, explanation: Explanation, entry: dict[str, Any], *, warn: bool) -> None:
    from eclip.render import printable

    sign = "+" if explanation.provenance["versus"] is not None else ""  # a difference, so with its sign
    scores = "  ".join(
        f"{explanation.label(text)} {explanation.scores[0, text]:{sign}.3f}" for text in explanation.best_texts()
    )
    run.show(f"{explanation.sources[0]}: {scores}", entry["files"].get("strip"))
    for line in sam_masks.lines_of(entry["sam"]) if warn and "sam" in entry else ():
        typer.echo(f"  {printable(line)}")
    for line in explanation.health.summary() if warn and explanation.health is not None else []:
        typer.echo(f"  {printable(line)}", err=True)
