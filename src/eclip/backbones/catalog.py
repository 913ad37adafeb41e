"""Names of models, checked without importing torch, so that a wrong name fails immediately."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import re
from functools import cache
from pathlib import Path
from typing import Any

from eclip.errors import ModelError, UnknownNameError, unsupported
from eclip.files import is_there

MINI = Path(__file__).parent / "assets" / "mini"
DEFAULT_MODEL = "mini"
SCHEMES = ("local-dir:", "hf-hub:", "hf:")
HF_CLASSES = {
    "clip": "CLIPModel",
    "siglip": "SiglipModel",
    "siglip2": "Siglip2Model",
    "chinese_clip": "ChineseCLIPModel",
    "altclip": "AltCLIPModel",
    "metaclip_2": "MetaClip2Model",
}
"""transformers' model_type -> its class, for the supported ones."""
SAM_CLASSES = {
    "sam": "SamModel",
    "sam2": "Sam2Model",
    "sam2_video": "Sam2Model",
    "sam3_tracker": "Sam3TrackerModel",
    "sam3_video": "Sam3TrackerModel",
}
"""transformers' model_type of Segment Anything models -> its class for images; the video types share their weights."""
SAM_EXAMPLE = "facebook/sam2.1-hiera-tiny"
CHECKPOINTS = (".pt", ".pth", ".bin", ".ckpt", ".safetensors")
HEAD_CONFIG = "eclip_head.json"
LEVELS, LEVELS_SCHEMA = "eclip_levels.json", "eclip.levels/1"
"""The file in a model's own folder with the thresholds that were measured for its heat maps, by method."""
BESIDE = "beside the model"
"""Place of a head in its model's own folder, as recorded in results."""
OPENAI_HINT = 'OpenAI\'s CLIP: --model ViT-B-16/openai (Python: model="ViT-B-16/openai")'


def _open_clip() -> Path:
    spec = importlib.util.find_spec("open_clip")
    assert spec is not None and spec.submodule_search_locations, "open_clip_torch is a dependency of eclip"
    return Path(spec.submodule_search_locations[0])


@cache
def architectures() -> dict[str, dict[str, Any]]:
    """Name and configuration of every architecture in the installed open_clip."""
    files = sorted((_open_clip() / "model_configs").glob("*.json"))
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in files}


@cache
def tags() -> dict[str, list[str]]:
    """Tags of trained weights by architecture, parsed from open_clip's source, since importing it takes seconds.

    The table there is `_PRETRAINED = {architecture: dict(tag=_pcfg(...), ...)}`; some inner dicts are named variables.
    """
    tree = ast.parse((_open_clip() / "pretrained.py").read_text(encoding="utf-8"))
    named = {node.targets[0].id: node.value for node in tree.body if _names_one(node)}  # type: ignore[attr-defined]
    found = {}
    for key, value in zip(named["_PRETRAINED"].keys, named["_PRETRAINED"].values, strict=True):
        entries = named[value.id] if isinstance(value, ast.Name) else value
        found[key.value] = [entry.arg for entry in entries.keywords]
        quick = [e.arg for e in entries.keywords if any(option.arg == "quick_gelu" for option in e.value.keywords)]
        if quick:
            found[f"{key.value}-quickgelu"] = quick
    return found


def _names_one(node: ast.stmt) -> bool:
    return isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)


OPENAI = {
    "ViT-B/32": "ViT-B-32",
    "ViT-B/16": "ViT-B-16",
    "ViT-L/14": "ViT-L-14",
    "ViT-L/14@336px": "ViT-L-14-336",
    **{name: name for name in ("RN50", "RN101", "RN50x4", "RN50x16", "RN50x64")},
}
"""Names of OpenAI's own package, `clip.available_models()` -> open_clip's architecture."""


def full_name(name: str, checkpoint: str | Path | None = None) -> str:
    """open_clip's name of a model given by its name in OpenAI's package; any other name is returned unchanged.

    "ViT-B/32" is "ViT-B-32/openai". With a checkpoint, it is only the architecture, with OpenAI's activation. "RN50" is
    also a name of open_clip's, and with a checkpoint means that: for one with OpenAI's activation, "RN50-quickgelu".
    """
    start, plus, file = name.partition("+")
    if start not in OPENAI:
        return name
    if checkpoint is None and not plus:
        return f"{OPENAI[start]}/openai"
    return f"{start if start == OPENAI[start] else OPENAI[start] + '-quickgelu'}{plus}{file}"


CNN = "timm CNN that averages its feature map"
SWIN = "timm Swin that averages its feature map"
BLOCKLESS = (CNN, SWIN)
"""Families of towers without an attention block over all patches."""
COCA = "native ViT with CoCa's attentional pooler"
RELPOS = "timm ViT with relative positions"


def tower_of(config: dict[str, Any]) -> tuple[str | None, str]:
    """The adapter for an architecture's image tower, in words; or None and the reason why there is none.

    The configuration decides, as it does in open_clip itself.
    """
    vision = config.get("vision_cfg", {})
    if vision.get("attentional_pool") is True:
        return COCA, ""
    if vision.get("attentional_pool"):
        return None, "two attentional poolers"
    if "timm_model_name" not in vision:
        return "CLIP ResNet" if isinstance(vision.get("layers"), list) else "native ViT", ""
    name, pool = vision["timm_model_name"], vision.get("timm_pool")
    if pool in ("abs_attn", "rot_attn"):
        return "timm trunk with attention pool", ""
    if name.startswith(("convnext_", "fastvit_")) and pool in ("avg", "", None):
        return CNN, ""
    if name.startswith("swin_") and pool in ("avg", "", None):
        return SWIN, ""
    if name.startswith("vit_relpos_") and pool in ("token", "avg", "", None):
        return RELPOS, ""
    if pool == "map" and name.startswith("vit_pe_"):
        return "EVA with MAP head", ""
    if pool == "map" and name.startswith("vit_"):
        return "timm ViT with MAP head", ""
    if pool in ("token", "avg", "", None) and name.startswith(("vit_", "vitamin_")):
        return "timm ViT", ""
    if pool in ("token", "avg") and name.startswith("eva"):
        return "EVA", ""
    return None, f"timm's {name} with {pool or 'its own'} pooling"


def split_name(name: str, checkpoint: str | Path | None = None) -> tuple[str, str | None, Path | None]:
    """Split a model name into its parts, and check that it names a model.

    Args:
        name: "mini", "ARCH/TAG", "local-dir:PATH", "hf-hub:ORG/NAME", "hf:ORG/NAME", "hf:./PATH", "ARCH+FILE", or
            "ARCH" with a checkpoint.
        checkpoint: a weights file.

    Returns:
        (architecture or name with its scheme, tag or None, checkpoint or None).

    Raises:
        UnknownNameError: no such architecture or tag.
        UnsupportedTowerError: the architecture's image tower has no adapter.
        ModelError: an unsupported scheme, a missing tag, file or folder, or a checkpoint where none is allowed.
    """
    name = full_name(name, checkpoint)
    if checkpoint is None and "+" in name and not name.startswith(SCHEMES):
        name, _, checkpoint = name.partition("+")
    if checkpoint is not None:
        checkpoint = Path(checkpoint)
        if not is_there(checkpoint):
            raise ModelError(f"there is no checkpoint file {str(checkpoint)!r}.")
    if name == DEFAULT_MODEL or name.startswith(SCHEMES):
        if checkpoint is not None:
            raise ModelError(f"checkpoint= requires an architecture such as 'ViT-B-16', got {name!r}.")
        if name.startswith("hf-hub:") and not re.fullmatch(r"[\w.-]+/[\w.-]+", name.removeprefix("hf-hub:")):
            raise ModelError(f"{name!r} is not a repository name: write hf-hub:ORG/NAME.")
        if name.startswith("local-dir:") and not is_there(Path(name.removeprefix("local-dir:")), Path.is_dir):
            raise ModelError(f"there is no model folder {name.removeprefix('local-dir:')!r}.")
        if name.startswith("hf:"):
            _check_hf(name)
        return (f"local-dir:{MINI}" if name == DEFAULT_MODEL else name), None, None
    if Path(name).suffix in CHECKPOINTS:
        raise ModelError(
            f"{name!r} is a weights file, which does not name its architecture: write ARCH+FILE, such as "
            f"'ViT-B-32+{name}'."
        )
    architecture, _, tag = name.partition("/")
    if re.match(r"[.~]{0,2}/|~", name):
        raise ModelError(
            f"{name!r} is a path: for a model folder, write hf:{name} (transformers) or "
            f"local-dir:{os.path.expanduser(name)} (open_clip)."
        )
    if architecture not in architectures() and tag and not any(tag in known for known in tags().values()):
        raise ModelError(
            f"{name!r} is not an ARCH/TAG of open_clip. For a Hub repository, write hf:{name} (transformers) or "
            f"hf-hub:{name} (open_clip); for a folder, hf:./{name} or local-dir:{name}."
        )
    if architecture not in architectures():
        raise UnknownNameError("model", architecture, [*architectures(), DEFAULT_MODEL], "`eclip models ls --all`")
    family, reason = tower_of(architectures()[architecture])
    if family is None:
        raise unsupported(f"the image tower of {architecture} ({reason})")
    if checkpoint is not None:
        if tag:
            raise ModelError(f"pass a tag or a checkpoint, not both: {name} or {architecture}+{checkpoint}.")
        return architecture, None, checkpoint
    known = tags().get(architecture, [])
    if not tag:
        example = f": add a tag as in {architecture}/{known[0]} (`eclip models ls --all` shows them)" if known else ""
        raise ModelError(
            f"{name!r} names an architecture without weights{example or ', and open_clip lists none for it'}, or "
            f"pass a checkpoint: {architecture}+FILE."
        )
    if tag not in known:
        raise UnknownNameError(f"weights of {architecture}:", tag, known, "`eclip models ls --all`")
    return architecture, tag, None


def hf_folder(name: str) -> Path | None:
    """The folder of "hf:./PATH", "hf:/PATH" or "hf:~/PATH"; None for "hf:ORG/NAME", a repository of the Hub.

    The two are never confused: a local folder does not hide a repository of the same name.

    Raises:
        ModelError: the user of "~NAME" does not exist.
    """
    rest = name.removeprefix("hf:")
    if re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", rest):
        return None
    try:
        return Path(rest).expanduser()
    except RuntimeError as error:
        raise ModelError(f"{name!r}: {Path(rest).parts[0]!r} has no home folder on this machine.") from error


def sam_folder(name: str) -> Path | None:
    """The folder of a SAM, checked to be there; None for "ORG/NAME" or "hf:ORG/NAME", a repository of the Hub.

    A folder may be named with or without "hf:". As a bare name, an existing folder comes before a repository.

    Raises:
        ModelError: it is neither.
    """
    scheme = name.startswith("hf:")
    folder = Path(name) if not scheme and is_there(Path(name), Path.is_dir) else hf_folder(name)
    if folder is not None and not is_there(folder / "config.json"):
        raise ModelError(
            f"{name!r} is neither a folder with a Segment Anything model of transformers (no config.json) nor "
            f"ORG/NAME on the Hugging Face Hub: write a name such as {SAM_EXAMPLE!r}, or a folder that "
            "save_pretrained wrote."
        )
    return folder


def folder_of(architecture: str) -> Path | None:
    """The folder that a model's name refers to, if any; `architecture` is the first part from `split_name`."""
    if architecture.startswith("local-dir:"):
        return Path(architecture.removeprefix("local-dir:"))
    return hf_folder(architecture) if architecture.startswith("hf:") else None


def head_beside(architecture: str) -> Path | None:
    """The folder of a model, if it contains an ECLIP head."""
    folder = folder_of(architecture)
    return folder if folder is not None and (folder / HEAD_CONFIG).is_file() else None


def levels_beside(architecture: str) -> dict[str, float]:
    """The thresholds in a model's own folder, see `Backbone.levels`; none if there are none.

    Raises:
        ModelError: the file cannot be read.
    """
    folder = folder_of(architecture)
    if folder is None or not (file := folder / LEVELS).is_file():
        return {}
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))
        levels = {str(method): float(level) for method, level in stored["levels"].items()}
        if stored["schema"] != LEVELS_SCHEMA or not all(0 <= level <= 1 for level in levels.values()):
            raise ValueError(f"its schema is not {LEVELS_SCHEMA}, or a threshold is not in [0, 1]")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{str(file)!r} cannot be read ({type(error).__name__}: {error}): delete it.") from error
    return levels


def _check_hf(name: str) -> None:
    folder = hf_folder(name)
    if folder is not None and not is_there(folder / "config.json"):
        raise ModelError(
            f"{name!r}: {str(folder)!r} is not a transformers model folder (no config.json). Write hf:ORG/NAME for a "
            "Hub repository, or hf:./FOLDER for a folder that save_pretrained wrote."
        )
    if importlib.util.find_spec("transformers") is None:
        raise ModelError(f"{name} requires the package transformers: pip install 'eclip[hf]'.")
