"""Each metric's hand-made example, its oracle with the largest difference on random cases, and what a pair costs.

python tests/metric_table.py
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch

import eclip
from eclip import heatmap
from eclip.metrics.boxes import box_ious
from eclip.metrics.localization import THRESHOLDS, ious
from eclip.metrics.separation import separation
from metric_cases import BY_HAND, ORACLES


def examples() -> None:
    print(f"{'metric':<20}{'by hand':<52}{'answer':>10}{'ours':>10}{'difference':>12}")
    for case in sorted(BY_HAND, key=lambda case: list(eclip.METRICS).index(case.metric)):
        ours = float(case.ours())
        print(f"{case.metric:<20}{case.what:<52}{case.answer:>10.6f}{ours:>10.6f}{abs(ours - case.answer):>12.1e}")


def oracles() -> None:
    print(f"\n{'metric':<20}{'oracle':<52}{'cases':>10}{'largest difference':>22}")
    for oracle in sorted(ORACLES, key=lambda oracle: list(eclip.METRICS).index(oracle.metric)):
        differences = oracle.differences()
        print(f"{oracle.metric:<20}{oracle.whose:<52}{len(differences):>10}{max(differences):>22.1e}")


def costs() -> None:
    """CPU time, best of 15: the machine's other work should not count."""
    generator = torch.Generator().manual_seed(0)
    size = (288, 384)
    maps = {f"{side} x {side} patches": torch.rand(side, side, generator=generator) for side in (7, 14, 24)}
    maps["every pixel"] = torch.rand(size, generator=generator)
    heats = {name: heatmap.resize(heatmap.normalize(raw), size).numpy() for name, raw in maps.items()}
    print(f"\n{'ms for a pair of 288 x 384 pixels':<34}" + "".join(f"{name:>18}" for name in heats))
    inside = np.roll(heats["14 x 14 patches"] > 0.6, 30, axis=1)
    kind = {name: metric.function for name, metric in eclip.METRICS.items() if metric.kind == "pair"}
    kind["AP and AUROC, one sort"] = separation
    kind[f"iou at {len(THRESHOLDS)} thresholds"] = ious
    kind[f"box_iou at {len(THRESHOLDS)} thresholds"] = box_ious
    for name, function in kind.items():
        row = [f"{_fastest(lambda f=function, h=heat: f(h, inside, ~inside)):>18.2f}" for heat in heats.values()]
        print(f"{name:<34}" + "".join(row))


def _fastest(task: Callable[[], object]) -> float:
    spent = []
    for _ in range(15):
        start = time.process_time()
        task()
        spent.append(time.process_time() - start)
    return min(spent) * 1000


if __name__ == "__main__":
    examples()
    oracles()
    costs()
