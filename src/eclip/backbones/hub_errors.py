"""What keeps a file of the Hub from being fetched, in half a sentence that names the way out."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import huggingface_hub
from huggingface_hub.errors import FileMetadataError, GatedRepoError, OfflineModeIsEnabled, RepositoryNotFoundError

LOGIN = "log in with `hf auth login`, or set HF_TOKEN"
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)


def place_of(repository: str) -> str:
    """Where a repository is, as a user would type it into a browser."""
    return f"{urlsplit(huggingface_hub.constants.ENDPOINT).netloc}/{repository}"


def amount(size: int) -> str:
    """Bytes in words."""
    return f"{size / 2**20:,.0f} MiB" if size >= 2**20 else f"{size / 2**10:,.0f} KiB"


def free_space(folder: Path) -> int:
    """Bytes that are free on the disk of a folder, which need not be there yet."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def is_disk_full(error: BaseException) -> bool:
    """Whether the disk, a quota or a limit on file sizes took no more."""
    return isinstance(error, OSError) and error.errno in FULL


def reason(error: BaseException, place: str, folder: Path, variable: str) -> tuple[str, bool]:
    """Why a file cannot be had.

    Args:
        error: what was raised, by the Hub's client, its HTTP library or the file system.
        place: of the file, without the scheme.
        folder: of the cache.
        variable: that sets the folder.

    Returns:
        Half a sentence, and whether a model that needs no network is a way out.
    """
    chain = _chain(error)
    if any(isinstance(one, OfflineModeIsEnabled) for one in chain):
        return "HF_HUB_OFFLINE is set, so nothing may be fetched: unset it to fetch the file once", True
    if any(isinstance(one, FileMetadataError) for one in chain):
        return "what answers there is not the Hub: check HF_ENDPOINT, proxy and firewall", True
    for one in chain:
        if is_disk_full(one):
            return (
                f"the disk is full, {amount(free_space(folder))} are free in {str(folder)!r}: free some space, or set "
                f"{variable} to a folder on another disk"
            ), True
        if isinstance(one, OSError) and one.errno in FORBIDDEN:
            return f"{str(folder)!r} cannot be written: set {variable} to a folder that can", True
        response = getattr(one, "response", None)
        if response is not None:
            return _refused(one, response, place)
    if any("Timeout" in type(one).__name__ for one in chain):
        return "there was no answer in time: check the connection and try again", True
    return (str(error).splitlines() or [type(error).__name__])[0][:120], True


def _chain(error: BaseException) -> list[BaseException]:
    found: list[BaseException] = []
    following: BaseException | None = error
    while following is not None and following not in found:
        found.append(following)
        following = following.__cause__ or following.__context__
    return found


def _refused(error: BaseException, response: Any, place: str) -> tuple[str, bool]:
    """What a status of HTTP means here."""
    status, said = response.status_code, str(response.headers.get("X-Error-Message") or "")
    if isinstance(error, GatedRepoError):
        return f"the repository is gated: accept its license at https://{place} and {LOGIN}", False
    if status == 401 and said.startswith("Invalid credentials"):
        return "the Hub does not know your token: unset HF_TOKEN, or log in again with `hf auth login`", False
    if isinstance(error, RepositoryNotFoundError) or status == 401:
        return (
            f"there is no such repository, or it is private or gated: check the name, or accept its license and {LOGIN}"
        ), False
    if status == 403:
        return (
            f"your account or token may not read it ({said or 'status 403'}): ask for access there, and {LOGIN}",
            False,
        )
    if status == 429:
        wait = _wait(response.headers)
        return f"too many requests: {wait} and try again, or {LOGIN}, which allows more of them", True
    if status >= 500:
        return f"the server fails with status {status}: try again later", True
    return f"the server answers with status {status}{f', {said}' if said else ''}", True


def _wait(headers: Any) -> str:
    """How long to wait, where the server says so: `Retry-After: 120`, or `RateLimit: "api";r=0;t=120`."""
    seconds = str(headers.get("Retry-After") or "").strip()
    if not seconds:
        parts = str(headers.get("RateLimit") or "").replace(" ", "").split(";")
        seconds = next((part.removeprefix("t=") for part in parts if part.startswith("t=")), "")
    return f"wait {seconds} seconds" if seconds.isdigit() else "wait some minutes"
