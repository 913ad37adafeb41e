"""From a model's name to its files, downloaded or found, and the host model and tokenizer built from them."""

from __future__ import annotations

import importlib.util
import json
import logging
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import open_clip
import torch
from torch import nn

from eclip.backbones.catalog import architectures, hf_folder
from eclip.backbones.hub import OFFLINE, fetch, fetch_texts, fetch_url, one_folder
from eclip.backbones.huggingface import HF_COLORS, class_of, read_folder
from eclip.errors import ModelError

CONFIG = "open_clip_config.json"
WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
HF_CONFIG = "config.json"
HF_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")
_log = logging.getLogger("eclip")


def create(architecture: str, tag: str | None, checkpoint: Path | None) -> tuple[nn.Module, dict[str, Any]]:
    """The model, and the arguments to `wrap` it with."""
    if architecture.startswith("hf:"):
        repository = architecture.removeprefix("hf:")
        folder = hf_folder(architecture) or one_folder(repository, lambda: _fetch_hf(repository))
        model, tokenizer, colors = read_folder(folder)
        return model, {"tokenizer": tokenizer, **colors}
    options: dict[str, Any] = {}
    source = architecture
    if architecture.startswith("hf-hub:"):
        repository = architecture.removeprefix("hf-hub:")
        source = f"local-dir:{one_folder(repository, lambda: _fetch_open_clip(repository, architecture))}"
    else:
        if architecture.startswith("local-dir:"):
            _check_folder(Path(architecture.removeprefix("local-dir:")))
        _check_text_side(source, architecture)
        if tag is not None:
            options = _tag_options(architecture, tag)
        elif checkpoint is not None:
            options = {"pretrained": str(checkpoint.resolve()), "force_preprocess_cfg": _usual_colors(architecture)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # open_clip's hints on activations, which are resolved here
        try:
            model = open_clip.create_model(source, require_pretrained=True, **options)
        except Exception as error:
            if tag is None:
                raise
            file = options["pretrained"]
            raise ModelError(
                f"{file!r} cannot be read ({short(error)}). If it is damaged, delete it to download it again."
            ) from error
    return model, {"tokenizer": _tokenizer(source, architecture)}


def _fetch_open_clip(repository: str, name: str) -> list[Path]:
    config = fetch(repository, (CONFIG,), "")
    _check_text_side(f"local-dir:{config.parent}", name)
    return [config, fetch(repository, WEIGHTS, "of unknown size")]


def _fetch_hf(repository: str) -> list[Path]:
    """A transformers model of the Hub, downloaded if needed; its type is checked first."""
    config = fetch(repository, (HF_CONFIG,), "")
    class_of(config.parent)
    weights = fetch_weights(repository)
    return [config, *weights, fetch_texts(repository, (HF_CONFIG,), HF_COLORS) / HF_CONFIG]


def fetch_weights(repository: str, instead: str = OFFLINE) -> list[Path]:
    """The weights of a transformers model of the Hub, downloaded if needed: one file, or an index and its shards."""
    weights, shards = fetch(repository, HF_WEIGHTS, "of unknown size", instead), []
    if weights.name == HF_WEIGHTS[1]:
        shards = sorted(set(json.loads(weights.read_text(encoding="utf-8"))["weight_map"].values()))
    return [weights, *(fetch(repository, (shard,), "of unknown size", instead) for shard in shards)]


def _check_text_side(source: str, name: str) -> None:
    """Refuse a transformers text tower if the package is missing, and download its configuration if needed."""
    text = open_clip.get_model_config(source)["text_cfg"]
    if not (text.get("hf_tokenizer_name") or text.get("hf_model_name")):
        return
    if importlib.util.find_spec("transformers") is None:
        raise ModelError(f"the text tower of {name} requires the package transformers: pip install 'eclip[hf]'.")
    own = text.get("hf_model_name")
    if own and not Path(own).exists():
        fetch(own, (HF_CONFIG,), "")


def _tokenizer(source: str, name: str) -> Any:
    """As `open_clip.get_tokenizer`, but downloads transformers' files like all others, and only once."""
    text = open_clip.get_model_config(source)["text_cfg"]
    own = text.get("hf_tokenizer_name")
    if not own and not text.get("tokenizer_kwargs"):
        return clip_tokenizer(text.get("context_length", open_clip.tokenizer.DEFAULT_CONTEXT_LENGTH))
    if not own or name.startswith("local-dir:") or Path(own).exists():
        return open_clip.get_tokenizer(source)
    return open_clip.tokenizer.HFTokenizer(
        str(fetch_texts(own)),
        context_length=text.get("context_length", open_clip.tokenizer.DEFAULT_CONTEXT_LENGTH),
        tokenizer_mode=text.get("tokenizer_mode"),
        **text.get("tokenizer_kwargs", {}),
    )


@cache
def clip_tokenizer(context: int) -> open_clip.SimpleTokenizer:
    """CLIP's own, one for all models: it takes as long to make as a small model."""
    return open_clip.SimpleTokenizer(context_length=context)


def _tag_options(architecture: str, tag: str) -> dict[str, Any]:
    """Options to build an architecture in open_clip for these weights, which are downloaded if needed."""
    config = open_clip.get_pretrained_cfg(architecture, tag)
    quick = bool(config.get("quick_gelu", False))
    if architectures()[architecture].get("quick_gelu", False) and not quick:
        plain = architecture.removesuffix("-quickgelu")
        raise ModelError(f"weights {tag!r} were trained with GELU, not QuickGELU: use {plain}/{tag}.")
    repository, _, file = config.get("hf_hub", "").rpartition("/")
    if repository:
        files = (str(Path(file).with_suffix(".safetensors")), file) if file else WEIGHTS
        weights = fetch(repository, files, _size(architecture))
    else:  # a few old weights are on other servers
        weights = fetch_url(config["url"], _size(architecture))
    return {"pretrained": str(weights), "force_quick_gelu": quick, "force_preprocess_cfg": config}


def _usual_colors(architecture: str) -> dict[str, Any]:
    """Color mean, std and interpolation that all published weights of an architecture share, for a checkpoint of one.

    A checkpoint file does not record its training normalization. If the published weights disagree, or there are none,
    CLIP's values are used, and a warning says so.
    """
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    configs = [open_clip.get_pretrained_cfg(architecture, tag) for tag in tags]
    used = [{key: config[key] for key in ("mean", "std", "interpolation")} for config in configs]
    if used and all(one == used[0] for one in used):
        return used[0]
    _log.warning("%s: colors are normalized as in CLIP, because a checkpoint does not record its own", architecture)
    return {}


def _size(architecture: str) -> str:
    """Size of an architecture's weights in words, computed without allocating them."""
    config = open_clip.get_model_config(architecture)
    config["text_cfg"]["hf_model_pretrained"] = False  # only its shape is needed
    with torch.device("meta"):
        kind = open_clip.CustomTextCLIP if config.pop("custom_text", False) else open_clip.CLIP
        kind = open_clip.CoCa if "multimodal_cfg" in config else kind
        weights = sum(weight.numel() for weight in kind(**config).parameters())
    return f"about {weights * 4 / 2**20:,.0f} MiB"


def _check_folder(folder: Path) -> None:
    if not (folder / CONFIG).is_file():
        raise ModelError(f"{str(folder)!r} has no {CONFIG}, so it is not an open_clip model folder.")
    if not any(any(folder.glob(f"*{suffix}")) for suffix in (".safetensors", ".bin", ".pth")):
        raise ModelError(f"{str(folder)!r} has no weights: add a file such as {WEIGHTS[0]}.")


def short(error: Exception) -> str:
    """An error of another library on one line."""
    reason = " ".join(str(error).split())
    return f"{type(error).__name__}: {reason if len(reason) <= 400 else reason[:400] + ' ...'}"
