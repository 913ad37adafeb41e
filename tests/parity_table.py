"""The largest differences behind the parity tests, as two tables.

python tests/parity_table.py
"""

from __future__ import annotations

import numpy as np
import torch

import eclip
import test_golden as golden
import tiny


def families() -> None:
    print(f"{'family':<24}{'float64':>10}{'float32':>10}   |feature - encode_image|, on and off the training grid")
    for family in tiny.FAMILIES:
        worst = []
        for dtype in (torch.float64, torch.float32):
            backbone = tiny.backbone(family, dtype)
            grids = [(0, 0), (5, 2)] if family.startswith("timm") else [(0, 0)]
            differences = []
            for rows, cols in grids:
                pixels = tiny.pixels(backbone, rows=rows, cols=cols).to(dtype)
                feature = eclip.encode(backbone, pixels).feature
                differences.append((feature - backbone.model.encode_image(pixels)).abs().max().item())
            worst.append(max(differences))
        print(f"{family:<24}{worst[0]:>10.1e}{worst[1]:>10.1e}")


def methods() -> None:
    print(f"\n{'model':<12}{'method':<10}{'golden array':<44}{'difference':>11}")
    for model in golden.MODELS:
        for name, positions, run in _cases(model):
            method = name.split(" ")[0]
            difference = run(positions)
            print(f"{model:<12}{method:<10}{name.split(' ')[1]:<44}{difference:>11.1e}")


def _cases(model):
    pool = model == "tiny-rn"

    def rows(method, size, file, array, **options):
        def run(positions: str) -> float:
            encoding = golden._encode(model, size, positions)
            stored = golden._golden(file, model, array)
            expected = stored if stored.ndim == 4 else golden._patches(encoding, stored)
            ours = eclip.METHODS[method](encoding, golden._classes(), **options).numpy()
            return float(np.abs(ours - expected).max())

        return f"{method} {array}", "bicubic" if method == "maskclip" else "bilinear", run

    yield rows("itsm", "native", "itsm", "similarity_native")
    for size in ["native", "rect96x160"] if pool else ["native", "square96", "rect48x80"]:
        suffix = "" if pool else "_clip_quickgelu_eps1e-5"
        yield rows("maskclip", size, "maskclip", f"scores_{size}{suffix}")
    for size in ["native", "square192"] if pool else ["native", "square96"]:
        for resnet in ["released_vv", "normed_scale8"] if pool else [""]:
            options = {"resnet": resnet} if pool else {}
            name = f"fsurgery_scores_{size}_{resnet}".rstrip("_")
            yield rows("surgery", size, "clip_surgery", name, **options)


if __name__ == "__main__":
    families()
    if golden.GOLDEN.is_dir():
        methods()
    else:
        print("\n../shared/golden is not here: no table of methods.")
