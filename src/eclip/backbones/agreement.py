"""Recomputed blocks compared with the host's own blocks on real input, so that maps explain the model that was scored.

Methods recompute a block from the host's weights; the score comes from the host. Where something changes what the host
computes (an adapter, a hook, a replaced `forward`), the two would silently diverge. So each block is compared before
its first use, and again after weights or modules have changed; parts that are not the host's own, every time.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eclip.backbones.blocks import Block, attend, finish
from eclip.backbones.choices import DEFAULT_POSITIONS
from eclip.backbones.host import (
    check_adapters,
    image_side,
    is_all_plain,
    is_quantized,
    oddities,
    path_of,
    steady,
    text_side,
)
from eclip.backbones.state import State, image_state, text_state
from eclip.backbones.text_tower import run_text_block
from eclip.errors import AlteredModelError, ModelError

if TYPE_CHECKING:
    from eclip.backbones.backbone import Backbone

Agreed = dict[str, tuple[State, set[int]]]
"""What was checked -> its state at that time, and which blocks agreed."""
MARGIN, PLAIN = 8.0, 128.0
"""Tolerances: of a block, in multiples of its response to an input change of four roundings; of a matrix product, in
roundings."""
MOST_TOWER, MOST_TEXT = 0.05, 0.1
"""Largest share of a feature that rounding may reach in half precision."""
INTEGER_BLOCK, INTEGER_TOWER = 0.02, 0.1
"""Largest relative errors where layers compute with integers."""


def check_blocks(
    backbone: Backbone, state: State, blocks: tuple[Block, ...], inputs: tuple[Tensor, ...], last: Callable[[], Tensor]
) -> None:
    """Check that the last `len(inputs)` of all blocks, recomputed on one image, reproduce the host's own outputs.

    `state` is that of the model when the inputs were computed; `last` gives the output of the last block.

    Raises:
        AlteredModelError: an output differs.
    """
    done = _done(backbone, "blocks", state)
    first = len(blocks) - len(inputs)
    for index, (block, x) in enumerate(zip(blocks[first:], inputs, strict=True), start=first):
        if index not in done:
            after = inputs[index - first + 1] if index + 1 < len(blocks) else last()
            _check_block(backbone, _name(blocks, index), block, x[:1], after[:1])
            if is_all_plain(block.host):
                done.add(index)


def agrees(backbone: Backbone, state: State, blocks: tuple[Block, ...], index: int, x: Tensor) -> bool:
    """Whether a block, with this input, is plain, and recomputed on one image reproduces the host's own output."""
    block, known = blocks[index], _done(backbone, "walked", state)
    if not is_all_plain(block.host):
        return False
    if index not in known and ~index not in known:
        try:
            _check_block(backbone, _name(blocks, index), block, x[:1], block.forward(x[:1]))
        except AlteredModelError:  # a method that recomputes it will say so
            known.add(~index)
        else:
            known.add(index)
            _done(backbone, "blocks", state).add(index)
    return index in known


def check_latent(backbone: Backbone, state: State, tokens: Tensor) -> None:
    """As `check_blocks`, for a MAP head, which is a block with one learned query."""
    block, done = backbone.latent, _done(backbone, "latent", state)
    if block is None or done:
        return
    with steady(backbone.model), torch.no_grad():
        _check_block(backbone, "the pooling head", block, tokens[:1], block.forward(tokens[:1]))
    if is_all_plain(block.host):
        done.add(0)


def check_tokens(backbone: Backbone, blocks: tuple[Block, ...], last: Tensor, count: int) -> None:
    """Check that the last block outputs one token for each patch.

    Raises:
        AlteredModelError: it outputs more or fewer, for example because blocks merge tokens.
    """
    if last.shape[1] != count:
        what = f"gives {last.shape[1]} tokens instead of {count}, so tokens do not correspond to patches"
        raise AlteredModelError(_sentence(backbone, "the image tower", [block.host for block in blocks], what))


def check_tower(backbone: Backbone, pixels: Tensor) -> State:
    """Check that the image tower, run block by block at its training size, reproduces the host's own feature.

    Returns:
        `image_state` afterwards: transformers adds hooks to a model in its first pass, to record attention and states.

    Raises:
        AlteredModelError: the feature differs.
    """
    state = image_state(backbone)
    if _done(backbone, "tower", state):
        return state
    check_adapters(backbone.model)
    native, patch = backbone.native, backbone.patch_size
    size = (native.row * patch, native.col * patch)
    x = pixels[:1] if tuple(pixels.shape[2:]) == size else F.interpolate(pixels[:1].float(), size).to(pixels)
    roots, blocks = image_side(backbone), backbone.blocks
    try:
        ours, _ = backbone.embed(x, native, DEFAULT_POSITIONS)
        for block in blocks:
            ours = block.forward(ours)
        lone = ours[:, -1:]
        alone = torch.cat([ours[:, : backbone.prefix], lone], dim=1) if backbone.pooling == "average" else lone
        alone, lone, ours = backbone.pool(alone), backbone.project(lone)[:, 0], backbone.pool(ours)
        with steady(backbone.model):
            theirs = backbone.encode_pixels(x)
        if not isinstance(theirs, Tensor):
            raise AlteredModelError(f"the model's own feature is a {type(theirs).__name__}, not a tensor")
    except Exception as error:  # whatever was added to a model can raise anything
        memory = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if memory or (is_all_plain(*roots) and not isinstance(error, AlteredModelError)):
            raise
        raise AlteredModelError(_sentence(backbone, "the image tower", roots, f"cannot be run ({error})")) from error
    if not bool(theirs.isfinite().all()):
        finite = bool(x.isfinite().all())
        why = "float16 may overflow; use float32 or bfloat16" if finite else "the pixels do as well"
        raise ModelError(f"the image feature of {backbone.name} contains NaN or infinity: {why}.")
    share = min(MOST_TOWER, (len(blocks) + 1) * PLAIN * _rounding(theirs))
    share += INTEGER_TOWER if is_quantized(*roots) else 0.0
    _require(backbone, "the image tower", roots, ours, theirs, share * theirs.double().norm())
    _require(backbone, "the projection of a single token", roots, lone, alone, share * alone.double().norm())
    state = image_state(backbone)
    _done(backbone, "tower", state).add(0)
    return state


def check_text(backbone: Backbone, ids: Tensor) -> None:
    """Check that the recomputed text tower reproduces the host's own features of these texts.

    Raises:
        AlteredModelError: the features differ.
    """
    tower = backbone.text_tower
    roots = text_side(backbone)
    done = _done(backbone, "text", text_state(backbone))
    if done or tower is None:
        return
    check_adapters(*roots)
    with torch.no_grad():
        x, mask = tower.embed(ids), tower.mask(ids)
        for block in tower.blocks:
            x = run_text_block(block, x, mask)
        ours, theirs = tower.pool(ids, x), backbone.encode_tokens(ids)
    share = min(MOST_TEXT, len(tower.blocks) * PLAIN * _rounding(theirs))
    share += INTEGER_TOWER if is_quantized(*roots) else 0.0
    _require(backbone, "the text tower", roots, ours, theirs, share * theirs.double().norm())
    if is_all_plain(*roots):
        done.add(0)


def _done(backbone: Backbone, kind: str, state: State) -> set[int]:
    """What was checked in this state; a new state starts empty."""
    known = backbone.agreed.get(kind)
    if known is None or known[0] != state:
        known = backbone.agreed[kind] = (state, set())
    return known[1]


def _name(blocks: tuple[Block, ...], index: int) -> str:
    return f"block {index + 1} of {len(blocks)}"


def _check_block(backbone: Backbone, name: str, block: Block, x: Tensor, after: Tensor) -> None:
    host, integer = [block.host], INTEGER_BLOCK if is_quantized(block.host) else 0.0
    with torch.inference_mode(False), torch.no_grad():
        if block.reference is not None or integer:  # the rounding of integer layers depends on the batch
            with steady(backbone.model):
                after = (block.reference or block.forward)(x)
        try:
            normed, v, ours = _open(block, x)
            alone = block.value(normed) if block.residual else v  # a pool's values have no positions
            _, _, shaken = _open(block, x * _shake(x))
        except Exception as error:
            raise AlteredModelError(_sentence(backbone, name, host, f"cannot be recomputed ({error})")) from error
        added = (after.double() - x.double() if block.residual and after.shape == x.shape else after.double()).norm()
        rounding = _rounding(after) * after.double().norm()
        most = MARGIN * ((shaken.double() - ours.double()).norm() + rounding) + integer * added
        _require(backbone, name, host, ours, after, most)
        _require(backbone, name, host, alone, v, (integer + PLAIN * _rounding(v)) * v.double().norm())
    _check_pull(backbone, name, block, normed)


def _open(block: Block, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Normalized tokens, values and the block's output; for a MAP head, the one row of its learned query."""
    normed = block.norm1(x)
    q, k, v = block.qkv(normed)
    return normed, v, finish(block, x, attend(block, q, k) @ v)


def _shake(like: Tensor) -> Tensor:
    """Factors close to one, whose effect shows how much a block amplifies rounding errors."""
    places = torch.arange(like.shape[-1], dtype=torch.long, device=like.device)
    signs = (places * 2654435761 >> 7) & 1
    return 1 + (signs * 2 - 1).to(like) * 4 * _rounding(like)


def _check_pull(backbone: Backbone, name: str, block: Block, normed: Tensor) -> None:
    """Compare the hand-written transpose of `qkv`, if there is one, with torch's own gradient."""
    if block.qkv_vjp is None:
        return
    with torch.inference_mode(False), torch.enable_grad():
        leaf = normed.detach().requires_grad_()
        parts = block.qkv(leaf)
        theirs = torch.autograd.grad(parts, leaf, [part.detach() for part in parts])[0]
    ours = block.qkv_vjp(*(part.detach() for part in parts))
    _require(backbone, name, [block.host], ours, theirs, PLAIN * _rounding(theirs) * theirs.double().norm())


def _rounding(like: Tensor) -> float:
    """Relative rounding of one number; coarser if torch is set to multiply matrices in less than float32 precision.

    For float64 it is that of float32, in which the eager attention of transformers computes its softmax.
    """
    if like.dtype == torch.float32 and torch.get_float32_matmul_precision() != "highest":
        return 2.0**-9
    return max(torch.finfo(like.dtype).eps, torch.finfo(torch.float32).eps) / 2


def _require(backbone: Backbone, name: str, roots: list[nn.Module], ours: Tensor, theirs: Tensor, most: Tensor) -> None:
    ours, theirs = ours.detach(), theirs.detach()
    apart = float((ours.double() - theirs.double()).norm()) if ours.shape == theirs.shape else math.inf
    if not apart <= most:
        share = 100 * apart / max(float(theirs.double().norm()), 1e-30)
        off = f"does not compute what its weights say (off by {share:.2g} %)"
        raise AlteredModelError(_sentence(backbone, name, roots, off))


def _sentence(backbone: Backbone, name: str, roots: list[nn.Module], what: str) -> str:
    paths = [path_of(backbone.model, root) for root in roots]
    found = [odd for path, root in zip(paths, roots, strict=True) for odd in oddities(path, root)]
    where = f" ({paths[0]})" if paths and paths[0] else ""
    if not found:
        return (
            f"{backbone.name}: {name}{where} {what}, but eclip explains a block by recomputing it. If you changed the "
            "model after eclip.wrap, wrap it again; eclip cannot explain classes with their own forward pass, or "
            "replaced attention functions."
        )
    stands, ways = (list(dict.fromkeys(half)) for half in zip(*found, strict=True))
    shown = "; ".join(stands[:3]) + (f" and {len(stands) - 3} more" if len(stands) > 3 else "")
    return (
        f"{backbone.name}: {name}{where} {what}, but eclip explains a block by recomputing it: {shown}. "
        f"{'; '.join(ways)}, then explain again."
    )
