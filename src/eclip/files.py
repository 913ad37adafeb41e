"""Atomic file writes, folders locked to one run at a time, files below a folder, the cache, hashes, retries.

The operating system holds the lock and releases it when the process ends, however it ends.
"""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import os
import re
import secrets
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import ExitStack, suppress
from functools import cache
from itertools import takewhile
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar
from zipfile import BadZipFile

from eclip.errors import DataWarning, ResultError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

try:
    import fcntl
    import resource
except ImportError:  # Windows, where a folder cannot be locked this way, and the peak of memory is not known
    fcntl = resource = None  # type: ignore[assignment]

Result = TypeVar("Result")
SHARDED = ("index", "shards", "failures")
"""Folders that a run over many images makes in its own, in the order in which they are deleted: an index means done."""
PAUSES = (0.5, 1.0, 2.0)
"""Seconds before each new attempt to read from a network."""
VIDEOS = frozenset(
    f".{ending}"
    for ending in "mp4 m4v mov mkv webm avi mpg mpeg mpe m2v ts mts m2ts vob wmv asf flv ogv 3gp 3g2 mxf".split()  # noqa: SIM905
)
"""Extensions of videos that FFmpeg reads."""
BUSY = frozenset({408, 425, 429, *range(500, 600)})
"""Statuses of HTTP after which a new attempt may succeed."""
BROKEN = frozenset(
    {"ClientConnectionError", "ClientPayloadError", "IncompleteRead", "HTTPClientError", "TransportError"}
)
"""Classes of errors of aiohttp, http.client, botocore and httpx for connections that cannot be made or break."""
STATE = "eclip_file"
"""The attribute of an opened image that says which file it was, see `eclip.files.file_state`."""


def lock(folder: Path, *, shared: bool = False) -> Callable[[], None]:
    """Lock a folder or file; the returned function releases it. Where the file system has no locks, nothing happens.

    If `shared`, others who do the same can lock it too.

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


def is_there(path: Path, kind: Callable[[Path], bool] = Path.is_file) -> bool:
    """Whether a path is a file, or of another kind; not if the system cannot look it up, as a name that is too long."""
    try:
        return kind(path)
    except OSError:
        return False


def replace_file(path: Path, content: bytes | Callable[[IO[bytes]], object], part: Path | None = None) -> None:
    """Write a file atomically, so that it is complete at any moment; its folder is created if needed.

    Args:
        path: the file, which may exist already.
        content: the whole content, or a function that writes it to a stream.
        part: the temporary file, if nobody else writes this file meanwhile; what a killed process left there is
            overwritten. None = one with a new name.

    Raises:
        ResultError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = part or draft_of(path)
        with part.open("wb") as stream:
            stream.write(content) if isinstance(content, bytes) else content(stream)
        os.replace(part, path)
    except BaseException as error:
        if part is not None:
            with suppress(OSError):
                part.unlink(missing_ok=True)
        if not isinstance(error, OSError):
            raise
        raise ResultError(f"{str(path)!r} cannot be written: {error.strerror or error}.") from error


def draft_of(path: Path) -> Path:
    """A new name beside a file, for what will replace it; a file of `tempfile` could be read by its owner only."""
    return path.with_name(f"{secrets.token_hex(8)}.part")


def memory_name(index: int) -> str:
    """What an image in memory is called."""
    return f"image {index}"


def is_in_memory(name: str) -> bool:
    """Whether it is a `memory_name`; the path of a file with such a name begins with "./"."""
    return re.fullmatch(r"image \d+", name) is not None


def file_state(path: Path) -> tuple[Path, int, int] | None:
    """Where a file is, whatever the current folder will be, its size, and when it was changed; None without one."""
    try:
        state = path.stat()
        return path.resolve(), state.st_size, state.st_mtime_ns
    except (OSError, ValueError):
        return None


def slug(text: str) -> str:
    """A text as part of a file name: letters, digits and hyphens, so that dots can join parts; at most 80 bytes."""
    return re.sub(r"\W+", "-", text).strip("-").encode(errors="ignore")[:80].decode(errors="ignore")


def made_in(folder: Path) -> set[str]:
    """Names of the files and folders in a folder that runs of eclip wrote, as their manifests there say."""
    found: set[str] = set()
    for name in ("manifest.json", "run.json", "video.json"):
        try:
            told = json.loads((folder / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(told, dict) and str(told.get("schema")).startswith("eclip."):
            images = told.get("images")
            each = images if isinstance(images, list) else []
            places = [one["files"] for one in each if isinstance(one, dict) and "files" in one]
            places += [told.get("exports"), told.get("coco"), told.get("files")]
            found |= {one for one in strings_in(places) if os.path.basename(one) == one}
            found |= set(SHARDED) if name == "run.json" else set()
    return found


def unmade(pattern: str, paths: Iterable[Path]) -> tuple[Path, set[Path]]:
    """The folder at which a glob pattern starts, and those of its matches that no run of eclip wrote."""
    root, made = Path(*takewhile(lambda part: not glob.has_magic(part), Path(pattern).parts)), cache(made_in)

    def is_made(path: Path) -> bool:
        return any(one.name in made(one.parent) for one in (path, *path.parents) if root in one.parents)

    return root, {path for path in paths if not is_made(path)}


def strings_in(nested: Any) -> Iterator[str]:
    """The strings in nested dicts and lists."""
    if isinstance(nested, str):
        yield nested
    elif isinstance(nested, dict | list):
        for one in nested.values() if isinstance(nested, dict) else nested:
            yield from strings_in(one)


def files_below(folder: Path, endings: Collection[str]) -> tuple[list[Path], list[str]]:
    """Files with these endings in a folder and its subfolders, in order, without what eclip made; and what is wrong."""
    found: list[Path] = []
    wrong: list[str] = []
    for place, folders, names in os.walk(
        folder, onerror=lambda error: wrong.append(f"{error.filename} cannot be read: {error.strerror}.")
    ):
        made = made_in(Path(place))
        folders[:] = [name for name in folders if name not in made]
        for link in (path for name in folders if os.path.islink(path := os.path.join(place, name))):
            warnings.warn(left_out(link), DataWarning, stacklevel=2)
        paths = (Path(place, name) for name in names if name not in made)
        own = [path for path in paths if path.suffix.lower() in endings]
        found += [path for path in own if path.is_file()]
        wrong.extend(dead_links(own))
    return sorted(found), wrong


def left_out(link: str) -> str:
    """What is said of a link to a folder, which could lead anywhere, also in a circle."""
    return f"{link} is a link to a folder and is left out: name it as a source of its own to include its files."


def dead_links(paths: Iterable[Path]) -> list[str]:
    """What is wrong with each link among the paths that leads nowhere."""
    dead = (path for path in sorted(paths) if os.path.islink(path) and not os.path.exists(path))
    return [f"{path} is a link to {os.readlink(path)}, which is not there: mend or delete it." for path in dead]


def cache_folder(name: str) -> Path:
    """A cache folder that processes share, below `$XDG_CACHE_HOME` or `~/.cache`; it may not exist yet."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "eclip" / name


def prune(folder: Path, most: int) -> None:
    """Delete all subfolders but the `most` that were changed last. What cannot be deleted is left."""
    with suppress(OSError):
        folders = sorted((one for one in folder.iterdir() if one.is_dir()), key=lambda one: one.stat().st_mtime)
        for old in folders[: max(0, len(folders) - most)]:
            shutil.rmtree(old, ignore_errors=True)


def shrink(folder: Path, most: int) -> None:
    """Delete the .npy files below a folder that were used longest ago, until the others have at most `most` bytes."""
    found = []
    for file in folder.rglob("*.npy"):
        with suppress(OSError):  # another process has deleted it
            found.append((file.stat().st_mtime, file.stat().st_size, file))
    left = sum(size for _, size, _ in found) - most
    for _, size, file in sorted(found):
        if left <= 0:
            break
        with suppress(OSError):
            file.unlink()
        left -= size


def read_array(path: Path) -> NDArray[Any]:
    """The array of a .npy file, which is closed whatever happens, as `np.load` alone does not ensure.

    Raises:
        OSError: it cannot be opened.
        ValueError: it is damaged, or does not hold a single array of plain values.
    """
    import numpy as np  # here, so that the command line can check folders first

    with path.open("rb") as file:
        try:
            values = np.load(file, allow_pickle=False)
        except (EOFError, BadZipFile) as error:
            raise ValueError(str(error)) from error
    if not isinstance(values, np.ndarray):
        raise ValueError("it is an archive of several arrays")
    return values


def peak_mib() -> int | None:
    """The peak memory of this process so far, in MiB; None on Windows."""
    if resource is None:
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(most / (2**20 if sys.platform == "darwin" else 2**10))


def hash_weights(weights: Iterable[tuple[str, Tensor]], before: bytes = b"") -> hashlib._Hash:
    """SHA-256 of the names and all bits of weights, independent of the device, after the bytes `before`."""
    import torch  # here, so that the command line can check folders first

    hashed = hashlib.sha256(before)
    for name, value in weights:
        hashed.update(name.encode())
        hashed.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return hashed


def retried(read: Callable[[], Result]) -> Result:
    """What `read` returns, tried again after each of `PAUSES` while its errors may pass, see `may_pass`."""
    for pause in PAUSES:
        try:
            return read()
        except Exception as error:
            if not may_pass(error):
                raise
        time.sleep(pause)
    return read()


def may_pass(error: BaseException) -> bool:
    """Whether an error is one of the network that may pass: a timeout, a broken connection, an overloaded server.

    What caused it counts too: fsspec reports every failure of HTTP as a missing file.
    """
    for one in causes(error):
        if (status := _status(one)) is not None:
            return status in BUSY
        if isinstance(one, TimeoutError | ConnectionError) or BROKEN & {kind.__name__ for kind in type(one).__mro__}:
            return True
    return False


def causes(error: BaseException) -> list[BaseException]:
    """An error, what caused it or was handled when it was raised, and so on."""
    found: list[BaseException] = []
    following: BaseException | None = error
    while following is not None and following not in found:
        found.append(following)
        following = following.__cause__ or following.__context__
    return found


def _status(error: BaseException) -> int | None:
    """The status of HTTP that an error carries; the libraries for URLs do not agree on a place for it."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):  # botocore
        return response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    for owner, name in ((error, "status"), (response, "status_code"), (error, "code")):
        if isinstance(found := getattr(owner, name, None), int):
            return found
    return None
