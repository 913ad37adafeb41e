"""`eclip models ls`, the same for methods, guides, refinements and protocols, and `eclip doctor`."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from eclip.backbones.catalog import HF_CLASSES, architectures, tags, tower_of
from eclip.evaluation.protocols import PROTOCOLS
from eclip.guides import GUIDES
from eclip.methods import METHODS
from eclip.refinements import REFINEMENTS

models_app = typer.Typer(help="List models.", no_args_is_help=True)
methods_app = typer.Typer(help="List explanation methods.", no_args_is_help=True)
guides_app = typer.Typer(help="List guides, label-free maps for training a head.", no_args_is_help=True)
refinements_app = typer.Typer(help="List refinements, which follow a method.", no_args_is_help=True)
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
