"""The processes of one run, as `torchrun` starts them; what they do together a single one does alone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

PATIENCE = timedelta(days=1)
"""For the slowest to encode its share; torch's own ten minutes are too few, and of one that dies torchrun ends all."""


@contextmanager
def joined(device: str) -> Iterator[tuple[int, int, str]]:
    """(rank, of how many, device) of this process, which is alone if `torchrun` did not start it.

    A process group that is there already is used and left; one that is made here is taken down again. Of one that
    `torchrun` did not make, each process takes the device that it is given.
    """
    if "LOCAL_RANK" not in os.environ and not dist.is_initialized():
        yield 0, 1, device
        return
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and "LOCAL_RANK" in os.environ:
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    if made := not dist.is_initialized():
        dist.init_process_group("nccl" if device.startswith("cuda") else "gloo", timeout=PATIENCE)
    try:
        yield dist.get_rank(), dist.get_world_size(), device
    finally:
        if made:
            dist.destroy_process_group()


def wait() -> None:
    """Until all have come here."""
    if dist.is_initialized():
        dist.barrier()


def largest(number: int, device: torch.device) -> int:
    """The largest number that any of them gives."""
    if not dist.is_initialized():
        return number
    shared = torch.tensor(number, dtype=torch.long, device=device)
    dist.all_reduce(shared, dist.ReduceOp.MAX)
    return int(shared)


def everyones(found: dict[int, str]) -> dict[int, str]:
    """What all of them found."""
    if not dist.is_initialized():
        return found
    parts: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(parts, found)
    return {place: why for part in parts for place, why in part.items()}
