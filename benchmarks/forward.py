"""Time of a forward pass of `mini`, alternating with that of another model, such as an earlier `mini`.

    git show 18ca603:src/eclip/backbones/assets/mini/open_clip_model.safetensors > OLD/open_clip_model.safetensors
    git show 18ca603:src/eclip/backbones/assets/mini/open_clip_config.json > OLD/open_clip_config.json
    OMP_NUM_THREADS=1 python benchmarks/forward.py local-dir:OLD

Expect: for several numbers of images, the median time per image and the median ratio to the other model, with quartiles
in brackets; of the model's own `encode_image`, and of `eclip.encode` as most methods need it. Two minutes on one core.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

import eclip


def seconds(run: Callable[[eclip.Backbone, Tensor], object], backbone: eclip.Backbone, pixels: Tensor) -> float:
    started = time.perf_counter()
    run(backbone, pixels)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("other", help="any name that eclip.load knows")
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    both = [eclip.load("mini"), eclip.load(args.other)]
    passes: dict[str, Callable[[eclip.Backbone, Tensor], object]] = {
        "encode_image": lambda backbone, pixels: backbone.model.encode_image(pixels),
        "eclip.encode": lambda backbone, pixels: eclip.encode(backbone, pixels, keep=1),
    }
    print(f"threads: {torch.get_num_threads()}")
    for name, run in passes.items():
        for count in (1, 4, 16):
            pixels = [backbone.blank().expand(count, -1, -1, -1) for backbone in both]
            with torch.no_grad():
                rounds = [
                    [seconds(run, *pair) for pair in zip(both, pixels, strict=True)] for _ in range(args.rounds + 3)
                ]
            times = np.array(rounds)[3:]
            ratio = np.quantile(times[:, 0] / times[:, 1], (0.25, 0.5, 0.75))
            own, other = 1000 * np.median(times, axis=0) / count
            print(
                f"{name}, {count:2} images: {own:.1f} and {other:.1f} ms per image, ratio {ratio[1]:.2f} "
                f"({ratio[0]:.2f} to {ratio[2]:.2f})",
                flush=True,
            )


if __name__ == "__main__":
    main()
