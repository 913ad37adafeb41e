"""Errors on the command line: one message on stderr and an exit code, never a traceback."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import typer

from eclip.errors import (
    DataWarning,
    DeviceError,
    EclipError,
    EqualTextsWarning,
    OptionError,
    TextCutWarning,
    TextError,
    UnknownNameError,
)

USAGE_ERRORS = (UnknownNameError, OptionError, TextError, DeviceError)
"""Usage errors, with exit code 2. All our other errors have exit code 1."""

OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")
"""As CUDA and torch's CPU allocators say it; other faults of memory are bugs."""


@contextmanager
def report_errors() -> Iterator[None]:
    """Turn our errors into one message and an exit code, and warnings into lines on stderr."""
    said: set[str] = set()

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        if str(message) not in said:
            typer.echo(f"warning: {message}", err=True)
        said.add(str(message))

    try:
        with warnings.catch_warnings():
            for kind in (DataWarning, EqualTextsWarning, TextCutWarning):
                warnings.simplefilter("always", kind)
            warnings.showwarning = show
            yield
    except EclipError as error:
        stop(str(error), 2 if isinstance(error, USAGE_ERRORS) else 1)
    except KeyboardInterrupt:
        stop("interrupted; everything done so far is kept.", 130)
    except (ImportError, MemoryError, RuntimeError) as error:
        if not (advice := _advice(error)):
            raise
        stop(advice, 1)


def _advice(error: Exception) -> str:
    """What to do about a problem of the machine or the installation; "" for a bug of ours."""
    reason = str(error).strip().partition("\n")[0]
    if isinstance(error, MemoryError) or any(words in reason for words in OUT_OF_MEMORY):
        return f"not enough memory ({reason or 'MemoryError'}): try a smaller --image-size, or --batch-size 1."
    if isinstance(error, ImportError) or "torchvision" in reason:
        return f"a package is missing or incompatible ({reason}): run `eclip doctor` to find out."
    return ""


def stop(message: str, code: int) -> NoReturn:
    """Print the error and exit with this code."""
    typer.echo(f"error: {message}", err=True)
    raise typer.Exit(code)
