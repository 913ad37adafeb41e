"""Encoding, images encoded once, and `encode`, the single forward pass that creates it.

`encode` runs the image tower block by block with the host's own fused attention and keeps what methods need; every
method is then a pure function of that Encoding and the texts.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, SupportsIndex

import torch
from jaxtyping import Float
from torch import Tensor

from eclip.backbones.agreement import agrees, check_blocks, check_tokens, check_tower
from eclip.backbones.backbone import Backbone, Positions
from eclip.backbones.blocks import Block, Heads, Tokens, finish, finish_both, finish_mean, mix, run_first
from eclip.backbones.choices import DEFAULT_POSITIONS, POSITIONS
from eclip.backbones.eval_no_grad import eval_no_grad
from eclip.backbones.gradients import gradients
from eclip.backbones.preprocess import Grid
from eclip.backbones.state import State, image_state
from eclip.errors import AlteredModelError, GradientError, KeepError, NotApplicableError, ShapeError, StaleEncodingError
from eclip.registry import check_kind, one_of, whole

WALKED = 6
"""How many last blocks run step by step. Those that are kept keep queries, keys and values, which take three times
the memory of their input; methods that rerun more blocks rerun all of them."""


@dataclass(frozen=True, eq=False, repr=False)
class Encoding:
    """Images encoded once, for any number of methods.

    Attributes:
        backbone: the model that encoded them.
        pixels: (image, 3, height, width), as preprocessed.
        inputs: inputs of the kept last blocks, first kept block first; each (image, token, channel).
        last: output of the last block, see `tokens`; None where only the feature was computed so far.
        entry: input of the last block; None in a tower without blocks.
        feature: (image, feature), not normalized; equals the model's own `encode_image`.
        trunk: last feature map (image, depth, row, col) of a CNN or a Swin, else None.
        grid: patches down and across.
        prefix: number of tokens before the patches.
        positions: how position embeddings were resized.
        blocks: all blocks, for this grid.
        state: fingerprint of the model's weights and modules at encoding time, see `backbones.agreement`.
        memo: what `once` keeps.
    """

    backbone: Backbone
    pixels: Float[Tensor, "image 3 height width"]
    inputs: tuple[Tokens, ...]
    last: Float[Tensor, "image token output"] | None
    entry: Tokens | None
    feature: Float[Tensor, "image feature"]
    trunk: Float[Tensor, "image depth row col"] | None
    grid: Grid
    prefix: int
    positions: Positions
    blocks: tuple[Block, ...]
    state: State = ()
    memo: dict[Hashable, Any] = field(default_factory=dict)

    def __deepcopy__(self, memo: dict[int, Any]) -> Encoding:
        """An Encoding by a copy of the Backbone, with the blocks of the copied model."""
        self.check_current()
        backbone = copy.deepcopy(self.backbone, memo)
        names = ("pixels", "inputs", "last", "entry", "feature", "trunk")
        copied = {name: copy.deepcopy(getattr(self, name), memo) for name in names}
        blocks = backbone.blocks_at(self.grid, self.positions)
        return replace(self, backbone=backbone, state=image_state(backbone), blocks=blocks, memo={}, **copied)

    @cached_property
    def tokens(self) -> Float[Tensor, "image token output"]:
        """Output of the last block, before `backbone.project`.

        In an attention pool every token is a query, and `output` is already the feature size. Where the first token
        becomes the feature, `encode` computes only that one, and all are computed here, when they are first needed.
        """
        if self.last is not None:
            return self.last
        assert self.entry is not None, "a tower without blocks has its last tokens"
        self.check_current()
        with eval_no_grad(self.backbone.model):
            return self.blocks[-1].forward(self.entry)

    def check_current(self) -> None:
        """Check that the model has not changed since it encoded.

        Raises:
            StaleEncodingError: weights or modules of the image side have changed.
        """
        if self.state and image_state(self.backbone) != self.state:
            raise StaleEncodingError(
                f"the weights or modules of {self.backbone.name} have changed since this encoding was made: encode the "
                "image again, so that maps and scores come from the same model."
            )

    def __repr__(self) -> str:
        rows, cols = self.grid
        return (
            f"Encoding({len(self.pixels)} images, {rows} x {cols} patches, the last {len(self.inputs)} of "
            f"{len(self.blocks)} blocks kept, {self.backbone!r})"
        )

    def tail(self, count: int | None, method: str) -> list[tuple[Block, Tokens]]:
        """The last `count` blocks with their inputs, fewer if the tower is shallower; None = all.

        Raises:
            NotApplicableError: the tower, a CNN without attention pooling or a Swin, has no block.
            KeepError: the encoding kept fewer.
            AlteredModelError: a block does not compute what its weights say.
        """
        depth = len(self.blocks)
        if not depth and count != 0:
            name, family = self.backbone.name, self.backbone.family
            why = (
                "it needs the attention of a block over all patches, and this tower has none; gradcam, itsm and "
                "perturbation methods do not"
            )
            raise NotApplicableError(method, name, family, why)
        needed = depth if count is None else min(count, depth)
        if needed > len(self.inputs):
            raise KeepError(
                f"{method!r} reruns the last {needed} of {depth} blocks, but this encoding kept {len(self.inputs)}: "
                f"call encode(..., keep={needed}), or keep=None for all."
            )
        if needed == 0:
            return []
        check_blocks(self.backbone, self.state, self.blocks, self.inputs[-needed:], lambda: self.tokens)
        return list(zip(self.blocks[-needed:], self.inputs[-needed:], strict=True))

    def only(self, image: int) -> Encoding:
        """The Encoding of one of the images, by number; -1 is the last, as in a list."""
        place = range(len(self.pixels))[image]
        one = slice(place, place + 1)
        known = self.last is not None or "tokens" in self.__dict__
        return replace(
            self,
            pixels=self.pixels[one],
            inputs=tuple(x[one] for x in self.inputs),
            memo={},
            last=self.tokens[one] if known else None,
            entry=None if self.entry is None else self.entry[one],
            feature=self.feature[one],
            trunk=None if self.trunk is None else self.trunk[one],
        )

    def once(self, key: Hashable, make: Callable[[], Tensor]) -> Tensor:
        """The result of `make` under this key, computed once, so that health checks and further texts cost little.

        Only for what depends on nothing but the images and the weights of the image side, which `check_current` guards:
        not on texts, nor on a head. Where autograd may record a graph, it is computed each time.
        """
        if torch.is_grad_enabled():
            return make()
        if key not in self.memo:
            self.memo[key] = make()
        return self.memo[key]

    def qkv(self, block: Block, x: Tokens) -> tuple[Float[Tensor, "image head query width"], Heads, Heads]:
        """Queries, keys and values of a block for its input; those of the last blocks may be known from `encode`."""
        known = self._known(block, x)
        return block.qkv(block.norm1(x)) if known is None else known

    def value(self, block: Block, x: Tokens) -> Heads:
        """As `Block.value` for the block's input; that of the last blocks may be known from `encode`."""
        known = self._known(block, x) if block.residual else None  # a pool's values would have positions
        return block.value(block.norm1(x)) if known is None else known[2]

    def mean_output(self, block: Block, x: Tokens, qkv: tuple[Heads, Heads, Heads]) -> tuple[Heads, Tensor]:
        """The values that a block's queries gather, and the mean of its output tokens (image, output) in their graph.

        Call it inside `gradients`; that of the last blocks may be known from `encode`.
        """
        with torch.no_grad():
            if self._known(block, x) is not None and (block, "mean") in self.memo:
                known: tuple[Heads, Tensor] = self.memo[block, "mean"]
                return known
            mixed = mix(block, *qkv)
        return mixed.requires_grad_(), finish_mean(block, x, mixed)

    def _known(self, block: Block, x: Tokens) -> tuple[Heads, Heads, Heads] | None:
        own = any(x is one and block is known for one, known in zip(self.inputs[::-1], self.blocks[::-1], strict=False))
        return self.memo.get(block) if own and not torch.is_grad_enabled() else None

    def on_grid(self, rows: Float[Tensor, "image patch text"]) -> Float[Tensor, "image text row col"]:
        """Arrange one value per patch and text on the patch grid."""
        return rows.transpose(1, 2).unflatten(2, self.grid)


def encode(
    backbone: Backbone,
    pixels: Float[Tensor, "image 3 height width"],
    keep: SupportsIndex | None = None,
    positions: Positions = DEFAULT_POSITIONS,
    graph: SupportsIndex | None = 0,
) -> Encoding:
    """Run the image tower once, with the model's own attention, under no_grad and in evaluation mode.

    Args:
        backbone: from `load` or `wrap`.
        pixels: as from `backbone.preprocess`; any height and width that are multiples of the patch. They are
            moved to the model's device and precision.
        keep: how many last blocks can be rerun (0 to depth; a larger number keeps all); None = all.
        positions: how position embeddings are resized off the training grid: "bicubic_aa" (with antialias; open_clip,
            timm, LeGrad), "bicubic" (Grad-ECLIP, MaskCLIP), "bilinear" (CLIP Surgery), "bicubic_plus01" (scale factor
            (grid + 0.1) / native; DINO, SCLIP, NACLIP, ClearCLIP).
        graph: how many of these blocks keep an autograd graph of their MLP, 6 to 11 times the memory of their input, so
            that `legrad` does not run it again; None = all. Only the last six can, in float32; not the block that
            computes a single row, the last one of a ViT with CLS; and none below a MAP head, where `legrad` differs.
            No value depends on it.

    Raises:
        ShapeError: pixels are not (image, 3, height, width), or a side is not a multiple of the patch.
        OptionError: an argument has the wrong type, keep or graph is negative, or positions is unknown.
        AlteredModelError: the host's own forward pass gives a different feature, for example because of a hook.
    """
    check_kind(backbone, Backbone, "backbone", "eclip.load returns it")
    check_kind(pixels, Tensor, "pixels", "backbone.preprocess returns it")
    keep = None if keep is None else whole(keep, "keep", "None or a whole number", least=0)
    graph = keep if graph is None else whole(graph, "graph", "None or a whole number", least=0)
    one_of(positions, "positions", POSITIONS)
    grid = _grid_of(backbone, pixels)
    pixels = pixels.to(device=backbone.weight.device, dtype=backbone.weight.dtype)
    with eval_no_grad(backbone.model):
        state = check_tower(backbone, pixels)
        x, trunk = backbone.embed(pixels, grid, positions)
        blocks = backbone.blocks_at(grid, positions)
        first = 0 if keep is None else max(0, len(blocks) - keep)
        graphs = max(first, 0 if graph is None else len(blocks) - graph)
        graphs = len(blocks) if backbone.pooling == "latent" else graphs  # nothing would read them
        walked = len(blocks) - WALKED  # whatever `keep` is, so that the bits do not depend on it
        inputs, entry, row, memo = [], None, None, dict[Hashable, Any]()
        for index, block in enumerate(blocks):
            entry = x
            if index >= first:
                inputs.append(x)
            lone = index + 1 == len(blocks) and backbone.pooling == "token"  # one row becomes the feature
            if lone and block.first is not None:
                row = block.first(x)
            elif (lone or index >= walked) and _walks(backbone, state, blocks, index, x):
                heads = block.qkv(block.norm1(x))
                if index >= max(first, walked):
                    memo[block] = heads
                if lone:
                    row = run_first(block, x, *heads)
                    continue
                mixed = mix(block, *heads)
                both = _finish_both(backbone, block, x, mixed) if index >= max(graphs, walked) else None
                if both is None:
                    x = finish(block, x, mixed)
                else:
                    x, memo[block, "mean"] = both[0], (mixed, both[1])
            else:
                x = block.forward(x)
        check_tokens(backbone, blocks, x, backbone.prefix + grid.row * grid.col)
        feature = backbone.pool(x if row is None else row)
    return Encoding(
        backbone=backbone,
        pixels=pixels,
        inputs=tuple(inputs),
        last=x if row is None else None,
        entry=entry,
        feature=feature,
        trunk=trunk,
        grid=grid,
        prefix=backbone.prefix,
        positions=positions,
        blocks=blocks,
        state=state,
        memo=memo,
    )


def encode_with_graph(encoding: Encoding, pixels: Float[Tensor, "image 3 height width"]) -> Encoding:
    """Images of the same grid, encoded with a graph to their pixels, for attacks; call it inside `gradients`.

    Args:
        encoding: of other pixels by the same model; what it checked holds here too. As many blocks are kept.
        pixels: preprocessed, of the model's device and precision.
    """
    backbone, inputs = encoding.backbone, []
    x, trunk = backbone.embed(pixels, encoding.grid, encoding.positions)
    for block in encoding.blocks:
        inputs.append(x)
        x = block.forward(x)
    kept = tuple(inputs[len(inputs) - len(encoding.inputs) :])
    return replace(
        encoding,
        pixels=pixels,
        inputs=kept,
        last=x,
        entry=inputs[-1] if inputs else None,
        feature=backbone.pool(x),
        trunk=trunk,
        memo={},
    )


def _finish_both(backbone: Backbone, block: Block, x: Tokens, mixed: Heads) -> tuple[Tokens, Tensor] | None:
    """As `finish_both`, from the values gathered; None if the graph is refused, which is for the method to say."""
    try:
        with gradients(backbone):
            return finish_both(block, x, mixed.requires_grad_())
    except (AlteredModelError, GradientError):
        return None


def _walks(backbone: Backbone, state: State, blocks: tuple[Block, ...], index: int, x: Tokens) -> bool:
    """Whether a block may run step by step, so that its queries, keys and values serve the methods too.

    In float32 only: in half precision the rounding would be another one than the host's, visibly; in float64 the host's
    may be coarser.
    """
    exact = x.dtype == torch.float32 and not torch.is_autocast_enabled(x.device.type)
    return exact and agrees(backbone, state, blocks, index, x)


def _grid_of(backbone: Backbone, pixels: Tensor) -> Grid:
    shape, patch = tuple(pixels.shape), backbone.patch_size
    if len(shape) != 4 or shape[1] != 3 or not pixels.is_floating_point():
        raise ShapeError(
            f"pixels must be floating point and (image, 3, height, width), got {pixels.dtype} {shape}: "
            "create them with torch.stack([backbone.preprocess(image), ...])."
        )
    if shape[0] == 0 or shape[2] == 0 or shape[3] == 0 or shape[2] % patch or shape[3] % patch:
        raise ShapeError(
            f"height and width must be multiples of the patch size {patch} of {backbone.name}, with one image or "
            f"more, got {shape}: resize images with backbone.preprocess."
        )
    return Grid(shape[2] // patch, shape[3] // patch)
