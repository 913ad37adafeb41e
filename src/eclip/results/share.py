"""The share of the work that this process takes, where several divide it."""

from __future__ import annotations

import os
import re
from typing import Any

from eclip.errors import OptionError


def shard_of(given: str | None) -> tuple[int, int]:
    """The part of the work that "I/N" means, from 0, and of how many; None is all of it.

    Under torchrun, each process takes its own, or with "0/1" all of it.

    Raises:
        OptionError: it is not of this form, or is another part than these under torchrun.
    """
    rank, world = os.environ.get("RANK"), os.environ.get("WORLD_SIZE")
    if rank is not None and world is not None and given != "0/1":
        if given is not None:
            raise OptionError(
                "under torchrun, each process takes its own share of the work: leave --shard out, or give 0/1 if one "
                "process alone is to do all of it."
            )
        return int(rank), int(world)
    if given is None:
        return 0, 1
    found = re.fullmatch(r"(\d+)/(\d+)", given) if isinstance(given, str) else None
    if found is None or not int(found[1]) < int(found[2]):
        raise OptionError(f"shard must be I/N with 0 <= I < N, such as 0/4 for the first of four, got {given!r}.")
    return int(found[1]), int(found[2])


def own_device(device: Any) -> Any:
    """The device of this process: under torchrun, the GPU with its number."""
    rank = os.environ.get("LOCAL_RANK")
    if rank is None or str(device) not in ("auto", "cuda"):
        return device
    import torch

    return f"cuda:{rank}" if torch.cuda.is_available() else device
