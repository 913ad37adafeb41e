"""`eclip concepts`: what the model sees in each image, without a text."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from eclip.backbones.catalog import DEFAULT_MODEL
from eclip.cli import completion, loop, options
from eclip.cli.options import Positions, Resize
from eclip.errors import ImageError, OptionError
from eclip.methods import check_methods

if TYPE_CHECKING:
    from rich.progress import Progress
    from torch import Tensor

    from eclip.discovery.concepts import Concepts, ConceptsWriter

BAR = 24  # characters in the longest bar
EIGHTHS = " ▏▎▍▌▋▊▉█"


def concepts(
    sources: options.Sources,
    model: options.Model = DEFAULT_MODEL,
    vocabulary: Annotated[
        Path | None,
        typer.Option(
            help="A file with one word per line; # starts a comment. Default: 1,400 nouns for visible things."
        ),
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="The most concepts per image.")] = 10,
    l1: Annotated[float | None, typer.Option(help="Above 0; larger gives fewer concepts. Default: 0.25.")] = None,
    method: Annotated[
        str,
        typer.Option(help="Method for the maps; eclip methods ls lists them.", autocompletion=completion.method_names),
    ] = "maskclip",
    set_: options.MethodSet = None,
    image_mean: Annotated[
        Path | None, typer.Option(help="A .npy file with the mean feature of many images; mini includes its own.")
    ] = None,
    mean_from: Annotated[
        Path | None, typer.Option(help="Or a folder of many images to compute it from; saved as image_mean.npy.")
    ] = None,
    msae: Annotated[
        Path | None, typer.Option(help="A checkpoint of an MSAE autoencoder; its latents become the concepts.")
    ] = None,
    latents: Annotated[
        int | None, typer.Option(min=1, help="How many MSAE latents an image may use. Default: 64, or all if fewer.")
    ] = None,
    image_size: options.ImageSize = None,
    resize: options.Resizing = Resize.squash,
    template: options.Template = None,
    positions: options.Positioning = Positions.bicubic_aa,
    out: options.Out = Path("eclip-concepts"),
    format_: options.Format = options.FORMAT,
    overwrite: options.Overwrite = False,
    device: options.Device = "auto",
    batch_size: options.BatchSize = 8,
    as_json: options.AsJson = False,
    config: options.Config = None,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """List what the model sees in each image without a text, with weights, and show where.

    One image:  eclip concepts dogs.jpg
    """
    method = options.one_method(method)
    check_methods([method])
    options.check_model(model)
    if mean_from is not None and (image_mean is not None or msae is not None):
        raise OptionError("--mean-from cannot be combined with --image-mean or --msae; omit it.")
    if msae is None and latents is not None:
        raise OptionError("--latents requires --msae, a checkpoint of an autoencoder; add it or omit --latents.")
    if msae is not None and l1 is not None:
        raise OptionError("--l1 does not apply to --msae; omit it, or use --latents.")
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
    formats = options.parse_formats(format_, out)
    from eclip.discovery.concepts import ConceptsWriter, concepts_command  # imports torch, so after the checks
    from eclip.discovery.discover import concepts_each

    writer = ConceptsWriter(out, formats, overwrite=overwrite)

    def work(run: loop.Run) -> None:
        saved = ""
        if mean_from is not None:
            settings["image_mean"], saved = _mean(mean_from, settings, writer, run.bar)
        for found in concepts_each(run.images, failures=run.failures, **settings):
            run.doing("explaining")
            entry = writer.add(found)
            if saved and not options.QUIET.get():
                typer.echo(saved, err=True)
            saved = ""
            if options.talks(as_json):
                run.show(found.source, entry["files"].get("picture"))
                typer.echo(_table(found))
            run.count()

    loop.over_images(sources, writer, lambda provenance: concepts_command(sources, provenance), work)
    loop.summarize(writer, "explained", [model], as_json)


def _mean(folder: Path, settings: dict[str, Any], writer: ConceptsWriter, progress: Progress) -> tuple[Tensor, str]:
    """Compute the mean of a folder's images, after checking the other settings; and what to print once it is saved."""
    from eclip.backbones.image_mean import image_mean
    from eclip.backbones.load import load
    from eclip.discovery import splice
    from eclip.discovery.concepts import MEAN
    from eclip.images import find_images
    from eclip.render import printable
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
    return mean, printable(f"saved the mean of {len(images)} images; to reuse it: --image-mean {kept}")


def _table(found: Concepts) -> str:
    """One line per concept with its weight as a bar, and one on how well all concepts reconstruct the feature."""
    from eclip.render import printable

    width = max((len(name) for name in found.names), default=0)
    most = max(found.weights, default=1.0)
    lines = [
        f"  {name:{width}}  {weight:.3f}  {_bar(float(weight / most))}".rstrip()
        for name, weight in zip(found.names, found.weights, strict=True)
    ] or ["  no concepts; try a smaller --l1 or another vocabulary"]
    rest = "" if found.beyond_mean is None else f", {found.beyond_mean:.2f} without the image mean"
    last = f"  {found.used} of {found.available:,} concepts reconstruct the feature: cosine {found.cosine:.2f}{rest}"
    return "\n".join(printable(line) for line in (*lines, last))


def _bar(share: float) -> str:
    whole, part = divmod(round(share * BAR * 8), 8)
    return "█" * whole + EIGHTHS[part].strip()
