"""Find a model by its name, load it, freeze it, and see it as a Backbone."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import pickle
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import open_clip
import torch
from torch import nn

from eclip.backbones.base import Backbone
from eclip.backbones.catalog import (
    BESIDE,
    DEFAULT_MODEL,
    architectures,
    folder_of,
    head_beside,
    hf_folder,
    split_name,
)
from eclip.backbones.hub import PATIENCE, fetch
from eclip.backbones.huggingface import HF_COLORS, model_type, read_folder
from eclip.backbones.openclip import wrap
from eclip.errors import DeviceError, ModelError, OptionError
from eclip.head import load_head, with_head

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}
CONFIG = "open_clip_config.json"
WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
HF_CONFIG = "config.json"
HF_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")
HF_FILES = ["*.json", "*.txt", "*.model"]

_loaded: dict[tuple[object, ...], tuple[object, Backbone]] = {}
"""(name, device, precision, head, whether it was named) -> the state of its files when it was loaded, and the model."""
_lock = threading.Lock()
_log = logging.getLogger("eclip")


def load(
    name: str = DEFAULT_MODEL,
    *,
    checkpoint: str | Path | None = None,
    device: str = "cpu",
    precision: str = "float32",
    head: str | Path | None = None,
) -> Backbone:
    """Load a model by name, frozen and in evaluation mode. The same call gives the same object again.

    Args:
        name: "mini" (in the package), open_clip's "ARCH/TAG" ("ViT-B-16/openai", "RN50/openai",
            "ViT-B-16-SigLIP/webli"), "hf-hub:ORG/NAME", "local-dir:PATH", "ARCH+FILE" or "ARCH" with a checkpoint;
            of transformers, "hf:ORG/NAME" on the Hub ("hf:openai/clip-vit-base-patch16"), or a folder that
            `save_pretrained` wrote: "hf:./PATH", "hf:/PATH", "hf:~/PATH".
        checkpoint: file of a fine-tuned open_clip model; only weights are read from it.
        device: "cpu", "cuda", "cuda:1", or "auto" (CUDA if there is a device, else the CPU).
        precision: "float32", "bfloat16" or "float64".
        head: of the method "eclip": the folder that `eclip train` wrote, a file in it, or "hf-hub:ORG/NAME"; None = the
            head that lies in the model's own folder, as that of "mini" does, if there is one.

    Raises:
        UnknownNameError: no such architecture or tag.
        DownloadError: the weights are not on this machine and cannot be fetched.
        DeviceError: the device or precision cannot be had.
        ModelError: weights missing, of the wrong shape, or not finite.
        UnsupportedTowerError: the image tower is of another kind than `errors.FAMILIES`.
        HeadError: the head is not there, cannot be read, or belongs to another model.
    """
    architecture, tag, file = split_name(name, checkpoint)
    where = resolve_device(device)
    if precision not in PRECISIONS:
        raise DeviceError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}.")
    if file is not None:
        name = f"{architecture}+{file}"
    named = head is not None
    head = head if named else head_beside(architecture)
    key, stamp = (name, where, precision, str(head), named), _stamp(architecture, file, head)
    with _lock, torch.inference_mode(False):  # the model outlives the caller's mode
        if key not in _loaded or _loaded[key][0] != stamp:
            with _reading(name), torch.random.fork_rng(devices=[]):  # weights are drawn at random before they are read
                model, given = _create(architecture, tag, file)
            _check_finite(model, name)
            model.to(device=where, dtype=PRECISIONS[precision]).eval().requires_grad_(False)
            with _reading(name):
                found = wrap(model, name=name, **given)
            if head is not None:
                own = load_head(head).to(where)
                own.place = str(head) if named else BESIDE
                found = with_head(found, own)
            _loaded[key] = stamp, found
        return _loaded[key][1]


def backbone_of(model: Any, device: str | None) -> Backbone:
    """The Backbone of that name, or the one that was given.

    Raises:
        OptionError: it is neither, or a device is given with a Backbone.
        ModelError: it cannot be loaded.
    """
    if isinstance(model, str):
        return load(model, device=device or "cpu")
    if not isinstance(model, Backbone):
        raise OptionError(
            f"model must be a name or a Backbone, got {type(model).__name__}: eclip.wrap(model, ...) makes one of it."
        )
    if device is not None:
        raise OptionError(f"device={device!r} goes with a model's name; this Backbone is on {model.weight.device}.")
    return model


def is_loaded(backbone: Backbone) -> bool:
    """Whether `load` made it, in float32, so that its name alone gives it again."""
    with _lock:
        return any(one is backbone and key[2] == "float32" for key, (_, one) in _loaded.items())


def resolve_device(device: str) -> torch.device:
    """The torch device behind a name, checked for being there.

    Raises:
        DeviceError: it is not there, or of a kind we do not run on.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.partition(":")[0] == "mps":
        raise DeviceError("device 'mps' is not offered: no result was ever checked on it. Use 'cpu'.")
    try:
        where = torch.device(device)
    except RuntimeError:
        where = None
    if where is None or where.type not in ("cpu", "cuda"):
        raise DeviceError(f"device must be 'cpu', 'cuda', 'cuda:N' or 'auto', got {device!r}.")
    if where.type == "cuda" and (where.index or 0) >= torch.cuda.device_count():
        raise DeviceError(
            f"device {device!r} is not there: torch {torch.__version__} sees {torch.cuda.device_count()} CUDA devices. "
            "Use 'cpu'."
        )
    return where


def _stamp(architecture: str, checkpoint: Path | None, head: str | Path | None) -> tuple[object, ...]:
    """Files that were written anew are another model."""
    files = [checkpoint] if checkpoint is not None else []
    for folder in (folder_of(architecture), None if head is None else Path(head)):
        files += sorted(folder.glob("*")) if folder is not None else []
    if head is not None and Path(head).is_file():  # weights, and what they are beside them
        files += sorted(Path(head).parent.glob(f"{Path(head).stem}.*"))
    return tuple((file.resolve(), file.stat().st_mtime_ns, file.stat().st_size) for file in files)


def _create(architecture: str, tag: str | None, checkpoint: Path | None) -> tuple[nn.Module, dict[str, Any]]:
    """The model, and what `wrap` is to be told about it."""
    if architecture.startswith("hf:"):
        model, tokenizer, colors = read_folder(hf_folder(architecture) or _fetch_hf(architecture.removeprefix("hf:")))
        return model, {"tokenizer": tokenizer, **colors}
    options: dict[str, Any] = {}
    source, tokenizer_source = architecture, architecture
    if architecture.startswith("hf-hub:"):
        repository = architecture.removeprefix("hf-hub:")
        source = f"local-dir:{fetch(repository, (CONFIG,), '').parent}"
        if not _needs_transformers(source, architecture):
            tokenizer_source = source
        fetch(repository, WEIGHTS, "of unknown size")
    else:
        if architecture.startswith("local-dir:"):
            _check_folder(Path(architecture.removeprefix("local-dir:")))
        _needs_transformers(source, architecture)
        if tag is not None:
            options = _tag_options(architecture, tag)
        elif checkpoint is not None:
            options = {"pretrained": str(checkpoint.resolve()), "force_preprocess_cfg": _usual_colors(architecture)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # open_clip's hints on activations, which are settled here
        model = open_clip.create_model(source, require_pretrained=True, **options)
    return model, {"tokenizer": open_clip.get_tokenizer(tokenizer_source)}


def _fetch_hf(repository: str) -> Path:
    """The folder with a transformers model of the Hub, fetched if it is not here; its kind is looked at first."""
    model_type(fetch(repository, (HF_CONFIG,), "").parent)
    folder = fetch(repository, HF_WEIGHTS, "of unknown size").parent
    here = {path.name for path in folder.iterdir()}
    sharded = HF_WEIGHTS[1] in here
    if sharded or "tokenizer_config.json" not in here or not here.intersection(HF_COLORS):
        wanted = [*HF_FILES, "*.safetensors"] if sharded else HF_FILES
        folder = Path(huggingface_hub.snapshot_download(repository, allow_patterns=wanted, etag_timeout=PATIENCE))
    return folder


def _needs_transformers(source: str, name: str) -> bool:
    text = open_clip.get_model_config(source)["text_cfg"]
    needed = bool(text.get("hf_tokenizer_name") or text.get("hf_model_name"))
    if needed and importlib.util.find_spec("transformers") is None:
        raise ModelError(f"the text side of {name} needs the package transformers: pip install 'eclip[hf]'.")
    return needed


def _tag_options(architecture: str, tag: str) -> dict[str, Any]:
    """How open_clip is to build an architecture for these weights, which are fetched if they are not here."""
    config = open_clip.get_pretrained_cfg(architecture, tag)
    quick = bool(config.get("quick_gelu", False))
    if architectures()[architecture].get("quick_gelu", False) and not quick:
        plain = architecture.removesuffix("-quickgelu")
        raise ModelError(f"weights {tag!r} were trained with GELU, not QuickGELU: use {plain}/{tag}.")
    repository, _, file = config["hf_hub"].rpartition("/")
    if not repository:  # a few old weights are on other servers; open_clip knows how to fetch them
        _log.warning("%s/%s, %s, is fetched once from %s", architecture, tag, _size(architecture), config["url"])
        return {"pretrained": tag, "force_quick_gelu": quick}
    files = (str(Path(file).with_suffix(".safetensors")), file) if file else WEIGHTS
    weights = fetch(repository, files, _size(architecture))
    return {"pretrained": str(weights), "force_quick_gelu": quick, "force_preprocess_cfg": config}


def _usual_colors(architecture: str) -> dict[str, Any]:
    """Color mean, std and interpolation that all published weights of an architecture share, for a checkpoint of one.

    A checkpoint file does not say what it was trained with. Where the published weights disagree, or there are none,
    CLIP's are taken, and a line says so.
    """
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    configs = [open_clip.get_pretrained_cfg(architecture, tag) for tag in tags]
    used = [{key: config[key] for key in ("mean", "std", "interpolation")} for config in configs]
    if used and all(one == used[0] for one in used):
        return used[0]
    _log.warning("%s: colors are normalized as CLIP's; a checkpoint does not say how it was trained", architecture)
    return {}


def _size(architecture: str) -> str:
    """Size of an architecture's weights in words, reckoned without allocating them."""
    config = open_clip.get_model_config(architecture)
    with torch.device("meta"):
        kind = open_clip.CustomTextCLIP if config.pop("custom_text", False) else open_clip.CLIP
        weights = sum(weight.numel() for weight in kind(**config).parameters())
    return f"about {weights * 4 / 2**20:,.0f} MiB"


def _check_folder(folder: Path) -> None:
    if not (folder / CONFIG).is_file():
        raise ModelError(f"{str(folder)!r} has no {CONFIG}, so it is no model folder of open_clip.")
    if not any(any(folder.glob(f"*{suffix}")) for suffix in (".safetensors", ".bin", ".pth")):
        raise ModelError(f"{str(folder)!r} has no weights: a file such as {WEIGHTS[0]} belongs there.")


@contextlib.contextmanager
def _reading(name: str) -> Iterator[None]:
    """Whatever goes wrong while a model is built and read becomes one ModelError that names it."""
    try:
        yield
    except (ModelError, OptionError) as error:
        if name in str(error):
            raise
        raise type(error)(f"{name}: {error}") from error
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{name} cannot be loaded: the file is no checkpoint, or holds more than weights. Of a whole model, as "
            "torch.save(model, FILE) writes it, save the weights alone, torch.save(model.state_dict(), FILE), or give "
            "the model itself, eclip.wrap(model, ...)."
        ) from error
    except Exception as error:  # open_clip raises RuntimeError, KeyError, TypeError, OSError and others alike
        raise ModelError(f"{name} cannot be loaded: {_short(error)}") from error


def _short(error: Exception) -> str:
    reason = " ".join(str(error).split())
    return f"{type(error).__name__}: {reason if len(reason) <= 400 else reason[:400] + ' ...'}"


def _check_finite(model: nn.Module, name: str) -> None:
    for key, value in model.state_dict().items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise ModelError(
                f"{name}: the weight {key!r} holds NaN or infinity. The file is damaged; fetch or train it again."
            )
