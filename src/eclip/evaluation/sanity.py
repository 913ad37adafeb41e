"""The task "sanity": a map must change with its text and with its model (Adebayo et al. 2018).

Rank correlation, on the patch grid, of a class's map with the map of nonsense, of a class that the photo does not show,
and of the same class by a model whose image tower has had the numbers of every weight shuffled. Near zero is good:
a map that is the same for nonsense, or upside down, does not answer the question, and one that survives random weights
explains no model. Signs cancel in a mean over pairs, so the mean size of the correlation is what counts; the signed
mean stands beside it. A flat map has no order: its pairs are left out, and counted as "flat".
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from eclip.backbones.backbone import Backbone
from eclip.backbones.encoding import encode
from eclip.backbones.wrap import wrap
from eclip.datasets.masks import Masked, present
from eclip.errors import OptionError
from eclip.evaluation.protocols import Sanity
from eclip.evaluation.query import Asked, joined, opened
from eclip.evaluation.row import Row, mean_rows
from eclip.evaluation.store import Part
from eclip.heatmap import mean_over_cells
from eclip.metrics.sanity import rank_correlation
from eclip.texts.encode import encode_texts

SIGNED = ("nonsense", "other_class", "random_weights")
KEYS = (*(f"{key}_size" for key in SIGNED), *SIGNED)


class SanityTask:
    """Scores pairs of a photo and a class that it shows.

    Args:
        asked: the question; its protocol has rules of class `Sanity`.
    """

    def __init__(self, asked: Asked) -> None:
        assert isinstance(asked.protocol.rules, Sanity)
        self.asked, self.rules = asked, asked.protocol.rules
        self.columns = {number: column for column, number in enumerate(asked.classes)}
        self.text = asked.texts()
        nonsense = encode_texts(asked.backbone, list(self.rules.nonsense), asked.protocol.templates)
        self.more = torch.cat([self.text, nonsense])
        self.strange = replace(asked, backbone=shuffled(asked.backbone))

    def score(self, items: Sequence[Masked], start: int) -> Part:
        """What a batch of photos gives; `start` is the place of the first in the data set."""
        found, failures = opened(items, start)
        gaps: dict[str, str] = {}
        seconds: dict[str, float] = {"forward": 0.0}
        photos: list[int] = []
        numbers: list[int] = []
        values: dict[str, list[list[float]]] = {name: [] for name in self.asked.methods}
        flat: dict[str, list[bool]] = {name: [] for name in self.asked.methods}
        count, silly = len(self.text), list(range(len(self.text), len(self.more)))
        shows = [one for one in found if present(one.mask, self.rules.least)]
        for group, encoding, spent in self.asked.encoded(shows):
            seconds["forward"] += spent
            own = [present(one.mask, self.rules.least) for one in group]
            shown = [[self.columns[number] for number in each] for each in own]
            others = [_absent(each, count) for each in shown]
            both = [each + other for each, other in zip(shown, others, strict=True)]
            strange = encode(self.strange.backbone, encoding.pixels, self.asked.keep, encoding.positions)
            maps = dict(self.asked.try_maps(encoding, self.text, both, gaps, seconds))
            aside = dict(self.asked.try_maps(encoding, self.more, [silly] * len(group), gaps, {}))
            blind = dict(self.strange.try_maps(strange, self.text, shown, gaps, {}))
            for image, one in enumerate(group):
                photos += [one.place] * len(own[image])
                numbers += own[image]
                for name in maps.keys() & aside.keys() & blind.keys():
                    known, silly_maps, blind_maps = (
                        _coarse(each[name][image], encoding.grid) for each in (maps, aside, blind)
                    )
                    for place in range(len(own[image])):
                        mine, other = known[place], known[len(own[image]) + place] if others[image] else None
                        asides = [silly_maps, [] if other is None else [other], [blind_maps[place]]]
                        rhos = [np.array([rank_correlation(mine, each) for each in some]) for some in asides]
                        means = [_mean(np.abs(some)) for some in rhos] + [_mean(some) for some in rhos]
                        values[name].append(means)
                        flat[name].append(any(np.isnan(some).any() for some in rhos))
        names = [name for name in self.asked.methods if name not in gaps]
        arrays: dict[str, NDArray[Any]] = {"names": np.array(names)}
        if photos:
            arrays |= {"photos": np.array(photos), "numbers": np.array(numbers)}
            rows = np.array([values[name] for name in names]).reshape(len(names), len(photos), len(KEYS))
            arrays["values"] = rows.swapaxes(0, 1)
            arrays["flat"] = np.array([flat[name] for name in names], dtype=bool).reshape(len(names), len(photos)).T
        return Part(arrays, seconds, len(found), gaps, failures)

    def record(self, parts: Iterable[Part]) -> list[Row]:
        """A row for each method.

        Raises:
            DataError: no photo shows a class.
            OptionError: no method has a meaning for this model.
        """
        whole, names = joined(parts, self.asked.data)
        if not names:
            raise OptionError(f"none of {', '.join(self.asked.methods)} has a meaning on {self.asked.backbone.name}.")
        rows = mean_rows(names, (), KEYS, whole["values"], whole)
        for row, count in zip(rows, whole["flat"].sum(axis=0).tolist(), strict=True):
            row.facts["flat"] = count
        return rows


def shuffled(backbone: Backbone, seed: int = 0) -> Backbone:
    """A copy of the model in which the numbers of each weight of the image tower have changed places.

    So each weight keeps its size, mean and spread, and all that was learned is gone. The model itself stays as it is.
    """
    model = deepcopy(backbone.model)
    generator = torch.Generator("cpu").manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.startswith(backbone.visual):
                order = torch.randperm(weight.numel(), generator=generator, device="cpu").to(weight.device)
                weight.copy_(weight.flatten()[order].view_as(weight))
    colors = {"mean": backbone.mean, "std": backbone.std, "interpolation": backbone.interpolation}
    made = wrap(model, tokenizer=backbone.tokenize, name=f"{backbone.name} shuffled", **colors)  # type: ignore[arg-type]
    return replace(made, head=backbone.head)


def _mean(values: Float[np.ndarray, " map"]) -> float:
    """Of those that are known; NaN where none is."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else np.nan


def _coarse(maps: Tensor, grid: tuple[int, int]) -> list[Float[np.ndarray, "row col"]]:
    """Maps on the patch grid, also those that a refinement drew on pixels; none of a photo that shows no class."""
    return list(mean_over_cells(maps, grid).numpy()) if len(maps) else []


def _absent(shown: Sequence[int], count: int) -> list[int]:
    """For each place that is shown the next of `count` that is not, cyclically; none where all are shown."""
    free = [place for place in range(count) if place not in shown]
    return [next((place for place in free if place > one), free[0]) for one in shown] if free else []
