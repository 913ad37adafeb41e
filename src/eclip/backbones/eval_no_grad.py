"""The state in which models are run: evaluation mode, ordinary tensors, no gradients, no autocast.

Training flags belong to modules, not to a thread. So the users of a module are counted across all threads and models
that share it: the first one in switches it to evaluation mode, the last one out restores what its owner set.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from eclip.backbones.host import all_modules, alone, is_compiled, named_weights
from eclip.errors import ModelError


@dataclass(eq=False, slots=True)
class _Held:
    """A module in use, kept alive only as long."""

    module: nn.Module
    training: bool  # the flag that its owner wants
    users: int = 0  # how many are inside
    disturbed: int = 0  # how often its owner switched it to training mode meanwhile


_held: dict[int, _Held] = {}
"""id of a module -> its users; only for modules in use."""
_lock = threading.RLock()  # a signal handler may explain too


@contextlib.contextmanager
def eval_no_grad(model: nn.Module) -> Iterator[None]:
    """Evaluation mode and ordinary tensors without gradients inside the block, whatever surrounds it.

    Every module's own mode is restored when its last user leaves. Autocast and inference mode are off inside, because
    they change values or forbid gradients.

    Raises:
        ModelError: another thread called `model.train()` in the meantime, so values may come from training mode.
    """
    # The flag of a module that torch.compile made is that of the module inside, which is below the model too.
    modules = [module for module in all_modules(model) if not is_compiled(module)]
    device = next(named_weights(model))[1].device.type
    inside: list[tuple[_Held, int]] = []
    disturbed = False
    try:
        with _lock:
            for module in modules:
                held = _held.get(id(module))
                if held is None:
                    held = _held[id(module)] = _Held(module, module.training)
                    if held.training:
                        module.training = False
                elif module.training:
                    _rest(held)
                held.users += 1
                inside.append((held, held.disturbed))
        with alone(modules), torch.inference_mode(False), torch.no_grad(), torch.autocast(device, enabled=False):
            yield
    finally:
        with _lock:
            for held, before in inside:
                module = held.module
                if module.training:
                    _rest(held)
                disturbed |= held.disturbed > before
                held.users -= 1
                if not held.users:
                    del _held[id(module)]
                    if held.training:
                        module.training = True
    if disturbed:
        raise ModelError(
            f"{type(model).__name__} was put into training mode while eclip ran it, so results would be random: call "
            "train() before or after, or explain a copy with eclip.wrap(copy.deepcopy(model), ...)."
        )


def _rest(held: _Held) -> None:
    """Record that its owner wants training mode from now on, but keep evaluation mode for those inside."""
    held.training, held.module.training = True, False
    held.disturbed += 1
