"""`eclip segment`: one class per pixel, from class names."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import typer

from eclip.backbones.catalog import DEFAULT_MODEL
from eclip.cli import completion, dry, loop, many, options
from eclip.cli.loop import MOST_REPORTED
from eclip.cli.options import Positions, Resize
from eclip.errors import OptionError, TextError
from eclip.methods import DEFAULT_WITH_HEAD, check_between_texts
from eclip.segmentation.classes import class_words
from eclip.segmentation.windows import check_windows


def segment(
    sources: Annotated[
        list[str],
        typer.Argument(metavar="SOURCE...", help="Images, folders, glob patterns; also tars, tables and URLs."),
    ],
    class_: Annotated[
        list[str] | None,
        typer.Option("--class", "-c", help='A class, with synonyms after commas ("person, man, woman"); repeatable.'),
    ] = None,
    classes: Annotated[Path | None, typer.Option(help="A file with one class per line, synonyms after commas.")] = None,
    like: options.Like = None,
    image_mean: options.ImageMean = None,
    background: Annotated[
        str | None, typer.Option(help='Words for the background, joined by commas: "sky, wall, grass".')
    ] = None,
    model: options.Model = DEFAULT_MODEL,
    method: Annotated[
        str | None,
        typer.Option(
            help="Default: eclip if the model has a head; else maskclip for attention pools, or naclip.",
            autocompletion=completion.method_names,
        ),
    ] = None,
    set_: options.MethodSet = None,
    head: options.Head = None,
    refine: options.Refine = None,
    refine_set: options.RefineSet = None,
    prob_threshold: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Pixels whose class has a smaller share of the softmax become background."),
    ] = None,
    area_threshold: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Classes with at most this share of the non-background pixels are removed."),
    ] = None,
    scale: Annotated[
        float,
        typer.Option(
            "--logit-scale", min=1e-3, max=1e6, help="Factor of the maps in the softmax, see --prob-threshold."
        ),
    ] = 40,
    window: Annotated[
        int | None, typer.Option(min=1, help="Side of sliding windows in pixels. Default: the whole image at once.")
    ] = None,
    stride: Annotated[int | None, typer.Option(min=1, help="Step between windows. Default: half a window.")] = None,
    image_size: Annotated[
        int | None,
        typer.Option(
            min=1, help="Input side in pixels; with --window, the image's shorter side. Default: the model's own."
        ),
    ] = None,
    resize: options.Resizing = Resize.squash,
    template: Annotated[
        list[str] | None,
        typer.Option(help="none, single, surgery85, or a sentence with {}; repeatable. Default: imagenet80."),
    ] = None,
    positions: options.Positioning = Positions.bicubic_aa,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for label maps, pictures, coco.json and manifest.json.")
    ] = Path("eclip-segment"),
    format_: options.Format = options.FORMAT,
    instances: Annotated[
        bool, typer.Option("--instances", help="In coco.json, write one mask per connected region, not per class.")
    ] = False,
    overwrite: options.Overwrite = False,
    device: options.Device = "auto",
    batch_size: Annotated[int, typer.Option(min=1, help="Images or windows in one forward pass.")] = 8,
    health: Annotated[
        bool, typer.Option("--health/--no-health", help="Warn of classes that are probably not in the image.")
    ] = True,
    as_json: options.AsJson = False,
    config: options.Config = None,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    dry_run: dry.DryRun = False,
    write: many.WriteLabels = None,
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
    """Assign each pixel of each image to one of your classes.

    Two classes:  eclip segment dogs.jpg -c dog -c "person, man, woman" --background "grass, sky, wall"

    A data set, resumable:  eclip segment "train-{000..127}.tar" --classes classes.txt --write labels,masks
    """
    lines = options.lines_of(classes, "classes")
    if numbered := next((line for line in lines if re.match(r"\d+\t", line)), None):
        raise OptionError(
            f"{classes} has a number and a tab in {numbered!r}, like the classes.txt of a data set, but must have "
            f"names only. `cut -f2 {classes}` prints them."
        )
    wanted: list[Any] = [*(class_ or []), *lines, *options.parse_likes(like, image_mean)]
    if not wanted:
        raise TextError('no class was given. Add -c dog -c "person, man, woman", --classes FILE or --like FILE.')
    class_words(wanted, background or (), thresholded=prob_threshold is not None)
    options.check_model(model)
    if method is not None:
        method = options.one_method(method)
        check_between_texts(method)
    elif set_:
        raise OptionError("--set requires --method; add the method whose option it is.")
    options.check_head(head, [method or DEFAULT_WITH_HEAD], [model])
    check_windows(window, stride, image_size)
    settings: dict[str, Any] = {
        "model": model,
        "device": device,
        "method": method,
        "background": background or (),
        **options.parse_refinement(refine, refine_set),
        "prob_threshold": prob_threshold,
        "area_threshold": area_threshold,
        "scale": scale,
        "window": window,
        "stride": stride,
        "image_size": image_size,
        "resize": resize.value,
        "templates": options.parse_templates(template, "imagenet80"),
        "positions": positions.value,
        "batch_size": batch_size,
        "health": health,
    }
    if method is not None:
        settings |= options.method_options(set_ or [], method)
    formats = options.parse_formats(format_, out)
    asked = many.Many(
        *(write, layout, index, shard, engine, ray_address),
        *(concurrency, workers, timeout, shard_size, threads, precision),
    )
    reason = asked.reason(sources, format_, out)
    if reason and not (instances and reason == many.many_images()):
        if instances:
            raise OptionError(
                f"--instances is for coco.json, not for shards, which {reason} asks for: omit it. --write masks,boxes "
                "writes a mask for each class and a box for each connected region."
            )
        settings |= {"head": head, "dry_run": dry_run, "overwrite": overwrite}
        asked.run("segment", sources, wanted, out, reason, as_json=as_json, **settings)
        return
    if dry_run:
        dry.tell(*dry.pictures("segment", sources, wanted, out, formats, settings), as_json)
        return
    from eclip.render import printable
    from eclip.segmentation.segment import segment_each  # imports torch, so after the checks
    from eclip.segmentation.segmentation import SegmentWriter, segment_command

    writer = SegmentWriter(out, formats, instances=instances, overwrite=overwrite)

    def work(run: loop.Run) -> None:
        settings["model"], settings["device"] = options.parse_model(model, device, head)
        for segmentation in segment_each(run.images, wanted, failures=run.failures, **settings):
            run.doing("segmenting")
            entry = writer.add(segmentation)
            if options.talks(as_json):
                areas = "  ".join(f"{name} {100 * area:.1f} %" for name, area in segmentation.areas().items())
                run.show(f"{segmentation.sources[0]}: {areas}", entry["files"].get("picture"))
                doubts = segmentation.doubts() if len(run.images) <= MOST_REPORTED else {}
                for doubt in dict.fromkeys(doubts.values()):
                    names = ", ".join(name for name, own in doubts.items() if own == doubt)
                    typer.echo(f"  {printable(names)}: {doubt}", err=True)
            run.count()

    def repeat(made: dict[str, Any]) -> str | None:  # none if no command can ask for these examples
        return made["command"] and segment_command(sources, made)

    loop.over_images(sources, writer, repeat, work)
    loop.summarize(writer, "segmented", [model], as_json)
