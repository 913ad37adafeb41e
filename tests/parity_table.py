"""What works where, and the largest differences behind the parity tests, as four tables.

python tests/parity_table.py
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

import eclip
import test_golden as golden
import tiny
from eclip.backbones.text_tower import run_text_block
from eclip.errors import NotApplicableError


def towers() -> None:
    print(f"{'family':<24}{'float64':>10}{'float32':>10}   |feature - encode_image|, on and off the training grid")
    for family in tiny.FAMILIES:
        worst = []
        for dtype in (torch.float64, torch.float32):
            backbone = tiny.backbone(family, dtype)
            grids = [(0, 0), (5, 2)] if family in ("timm abs_attn", "timm rot_attn") else [(0, 0)]
            differences = []
            for rows, cols in grids:
                pixels = tiny.pixels(backbone, rows=rows, cols=cols).to(dtype)
                feature = eclip.encode(backbone, pixels).feature
                differences.append((feature - backbone.model.encode_image(pixels)).abs().max().item())
            worst.append(max(differences))
        print(f"{family:<24}{worst[0]:>10.1e}{worst[1]:>10.1e}")


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
    texts = ["a dog", "the photo of an elephant in front of the cat", "狗 一只猫", ""]
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
                features, ids = backbone.encode_text(texts), backbone.tokenize(texts)
                words = features - tiny_hf.text_features(backbone.model, texts, tiny_hf.tokenizer(family))
                tower = backbone.text_tower
                x = tower.embed(ids)
                for block in tower.blocks:
                    x = run_text_block(block, x, tower.mask(ids))
                again = tower.pool(ids, x) - features
            numbers = "".join(f"{d.abs().max():>{w}.1e}" for d, w in ((image, 9), (words, 9), (again, 12)))
            print(f"{family:<22}{attention:<11}{str(dtype)[6:]:<10}{numbers}{maps[worst]:>9.1e}  {worst}")


def applicability() -> None:
    print(f"\n{'method':<12}" + "".join(f"{family:<22}" for family in tiny.FAMILIES))
    reasons = {}
    for name, method in eclip.METHODS.items():
        row = []
        for family in tiny.FAMILIES:
            backbone = tiny.backbone(family)
            try:
                method(eclip.encode(backbone, tiny.pixels(backbone)), tiny.texts(backbone), **tiny.FEW.get(name, {}))
                row.append("works")
            except NotApplicableError as error:
                number = list(reasons).index(error.why) if error.why in reasons else len(reasons)
                reasons[error.why] = row.append(f"no ({number + 1})")
        print(f"{name:<12}" + "".join(f"{cell:<22}" for cell in row))
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
    hosts()
    applicability()
    if golden.GOLDEN.is_dir():
        methods()
    else:
        print("\n../shared/golden is not here: no table of methods.")
