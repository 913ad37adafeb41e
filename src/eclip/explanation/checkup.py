"""Checkup computes the numbers of `Health` for the maps of some texts.

They cost one more small call of the method, one value path and a product with the features of a few hundred nouns and
sixteen empty images, all encoded once per model. The maps stay bit-identical.

Sources: maps that ignore what they explain, Adebayo et al. 2018 (https://arxiv.org/abs/1810.03292); maps of CLIP that
are upside down, Li et al. 2022 (https://arxiv.org/abs/2209.07046); the value path as an upright map, Zhou et al. 2022
(https://arxiv.org/abs/2112.01071); artifact tokens, Darcet et al. 2024 (https://arxiv.org/abs/2309.16588). The
numbers are our own.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from eclip.backbones.backbone import Backbone
from eclip.backbones.blocks import cosine
from eclip.backbones.encoding import Encoding
from eclip.backbones.masking import masked_scores
from eclip.backbones.view import View
from eclip.explanation.emptiness import emptiness, empty_features
from eclip.explanation.health import MOST_EMPTINESS, NUMBERS, Health
from eclip.methods import METHODS, Method
from eclip.texts.encode import are_worth_keeping, features_of
from eclip.texts.reference import reference_features
from eclip.texts.templates import resolve

KEEP = 1
"""How many last blocks the value path reruns."""
Shared = tuple[Float[Tensor, "image text row col"] | None, Float[Tensor, "image text"] | None, Float[Tensor, " image"]]
"""The value path's maps, presence and emptiness."""


class Checkup:
    """Computes the numbers for the maps of some texts; encodes nonsense, words and empty images once per model.

    Nonsense and words use only the first template: hundreds of words in eighty sentences each would take longer than
    everything else. With several templates, presence uses only the first for the texts too. The features are kept on
    disk by a hash of the weights.

    Args:
        backbone: the model.
        texts: as the user gave them.
        text: their features; differences if `versus`.
        templates: as in `eclip.encode_texts`.
        view: how the model sees images.
        versus: the maps explain the difference to another text, so most numbers do not apply.
        only_presence: leave out the numbers of the map, which cost more.
        given: which rows of `text` are features that a user passed, of texts or of anything else, or examples; None =
            none.
    """

    def __init__(
        self,
        backbone: Backbone,
        texts: Sequence[str],
        text: Float[Tensor, "text feature"],
        templates: str | Sequence[str] = "none",
        view: View | None = None,
        *,
        versus: bool = False,
        only_presence: bool = False,
        given: Sequence[bool] | None = None,
    ) -> None:
        self.texts, self.text, self.versus, self.only_presence = tuple(texts), text, versus, only_presence
        self.given = torch.tensor(given or [False] * len(texts), dtype=torch.bool, device=text.device)
        self.blocks, self.empty = bool(backbone.blocks), empty_features(backbone, view or View())
        self._seen: tuple[weakref.ref[Encoding], Shared] | None = None
        if versus:  # the rest does not apply
            return
        first, *more = resolve(templates)
        self.nonsense, self.words = reference_features(backbone, first)
        keep = are_worth_keeping(texts, (first,))
        self.alike = features_of(backbone, list(texts), (first,), keep=keep) if more else text

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
        flat = method.flat(maps, self.text) if flat is None else flat
        undefined = torch.full(maps.shape[:2], torch.nan, dtype=torch.float32, device="cpu")
        upright, presence, emptiness = self._of(encoding)
        presence = undefined if presence is None else presence
        nonsense, of_map = None, [undefined] * 3
        if not self.only_presence:
            if not (self.versus or method.kind == "perturbation"):
                nonsense = self.nonsense_map(method, encoding, maps_of, options)
            sensitivity = undefined if nonsense is None else 1 - correlation(maps, nonsense).abs()
            polarity = undefined if upright is None or not method.polarity else correlation(maps, upright)
            known = (sensitivity, polarity, artefacts(maps, nonsense))
            of_map = [one.to(maps).where(~flat, torch.nan) for one in known]
            of_map[1] = of_map[1].where(~self.given.to(maps.device), torch.nan)
        numbers = zip(NUMBERS, (*of_map, presence, emptiness[:, None].expand(maps.shape[:2])), strict=True)
        arrays = {name: one.float().cpu().numpy().copy() for name, one in numbers}
        return Health(**arrays, texts=self.texts, notes=self.notes(method), flat=flat.cpu().numpy().copy())

    def presence(self, encoding: Encoding) -> Float[Tensor, "image text"]:
        """As `Health.presence`, for any encoding; NaN for features and examples."""
        ranks = share_below(encoding.feature, self.alike, self.words)
        ranks = ranks.where(~(emptiness(encoding.feature, self.empty) > MOST_EMPTINESS)[:, None], 0)
        return ranks.where(~self.given, torch.nan)

    def notes(self, method: Method) -> tuple[str, ...]:
        """What is not computed for a method's maps, and why."""
        found = []
        if self.versus:
            found.append("sensitivity, polarity and presence do not apply to a difference between two texts")
        elif self.given.any():
            found.append(
                "polarity and presence compare a text with other words, so they do not apply to features and examples"
            )
        elif not self.only_presence and not method.polarity:
            found.append(f"polarity is not computed for {method.name}: its warnings were not reliable")
        elif not self.only_presence and not self.blocks:
            found.append("polarity needs the values of an attention block, which this tower does not have")
        if self.only_presence:
            found.append("only presence and emptiness are computed")
        elif method.kind == "perturbation":
            found.append(f"{method.name} takes many passes and is not run for nonsense: sensitivity is unknown")
        return tuple(found)

    def _of(self, encoding: Encoding) -> Shared:
        """The value path's maps if there are any, presence, and emptiness, shared by all methods on one encoding."""
        if self._seen is None or self._seen[0]() is not encoding:
            upright, presence, empty = None, None, emptiness(encoding.feature, self.empty)
            if not (self.versus or self.given.all()):
                if self.blocks and not self.only_presence:
                    upright = METHODS["maskclip"](encoding, self.text - self.words.mean(dim=0))
                presence = self.presence(encoding)
            self._seen = weakref.ref(encoding), (upright, presence, empty)
        return self._seen[1]

    def nonsense_map(
        self, method: Method, encoding: Encoding, maps_of: Callable[[Tensor], Tensor], options: dict[str, Any]
    ) -> Float[Tensor, "image 1 row col"]:
        """The map of nonsense; if the method compares texts with each other, compared with the mean of the words.

        Compared with the mean of a few texts, it would be the opposite of the map of the one that is in the image.
        """
        comparing = method.versus and not options.keys() & method.versus.keys()
        if comparing and len(self.text) > 1:
            return method.difference(encoding, self.nonsense, self.words.mean(dim=0, keepdim=True), **options)
        return maps_of(self.nonsense)


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
