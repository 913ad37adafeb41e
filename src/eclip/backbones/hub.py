"""Files of the Hugging Face Hub: from the cache, or downloaded once, complete and verified, with a logged warning.

An interrupted download resumes where it stopped, in this process or a later one. Large files come with their SHA-256,
which is verified before a file enters the cache and again when it is read from there.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import logging
import os
import re
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub.errors import EntryNotFoundError, OfflineModeIsEnabled, RepositoryNotFoundError
from huggingface_hub.file_download import http_get, repo_folder_name
from huggingface_hub.utils import WeakFileLock, build_hf_headers  # type: ignore[attr-defined]

from eclip.backbones.catalog import DEFAULT_MODEL
from eclip.backbones.hub_errors import amount, free_space, is_disk_full, place_of, reason
from eclip.errors import DownloadError, ResultError
from eclip.files import cache_folder, replace_file

OFFLINE = f"the model {DEFAULT_MODEL!r} is part of the package and needs no network"
PATIENCE = 5.0
"""Seconds to wait for the Hub's first response."""
ATTEMPTS = 3
"""Attempts to resume an interrupted download in one call, besides those of the Hub's client."""
SMALL = 16 * 2**20
"""Files up to this size in bytes are hashed whenever they are read; larger ones only if they have changed."""
TEXTS, MARK = ("*.json", "*.txt", "*.model"), "tokenizer_config.json"
"""Small files beside the weights, and the one that is downloaded last."""
watchers: list[Callable[[str, int, int], None]] = []
"""Callbacks for the progress of a download: file name, bytes so far, total bytes."""
SHA256 = re.compile("[0-9a-f]{64}")

_log = logging.getLogger("eclip")


def fetch(repository: str, names: tuple[str, ...], size: str, instead: str = OFFLINE) -> Path:
    """The first of these files that a repository of the Hub has, from the cache or else from the network.

    The size is requested first: to show it to the user, and because a download without network retries for a minute.

    Args:
        repository: ORG/NAME on the Hub.
        names: file names, in order of preference.
        size: of the weights in words, in case the Hub does not state it; empty if it does not matter.
        instead: an alternative that needs no network, for the error.

    Raises:
        DownloadError: no file is cached and none can be downloaded, or the cached one is damaged.
    """
    for name in names:
        cached = huggingface_hub.try_to_load_from_cache(repository, name)
        if isinstance(cached, str):
            _check(Path(cached))
            return Path(cached)
    what = f"the weights ({size}) are" if size else f"{names[0]} is"
    place = place_of(repository)
    try:
        for name in names:
            found = _metadata(huggingface_hub.hf_hub_url(repository, name))
            if found is not None:
                if size and not name.endswith(".json"):
                    shown = amount(found.size) if found.size else size
                    _log.warning("downloading %s (%s) once from %s", name, shown, place)
                return _download(repository, name, found)
    except Exception as error:  # the Hub's client raises errors of its HTTP library, which depends on its version
        raise _refusal(error, what, place, instead) from error
    raise DownloadError(f"{place} has no {' or '.join(names)}, so there is no model to load: check the name.")


def fetch_texts(repository: str, *marks: tuple[str, ...]) -> Path:
    """The folder with all small files of a repository: configurations and tokenizer.

    The tokenizer's configuration is downloaded last: if it is cached, or known not to exist, all others are too.

    Args:
        repository: ORG/NAME on the Hub.
        marks: names of other files; if one of each is cached, the Hub is not queried.

    Raises:
        DownloadError: a file is not cached and cannot be downloaded, or is damaged.
    """
    cached = [[huggingface_hub.try_to_load_from_cache(repository, name) for name in names] for names in marks]
    here = [next((path for path in paths if isinstance(path, str)), None) for paths in cached]
    mark = huggingface_hub.try_to_load_from_cache(repository, MARK)
    found = [Path(path) for path in (mark, *here) if isinstance(path, str)]
    if mark is not None and None not in here and found:
        for file in sorted(path for pattern in TEXTS for path in found[0].parent.glob(pattern)):
            _check(file)
        return found[0].parent
    try:
        siblings = huggingface_hub.HfApi().model_info(repository, timeout=PATIENCE).siblings or []
    except Exception as error:
        raise _refusal(error, "the tokenizer is", place_of(repository), OFFLINE) from error
    names = [one.rfilename for one in siblings if any(fnmatch(one.rfilename, pattern) for pattern in TEXTS)]
    inside = sorted((name for name in names if "/" not in name), key=lambda name: name == MARK)
    if not inside:
        raise DownloadError(f"{place_of(repository)} has no tokenizer.")
    folder = one_folder(repository, lambda: [fetch(repository, (name,), "") for name in inside])
    if MARK not in inside:
        with contextlib.suppress(Exception):  # the Hub's client records in the cache that there is none
            huggingface_hub.hf_hub_download(repository, MARK)
    return folder


def one_folder(repository: str, collect: Callable[[], list[Path]]) -> Path:
    """The folder that contains all files; they are collected once more if the repository changed meanwhile.

    Raises:
        DownloadError: they still belong to several revisions.
    """
    for _ in range(2):
        folders = {file.parent for file in collect()}
        if len(folders) == 1:
            return folders.pop()
    raise DownloadError(f"{place_of(repository)} changed during the download: load the model again.")


def fetch_url(url: str, size: str) -> Path:
    """A file from a server other than the Hub, from open_clip's own folder for such files or from the network.

    Raises:
        DownloadError: it is missing and cannot be downloaded, or it is damaged.
    """
    folder = Path.home() / ".cache" / "clip"
    path, sha = folder / url.rpartition("/")[2], _sha_in(url)
    if path.is_file():
        if sha and not _digest(path).startswith(sha):
            raise _damaged(path)
        return path
    place = url.partition("://")[2]
    try:
        if huggingface_hub.constants.HF_HUB_OFFLINE:
            raise OfflineModeIsEnabled(url)
        found = huggingface_hub.get_hf_file_metadata(url, token=False, timeout=PATIENCE)
        _log.warning("downloading %s (%s) once from %s", path.name, amount(found.size) if found.size else size, place)
        _whole(path, folder / f"{path.name}.lock", url, {}, found.size, sha)
    except Exception as error:
        raise _refusal(error, f"the weights ({size}) are", place, OFFLINE, folder, "HOME") from error
    return path


def _metadata(url: str) -> Any:
    """The Hub's metadata of a file; None if the repository has no such file."""
    try:
        return huggingface_hub.get_hf_file_metadata(url, timeout=PATIENCE)
    except EntryNotFoundError:
        return None
    except Exception as error:  # a mirror of the Hub may not specify its 404
        response = getattr(error, "response", None)
        if isinstance(error, RepositoryNotFoundError) or response is None or response.status_code != 404:
            raise
        return None


def _download(repository: str, name: str, found: Any) -> Path:
    """Download a file of the Hub into its cache. One with a SHA-256 goes where the Hub's client finds and links it.

    The client itself starts over at each call, and does not compare checksums.
    """
    cache = Path(huggingface_hub.constants.HF_HUB_CACHE)
    folder = repo_folder_name(repo_id=repository, repo_type="model")
    etag = getattr(found, "etag", None) or ""
    if found.size and SHA256.fullmatch(etag):
        url = huggingface_hub.hf_hub_url(repository, name, revision=found.commit_hash)
        lock = cache / ".locks" / folder / f"{etag}.lock"
        _whole(cache / folder / "blobs" / etag, lock, url, build_hf_headers(), found.size, etag)
    else:
        _make_room(cache / folder, found.size or 0)
    path = Path(huggingface_hub.hf_hub_download(repository, name))
    try:
        _check(path)
    except DownloadError:
        for file in (path.resolve(), path):
            file.unlink(missing_ok=True)
        raise
    return path


def _whole(path: Path, lock: Path, url: str, headers: dict[str, str], size: int | None, sha: str) -> None:
    """Download a file under a lock; `path` exists only once it is complete and its checksum is correct."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock.parent.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(lock):
        part = path.with_name(f"{path.name}.eclip.incomplete")
        if path.exists():  # another process was faster
            part.unlink(missing_ok=True)
            return
        if not sha or size is None or (part.exists() and part.stat().st_size > size):
            part.unlink(missing_ok=True)  # whether the remainder matches could not be verified
        here = part.stat().st_size if part.exists() else 0
        _make_room(path.parent, (size or 0) - here)
        if here:
            _log.warning("resuming after the first %s", amount(here))
        _stream(url, part, headers, size)
        if sha and not _digest(part).startswith(sha):
            part.unlink()
            raise DownloadError(f"{url} arrived damaged: its checksum is wrong. It was discarded; try again")
        os.replace(part, path)


class _Part(io.BufferedWriter):
    """A file opened for appending that reports its progress to `watchers`."""

    def __init__(self, path: Path, name: str, size: int | None) -> None:
        super().__init__(io.FileIO(path, "ab"))
        self._download = name, size

    def write(self, data: Any, /) -> int:
        count, (name, size) = super().write(data), self._download
        for on_progress in watchers if size else []:
            on_progress(name, self.tell(), size or 0)
        return count


def _make_room(folder: Path, size: int) -> None:
    """Refuse a download that does not fit on the disk."""
    if free_space(folder) < size:
        raise OSError(errno.ENOSPC, "the file would not fit")


def _stream(url: str, part: Path, headers: dict[str, str], size: int | None) -> None:
    """Download the missing part of a file, with retries; partial data is kept unless the disk is full."""
    for left in reversed(range(ATTEMPTS)):
        here = part.stat().st_size if part.exists() else 0
        try:
            name = url.rpartition("/")[2]
            with _Part(part, name, size) as file:
                http_get(url, file, resume_size=here, headers=headers, expected_size=size, displayed_filename=name)
            return
        except Exception as error:
            if is_disk_full(error):
                part.unlink()
            if not left or isinstance(error, OSError) or getattr(error, "response", None) is not None:
                raise


def _sha_in(url: str) -> str:
    """The checksum, or its beginning, that some URLs contain: .../SHA/NAME (OpenAI), .../NAME-SHA.pt."""
    *_, folder, name = url.split("/")
    for found in (folder, Path(name).stem.rpartition("-")[2]):
        if re.fullmatch("[0-9a-f]{8}|[0-9a-f]{64}", found):
            return found
    return ""


def _check(path: Path) -> None:
    """Verify a cached file by the SHA-256 under which it is stored, and check that JSON is valid.

    A note records the size and modification time of a large file that was verified.
    """
    stored = path.parent / os.readlink(path) if path.is_symlink() else path  # one step: the blob may be a link itself
    if SHA256.fullmatch(stored.name) and stored.parent.name == "blobs":
        state = path.stat()
        note, now = cache_folder("whole") / stored.name, f"{state.st_size} {state.st_mtime_ns}"
        if state.st_size > SMALL and note.is_file() and note.read_text(encoding="utf-8") == now:
            return
        if _digest(path) != stored.name:
            raise _damaged(path)
        if state.st_size > SMALL:
            try:
                replace_file(note, now.encode())
            except ResultError as error:
                _log.debug("%s %s will be hashed again next time", error, path)
    if path.suffix == ".json":
        try:
            json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise _damaged(path) from error


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _damaged(path: Path) -> DownloadError:
    return DownloadError(
        f"the file {str(path)!r} is damaged: it differs from what was downloaded. Delete {str(path.resolve())!r} to "
        "download it again."
    )


def _refusal(
    error: Exception, what: str, place: str, instead: str, folder: Path | None = None, variable: str = "HF_HUB_CACHE"
) -> DownloadError:
    if isinstance(error, DownloadError):
        return DownloadError(str(error))
    folder = folder or Path(huggingface_hub.constants.HF_HUB_CACHE)
    why, helps = reason(error, place, folder, variable)
    return DownloadError(
        f"{what} not on this machine and cannot be downloaded from {place}: {why}{f'; {instead}' if helps else ''}."
    )
