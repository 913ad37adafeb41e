"""Communication between the processes of a run under `torchrun`; a single process needs none.

The run has its own process group, whose threads are joined before `joined` exits. A gloo thread releases a tensor
shortly after the process has the result, and takes the GIL for it; if it waits for the GIL while the interpreter shuts
down, the process aborts ("terminate called without an active exception"). Therefore no collective runs in a group
made by others, who may never destroy it, and only this module holds a reference to the run's own group; the reducer of
`DistributedDataParallel`, which lives as long as the traceback of an error, would hold another.
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
"""Timeout for the slowest to encode its share; torch's ten minutes are too short. If one dies, torchrun ends all."""
_groups: list[Any] = []
"""The group of the current run; empty if there is a single process."""


@contextmanager
def joined(device: str) -> Iterator[tuple[int, int, str]]:
    """(rank, number of processes, device) of this process, which is the only one unless `torchrun` started it.

    An existing process group is not changed: the run creates its own in addition. If `torchrun` did not start the
    processes, each uses the device that it is given.

    Without an error, all processes exit together, because the first holds the store of the group. A process that fails
    does not wait, because the others may never arrive; these raise a TrainingError.
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
    with _in_contact():  # another process can fail while this one still connects
        if made := not dist.is_initialized():
            try:
                dist.init_process_group(backend, timeout=PATIENCE)
            except ValueError as error:
                raise TrainingError(
                    f"LOCAL_RANK is set, as by torchrun, but not all that goes with it ({error}): start the run with "
                    "torchrun, or unset LOCAL_RANK."
                ) from error
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
        del group  # the last reference: its threads are joined here


def place() -> tuple[int, int]:
    """The rank of this process and the number of processes."""
    return (dist.get_rank(), dist.get_world_size()) if _groups else (0, 1)


def wait(device: str | torch.device) -> None:
    """Wait for all processes."""
    largest(0, device)


def largest(number: int, device: str | torch.device) -> int:
    """The largest number over all processes."""
    if not _groups:
        return number
    shared = torch.tensor(number, dtype=torch.long, device=device)
    _all(dist.all_reduce, shared, dist.ReduceOp.MAX)
    return int(shared)


def everyones(found: dict[int, str]) -> dict[int, str]:
    """The merged dicts of all processes."""
    if not _groups:
        return found
    parts: list[Any] = [None] * dist.get_world_size()
    _all(dist.all_gather_object, parts, found)
    return {place: why for part in parts for place, why in part.items()}


def gathered(mine: Tensor) -> Tensor:
    """The rows of all processes in the order of their ranks, without gradient."""
    if not _groups:
        return mine.detach()
    rows = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    _all(dist.all_gather, rows, mine.detach().contiguous())
    return torch.cat(rows)


def add_up(tensors: Sequence[Tensor]) -> None:
    """Replace each tensor, in place, by its sum over all processes."""
    if not _groups:
        return
    flat = torch.cat([tensor.detach().flatten() for tensor in tensors])
    _all(dist.all_reduce, flat)
    for tensor, total in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.detach().copy_(total.view_as(tensor))


def begin_alike(tensors: Iterable[Tensor]) -> None:
    """Replace each tensor, in place, by that of the first process."""
    for tensor in tensors if _groups else ():
        _all(dist.broadcast, tensor.detach(), 0)


def _all(collective: Callable[..., Any], *given: Any) -> None:
    with _in_contact():
        collective(*given, group=_groups[-1])


@contextmanager
def _in_contact() -> Iterator[None]:
    """Turn torch's errors of communication into a TrainingError."""
    try:
        yield
    except RuntimeError as error:
        reason = str(error).strip().partition("\n")[0]
        own = f"process {dist.get_rank()} of {dist.get_world_size()}" if dist.is_initialized() else "this process"
        raise TrainingError(
            f"{own} lost contact with the others ({reason}). If another process failed first, its error is the cause."
        ) from error.with_traceback(None)  # its frames hold the group
