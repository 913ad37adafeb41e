"""What a model is at one moment, so that maps and scores of one encoding are known to come from the same model."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import partial
from types import FunctionType, MethodType
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eclip.backbones.host import ADAPTED, HOOKS, global_hooks, image_side, of_host, text_side

if TYPE_CHECKING:
    from eclip.backbones.backbone import Backbone

State = tuple[object, ...]
"""A fingerprint of one side of a model."""
_ENTRIES = ("encode_image", "get_image_features"), ("encode_text", "get_text_features")
"""Methods of a whole model: of its image side, and of its text side."""
_CODE = (FunctionType, MethodType, partial)


def image_state(backbone: Backbone) -> State:
    """The fingerprint of the image side, and of the method that runs it."""
    return *_entries(backbone.model, _ENTRIES[0]), *fingerprint(*image_side(backbone))


def text_state(backbone: Backbone) -> State:
    """The same of the text side; some of its weights are the model's own."""
    own = backbone.model.__dict__["_parameters"].values()
    places = [_place(weight) for weight in own if weight is not None]
    return *_entries(backbone.model, _ENTRIES[1]), *places, *fingerprint(*text_side(backbone))


def _entries(model: nn.Module, names: tuple[str, ...]) -> list[Same]:
    return [Same(where.get(name)) for name in names for where in (model.__dict__, *map(vars, type(model).__mro__))]


class Same:
    """One object, equal to itself alone, whatever its class says; some hooks cannot be compared or hashed."""

    __slots__ = ("what",)

    def __init__(self, what: object) -> None:
        self.what = what

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and self.what is other.what

    def __hash__(self) -> int:
        return id(self.what)


def fingerprint(*roots: nn.Module) -> State:
    """Changes when a weight, a module, a hook, a `forward` or a factor below the roots changes, not with training mode.

    Values that were written past torch's count of versions (`weight.data.add_(1)`) are not seen.
    """
    found: list[object] = [Same(hook) for hooks in global_hooks() for hook in hooks.values()]
    found += (Same(F.scaled_dot_product_attention), Same(F.multi_head_attention_forward))  # people patch these
    foreign: dict[type, bool] = {}
    stack: list[nn.Module] = list(roots)
    while stack:  # `modules_of` without paths: this runs before every forward pass
        own = (module := stack.pop()).__dict__
        kind = type(module)
        if kind not in foreign:
            foreign[kind] = not of_host(kind)
        found.append(module)
        for value in own.values():
            if type(value) is float:  # such as the scale of an attention
                found.append(value)
            elif type(value) in _CODE:
                found.append(Same(value))
        if "forward" in own:
            found.append(Same(own["forward"]))
        if "config" in own:  # of transformers
            found.append(getattr(own["config"], "_attn_implementation", None))
        for name in HOOKS:
            if hooks := own[name]:
                found += map(Same, hooks.values())
        for group in (own["_parameters"], own["_buffers"]):
            for tensor in group.values():
                if tensor is not None:
                    found += _place(tensor)
        if foreign[kind]:
            found.append(_settings(kind, own))
        if children := own["_modules"]:
            stack += [child for child in children.values() if child is not None]
    for kind in foreign:
        for base in kind.__mro__:
            if base is nn.Module:
                break
            found += [id(value) for value in vars(base).values() if callable(value)]
    return tuple(found)


def _place(tensor: Tensor) -> tuple[object, ...]:
    try:
        return tensor.data_ptr(), tensor._version, tensor.dtype
    except RuntimeError:  # inference tensors count no versions, and some kinds of tensors have no one place
        return id(tensor), tensor.dtype


def _settings(kind: type[nn.Module], own: dict[str, Any]) -> str:
    """Plain values of a module that is none of a host's, such as which adapter is active and how it is scaled.

    Of others than adapters no numbers and lists, which may count passes or keep what went through.
    """
    simple = (bool, int, float, str, list, tuple, dict) if kind.__module__.startswith(ADAPTED) else (bool, float, str)
    return str({key: value for key, value in own.items() if isinstance(value, simple) and not key.endswith("hooks")})


def weights_digest(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """64 hexadecimal digits that follow from tensors and their names, whatever the device they are on."""
    whole = hashlib.sha256()
    for name, tensor in tensors:
        whole.update(name.encode())
        whole.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return whole.hexdigest()
