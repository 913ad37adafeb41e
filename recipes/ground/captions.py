"""Is a phrase found better inside its caption than alone? Pointing of `eclip.interactions`, by way of asking.

    python recipes/ground/captions.py --data DATA --every 5

DATA contains the packs flickr8k-entities and flickr8k. Expect a line per way with its 95 % interval over images:

    in its caption     pairs of the caption (`eclip words --pairs`), summed over the words of the phrase
    another phrase     the same for the next phrase of the caption: a control, which should point elsewhere
    whole caption      the same summed over all words: a control, which does not know the phrase
    alone              pairs of the phrase as a text of its own
    METHOD             the map of the phrase alone, by the default method of `eclip explain`
    centre             a Gaussian in the center: a control, which sees nothing

Only captions with at least two phrases count, and phrases whose words the tokenizer keeps apart from their neighbors.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

import eclip
from eclip import heatmap
from eclip.datasets import dataset
from eclip.datasets.phrases import Phrase, Phrased
from eclip.errors import TextError
from eclip.evaluation.baselines import centre
from eclip.evaluation.bootstrap import Weights, number
from eclip.evaluation.ground import covered
from eclip.metrics.pointing import pointing_game


def by_caption(item: Phrased) -> dict[str, list[Phrase]]:
    """The phrases of each caption."""
    found: dict[str, list[Phrase]] = {}
    for phrase in item.phrases:
        found.setdefault(phrase.caption, []).append(phrase)
    return found


def words_of(pairs: eclip.Interactions, phrase: Phrase) -> list[int]:
    """Numbers of the words of a phrase, at its own place in the caption only.

    Raises:
        TextError: a word extends beyond the phrase.
    """
    found, place = [], 0
    for index, word in enumerate(pairs.words):
        start = pairs.text.index(word, place)
        place = start + len(word)
        inside = phrase.start <= start and place <= phrase.start + len(phrase.text)
        if not inside and start < phrase.start + len(phrase.text) and place > phrase.start:
            raise TextError(f"the word {word!r} of {pairs.text!r} is not only in {phrase.text!r}.")
        found += [index] if inside else []
    if not found:
        raise TextError(f"{phrase.text!r} has no word of its own in {pairs.text!r}.")
    return found


def maps_of(item: Phrased, backbone: eclip.Backbone) -> Iterator[tuple[Phrase, dict[str, np.ndarray]]]:
    """Each phrase with a raw map for each way of asking."""
    image = item.open()
    for caption, phrases in by_caption(item).items():
        if len(phrases) < 2:
            continue
        pairs = eclip.interactions(image, caption, model=backbone)
        texts = list(dict.fromkeys(phrase.text for phrase in phrases))
        alone = {text: eclip.interactions(image, text, model=backbone).values.sum(axis=0) for text in texts}
        explained = {text: eclip.explain(image, text, model=backbone, health=False) for text in texts}
        try:
            inside = [pairs.values[words_of(pairs, phrase)].sum(axis=0) for phrase in phrases]
        except TextError:
            continue
        for place, phrase in enumerate(phrases):
            answer = explained[phrase.text]
            yield (
                phrase,
                {
                    "in its caption": inside[place],
                    "another phrase": inside[(place + 1) % len(inside)],
                    "whole caption": pairs.values.sum(axis=0),
                    "alone": alone[phrase.text],
                    answer.provenance["method"]: answer.maps[0, 0],
                    "centre": centre(inside[place].shape, ()),
                },
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--every", type=int, default=1, help="use every N-th image")
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    args = parser.parse_args()
    backbone, items = eclip.load(args.model), dataset("flickr8k_entities").read(args.data / "flickr8k-entities").items
    hits: list[list[float]] = []
    images: list[int] = []
    started, ways = time.time(), list[str]()
    for place, item in enumerate(items[:: args.every]):
        size = item.open().size[::-1]
        for phrase, maps in maps_of(item, backbone):
            inside, ways = covered(phrase.boxes, size), list(maps)
            heat = heatmap.normalize(torch.from_numpy(np.stack([*maps.values()]).astype(np.float32)))
            hits.append([pointing_game(one, inside, ~inside) for one in heatmap.resize(heat, size).numpy()])
            images.append(place)
        if place % 10 == 9:
            print(f"{place + 1} images, {len(hits)} phrases, {time.time() - started:.0f} s", flush=True)
    values = np.array(hits)
    replicates = Weights(np.array(images)).means(values)
    found = {way: number(values[:, i].mean(), replicates[:, i]).plain() for i, way in enumerate(ways)}
    gain = replicates[:, 0] - replicates[:, ways.index("alone")]
    found["in its caption minus alone"] = number(
        values[:, 0].mean() - values[:, ways.index("alone")].mean(), gain
    ).plain()
    print(f"{len(values)} phrases of {len(set(images))} images")
    for way, one in found.items():
        print(f"{way:28}{100 * one['value']:6.1f}  ({100 * one['low']:.1f} to {100 * one['high']:.1f})")
    if args.json:
        told = {"phrases": len(values), "images": len(set(images)), **found}
        args.json.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
