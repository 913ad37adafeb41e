"""Which patches belong to a word, and which words to a patch? `interactions`, for one image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, SupportsIndex

import numpy as np
import torch
from jaxtyping import Float, Int
from PIL import Image

from eclip import heatmap, render
from eclip.backbones.backbone import DEFAULT_POSITIONS, Backbone, eval_no_grad
from eclip.backbones.blocks import cosine
from eclip.backbones.catalog import DEFAULT_MODEL
from eclip.backbones.devices import Device
from eclip.backbones.encoding import encode
from eclip.backbones.view import View
from eclip.errors import OptionError, TextError
from eclip.images import ImageLike, name_of, open_image
from eclip.registry import whole
from eclip.results.marks import png
from eclip.results.provenance import made_by
from eclip.words.query import WordQuery
from eclip.words.second_order import IntegrationPath, image_path, pairs, target, text_path
from eclip.words.tokens import WORD, Reading, content

PAIRS = "pairs: what a word and the patches add to the score together"
"""What the values are, in a line for people. Relevance, of words alone, is another quantity."""
Box = Sequence[float | int] | np.ndarray
"""Left, top, right, bottom in pixels of the image, such as a row of `Explanation.boxes`."""


@dataclass(frozen=True, eq=False)
class Interactions:
    """What each pair of a word and a patch contributes to the score of a text with an image.

    Attributes:
        values: (word, row, col) float32, signed, in units of the score.
        words: of the text, in order.
        text: as given.
        score: cosine of the unaltered model in [-1, 1].
        total: sum over all pairs, including special tokens of text and image.
        goal: limit of the total as the number of points grows; their difference is the integration error.
        source: the path of the image, or "image 0" if it was given in memory.
        image: the image itself.
        provenance: model, depths, points, versions.
    """

    values: Float[np.ndarray, "word row col"]
    words: tuple[str, ...]
    text: str
    score: float
    total: float
    goal: float
    source: str
    image: Image.Image
    provenance: dict[str, Any]

    def __repr__(self) -> str:
        word, row, col = self.values.shape
        return f"Interactions({word} words x {row} x {col} patches, {self.text!r}, score {self.score:.3f})"

    def _repr_png_(self) -> bytes:
        return png(self.picture())

    def map(self, phrase: str | int | np.integer) -> Float[np.ndarray, "row col"]:
        """The values of all patches for a word, on the patch grid; summed over the words of a phrase.

        Args:
            phrase: a word's number, or consecutive words of the text, ignoring case.

        Raises:
            TextError: the phrase is not in the text.
        """
        return self.values[self.find(phrase)].sum(axis=0)

    def find(self, phrase: str | int | np.integer) -> list[int]:
        """Numbers of the words of a phrase, at all its occurrences.

        Raises:
            TextError: the phrase is not in the text.
        """
        if not isinstance(phrase, str):
            is_whole = isinstance(phrase, int | np.integer) and not isinstance(phrase, bool)
            if not (is_whole and -len(self.words) <= phrase < len(self.words)):
                raise TextError(f"{self.text!r} has {len(self.words)} words, from number 0; there is no word {phrase}.")
            return [int(phrase) % len(self.words)]
        wanted, places, end = _letters(phrase), list[slice](), 0
        for word in self.words:
            start = self.text.index(word, end)
            places.append(slice(start, end := start + len(word)))
        found: set[int] = set()
        for first in range(len(places)):
            for last in range(first, len(places)):
                part = _letters(self.text[places[first].start : places[last].stop])
                if part.is_as(wanted):
                    found |= set(range(first, last + 1))
                if len(part.letters) >= len(wanted.letters):
                    break
        if not found:
            raise TextError(f"{phrase!r} is not in {self.text!r}. Its words are {', '.join(self.words)}.")
        return sorted(found)

    def heatmap(self, phrase: str | int | np.integer) -> Float[np.ndarray, "height width"]:
        """The map of a phrase, scaled to [-1, 1] around zero and resized to the image."""
        shown = heatmap.signed(torch.from_numpy(np.ascontiguousarray(self.map(phrase))))
        return heatmap.resize(shown, self.image.size[::-1]).numpy()

    def in_box(self, box: Box) -> Float[np.ndarray, " word"]:
        """Each word's sum over a region of the image; patches count by the share that is inside.

        Args:
            box: left, top, right, bottom in pixels of the image, such as a row of `Explanation.boxes`.

        Raises:
            OptionError: the box is empty or not inside the image.
        """
        left, top, right, bottom = check_box(box, self.image.size, self.source)
        width, height = self.image.size
        _, rows, cols = self.values.shape
        down, across = _covered(top / height, bottom / height, rows), _covered(left / width, right / width, cols)
        return np.einsum("wrc,r,c->w", self.values, down, across).astype(np.float32)

    def best_words(self) -> Int[np.ndarray, "row col"]:
        """For each patch, the number of the word that contributes most."""
        return self.values.argmax(axis=0)

    def picture(self, boxes: Sequence[Box] | np.ndarray = ()) -> Image.Image:
        """One small map per word, all on one scale; below, the words with their shares, and each box with its words.

        The number beside a word is its sum over the whole image.
        """
        peak = float(np.abs(self.values).max()) or 1.0
        top = render.strip(
            self.image,
            iter(self.values / peak),
            signed=True,
            texts=self.words,
            scores=[float(each.sum()) for each in self.values],
            what="sum",
            notes=[
                f"{PAIRS} on {self.provenance['model']}. All maps have one scale; sum: over all patches; below: shares."
            ],
        )
        sections = [top, render.drawn(self.words, self.values.sum(axis=(1, 2)), top.width)]
        sections += [render.cut_out(self.image, box, self.words, self.in_box(box), top.width) for box in boxes]
        return render.stack(sections)

    def entry(self, boxes: Sequence[Box] | np.ndarray = ()) -> dict[str, Any]:
        """The JSON entry: words with their sums and highest patches, boxes with their words, total and goal."""
        _, rows, cols = self.values.shape
        width, height = self.image.size
        words = []
        for word, each in zip(self.words, self.values, strict=True):
            row, col = (int(place) for place in np.unravel_index(each.argmax(), each.shape))
            middle = [round((col + 0.5) * width / cols, 1), round((row + 0.5) * height / rows, 1)]
            words.append({"word": word, "value": float(f"{each.sum():.6g}"), "patch": [row, col], "point": middle})
        found = []
        for box in boxes:
            each = zip(self.words, self.in_box(box), strict=True)
            listed = [{"word": word, "value": float(f"{value:.6g}")} for word, value in each]
            found.append({"box": [float(side) for side in box], "words": listed})
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
    image: ImageLike,
    text: str,
    *,
    model: str | Backbone = DEFAULT_MODEL,
    image_depth: SupportsIndex = 1,
    text_depth: SupportsIndex | None = None,
    points: SupportsIndex = 10,
    image_size: SupportsIndex | None = None,
    resize: str = "squash",
    positions: str = DEFAULT_POSITIONS,
    device: Device | None = None,
) -> Interactions:
    """What each pair of a word and a patch contributes to the score: second-order attributions of exCLIP.

    Arguments that are not listed here, and the errors, are those of `eclip.explain`.

    - image: one; a path, a PIL image or an array.
    - text: one text, used without a template.
    - image_depth: how many last attention layers of the image tower the path goes through; 1 as in the paper.
    - text_depth: how many last blocks of the text tower; 1 as in the authors' code. None = all, so that a pair is about
      the word itself, not about what the tower has mixed into its position.
    - points: number of points on the path from an image and a text without content; more make the sum more exact.

    Warns:
        TextCutWarning: the text is longer than the model reads; words beyond its limit have value 0.
    """
    query = WordQuery([text], model=model, view=View(image_size, resize, positions), device=device)
    pairs = PairQuery(query, image_depth=image_depth, text_depth=text_depth, points=points)
    return pairs.answer(open_image(image), name_of(image, 0))[0]


class PairQuery:
    """The text side of pairs, computed once; depths and points as in `interactions`."""

    def __init__(
        self,
        query: WordQuery,
        *,
        image_depth: SupportsIndex = 1,
        text_depth: SupportsIndex | None = None,
        points: SupportsIndex = 10,
    ) -> None:
        self.query, self.backbone = query, query.backbone
        tower = self.backbone.text_tower
        text_depth = (len(tower.blocks) if tower else 1) if text_depth is None else text_depth
        path = {"image_depth": image_depth, "text_depth": text_depth, "points": points}
        self.path: dict[str, Any] = {name: whole(number, name, least=1) for name, number in path.items()}
        self.readings = list(query.reading.split(1))
        with eval_no_grad(self.backbone.model):
            self.paths = [self._read(reading) for reading in self.readings]

    def _read(self, reading: Reading) -> IntegrationPath:
        """The path from the authors' reference, which is start, token 0, end, to a text."""
        empty, short = self.backbone.tokenize(["", "a"])
        place = content(short.tolist(), empty.tolist())
        reference = short.clone()
        reference[place.start : place.stop] = 0
        ids = torch.cat([reading.ids, reference[None].to(reading.ids)])
        both = Reading(self.backbone, (*reading.texts, ""), ids, (*reading.words, ()))
        return text_path(both, self.path["text_depth"], self.path["points"])

    def answer(self, image: Image.Image, source: str) -> list[Interactions]:
        """Run one forward pass over the image and its reference, then compute the pairs of each text."""
        self.query.check_state()
        view = self.query.view
        pixels = view.pixels(self.backbone, [image])
        both = torch.cat([pixels, torch.zeros_like(pixels)])
        encoding = encode(self.backbone, both, self.path["image_depth"], view.positions)
        with eval_no_grad(self.backbone.model):
            seen = image_path(encoding, self.path["image_depth"], self.path["points"])
        scores = cosine(encoding.feature[:1], self.query.text)[0]
        provenance = {**made_by(self.backbone), **self.path, **view.settings}
        patches, found = encoding.grid.row * encoding.grid.col, []
        for reading, path, score in zip(self.readings, self.paths, scores, strict=True):
            with torch.autocast(encoding.feature.device.type, enabled=False):  # of the caller
                matrix, goal = pairs(path, seen).float(), float(target(path, seen))
            [words] = reading.by_word(matrix[:, -patches:].T[:, None])  # patch word
            found.append(
                Interactions(
                    values=words.T.unflatten(1, encoding.grid).cpu().numpy(),
                    words=tuple(word.letters for word in reading.words[0]),
                    text=reading.texts[0],
                    score=float(score),
                    total=float(matrix.sum()),
                    goal=goal,
                    source=source,
                    image=image,
                    provenance=provenance,
                )
            )
        return found


def _covered(start: float, stop: float, count: int) -> Float[np.ndarray, " cell"]:
    """The covered share of each of `count` equal cells of [0, 1]."""
    edges = np.arange(count + 1) / count
    return np.clip(np.minimum(stop, edges[1:]) - np.maximum(start, edges[:-1]), 0, None) * count


def check_box(box: Box, size: tuple[int, int], source: str) -> tuple[float, float, float, float]:
    """The sides of a box, which must be inside an image of (width, height) pixels and not empty."""
    is_flat = box.ndim == 1 if isinstance(box, np.ndarray) else isinstance(box, list | tuple)
    try:
        sides = [float(side) for side in box] if is_flat else []
    except (TypeError, ValueError, OverflowError):  # not numbers, or rows of them
        sides = []
    left, top, right, bottom = sides if len(sides) == 4 else [0.0] * 4
    width, height = size
    if not (0 <= left < right <= width and 0 <= top < bottom <= height):
        raise OptionError(
            f"a box in {source} must be left, top, right, bottom within {width} x {height} pixels, got {box!r}."
        )
    return left, top, right, bottom


class _Letters(NamedTuple):
    """A text without spaces and case; where its words end, and where spaces were, as counts of letters before."""

    letters: str
    ends: set[int]
    spaces: set[int]

    def is_as(self, other: _Letters) -> bool:
        """Whether the letters are the same and each has spaces only between words of the other."""
        return self.letters == other.letters and self.spaces <= other.ends and other.spaces <= self.ends


def _letters(text: str) -> _Letters:
    letters, ends, spaces, stop = "", set[int](), set[int](), 0
    for word in WORD.finditer(text.casefold()):
        if letters and word.start() > stop:
            spaces.add(len(letters))
        letters, stop = letters + word.group(), word.end()
        ends.add(len(letters))
    return _Letters(letters, ends, spaces)
