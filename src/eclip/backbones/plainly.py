"""The one state in which models are run: evaluation mode, ordinary tensors, no gradients, full precision.

Training flags belong to the modules, not to a thread. So users of a module are counted, by all threads and models that
share it: the first one in switches it to evaluation mode, the last one out restores what its owner set.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from eclip.errors import ModelError


@dataclass(eq=False, slots=True)
class _Held:
    """A module in use.

    Attributes:
        module: kept alive no longer than it is in use.
        training: its flag as its owner wants it.
        users: how many are inside.
        disturbed: how often its owner switched it to training mode while it was in use.
    """

    module: nn.Module
    training: bool
    users: int = 0
    disturbed: int = 0


_held: dict[int, _Held] = {}
"""id of a module -> its users; of modules in use alone."""
_lock = threading.RLock()  # a signal handler may explain too


@contextlib.contextmanager
def plainly(model: nn.Module) -> Iterator[None]:
    """Evaluation mode and ordinary tensors without gradients for the time of the block, whatever surrounds it.

    Every module's own mode is restored when nobody uses it any longer. Autocast and inference mode rest: they change
    values or forbid gradients.

    Raises:
        ModelError: another thread has called `model.train()` in the meantime, so the values may be those of training.
    """
    device = next(model.parameters()).device.type
    inside: list[tuple[_Held, int]] = []
    disturbed = False
    try:
        with _lock:
            for module in model.modules():
                inside.append(_enter(module))
        with torch.inference_mode(False), torch.no_grad(), torch.autocast(device, enabled=False):
            yield
    finally:
        with _lock:
            for held, before in inside:
                disturbed |= _leave(held, before)
    if disturbed:
        raise ModelError(
            f"{type(model).__name__} was put into training mode while it was run, so the result would be random: call "
            "train() before or after, or explain a copy, eclip.wrap(copy.deepcopy(model), ...)."
        )


def _enter(module: nn.Module) -> tuple[_Held, int]:
    """One user more, and how often the module was disturbed before."""
    held = _held.get(id(module))
    if held is None:
        held = _Held(module, module.training)
        module.training = False
        _held[id(module)] = held
    _notice(held)
    held.users += 1
    return held, held.disturbed


def _leave(held: _Held, before: int) -> bool:
    """One user less, and whether the module was disturbed since it came in."""
    _notice(held)
    held.users -= 1
    if not held.users:
        del _held[id(held.module)]
        if held.training:
            held.module.training = True
    return held.disturbed > before


def _notice(held: _Held) -> None:
    """Its owner wants it in training mode from now on, but whoever is inside needs it as it is."""
    if held.module.training:
        held.training, held.module.training = True, False
        held.disturbed += 1
