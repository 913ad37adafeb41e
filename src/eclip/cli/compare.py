"""`eclip compare`: many methods on each image, side by side in one picture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from eclip.backbones.catalog import DEFAULT_MODEL
from eclip.cli import completion, figures, loop, options
from eclip.cli.options import Positions, Resize, Scale
from eclip.errors import ImageError, OptionError
from eclip.methods import GROUPS, METHODS, check_methods, options_for
from eclip.methods import method_names as named
from eclip.results.folder import FIGURES, FORMATS


def compare(
    sources: options.Sources,
    text: options.Texts = None,
    texts_file: options.TextsFile = None,
    like: options.Like = None,
    image_mean: options.ImageMean = None,
    methods: Annotated[
        str,
        typer.Option(
            help="fast (one forward pass), all (slow), or names joined by commas; eclip methods ls lists them.",
            autocompletion=completion.several_methods,
        ),
    ] = "fast",
    models: Annotated[
        str,
        typer.Option(help="Names joined by commas; eclip models ls lists them.", autocompletion=completion.model_names),
    ] = DEFAULT_MODEL,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="METHOD.KEY=VALUE", help="An option of a method, e.g. legrad.depth=4."),
    ] = None,
    head: options.Head = None,
    versus: options.Versus = None,
    refine: options.Refine = None,
    refine_set: options.RefineSet = None,
    scale: Annotated[
        Scale, typer.Option(help="Range of the colors: of each map, or (row) of each method over all texts.")
    ] = Scale.map,
    image_size: options.ImageSize = None,
    resize: options.Resizing = Resize.squash,
    template: options.Template = None,
    positions: options.Positioning = Positions.bicubic_aa,
    out: options.Out = Path("eclip-compare"),
    format_: Annotated[
        str,
        typer.Option(
            "--format",
            help="Any of png (picture), npz (maps), json (manifest), pdf and svg (a figure), joined by commas.",
        ),
    ] = options.FORMAT,
    overwrite: options.Overwrite = False,
    device: options.Device = "auto",
    as_json: options.AsJson = False,
    config: options.Config = None,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    width: figures.Width = None,
    theme: figures.ThemeOption = None,
    colormap: figures.Colormap = None,
    dpi: figures.Dpi = None,
) -> None:
    """Compare methods side by side: where each sees each text, and how long it takes.

    The fast methods, one picture:  eclip compare dogs.jpg -t "a dog" -t grass
    """
    wanted = options.parse_queries(text, texts_file, like, image_mean)
    method_names, model_names = options.words(methods), list(dict.fromkeys(options.words(models)))
    if not (method_names and model_names):
        raise OptionError(f"--{'models' if method_names else 'methods'} needs a name.")
    group = method_names[0] if method_names[0] in GROUPS and len(method_names) == 1 else None
    if group is None:
        check_methods(named(method_names), versus=versus is not None)
    for name in model_names:
        options.check_model(name)
    options.check_head(head, method_names, model_names)
    settings: dict[str, Any] = {
        "methods": group or method_names,
        "options": {
            name: options_for(name, [name], own) for name, own in options.options_by_method(set_ or [], METHODS).items()
        },
        "versus": options.parse_versus(versus),
        **options.parse_refinement(refine, refine_set),
        "templates": options.parse_templates(template),
    }
    formats = options.parse_formats(format_, out, (*FORMATS, *FIGURES))
    style = figures.style_of(formats, width, theme, colormap, dpi)
    from eclip.backbones.view import View  # imports torch, so after the checks
    from eclip.explanation.compare import ComparisonQuery
    from eclip.explanation.comparison import ComparisonWriter, compare_command
    from eclip.images import read_ahead
    from eclip.texts.queries import names_of

    writer = ComparisonWriter(out, formats, scale.value, overwrite=overwrite, style=style)

    def work(run: loop.Run) -> None:
        one, settings["device"] = options.parse_model(model_names[0], device, head)
        settings["models"] = [one, *model_names[1:]]
        query = ComparisonQuery(wanted, view=View(image_size, resize.value, positions.value), **settings)
        hinted = not options.talks(as_json) or group != "fast"
        for source, image in read_ahead(run.images, 1):
            if isinstance(image, ImageError):
                run.failures.append((source, str(image)))
            else:

                def show(model: str, method: str, name: str = Path(source).name) -> None:
                    seconds = query.expected(model, [method])
                    run.doing(f"{method} on {model}, {name}" + (f", about {seconds:.0f} s" if seconds else ""))

                entry = writer.add(query.answer(image, source, show))
                if not hinted:
                    _hint(sum(query.expected(model, METHODS) for model in query.queries))
                    hinted = True
                if options.talks(as_json):
                    run.show(source, entry["files"].get("picture"))
            run.count()

    def repeat(made: dict[str, Any]) -> str | None:  # none if no command can ask for these examples
        return made["command"] and compare_command(sources, names_of(wanted), made)

    loop.over_images(sources, writer, repeat, work)
    loop.summarize(writer, "compared", model_names, as_json, option="--models")


def _hint(seconds: float) -> None:
    """Say what the methods that are left out would cost."""
    slow = [name for name, method in METHODS.items() if method.kind == "perturbation"]
    names = f"{', '.join(slow[:-1])} and {slow[-1]}"
    typer.echo(
        f"{names} need hundreds of forward passes, here about {seconds:.0f} s per image: --methods all", err=True
    )
