"""What is served, where, and within which limits."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from pathlib import Path

from eclip.backbones.catalog import DEFAULT_MODEL
from eclip.errors import OptionError

LOOPBACK = ("127.0.0.1", "localhost", "::1")
NAME = re.compile(r"[A-Za-z0-9_.-]+")
DEFAULT_HOST, DEFAULT_PORT = "127.0.0.1", 7860


@dataclass(frozen=True)
class Limits:
    """How much callers may ask for.

    Attributes:
        file_bytes: size of an uploaded file.
        pixels: of an uploaded image, checked before it is decoded.
        images: in one request.
        texts: in one request.
        letters: in one text.
        memory: bytes of images and their encodings that are held at once.
        idle: seconds after which an image that nobody asks about is forgotten.
        waiting: requests that may wait for the model.
        seconds: that one request may wait and run.
        view: longer side in pixels of the image that the page draws on.
    """

    file_bytes: int = 32 << 20
    pixels: int = 40_000_000
    images: int = 16
    texts: int = 64
    letters: int = 1000
    memory: int = 512 << 20
    idle: float = 1800.0
    waiting: int = 64
    seconds: float = 120.0
    view: int = 800


@dataclass(frozen=True)
class Settings:
    """What `eclip serve` was started with.

    Attributes:
        models: names for `eclip.load`; callers can choose among these only. The first is the default.
        device: of all models.
        head: for the only model: a folder written by `eclip train`.
        host: address to listen on.
        port: 0 = any free one.
        token: what callers must send; None = nothing, on this machine only.
        hosts: further names under which browsers may reach the server.
        gallery: a folder whose images are shown; uploads are then refused.
        limits: see `Limits`.
    """

    models: tuple[str, ...] = (DEFAULT_MODEL,)
    device: str | None = None
    head: str | None = None
    host: str = DEFAULT_HOST
    port: int = DEFAULT_PORT
    token: str | None = None
    hosts: tuple[str, ...] = ()
    gallery: Path | None = None
    limits: Limits = field(default_factory=Limits)


def check_address(settings: Settings) -> None:
    """Check that other machines cannot use the server without a token, and that those who may use it can.

    Raises:
        OptionError: they could, or could not.
    """
    if settings.host not in LOOPBACK and not settings.token:
        raise OptionError(
            f"--host {settings.host} lets other machines use this server, so it needs --token SECRET; `--token auto` "
            "makes one."
        )
    if settings.token is not None and not re.fullmatch("[!-~][ -~]{6,}[!-~]", settings.token):
        raise OptionError(
            "--token must have at least 8 characters, which browsers can send: ASCII, without a space at its ends; "
            "`auto` makes one."
        )
    for name in settings.hosts:
        if not (NAME.fullmatch(name) or is_address(name.strip("[]"))):
            raise OptionError(
                f"--allow-host takes a name without scheme, port and *, such as demo.example.org, got {name!r}."
            )


def is_address(host: str) -> bool:
    """Whether it is an IP address; those cannot be made to point elsewhere."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
