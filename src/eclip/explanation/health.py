"""The health of a map: does it follow the text, is it upright, is it made of artifacts, is the object there at all?

Four numbers per image and text, computed with every map that `explain` returns. They cost one more small call of the
method, one value path and a product with the features of a few hundred nouns, but no forward pass; the maps stay
bit-identical. docs/health.md has the figures behind the thresholds and the limitations of the numbers.

Sources: maps that ignore what they explain, Adebayo et al. 2018 (https://arxiv.org/abs/1810.03292); maps of CLIP that
are upside down, Li et al. 2022 (https://arxiv.org/abs/2209.07046); the value path as an upright map, Zhou et al. 2022
(https://arxiv.org/abs/2112.01071); artifact tokens, Darcet et al. 2024 (https://arxiv.org/abs/2309.16588). The four
numbers are our own.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from eclip.backbones.backbone import Backbone
from eclip.backbones.blocks import cosine, unit
from eclip.backbones.cached import cached
from eclip.backbones.encoding import Encoding
from eclip.backbones.load import is_loaded
from eclip.backbones.masking import masked_scores
from eclip.methods import METHODS, Method
from eclip.results.indexing import Which, number_of
from eclip.texts.encode import features_of
from eclip.texts.templates import resolve
from eclip.texts.vocabulary import words_of

NONSENSE = ("xqzvk wjrp", "jxkq vbnt", "wqxzj", "zzzz")
"""Meaningless strings; the mean of their features is used, so that no single string biases the result."""
EVERY_NTH_WORD = 5
"""Every fifth of the package's 1,444 nouns is a word to compare with: 289 words."""
KEEP = 1
"""How many last blocks the value path reruns."""
LEAST_SENSITIVITY = 0.05  # attention has 0; methods that use the text have medians of 0.35 to 1
LEAST_POLARITY = -0.1  # see the table of docs/health.md
MOST_ARTEFACTS = 0.5  # exceeded by almost no real map of mini, by a third to nearly all with three implanted ones
LEAST_PRESENCE = 0.6  # on coco80seg, 1 % of present classes are below and 66 % of absent ones

NUMBERS = ("sensitivity", "polarity", "artefacts", "presence")
SENTENCES = {
    "flat": "the map is flat: its values differ by rounding only, so it has no mask, box or point",
    "sensitivity": "the map barely changes when the text is nonsense",
    "polarity": "the map may be upside down: it is low where the patches themselves match the text",
    "artefacts": "most of the heat is on isolated patches that are hot for any text",
    "presence": "scores like unrelated words, so it may not be in the image",
}
MOST_NAMED = 3
"""The most texts named in one line of a summary; the others are counted."""


@dataclass(frozen=True, eq=False)
class Health:
    """Reasons to doubt maps; NaN where a number is not applicable.

    Attributes:
        sensitivity: (image, text) in [0, 1]: 1 minus the correlation of the map with the map of nonsense; a negative
            correlation counts as 0. 0 is a map that ignores the text.
        polarity: (image, text) in [-1, 1]: correlation with the value path's map for the text, minus what all words
            share; negative means upside down.
        artefacts: (image, text) in [0, 1]: share of the energy on single patches that are hot for nonsense too.
        presence: (image, text) in [0, 1]: share of other words that score lower on this image.
        texts: as given.
        notes: what was not computed, and why.
        flat: (image, text), maps whose values differ by rounding only; None if that is unknown.
    """

    sensitivity: Float[np.ndarray, "image text"]
    polarity: Float[np.ndarray, "image text"]
    artefacts: Float[np.ndarray, "image text"]
    presence: Float[np.ndarray, "image text"]
    texts: tuple[str, ...]
    notes: tuple[str, ...] = ()
    flat: Bool[np.ndarray, "image text"] | None = None

    def warnings(self, image: int | np.integer = 0, text: Which = 0) -> list[str]:
        """A sentence if the map is flat, and for each number beyond its threshold; NaN gives none.

        Raises:
            OptionError: there is no such image or text, or several have that name.
        """
        image, text = self._image(image), number_of(text, self.texts, "text")
        return [f"{self.texts[text]}: {SENTENCES[name]}" for name in SENTENCES if self._flagged(name)[image, text]]

    def summary(self, image: int | np.integer = 0) -> list[str]:
        """The warnings of an image, one line for all texts with the same warning: at most five lines."""
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

    def only(self, images: int | Sequence[int]) -> Health:
        """The health of one image or of several, by number."""
        some = [images] if isinstance(images, int) else list(images)
        flat = None if self.flat is None else self.flat[some]
        return replace(self, **{name: getattr(self, name)[some] for name in NUMBERS}, flat=flat)

    def _image(self, image: int | np.integer) -> int:
        return number_of(image, [""] * len(self.presence), "image")

    def _flagged(self, name: str) -> Bool[np.ndarray, "image text"]:
        if name == "flat":
            return np.zeros(self.presence.shape, dtype=bool) if self.flat is None else self.flat
        if name == "polarity":  # meaningless for a map that ignores the text
            return (self.polarity < LEAST_POLARITY) & ~self._flagged("sensitivity")
        if name == "artefacts":
            return self.artefacts > MOST_ARTEFACTS
        return self.sensitivity < LEAST_SENSITIVITY if name == "sensitivity" else self.presence < LEAST_PRESENCE


class Checkup:
    """Computes the four numbers for the maps of some texts; encodes nonsense and words once per model.

    Nonsense and words use only the first template: hundreds of words in eighty sentences each would take longer than
    everything else. With several templates, presence uses only the first for the texts too. The features are cached on
    disk only for models that `load` made: a model in training would leave a file at each step.
    """

    def __init__(
        self,
        backbone: Backbone,
        texts: Sequence[str],
        text: Float[Tensor, "text feature"],
        templates: str | Sequence[str] = "none",
        *,
        versus: bool = False,
    ) -> None:
        self.texts, self.text, self.versus = tuple(texts), text, versus
        if versus:  # none of the numbers needs more
            return
        first, *more = resolve(templates)

        def make() -> Tensor:
            words = [*NONSENSE, *words_of(None)[::EVERY_NTH_WORD]]
            return features_of(backbone, words, (first,), keep=is_loaded(backbone))

        both = cached(backbone, f"health {first}", make)
        self.alike = features_of(backbone, list(texts), (first,)) if more else text
        self.nonsense, self.words = unit(both[: len(NONSENSE)].mean(dim=0, keepdim=True)), both[len(NONSENSE) :]
        self._seen: tuple[weakref.ref[Encoding], Tensor | None, Tensor] | None = None

    def __call__(
        self,
        method: Method,
        encoding: Encoding,
        maps: Float[Tensor, "image text row col"],
        maps_of: Callable[[Tensor], Tensor],
        options: dict[str, Any],
        flat: Bool[Tensor, "image text"] | None = None,
    ) -> Health:
        """The health of raw maps, before any refinement.

        Args:
            method: the method that made the maps.
            encoding: with the last block kept.
            maps: of the texts.
            maps_of: computes maps of other texts in the same way, used for nonsense.
            options: of the method.
            flat: which maps are flat; None = determined here, see `Method.flat`.
        """
        shape = maps.shape[:2]
        flat = method.flat(maps, self.text) if flat is None else flat
        blind = self.versus or method.kind == "perturbation"
        nonsense = None if blind else self.nonsense_map(method, encoding, maps_of, options)
        undefined = torch.full(shape, torch.nan, dtype=torch.float32, device="cpu")
        polarity, presence = undefined, undefined
        if not self.versus:
            upright, presence = self._of(encoding)
            polarity = polarity if upright is None else correlation(maps, upright)
        sensitivity = undefined if nonsense is None else 1 - correlation(maps, nonsense).clamp_min(0)
        of_map = (one.to(maps).where(~flat, torch.nan) for one in (sensitivity, polarity, artefacts(maps, nonsense)))
        numbers = zip(NUMBERS, (*of_map, presence), strict=True)
        arrays = {name: one.float().cpu().numpy() for name, one in numbers}
        return Health(
            **arrays,
            texts=self.texts,
            notes=notes(method, encoding.backbone, versus=self.versus),
            flat=flat.cpu().numpy(),
        )

    def _of(self, encoding: Encoding) -> tuple[Float[Tensor, "image text row col"] | None, Float[Tensor, "image text"]]:
        """The value path's maps, if there is one, and the presence, shared by all methods on one encoding."""
        if self._seen is None or self._seen[0]() is not encoding:
            apart = self.text - self.words.mean(dim=0)
            upright = METHODS["maskclip"](encoding, apart) if encoding.blocks else None
            self._seen = weakref.ref(encoding), upright, share_below(encoding.feature, self.alike, self.words)
        return self._seen[1:]

    def nonsense_map(
        self, method: Method, encoding: Encoding, maps_of: Callable[[Tensor], Tensor], options: dict[str, Any]
    ) -> Float[Tensor, "image 1 row col"]:
        """The map of nonsense; if the method compares texts with each other, compared with the same texts."""
        comparing = method.versus and not options.keys() & method.versus.keys()
        if comparing and len(self.text) > 1:
            return method.difference(encoding, self.nonsense, self.text.mean(dim=0, keepdim=True), **options)
        return maps_of(self.nonsense)


def notes(method: Method, backbone: Backbone, *, versus: bool) -> tuple[str, ...]:
    """What is not computed for a method's maps on a model, and why."""
    found = []
    if not backbone.blocks and not versus:
        found.append("polarity needs the values of an attention block, which this tower does not have")
    if method.kind == "perturbation":
        found.append(f"{method.name} takes many passes and is not run for nonsense: sensitivity is unknown")
    if versus:
        found.append("sensitivity, polarity and presence do not apply to a difference between two texts")
    return tuple(found)


def correlation(
    maps: Float[Tensor, "image text row col"], others: Float[Tensor, "image other row col"]
) -> Float[Tensor, "image text"]:
    """Pearson correlation of each map with the other map of its text, or with the only other map; float64.

    Exactly 1 for equal maps, exactly the opposite for an upside-down map, NaN if one is flat.
    """
    one, other = (part.flatten(2).double() for part in (maps, others.to(maps)))
    equal = (one == other).all(dim=-1)
    flat = (one.amax(-1) == one.amin(-1)) | (other.amax(-1) == other.amin(-1))
    one, other = (part - part.mean(dim=-1, keepdim=True) for part in (one, other))
    found = (one * other).sum(dim=-1) / (one.norm(dim=-1) * other.norm(dim=-1))
    found = torch.where(equal, torch.ones_like(found), found.clamp(-1, 1))
    return torch.where(flat, torch.nan, found)


def share_below(
    feature: Float[Tensor, "image feature"], text: Float[Tensor, "text feature"], words: Float[Tensor, "word feature"]
) -> Float[Tensor, "image text"]:
    """Share of words that score lower than each text on each image, in [0, 1]."""
    ranked, scores = cosine(feature, words).sort(dim=-1).values, cosine(feature, text)
    return torch.searchsorted(ranked.contiguous(), scores.contiguous()).float() / len(words)  # counts before


def artefacts(
    maps: Float[Tensor, "image text row col"], nonsense: Float[Tensor, "image 1 row col"] | None = None
) -> Float[Tensor, "image text"]:
    """Share of a map's energy on isolated patches unrelated to the text, in [0, 1]; NaN for a flat map.

    Heat is the value above the map's median, energy its square; if at least half of the patches share the maximum,
    there is no heat, and the share is 0. A patch is single if it has more than twice the heat of each of its eight
    neighbors. It counts if it also has at least half of the largest heat in the nonsense map: an object can be as small
    as a patch, but does not appear for nonsense. Without that map, two or more single patches count, but not one alone.
    """
    heat = _heat(maps)
    (row, col), around = heat.shape[-2:], F.pad(heat, (1, 1, 1, 1))
    shifts = [(down, right) for down in range(3) for right in range(3) if (down, right) != (1, 1)]
    neighbors = (around[..., down : down + row, right : right + col] for down, right in shifts)
    single = heat > 2 * reduce(torch.maximum, neighbors)
    several = single.sum(dim=(-2, -1), keepdim=True) > 1
    single = single & (several if nonsense is None else _heat(nonsense.to(maps)) >= 0.5)
    energy = heat.square()
    return (energy * single).sum(dim=(-2, -1)) / energy.sum(dim=(-2, -1)).clamp_min(1)  # the peak alone is 1


def _heat(maps: Float[Tensor, "image text row col"]) -> Float[Tensor, "image text row col"]:
    """Values above the median, divided by their peak, float32; NaN for a flat map, 0 if none is above."""
    maps = maps.float()
    heat = (maps - maps.flatten(2).median(dim=-1).values[..., None, None]).clamp_min(0)
    peak = heat.amax(dim=(-2, -1), keepdim=True)
    flat = maps.amax(dim=(-2, -1), keepdim=True) == maps.amin(dim=(-2, -1), keepdim=True)
    return torch.where((peak == 0) & ~flat, torch.zeros_like(heat), heat / peak)


def polarity_by_hiding(
    encoding: Encoding, text: Float[Tensor, "text feature"], maps: Float[Tensor, "image text row col"]
) -> Float[Tensor, "image text"]:
    """Is a map upside down? Tested on the unaltered model: which half, when hidden, lowers the score more?

    The hotter half of the patches is covered with the mean color, then the colder half; with an odd number, the middle
    patch is never covered. With the score losses a (hotter half) and b (colder half), the result is
    (a - b) / (|a| + |b|), in [-1, 1]; negative means upside down. An upside-down map gives the opposite unless patches
    tie. Takes two forward passes per image and text; `Health.polarity` takes none. The texts have unit length, and the
    maps are on the patch grid.
    """
    found = torch.zeros(maps.shape[:2], dtype=torch.float32, device="cpu")
    for image, row in enumerate(maps):
        for index, one in enumerate(row):
            order = one.flatten().argsort(stable=True)
            masks = torch.ones(2, one.numel(), dtype=torch.float32, device=one.device)
            masks[0, order[(one.numel() + 1) // 2 :]] = 0  # without the hotter half
            masks[1, order[: one.numel() // 2]] = 0
            shown = F.interpolate(masks.unflatten(1, one.shape)[None], encoding.pixels.shape[2:], mode="nearest")[0]
            whole = cosine(encoding.feature[image], text[[index]])[0]
            losses = whole - masked_scores(encoding, text[[index]], image, shown)[:, 0]
            total = losses.abs().sum()
            found[image, index] = (losses[0] - losses[1]) / total if total > 0 else 0.0
    return found
