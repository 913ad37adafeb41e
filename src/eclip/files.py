"""Files that are whole at any moment, folders that one run at a time has, names, the cache, and the hash of weights.

The lock is the operating system's: it goes with the process, however that ends.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, TYPE_CHECKING

from eclip.errors import ResultError

if TYPE_CHECKING:
    from torch import Tensor

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


def replace_file(path: Path, content: bytes | Callable[[IO[bytes]], object]) -> None:
    """Write a file, and its folder if it is not there, so that it is whole at any moment.

    Args:
        path: the file, which may be there already.
        content: all of it, or what writes it to a stream.

    Raises:
        ResultError: it cannot be written.
    """
    part_name = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as part:
            part_name = part.name
            part.write(content) if isinstance(content, bytes) else content(part)
        os.chmod(part_name, 0o644)  # a temporary file is for its owner alone
        os.replace(part_name, path)
    except BaseException as error:
        if part_name is not None:
            Path(part_name).unlink(missing_ok=True)
        if not isinstance(error, OSError):
            raise
        raise ResultError(f"{str(path)!r} cannot be written: {error.strerror or error}.") from error


def slug(text: str) -> str:
    """Part of a file's name: letters, digits, hyphens, so that dots can join parts; short enough for file systems."""
    return re.sub(r"\W+", "-", text).strip("-").encode(errors="ignore")[:80].decode(errors="ignore")


def cache_folder(name: str) -> Path:
    """Where something is kept for other processes: below `$XDG_CACHE_HOME`, or `~/.cache`; it may be missing."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "eclip" / name


def hash_weights(weights: Iterable[tuple[str, Tensor]], before: bytes = b"") -> hashlib._Hash:
    """SHA-256 of names and all bits, whatever the device.

    Args:
        weights: such as `model.state_dict().items()`.
        before: what is hashed before them; `update` takes what follows.
    """
    import torch  # here, so that the command line can check folders first

    hashed = hashlib.sha256(before)
    for name, value in weights:
        hashed.update(name.encode())
        hashed.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return hashed
