"""Run the server until Ctrl-C."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from dataclasses import replace
from urllib.parse import quote

import uvicorn
from starlette.types import ASGIApp

from eclip.errors import OptionError
from eclip.web.app import create_app
from eclip.web.settings import Settings, check_address

GRACE = 3
"""Seconds that open requests get when the server closes."""
LONGEST_QUEUE, CALLERS = 128, 1024
"""Connections that wait to be accepted, and those that are open at once."""


def serve(settings: Settings, on_ready: Callable[[str], None]) -> None:
    """Serve the page until the process is interrupted.

    Args:
        settings: what and where.
        on_ready: called with the address of the page as soon as it can be opened.

    Raises:
        OptionError: the address cannot be used, or is not only for this machine and there is no token.
        EclipError: a model or the gallery cannot be loaded.
    """
    check_address(settings)
    bound = listen(settings)
    with bound:
        port = bound.getsockname()[1]
        app = create_app(replace(settings, port=port))
        Server(app, lambda: on_ready(address_of(settings, port))).run(sockets=[bound])


class Server(uvicorn.Server):
    """Uvicorn with our settings, which calls `on_ready` when it answers."""

    def __init__(self, app: ASGIApp, on_ready: Callable[[], None] = lambda: None) -> None:
        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=GRACE,
            limit_concurrency=CALLERS,
            backlog=LONGEST_QUEUE,
        )
        super().__init__(config)
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and say so."""
        await super().startup(sockets)
        if self.started:
            self._on_ready()


def listen(settings: Settings) -> socket.socket:
    """A socket that listens at the address.

    Raises:
        OptionError: it is in use or not an address of this machine.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((settings.host, settings.port))
        bound.listen(LONGEST_QUEUE)
    except OSError as error:
        bound.close()
        where, reason = f"{settings.host} port {settings.port}", error.strerror or str(error)
        is_host = isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL
        advice = "Check --host." if is_host else "Choose another --port, or --port 0 for any free one."
        raise OptionError(f"cannot listen on {where}: {reason}. {advice}") from None
    return bound


def address_of(settings: Settings, port: int) -> str:
    """The address to open, with the token behind the #, where it is not sent to anyone."""
    host = {"0.0.0.0": socket.gethostname(), "::": socket.gethostname()}.get(settings.host, settings.host)
    host = f"[{host}]" if ":" in host else host
    end = "" if settings.token is None else f"#token={quote(settings.token, safe='')}"
    return f"http://{host}:{port}/{end}"
