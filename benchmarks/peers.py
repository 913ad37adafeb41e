"""The cost of the peers' released code where it is installed, beside ours, relative to a bare `encode_image`.

    python benchmarks/peers.py                                       # what is installed; the rest is listed
    pip install --target PEERS --no-deps grad-cam ttach opencv-python-headless captum legrad_torch gem_torch einops
    PYTHONPATH=PEERS:CLIP_Surgery python benchmarks/peers.py --json peers.json

ViT-B/16 with random weights, one image, because most of the peers take only one. Each round times the bare pass, the
peers and our methods of the same name once, in rotating order; a number is the median over rounds of a time divided by
that of the bare pass in the same round. Times are those of the processor, so that other work on the machine counts
less. Text features are given to all. The peers' maps have the size of the image, so ours are resized to it too. Nothing
of theirs is part of this repository, and each gets a copy of the model, because some replace parts of it. Occlusion
takes hundreds of passes, and captum's as many again for each text, so it is timed once.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import importlib.util
import json
import os
import platform
import statistics
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import torch
from torch import Tensor, nn

import eclip
from eclip import heatmap

Task = Callable[[], object]
SLOW = ("captum Occlusion", "occlusion")
PATCH, GRID = 16, 14


class Scores(nn.Module):
    """Cosines of images with texts, as the classifier that packages for classifiers expect."""

    def __init__(self, model: nn.Module, text: Tensor) -> None:
        super().__init__()
        self.model, self.text = model, text

    def forward(self, pixels: Tensor) -> Tensor:
        """Cosines (image, text)."""
        return nn.functional.normalize(self.model.encode_image(pixels), dim=-1) @ self.text.T


def _legrad(model: nn.Module, pixels: Tensor, text: Tensor) -> Task:
    from legrad import LeWrapper

    wrapped = LeWrapper(model)
    return lambda: wrapped.compute_legrad(image=pixels, text_embedding=text)


def _gem(model: nn.Module, pixels: Tensor, text: Tensor) -> Task:
    from gem.gem_wrapper import GEMWrapper

    wrapped = GEMWrapper(model, open_clip.get_tokenizer("ViT-B-16"))
    wrapped.encode_text = types.MethodType(lambda _, texts: text[None], wrapped)
    return _without_grad(lambda: wrapped(pixels, [""] * len(text)))


def _gradcam(model: nn.Module, pixels: Tensor, text: Tensor) -> Task:
    """As its README has it for a ViT: the norm before the last attention; one target for each copy of the image."""
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    def reshape(tokens: Tensor) -> Tensor:
        return tokens[:, 1:].unflatten(1, (GRID, GRID)).permute(0, 3, 1, 2)

    layer = model.visual.transformer.resblocks[-1].ln_1  # type: ignore[union-attr]
    layer.requires_grad_(True)  # so that there is a gradient to see
    cam = GradCAM(model=Scores(model, text), target_layers=[layer], reshape_transform=reshape)
    targets = [ClassifierOutputTarget(place) for place in range(len(text))]
    return lambda: cam(input_tensor=pixels.expand(len(text), -1, -1, -1), targets=targets)


def _surgery(model: nn.Module, pixels: Tensor, text: Tensor) -> Task:
    """The steps of its demo.py; a single text is compared with that of an empty string."""
    import clip
    from clip.build_model import build_model

    theirs = build_model("CS-ViT-B/16", dict(model.state_dict()))
    redundant = None if len(text) > 1 else torch.zeros_like(text)

    def run() -> object:
        features = theirs.encode_image(pixels)
        features = features / features.norm(dim=1, keepdim=True)
        similarity = clip.clip_feature_surgery(features, text, redundant)
        return clip.get_similarity_map(similarity[:, 1:, :], tuple(pixels.shape[2:]))

    return _without_grad(run)


def _occlusion(model: nn.Module, pixels: Tensor, text: Tensor) -> Task:
    """Each patch hidden in turn; its one target at a time is what the package offers."""
    from captum.attr import Occlusion

    tool, patch = Occlusion(Scores(model, text)), (3, PATCH, PATCH)

    def run() -> object:
        return [
            tool.attribute(pixels, sliding_window_shapes=patch, strides=patch, target=place, perturbations_per_eval=16)
            for place in range(len(text))
        ]

    return _without_grad(run)


def _without_grad(task: Task) -> Task:
    def run() -> object:
        with torch.no_grad():
            return task()

    return run


PEERS: dict[str, tuple[str, str, str, Callable[[nn.Module, Tensor, Tensor], Task]]] = {
    "LeGrad": ("legrad", "pip install legrad_torch", "legrad", _legrad),
    "GEM": ("gem", "pip install gem_torch", "gem", _gem),
    "pytorch-grad-cam GradCAM": ("pytorch_grad_cam", "pip install grad-cam", "gradcam", _gradcam),
    "CLIP_Surgery": (
        "clip.clip_surgery_model",
        "git clone https://github.com/xmed-lab/CLIP_Surgery, and add it to PYTHONPATH",
        "surgery",
        _surgery,
    ),
    "captum Occlusion": ("captum", "pip install captum", "occlusion", _occlusion),
}
"""By name: the module, how to install it, our method of that kind, and what makes the task to be timed."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, nargs="+", default=[1, 20])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--peers", default=",".join(PEERS), help="some of them, joined by commas")
    parser.add_argument("--json", help="also write the table to this file")
    args = parser.parse_args()
    torch.manual_seed(0)
    model = open_clip.create_model("ViT-B-16").eval().requires_grad_(False)
    there = [name for name in args.peers.split(",") if _is_installed(PEERS[name][0])]
    rows = [row for count in args.texts for row in _time(model, there, count, args.rounds)]
    report = {
        "model": "ViT-B-16, random weights, 1 image",
        "device": f"{platform.machine()} CPU, {torch.get_num_threads()} threads",
        "rounds": args.rounds,
        "versions": {"torch": torch.__version__, "open_clip": open_clip.__version__},
        "command": " ".join(["python", "benchmarks/peers.py", *sys.argv[1:]]),
        "rows": rows,
        "not installed": {name: PEERS[name][1] for name in args.peers.split(",") if name not in there},
    }
    print(f"{report['model']}, {report['device']}, {args.rounds} rounds, times a bare encode_image")
    for row in rows:
        first, last = row["quartiles"]
        print(f"{row['name']:<28}{row['texts']:>4} texts{row['ratio']:>10.2f}   {first:.2f} to {last:.2f}")
    for name, (_, how, *_) in PEERS.items():
        if name in args.peers.split(",") and name not in there:
            print(f"{name:<28} not installed: {how}")
    if args.json:
        Path(args.json).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ImportError:  # the package around it is missing, or is another one of that name
        return False


def _time(model: nn.Module, there: list[str], count: int, rounds: int) -> list[dict[str, Any]]:
    pixels = torch.randn(1, 3, GRID * PATCH, GRID * PATCH)
    text = nn.functional.normalize(torch.randn(count, 512), dim=-1)
    tasks: dict[str, Task] = {"encode_image": _without_grad(lambda: model.encode_image(pixels))}  # type: ignore[operator]
    backbone = eclip.wrap(model, mean=(0.5,) * 3, std=(0.5,) * 3, name="ViT-B-16")
    for name in there:
        _, _, ours, make = PEERS[name]
        with open(os.devnull, "w", encoding="utf-8") as silence, contextlib.redirect_stdout(silence):
            tasks[name] = make(copy.deepcopy(model), pixels, text)
        tasks[ours] = _ours(ours, backbone, pixels, text)
    for name, task in tasks.items():
        if name not in SLOW:
            task()
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    names = list(tasks)
    for turn in range(rounds):
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            if turn and name in SLOW:
                continue
            start = time.process_time()
            tasks[name]()
            seconds[name].append(time.process_time() - start)
    rows = []
    for name in names:
        ratios = sorted(own / base for own, base in zip(seconds[name], seconds["encode_image"], strict=False))
        quartiles = [round(ratios[len(ratios) // 4], 3), round(ratios[-1 - len(ratios) // 4], 3)]
        ratio = round(statistics.median(ratios), 3)
        rows.append({"name": name, "texts": count, "ratio": ratio, "quartiles": quartiles})
    return rows


def _ours(name: str, backbone: eclip.Backbone, pixels: Tensor, text: Tensor) -> Task:
    method = eclip.METHODS[name]

    def run() -> object:
        [maps] = method(eclip.encode(backbone, pixels, keep=method.keep, graph=None if method.graph else 0), text)
        return [heatmap.resize(heatmap.normalize(one), (GRID * PATCH, GRID * PATCH)) for one in maps]

    return run


if __name__ == "__main__":
    main()
