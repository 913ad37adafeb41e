"""The cost of each method relative to a bare `encode_image`, paired in one run.

    python benchmarks/cost.py                      # ViT-B/16 with random weights, 1, 20 and 100 texts, CPU
    python benchmarks/cost.py --device cuda --json benchmarks/cost-cuda.json

Each round times the bare pass and every method once, in rotating order, and a method's number is the median over rounds
of its time divided by that of the bare pass in the same round. A method's time is that of `encode` and the method
together, which a user waits for, with the text features given. "Arithmetic" is the same ratio for multiplications in
matrix products, convolutions and attention, as torch counts them: the ratio if only these took time. Perturbation
methods are timed only in the first round. Peak memory is that of a fresh process for each method.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import open_clip
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

import eclip

BARS: dict[str, dict[int, float]] = {
    "itsm": {1: 1.08, 100: 1.10},
    "rclip": {1: 1.08, 100: 1.10},
    "attention": {1: 1.08, 100: 1.10},
    "clearclip": {1: 1.03, 100: 1.12},
    "eclip": {1: 1.15, 100: 1.17},
    "maskclip": {1: 1.03, 100: 1.17},
    "sclip": {1: 1.03, 100: 1.17},
    "naclip": {1: 1.03, 100: 1.17},
    "surgery": {1: 1.07, 100: 1.20},
    "rollout": {1: 1.35, 100: 1.35},
    "gem": {1: 1.25, 100: 1.65},
    "gradeclip": {1: 1.20, 100: 1.40},
    "chefer": {1: 1.20, 100: 1.40},
    "gradcam": {1: 1.35, 100: 2.5},
    "legrad": {1: 1.10, 20: 3.0},
}
SLOW = [name for name, method in eclip.METHODS.items() if method.kind == "perturbation"]
"""Timed once: each takes hundreds of forward passes, so one run is precise enough."""


def main() -> None:
    options = _options()
    torch.manual_seed(0)
    backbone, pixels = _setup(options)
    if options.peak:
        _peak(options.peak, backbone, pixels, options.texts)
        return
    rows = []
    for texts in options.texts:
        rows += _time(backbone, pixels, texts, options)
    for row in rows:
        row["peak_mib"] = (
            None if options.no_peak or row["method"] in SLOW else _peak_elsewhere(row["method"], row["texts"], options)
        )
    report = {
        "model": options.model,
        "images": options.images,
        "rounds": options.rounds,
        "device": _device_name(options.device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "open_clip": open_clip.__version__,
        "command": " ".join(["python", "benchmarks/cost.py", *sys.argv[1:]]),
        "rows": rows,
    }
    _print(report)
    Path(options.json).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="ViT-B-16", help="an architecture of open_clip, random weights")
    parser.add_argument("--methods", default=",".join(eclip.METHODS))
    parser.add_argument("--texts", type=int, nargs="+", default=[1, 20, 100])
    parser.add_argument("--images", type=int, default=4, help="images per batch")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", default="cost.json", help="also write the table to this file")
    parser.add_argument("--no-peak", action="store_true", help="do not measure memory, which takes most of the time")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    return parser.parse_args()


def _setup(options: argparse.Namespace) -> tuple[eclip.Backbone, torch.Tensor]:
    model = open_clip.create_model(options.model).eval().requires_grad_(False).to(options.device)
    backbone = eclip.wrap(
        model, tokenizer=open_clip.get_tokenizer(options.model), mean=(0.5,) * 3, std=(0.5,) * 3, name=options.model
    )
    backbone = eclip.with_head(backbone, eclip.EclipHead.start(backbone))
    size = backbone.image_size
    return backbone, torch.randn(options.images, 3, size, size, device=options.device)


def _texts(backbone: eclip.Backbone, count: int, width: int) -> torch.Tensor:
    text = torch.randn(count, width, device=backbone.weight.device)
    return torch.nn.functional.normalize(text, dim=-1)


def _task(name: str, backbone: eclip.Backbone, pixels: torch.Tensor, text: torch.Tensor) -> Callable[[], object]:
    if name == "encode_image":
        return lambda: backbone.model.encode_image(pixels)
    method = eclip.METHODS[name]
    encode = partial(eclip.encode, backbone, pixels, keep=method.keep, graph=None if method.graph else 0)
    return lambda: method(encode(), text)


def _time(
    backbone: eclip.Backbone, pixels: torch.Tensor, texts: int, options: argparse.Namespace
) -> list[dict[str, object]]:
    with torch.no_grad():
        text = _texts(backbone, texts, backbone.model.encode_image(pixels[:1]).shape[-1])
        names = ["encode_image", *options.methods.split(",")]
        tasks = {name: _task(name, backbone, pixels, text) for name in names}
        for name, task in tasks.items():
            if name not in SLOW:
                task()
        seconds: dict[str, list[float]] = {name: [] for name in names}
        for turn in range(options.rounds):
            shift = turn % len(names)
            for name in names[shift:] + names[:shift]:
                if name in SLOW and turn:
                    continue
                start = time.perf_counter()
                tasks[name]()
                if pixels.is_cuda:
                    torch.cuda.synchronize()
                seconds[name].append(time.perf_counter() - start)
        flops = {name: _flops(task) for name, task in tasks.items() if name not in SLOW}
    bare = seconds["encode_image"]
    rows: list[dict[str, object]] = []
    for name in names:
        ratios = sorted(own / base for own, base in zip(seconds[name], bare, strict=False))
        rows.append(
            {
                "method": name,
                "texts": texts,
                "ratio": round(statistics.median(ratios), 3),
                "quartiles": [round(ratios[len(ratios) // 4], 3), round(ratios[-1 - len(ratios) // 4], 3)],
                "ms_per_image": round(1000 * statistics.median(seconds[name]) / options.images, 1),
                "arithmetic": None if name in SLOW else round(flops[name] / flops["encode_image"], 3),
                "bar": BARS.get(name, {}).get(texts),
            }
        )
    return rows


class _Flops(TorchDispatchMode):
    """Counts like FlopCounterMode of torch, whose hooks on every module would make eclip check the model anew."""

    total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out, packet = func(*args, **(kwargs or {})), getattr(func, "_overloadpacket", None)
        if packet is torch.ops.aten._scaled_dot_product_flash_attention_for_cpu:  # torch does not count this one
            *batch, rows, width = args[0].shape
            self.total += 4 * math.prod(batch) * rows * args[1].shape[-2] * width
        elif packet in flop_registry:
            self.total += flop_registry[packet](*args, **(kwargs or {}), out_val=out)
        return out


def _flops(task: Callable[[], object]) -> int:
    """Without the fast path of torch's attention module, which is one operation that cannot be counted."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with _Flops() as counter:
            task()
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return counter.total


def _peak(name: str, backbone: eclip.Backbone, pixels: torch.Tensor, texts: list[int]) -> None:
    with torch.no_grad():
        text = _texts(backbone, texts[0], backbone.model.encode_image(pixels[:1]).shape[-1])
        for _ in range(2):
            _task(name, backbone, pixels, text)()
    if pixels.is_cuda:
        print(torch.cuda.max_memory_allocated() >> 20)
    else:
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10)


def _peak_elsewhere(name: object, texts: object, options: argparse.Namespace) -> int:
    command = [sys.executable, __file__, "--peak", str(name), "--texts", str(texts), "--model", options.model]
    command += ["--images", str(options.images), "--device", options.device]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def _device_name(device: str) -> str:
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU"


def _print(report: dict[str, object]) -> None:
    print(f"{report['model']}, {report['images']} images per batch, {report['device']}, {report['threads']} threads")
    print(
        f"{'method':<14}{'texts':>6}{'x encode_image':>16}{'quartiles':>16}{'bar':>7}{'arithmetic':>12}{'ms/image':>10}"
        f"{'peak MiB':>10}"
    )
    for row in report["rows"]:  # type: ignore[attr-defined]
        quartiles = "-".join(f"{q:.2f}" for q in row["quartiles"])
        bar = f"{row['bar']:.2f}" if row["bar"] else ""
        arithmetic = f"{row['arithmetic']:.2f}" if row["arithmetic"] else ""
        print(
            f"{row['method']:<14}{row['texts']:>6}{row['ratio']:>16.3f}{quartiles:>16}{bar:>7}{arithmetic:>12}"
            f"{row['ms_per_image']:>10.1f}{row['peak_mib'] or '':>10}"
        )


if __name__ == "__main__":
    main()
