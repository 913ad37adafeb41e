"""`eclip models ls`, the same for methods, guides, refinements and protocols, what they are, and `eclip doctor`."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from eclip.backbones.catalog import HF_CLASSES, architectures, tags, tower_of
from eclip.cli import completion
from eclip.evaluation.protocols import PROTOCOLS
from eclip.guides import GUIDES
from eclip.methods import BETWEEN_TEXTS, METHODS, Method
from eclip.refinements import REFINEMENTS
from eclip.registry import Entry, description, entry_of

models_app = typer.Typer(help="List models.", no_args_is_help=True)
methods_app = typer.Typer(help="List explanation methods and describe them.", no_args_is_help=True)
guides_app = typer.Typer(help="List and describe guides, label-free maps for training a head.", no_args_is_help=True)
refinements_app = typer.Typer(help="List and describe refinements, which follow a method.", no_args_is_help=True)
protocols_app = typer.Typer(help="List evaluation protocols.", no_args_is_help=True)

UNBROKEN = ("model", "method", "kind", "guide", "refinement", "maps", "protocol", "task", "dataset")
"""Columns whose words are not wrapped."""
RECOMMENDED = ("ViT-B-16/openai", "ViT-B-32/openai", "ViT-L-14/openai", "RN50/openai", "ViT-B-16-SigLIP/webli")


@models_app.command("ls")
def models_ls(
    every: Annotated[bool, typer.Option("--all", help="List every open_clip architecture with its tags.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List models with the kind of their image tower."""
    rows = [{"model": "mini", "family": "timm trunk with attention pool", "weights": "in the package"}]
    for name, config in architectures().items() if every else ():
        weights = " ".join(tags().get(name, []))
        family, reason = tower_of(config)
        rows.append({"model": name, "family": family or f"no adapter: {reason}", "weights": weights})
    for kind, name in HF_CLASSES.items() if every else ():
        weights = f"hf:ORG/NAME or hf:./FOLDER of model_type {kind}"
        rows.append({"model": name, "family": f"transformers {name}", "weights": weights})
    for name in () if every else RECOMMENDED:
        family, _ = tower_of(architectures()[name.partition("/")[0]])
        rows.append({"model": name, "family": family or "", "weights": "downloaded once"})
    print_table(rows, as_json)
    if not as_json:
        typer.echo(
            "also: hf:ORG/NAME and hf:./FOLDER for transformers; hf-hub:ORG/NAME, local-dir:PATH and "
            "ARCH+CHECKPOINT_FILE for open_clip" + ("" if every else "; --all lists every architecture"),
            err=True,
        )


@methods_app.command("ls")
def methods_ls(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List explanation methods with a summary and source."""
    rows = [{"method": one.name, "kind": one.kind, "what": one.summary} for one in METHODS.values()]
    print_table(rows, as_json)


@methods_app.command("show")
def methods_show(
    name: Annotated[str, typer.Argument(help="A method; eclip methods ls.", autocompletion=completion.method_names)],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Describe a method: formula, source, options, cost."""
    one = entry_of(name, METHODS, "method", "`eclip methods ls`")
    show(one, {"kind": one.kind, "cost": _cost(one), "maps": _maps(one)}, as_json)


def _cost(method: Method) -> str:
    if method.kind == "perturbation":
        return "hundreds of forward passes an image"
    blocks = "all blocks" if method.keep is None else f"the last {method.keep} blocks" if method.keep > 1 else ""
    return "one forward pass" + (f", and a part of {blocks} again" if blocks else ", and little more")


def _maps(method: Method) -> str:
    parts = ["signed around zero" if method.signed else "from the smallest to the largest value"]
    parts.append("comparable between texts" if method.kind in BETWEEN_TEXTS else "not comparable between texts")
    parts.append("not for --versus" if method.versus is None else "also for --versus")
    return "; ".join(parts)


@guides_app.command("show")
def guides_show(
    name: Annotated[str, typer.Argument(help="A guide; eclip guides ls.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Describe a guide: formula, source, options."""
    show(entry_of(name, GUIDES, "guide", "`eclip guides ls`"), {}, as_json)


@refinements_app.command("show")
def refinements_show(
    name: Annotated[str, typer.Argument(help="A refinement.", autocompletion=completion.refinements)],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Describe a refinement: formula, source, options."""
    one = entry_of(name, REFINEMENTS, "refinement", "`eclip refinements ls`")
    show(one, {"maps": "pixels" if one.finer else "patches"}, as_json)


def show(one: Entry[Any], facts: dict[str, str], as_json: bool) -> None:
    """Print what the entry's function says of itself: its formula, its source and its options."""
    said = description(one)
    if as_json:
        defaults = one.options
        listed = [{"option": key, "default": defaults[key], "what": what} for key, what in said.options.items()]
        row = {"name": one.name, "summary": one.summary, **facts, "formula": said.formula, "source": said.source}
        typer.echo(json.dumps({**row, "options": listed}, ensure_ascii=False))
        return
    typer.echo(f"{one.name}: {one.summary}\n\n{said.formula}\n")
    for key, fact in facts.items():
        typer.echo(f"{key}: {fact}")
    if facts:
        typer.echo()
    if said.options:
        typer.echo("options:")
    for key, default in one.options.items():
        typer.echo(f"  {key}={json.dumps(default)}  {said.options[key]}")
    typer.echo(("\n" if said.options else "") + said.source)


@guides_app.command("ls")
def guides_ls(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List guides with a summary."""
    print_table([{"guide": one.name, "what": one.summary} for one in GUIDES.values()], as_json)


@refinements_app.command("ls")
def refinements_ls(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List refinements with a summary and the resolution of their maps."""
    rows = [
        {"refinement": one.name, "maps": "pixels" if one.finer else "patches", "what": one.summary}
        for one in REFINEMENTS.values()
    ]
    print_table(rows, as_json)


@protocols_app.command("ls")
def protocols_ls(as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with every rule.")] = False) -> None:
    """List evaluation protocols with their task and source."""
    rows = [{"protocol": one.name, "task": one.task, "what": one.summary} for one in PROTOCOLS.values()]
    print_table(rows, as_json, [one.plain() for one in PROTOCOLS.values()])


def print_table(rows: list[dict[str, str]], as_json: bool, full: list[dict[str, Any]] | None = None) -> None:
    """Print rows with the same keys to stdout, as a table or as JSON; or as JSON what is more than fits a table."""
    if as_json:
        typer.echo(json.dumps(rows if full is None else full, ensure_ascii=False))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for key in rows[0]:
        table.add_column(key, overflow="fold", no_wrap=key in UNBROKEN)
    for row in rows:
        table.add_row(*row.values())
    Console(markup=False, emoji=False).print(table)  # brackets and colons in a cell are meant literally


def doctor(
    model: Annotated[str | None, typer.Argument(help="Also check this model, such as hf:ORG/NAME.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check the installation: versions, whether torch and torchvision match, devices, cached weights, next steps."""
    from eclip.cli.doctor import examine

    findings = examine(model)
    rows = [{"what": f.what, "is": f.found, "": "ok" if f.fine else "!", "next": f.advice} for f in findings]
    print_table(rows, as_json)
    if not all(finding.fine for finding in findings):
        raise typer.Exit(1)
