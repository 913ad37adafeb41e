"""The processes of one run, as `torchrun` starts them; what they do together a single one does alone.

The process group is the run's own, and its threads are joined before `joined` is left. A thread of gloo lets go of a
tensor a moment after the process has its result, and takes the interpreter's lock for that: one that waits for it when
the interpreter goes down aborts the process ("terminate called without an active exception"). So no collective runs in
a group that others made, which they may never destroy, and nothing but this module holds the run's own; the reducer of
`DistributedDataParallel`, which lives as long as the traceback of an error, would.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from eclip.errors import TrainingError

PATIENCE = timedelta(days=1)
"""For the slowest to encode its share; torch's own ten minutes are too few, and of one that dies torchrun ends all."""
_groups: list[Any] = []
"""That of the run under way; empty where a process is alone."""


@contextmanager
def joined(device: str) -> Iterator[tuple[int, int, str]]:
    """(rank, of how many, device) of this process, which is alone if `torchrun` did not start it.

    A process group that is there already is left as it was: the run makes its own beside it. Of one that `torchrun`
    did not make, each process takes the device that it is given.

    Without an error all processes leave together, so that the first keeps the store of the group until then. One that
    has an error of its own waits for none, as the others may never come; these hear of it as a TrainingError.
    """
    if "LOCAL_RANK" not in os.environ and not dist.is_initialized():
        yield 0, 1, device
        return
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and "LOCAL_RANK" in os.environ:
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    kind = torch.device(device).type
    backend = "nccl" if kind == "cuda" else "gloo"
    if made := not dist.is_initialized():
        dist.init_process_group(backend, timeout=PATIENCE)
        _groups.append(dist.group.WORLD)
    else:
        fits = f"{kind}:" in dist.get_backend_config()
        _groups.append(dist.new_group(backend=None if fits else backend, timeout=PATIENCE))
    try:
        yield *place(), device
        wait(device)
    finally:
        group = _groups.pop()
        dist.destroy_process_group(None if made else group)
        del group  # the last that held it: its threads are joined here


def place() -> tuple[int, int]:
    """The rank of this one, and how many there are."""
    return (dist.get_rank(), dist.get_world_size()) if _groups else (0, 1)


def wait(device: str | torch.device) -> None:
    """Until all have come here."""
    largest(0, device)


def largest(number: int, device: str | torch.device) -> int:
    """The largest number that any of them gives."""
    if not _groups:
        return number
    shared = torch.tensor(number, dtype=torch.long, device=device)
    _all(dist.all_reduce, shared, dist.ReduceOp.MAX)
    return int(shared)


def everyones(found: dict[int, str]) -> dict[int, str]:
    """What all of them found."""
    if not _groups:
        return found
    parts: list[Any] = [None] * dist.get_world_size()
    _all(dist.all_gather_object, parts, found)
    return {place: why for part in parts for place, why in part.items()}


def gathered(mine: Tensor) -> Tensor:
    """The rows of all of them in the order of their ranks; without gradient."""
    if not _groups:
        return mine.detach()
    rows = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    _all(dist.all_gather, rows, mine.detach().contiguous())
    return torch.cat(rows)


def add_up(tensors: Sequence[Tensor]) -> None:
    """Replace each tensor, in place, by its sum over them."""
    if not _groups:
        return
    flat = torch.cat([tensor.detach().flatten() for tensor in tensors])
    _all(dist.all_reduce, flat)
    for tensor, total in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.detach().copy_(total.view_as(tensor))


def begin_alike(tensors: Iterable[Tensor]) -> None:
    """Replace each tensor, in place, by that of the first of them."""
    for tensor in tensors if _groups else ():
        _all(dist.broadcast, tensor.detach(), 0)


def _all(collective: Callable[..., Any], *given: Any) -> None:
    try:
        collective(*given, group=_groups[-1])
    except RuntimeError as error:
        reason = str(error).strip().partition("\n")[0]
        raise TrainingError(
            f"process {dist.get_rank()} of {dist.get_world_size()} cannot go on with the others ({reason}). If one of "
            "them stopped first, its own error is the cause."
        ) from error.with_traceback(None)  # whose frames hold the group
