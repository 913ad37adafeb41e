"""Which patch for this word, and which word for this patch? `interactions`, for one photo."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from PIL import Image

from eclip import heatmap, render
from eclip.backbones.base import DEFAULT_POSITIONS, Backbone, encode, plainly
from eclip.backbones.catalog import DEFAULT_MODEL
from eclip.backbones.load import backbone_of
from eclip.blocks import cosine
from eclip.errors import OptionError, TextError
from eclip.photos import Photo, name_of, open_photo
from eclip.text import check_texts, encode_texts
from eclip.words.pairs import Path, check_path, image_path, pairs, target, text_path, with_reference
from eclip.words.reading import Reading, content, read
from eclip.writer import versions

Box = Sequence[float | int] | np.ndarray
"""left, top, right, bottom in pixels of the photo, such as a row of `Explanation.boxes`."""


@dataclass(frozen=True, eq=False)
class Interactions:
    """What each pair of a word and a patch adds to the score of a text with a photo.

    Attributes:
        values: (word, row, col) float32, signed, in units of the score.
        words: of the text, in order.
        text: as given.
        score: cosine of the unaltered model in [-1, 1].
        total: sum over all pairs, special tokens of text and image among them.
        goal: what the total tends to with more points of the path; their difference is the error of the integral.
        source: what the photo was: its path, or "photo 0" if it came from memory.
        photo: the photo itself.
        how: model, depths, points, versions.
    """

    values: Float[np.ndarray, "word row col"]
    words: tuple[str, ...]
    text: str
    score: float
    total: float
    goal: float
    source: str
    photo: Image.Image
    how: dict[str, Any]

    def __repr__(self) -> str:
        word, row, col = self.values.shape
        return f"Interactions({word} words x {row} x {col} patches, {self.text!r}, score {self.score:.3f})"

    def _repr_png_(self) -> bytes:
        from eclip.writer import png

        return png(self.picture())

    def map(self, phrase: str | int) -> Float[np.ndarray, "row col"]:
        """Which patches for this word? Their values, on the patch grid; summed over the words of a phrase.

        Args:
            phrase: a word's number, or words that follow one another in the text, in any case.

        Raises:
            TextError: the text does not hold it.
        """
        summed: Float[np.ndarray, "row col"] = self.values[self.find(phrase)].sum(axis=0)
        return summed

    def find(self, phrase: str | int) -> list[int]:
        """Numbers of the words of a phrase; where it comes again, of all.

        Raises:
            TextError: the text does not hold it.
        """
        if isinstance(phrase, int):
            if not -len(self.words) <= phrase < len(self.words):
                raise TextError(f"{self.text!r} has {len(self.words)} words, counted from 0; there is no {phrase}.")
            return [phrase % len(self.words)]
        wanted, folded = phrase.casefold().split(), [word.casefold() for word in self.words]
        starts = [at for at in range(len(folded)) if wanted and folded[at : at + len(wanted)] == wanted]
        if not starts:
            raise TextError(f"{phrase!r} is not in {self.text!r}; its words are {', '.join(self.words)}.")
        return [at + step for at in starts for step in range(len(wanted))]

    def heatmap(self, phrase: str | int) -> Float[np.ndarray, "height width"]:
        """The map of a phrase in the size of the photo, in [-1, 1], zero kept."""
        shown = heatmap.signed(torch.from_numpy(np.ascontiguousarray(self.map(phrase))))
        return heatmap.resize(shown, self.photo.size[::-1]).numpy()

    def in_box(self, box: Box) -> Float[np.ndarray, " word"]:
        """Which words for this part of the photo? Each word's values in it, patches counted by what lies inside.

        Args:
            box: left, top, right, bottom in pixels of the photo, such as a row of `Explanation.boxes`.

        Raises:
            OptionError: the box is empty or outside the photo.
        """
        sides, (width, height) = [float(side) for side in box], self.photo.size
        left, top, right, bottom = sides if len(sides) == 4 else [0.0] * 4
        if not (0 <= left < right <= width and 0 <= top < bottom <= height):
            raise OptionError(
                f"a box in {self.source} is left, top, right, bottom within {width} x {height} pixels, got {sides}."
            )
        _, rows, cols = self.values.shape
        down, across = _covered(top / height, bottom / height, rows), _covered(left / width, right / width, cols)
        found: Float[np.ndarray, " word"] = np.einsum("wrc,r,c->w", self.values, down, across)
        return found.astype(np.float32)

    def best_words(self) -> Int[np.ndarray, "row col"]:
        """Which word for each patch: the number of the one that adds most there."""
        return self.values.argmax(axis=0)

    def picture(self, boxes: Sequence[Box] = ()) -> Image.Image:
        """One small map a word, all on one scale; below, each box with the words that it speaks for.

        The number beside a word is what it adds over the whole photo.
        """
        peak = float(np.abs(self.values).max()) or 1.0
        top = render.strip(
            self.photo,
            iter(self.values / peak),
            signed=True,
            texts=self.words,
            scores=[float(each.sum()) for each in self.values],
        )
        sections = [top, render.drawn(self.words, self.values.sum(axis=(1, 2)), top.width)]
        sections += [render.cut_out(self.photo, box, self.words, self.in_box(box), top.width) for box in boxes]
        return render.stack(sections)

    def entry(self, boxes: Sequence[Box] = ()) -> dict[str, Any]:
        """What JSON says: words with their sums and strongest patches, boxes with their words, completeness."""
        _, rows, cols = self.values.shape
        width, height = self.photo.size
        words = []
        for word, each in zip(self.words, self.values, strict=True):
            row, col = (int(place) for place in np.unravel_index(each.argmax(), each.shape))
            middle = [round((col + 0.5) * width / cols, 1), round((row + 0.5) * height / rows, 1)]
            words.append({"word": word, "value": float(f"{each.sum():.6g}"), "patch": [row, col], "point": middle})
        found = [
            {
                "box": [float(side) for side in box],
                "words": {w: float(f"{v:.6g}") for w, v in _added(self.words, self.in_box(box)).items()},
            }
            for box in boxes
        ]
        return {
            "text": self.text,
            "score": round(self.score, 6),
            "grid": [rows, cols],
            "words": words,
            "boxes": found,
            "total": round(self.total, 6),
            "goal": round(self.goal, 6),
        }


def interactions(
    image: Photo,
    text: str,
    *,
    model: str | Backbone = DEFAULT_MODEL,
    image_depth: int = 1,
    text_depth: int | None = None,
    points: int = 10,
    image_size: int | None = None,
    resize: str = "squash",
    positions: str = DEFAULT_POSITIONS,
    device: str | None = None,
) -> Interactions:
    """What each pair of a word and a patch adds to the score: second-order attributions of exCLIP.

    Args:
        image: a path, a PIL picture or an array.
        text: one, as it is; no template is put around it.
        model: a name for `eclip.load`, or a Backbone from `load` or `wrap`.
        image_depth: how many last attention layers of the image tower the pairs are taken through; 1 as the authors.
        text_depth: and last blocks of the text tower; None = all, so that a pair is about the word itself, not about
            what the tower has gathered in its place; 1 as the authors.
        points: of the path to photo and text from those without content; more make the sum more exact.
        image_size: see `eclip.explain`.
        resize: see `eclip.explain`.
        positions: see `eclip.explain`.
        device: see `eclip.explain`.

    Raises:
        EclipError: bad input, of a class that says which: `eclip.errors` lists them.

    Warns:
        TextCutWarning: a text longer than the model reads; the words it does not read have 0.
    """
    asked = PairQuestion([text], model, image_depth, text_depth, points, image_size, resize, positions, device)
    return asked.answer(open_photo(image), name_of(image, 0))[0]


class PairQuestion:
    """Everything but the photos, checked, and the texts' part of the work done once."""

    def __init__(
        self,
        texts: str | Sequence[str],
        model: str | Backbone,
        image_depth: int,
        text_depth: int | None,
        points: int,
        image_size: int | None,
        resize: str,
        positions: str,
        device: str | None,
    ) -> None:
        self.texts = check_texts(texts)
        self.backbone = backbone_of(model, device)
        tower = self.backbone.text_tower
        if text_depth is None:
            text_depth = len(tower.blocks) if tower else 1
        check_path(image_depth=image_depth, text_depth=text_depth, points=points)
        self.image_depth, self.text_depth, self.points = image_depth, text_depth, points
        self.image_size, self.resize, self.positions = image_size, resize, positions
        self.features = encode_texts(self.backbone, self.texts)
        self.readings = [read(self.backbone, [text]) for text in self.texts]
        with plainly(self.backbone.model):
            self.paths = [self._path(reading) for reading in self.readings]

    def _path(self, reading: Reading) -> Path:
        empty, short = self.backbone.tokenize(["", "a"])
        place = content(short.tolist(), empty.tolist())
        ids = with_reference(reading.ids, short[None].to(reading.ids), place)
        both = Reading(self.backbone, (*reading.texts, ""), ids, (*reading.words, ()))
        return text_path(both, self.text_depth, self.points)

    def answer(self, photo: Image.Image, source: str) -> list[Interactions]:
        """One forward pass of the photo and of the image that it is held against, then the pairs of each text."""
        pixels = self.backbone.preprocess(photo, self.image_size, self.resize)
        both = torch.stack([pixels, torch.zeros_like(pixels)])
        encoding = encode(self.backbone, both, self.image_depth, self.positions)
        with plainly(self.backbone.model):
            seen = image_path(encoding, self.image_depth, self.points)
        scores = cosine(encoding.feature[:1], self.features)[0]
        patches, found = encoding.grid.row * encoding.grid.col, []
        for reading, path, score in zip(self.readings, self.paths, scores, strict=True):
            matrix = pairs(path, seen).float()
            [words] = reading.by_word(matrix[:, -patches:].T[:, None])  # patch word
            found.append(
                Interactions(
                    values=words.T.unflatten(1, encoding.grid).cpu().numpy(),
                    words=tuple(word.letters for word in reading.words[0]),
                    text=reading.texts[0],
                    score=float(score),
                    total=float(matrix.sum()),
                    goal=float(target(path, seen)),
                    source=source,
                    photo=photo,
                    how=self._how(),
                )
            )
        return found

    def _how(self) -> dict[str, Any]:
        backbone = self.backbone
        return {
            "model": backbone.name,
            "family": backbone.family,
            "image_depth": self.image_depth,
            "text_depth": self.text_depth,
            "points": self.points,
            "image_size": self.image_size,
            "resize": self.resize,
            "positions": self.positions,
            "device": str(backbone.weight.device),
            "precision": str(backbone.weight.dtype).removeprefix("torch."),
            "versions": versions(),
        }


def _covered(start: float, stop: float, count: int) -> Float[np.ndarray, " cell"]:
    """How much of each of so many equal cells of [0, 1] lies between two places."""
    edges = np.arange(count + 1) / count
    return np.clip(np.minimum(stop, edges[1:]) - np.maximum(start, edges[:-1]), 0, None) * count


def _added(words: Sequence[str], values: Float[np.ndarray, " word"]) -> dict[str, float]:
    found: dict[str, float] = {}
    for word, value in zip(words, values, strict=True):
        found[word] = found.get(word, 0.0) + float(value)
    return found
