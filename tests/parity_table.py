"""What works where, and the largest differences behind the parity tests, as three tables.

python tests/parity_table.py
"""

from __future__ import annotations

import numpy as np
import torch

import eclip
import test_golden as golden
import tiny
from eclip.errors import NoMeaningError


def towers() -> None:
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


def meanings() -> None:
    print(f"\n{'method':<12}" + "".join(f"{family:<22}" for family in tiny.FAMILIES))
    reasons = {}
    for name, method in eclip.METHODS.items():
        row = []
        for family in tiny.FAMILIES:
            backbone = tiny.backbone(family)
            try:
                method(eclip.encode(backbone, tiny.pixels(backbone)), tiny.texts(backbone), **tiny.FEW.get(name, {}))
                row.append("works")
            except NoMeaningError as error:
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
    meanings()
    if golden.GOLDEN.is_dir():
        methods()
    else:
        print("\n../shared/golden is not here: no table of methods.")
