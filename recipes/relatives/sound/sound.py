"""A sound as the query: what a vector that no text tower made is worth, by how noisy the sound was.

    python recipes/relatives/sound/sound.py --data DATA --out out
    eclip explain docs/images/dog.jpg --like out/dog.npy

Needs the pack voc2012seg in DATA, and matplotlib. The encoder is a stand-in that has never heard an animal: each class
is given a made-up tone, and a linear map takes its loudness by pitch to the feature of the class name. Expect two
minutes on one core.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

import eclip
from eclip.datasets.masks import Masked, read_masks, sides
from eclip.metrics.localization import contrast
from eclip.metrics.separation import average_precision

METHOD_NAMES = ("maskclip", "gem")
HERTZ, FRAME = 8000, 400
BANDS = np.unique(np.geomspace(2, FRAME // 2, 40).astype(int))
LEARNED, RIDGE, DECIBELS = 40, 10.0, (30, 10, 0, -6, -12, -20)
"""Clips of each class from which the encoder learns, at 0 to 30 dB; weight of the penalty; loudness in the test."""
LEAST, MOST = 0.04, 0.5  # share of the image that an object covers
PHOTO, DOG, CHAIR = Path(__file__).parents[3] / "docs" / "images" / "dog.jpg", 12, 9
Array = NDArray[np.float64]
Encoder = Callable[[Array], Array]
Found = dict[str, list[tuple[float, ...]]]
"""By query: the angle to the text, then mSC and AP of each method, for each pair."""


def clip(number: int, decibels: float, generator: np.random.Generator) -> Array:
    """One second of the made-up sound of a class, three harmonics in bursts, with white noise."""
    seconds = np.arange(HERTZ) / HERTZ
    pitch = 110 * 2 ** (number / 5) * generator.uniform(0.97, 1.03)
    phases = 2 * np.pi * generator.random(4)
    tone = sum(np.sin(2 * np.pi * k * pitch * seconds + phase) / k for k, phase in enumerate(phases[:3], 1))
    tone = tone * (np.sin(2 * np.pi * (1 + number % 4) * seconds + phases[3]) > 0)
    return tone / tone.std() + generator.normal(size=HERTZ) * 10 ** (-decibels / 20)


def heard(sound: Array) -> Array:
    """Mean and spread over time of the log power in each band of frequencies."""
    frames = sound.reshape(-1, FRAME) * np.hanning(FRAME)
    power = np.abs(np.fft.rfft(frames)) ** 2  # frame frequency
    bands = np.log(np.add.reduceat(power, BANDS, axis=1) + 1e-3)
    return np.concatenate([bands.mean(axis=0), bands.std(axis=0)])


def fitted(text: dict[int, Array], generator: np.random.Generator) -> Encoder:
    """The stand-in: ridge regression from what is heard to the text feature of the class; gives unit vectors."""
    numbers = [number for number in text for _ in range(LEARNED)]
    x = np.stack([heard(clip(number, generator.uniform(0, 30), generator)) for number in numbers])
    y = np.stack([text[number] for number in numbers])
    mean, std, middle = x.mean(axis=0), x.std(axis=0), y.mean(axis=0)
    x = (x - mean) / std
    weights = np.linalg.solve(x.T @ x + RIDGE * np.eye(len(mean)), x.T @ (y - middle))

    def encoder(sound: Array) -> Array:
        vector = (heard(sound) - mean) / std @ weights + middle
        return vector / np.linalg.norm(vector)

    return encoder


def queries(number: int, other: int, encoder: Encoder, generator: np.random.Generator) -> dict[str, Array]:
    """Vectors of a new sound of the class at each level of noise, and of one of another class."""
    found = {f"its tone, {level:+d} dB": encoder(clip(number, level, generator)) for level in DECIBELS}
    return found | {"tone of another class, +30 dB (control)": encoder(clip(other, 30, generator))}


def pairs(items: tuple[Masked, ...], numbers: list[int], each: int) -> list[tuple[Masked, int]]:
    """The first images that show each class in a fair size."""
    found: dict[int, list[Masked]] = {number: [] for number in numbers}
    for item in items:
        mask = item.read()
        for number, listed in found.items():
            if len(listed) < each and LEAST < (mask == number).mean() < MOST:
                listed.append(item)
    return [(item, number) for number, listed in found.items() for item in listed]


def measure(root: Path, each: int, encoder: Encoder, text: dict[int, Array], backbone: eclip.Backbone) -> Found:
    data, generator, found = read_masks(root, where={"origin": "voc2012_val"}), np.random.default_rng(2), Found()
    numbers = list(text)
    for item, number in pairs(data.items, numbers, each):
        other = numbers[(numbers.index(number) + 7) % len(numbers)]
        asked = {"the name, as text": text[number], **queries(number, other, encoder, generator)}
        likes = [eclip.like(vector, name=name) for name, vector in asked.items()]
        answers = eclip.explain(item.open(), likes, method=list(METHOD_NAMES), health=False, model=backbone)
        inside, outside = sides(item.read(), number)
        for place, (name, vector) in enumerate(asked.items()):
            values = [float(np.degrees(np.arccos(np.clip(vector @ text[number], -1, 1))))]
            for answer in answers.values():
                heat = answer.heatmap(0, place)
                values += [100 * contrast(heat, inside, outside), 100 * average_precision(heat, inside, outside)]
            found.setdefault(name, []).append(tuple(values))
    return found


def table(found: Found) -> str:
    """Means with the half width of the 95 % interval over pairs, by bootstrap."""
    head = "".join(f" `{name}` mSC | AP |" for name in METHOD_NAMES)
    lines = [f"| query | angle to the text |{head}", "|---" * (2 + 2 * len(METHOD_NAMES)) + "|"]
    for name, rows in found.items():
        values = np.array(rows)
        drawn = values[np.random.default_rng(0).integers(0, len(values), (2000, len(values)))].mean(axis=1)
        half = (np.quantile(drawn, 0.975, axis=0) - np.quantile(drawn, 0.025, axis=0)) / 2
        cells = [f"{mean:.1f} ± {one:.1f}" for mean, one in zip(values.mean(axis=0), half, strict=True)]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def picture(out: Path, encoder: Encoder, text: dict[int, Array], backbone: eclip.Backbone) -> Figure:
    """The map of a dog by the text and by sounds, which are read from files; the clearest stays as dog.npy."""
    vectors = {"the text": text[DOG], **queries(DOG, CHAIR, encoder, np.random.default_rng(3))}
    page = Figure(figsize=(11, 5.2), dpi=100, layout="constrained")
    for place, (name, vector) in enumerate(vectors.items()):
        np.save(out / "dog.npy", vector)
        found = eclip.explain(PHOTO, eclip.like(out / "dog.npy"), method="gem", health=False, model=backbone)
        axes = page.add_subplot(2, 4, place + 1)
        axes.imshow(found.overlay(legend=False))
        title = name.replace("its tone", "tone of dogs").replace("tone of another class", "tone of chairs")
        axes.set(title=f"{title.removesuffix(' (control)')}\nscore {found.scores[0, 0]:.2f}", xticks=[], yticks=[])
    np.save(out / "dog.npy", [*vectors.values()][1])
    return page


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True, help="folder of the pack voc2012seg")
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder of the picture and of dog.npy")
    parser.add_argument("--limit", type=int, default=4, help="images of each class")
    args = parser.parse_args()
    backbone, names = eclip.load("mini"), read_masks(args.data / "voc2012seg").classes
    features = eclip.encode_texts(backbone, [f"a photo of a {name}" for name in names.values()]).double().numpy()
    encoder = fitted(text := dict(zip(names, features, strict=True)), np.random.default_rng(1))
    found = measure(args.data / "voc2012seg", args.limit, encoder, text, backbone)
    print(f"{table(found)}\n\n{len(found['the name, as text'])} pairs of image and class.")
    args.out.mkdir(parents=True, exist_ok=True)
    picture(args.out, encoder, text, backbone).savefig(args.out / "sound.jpg", pil_kwargs={"quality": 80})


if __name__ == "__main__":
    main()
