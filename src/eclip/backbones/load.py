"""Find a model by its name, load it, freeze it, and wrap it as a Backbone."""

from __future__ import annotations

import contextlib
import logging
import pickle
import threading
import time
import weakref
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path, PurePath
from typing import Any

import torch
from torch import nn

from eclip.backbones.backbone import IN_A_WORKER, Backbone, no_recipe
from eclip.backbones.building import built_apart
from eclip.backbones.catalog import (
    BESIDE,
    CHECKPOINTS,
    DEFAULT_MODEL,
    MINI,
    folder_of,
    full_name,
    head_beside,
    levels_beside,
    split_name,
)
from eclip.backbones.create import create, short
from eclip.backbones.devices import Device, resolve_device
from eclip.backbones.folding import speed_up
from eclip.backbones.head import EclipHead, check_place, files_of, load_head, with_head
from eclip.backbones.state import State, whole_state
from eclip.backbones.unwrapped import state_of
from eclip.backbones.wrap import wrap
from eclip.errors import DeviceError, ModelError, OptionError
from eclip.files import file_state, is_there
from eclip.registry import one_of

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}
READ = (*CHECKPOINTS, ".json", ".txt", ".model", ".bpe", ".tiktoken", ".jinja")
"""Suffixes of the files that belong to a model: weights, configurations, tokenizers."""

_loaded: dict[tuple[Any, ...], tuple[Any, Backbone, State]] = {}
"""(name, device, precision, head, whether a head was given) -> state of its files, the model, and its own state."""
_as_loaded: weakref.WeakKeyDictionary[nn.Module, tuple[Any, ...]] = weakref.WeakKeyDictionary()
"""Each loaded model -> its state when it was loaded."""
_lock = threading.Lock()
_log = logging.getLogger("eclip")


def load(
    name: str = DEFAULT_MODEL,
    *,
    checkpoint: str | Path | None = None,
    device: Device | None = "cpu",
    precision: str = "float32",
    head: str | Path | None = None,
) -> Backbone:
    """Load a model by name, frozen and in evaluation mode. Equal calls return the same object.

    The convolutions and the pool of "mini" are computed in a shorter way (`eclip.backbones.folding`), so its state dict
    has no norms: to load weights that were trained further, save them as an open_clip folder and pass "local-dir:PATH".
    Every other model is as its library builds it.

    Args:
        name: "mini" (in the package), open_clip's "ARCH/TAG" ("ViT-B-16/openai", "RN50/openai",
            "ViT-B-16-SigLIP/webli"), OpenAI's own names ("ViT-B/32", "RN50", "ViT-L/14@336px"), short for
            "ViT-B-32/openai" and so on, "hf-hub:ORG/NAME", "local-dir:PATH", "ARCH+FILE" or "ARCH" with a checkpoint;
            for transformers, "hf:ORG/NAME" on the Hub ("hf:openai/clip-vit-base-patch16"), or a folder that
            `save_pretrained` wrote: "hf:./PATH", "hf:/PATH", "hf:~/PATH".
        checkpoint: weights file of a fine-tuned open_clip model; nothing but weights is read from it.
        device: "cpu", "cuda", "cuda:1", a torch.device, the number of a CUDA device, or "auto" (CUDA if there is a
            device, else the CPU); None is the CPU.
        precision: "float32", "bfloat16" or "float64".
        head: for the method "eclip": the folder that `eclip train` wrote, a file in it, or "hf-hub:ORG/NAME"; None =
            the head in the model's own folder, if there is one, as for "mini".

    Raises:
        UnknownNameError: no such architecture or tag.
        DownloadError: the weights are not on this machine and cannot be downloaded.
        DeviceError: the device or precision is not available.
        ModelError: weights missing, of the wrong shape, or not finite.
        UnsupportedTowerError: the image tower is of another kind than `errors.FAMILIES`.
        HeadError: the head is missing, cannot be read, or belongs to another model.
        OptionError: the name is no string.
    """
    if not isinstance(name, str):
        raise OptionError(f"the name of a model must be a string, got {type(name).__name__}{_as_folder(name)}.")
    name = full_name(name, checkpoint)
    architecture, tag, file = split_name(name, checkpoint)
    where = resolve_device(device)
    one_of(precision, "precision", PRECISIONS, DeviceError)
    if file is not None:
        name = f"{architecture}+{file}"
    if named := head is not None:
        check_place(head)
    head = head if named else head_beside(architecture)
    key, stamp = (name, where, precision, str(head), named), _stamp(architecture, file, head)
    with _lock, built_apart(draw=False):  # the model outlives the caller's mode
        if key not in _loaded or _loaded[key][0] != stamp:
            start = time.perf_counter()
            with _reading(name):
                model, given = create(architecture, tag, file)
            _check_finite(model, name)
            model.eval().requires_grad_(False)
            if folder_of(architecture) == MINI:
                speed_up(model.double())
            model.to(device=where, dtype=PRECISIONS[precision])
            with _reading(name):
                found = replace(wrap(model, name=name, **given), recipe=recipe)
                levels = levels_beside(architecture)
            _as_loaded[found.model] = state_of(found.model)
            if head is not None:
                own = load_head(head).to(where)
                own.place = str(head) if named else BESIDE
                found = with_head(found, own)
            if named:
                levels.pop("eclip", None)  # it was measured with the head in the model's folder
            found = found.with_levels(levels) if levels else found
            _loaded[key] = stamp, found, whole_state(found)
            _log.info("loaded %s in %.1f s", _described(found), time.perf_counter() - start)
        return _loaded[key][1]


def _described(backbone: Backbone) -> str:
    """A Backbone in words, for the log."""
    (rows, cols), weight = backbone.native, backbone.weight
    head = "no head" if backbone.head is None else f"head {backbone.head.place}"
    return (
        f"{backbone.name}: {backbone.family}, {rows} x {cols} patches of {backbone.patch_size} px, {head}, on "
        f"{weight.device} in {str(weight.dtype).removeprefix('torch.')}"
    )


def backbone_of(model: Any, device: Device | None) -> Backbone:
    """The Backbone of a name, or a given Backbone itself.

    Raises:
        OptionError: it is neither, or a device was given with a Backbone.
        ModelError: it cannot be loaded.
    """
    if isinstance(model, str):
        return load(model, device=device)
    if not isinstance(model, Backbone):
        raise OptionError(
            f"model must be a name or a Backbone, got {type(model).__name__}"
            f"{_as_folder(model) or ': convert it with eclip.wrap(model, ...)'}."
        )
    if device is not None:
        raise OptionError(f"device={device!r} requires a model name; this Backbone is on {model.weight.device}.")
    return model


def _as_folder(given: Any) -> str:
    """How to name a folder that was given as a path; empty for anything else."""
    written = f"local-dir:{given}' (open_clip) or 'hf:{given}"
    return f": for a folder, write '{written}' (transformers)" if isinstance(given, PurePath) else ""


def is_loaded(backbone: Backbone) -> bool:
    """Whether `load` created it in float32, and it is unchanged since, so that its name suffices to load it again."""
    with _lock:
        made = [state for key, (_, one, state) in _loaded.items() if one is backbone and key[2] == "float32"]
    return any(state == whole_state(backbone) for state in made)


def is_made_as(backbone: Backbone, name: str) -> bool:
    """Whether its model, with any head, is what `load` makes of a name, unchanged since."""
    with _lock:
        mine = any(key[0] == name and one.model is backbone.model for key, (_, one, _) in _loaded.items())
    return mine and _as_loaded[backbone.model] == state_of(backbone.model)


def recipe(backbone: Backbone) -> tuple[Any, ...]:
    """How pickle recreates a Backbone: the call of `load` that created it, plus its own head, if any.

    Raises:
        ModelError: `load` did not create it, or it has changed since it was loaded.
    """
    names = [field.name for field in fields(backbone) if field.name not in ("head", "levels", "measured", "memo")]
    with _lock:
        for (name, where, precision, head, named), (stamp, one, state) in _loaded.items():
            if any(getattr(backbone, field) is not getattr(one, field) for field in names):
                continue
            if _as_loaded[backbone.model] != state_of(backbone.model):
                raise ModelError(
                    f"{name} was changed after it was loaded, so its name no longer identifies it and it cannot be "
                    f"pickled. {IN_A_WORKER}"
                )
            call = {"name": name, "device": str(where), "precision": precision, "head": head if named else None}
            same = backbone.head is one.head and whole_state(backbone) == state  # else the head as it is now
            return _again, (call, stamp, same, None if same else backbone.head)
    return no_recipe(backbone)


def _again(call: dict[str, Any], stamp: Any, loaded: bool, head: EclipHead | None) -> Backbone:
    """Recreate a Backbone from its `recipe` in another process."""
    found = load(**call)
    with _lock:
        now = next(files for files, one, _ in _loaded.values() if one is found)
    if now != stamp:
        raise ModelError(f"the files of {call['name']} have changed since the sending process loaded it.")
    return found if loaded else with_head(found, head)


def _stamp(architecture: str, checkpoint: Path | None, head: str | Path | None) -> tuple[object, ...]:
    """State of a model's files: rewritten files mean another model. Other files beside them do not count."""
    files = [] if checkpoint is None else [checkpoint]
    if (folder := folder_of(architecture)) is not None:
        files += sorted(file for file in folder.glob("*") if file.suffix in READ)
    if head is not None:
        files += files_of(Path(head))
    return tuple(file_state(file) for file in files if is_there(file))


@contextlib.contextmanager
def _reading(name: str) -> Iterator[None]:
    """Turn any error while a model is built and read into a ModelError that names the model."""
    try:
        yield
    except (ModelError, OptionError) as error:
        if name in str(error):
            raise
        raise type(error)(f"{name}: {error}") from error
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{name} cannot be loaded: the file is not a checkpoint, or contains more than weights. If it is from "
            "torch.save(model, FILE), save only the weights with torch.save(model.state_dict(), FILE), or pass the "
            "model itself to eclip.wrap(model, ...)."
        ) from error
    except Exception as error:  # open_clip raises RuntimeError, KeyError, TypeError, OSError and others alike
        raise ModelError(f"{name} cannot be loaded: {short(error)}") from error


def _check_finite(model: nn.Module, name: str) -> None:
    for key, value in model.state_dict().items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise ModelError(
                f"{name}: the weight {key!r} contains NaN or infinity. The file is damaged; download it or train again."
            )
