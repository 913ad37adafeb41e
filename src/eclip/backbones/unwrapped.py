"""The model inside wrappers such as data parallelism, torch.compile and peft; and checks that its weights are usable.

These packages are not imported: their classes are recognized by name, among the bases of the object's class.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from eclip.backbones.host import modules_of, named_tensors
from eclip.errors import LOAD_WHOLE, ModelError, UnsupportedTowerError

INSIDE = {
    "torch.nn.parallel.data_parallel.DataParallel": "module",
    "torch.nn.parallel.distributed.DistributedDataParallel": "module",
    "torch._dynamo.eval_frame.OptimizedModule": "_orig_mod",
    "torch.optim.swa_utils.AveragedModel": "module",
}
"""Class -> the attribute that holds the wrapped model, with all of its weights."""
SCRIPTED = ("torch.jit._script.ScriptModule", "torch.fx.graph_module.GraphModule")
SHARDED = ("torch.distributed.fsdp.fully_sharded_data_parallel.FullyShardedDataParallel",)
PEFT = "peft.peft_model.PeftModel"


def unwrapped(model: Any) -> Any:
    """The innermost wrapped model; adapters stay where they are, in its modules.

    Raises:
        UnsupportedTowerError: it was scripted, traced or exported, so its parts are not accessible.
        ModelError: its weights are sharded.
    """
    while True:
        names = [f"{base.__module__}.{base.__qualname__}" for base in type(model).__mro__]
        inner = next((INSIDE[name] for name in names if name in INSIDE), None)
        if any(name in SCRIPTED for name in names):
            raise UnsupportedTowerError(
                f"{type(model).__name__} is a scripted, traced or exported model, whose blocks are not accessible: "
                "wrap the original model instead; for OpenAI's CLIP, clip.load(name, jit=False)."
            )
        if any(name in SHARDED for name in names):
            raise ModelError(
                "the weights of a FullyShardedDataParallel are sharded: gather them into a full model with its "
                "state_dict (FULL_STATE_DICT) and wrap that one."
            )
        if inner is not None:
            model = getattr(model, inner)
        elif PEFT in names:
            model = model.get_base_model()
        else:
            return model


def check_accessible(model: nn.Module) -> None:
    """Check that all weights have values on one device.

    Raises:
        ModelError: some are offloaded, on the device "meta", on several devices, sharded, or not initialized.
        UnsupportedTowerError: a part was scripted or traced.
    """
    for name, module in modules_of(model):
        if isinstance(module, torch.jit.ScriptModule):
            raise UnsupportedTowerError(
                f"{name} is a scripted or traced module, whose layers are not accessible: wrap the model before it is "
                "scripted."
            )
    tensors = list(named_tensors(model))
    for name, tensor in tensors:
        kinds = [base.__name__ for base in type(tensor).__mro__]
        if "DTensor" in kinds:
            raise ModelError(f"the weight {name!r} is sharded over several processes: wrap a full model.")
        if "UninitializedTensorMixin" in kinds:
            raise ModelError(f"the weight {name!r} has no values yet: run the model once, or load its weights.")
        if tensor.is_meta:
            raise ModelError(f"the weight {name!r} is offloaded or on the device 'meta', without values: {LOAD_WHOLE}.")
    for name, module in modules_of(model):
        if getattr(getattr(module, "_hf_hook", None), "offload", False):
            raise ModelError(f"the weights of {name or 'the model'} are offloaded by accelerate: {LOAD_WHOLE}.")
    places = sorted({str(tensor.device) for _, tensor in tensors})
    if len(places) > 1:
        raise ModelError(f"the weights are on several devices, {', '.join(places)}: {LOAD_WHOLE}.")


def with_ordinary_weights(model: nn.Module) -> nn.Module:
    """The model itself, or if it was created under `torch.inference_mode`, a copy of its modules over the same memory.

    Inference tensors cannot be used in autograd, which many methods need. New tensors over the same memory can: no
    value is copied, and a change to one is a change to the other.
    """
    tensors = [tensor for _, tensor in named_tensors(model)]
    if not any(tensor.is_inference() for tensor in tensors):
        return model
    with torch.inference_mode(False):
        return copy.deepcopy(model, {id(tensor): _ordinary(tensor) for tensor in tensors})


def _ordinary(tensor: Tensor) -> Tensor:
    over = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
    with torch.no_grad():
        over.set_(tensor.untyped_storage(), tensor.storage_offset(), tensor.size(), tensor.stride())
    return nn.Parameter(over, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else over


def state_of(model: nn.Module) -> tuple[Any, ...]:
    """A state that changes with a model's weights, modules, hooks or device."""
    weights = list(named_tensors(model))
    firsts = [float(weight.detach().flatten()[0]) if weight.numel() else 0.0 for _, weight in weights]
    modules = [
        (name, id(type(one)), len(one._forward_hooks), len(one._forward_pre_hooks), "forward" in vars(one))
        for name, one in modules_of(model)
    ]
    told = [(name, str(one.device), str(one.dtype), one._version) for name, one in weights]
    return firsts, modules, told
