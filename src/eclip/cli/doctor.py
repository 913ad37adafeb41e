"""Checks of the installation: versions, torch and torchvision, devices, the bundled model, cached weights."""

from __future__ import annotations

import importlib.metadata
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub
import torch

from eclip import __version__
from eclip.backbones.catalog import DEFAULT_MODEL, MINI, OPENAI_HINT
from eclip.errors import EclipError


@dataclass(frozen=True)
class Finding:
    """What was checked, what was found, whether that is fine, and the next step, if any."""

    what: str
    found: str
    fine: bool = True
    advice: str = ""


def examine(model: str | None = None) -> list[Finding]:
    """Check everything that most often goes wrong, and a model, if its name is given."""
    return [
        Finding("eclip", __version__),
        Finding("python", f"{platform.python_version()} on {platform.system()} {platform.machine()}"),
        *(Finding(name, importlib.metadata.version(name)) for name in ("torch", "open_clip_torch", "timm", "pillow")),
        _extra("transformers", "hf", "for models named hf:..."),
        _extra("scikit-learn", "concepts", "for eclip concepts"),
        _torchvision(),
        Finding("CPU", f"{torch.get_num_threads()} threads"),
        _cuda(),
        Finding("MPS", "not supported: results were never tested on it"),
        _mini(),
        _cached(),
        *([] if model is None else [_model(model)]),
    ]


def _extra(package: str, extra: str, purpose: str) -> Finding:
    try:
        return Finding(package, importlib.metadata.version(package))
    except importlib.metadata.PackageNotFoundError:
        return Finding(package, "not installed", advice=f"pip install 'eclip[{extra}]', {purpose}")


def _model(name: str) -> Finding:
    """Check that a model loads, has an adapter, encodes texts and images, and yields finite numbers."""
    try:
        from eclip.backbones.encoding import encode
        from eclip.backbones.load import load

        backbone = load(name)
        text = backbone.encode_text(["a dog"])
        image = encode(backbone, backbone.blank(), 0)
    except (EclipError, ImportError, RuntimeError) as error:
        return Finding(f"model {name}", str(error), False, "`eclip models ls --all` lists the models that work")
    fine = bool(text.isfinite().all() and image.feature.isfinite().all())
    rows, cols = backbone.native
    found = f"{backbone.family}, {rows} x {cols} patches of {backbone.patch_size} px, {text.shape[1]} features"
    words = f"`eclip words` {'supported' if backbone.text_tower is not None else 'not supported'}"
    advice = "" if fine else "its features are not finite: the weights are probably damaged"
    return Finding(f"model {name}", f"{'works' if fine else 'yields NaN'}: {found}, {words}", fine, advice)


def _torchvision() -> Finding:
    version = importlib.metadata.version("torchvision")
    try:
        import torchvision

        values: Any = {"dtype": torch.float32, "device": "cpu"}
        boxes, scores = torch.tensor([[0.0, 0.0, 1.0, 1.0]], **values), torch.tensor([1.0], **values)
        torchvision.ops.nms(boxes, scores, 0.5)  # compiled code; fails if the two do not match
    except (ImportError, RuntimeError) as error:
        advice = "install torch and torchvision together, in one command, from one index"
        return Finding("torchvision", f"{version}, does not match torch ({error})", False, advice)
    return Finding("torchvision", f"{version}, matches torch")


def _cuda() -> Finding:
    if torch.cuda.is_available():
        names = ", ".join(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))
        return Finding("CUDA", names, advice="--device cuda")
    return Finding("CUDA", "no device")


def _mini() -> Finding:
    try:
        from eclip.backbones.load import load  # here, since it needs torchvision, which was checked before

        backbone = load(DEFAULT_MODEL)
        feature = backbone.encode_text(["a dog"])
    except (EclipError, ImportError, RuntimeError) as error:
        return Finding("model mini", str(error), False, "reinstall eclip: its wheel contains the weights")
    size = sum(path.stat().st_size for path in MINI.iterdir()) / 2**20
    return Finding("model mini", f"works, {size:.1f} MiB, {feature.shape[1]} features, {backbone.image_size} px")


def _cached() -> Finding:
    folder = Path(huggingface_hub.constants.HF_HUB_CACHE)
    found = huggingface_hub.scan_cache_dir(folder).repos if folder.is_dir() else ()
    cached = sorted(one.repo_id for one in found if one.repo_type == "model")
    return Finding("cached weights", ", ".join(cached) or f"none in {folder}", advice="" if cached else OPENAI_HINT)
