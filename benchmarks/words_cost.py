"""The cost of methods for words relative to a bare `encode_image`, paired in one run.

    python benchmarks/words_cost.py                       # ViT-B/16 with random weights, CPU, one image, one text

A round times everything once; a number is the median over rounds of its time divided by that round's bare pass.
"Words" is a method for words on an encoded image; "pairs" is all of `eclip.interactions`, including its two forward
passes (the image and the zero image); "text" is its text part, done once for all images.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import open_clip
import torch

import eclip
from eclip.backbones.blocks import unit
from eclip.backbones.view import View
from eclip.images import open_image
from eclip.words.interactions import PairQuery
from eclip.words.query import WordQuery
from eclip.words.tokens import read

TEXT = "two people riding horses on the beach"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="ViT-B-16")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    torch.manual_seed(0)
    backbone = eclip.wrap(open_clip.create_model(given.arch), tokenizer=open_clip.get_tokenizer(given.arch))
    image = open_image(np.random.default_rng(0).integers(0, 256, (240, 320, 3), dtype=np.uint8))
    pixels = backbone.preprocess(image)[None]
    feature = unit(eclip.encode(backbone, pixels, 0).feature)
    reading = read(backbone, [TEXT])

    def question(image_depth: int, text_depth: int | None) -> PairQuery:
        query = WordQuery([TEXT], model=backbone, view=View())
        return PairQuery(query, image_depth=image_depth, text_depth=text_depth)

    whole = question(1, None)

    def bare() -> None:
        with torch.no_grad():
            backbone.model.encode_image(pixels)

    tasks: dict[str, Callable[[], object]] = {"encode_image": bare}
    for name, method in eclip.WORD_METHODS.items():
        tasks[f"words, {name}"] = lambda method=method: method(reading, feature)  # type: ignore[misc]
    tasks["pairs, an image"] = lambda: whole.answer(image, "")
    tasks["text, last block"] = lambda: question(1, 1)
    tasks["text, all blocks"] = lambda: question(1, None)
    times: dict[str, list[float]] = {name: [] for name in tasks}
    for _ in range(given.rounds + 1):
        for name, task in tasks.items():
            start = time.perf_counter()
            task()
            times[name].append(time.perf_counter() - start)
    seconds = {name: each[1:] for name, each in times.items()}  # the first round warms up
    print(f"{given.arch}, {torch.get_num_threads()} threads, median of {given.rounds} rounds")
    print(f"encode_image {statistics.median(seconds['encode_image']):.3f} s")
    for name, each in seconds.items():
        ratios = [own / base for own, base in zip(each, seconds["encode_image"], strict=True)]
        print(f"{name:20} {statistics.median(ratios):6.2f} x")


if __name__ == "__main__":
    main()
