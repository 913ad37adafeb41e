"""Every answer that is not 200: `Refusal`, and what each of our errors becomes."""

from __future__ import annotations

from typing import Any

from eclip.errors import (
    EclipError,
    ImageError,
    NotApplicableError,
    OptionError,
    ShapeError,
    TextError,
    UnknownNameError,
)
from eclip.words import WORD_METHODS


class Refusal(Exception):
    """An answer with an error: {"error": {"type", "message", "hint"}}.

    Args:
        status: of HTTP.
        type: a name for programs.
        message: what was wrong, for people.
        hint: the next step; empty if the message has it.
        headers: of the answer.
    """

    def __init__(
        self, status: int, type: str, message: str, hint: str = "", headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.type, self.message, self.hint, self.headers = status, type, message, hint, headers or {}

    @property
    def body(self) -> dict[str, Any]:
        """The JSON of the answer."""
        return {"error": {"type": self.type, "message": self.message, "hint": self.hint}}


WORDS = f"there are {', '.join(WORD_METHODS)}"
STATUS: tuple[tuple[type[EclipError], int, str], ...] = (
    (UnknownNameError, 400, f"GET /api/v1/models, /methods and /refinements list them; for words, {WORDS}."),
    (NotApplicableError, 422, "Choose another method, or another model."),
    (ImageError, 415, "JPEG, PNG, WebP, GIF, BMP, TIFF and AVIF files can be read."),
    (OptionError, 400, ""),
    (TextError, 400, ""),
    (ShapeError, 400, ""),
    (EclipError, 422, ""),
)


def refusal_of(error: EclipError) -> Refusal:
    """The sentence of the command line, with a status."""
    status, hint = next((status, hint) for kind, status, hint in STATUS if isinstance(error, kind))
    return Refusal(status, type(error).__name__, str(error), hint)


def gone(image: str) -> Refusal:
    """For an image that is not held."""
    hint = "Images are forgotten after a while, or when others need the memory: upload it again."
    return Refusal(404, "UnknownImage", f"there is no image {image!r} in memory.", hint)


def busy() -> Refusal:
    """For a full queue."""
    message, hint = "too many requests are waiting for the model.", "Try again in 2 seconds."
    return Refusal(503, "Busy", message, hint, {"Retry-After": "2"})


def closing() -> Refusal:
    """For a server that ends."""
    return Refusal(503, "Closing", "the server is closing.", "Start it again.")


def too_slow(seconds: float) -> Refusal:
    """For a request that was given up."""
    message = f"the answer took longer than {seconds:.0f} seconds and was given up."
    hint = "Choose a method that needs one forward pass, or run the command line, which has no limit."
    return Refusal(504, "TooSlow", message, hint)
