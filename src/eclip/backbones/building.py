"""Build models alike in every thread, whatever torch's defaults are, without touching the global random state.

Libraries initialize weights at random even if all of them are read from a file afterwards. Saving and restoring torch's
global random state around that would undo draws of other threads, and `torch.set_default_dtype` affects all threads.
The mode defined here affects only one thread.
"""

from __future__ import annotations

import contextlib
import inspect
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

INITIAL = tuple(
    name
    for name, one in inspect.getmembers(nn.init, inspect.isfunction)
    if name.endswith("_") and "generator" in inspect.signature(one).parameters
)
"""Functions of `torch.nn.init` that draw random values."""
DRAWN = ("uniform_", "normal_", "random_", "bernoulli_", "exponential_", "log_normal_", "cauchy_", "geometric_")
"""Methods of a tensor that draw its values at random."""
DRAWING = ("rand", "randn", "randint", "randperm", "normal", "bernoulli", "multinomial")
"""Functions that draw a new random tensor."""
FLOATING = ("empty", "zeros", "ones", "rand", "randn", "linspace", "logspace", "eye")
"""Functions whose result has the default dtype if none is given."""
BY_VALUE = ("tensor", "as_tensor", "asarray", "full", "arange", "scalar_tensor")
"""Functions whose result has the default dtype if the values are Python floats."""


@contextlib.contextmanager
def built_apart(seed: int = 0, *, draw: bool = True) -> Iterator[None]:
    """New tensors are on the CPU and in float32 unless specified otherwise; random ones use this seed.

    Without `draw`, weights that would be random are NaN until they are read from a file, which takes a fraction of the
    time and cannot be overlooked.
    """
    generator = torch.Generator("cpu").manual_seed(seed)
    with torch.inference_mode(False), torch.device("cpu"), _Apart(generator, draw):
        yield


class _Apart(TorchFunctionMode):
    def __init__(self, generator: torch.Generator, draw: bool) -> None:
        super().__init__()
        self.generator, self.draw = generator, draw

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs, name = dict(kwargs or {}), getattr(func, "__name__", "")
        initial = name in INITIAL and getattr(func, "__module__", "") == "torch.nn.init"  # its inner calls are not seen
        if initial or (name in DRAWN and getattr(torch.Tensor, name) == func):
            given = args[0] if args else kwargs["tensor"]
            if kwargs.get("generator") is None:  # not given, as it would be by a mode within this one
                if not self.draw and isinstance(given, nn.Parameter):
                    with torch.no_grad():
                        return given.fill_(math.nan)
                if given.device.type == "cpu":
                    kwargs["generator"] = self.generator
        elif getattr(torch, name, None) is func:
            if name in DRAWING and kwargs.get("generator") is None and _is_cpu(kwargs.get("device")):
                kwargs["generator"] = self.generator
            if kwargs.get("dtype") is None and (name in FLOATING or (name in BY_VALUE and _is_floating(args))):
                kwargs["dtype"] = torch.float32
        return func(*args, **kwargs)


def _is_cpu(device: Any) -> bool:
    return device is None or torch.device(device).type == "cpu"


def _is_floating(values: Any) -> bool:
    """Whether any value, at any depth, is a Python float."""
    return isinstance(values, float) or (isinstance(values, list | tuple) and any(_is_floating(one) for one in values))
