"""What works where, and the largest differences behind the parity tests, as tables.

python tests/parity_table.py           tiny models of each family, with random weights
python tests/parity_table.py full      also whole architectures of open_clip, with random weights: minutes
"""

from __future__ import annotations

import sys

import numpy as np
import open_clip
import pytest
import torch

import eclip
import test_golden as golden
import tiny
from eclip.backbones.attention_pooling import gather
from eclip.backbones.backbone import Backbone
from eclip.backbones.blocks import finish, run_block
from eclip.backbones.encoding import Encoding
from eclip.backbones.text_tower import run_text_block
from eclip.errors import NotApplicableError

TOWERS = tiny.FAMILIES | tiny.CNNS | tiny.FIXED
ANY_GRID = ("timm abs_attn", "timm rot_attn", "convnext", "fastvit")
"""Families whose host reads any grid as it is."""
TEXTS = ["a dog", "the photo of an elephant in front of the cat", "狗 一只猫", ""]
WHOLE = (
    "convnext_tiny",
    "MobileCLIP-S1",
    "PE-Core-T-16-384",
    "coca_ViT-B-32",
    "swin_base_patch4_window7_224",
    "vit_relpos_medium_patch16_cls_224",
)


def towers() -> None:
    print(
        "Largest differences: our feature and encode_image; a block (or pooler) rerun and the host's; methods that work"
    )
    print(f"{'family':<30}{'float64':>10}{'float32':>10}{'block':>10}{'text':>10}{'methods':>9}")
    for family in TOWERS:
        features = [max(_feature(tiny.backbone(family, dtype), family)) for dtype in (torch.float64, torch.float32)]
        backbone = tiny.backbone(family, torch.float64)
        row = f"{family:<30}{features[0]:>10.1e}{features[1]:>10.1e}{_block(backbone)}{_text(backbone):>10.1e}"
        print(f"{row}{_working(backbone):>9}")


def whole() -> None:
    print("\nWhole architectures of open_clip with random weights, one image")
    print(f"{'architecture':<36}{'float64':>10}{'float32':>10}{'block':>10}{'text':>10}")
    for name in WHOLE:
        torch.manual_seed(0)
        model = open_clip.create_model(name, load_weights=False).eval().requires_grad_(False)
        backbone = eclip.wrap(model, mean=tiny.MEAN, std=tiny.STD, name=name)
        single = max(_feature(backbone, name, images=1))
        backbone = eclip.wrap(model.double(), mean=tiny.MEAN, std=tiny.STD, name=name)
        double = max(_feature(backbone, name, images=1))
        print(f"{name:<36}{double:>10.1e}{single:>10.1e}{_block(backbone, 1)}{_text(backbone):>10.1e}", flush=True)


def _feature(backbone: Backbone, family: str, images: int = 2) -> list[float]:
    differences = []
    for rows, cols in [(0, 0), (5, 2)] if family in ANY_GRID else [(0, 0)]:
        pixels = tiny.pixels(backbone, images, rows, cols).to(backbone.weight.dtype)
        with torch.no_grad():
            theirs = backbone.encode_pixels(pixels)
        differences.append((eclip.encode(backbone, pixels).feature - theirs).abs().max().item())
    return differences


@torch.no_grad()
def _block(backbone: Backbone, images: int = 2) -> str:
    encoding = eclip.encode(backbone, tiny.pixels(backbone, images).to(backbone.weight.dtype))
    outputs = [*encoding.inputs, encoding.tokens][1:]
    steps = zip(encoding.blocks, encoding.inputs, outputs, strict=True)
    differences = [(run_block(block, x) - output).abs().max().item() for block, x, output in steps]
    differences += [_pooled(encoding)] if backbone.latent is not None else []
    return f"{max(differences):>10.1e}" if differences else f"{'none':>10}"


def _pooled(encoding: Encoding) -> float:
    """A learned query's row."""
    last = gather(encoding, "parity")
    ours = finish(last.block, last.x[:, :1], last.attn @ last.v)
    return (ours - last.block.forward(encoding.tokens)).abs().max().item()


@torch.no_grad()
def _text(backbone: Backbone) -> float:
    """The text tower rerun block by block, and the model's own features."""
    tower, ids = backbone.text_tower, backbone.tokenize(TEXTS)
    assert tower is not None
    x = tower.embed(ids)
    for block in tower.blocks:
        x = run_text_block(block, x, tower.mask(ids))
    return (tower.pool(ids, x) - backbone.encode_text(TEXTS)).abs().max().item()


def _working(backbone: Backbone) -> str:
    encoding, text = eclip.encode(backbone, tiny.pixels(backbone).to(backbone.weight.dtype)), tiny.texts(backbone)
    count = 0
    for name, method in eclip.METHODS.items():
        try:
            method(encoding, text.to(encoding.feature), **tiny.FEW.get(name, {}))
            count += 1
        except NotApplicableError:
            pass
    return f"{count} of {len(eclip.METHODS)}"


def hosts() -> None:
    """Models of transformers, against themselves and against a twin in open_clip with the same weights."""
    try:
        import tiny_hf
    except pytest.skip.Exception as error:
        print(f"\nno table of transformers: {error}")
        return
    print(f"\ntransformers {tiny_hf.transformers.__version__}, largest differences; map: relative to its largest value")
    print(
        f"{'family':<22}{'attention':<11}{'dtype':<10}{'image':>9}{'text':>9}{'text tower':>12}{'map':>9}  worst method"
    )
    for family in tiny_hf.FAMILIES:
        for attention, dtype in (("sdpa", torch.float64), ("sdpa", torch.float32), ("eager", torch.float32)):
            backbone = tiny_hf.backbone(family, dtype, attention)
            pixels, text = tiny.pixels(backbone).to(dtype), tiny.texts(backbone).to(dtype)
            ours, theirs = eclip.encode(backbone, pixels), eclip.encode(tiny_hf.twin(backbone), pixels)
            maps = {}
            for name, method in eclip.METHODS.items():
                one, other = (method.function(encoding, text, **tiny.FEW.get(name, {})) for encoding in (ours, theirs))
                maps[name] = ((one - other).abs().max() / other.abs().max()).item()
            worst = max(maps, key=lambda name: maps[name])
            with torch.no_grad():
                image = ours.feature - tiny_hf.image_features(backbone.model, pixels)
                features = backbone.encode_text(TEXTS)
                words = features - tiny_hf.text_features(backbone.model, TEXTS, tiny_hf.tokenizer(family))
            numbers = f"{image.abs().max():>9.1e}{words.abs().max():>9.1e}{_text(backbone):>12.1e}"
            print(f"{family:<22}{attention:<11}{str(dtype)[6:]:<10}{numbers}{maps[worst]:>9.1e}  {worst}")


def applicability() -> None:
    print(f"\n{'method':<12}" + "".join(f"{family:<30}" for family in TOWERS))
    reasons = {}
    for name, method in eclip.METHODS.items():
        row = []
        for family in TOWERS:
            backbone = tiny.backbone(family)
            try:
                method(eclip.encode(backbone, tiny.pixels(backbone)), tiny.texts(backbone), **tiny.FEW.get(name, {}))
                row.append("works")
            except NotApplicableError as error:
                number = list(reasons).index(error.why) if error.why in reasons else len(reasons)
                reasons[error.why] = row.append(f"no ({number + 1})")
        print(f"{name:<12}" + "".join(f"{cell:<30}" for cell in row))
    for number, why in enumerate(reasons, 1):
        print(f"({number}) {why}")


def methods() -> None:
    print(f"\n{'method':<12}{'model':<12}{'golden array':<52}{'difference':>11}{'atol':>8}   (rtol 1e-4)")
    for case in sorted(golden.CASES, key=lambda case: list(eclip.METHODS).index(case.method)):
        ours, theirs = case.compare()
        array = f"{case.file}/{case.array}" + (f" {case.options}" if case.options else "")
        difference = np.abs(ours - theirs).max()
        print(f"{case.method:<12}{case.model:<12}{array:<52}{difference:>11.1e}{case.atol:>8.0e}")


if __name__ == "__main__":
    towers()
    if "full" in sys.argv:
        whole()
    hosts()
    applicability()
    methods()
