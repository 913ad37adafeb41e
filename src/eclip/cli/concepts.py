"""`eclip concepts`: what the model sees in each image without being asked."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from eclip.backbones.catalog import DEFAULT_MODEL
from eclip.cli import options
from eclip.cli.errors import report_errors
from eclip.cli.options import Positions, Resize
from eclip.errors import ImageError, OptionError
from eclip.methods import check_methods

if TYPE_CHECKING:
    from rich.progress import Progress

    from eclip.discovery.concepts import Concepts, ConceptsWriter

BAR = 24  # letters of the longest bar
EIGHTHS = " ▏▎▍▌▋▊▉█"


def concepts(
    sources: options.Sources,
    model: Annotated[str, typer.Option("--model", "-m", help="eclip models ls shows them.")] = DEFAULT_MODEL,
    vocabulary: Annotated[
        Path | None, typer.Option(help="A file with one word a line; 1,400 nouns for what can be seen if left out.")
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="At most so many concepts an image.")] = 10,
    l1: Annotated[float | None, typer.Option(help="Above 0, 0.25 if left out; more makes fewer concepts.")] = None,
    method: Annotated[str, typer.Option(help="Of the maps; eclip methods ls shows them.")] = "maskclip",
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="An option of the method, e.g. depth=4.")
    ] = None,
    image_mean: Annotated[
        Path | None, typer.Option(help="A .npy file, the mean of the features of many images; mini brings its own.")
    ] = None,
    mean_from: Annotated[
        Path | None, typer.Option(help="Or a folder of many images to take it of; it is kept as image_mean.npy.")
    ] = None,
    msae: Annotated[
        Path | None, typer.Option(help="A checkpoint of an MSAE autoencoder, whose latents are then the concepts.")
    ] = None,
    latents: Annotated[
        int | None, typer.Option(min=1, help="How many latents of it an image may use, 64 if left out.")
    ] = None,
    image_size: options.ImageSize = None,
    resize: options.Resizing = Resize.squash,
    template: options.Template = None,
    positions: options.Positioning = Positions.bicubic_aa,
    out: options.Out = Path("eclip-concepts"),
    format_: options.Format = options.FORMAT,
    overwrite: options.Overwrite = False,
    device: options.Device = "auto",
    batch_size: Annotated[int, typer.Option(min=1, help="Images in one forward pass.")] = 8,
    as_json: options.AsJson = False,
) -> None:
    """Name what the model sees in each image without being asked, how much of it, and where.

    One image:  eclip concepts dogs.jpg
    """
    with report_errors():
        method = options.one_method(method)
        check_methods([method])
        options.check_model(model)
        if mean_from is not None and (image_mean is not None or msae is not None):
            raise OptionError("--mean-from goes with neither --image-mean nor --msae: leave it out.")
        if msae is None and latents is not None:
            raise OptionError("--latents goes with --msae, a checkpoint of an autoencoder: leave it out.")
        if msae is not None and l1 is not None:
            raise OptionError("--l1 goes with words, not with --msae: leave it out, or give --latents.")
        settings: dict[str, Any] = {
            "model": model,
            "vocabulary": vocabulary,
            "count": count,
            "l1": l1,
            "method": method,
            "image_mean": image_mean,
            "msae": msae,
            "latents": latents,
            "image_size": image_size,
            "resize": resize.value,
            "templates": options.parse_templates(template),
            "positions": positions.value,
            "device": device,
            "batch_size": batch_size,
            **options.method_options(set_ or [], method),
        }
        formats = options.given_formats(format_, out)
        from eclip.discovery.concepts import ConceptsWriter, concepts_command  # torch with it, so after the checks
        from eclip.discovery.discover import concepts_each

        writer = ConceptsWriter(out, formats, overwrite=overwrite)

        def work(run: options.Run) -> None:
            if mean_from is not None:
                settings["image_mean"] = _mean(mean_from, settings, writer, run.bar)
            for found in concepts_each(run.images, failures=run.failures, **settings):
                run.doing("naming")
                entry = writer.add(found)
                if not as_json:
                    picture = entry["files"].get("picture")
                    typer.echo(found.source + (f"  -> {writer.folder / picture}" if picture else ""))
                    typer.echo(_table(found))
                run.count()

        options.over_images(sources, writer, lambda provenance: concepts_command(sources, provenance), work)
        options.summarize(writer, "named", [model], as_json)


def _mean(folder: Path, settings: dict[str, Any], writer: ConceptsWriter, progress: Progress) -> Path:
    """Take the mean of a folder's images, and keep it among the results; whatever else is asked is checked first."""
    from eclip.backbones.load import load
    from eclip.discovery import splice
    from eclip.discovery.concepts import MEAN
    from eclip.discovery.image_mean import image_mean
    from eclip.images import find_images
    from eclip.texts.vocabulary import words_of

    writer.check_free(MEAN)
    splice.require_lasso(splice.L1 if settings["l1"] is None else settings["l1"])
    words_of(settings["vocabulary"])
    images, problems = find_images([folder], writer.folder)
    if problems:
        raise ImageError(problems[0][1])
    backbone = load(settings["model"], device=settings["device"])
    view = {key: settings[key] for key in ("image_size", "resize", "positions")}
    mean = image_mean(progress.track(images, description="mean of images"), backbone, **view)
    kept = writer.keep_mean(mean.cpu().numpy())
    typer.echo(f"the mean of {len(images)} images is kept: next time --image-mean {kept}", err=True)
    return kept


def _table(found: Concepts) -> str:
    """One line a concept with its weight as a bar, and one on how well all of them make up the feature."""
    width = max((len(name) for name in found.names), default=0)
    most = max(found.weights, default=1.0)
    lines = [
        f"  {name:{width}}  {weight:.3f}  {_bar(float(weight / most))}".rstrip()
        for name, weight in zip(found.names, found.weights, strict=True)
    ]
    if not lines:
        lines = ["  no concept: try a smaller --l1, or another vocabulary"]
    rest = "" if found.beyond_mean is None else f", {found.beyond_mean:.2f} beyond what all images share"
    return "\n".join(
        [*lines, f"  {found.used} of {found.available:,} concepts make up the feature: cosine {found.cosine:.2f}{rest}"]
    )


def _bar(share: float) -> str:
    whole, part = divmod(round(share * BAR * 8), 8)
    return "█" * whole + EIGHTHS[part].strip()
