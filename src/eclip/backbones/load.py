"""Find a model by its name, load it, freeze it, and see it as a Backbone."""

from __future__ import annotations

import logging
import threading
import warnings
from pathlib import Path
from typing import Any

import huggingface_hub
import open_clip
import torch
from torch import nn

from eclip.backbones.base import Backbone
from eclip.backbones.catalog import DEFAULT_MODEL, SCHEMES, family_of, split_name
from eclip.backbones.openclip import FAMILIES, wrap
from eclip.errors import DeviceError, DownloadError, ModelError, UnknownNameError, UnsupportedTowerError

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}

_loaded: dict[tuple[str, ...], Backbone] = {}
_lock = threading.Lock()
_log = logging.getLogger("eclip")


def load(
    name: str = DEFAULT_MODEL,
    *,
    checkpoint: str | Path | None = None,
    device: str = "cpu",
    precision: str = "float32",
) -> Backbone:
    """Load a model by name, frozen and in evaluation mode. The same call gives the same object again.

    Args:
        name: "mini" (in the package), open_clip's "ARCH/TAG" ("ViT-B-16/openai", "RN50/openai",
            "ViT-B-16-SigLIP/webli"), "hf-hub:ORG/NAME", "local-dir:PATH", "ARCH+FILE" or "ARCH" with a checkpoint.
        checkpoint: file of a fine-tuned open_clip model; only weights are read from it.
        device: "cpu", "cuda", "cuda:1", or "auto" (CUDA if there is a device, else the CPU).
        precision: "float32", "bfloat16" or "float64".

    Raises:
        UnknownNameError: no such architecture or tag.
        DownloadError: the weights are not on this machine and cannot be fetched.
        DeviceError: the device or precision cannot be had.
        ModelError: weights missing, of the wrong shape, or not finite.
        UnsupportedTowerError: the image tower is of another kind than `openclip.FAMILIES`.
    """
    if checkpoint is None and "+" in name and not name.startswith(SCHEMES):
        name, _, checkpoint = name.partition("+")
    architecture, tag = split_name(name, checkpoint)
    where = resolve_device(device)
    if precision not in PRECISIONS:
        raise DeviceError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}.")
    key = (name, _stamp(checkpoint), str(where), precision)
    with _lock:
        if key not in _loaded:
            model = _create(architecture, tag, checkpoint)
            _check_finite(model, name)
            model.to(device=where, dtype=PRECISIONS[precision]).eval().requires_grad_(False)
            tokenizer = open_clip.get_tokenizer(architecture)
            _loaded[key] = wrap(model, tokenizer=tokenizer, name=name if checkpoint is None else f"{name}+{checkpoint}")
        return _loaded[key]


def _stamp(checkpoint: str | Path | None) -> str:
    """A file that was written anew is another checkpoint."""
    if checkpoint is None:
        return ""
    path = Path(checkpoint).resolve()
    return f"{path} {path.stat().st_mtime_ns} {path.stat().st_size}"


def resolve_device(device: str) -> torch.device:
    """The torch device behind a name, checked for being there.

    Raises:
        DeviceError: it is not there, or of a kind we do not run on.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind = device.partition(":")[0]
    if kind == "mps":
        raise DeviceError("device 'mps' is not offered: no result was ever checked on it. Use 'cpu'.")
    if kind not in ("cpu", "cuda"):
        raise DeviceError(f"device must be 'cpu', 'cuda', 'cuda:N' or 'auto', got {device!r}.")
    try:
        where = torch.device(device)
    except RuntimeError as error:
        raise DeviceError(f"device must be 'cpu', 'cuda', 'cuda:N' or 'auto', got {device!r}.") from error
    if where.type == "cuda" and (where.index or 0) >= torch.cuda.device_count():
        raise DeviceError(f"device {device!r} is not there: torch {torch.__version__} sees {torch.cuda.device_count()}.")
    return where


def _create(architecture: str, tag: str | None, checkpoint: str | Path | None) -> nn.Module:
    options: dict[str, Any] = {}
    if architecture.startswith("local-dir:"):
        _check_folder(architecture.removeprefix("local-dir:"))
    elif architecture.startswith("hf-hub:"):
        _check_cached_or_announce(architecture.removeprefix("hf-hub:"), None, architecture)
    elif checkpoint is not None:
        options = {"pretrained": str(checkpoint)}
    else:
        assert tag is not None, "split_name gives a tag where there is neither scheme nor checkpoint"
        options = _tag_options(architecture, tag)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # open_clip's hints on activations, which are settled here
            return open_clip.create_model(architecture, require_pretrained=True, **options)
    except Exception as error:
        # open_clip raises RuntimeError, KeyError, OSError and pickle errors alike for weights it cannot read
        raise _explain(architecture, tag, checkpoint, error) from error


def _tag_options(architecture: str, tag: str) -> dict[str, Any]:
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    config = open_clip.get_pretrained_cfg(architecture, tag)
    if not config:
        raise UnknownNameError(f"weights of {architecture}", tag, tags, "`eclip models ls --all`")
    model_config = open_clip.get_model_config(architecture)
    if family_of(model_config) is None:
        raise UnsupportedTowerError(f"no adapter for the image tower of {architecture}. Families that work: {'; '.join(FAMILIES)}.")
    quick = bool(config.get("quick_gelu", False))
    if model_config.get("quick_gelu", False) and not quick:
        plain = architecture.removesuffix("-quickgelu")
        raise ModelError(f"weights {tag!r} were trained with GELU, not QuickGELU: use {plain}/{tag}.")
    repository, _, filename = config.get("hf_hub", "").rpartition("/")
    _check_cached_or_announce(repository, filename or None, architecture)
    return {"pretrained": tag, "force_quick_gelu": quick}


def _check_cached_or_announce(repository: str, filename: str | None, architecture: str) -> None:
    """Say what a download will cost before it starts."""
    names = [filename] if filename else ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"]
    if not repository or any(isinstance(huggingface_hub.try_to_load_from_cache(repository, n), str) for n in names):
        return
    _log.warning("%s: fetching its weights%s from huggingface.co/%s, once", architecture, _size(architecture), repository)


def _size(architecture: str) -> str:
    """Size of an architecture's weights in words, reckoned without allocating them."""
    config = open_clip.get_model_config(architecture) if ":" not in architecture else None
    if config is None:
        return ""
    with torch.device("meta"):
        kind = open_clip.CustomTextCLIP if config.pop("custom_text", False) else open_clip.CLIP
        weights = sum(weight.numel() for weight in kind(**config).parameters())
    return f" (about {weights * 4 / 2**20:,.0f} MiB)"


def _check_folder(folder: str) -> None:
    path = Path(folder)
    if not path.is_dir():
        raise ModelError(f"there is no model folder {folder!r}.")
    if not (path / "open_clip_config.json").is_file():
        raise ModelError(f"{folder!r} has no open_clip_config.json, so it is not a model folder of open_clip.")
    if not any(path.glob(f"*{suffix}") for suffix in (".safetensors", ".bin", ".pth")):
        raise ModelError(f"{folder!r} has no weights: a file such as open_clip_model.safetensors belongs there.")


def _explain(architecture: str, tag: str | None, checkpoint: str | Path | None, error: Exception) -> ModelError:
    reason = " ".join(str(error).split())
    local = architecture.startswith("local-dir:") or checkpoint is not None
    if not local:
        wanted = f"{architecture}/{tag}" if tag else architecture
        return DownloadError(
            f"{wanted}{_size(architecture)} is not on this machine and could not be fetched from huggingface.co "
            f"({reason[:160]}). The model {DEFAULT_MODEL!r} is in the package and needs no network."
        )
    what = str(checkpoint) if checkpoint is not None else architecture
    return ModelError(f"{what} cannot be loaded: {reason[:600]}")


def _check_finite(model: nn.Module, name: str) -> None:
    for key, value in model.state_dict().items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise ModelError(f"{name}: the weight {key!r} holds NaN or infinity. The file is damaged; fetch or train it again.")

