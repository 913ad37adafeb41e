"""Names of models, checked without importing torch, so that a wrong name is answered at once."""

from __future__ import annotations

import importlib.util
import json
from functools import cache
from pathlib import Path
from typing import Any

from eclip.errors import ModelError, UnknownNameError

MINI = Path(__file__).parent / "assets" / "mini"
DEFAULT_MODEL = "mini"
SCHEMES = ("local-dir:", "hf-hub:")
OPENAI_HINT = "OpenAI's CLIP: --model ViT-B-16/openai (Python: model=\"ViT-B-16/openai\")"


@cache
def architectures() -> dict[str, dict[str, Any]]:
    """Name and configuration of every architecture that the installed open_clip brings."""
    spec = importlib.util.find_spec("open_clip")
    assert spec is not None and spec.submodule_search_locations, "open_clip_torch is a dependency of eclip"
    folder = Path(spec.submodule_search_locations[0]) / "model_configs"
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))}


def family_of(config: dict[str, Any]) -> str | None:
    """The adapter that an architecture's image tower gets, in words; None where there is none."""
    vision = config.get("vision_cfg", {})
    if "multimodal_cfg" in config or vision.get("attentional_pool"):
        return None
    if "timm_model_name" not in vision:
        return "CLIP ResNet" if isinstance(vision.get("layers"), list) else "native ViT"
    if vision.get("timm_pool") in ("abs_attn", "rot_attn"):
        return "timm trunk with attention pool"
    if vision.get("timm_pool") == "map" and vision["timm_model_name"].startswith("vit_"):
        return "timm ViT with MAP head"
    return None


def split_name(name: str, checkpoint: str | Path | None = None) -> tuple[str, str | None]:
    """Cut a model name into architecture and tag, and refuse what cannot be loaded.

    Args:
        name: "mini", "ARCH/TAG", "local-dir:PATH", "hf-hub:ORG/NAME", "ARCH+FILE", or "ARCH" when a checkpoint is given.
        checkpoint: a file with weights.

    Returns:
        (architecture or schemed name, tag or None). Whether the tag exists is found out when loading.

    Raises:
        UnknownNameError: no such architecture.
        ModelError: a scheme that is not read, a missing tag or file, or a checkpoint where none can be used.
    """
    if checkpoint is None and "+" in name and not name.startswith(SCHEMES):
        name, _, checkpoint = name.partition("+")
    if checkpoint is not None and not Path(checkpoint).is_file():
        raise ModelError(f"there is no checkpoint file {str(checkpoint)!r}.")
    if name == DEFAULT_MODEL or name.startswith(SCHEMES):
        if checkpoint is not None:
            raise ModelError(f"checkpoint= goes with an architecture such as 'ViT-B-16', not with {name!r}.")
        return (f"local-dir:{MINI}" if name == DEFAULT_MODEL else name), None
    if name.startswith("hf:"):
        raise ModelError(f"{name!r}: transformers models are not read by this version; open_clip's are, by hf-hub:ORG/NAME.")
    architecture, _, tag = name.partition("/")
    if architecture not in architectures():
        raise UnknownNameError("model", architecture, [*architectures(), DEFAULT_MODEL], "`eclip models ls --all`")
    if checkpoint is not None and tag:
        raise ModelError(f"give a tag or a checkpoint, not both: {architecture!r} with checkpoint=, or {name!r} alone.")
    if checkpoint is None and not tag:
        raise ModelError(
            f"{name!r} is an architecture without weights: add a tag as in {architecture}/openai "
            "(`eclip models ls --all` shows them), or give checkpoint=FILE."
        )
    return architecture, tag or None
