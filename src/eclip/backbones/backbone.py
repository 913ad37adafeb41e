"""Backbone, the common view of every image-text model: functions over the weights of a model that is never changed."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, SupportsIndex

import torch
from jaxtyping import Float
from torch import Tensor, nn

from eclip.backbones.agreement import Agreed
from eclip.backbones.blocks import Block, Fn
from eclip.backbones.choices import DEFAULT_POSITIONS as DEFAULT_POSITIONS
from eclip.backbones.eval_no_grad import eval_no_grad as eval_no_grad
from eclip.backbones.fitting import Fitting
from eclip.backbones.fitting import Grid as Grid
from eclip.backbones.host import named_weights
from eclip.backbones.preprocess import Preprocess
from eclip.backbones.state import State, whole_state
from eclip.backbones.text_tower import TextTower
from eclip.errors import LOAD_WHOLE, ModelError, TextError

Positions = str
IN_A_WORKER = (
    "Send a worker process only backbone.preprocess and backbone.tokenize, which can be pickled, or send the model and "
    "call eclip.wrap(model, tokenizer=..., mean=..., std=...) there."
)
"""What to do with a Backbone that does not pickle."""


def no_recipe(backbone: Backbone) -> tuple[Any, ...]:
    """Refuse to pickle a Backbone that `load` did not create.

    Raises:
        ModelError: always.
    """
    raise ModelError(
        f"{backbone.name}, a Backbone from eclip.wrap, consists of functions over your model and cannot be pickled. "
        f"{IN_A_WORKER}"
    )


@dataclass(frozen=True, eq=False, repr=False)
class Backbone:
    """An image-text model, seen as functions over its own weights. Nothing here changes the model.

    Attributes:
        name: as the user gave it, e.g. "mini" or "ViT-B-16/openai".
        family: which adapter reads it, in words, e.g. "native ViT".
        model: the host model itself.
        native: the patch grid at its training size.
        patch_size: side of a patch in pixels; for a CNN, the trunk's total stride.
        prefix: number of tokens before the patches: 1 (CLS, or the mean token of an attention pool) or 0 (SigLIP).
        mean: of each color channel, in [0, 1].
        std: of each color channel.
        interpolation: "bicubic" or "bilinear", how images are resized.
        embed: (pixels, grid, positions) -> tokens entering block 0, and a CNN's last feature map or None.
        blocks_at: (grid, positions) -> the blocks for that grid.
        project: (..., channel) -> (..., feature): final norm and projection, each token independently.
        pool: last tokens -> image feature, not normalized.
        tokenize: texts -> token ids.
        encode_tokens: token ids -> text features, not normalized.
        encode_pixels: pixels on the native grid -> image features, the host's own call; `encode` is checked by it.
        rewrap: another model of the same kind -> its Backbone, wrapped as this one was.
        pooling: how tokens become the feature: "token" (the first token of the last block: CLS, or a pool's mean
            token), "average" (of the patches) or "latent" (a MAP head's learned query).
        norm: () -> `final_norm`, read from the model each time, since a user may replace it.
        to_feature: (..., channel) -> (..., feature), from the gathered and normalized row.
        latent: a MAP head as a block whose one query is learned; else None.
        bare: (..., channel) -> only the final norm, for towers whose head does more (MAP); else None.
        text_tower: the text side block by block; None if its kind is unknown, which matters only to word methods.
        visual: prefix or prefixes of the names of the image side's weights.
        head: an `EclipHead`, used only by the method "eclip"; see `eclip.with_head`.
        levels: by method, the threshold of heat maps that made the best masks with this model, in [0, 1]; a model
            without such a measurement has none, and Otsu's threshold of each map is used.
        measured: fingerprint of model and head for which the levels hold, see `backbones.state`; () = whatever it is.
        recipe: how pickle recreates this Backbone; set by `load`.
        memo: what `backbones.cached` stores.
        agreed: what `backbones.agreement` has checked.
    """

    name: str
    family: str
    model: nn.Module
    native: Grid
    patch_size: int
    prefix: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    embed: Callable[[Tensor, Grid, Positions], tuple[Tensor, Tensor | None]]
    blocks_at: Callable[[Grid, Positions], tuple[Block, ...]]
    project: Fn
    pool: Fn
    tokenize: Callable[[list[str]], Tensor]
    encode_tokens: Fn
    encode_pixels: Fn
    rewrap: Callable[[nn.Module], Backbone]
    to_feature: Fn
    pooling: str = "token"
    norm: Callable[[], Fn | None] = lambda: None
    latent: Block | None = None
    bare: Fn | None = None
    text_tower: TextTower | None = None
    visual: str | tuple[str, ...] = "visual."
    head: nn.Module | None = None
    levels: dict[str, float] = field(default_factory=dict, repr=False)
    measured: State = field(default=(), repr=False)
    recipe: Callable[[Backbone], tuple[Any, ...]] = no_recipe
    memo: dict[tuple[Any, ...], Tensor] = field(default_factory=dict, repr=False)
    agreed: Agreed = field(default_factory=dict, repr=False)

    def __copy__(self) -> Backbone:
        return replace(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> Backbone:
        """A Backbone of a copy of the model, with a copy of the head; the tokenizer is shared."""
        own = self.rewrap(copy.deepcopy(self.model, memo))
        copied = replace(own, name=self.name, head=copy.deepcopy(self.head, memo))
        memo[id(self)] = copied = copied.with_levels(self.levels) if self.holds else copied
        return copied

    def __repr__(self) -> str:
        rows, cols = self.native
        head = "" if self.head is None else ", with a head"
        return (
            f"Backbone({self.name!r}, {self.family}, {rows} x {cols} patches of {self.patch_size} px, "
            f"{str(self._first.dtype).removeprefix('torch.')} on {self._first.device}{head})"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        """A Backbone from `load` is loaded again by name; others cannot be pickled."""
        return self.recipe(self)

    def with_levels(self, levels: dict[str, float]) -> Backbone:
        """The same Backbone with these levels, which hold until its model or head is changed."""
        return replace(self, levels=levels, measured=whole_state(self))

    @property
    def holds(self) -> bool:
        """Whether `levels` are those of model and head as they are: not trained further, adapted or hooked."""
        return not self.measured or self.measured == whole_state(self)

    @property
    def final_norm(self) -> Fn | None:
        """(..., channel) -> the norm between the gathered row and `to_feature`; None if there is none."""
        return self.norm()

    @property
    def image_size(self) -> int:
        """Height in pixels of the training size; also its width, for all but a few models."""
        return self.native.row * self.patch_size

    @property
    def logit_scale(self) -> float:
        """Current factor from cosine to logit."""
        scale: Any = self.model.logit_scale
        return float(scale.detach().exp())

    @cached_property
    def feature_size(self) -> int:
        """Number of values of an image or text feature; found by encoding one text."""
        return int(self.encode_text(["a"]).shape[1])

    @property
    def blocks(self) -> tuple[Block, ...]:
        """The blocks for the native grid."""
        return self.blocks_at(self.native, DEFAULT_POSITIONS)

    def blank(self) -> Float[Tensor, "1 3 height width"]:
        """Pixels of the mean color, that is, zeros, at the training size."""
        size = [side * self.patch_size for side in self.native]
        return torch.zeros(1, 3, *size, dtype=torch.float32, device="cpu")

    @property
    def weight(self) -> Tensor:
        """The first convolution of the image tower, whose device and precision the pixels must have.

        Other weights may differ in precision. SigLIP 2 NaFlex has no convolution; its first matrix is returned.

        Raises:
            ModelError: the model has no values, because it was moved to the device "meta".
        """
        weight = self._first
        if weight.is_meta:
            raise ModelError(f"the weights of {self.name} are on the device 'meta' and have no values: {LOAD_WHOLE}.")
        return weight

    @property
    def _first(self) -> Tensor:
        matrix = None
        for name, weight in named_weights(self.model):
            if name.startswith(self.visual) and weight.is_floating_point():
                if weight.ndim == 4:
                    return weight
                matrix = weight if matrix is None and weight.ndim == 2 else matrix
        assert matrix is not None, f"{self.name} has no weights whose names start with {self.visual}"
        return matrix

    @property
    def preprocess(self) -> Preprocess:
        """An image to pixels (3, height, width): `backbone.preprocess(image, image_size=None, resize="squash")`.

        See `Preprocess`. It pickles without the model, so it serves as the transform of a data set in worker processes.
        """
        return Preprocess(self.name, self.native, self.patch_size, self.interpolation, self.mean, self.std)

    @property
    def fitting(self) -> Fitting:
        """The part of `preprocess` that needs no torch: an image to an array in the model's size."""
        return Fitting(self.name, self.native, self.patch_size, self.interpolation)

    def grid_for(self, size: tuple[int, int], image_size: SupportsIndex | None = None, resize: str = "squash") -> Grid:
        """The patch grid of an image of (width, height) pixels after `preprocess`."""
        return self.preprocess.grid_for(size, image_size, resize)

    def encode_text(self, texts: Sequence[str]) -> Float[Tensor, "text feature"]:
        """The model's own text features, not normalized, without a template.

        Raises:
            TextError: no text, a single text that is not in a list, or what is no text.
            ModelError: a feature is not finite.
        """
        if isinstance(texts, str):
            raise TextError(f"texts must be a list of texts, got the single text {texts!r}: write [{texts!r}].")
        texts = list(texts)
        if not texts or not all(isinstance(one, str) for one in texts):
            raise TextError(f"texts must be a list of one text or more, got {texts!r}.")
        with eval_no_grad(self.model):
            features = self.encode_tokens(self.tokenize(texts).to(self.weight.device))
        if not bool(features.isfinite().all()):
            why = "float16 may overflow; use float32 or bfloat16"
            raise ModelError(f"a text feature of {self.name} contains NaN or infinity: {why}.")
        return features
