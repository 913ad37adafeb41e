"""`eclip serve`: the page in the browser, and its API."""

from __future__ import annotations

import importlib.util
import secrets
import sys
import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from eclip.backbones.catalog import DEFAULT_MODEL
from eclip.cli import completion, options
from eclip.errors import MissingExtraError, OptionError
from eclip.web.settings import DEFAULT_HOST, DEFAULT_PORT, Limits, Settings, check_address

NEEDED = {
    "fastapi": "fastapi",
    "uvicorn": "uvicorn",
    "multipart": "python-multipart",
    "prometheus_client": "prometheus-client",
}


def serve(
    models: Annotated[
        str,
        typer.Option(
            help="Models to offer, joined by commas; the first is the default.", autocompletion=completion.model_names
        ),
    ] = DEFAULT_MODEL,
    head: options.Head = None,
    device: options.Device = "auto",
    host: Annotated[
        str, typer.Option(help="Address to listen on; any but this machine's own needs --token.")
    ] = DEFAULT_HOST,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 = any free one.")] = DEFAULT_PORT,
    token: Annotated[str | None, typer.Option(help="What callers must send; auto makes one.")] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A further name of this server, as behind a proxy; repeatable."),
    ] = None,
    read_only_gallery: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Show the images of a folder, and take no uploads.")
    ] = None,
    memory: Annotated[int, typer.Option(metavar="MIB", min=16, help="Memory for images.")] = 512,
    idle: Annotated[float, typer.Option(metavar="MINUTES", min=0.1, help="Forget images after this time.")] = 30,
    open_: Annotated[
        bool, typer.Option("--open/--no-open", help="Open the page in the browser, if there is a terminal.")
    ] = True,
    config: options.Config = None,
    quiet: options.Quiet = False,
) -> None:
    """Open a page in the browser: drop an image, type words, and see what the model looks at.

    On this machine:  eclip serve

    For others in the network:  eclip serve --host 0.0.0.0 --token auto
    """
    names = list(dict.fromkeys(options.words(models))) or [DEFAULT_MODEL]
    for name in names:
        options.check_model(name)
    options.check_head(head, ["eclip"], names)
    missing = [package for module, package in NEEDED.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise MissingExtraError("eclip serve", missing[0], "web")
    if read_only_gallery is not None and not read_only_gallery.is_dir():
        raise OptionError(f"--read-only-gallery needs a folder, got {str(read_only_gallery)!r}.")
    settings = Settings(
        models=tuple(names),
        device=device,
        head=head,
        host=host,
        port=port,
        token=secrets.token_urlsafe(16) if token == "auto" else token,
        hosts=tuple(allow_host or ()),
        gallery=read_only_gallery,
        limits=Limits(memory=memory << 20, idle=60 * idle),
    )
    check_address(settings)
    from eclip.web.serve import serve as run  # imports torch, so after the checks

    if not options.QUIET.get():
        typer.echo(f"loading {', '.join(names)} ...", err=True)

    def ready(address: str) -> None:
        typer.echo(f"the page is at {address}")
        if not options.QUIET.get():
            typer.echo("Ctrl-C stops it.", err=True)
        if open_ and sys.stdout.isatty():
            webbrowser.open(address)

    try:
        run(settings, ready)
    except KeyboardInterrupt:
        typer.echo("stopped.", err=True)
