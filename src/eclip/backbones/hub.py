"""Files of the Hugging Face Hub: from the cache, or fetched once, whole and checked, with a word of warning.

A download that was cut goes on where it stopped, in this process or in the next one. What is large comes with its
SHA-256, against which it is held before it enters the cache and again when it is read from there.
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

OFFLINE = f"the model {DEFAULT_MODEL!r} is in the package and needs no network"
PATIENCE = 5.0
"""Seconds that the hub has for its first answer."""
ATTEMPTS = 3
"""So often a cut download goes on in one call, besides the attempts of the Hub's client."""
SMALL = 16 * 2**20
"""Bytes of a file that is hashed at every reading; a larger one when it has changed since the last time."""
TEXTS, MARK = ("*.json", "*.txt", "*.model"), "tokenizer_config.json"
"""Small files beside the weights, and the last of them to be fetched."""
watchers: list[Callable[[str, int, int], None]] = []
"""Told of a file that is being fetched its name, the bytes that are here, and all of them."""
SHA256 = re.compile("[0-9a-f]{64}")

_log = logging.getLogger("eclip")


def fetch(repository: str, names: tuple[str, ...], size: str, instead: str = OFFLINE) -> Path:
    """The first of these files that a repository of the hub has, from the cache or else from the network.

    The hub is asked for the size first: to tell the user, and because a fetch without network retries for a minute.

    Args:
        repository: of the hub.
        names: of files, the best first.
        size: of the weights in words, in case that the hub does not say; empty if it is no matter.
        instead: what needs no network, for the error.

    Raises:
        DownloadError: none of the files is here, and none can be had; or the one in the cache is damaged.
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
                    said = amount(found.size) if found.size else size
                    _log.warning("%s, %s, is fetched once from %s", name, said, place)
                return _download(repository, name, found)
    except Exception as error:  # the hub passes on errors of its HTTP library, and which library depends on its version
        raise _refusal(error, what, place, instead) from error
    raise DownloadError(f"{place} has no {' or '.join(names)}, so it holds nothing to read here: check the name.")


def fetch_texts(repository: str, *marks: tuple[str, ...]) -> Path:
    """The folder with all small files of a repository: configurations and tokenizer.

    The tokenizer's configuration is fetched last: where it is, or is known not to exist, the rest is too.

    Args:
        repository: of the hub.
        marks: names of other files; if the cache has one of each, the hub is not asked.

    Raises:
        DownloadError: a file is neither here nor can it be had, or is damaged.
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
        with contextlib.suppress(Exception):  # the hub's client notes in the cache that there is none
            huggingface_hub.hf_hub_download(repository, MARK)
    return folder


def one_folder(repository: str, collect: Callable[[], list[Path]]) -> Path:
    """The folder that all files are in; they are collected once more if the repository moved on meanwhile.

    Raises:
        DownloadError: they are still of several revisions.
    """
    for _ in range(2):
        folders = {file.parent for file in collect()}
        if len(folders) == 1:
            return folders.pop()
    raise DownloadError(f"{place_of(repository)} changes while it is fetched: load the model again.")


def fetch_url(url: str, size: str) -> Path:
    """A file of another server than the hub, in open_clip's own folder for those, from there or from the network.

    Raises:
        DownloadError: it is not here and cannot be had, or it is damaged.
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
        _log.warning("%s, %s, is fetched once from %s", path.name, amount(found.size) if found.size else size, place)
        _whole(path, folder / f"{path.name}.lock", url, {}, found.size, sha)
    except Exception as error:
        raise _refusal(error, f"the weights ({size}) are", place, OFFLINE, folder, "HOME") from error
    return path


def _metadata(url: str) -> Any:
    """What the hub says about a file; None if the repository has no such file."""
    try:
        return huggingface_hub.get_hf_file_metadata(url, timeout=PATIENCE)
    except EntryNotFoundError:
        return None
    except Exception as error:  # a mirror of the hub may not say of what kind its 404 is
        response = getattr(error, "response", None)
        if isinstance(error, RepositoryNotFoundError) or response is None or response.status_code != 404:
            raise
        return None


def _download(repository: str, name: str, found: Any) -> Path:
    """A file of the hub, put into its cache. What has a SHA-256 is put where the hub's client finds it, and links it.

    The client itself begins anew at each call, and does not compare checksums.
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
    """Fetch a file under a lock; `path` is there when it is whole and its checksum right, and never before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock.parent.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(lock):
        part = path.with_name(f"{path.name}.eclip.incomplete")
        if path.exists():  # another process was faster
            part.unlink(missing_ok=True)
            return
        if not sha or size is None or (part.exists() and part.stat().st_size > size):
            part.unlink(missing_ok=True)  # nothing would tell whether the rest fits
        here = part.stat().st_size if part.exists() else 0
        _make_room(path.parent, (size or 0) - here)
        if here:
            _log.warning("it goes on after the %s that are here", amount(here))
        _stream(url, part, headers, size)
        if sha and not _digest(part).startswith(sha):
            part.unlink()
            raise DownloadError(f"{url} came damaged: its checksum is wrong. Nothing of it was kept; try again")
        os.replace(part, path)


class _Part(io.BufferedWriter):
    """A file that is written at its end, and says so to those who watch."""

    def __init__(self, path: Path, name: str, size: int | None) -> None:
        super().__init__(io.FileIO(path, "ab"))
        self._told = name, size

    def write(self, data: Any, /) -> int:
        count, (name, size) = super().write(data), self._told
        for on_progress in watchers if size else []:
            on_progress(name, self.tell(), size or 0)
        return count


def _make_room(folder: Path, size: int) -> None:
    """Begin nothing that cannot end."""
    if free_space(folder) < size:
        raise OSError(errno.ENOSPC, "it would not fit")


def _stream(url: str, part: Path, headers: dict[str, str], size: int | None) -> None:
    """Fetch what the file lacks, and again after a cut; what came stays, unless the disk is full."""
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
    """The checksum, or its beginning, that some addresses carry: .../SHA/NAME of OpenAI's, .../NAME-SHA.pt."""
    *_, folder, name = url.split("/")
    for found in (folder, Path(name).stem.rpartition("-")[2]):
        if re.fullmatch("[0-9a-f]{8}|[0-9a-f]{64}", found):
            return found
    return ""


def _check(path: Path) -> None:
    """Hold a file of the cache against the SHA-256 that it is stored under, or see whether it is JSON at all.

    Raises:
        DownloadError: it is damaged.
    """
    stored = path.parent / os.readlink(path) if path.is_symlink() else path  # one step: the blob may be a link itself
    if SHA256.fullmatch(stored.name) and stored.parent.name == "blobs":
        state = path.stat()
        note, now = _notes() / stored.name, f"{state.st_size} {state.st_mtime_ns}"
        if state.st_size > SMALL and note.is_file() and note.read_text(encoding="utf-8") == now:
            return
        if _digest(path) != stored.name:
            raise _damaged(path)
        if state.st_size > SMALL:
            try:
                replace_file(note, now.encode())
            except ResultError as error:
                _log.debug("%s So %s is hashed again next time", error, path)
    if path.suffix == ".json":
        try:
            json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise _damaged(path) from error


def _notes() -> Path:
    """Where it is noted which large files were found whole, under size and time of change."""
    return cache_folder("whole")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _damaged(path: Path) -> DownloadError:
    return DownloadError(
        f"the file {str(path)!r} is damaged: it is not what was fetched. Delete {str(path.resolve())!r}, and it is "
        "fetched anew."
    )


def _refusal(
    error: Exception, what: str, place: str, instead: str, folder: Path | None = None, variable: str = "HF_HUB_CACHE"
) -> DownloadError:
    if isinstance(error, DownloadError):
        return DownloadError(str(error))
    folder = folder or Path(huggingface_hub.constants.HF_HUB_CACHE)
    why, helps = reason(error, place, folder, variable)
    return DownloadError(
        f"{what} not on this machine and cannot be fetched from {place}: {why}{f'; {instead}' if helps else ''}."
    )
