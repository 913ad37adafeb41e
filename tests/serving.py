"""A real server of the page in a thread of the test's process."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import httpx

from eclip.web.app import create_app
from eclip.web.serve import Server, listen
from eclip.web.settings import Settings


@dataclass
class Served:
    """A running server."""

    app: Any
    address: str
    client: httpx.Client

    @property
    def state(self) -> Any:
        """What the application holds."""
        return self.app.app.app.state


@contextmanager
def served(settings: Settings, *, port: int = 0, app: Any = None) -> Iterator[Served]:
    """Serve until the end of the block; an `app` of an earlier server can be served again only if it never ran."""
    bound = listen(replace(settings, port=port))
    number = bound.getsockname()[1]
    app = create_app(replace(settings, port=number)) if app is None else app
    server = Server(app)
    thread = threading.Thread(target=lambda: server.run(sockets=[bound]), daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{number}"
    headers = {} if settings.token is None else {"Authorization": f"Bearer {settings.token}"}
    try:
        with httpx.Client(base_url=address, headers=headers, timeout=120, trust_env=False) as client:
            while not server.started and thread.is_alive():
                thread.join(0.02)
            yield Served(app, address, client)
    finally:
        server.should_exit = True
        thread.join(20)
        bound.close()
