"""The modules of a host model: plain layers of torch, or adapters, hooks and replaced parts.

Blocks are recomputed from the host's weights. If a layer is nothing but its weight, parts of it can be used separately;
otherwise the layer itself must be called, or the model refused (`agreement.py`). transformers, peft and torch.ao are
not imported here: a model comes with its own modules.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from eclip.errors import AlteredModelError

if TYPE_CHECKING:
    from eclip.backbones.backbone import Backbone

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
HOSTS = ("torch.nn", "open_clip", "timm", "transformers", "huggingface_hub", "eclip.backbones.folding")
"""Packages whose modules are the host's own, unless something was added to them; the last has those of `mini`."""
INTEGER = ("torch.ao.", "torchao.", "bitsandbytes.", "quanto.", "optimum.quanto.")
"""Packages whose layers compute with integers."""
ADAPTED = "peft."
Halves = tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]
"""An MLP in two functions, see `Block.halves`."""
_merging = threading.RLock()
"""Held while a peft module merges and unmerges its weights, as its own forward pass does."""


def modules_of(*roots: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Every module below the roots with its path, each once, read directly from the module tree.

    `nn.Module.named_modules` of some adapters registers weights again when it is called.
    """
    seen: set[int] = set()
    stack = [("", root) for root in reversed(roots)]
    while stack:
        path, module = stack.pop()
        if id(module) in seen:
            continue
        seen.add(id(module))
        yield path, module
        children = module.__dict__["_modules"]
        below = [(f"{path}.{name}" if path else name, child) for name, child in children.items() if child is not None]
        stack += reversed(below)


def all_modules(*roots: nn.Module) -> list[nn.Module]:
    """As `modules_of` without the paths, which take most of its time; in another order."""
    found: dict[int, nn.Module] = {}
    stack = list(roots)
    while stack:
        module = stack.pop()
        if id(module) not in found:
            found[id(module)] = module
            stack += [child for child in module.__dict__["_modules"].values() if child is not None]
    return list(found.values())


def named_tensors(root: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """As `named_parameters` and `named_buffers` of `nn.Module`, for which some adapters return new objects."""
    seen: set[int] = set()
    for path, module in modules_of(root):
        for group in ("_parameters", "_buffers"):
            for name, tensor in module.__dict__[group].items():
                if tensor is not None and id(tensor) not in seen:
                    seen.add(id(tensor))
                    yield (f"{path}.{name}" if path else name), tensor


def named_weights(root: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Only the weights, without buffers."""
    return ((name, tensor) for name, tensor in named_tensors(root) if isinstance(tensor, nn.Parameter))


def global_hooks() -> tuple[dict[int, Any], ...]:
    """Forward hooks on every module of the process."""
    return torch_module._global_forward_hooks, torch_module._global_forward_pre_hooks


def _is_simple(tensor: Tensor) -> bool:
    return type(tensor) in (Tensor, nn.Parameter, nn.Buffer)


def of_host(kind: type[nn.Module]) -> bool:
    """Whether a class and its `forward` belong to a host library."""
    places = (kind.__module__, getattr(kind.forward, "__module__", ""))
    return all(place.startswith(HOSTS) and not place.startswith("torch.nn.utils") for place in places)


def is_plain(module: nn.Module) -> bool:
    """Whether a module computes what its class and weights say: no hook, no replaced `forward`, ordinary weights."""
    own = module.__dict__
    return (
        of_host(type(module))
        and "forward" not in own
        and not any(own[name] for name in HOOKS)
        and all(_is_simple(weight) for weight in own["_parameters"].values() if weight is not None)
        and not any(global_hooks())
    )


def is_all_plain(*roots: nn.Module) -> bool:
    """Whether all modules from the roots down are plain."""
    return all(map(is_plain, all_modules(*roots)))


def original(module: Any) -> Any:
    """The module that `torch.compile` wrapped, if any; it has the same weights."""
    return getattr(module, "_orig_mod", module)


def is_compiled(module: nn.Module) -> bool:
    """Whether `torch.compile` made this module; as `original(module) is not module`, in a thirtieth of its time."""
    return "_orig_mod" in module.__dict__["_modules"]


def is_linear(module: nn.Module) -> bool:
    """Whether a module is `x @ weight.T + bias` and nothing else, so that parts of its weight can be used alone."""
    return type(module) is nn.Linear and is_plain(module)


def halves_of(
    mlp: nn.Module, start: Iterable[nn.Module], end: nn.Module, scale: nn.Module | None = None
) -> Halves | None:
    """`Block.halves` of an MLP that runs `start`, then `end`, and is scaled last; None unless all are plain."""
    first = tuple(start)
    if not (is_linear(end) and is_all_plain(mlp) and (scale is None or is_all_plain(scale))):
        return None

    def widen(x: Tensor) -> Tensor:
        for layer in first:
            x = layer(x)
        return x

    return widen, lambda hidden: end(hidden) if scale is None else scale(end(hidden))


def last_part(linear: Any, x: Tensor, parts: int) -> Tensor:
    """The last of `parts` equal parts of a joint projection's output, such as the values of queries, keys, values.

    For a plain layer only that part is computed; any other layer is called and the other parts are discarded.
    """
    if not is_linear(linear):
        return linear(x).chunk(parts, dim=-1)[-1]
    return project_last(x, linear.weight, linear.bias, parts)


def project_last(x: Tensor, weight: Tensor, bias: Tensor | None, parts: int) -> Tensor:
    """As `last_part`, from the weight and bias of the joint projection."""
    return F.linear(x, weight.chunk(parts)[-1], None if bias is None else bias.chunk(parts)[-1])


class AttentionWeights(NamedTuple):
    """The weights of `nn.MultiheadAttention`, which reads its output projection's weight, not its `forward`."""

    into: Tensor
    into_bias: Tensor | None
    out: Tensor
    out_bias: Tensor | None

    def qkv(self, x: Tensor) -> tuple[Tensor, ...]:
        """Queries, keys and values, (image, token, channel) each."""
        return F.linear(x, self.into, self.into_bias).chunk(3, dim=-1)

    def value(self, x: Tensor) -> Tensor:
        """Only the values."""
        return project_last(x, self.into, self.into_bias, 3)

    def project(self, merged: Tensor) -> Tensor:
        """The output projection."""
        return F.linear(merged, self.out, self.out_bias)


def attention_weights(attn: Any) -> AttentionWeights:
    """Current weights of an `nn.MultiheadAttention`, with those of a peft adapter merged into a copy.

    peft's own forward pass merges them into the model and unmerges them again, with rounding errors; the copy equals
    what that pass would use, and leaves the model unchanged.
    """
    if not merges(attn):
        return AttentionWeights(attn.in_proj_weight, attn.in_proj_bias, *read_weights(attn.out_proj))
    with _merging, torch.no_grad():
        own = attn
        if not (own.merged or own.disable_adapters):
            own = copy.deepcopy(attn)
            own.merge(adapter_names=[name for name in own.active_adapters if name in own.lora_A])
        inner = own.base_layer
        out = inner.out_proj.base_layer
        return AttentionWeights(inner.in_proj_weight, inner.in_proj_bias, out.weight, out.bias)


def check_adapters(*roots: nn.Module) -> None:
    """Check that no adapter is both merged and disabled: peft's forward pass would unmerge it permanently.

    Raises:
        AlteredModelError: an adapter is both.
    """
    for path, module in modules_of(*roots):
        own = type(module).__module__.startswith(ADAPTED)
        if own and getattr(module, "disable_adapters", False) and getattr(module, "merged", False):
            raise AlteredModelError(
                f"the peft adapter on {path} is both merged and disabled, so the model's forward pass would unmerge it "
                "permanently: call unmerge_adapter() or enable_adapter_layers() first."
            )


def read_weights(layer: Any) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of a layer that the host reads without calling it.

    Raises:
        AlteredModelError: it is an adapter, which the host never runs.
    """
    kind = type(layer)
    if not (isinstance(layer, nn.Linear) and kind.forward is nn.Linear.forward):
        raise AlteredModelError(
            f"{kind.__module__}.{kind.__qualname__} is never called, as the model reads the layer's weights directly"
        )
    return layer.weight, layer.bias


def merges(module: nn.Module) -> bool:
    """Whether a module is peft's adapter around an `nn.MultiheadAttention`, whose forward pass rewrites its weights."""
    if not type(module).__module__.startswith(ADAPTED):
        return False
    return isinstance(getattr(module, "base_layer", None), nn.MultiheadAttention) and hasattr(module, "merge")


def alone(modules: Iterable[nn.Module]) -> AbstractContextManager[object]:
    """Make other threads wait if one of the modules rewrites its weights in its forward pass; else do nothing."""
    return _merging if any(map(merges, modules)) else nullcontext()


@contextmanager
def steady(*roots: nn.Module) -> Iterator[None]:
    """The host's own passes inside keep every weight below the roots the same object with the same bits."""
    inside = [inner for module in all_modules(*roots) if merges(module) for inner in all_modules(module)]
    if not inside:
        yield
        return
    with _merging:
        before = [(module.__dict__, dict(module.__dict__["_parameters"])) for module in inside]
        memory = [(weight, weight.data) for _, weights in before for weight in weights.values() if weight is not None]
        try:
            yield
        finally:
            for own, weights in before:
                for name, weight in weights.items():
                    own.pop(name, None)  # a merged weight is a plain attribute
                    own["_parameters"][name] = weight
            for weight, data in memory:
                if weight.data_ptr() != data.data_ptr():
                    weight.data = data  # peft casts its own weights to float32 and back


def backward_hook(model: nn.Module, roots: list[nn.Module]) -> str | None:
    """Path of a module below the roots with a backward hook; "every module" if a global one is registered."""
    if torch_module._global_backward_hooks or torch_module._global_backward_pre_hooks:
        return "every module"
    for _, module in modules_of(*roots):
        if module.__dict__["_backward_hooks"] or module.__dict__["_backward_pre_hooks"]:
            return path_of(model, module)
    return None


def oddities(path: str, root: nn.Module) -> list[tuple[str, str]]:
    """Changes below a module compared with the host's original: (what and where, the remedy), in the host's order.

    Parts that are not the host's are not inspected further.
    """
    found = []
    inside: list[str] = []
    for below, module in modules_of(root):
        if any(below == one or below.startswith(f"{one}.") for one in inside):
            continue
        own, where = module.__dict__, ".".join(part for part in (path, below) if part)
        kind, foreign = type(module), None
        if own["_forward_hooks"] or own["_forward_pre_hooks"]:
            found.append((f"a forward hook is registered on {where}", "Remove the hook (handle.remove())"))
        if "forward" in own:
            found.append((f"the forward method of {where} was replaced", "Restore it (`del module.forward`)"))
        if kind.__module__.startswith(ADAPTED):
            foreign = (
                f"a peft adapter ({kind.__name__}) is attached to {where}",
                "Merge the adapter (model = model.merge_and_unload())",
            )
        elif _is_integer(module):
            foreign = f"{where} is quantized ({kind.__name__})", "Use the model before quantization"
        elif hasattr(module, "parametrizations"):
            foreign = (
                f"{where} has parametrized weights",
                "Remove them (torch.nn.utils.parametrize.remove_parametrizations)",
            )
        elif not of_host(kind):
            foreign = f"{where} is a {kind.__module__}.{kind.__qualname__}", "Use the original module"
        if foreign is not None:
            found.append(foreign)
            inside.append(below)
    if any(global_hooks()):
        found.append(("a global forward hook is registered with torch", "Remove the hook (handle.remove())"))
    return found


def is_quantized(*roots: nn.Module) -> bool:
    """Whether a module below the roots computes with integers, as in torch.ao, torchao and bitsandbytes."""
    return any(map(_is_integer, all_modules(*roots)))


def _is_integer(module: nn.Module) -> bool:
    weights = [weight for weight in module.__dict__["_parameters"].values() if weight is not None]
    plain = all(_is_simple(weight) and weight.is_floating_point() for weight in weights)
    return not plain or type(module).__module__.startswith(INTEGER)


def path_of(model: nn.Module, part: nn.Module | None) -> str:
    """The path of a module in a model, as `get_submodule` takes it; empty if it is no longer there."""
    return next((path for path, module in modules_of(model) if module is part), "")


def image_side(backbone: Backbone) -> list[nn.Module]:
    """The modules of the image tower."""
    starts = (backbone.visual,) if isinstance(backbone.visual, str) else backbone.visual
    children = backbone.model.__dict__["_modules"]
    return [children[name] for start in starts if (name := start.removesuffix(".")) in children]


def text_side(backbone: Backbone) -> list[nn.Module]:
    """All other modules of the model."""
    image = {id(module) for module in image_side(backbone)}
    children = backbone.model.__dict__["_modules"].values()
    return [child for child in children if child is not None and id(child) not in image]
