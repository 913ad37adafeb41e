"""Fingerprints of a model's state, which ensure that maps and scores of an encoding come from the same model."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from hashlib import sha256
from types import FunctionType, MethodType
from typing import TYPE_CHECKING, Any

import torch.nn.functional as F
from torch import Tensor, nn

from eclip.backbones.host import ADAPTED, HOOKS, global_hooks, image_side, modules_of, named_tensors, of_host, text_side
from eclip.errors import StaleEncodingError
from eclip.files import hash_weights

if TYPE_CHECKING:
    from eclip.backbones.backbone import Backbone

PROBE = ["The 2 quick brown foxes jump, isn't it?"]

State = tuple[object, ...]
"""A fingerprint of one side of a model."""
_READ = frozenset((float, FunctionType, MethodType, partial))
"""Types of the plain attributes that any module is asked for, such as the scale of an attention."""


def image_state(backbone: Backbone) -> State:
    """The fingerprint of the image side, and of the method that runs it."""
    return *_entries(backbone.model, "encode_image", "get_image_features"), *fingerprint(*image_side(backbone))


def text_state(backbone: Backbone) -> State:
    """As `image_state`, of the text side, some of whose weights belong to the model itself."""
    own = backbone.model.__dict__["_parameters"].values()
    places = [_place(weight) for weight in own if weight is not None]
    entries = _entries(backbone.model, "encode_text", "get_text_features")
    return *entries, *places, *fingerprint(*text_side(backbone))


def check_text_state(backbone: Backbone, before: State) -> None:
    """Raise StaleEncodingError if the text side has changed since this was its `text_state`."""
    if text_state(backbone) != before:
        raise StaleEncodingError(
            f"the text side of {backbone.name} has changed since it encoded the texts: ask again, so that "
            "texts and images are of the same model."
        )


def whole_state(backbone: Backbone) -> State:
    """The fingerprints of both sides, and of the head, if any."""
    head = () if backbone.head is None else fingerprint(backbone.head)
    return *image_state(backbone), *text_state(backbone), *head


def _entries(model: nn.Module, *names: str) -> list[Same]:
    """Methods of a whole model, and what replaces them."""
    return [Same(where.get(name)) for name in names for where in (model.__dict__, *map(vars, type(model).__mro__))]


class Same:
    """An object compared by identity, whatever its class defines; some hooks cannot be compared or hashed."""

    __slots__ = ("what",)

    def __init__(self, what: object) -> None:
        self.what = what

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and self.what is other.what

    def __hash__(self) -> int:
        return id(self.what)


def fingerprint(*roots: nn.Module) -> State:
    """Changes when a weight, module, hook, `forward` or scale factor below the roots changes, not with training mode.

    Writes that bypass torch's version counter (`weight.data.add_(1)`) are not detected.
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
            if type(value) in _READ:
                found.append(value if type(value) is float else Same(value))
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
    except RuntimeError:  # inference tensors have no version, and some kinds of tensors no single address
        return id(tensor), tensor.dtype


def _settings(kind: type[nn.Module], own: dict[str, Any]) -> str:
    """Plain attributes of a module that is not the host's, such as the active adapter and its scale.

    Except for adapters, integers and lists are left out, since they may count passes or store activations.
    """
    simple = (bool, int, float, str, list, tuple, dict) if kind.__module__.startswith(ADAPTED) else (bool, float, str)
    named = {key: value for key, value in own.items() if key != "training" and not key.endswith("hooks")}
    return str({key: value for key, value in named.items() if isinstance(value, simple)})


def identity(backbone: Backbone, head: nn.Module | None) -> dict[str, str]:
    """What tells a model and a head from others of the same name: 16 hexadecimal digits of each of three hashes.

    They are of the weights, of the modules' `structure`, and of the token ids of a text; equal in every process.
    """
    roots = [backbone.model] if head is None else [backbone.model, head]
    parts = {
        "weights": hash_weights(stored(*roots)),
        "modules": sha256(structure(*roots).encode()),
        "tokens": sha256(backbone.tokenize(PROBE).cpu().numpy().tobytes()),
    }
    return {name: one.hexdigest()[:16] for name, one in parts.items()}


def stored(*roots: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """All weights and buffers below the roots, also those that torch.ao keeps packed."""
    for root in roots:
        yield from named_tensors(root)
        for path, module in modules_of(root):
            if "_packed_params" in module.__dict__ and (unpack := getattr(module, "_weight_bias", None)) is not None:
                yield from ((path, value.dequantize()) for value in unpack() if value is not None)


def structure(*roots: nn.Module) -> str:
    """All that makes modules with the same weights compute otherwise, in words that are the same in every process.

    These are their classes, the names of hooks and replaced `forward`s, and the settings of adapters.
    """
    lines = []
    for path, module in modules_of(*roots):
        kind, own = type(module), module.__dict__
        added = [one for name in HOOKS[:2] for one in own[name].values()]
        added += [own["forward"]] if "forward" in own else []
        names = [getattr(one, "__qualname__", type(one).__qualname__) for one in added]
        settings = "" if of_host(kind) else re.sub(r" at 0x\w+", "", _settings(kind, own))
        lines.append(f"{path} {kind.__module__}.{kind.__qualname__} {names} {settings}")
    return "\n".join(lines)
