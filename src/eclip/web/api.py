"""The addresses under /api/v1. Each checks what was asked, waits for the worker, and returns JSON or a file."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Annotated, Any
from urllib.parse import quote

import numpy as np
from fastapi import APIRouter, Form, Request, Response, UploadFile
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse

from eclip import __version__
from eclip.methods import METHODS
from eclip.refinements import REFINEMENTS
from eclip.results.marks import png
from eclip.web import answers, exports, schemas, uploads
from eclip.web.arrays import npz, packed
from eclip.web.refusals import Refusal, closing
from eclip.web.settings import LOOPBACK
from eclip.web.worker import Check, Need

router = APIRouter(prefix="/api/v1", responses={"default": {"model": schemas.Problem, "description": "Refused."}})
BINARY = "application/octet-stream"
POLL = 0.1
"""Seconds between two looks at whether the caller still waits."""


async def answer(
    request: Request, task: Callable[[Check], Any], images: Sequence[str] = (), model: str | None = None
) -> Any:
    """Let the worker compute an answer, once the model (None = the default) has encoded the images.

    It stops if the caller goes away.

    Raises:
        Refusal: the queue is full, the caller has gone, or it took too long.
    """
    state = request.app.state
    needs: list[Need] = [(image, model or state.default) for image in images]
    job = state.worker.submit(caller_of(request), task, needs)
    future = asyncio.wrap_future(job.future)
    try:
        while not future.done():
            await asyncio.wait({future}, timeout=POLL)
            if not future.done() and await request.is_disconnected():
                raise Refusal(499, "Gone", "the caller did not wait for the answer.")
        return future.result()
    except asyncio.CancelledError:
        if future.cancelled():  # the server is closing
            raise closing() from None
        raise
    finally:
        job.stop()


def caller_of(request: Request) -> str:
    """Whose turn a request takes: that of its address; on this machine, that of the browser's tab."""
    host = request.client.host if request.client else ""
    return f"{host} {request.headers.get('x-eclip-client', '')[:40]}" if host in LOOPBACK else host


@router.get("/about", tags=["server"])
async def about(request: Request) -> dict[str, Any]:
    """What the page needs to start: models, gallery, limits, colors."""
    state = request.app.state
    limits = state.settings.limits
    return {
        "version": __version__,
        "models": models_of(state),
        "gallery": [vars(picture) for picture in state.gallery],
        "uploads": state.settings.gallery is None,
        "limits": {name: getattr(limits, name) for name in ("file_bytes", "pixels", "texts", "letters", "view")},
        "colors": answers.colors(),
    }


@router.get("/models", tags=["server"])
async def models(request: Request) -> list[dict[str, Any]]:
    """The models that can be asked; the first is the default."""
    return models_of(request.app.state)


def models_of(state: Any) -> list[dict[str, Any]]:
    """Models with what a caller chooses by."""
    return [
        {
            "name": name,
            "family": backbone.family,
            "blocks": len(backbone.blocks),
            "size": backbone.image_size,
            "patch": backbone.patch_size,
            "head": backbone.head is not None,
            "concepts": name in state.engine.with_concepts,
            "default_method": state.default_methods[name],
        }
        for name, backbone in state.engine.models.items()
    ]


@router.get("/methods", tags=["server"])
async def methods() -> list[dict[str, Any]]:
    """All methods for maps."""
    return [
        {
            "name": name,
            "kind": one.kind,
            "summary": one.summary,
            "signed": one.signed,
            "versus": one.versus is not None,
            "many_passes": one.kind == "perturbation",
            "options": {key: value for key, value in one.options.items() if not hasattr(value, "shape")},
        }
        for name, one in METHODS.items()
    ]


@router.get("/refinements", tags=["server"])
async def refinements() -> list[dict[str, Any]]:
    """Steps after a method."""
    return [{"name": name, "summary": one.summary} for name, one in REFINEMENTS.items()]


@router.post("/images", tags=["images"])
async def upload(request: Request, files: list[UploadFile]) -> dict[str, Any]:
    """Upload images; they stay in memory for a while, and the answer has their ids."""
    state = request.app.state
    limits, most = state.settings.limits, state.settings.limits.images
    if state.settings.gallery is not None:
        message = "this server shows a folder and takes no uploads."
        raise Refusal(403, "ReadOnly", message, "Choose one of its images, or start your own eclip serve.")
    if len(files) > most:
        raise Refusal(413, "TooMany", f"{len(files)} files were sent, at most {most} at once.", "Send them in parts.")
    found = []
    for file in files:
        data, name = await file.read(), file.filename or "image"
        async with state.decoding:
            image = await run_in_threadpool(uploads.opened, data, name, limits)
        held = state.store.add(name, data, image)
        found.append(await run_in_threadpool(answers.about_image, held, limits.view))
    return {"images": found}


@router.get("/images/{image}/about", tags=["images"])
async def image_about(request: Request, image: schemas.ImageId) -> dict[str, Any]:
    """Name and sizes of an image."""
    state = request.app.state
    async with state.decoding:
        return await run_in_threadpool(answers.about_image, state.store.get(image), state.settings.limits.view)


@router.get("/images/{image}", tags=["images"], response_class=Response)
async def image_view(request: Request, image: schemas.ImageId, thumbnail: bool = False) -> Response:
    """The image as the page draws on it, a PNG; or a thumbnail, a JPEG."""
    state = request.app.state
    held, side = state.store.get(image), state.settings.limits.view
    async with state.decoding:
        if thumbnail:
            return Response(await run_in_threadpool(answers.thumbnail, held), media_type="image/jpeg")
        view = await run_in_threadpool(lambda: png(answers.viewed(held.image, side)))
        return Response(view, media_type="image/png")


@router.delete("/images/{image}", tags=["images"])
async def forget(request: Request, image: schemas.ImageId) -> dict[str, Any]:
    """Forget an uploaded image."""
    request.app.state.store.forget(image)
    return {"forgotten": image}


@router.post("/explain", tags=["maps"], responses={200: {"content": {BINARY: {}}}})
async def explain(request: Request, asked: schemas.Explain) -> Response:
    """Maps, scores, boxes, points and health of texts for images. `Accept: application/octet-stream` gives .npz."""
    state = request.app.state

    def task(check: Check) -> Response:
        found, said = state.engine.explain(asked, asked.images, check)
        if BINARY in request.headers.get("accept", ""):
            arrays = {"maps": [one.maps[0] for one in found], "scores": [one.scores[0] for one in found]}
            data = npz({name: np.stack(values).astype(asked.dtype) for name, values in arrays.items()})
            return Response(data, media_type=BINARY)
        held = [state.store.get(image) for image in asked.images]
        return JSONResponse(answers.explained(found, held, asked.dtype, said))

    return await answer(request, task, asked.images, asked.model)


@router.post("/health", tags=["maps"])
async def health(request: Request, asked: schemas.Explain) -> dict[str, Any]:
    """Only whether the maps can be trusted: numbers and warnings by image and text."""
    state = request.app.state

    def task(check: Check) -> dict[str, Any]:
        found, _ = state.engine.explain(asked.model_copy(update={"health": True}), asked.images, check)
        return {image: one.health.noted(0) for image, one in zip(asked.images, found, strict=True)}

    return await answer(request, task, asked.images, asked.model)


@router.post("/compare", tags=["maps"])
async def compare(request: Request, asked: schemas.Compare) -> dict[str, Any]:
    """Several methods side by side, with their cost in forward passes, or why one is not applicable."""
    state = request.app.state

    def task(check: Check) -> dict[str, Any]:
        found, said = state.engine.compare(asked, check)
        return answers.compared(found, said, state.store.get(asked.image))

    return await answer(request, task)


@router.post("/words", tags=["words"])
async def words(request: Request, asked: schemas.Words) -> dict[str, Any]:
    """How much each word of a text contributes to its score."""
    state = request.app.state
    return await answer(request, lambda check: answers.worded(*state.engine.words(asked)))


@router.post("/interactions", tags=["words"])
async def interactions(request: Request, asked: schemas.Interactions) -> dict[str, Any]:
    """What each pair of a word and a patch contributes to the score."""
    state = request.app.state
    return await answer(request, lambda check: answers.paired(*state.engine.interactions(asked)))


@router.post("/similarity", tags=["patches"])
async def similarity(request: Request, asked: schemas.Similarity) -> dict[str, Any]:
    """Cosine of each patch with each other: (row, col, row, col), float16."""
    state = request.app.state

    def task(check: Check) -> dict[str, Any]:
        return {"similarity": packed(state.engine.similarity(asked), "float16")}

    return await answer(request, task, [asked.image], asked.model)


@router.post("/attention", tags=["patches"])
async def attention(request: Request, asked: schemas.OfImage) -> dict[str, Any]:
    """How much the first token looks at each patch: (block, head, row, col), float16; rows need not sum to 1."""
    state = request.app.state

    def task(check: Check) -> dict[str, Any]:
        return {"attention": packed(state.engine.attention(asked, check), "float16")}

    return await answer(request, task, [asked.image], asked.model)


@router.post("/layers", tags=["patches"])
async def layers(request: Request, asked: schemas.Layers) -> dict[str, Any]:
    """What each head of each layer contributes to the score, by patch: (layer, head, row, col), and the score."""
    state = request.app.state

    def task(check: Check) -> dict[str, Any]:
        shares, score = state.engine.layers(asked)
        return {"layers": packed(shares, "float32"), "score": score}

    return await answer(request, task, [asked.image], asked.model)


@router.post("/segment", tags=["classes"])
async def segment(request: Request, asked: schemas.Segment) -> dict[str, Any]:
    """A class for each pixel, with areas and doubts."""
    state, side = request.app.state, request.app.state.settings.limits.view

    def task(check: Check) -> dict[str, Any]:
        found, said = state.engine.segment(asked)
        return answers.segmented(found, said, side, state.store.get(asked.image))

    return await answer(request, task)


@router.post("/segment/export", tags=["classes"], response_class=Response)
async def segment_export(request: Request, asked: schemas.SegmentExport) -> Response:
    """The segmentation as a picture, COCO annotations or arrays."""
    state = request.app.state

    def task(check: Check) -> exports.File:
        return exports.segmentation_file(state.engine.segment(asked)[0], asked, state.store.get(asked.image))

    return _file(*await answer(request, task))


@router.post("/concepts", tags=["words"])
async def concepts(request: Request, asked: schemas.Concepts) -> dict[str, Any]:
    """What the model sees in an image without a text."""
    state = request.app.state
    return await answer(request, lambda check: answers.seen(state.engine.concepts(asked)))


@router.post("/truth", tags=["maps"])
async def truth(request: Request, mask: UploadFile, asked: Annotated[str, Form(max_length=1 << 16)]) -> dict[str, Any]:
    """How well a map agrees with a mask: IoU by threshold, the best, mSC, pointing game.

    `asked` is the JSON of an export request; its text is scored.
    """
    state = request.app.state
    wanted = schemas.Export.model_validate_json(asked)
    held, limits = state.store.get(wanted.image), state.settings.limits
    data, name = await mask.read(), mask.filename or "the mask"
    async with state.decoding:
        inside = await run_in_threadpool(lambda: uploads.opened_mask(data, name, held.image.size, limits))

    def task(check: Check) -> dict[str, Any]:
        [one], _ = state.engine.explain(wanted, [wanted.image], check)
        return answers.scored(one, wanted.text, inside)

    return await answer(request, task, [wanted.image], wanted.model)


@router.post("/export", tags=["maps"], response_class=Response)
async def export(request: Request, asked: schemas.Export) -> Response:
    """An explanation as a picture, arrays, JSON, or a page that works without a server."""
    state = request.app.state

    def task(check: Check) -> exports.File:
        [one], _ = state.engine.explain(asked, [asked.image], check)
        return exports.exported(one, asked, state.store.get(asked.image), state.settings.limits.view)

    return _file(*await answer(request, task, [asked.image], asked.model))


def _file(name: str, kind: str, data: bytes) -> Response:
    plain = name.encode("ascii", "replace").decode().replace("?", "-").replace('"', "")
    both = f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, errors='replace')}"
    return Response(data, media_type=kind, headers={"Content-Disposition": both})
