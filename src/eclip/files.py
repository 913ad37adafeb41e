"""One run at a time in a folder: a lock of the operating system, which goes with the process, however that ends."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

from eclip.errors import ResultError

try:
    import fcntl
except ImportError:  # Windows, where a folder cannot be locked so
    fcntl = None  # type: ignore[assignment]


def lock(folder: Path) -> Callable[[], None]:
    """Take a folder; the answer gives it back. Where a file system has no locks, nothing is taken.

    Raises:
        ResultError: another run has it.
    """
    if fcntl is None:
        return lambda: None
    try:
        held = os.open(folder, os.O_RDONLY)
    except OSError:
        return lambda: None
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(held)
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            raise ResultError(
                f"another run is writing into the folder {str(folder)!r} now: wait for it, or choose another folder."
            ) from None
        return lambda: None
    closed = False

    def release() -> None:
        nonlocal closed
        if not closed:
            closed = True
            os.close(held)

    return release
