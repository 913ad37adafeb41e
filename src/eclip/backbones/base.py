"""Backbone, the one view of every image-text model; Encoding, one image encoded once; encode, the one forward pass.

A Backbone is a record of functions over the weights of a model that stays as it is. `encode` walks the image tower
block by block with the host's own fused attention and keeps what methods need; every method is then a pure function of
that Encoding and the texts.
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

from eclip.backbones.agreement import Agreed, check_blocks, check_state, check_tokens, check_tower
from eclip.backbones.colors import to_pixels
from eclip.backbones.host import alone, modules_of, named_weights
from eclip.backbones.remembered import remembered
from eclip.backbones.state import State, image_state
from eclip.backbones.text_tower import TextTower
from eclip.blocks import Block, Fn, Tokens, unit
from eclip.choices import DEFAULT_POSITIONS as DEFAULT_POSITIONS
from eclip.choices import POSITIONS, RESIZES
from eclip.errors import KeepError, OptionError, ShapeError
from eclip.templates import TEMPLATES, fill

Positions = str


class Grid(NamedTuple):
    """How many patches an image has, down and across."""

    row: int
    col: int


@dataclass(frozen=True, eq=False)
class Backbone:
    """An image-text model, seen as functions over its own weights. Nothing here changes the model.

    Attributes:
        name: what the user called it, e.g. "mini" or "ViT-B-16/openai".
        family: which adapter reads it, in words, e.g. "native ViT".
        model: the host model itself.
        native: the patch grid of its training size.
        patch_size: side of a patch in pixels; for a CNN, the trunk's total stride.
        prefix: tokens before the patches: 1 (CLS, or the mean token of an attention pool) or 0 (SigLIP).
        mean: of each color channel, in [0, 1].
        std: of each color channel.
        interpolation: "bicubic" or "bilinear", how photos are resized.
        embed: (pixels, grid, positions) -> tokens entering block 0, and a CNN's last feature map or None.
        blocks_at: (grid, positions) -> the blocks for that grid.
        project: (..., channel) -> (..., feature): final norm and projection, each token on its own.
        pool: last tokens -> image feature, not normalized.
        tokenize: texts -> token ids.
        encode_tokens: token ids -> text features, not normalized.
        encode_pixels: pixels on the native grid -> image features, the host's own call, which `encode` is held against.
        rewrap: another model of the same kind -> its Backbone, wrapped as this one was.
        pooling: how tokens become the feature: "token" (the first token of the last block: CLS, or a pool's mean
            token), "average" (of the patches) or "latent" (a MAP head's learned query).
        final_norm: (..., channel) -> the norm between the gathered row and `to_feature`; None where there is none.
        to_feature: (..., channel) -> (..., feature), from the gathered and normed row.
        latent: a MAP head as a block whose one query is learned; else None.
        bare: (..., channel) -> final norm alone, for towers whose head does more (MAP); else None.
        text_tower: the text side block by block; None where its kind is unknown, which only methods for words mind.
        visual: how the names of the image side's weights start, one beginning or several.
        head: an `EclipHead`, for the method "eclip" alone; see `eclip.with_head`.
        memo: what `backbones.remembered` remembers.
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
    final_norm: Fn | None = None
    latent: Block | None = None
    bare: Fn | None = None
    text_tower: TextTower | None = None
    visual: str | tuple[str, ...] = "visual."
    head: nn.Module | None = None
    memo: dict[str, Tensor] = field(default_factory=dict, repr=False)
    agreed: Agreed = field(default_factory=dict, repr=False)

    def __copy__(self) -> Backbone:
        return replace(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> Backbone:
        """A Backbone of a copy of the model, with a copy of the head; the tokenizer is shared."""
        own = self.rewrap(copy.deepcopy(self.model, memo))
        memo[id(self)] = copied = replace(own, name=self.name, head=copy.deepcopy(self.head, memo))
        return copied

    @property
    def image_size(self) -> int:
        """Height in pixels of the training size; its width too, for all but a few models."""
        return self.native.row * self.patch_size

    @property
    def logit_scale(self) -> float:
        """Factor from cosine to logit, as the model has it now."""
        scale: Any = self.model.logit_scale
        return float(scale.detach().exp())

    @property
    def blocks(self) -> tuple[Block, ...]:
        """The blocks for the native grid."""
        return self.blocks_at(self.native, DEFAULT_POSITIONS)

    @property
    def weight(self) -> Tensor:
        """The first convolution of the image tower, whose device and precision the pixels must have.

        Other weights may differ in precision. SigLIP 2 NaFlex has no convolution: there, its first matrix.
        """
        matrix = None
        for name, weight in named_weights(self.model):
            if name.startswith(self.visual) and weight.is_floating_point():
                if weight.ndim == 4:
                    return weight
                matrix = weight if matrix is None and weight.ndim == 2 else matrix
        assert matrix is not None, f"{self.name} has no weights whose names start with {self.visual}"
        return matrix

    def preprocess(
        self, image: Image.Image, image_size: int | None = None, resize: str = "squash"
    ) -> Float[Tensor, "3 height width"]:
        """Resize a whole photo, nothing cropped, and normalize its colors as the model was trained.

        Args:
            image: photo of any mode; it is read as RGB.
            image_size: side in pixels, a multiple of `patch_size`; None = the training size.
            resize: "squash" fills the square; "keep" keeps the aspect ratio, on a grid of about as many patches.

        Raises:
            OptionError: the size is no multiple of the patch, or the resize is unknown.
        """
        grid = self.grid_for(image.size, image_size, resize)
        size = (grid.row * self.patch_size, grid.col * self.patch_size)
        return to_pixels(image, size, self.mean, self.std, self.interpolation)

    def grid_for(self, size: tuple[int, int], image_size: int | None = None, resize: str = "squash") -> Grid:
        """The patch grid of a photo of (width, height) pixels after `preprocess`."""
        if resize not in RESIZES:
            raise OptionError(f"resize must be one of {', '.join(RESIZES)}, got {resize!r}.")
        native = self.native
        if image_size is not None:
            if not isinstance(image_size, int):
                raise OptionError(f"image_size must be a whole number of pixels, got {image_size!r}.")
            if image_size < self.patch_size or image_size % self.patch_size:
                near = max(1, round(image_size / self.patch_size)) * self.patch_size
                raise OptionError(
                    f"image_size must be a multiple of the patch size {self.patch_size} of {self.name}, got "
                    f"{image_size}. The nearest is {near}."
                )
            native = Grid(image_size // self.patch_size, image_size // self.patch_size)
        if resize == "squash":
            return native
        patches = native.row * native.col
        aspect = size[1] / size[0]  # height / width
        row = min(max(1, round(math.sqrt(patches * aspect))), patches)
        col = min(max(1, round(math.sqrt(patches / aspect))), patches)
        return Grid(row, col)

    def encode_text(self, texts: Sequence[str]) -> Float[Tensor, "text feature"]:
        """Text features as the model gives them, not normalized, no template."""
        with plainly(self.model):
            return self.encode_tokens(self.tokenize(list(texts)).to(self.weight.device))

    @property
    def empty_text(self) -> Float[Tensor, " feature"]:
        """The backbone's text without content: mean of the 85 unit prompts of CLIP Surgery around "", unit length.

        Computed once, and again when the weights of the text side have changed or moved.
        """

        def make() -> Tensor:
            prompts = [fill(template, "") for template in TEMPLATES["surgery85"]]
            return unit(unit(self.encode_text(prompts)).mean(dim=0))

        return remembered(self, "the empty text", make)


@dataclass(frozen=True, eq=False)
class Encoding:
    """Images encoded once; methods ask it as often as they like.

    Attributes:
        backbone: who encoded.
        pixels: (image, 3, height, width), as preprocessed.
        inputs: what entered each of the kept last blocks, first kept block first; each (image, token, channel).
        tokens: output of the last block (image, token, output), before `backbone.project`. In an attention pool every
            token has been a query, and `output` is the feature size already.
        feature: (image, feature), not normalized; equals the model's own `encode_image`.
        trunk: a CNN's last feature map (image, depth, row, col), else None.
        grid: patches down and across.
        prefix: tokens before the patches.
        positions: how position embeddings were resized.
        blocks: all blocks, for this grid.
        state: of the model's weights and modules when it encoded, see `backbones.agreement`.
    """

    backbone: Backbone
    pixels: Float[Tensor, "image 3 height width"]
    inputs: tuple[Tokens, ...]
    tokens: Float[Tensor, "image token output"]
    feature: Float[Tensor, "image feature"]
    trunk: Float[Tensor, "image depth row col"] | None
    grid: Grid
    prefix: int
    positions: Positions
    blocks: tuple[Block, ...]
    state: State = field(default=(), repr=False)

    def __deepcopy__(self, memo: dict[int, Any]) -> Encoding:
        """Of a copy of the Backbone, whose blocks are those of the copied model."""
        self.check_current()
        backbone = copy.deepcopy(self.backbone, memo)
        copied = {name: copy.deepcopy(getattr(self, name), memo) for name in ("pixels", "inputs", "tokens", "feature")}
        trunk, state = copy.deepcopy(self.trunk, memo), image_state(backbone)
        blocks = backbone.blocks_at(self.grid, self.positions)
        return replace(self, backbone=backbone, trunk=trunk, state=state, blocks=blocks, **copied)

    def check_current(self) -> None:
        """The model is as it was when it encoded.

        Raises:
            StaleEncodingError: it has changed since.
        """
        if self.state:
            check_state(self.backbone, self.state)

    def tail(self, count: int | None, method: str) -> list[tuple[Block, Tokens]]:
        """The last `count` blocks with their inputs, fewer if the tower is shallower; None = all.

        Raises:
            KeepError: the encoding kept fewer.
            StaleEncodingError: the model has changed since it encoded.
            AlteredModelError: a block computes something else than its weights say.
        """
        depth = len(self.blocks)
        needed = depth if count is None else min(count, depth)
        if needed > len(self.inputs):
            raise KeepError(
                f"{method!r} reruns the last {needed} of {depth} blocks, but this encoding kept {len(self.inputs)}: "
                f"encode(..., keep={needed}), or keep=None for all."
            )
        if needed == 0:
            return []
        check_blocks(self.backbone, self.state, self.blocks, self.inputs[-needed:], self.tokens)
        return list(zip(self.blocks[-needed:], self.inputs[-needed:], strict=True))

    def only(self, image: int) -> Encoding:
        """The same of one image."""
        one = slice(image, image + 1)
        return replace(
            self,
            pixels=self.pixels[one],
            inputs=tuple(x[one] for x in self.inputs),
            tokens=self.tokens[one],
            feature=self.feature[one],
            trunk=None if self.trunk is None else self.trunk[one],
        )

    def on_grid(self, rows: Float[Tensor, "image patch text"]) -> Float[Tensor, "image text row col"]:
        """Lay one value a patch and text on the patch grid."""
        return rows.transpose(1, 2).unflatten(2, self.grid)


def encode(
    backbone: Backbone,
    pixels: Float[Tensor, "image 3 height width"],
    keep: int | None = None,
    positions: Positions = DEFAULT_POSITIONS,
) -> Encoding:
    """Run the image tower once, with the model's own attention, under no_grad and in evaluation mode.

    Args:
        backbone: from `load` or `wrap`.
        pixels: as `backbone.preprocess` gives them; any height and width that are multiples of the patch. They are
            moved to the model's device and precision.
        keep: how many last blocks can be rerun (0 to depth; a larger number keeps all); None = all.
        positions: how position embeddings are resized off the training grid: "bicubic_aa" (with antialias; open_clip,
            timm, LeGrad), "bicubic" (Grad-ECLIP, MaskCLIP), "bilinear" (CLIP Surgery), "bicubic_plus01" (scale factor
            (grid + 0.1) / native; DINO, SCLIP, NACLIP, ClearCLIP).

    Raises:
        ShapeError: pixels are not (image, 3, height, width), or a side is no multiple of the patch.
        OptionError: keep is negative or positions is unknown.
        AlteredModelError: the host's own pass gives another feature, as with a hook on its image tower.
    """
    if keep is not None and keep < 0:
        raise OptionError(f"keep must be None or at least 0, got {keep}.")
    if positions not in POSITIONS:
        raise OptionError(f"positions must be one of {', '.join(POSITIONS)}, got {positions!r}.")
    grid = _grid_of(backbone, pixels)
    pixels = pixels.to(device=backbone.weight.device, dtype=backbone.weight.dtype)
    with plainly(backbone.model):
        state = check_tower(backbone, pixels)
        x, trunk = backbone.embed(pixels, grid, positions)
        blocks = backbone.blocks_at(grid, positions)
        first = 0 if keep is None else max(0, len(blocks) - keep)
        inputs = []
        for index, block in enumerate(blocks):
            if index >= first:
                inputs.append(x)
            x = block.forward(x)
        check_tokens(backbone, blocks, x, backbone.prefix + grid.row * grid.col)
        feature = backbone.pool(x)
    return Encoding(backbone, pixels, tuple(inputs), x, feature, trunk, grid, backbone.prefix, positions, blocks, state)


def _grid_of(backbone: Backbone, pixels: Tensor) -> Grid:
    shape, patch = tuple(pixels.shape), backbone.patch_size
    if len(shape) != 4 or shape[1] != 3 or not pixels.is_floating_point():
        raise ShapeError(
            f"pixels must be floating point and (image, 3, height, width), got {pixels.dtype} {shape}: "
            "torch.stack([backbone.preprocess(photo), ...]) makes them."
        )
    if shape[0] == 0 or shape[2] == 0 or shape[3] == 0 or shape[2] % patch or shape[3] % patch:
        raise ShapeError(
            f"height and width must be multiples of the patch size {patch} of {backbone.name}, with one image or "
            f"more, got {shape}: backbone.preprocess resizes a photo so."
        )
    return Grid(shape[2] // patch, shape[3] // patch)


@contextlib.contextmanager
def plainly(model: nn.Module) -> Iterator[None]:
    """Evaluation mode and ordinary tensors without gradients for the time of the block, whatever surrounds it.

    Every module's own mode is restored. Autocast and inference mode rest: they change values or forbid gradients.
    """
    modules = [module for _, module in modules_of(model)]
    with alone(modules):
        training = [module for module in modules if module.training]
        device = next(named_weights(model))[1].device.type
        try:
            for module in training:
                module.training = False
            with torch.inference_mode(False), torch.no_grad(), torch.autocast(device, enabled=False):
                yield
        finally:
            for module in training:
                module.training = True
