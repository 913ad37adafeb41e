"""Atomic file writes, folders locked to one run at a time, file names, the cache folder, and the hash of weights.

The operating system holds the lock and releases it when the process ends, however it ends.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING

from eclip.errors import ResultError

if TYPE_CHECKING:
    from torch import Tensor

try:
    import fcntl
except ImportError:  # Windows, where a folder cannot be locked this way
    fcntl = None  # type: ignore[assignment]


def lock(folder: Path, *, shared: bool = False) -> Callable[[], None]:
    """Lock a folder or file; the returned function releases it. Where the file system has no locks, nothing happens.

    Args:
        folder: its path.
        shared: let others who do the same lock it too.

    Raises:
        ResultError: another run holds the lock.
    """
    if fcntl is None:
        return lambda: None
    try:
        held = os.open(folder, os.O_RDONLY if folder.is_dir() else os.O_RDWR)  # NFS locks only what can be written
    except OSError:
        return lambda: None
    try:
        fcntl.flock(held, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError as error:
        os.close(held)
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            raise ResultError(
                f"another run is writing to {str(folder)!r}: wait for it to finish, or choose another folder."
            ) from None
        return lambda: None
    release = ExitStack()
    release.callback(os.close, held)
    return release.close  # once: a second call does nothing


def replace_file(path: Path, content: bytes | Callable[[IO[bytes]], object]) -> None:
    """Write a file atomically, so that it is complete at any moment; its folder is created if needed.

    Args:
        path: the file, which may exist already.
        content: the whole content, or a function that writes it to a stream.

    Raises:
        ResultError: it cannot be written.
    """
    part_name = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as part:
            part_name = part.name
            part.write(content) if isinstance(content, bytes) else content(part)
        os.chmod(part_name, 0o644)  # only the owner can read a temporary file
        os.replace(part_name, path)
    except BaseException as error:
        if part_name is not None:
            Path(part_name).unlink(missing_ok=True)
        if not isinstance(error, OSError):
            raise
        raise ResultError(f"{str(path)!r} cannot be written: {error.strerror or error}.") from error


def slug(text: str) -> str:
    """A text as part of a file name: letters, digits and hyphens, so that dots can join parts; at most 80 bytes."""
    return re.sub(r"\W+", "-", text).strip("-").encode(errors="ignore")[:80].decode(errors="ignore")


def cache_folder(name: str) -> Path:
    """A cache folder that processes share, below `$XDG_CACHE_HOME` or `~/.cache`; it may not exist yet."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "eclip" / name


def prune(folder: Path, most: int) -> None:
    """Delete all subfolders but the `most` that were changed last. What cannot be deleted is left."""
    with suppress(OSError):
        folders = sorted((one for one in folder.iterdir() if one.is_dir()), key=lambda one: one.stat().st_mtime)
        for old in folders[: max(0, len(folders) - most)]:
            shutil.rmtree(old, ignore_errors=True)


def hash_weights(weights: Iterable[tuple[str, Tensor]], before: bytes = b"") -> hashlib._Hash:
    """SHA-256 of the names and all bits of weights, independent of the device.

    Args:
        weights: such as `model.state_dict().items()`.
        before: bytes that are hashed first; the result's `update` adds more.
    """
    import torch  # here, so that the command line can check folders first

    hashed = hashlib.sha256(before)
    for name, value in weights:
        hashed.update(name.encode())
        hashed.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return hashed
