"""Health: does a map follow the text, is it upright, is it made of artifacts, is the object there at all?

`eclip.explanation.checkup` computes the numbers. docs/health.md has the figures behind the thresholds and the
limitations of the numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from eclip.errors import OptionError
from eclip.render import ABSENT, UNSURE
from eclip.render.html import render
from eclip.results.indexing import Which, number_of, several

LEAST_SENSITIVITY = 0.05  # attention has 0; methods that use the text have medians of 0.35 to 1
LEAST_POLARITY = -0.1  # see the table of docs/health.md
MOST_ARTEFACTS = 0.5  # exceeded by almost no real map of mini, by a third to nearly all with three implanted ones
LEAST_PRESENCE = 0.6  # on coco80seg, 1 % of present classes are below and 66 % of absent ones
LEAST_SURE = 0.9  # 10 % and 92 %
MOST_EMPTINESS = 0.55  # on mini, the largest of 1,255 real images is 0.53, the smallest of 24 empty ones 0.65

NUMBERS = ("sensitivity", "polarity", "artefacts", "presence", "emptiness")
SENTENCES = {
    "flat": "the map is flat: its values differ by rounding only, so it has no mask, box or point",
    "sensitivity": "the map barely changes when the text is nonsense",
    "polarity": "the map may be upside down: it is low where the patches themselves match the text",
    "artefacts": "most of the heat is on isolated patches that are hot for any text",
    "presence": "scores like unrelated words, so it is probably not in the image",
    "emptiness": "the image looks empty to the model, like one color, noise or a pattern, so no text is in it",
}
ADVICE = {
    "flat": "Try another method, or a text that names a thing.",
    "sensitivity": "Do not read it as evidence for the text: try a method that uses the text, such as gem or maskclip.",
    "polarity": "Compare it with maskclip or gem: where they are high, the object is.",
    "artefacts": "Look at the map of another method; single bright patches are no object.",
    "presence": "A map says where, not whether: trust the score, and compare it with a text that is in the image.",
    "emptiness": "Check that the image is the one you meant and was read correctly.",
}
"""What to try about each."""
MOST_NAMED = 3
"""The most texts named in one line of a summary; the others are counted."""
MOST_ROWS = 60
"""The most rows of the table for notebooks; the others are counted."""


@dataclass(frozen=True, eq=False)
class Health:
    """Reasons to doubt maps; NaN where a number is not applicable.

    Attributes:
        sensitivity: (image, text) in [0, 1]: 1 minus the absolute correlation of the map with the map of nonsense. 0 is
            a map that ignores the text, up to its sign.
        polarity: (image, text) in [-1, 1]: correlation with the value path's map for the text, minus what all words
            share; negative means upside down.
        artefacts: (image, text) in [0, 1]: share of the energy on single patches that are hot for nonsense too.
        presence: (image, text) in [0, 1]: share of other words that score lower on this image; 0 if it looks empty.
        emptiness: (image, text) in [0, 1], the same for all texts: how empty the image looks to the model.
        texts: as given.
        notes: what was not computed, and why.
        flat: (image, text), maps whose values differ by rounding only; None if that is unknown.
    """

    sensitivity: Float[np.ndarray, "image text"]
    polarity: Float[np.ndarray, "image text"]
    artefacts: Float[np.ndarray, "image text"]
    presence: Float[np.ndarray, "image text"]
    emptiness: Float[np.ndarray, "image text"]
    texts: tuple[str, ...]
    notes: tuple[str, ...] = ()
    flat: Bool[np.ndarray, "image text"] | None = None

    def __repr__(self) -> str:
        images, texts = self.presence.shape
        flagged = np.any([self._flagged(name) for name in SENTENCES], axis=0)
        return f"Health({images} images, {texts} texts, {int(flagged.sum())} of {flagged.size} maps with warnings)"

    def _repr_html_(self) -> str:
        """A row for each image and text: the numbers, and the warnings."""
        images, rows = len(self.presence), []
        for image, text in list(np.ndindex(self.presence.shape))[:MOST_ROWS]:
            values = [float(getattr(self, name)[image, text]) for name in NUMBERS]
            shown = ["" if math.isnan(value) else f"{value:.2f}" for value in values]
            said = "; ".join(SENTENCES[name] for name in SENTENCES if self._flagged(name)[image, text])
            rows.append((image, self.texts[text], shown, said))
        left = self.presence.size - len(rows)
        lines = [*([f"and {left} more rows"] if left else []), *self.notes]
        return str(render(__name__, "health.html", several=images > 1, names=NUMBERS, rows=rows, lines=lines))

    @property
    def absent(self) -> Bool[np.ndarray, "image text"]:
        """Texts that are probably not in the image: below the least presence, or if it is known, in an empty image."""
        return (self.presence < LEAST_PRESENCE) | (self._flagged("emptiness") & ~np.isnan(self.presence))

    def doubts(self, image: int | np.integer = 0) -> list[str]:
        """What pictures say below each text: that it is probably absent, or may be; empty if neither, or unknown."""
        place = self._image(image)
        unsure = self.presence[place] < LEAST_SURE
        return np.where(self.absent[place], ABSENT, np.where(unsure, UNSURE, "")).tolist()

    def reasons(self, image: int | np.integer = 0, text: Which = 0) -> list[str]:
        """The keys of `SENTENCES` and `ADVICE` that apply to a map; errors as in `warnings`."""
        image, text = self._image(image), number_of(text, self.texts, "text")
        return [name for name in SENTENCES if self._flagged(name)[image, text]]

    def warnings(self, image: int | np.integer = 0, text: Which = 0) -> list[str]:
        """A sentence if the map is flat, and for each number beyond its threshold; NaN gives none.

        Raises:
            OptionError: there is no such image or text, or several have that name.
        """
        name = self.texts[number_of(text, self.texts, "text")]
        return [f"{name}: {SENTENCES[reason]}" for reason in self.reasons(image, text)]

    def summary(self, image: int | np.integer = 0) -> list[str]:
        """The warnings of an image, one line for all texts with the same warning: at most six lines."""
        lines, image = [], self._image(image)
        for name in SENTENCES:
            flagged = zip(self.texts, self._flagged(name)[image], strict=True)
            texts = list(dict.fromkeys(text for text, flag in flagged if flag))
            if texts:
                more = f" and {len(texts) - MOST_NAMED} more" if len(texts) > MOST_NAMED else ""
                lines.append(f"{', '.join(texts[:MOST_NAMED])}{more}: {SENTENCES[name]}")
        return lines

    def noted(self, image: int) -> dict[str, dict[str, Any]]:
        """The numbers of an image by text, as in the manifest; None for NaN."""
        noted: dict[str, dict[str, Any]] = {}
        for index, text in enumerate(self.texts):
            values = {name: float(getattr(self, name)[image, index]) for name in NUMBERS}
            rounded = {name: None if math.isnan(value) else round(value, 4) for name, value in values.items()}
            noted[text] = {**rounded, "warnings": self.warnings(image, index)}
        return noted

    def arrays(self, image: int) -> dict[str, Float[np.ndarray, " text"]]:
        """The numbers of an image, as in its npz file."""
        return {f"health_{name}": getattr(self, name)[image] for name in NUMBERS}

    def only(self, images: int | np.integer | Sequence[int]) -> Health:
        """The health of one image or of several, by number."""
        some = [self._image(image) for image in several(images)]
        flat = None if self.flat is None else self.flat[some]
        return replace(self, **{name: getattr(self, name)[some] for name in NUMBERS}, flat=flat)

    def _image(self, image: int | np.integer) -> int:
        if isinstance(image, str | Path):
            raise OptionError(
                f"image must be a number here, as in warnings(0, 'a dog'), got {image!r}: health does not know the "
                "names of images."
            )
        return number_of(image, [""] * len(self.presence), "image")

    def _flagged(self, name: str) -> Bool[np.ndarray, "image text"]:
        if name == "flat":
            return np.zeros(self.presence.shape, dtype=bool) if self.flat is None else self.flat
        if name == "polarity":  # meaningless for a map that ignores the text
            return (self.polarity < LEAST_POLARITY) & ~self._flagged("sensitivity")
        if name == "artefacts":
            return self.artefacts > MOST_ARTEFACTS
        if name == "emptiness":
            return self.emptiness > MOST_EMPTINESS
        if name == "presence":  # in an empty image, emptiness says why
            return (self.presence < LEAST_PRESENCE) & ~self._flagged("emptiness")
        return self.sensitivity < LEAST_SENSITIVITY
