"""Maps of the example images by each method of `mini`, and the towers to which each method applies.

Both are kept in .docs-cache/ until the code that they depend on changes, since perturbation methods take minutes.
"""

from __future__ import annotations

import hashlib
import json
import logging
import sys
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from sitepages.links import ROOT

_log = logging.getLogger("mkdocs.eclip")
CACHE = ROOT / ".docs-cache"
IMAGES = {
    "elephant": ("an elephant", "a man"),
    "dog": ("a dog", "a sofa"),
    "horses": ("a horse", "the sea"),
}
"""Images of docs/images, and the two texts for each."""

QUALITY = 88
"""Of the pictures, in WebP."""

TOWERS = {
    "ViT with CLS (OpenAI, LAION, MetaCLIP)": "vit",
    "ViT with averaged patches": "vit, average pool",
    "CLIP ResNet": "resnet",
    "timm trunk with attention pool (`mini`)": "timm abs_attn",
    "SigLIP": "siglip",
    "CoCa": "vit, coca's pooler",
    "EVA": "eva",
    "EVA02": "eva02",
    "PE-Core": "eva with map head",
    "ViT with relative positions": "timm vit, relative positions",
    "ConvNeXt": "convnext",
    "MobileCLIP-S": "fastvit",
    "Swin": "swin",
}
"""Kinds of image towers, and the tiny model of `tests/tiny.py` that stands for each."""

CODE = ["errors.py", "registry.py", "pixels.py", "heatmap.py", "images.py"]
CODE += ["backbones", "texts", "render", "methods", "explanation"]
"""What pictures depend on, in src/eclip."""


class Drawn(NamedTuple):
    """Pictures of a method by the name of the image; or why there are none."""

    paths: dict[str, Path]
    reason: str


def draw() -> dict[str, Drawn]:
    """Maps of every method of the registry, from the cache or new."""
    from eclip.methods import METHODS

    drawn = {name: draw_method(name) for name in METHODS}
    current = [_digest(IMAGES), _digest(TOWERS), *(_digest({image: texts}) for image, texts in IMAGES.items())]
    for path in CACHE.iterdir():
        if not any(digest in path.name for digest in current):
            path.unlink()
    return drawn


def draw_method(name: str) -> Drawn:
    """One strip for each image: the image, and the heat map of each of its texts."""
    import eclip
    from eclip.errors import NotApplicableError

    CACHE.mkdir(exist_ok=True)
    paths, refusal = {}, CACHE / f"{name}-{_digest(IMAGES)}.txt"
    if refusal.exists():
        return Drawn({}, refusal.read_text(encoding="utf-8"))
    for image, texts in IMAGES.items():
        path = paths[image] = CACHE / f"{name}-{image}-{_digest({image: texts})}.webp"
        if path.exists():
            continue
        _log.info("drawing %s of %s, once", name, image)
        source = str(ROOT / "docs" / "images" / f"{image}.jpg")
        try:
            explanation = eclip.explain(source, list(texts), model="mini", method=name, health=False)
        except NotApplicableError as error:
            refusal.write_text(_reason(error), encoding="utf-8")
            return Drawn({}, _reason(error))
        unfinished = path.with_suffix(".part")
        explanation.strip(0).save(unfinished, format="webp", quality=QUALITY)
        unfinished.replace(path)
    return Drawn(paths, "")


def files(drawn: dict[str, Drawn]) -> dict[str, Path]:
    """Where the site has the pictures."""
    return {site_path(name, image): path for name, one in drawn.items() for image, path in one.paths.items()}


def site_path(name: str, image: str) -> str:
    """Where the site has a picture."""
    return f"methods/images/{name}-{image}.webp"


def applicability() -> dict[str, dict[str, str]]:
    """For each method and each kind of tower: empty if it applies, otherwise why not."""
    path = CACHE / f"applicability-{_digest(TOWERS)}.json"
    if path.exists():
        found: dict[str, dict[str, str]] = json.loads(path.read_text(encoding="utf-8"))
        return found
    CACHE.mkdir(exist_ok=True)
    found = _tried()
    path.write_text(json.dumps(found, ensure_ascii=False), encoding="utf-8")
    return found


def _tried() -> dict[str, dict[str, str]]:
    import eclip
    from eclip.errors import NotApplicableError

    sys.path.insert(0, str(ROOT / "tests"))
    try:
        import tiny
    finally:
        sys.path.pop(0)
    found: dict[str, dict[str, str]] = {name: {} for name in eclip.METHODS}
    for tower, family in TOWERS.items():
        backbone = tiny.kept(family)
        encoding = eclip.encode(backbone, tiny.pixels(backbone, 1))
        for name, method in eclip.METHODS.items():
            try:
                method(encoding, tiny.texts(backbone, 2), **tiny.FEW.get(name, {}))
                found[name][tower] = ""
            except NotApplicableError as error:
                found[name][tower] = _reason(error)
    return found


def _reason(error: Exception) -> str:
    """What follows "... is not applicable to ...: "."""
    return str(error).partition(": ")[2] or str(error)


def _digest(subject: dict[str, Any]) -> str:
    """Identifies what is drawn or tried, and the code that does it."""
    return hashlib.sha256(f"{subject} {_code()}".encode()).hexdigest()[:16]


@cache
def _code() -> str:
    whole = hashlib.sha256()
    sources = [path for part in CODE for path in _below(ROOT / "src" / "eclip" / part)]
    for path in [*sources, ROOT / "tests" / "tiny.py", *_below(ROOT / "docs" / "images")]:
        whole.update(str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes())
    return whole.hexdigest()


def _below(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    return sorted(one for one in path.rglob("*") if one.is_file() and "__pycache__" not in one.parts)
