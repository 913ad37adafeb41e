"""Files of the Hugging Face Hub: from the cache, or fetched once with a word of warning."""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import EntryNotFoundError

from eclip.backbones.catalog import DEFAULT_MODEL
from eclip.errors import DownloadError

PATIENCE = 5.0
"""Seconds that the hub has for its first answer."""

_log = logging.getLogger("eclip")


def fetch(repository: str, names: tuple[str, ...], size: str) -> Path:
    """The first of these files that a repository of the hub has, from the cache or else from the network.

    The hub is asked for the size first: to tell the user, and because a fetch without network retries for a minute.
    """
    for name in names:
        cached = huggingface_hub.try_to_load_from_cache(repository, name)
        if isinstance(cached, str):
            return Path(cached)
    place = f"huggingface.co/{repository}"
    try:
        for name in names:
            with contextlib.suppress(EntryNotFoundError):
                url = huggingface_hub.hf_hub_url(repository, name)
                found = huggingface_hub.get_hf_file_metadata(url, timeout=PATIENCE)
                if not name.endswith(".json"):
                    mebibytes = f"{found.size / 2**20:,.0f} MiB" if found.size else size
                    _log.warning("%s, %s, is fetched once from %s", name, mebibytes, place)
                return Path(huggingface_hub.hf_hub_download(repository, name))
    except Exception as error:  # the hub passes on errors of its HTTP library, and which library depends on its version
        raise DownloadError(
            f"the weights{size and f' ({size})'} are not on this machine and cannot be fetched from {place} "
            f"({str(error).splitlines()[0][:120]}); the model {DEFAULT_MODEL!r} is in the package and needs no network."
        ) from error
    raise DownloadError(f"{place} has no {' or '.join(names)}, so it holds no model to read here.")
