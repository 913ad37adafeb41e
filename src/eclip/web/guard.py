"""Guard: the first to see a request and the last to see an answer.

It refuses other hosts (a page elsewhere could let its name point here: DNS rebinding), requests that other pages send,
callers without the token, and bodies that are too large or too slow; and it adds the headers of every answer.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import secrets
import socket
from contextlib import suppress
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from eclip.web.refusals import Refusal
from eclip.web.settings import LOOPBACK, Settings, is_address

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}
PRIVATE = ("/api/", "/metrics", "/openapi.json")
"""Addresses that need the token; the page itself holds nothing."""
EXTRA = 1 << 20
"""Bytes of a request beside its file."""
PATIENCE = 30.0
"""Seconds between two parts of a body."""
DRAINED, DRAIN_SECONDS = 4, 2.0
"""How much of a refused body is read, in multiples of the largest one, and how long each part may take."""
log = logging.getLogger("eclip")


class Guard:
    """An ASGI application around another one."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app, self.settings = app, settings
        names = {*LOOPBACK, settings.host, *settings.hosts}
        if settings.host not in LOOPBACK:
            names.add(socket.gethostname())
        self.proxied = {name.lower() for name in settings.hosts}
        self.names = {name.lower().strip("[]") for name in names}
        self.most = settings.limits.file_bytes + EXTRA

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or let the application answer it."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            return  # a server refuses a WebSocket that nobody accepts
        started, replaced, denied = False, False, list[Refusal]()

        async def answer(message: Message) -> None:
            nonlocal started, replaced
            if denied:  # the application takes any error while reading a body for a malformed one
                replaced = True
                refusal = denied.pop()
                await self._drain(receive)
                await _refuse(plain, refusal)
            elif not replaced:
                started = True
                await plain(message)

        async def plain(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", []), *_encoded(HEADERS)]}
                if scope["path"].startswith("/api/"):
                    message["headers"].append((b"cache-control", b"no-store"))
            await send(message)

        try:
            self._check(scope)
            await self.app(scope, self._bounded(receive, denied), answer)
        except Refusal as refusal:
            assert not started, "refusals come before answers"
            await self._drain(receive)
            await _refuse(plain, refusal)
        except Exception as error:
            if not (started or replaced):  # else the application has answered and logged
                await _refuse(plain, bug(error, scope))

    def _check(self, scope: Scope) -> None:
        """Check host, origin, token and size.

        Raises:
            Refusal: one of them is not accepted.
        """
        headers = Headers(scope=scope)
        host = _host(headers.get("host", ""))
        if not (host in self.names or (self.settings.token is not None and is_address(host))):
            message = f"this server does not answer to the name {host!r}."
            hint = f"Open it as {self.settings.host}, or start eclip serve with --allow-host {host or 'NAME'}."
            raise Refusal(421, "UnknownHost", message, hint)
        origin = headers.get("origin")
        place = _place(origin or "")  # a proxy may pass another Host than the one in the browser
        foreign = origin is not None and place != headers.get("host") and _host(place) not in self.proxied
        foreign = foreign or headers.get("sec-fetch-site") in ("cross-site", "same-site")
        if foreign and (scope["method"] not in ("GET", "HEAD") or scope["path"].startswith(PRIVATE)):
            message = f"requests of other pages ({origin or 'unknown'}) are not answered."
            raise Refusal(403, "ForeignOrigin", message, "Open the page of this server itself.")
        if self.settings.token is not None and scope["path"].startswith(PRIVATE):
            given = headers.get("authorization", "").removeprefix("Bearer ").strip()
            if not hmac.compare_digest(given.encode(), self.settings.token.encode()):
                message = "this server needs a token." if not given else "the token is not the one of this server."
                hint = "Open the address that eclip serve printed, or send the header Authorization: Bearer TOKEN."
                raise Refusal(401, "Token", message, hint, {"WWW-Authenticate": "Bearer"})
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length) > self.most:
            raise self._too_large()

    def _bounded(self, receive: Receive, denied: list[Refusal]) -> Receive:
        """Receive, but not too much, and not too slowly; a refusal is noted in `denied` and raised."""
        total, complete = 0, False

        def deny(refusal: Refusal) -> Refusal:
            denied.append(refusal)
            return refusal

        async def bounded() -> Message:
            nonlocal total, complete
            if complete:
                return await receive()  # waits until the caller is gone
            try:
                message = await asyncio.wait_for(receive(), PATIENCE)
            except TimeoutError:
                said = f"nothing was received for {PATIENCE:.0f} seconds."
                raise deny(Refusal(408, "Slow", said, "Try again.")) from None
            if message["type"] == "http.request":
                total += len(message.get("body", b""))
                complete = not message.get("more_body", False)
                if total > self.most:
                    raise deny(self._too_large())
            return message

        return bounded

    async def _drain(self, receive: Receive) -> None:
        """Read what is still coming, within bounds, so that the caller reads the answer instead of a broken pipe."""
        total, more = 0, True
        with suppress(TimeoutError):
            while more and total <= DRAINED * self.most:
                message = await asyncio.wait_for(receive(), DRAIN_SECONDS)
                total += len(message.get("body", b""))
                more = message["type"] == "http.request" and message.get("more_body", False)

    def _too_large(self) -> Refusal:
        said = f"the request is larger than {self.most >> 20} MiB."
        return Refusal(413, "TooLarge", said, "Send fewer files at once, or smaller ones: downscale them.")


def bug(error: Exception, scope: Scope) -> Refusal:
    """Log an error of ours under a number, and the answer that names only the number."""
    number = secrets.token_hex(4)
    log.error("error %s in %s %s", number, scope["method"], scope["path"], exc_info=error)
    message = f"something went wrong inside eclip (error {number})."
    return Refusal(500, "Bug", message, "The terminal of the server says more; please report it.")


async def _refuse(send: Send, refusal: Refusal) -> None:
    body = json.dumps(refusal.body).encode()
    own = {"content-type": "application/json", "content-length": str(len(body)), "connection": "close"}
    headers = _encoded({**own, **{name.lower(): value for name, value in refusal.headers.items()}})
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _encoded(headers: dict[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode("latin-1"), value.encode("latin-1", "replace")) for name, value in headers.items()]


def _host(given: str) -> str:
    """The name in a Host header, without the port."""
    try:
        return urlsplit(f"//{given}").hostname or ""
    except ValueError:
        return ""


def _place(origin: str) -> str:
    """Host and port of an Origin header; "" if it is malformed."""
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return ""
