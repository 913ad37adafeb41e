"""The task "sanity": a map must change with its text and with its model (Adebayo et al. 2018).

Rank correlation, on the patch grid, of a class's map with the map of a nonsense text, of a class that the image does
not show, and of the same class in a model with shuffled weights (image tower and head). Near zero is good: a map that
is the same for nonsense, or inverted, does not depend on the text, and one that survives shuffled weights does not
explain the model. Signs cancel in a mean over pairs, so the mean absolute correlation counts; the signed mean is also
reported. A flat map has no ranks: its pairs are left out, and counted as "flat".
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from copy import deepcopy
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from eclip.backbones.backbone import Backbone
from eclip.backbones.encoding import encode
from eclip.backbones.host import HOOKS, all_modules, image_side, is_quantized
from eclip.backbones.wrap import wrap
from eclip.errors import ModelError, OptionError
from eclip.evaluation.pair_task import EncodedImages, PairTask, Scores
from eclip.evaluation.query import EvaluationQuery, check_own_images, joined
from eclip.evaluation.report.numbers import SIGNED, SIZES
from eclip.evaluation.row import Row, known_mean, mean_rows
from eclip.evaluation.rules import Sanity
from eclip.evaluation.store import BatchResult
from eclip.heatmap import mean_over_cells
from eclip.metrics.sanity import rank_correlation
from eclip.texts.encode import encode_texts

KEYS = (*SIZES, *SIGNED)
NORM_BUFFERS = ("running_mean", "running_var", "weight", "bias")
"""Names of buffers that are learned: those of batch norms, and of frozen ones."""


class SanityTask(PairTask[Sanity]):
    """Scores pairs of an image and a class that it shows, under rules of class `Sanity`."""

    baselines = ()

    def __init__(self, asked: EvaluationQuery) -> None:
        super().__init__(asked)
        check_own_images(asked)
        nonsense = encode_texts(asked.backbone, list(self.rules.nonsense), asked.protocol.templates)
        self.more = torch.cat([self.text, nonsense])
        self.strange = replace(asked, backbone=shuffled(asked.backbone))

    def scores(
        self, batch: EncodedImages, not_applicable: dict[str, str], seconds: dict[str, float]
    ) -> Iterator[Scores]:
        """Scores of each pair of a batch, image by image; updates `not_applicable` and `seconds`."""
        asked, encoding, count = self.asked, batch.encoding, len(self.text)
        others = [_absent(each, count) for each in batch.shown]
        both = [each + other for each, other in zip(batch.shown, others, strict=True)]
        silly = [list(range(count, len(self.more)))] * len(batch.images)
        strange = encode(self.strange.backbone, encoding.pixels, asked.keep, encoding.positions)
        run = partial(asked.maps, encoding=encoding)
        maps = asked.by_method(partial(run, text=self.text, shown=both), not_applicable, seconds)
        aside = asked.by_method(partial(run, text=self.more, shown=silly), not_applicable, {})
        run = partial(self.strange.maps, encoding=strange, text=self.text, shown=batch.shown)
        blind = asked.by_method(run, not_applicable, {})
        for image, own in enumerate(batch.shown):
            coarse = {
                name: [_coarse(asked.leveled(name, each[name][image]), encoding.grid) for each in (maps, aside, blind)]
                for name in maps.keys() & aside.keys() & blind.keys()
            }
            for place in range(len(own)):
                found: Scores = {}
                for name, (known, nonsense, random) in coarse.items():
                    other = [known[len(own) + place]] if others[image] else []
                    found[name] = _rhos(known[place], [nonsense, other, [random[place]]])
                yield found

    def record(self, results: Iterable[BatchResult]) -> list[Row]:
        """Compute a row for each method, see `Task`; OptionError if none is applicable to this model."""
        whole, names = joined(results, self.asked.data)
        if not names:
            raise OptionError(f"none of {', '.join(self.asked.methods)} is applicable to {self.asked.backbone.name}.")
        rows = mean_rows(names, (), KEYS, whole["values"], whole)
        for row, count in zip(rows, whole["flat"].sum(axis=0).tolist(), strict=True):
            row.facts["flat"] = count
        return rows


def shuffled(backbone: Backbone, seed: int = 0) -> Backbone:
    """A copy of the model in which the elements of each learned tensor of the image tower and head are permuted.

    Each tensor keeps its mean and spread, but everything learned is gone, the running statistics of batch norms and
    the weights of frozen ones (buffers) included. The model itself is not changed.

    Raises:
        ModelError: the image tower is quantized: its integers are not all parameters, and would keep what they learned.
    """
    if is_quantized(*image_side(backbone)):
        raise ModelError(
            f"the weights of {backbone.name} cannot be shuffled, because its image tower is quantized: use the model "
            "before quantization."
        )
    shared: dict[int, Any] = {}  # hooks are called, not copied: they may hold locks or other models
    for module in all_modules(backbone.model):
        own = vars(module)
        shared |= {id(hook): hook for name in HOOKS for hook in own[name].values()}
        kept = [value for value in own.values() if isinstance(value, Tensor) and not value.is_leaf]  # by a hook
        shared |= {id(value): value.detach() for value in kept}
    model, head = deepcopy(backbone.model, shared), deepcopy(backbone.head)
    tensors = [
        tensor
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]
        if name.startswith(backbone.visual)
        and (isinstance(tensor, nn.Parameter) or name.rpartition(".")[2] in NORM_BUFFERS)
    ]
    generator = torch.Generator("cpu").manual_seed(seed)
    with torch.no_grad():
        for tensor in [*tensors, *(head.parameters() if head else ())]:
            order = torch.randperm(tensor.numel(), generator=generator, device="cpu").to(tensor.device)
            tensor.copy_(tensor.flatten()[order].view_as(tensor))
    colors = {"mean": backbone.mean, "std": backbone.std, "interpolation": backbone.interpolation}
    made = wrap(model, tokenizer=backbone.tokenize, name=f"{backbone.name} shuffled", **colors)  # type: ignore[arg-type]
    return replace(made, head=head)


def _rhos(mine: Float[np.ndarray, "row col"], asides: Sequence[Sequence[Any]]) -> dict[str, Any]:
    """Rank correlations of a map with the maps of each kind: mean absolute values, means, and whether one is flat."""
    rhos = [np.array([rank_correlation(mine, each) for each in some]) for some in asides]
    means = [known_mean(np.abs(some)) for some in rhos] + [known_mean(some) for some in rhos]
    return {"values": means, "flat": any(np.isnan(some).any() for some in rhos)}


def _coarse(maps: Tensor, grid: tuple[int, int]) -> list[Float[np.ndarray, "row col"]]:
    """Maps on the patch grid, averaging those that a refinement made on pixels; none if an image shows no class."""
    return list(mean_over_cells(maps, grid).numpy()) if len(maps) else []


def _absent(shown: Sequence[int], count: int) -> list[int]:
    """For each class that is shown, the next of `count` that is not, cyclically; none if all are shown."""
    free = [place for place in range(count) if place not in shown]
    return [next((place for place in free if place > one), free[0]) for one in shown] if free else []
