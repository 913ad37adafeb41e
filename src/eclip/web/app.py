"""The whole server as one ASGI application."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from prometheus_client import generate_latest
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartParser
from starlette.staticfiles import StaticFiles

from eclip import __version__
from eclip.errors import EclipError
from eclip.methods import DEFAULT_METHOD, DEFAULT_OF_CNNS, default_method
from eclip.web import gallery
from eclip.web.api import router
from eclip.web.counts import Counting, Counts
from eclip.web.engine import Engine
from eclip.web.guard import Guard, bug
from eclip.web.refusals import Refusal, refusal_of
from eclip.web.settings import Settings
from eclip.web.store import Store
from eclip.web.worker import Worker

STATIC = Path(__file__).parent / "static"
SWEEP = 15.0
"""Seconds between two looks at what to forget."""


def create_app(settings: Settings) -> Counting:
    """Load the models and build the application.

    Raises:
        EclipError: a model or the gallery cannot be loaded.
    """
    MultiPartParser.spool_max_size = settings.limits.file_bytes + 1  # so that no upload is written to disk
    store = Store(settings.limits)
    counts = Counts(store)
    engine = Engine(settings, store, counts.batches.observe)
    pictures = gallery.examples(store) if settings.gallery is None else gallery.of_folder(settings.gallery, store)
    engine.load()
    worker = Worker(engine.prepare, settings.limits.waiting, settings.limits.seconds)
    counts.waiting.set_function(worker.__len__)

    @asynccontextmanager
    async def running(_: FastAPI) -> AsyncIterator[None]:
        worker.start()
        sweeping = asyncio.create_task(_sweep(store))
        try:
            yield
        finally:
            worker.close()
            sweeping.cancel()
            with suppress(asyncio.CancelledError):
                await sweeping

    app = FastAPI(
        title="eclip",
        version=__version__,
        description="Which part of this image made a CLIP-like model match this text?",
        lifespan=running,
        docs_url=None,
        redoc_url=None,
    )
    app.state.settings, app.state.store, app.state.engine = settings, store, engine
    app.state.worker, app.state.gallery, app.state.decoding = worker, pictures, asyncio.Semaphore(2)
    app.state.default = next(iter(engine.models))
    app.state.default_methods = {
        name: default_method(one.head is not None, DEFAULT_METHOD if one.blocks else DEFAULT_OF_CNNS)
        for name, one in engine.models.items()
    }
    app.include_router(router)
    _add_pages(app, counts)
    _add_errors(app)
    return Counting(Guard(app, settings), counts)


async def _sweep(store: Store) -> None:
    while True:
        await asyncio.sleep(SWEEP)
        store.sweep()


def _add_pages(app: FastAPI, counts: Counts) -> None:
    @app.get("/healthz", tags=["server"])
    async def healthz() -> dict[str, str]:
        """Whether the server answers."""
        return {"status": "ok"}

    @app.get("/metrics", tags=["server"], response_class=Response)
    async def metrics() -> Response:
        """Requests, seconds, queue and memory, in Prometheus' text format."""
        return Response(generate_latest(counts.registry), media_type="text/plain; version=0.0.4")

    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(STATIC / "index.html", headers={"cache-control": "no-cache"})

    @app.get("/docs", include_in_schema=False)
    async def docs() -> FileResponse:
        return FileResponse(STATIC / "docs.html", headers={"cache-control": "no-cache"})

    app.mount("/static", StaticFiles(directory=STATIC), name="static")


def _add_errors(app: FastAPI) -> None:
    """One shape for all errors."""

    def told(refusal: Refusal) -> JSONResponse:
        return JSONResponse(refusal.body, refusal.status, refusal.headers)

    @app.exception_handler(Refusal)
    @app.exception_handler(EclipError)
    async def _(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, Refusal | EclipError)
        return told(error if isinstance(error, Refusal) else refusal_of(error))

    @app.exception_handler(Exception)
    async def _(request: Request, error: Exception) -> JSONResponse:
        return told(bug(error, request.scope))

    @app.exception_handler(RequestValidationError)
    @app.exception_handler(ValidationError)
    async def _(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError | ValidationError)
        return told(Refusal(422, "InvalidRequest", _said(error.errors()), "/docs lists the fields of every request."))

    @app.exception_handler(HTTPException)
    async def _(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        known = {404: "there is nothing at this address", 405: "this address does not take such requests"}
        message = known.get(error.status_code, str(error.detail)).rstrip(".") + "."
        headers = dict(error.headers or {})
        return told(Refusal(error.status_code, "HTTP", message, "/docs lists all addresses.", headers))


def _said(errors: Any) -> str:
    """The first problems of a request in one line."""
    lines = []
    for one in list(errors)[:3]:
        where = ".".join(str(part) for part in one["loc"] if part != "body")
        lines.append(f"{where or 'the request'}: {one['msg'].removeprefix('Value error, ')}")
    return "; ".join(lines) + "."
