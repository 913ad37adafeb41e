"""Gradients through a host's own layers, without silently losing any part of them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from eclip.backbones.host import backward_hook, image_side, text_side
from eclip.errors import AlteredModelError, GradientError

if TYPE_CHECKING:
    from eclip.backbones.backbone import Backbone


class _Watch(TorchFunctionMode):
    """Raises if an operation takes a differentiable value and returns one that is not."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        answer = func(*args, **(kwargs or {}))
        if isinstance(answer, Tensor) and answer.is_floating_point() and not _has_slope(answer):
            name = str(getattr(func, "__name__", func))
            if name not in _VALUELESS and not name.startswith("new_") and not name.endswith("_like"):
                values = args[:1] if name == "to" or name.endswith("_as") else (*args, *(kwargs or {}).values())
                inputs = [one for one in values if isinstance(one, Tensor)]
                if any(one.requires_grad and not _is_weight(one) for one in inputs):
                    raise GradientError(self.backbone.name, self.backbone.family, _operation(func))
        return answer


def _is_weight(value: Tensor) -> bool:
    """A weight of the model or a part of one, whose gradient is not needed."""
    return isinstance(value, nn.Parameter) or (value._is_view() and isinstance(value._base, nn.Parameter))


def _has_slope(value: Tensor) -> bool:
    """Operators without a derivative, such as those of int8 layers, leave a graph node that propagates nothing."""
    return value.requires_grad and (value.grad_fn is None or "NotImplemented" not in value.grad_fn.name())


_VALUELESS = ("detach", "__get__")
"""Deliberate ways to take a value out of the graph; in a host's own code they are part of its training."""


def _operation(func: Any) -> str:
    name = str(func)
    return name if "." in name and " " not in name else str(getattr(func, "__name__", name))


def watched(backbone: Backbone, *, text: bool = False) -> TorchFunctionMode:
    """Inside, a step of the host that is not differentiable is an error, since part of the gradient would be lost.

    Raises:
        AlteredModelError: a module has a backward hook, which may change gradients and would see many texts at once.
        GradientError: there is such a step.
    """
    where = backward_hook(backbone.model, text_side(backbone) if text else image_side(backbone))
    if where is not None:
        raise AlteredModelError(
            f"{backbone.name}: a backward hook is registered on {where} and may change the gradients of this method. "
            "Remove the hook (handle.remove()), then explain again, or use a method without gradients, such as "
            "'surgery'."
        )
    return _Watch(backbone)


@contextlib.contextmanager
def gradients(backbone: Backbone, *, text: bool = False) -> Iterator[None]:
    """Gradients enabled and `watched`."""
    with torch.enable_grad(), watched(backbone, text=text):
        yield
