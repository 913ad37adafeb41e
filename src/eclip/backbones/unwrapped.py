"""The model inside what others put around it: data parallelism, torch.compile, adapters of peft; and what has none.

Nothing of these packages is imported: their classes are told by name, among the bases of the object's class.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from eclip.backbones.host import modules_of, named_tensors
from eclip.errors import AT_HAND, ModelError, UnsupportedTowerError

INSIDE = {
    "torch.nn.parallel.data_parallel.DataParallel": "module",
    "torch.nn.parallel.distributed.DistributedDataParallel": "module",
    "torch._dynamo.eval_frame.OptimizedModule": "_orig_mod",
    "torch.optim.swa_utils.AveragedModel": "module",
}
"""Class -> the attribute that holds the model it runs, which has all of its weights."""
SCRIPTED = ("torch.jit._script.ScriptModule", "torch.fx.graph_module.GraphModule")
SHARDED = ("torch.distributed.fsdp.fully_sharded_data_parallel.FullyShardedDataParallel",)
PEFT = "peft.peft_model.PeftModel"


def unwrapped(model: Any) -> Any:
    """The model that is run inside, as deep as it lies; adapters stay where they are, in its modules.

    Raises:
        UnsupportedTowerError: it was scripted, traced or exported, so its parts cannot be seen, or is no Module.
        ModelError: its weights are sharded.
    """
    while True:
        names = _bases(model)
        inner = next((INSIDE[name] for name in names if name in INSIDE), None)
        if any(name in SCRIPTED for name in names):
            raise UnsupportedTowerError(
                f"{type(model).__name__} is a scripted, traced or exported model, whose blocks cannot be seen: give "
                "wrap the model that it was made from, for OpenAI's clip.load(name, jit=False)."
            )
        if any(name in SHARDED for name in names):
            raise ModelError(
                "the weights of a FullyShardedDataParallel lie in shards: gather them into a whole model with its "
                "state_dict (FULL_STATE_DICT) and give wrap that one."
            )
        if inner is not None:
            model = getattr(model, inner)
        elif PEFT in names:
            model = model.get_base_model()
        else:
            return model


def check_at_hand(model: nn.Module) -> None:
    """All weights are numbers on one device.

    Raises:
        ModelError: some are offloaded, on the device "meta", on several devices, in shards, or not made yet.
    """
    tensors = list(named_tensors(model))
    for name, tensor in tensors:
        kinds = [base.__name__ for base in type(tensor).__mro__]
        if "DTensor" in kinds:
            raise ModelError(f"the weight {name!r} is in shards over several processes: give wrap a whole model.")
        if "UninitializedTensorMixin" in kinds:
            raise ModelError(f"the weight {name!r} has no values yet: run the model once, or load its weights.")
        if tensor.is_meta:
            raise ModelError(f"the weight {name!r} is offloaded or on the device 'meta', so not at hand: {AT_HAND}.")
    for name, module in modules_of(model):
        if getattr(getattr(module, "_hf_hook", None), "offload", False):
            raise ModelError(f"the weights of {name or 'the model'} are offloaded by accelerate: {AT_HAND}.")
    places = sorted({str(tensor.device) for _, tensor in tensors})
    if len(places) > 1:
        raise ModelError(f"the weights lie on several devices, {', '.join(places)}: {AT_HAND}.")


def with_ordinary_weights(model: nn.Module) -> nn.Module:
    """The model itself; of one made under `torch.inference_mode`, a copy of its modules over the same memory.

    Such weights take no part in gradients, which many methods need, and nothing can make them. Tensors over the same
    memory can: no number is copied, and changes of the one are changes of the other.
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
    """What changes with a model's weights, modules, hooks or place."""
    weights = list(named_tensors(model))
    firsts = [float(weight.detach().flatten()[0]) if weight.numel() else 0.0 for _, weight in weights]
    modules = [
        (name, id(type(one)), len(one._forward_hooks), len(one._forward_pre_hooks), "forward" in vars(one))
        for name, one in modules_of(model)
    ]
    told = [(name, str(one.device), str(one.dtype), one._version) for name, one in weights]
    return firsts, modules, told


def _bases(model: Any) -> list[str]:
    return [f"{base.__module__}.{base.__qualname__}" for base in type(model).__mro__]
