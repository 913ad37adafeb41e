"""Why a file of the Hub cannot be downloaded, and what to do about it, as part of a sentence."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import huggingface_hub
from huggingface_hub.errors import FileMetadataError, GatedRepoError, OfflineModeIsEnabled, RepositoryNotFoundError

from eclip.files import causes

LOGIN = "log in with `hf auth login`, or set HF_TOKEN"
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)


def place_of(repository: str) -> str:
    """The address of a repository, as typed into a browser."""
    return f"{urlsplit(huggingface_hub.constants.ENDPOINT).netloc}/{repository}"


def amount(size: int) -> str:
    """Bytes in words."""
    return f"{size / 2**20:,.0f} MiB" if size >= 2**20 else f"{size / 2**10:,.0f} KiB"


def free_space(folder: Path) -> int:
    """Free bytes on the disk of a folder, which need not exist yet."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def is_disk_full(error: BaseException) -> bool:
    """Whether the disk is full, or a quota or file size limit was reached."""
    return isinstance(error, OSError) and error.errno in FULL


def reason(error: BaseException, place: str, folder: Path, variable: str) -> tuple[str, bool]:
    """Why a file cannot be downloaded, as part of a sentence, and whether a model that needs no network would help.

    The error is of the Hub's client, its HTTP library or the file system; `variable` is the environment variable that
    sets the cache folder.
    """
    chain = causes(error)
    if any(isinstance(one, OfflineModeIsEnabled) for one in chain):
        return "HF_HUB_OFFLINE is set, so nothing is downloaded: unset it to download the file once", True
    if any(isinstance(one, FileMetadataError) for one in chain):
        return "the server that responded is not the Hub: check HF_ENDPOINT, proxy and firewall", True
    for one in chain:
        if is_disk_full(one):
            return (
                f"the disk is full ({amount(free_space(folder))} free in {str(folder)!r}): free some space, or set "
                f"{variable} to a folder on another disk"
            ), True
        if isinstance(one, OSError) and one.errno in FORBIDDEN:
            return f"{str(folder)!r} is not writable: set {variable} to a writable folder", True
        response = getattr(one, "response", None)
        if response is not None:
            return _refused(one, response, place)
    if any("Timeout" in type(one).__name__ for one in chain):
        return "the server did not respond in time: check the connection and try again", True
    return (str(error).splitlines() or [type(error).__name__])[0][:120], True


def _refused(error: BaseException, response: Any, place: str) -> tuple[str, bool]:
    status, message = response.status_code, str(response.headers.get("X-Error-Message") or "")
    if isinstance(error, GatedRepoError):
        return f"the repository is gated: accept its license at https://{place} and {LOGIN}", False
    if status == 401 and message.startswith("Invalid credentials"):
        return "the Hub rejected your token: unset HF_TOKEN, or log in again with `hf auth login`", False
    if isinstance(error, RepositoryNotFoundError) or status == 401:
        return (
            f"there is no such repository, or it is private or gated: check the name, or accept its license and {LOGIN}"
        ), False
    if status == 403:
        return (
            f"your account or token has no access ({message or 'status 403'}): request access there, and {LOGIN}",
            False,
        )
    if status == 429:
        wait = _wait(response.headers)
        return f"too many requests: {wait} and try again, or {LOGIN}, which raises the limit", True
    if status >= 500:
        return f"the server failed with status {status}: try again later", True
    return f"the server responded with status {status}{f', {message}' if message else ''}", True


def _wait(headers: Any) -> str:
    """How long to wait, if the server states it: `Retry-After: 120`, or `RateLimit: "api";r=0;t=120`."""
    seconds = str(headers.get("Retry-After") or "").strip()
    if not seconds:
        parts = str(headers.get("RateLimit") or "").replace(" ", "").split(";")
        seconds = next((part.removeprefix("t=") for part in parts if part.startswith("t=")), "")
    return f"wait {seconds} seconds" if seconds.isdigit() else "wait a few minutes"
