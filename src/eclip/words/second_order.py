"""Second-order attributions of word-patch pairs (Möller et al. 2024, exCLIP, https://arxiv.org/abs/2408.14153).

Code: lucasmllr/exCLIP (MIT), commit 5862bb8.
Differs from it: each token's share of the path is one forward derivative in the token's direction, instead of one
backward pass per component of the feature; through the last layer alone, only one row is needed. Equal up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from eclip.backbones.attention_pooling import AT_ONCE, rest
from eclip.backbones.backbone import Grid
from eclip.backbones.blocks import QKV, Block, Tokens, finish
from eclip.backbones.encoding import Encoding
from eclip.backbones.gradients import watched
from eclip.backbones.text_tower import TextBlock, TextTower, run_text_block
from eclip.words.tokens import Reading

Tangents = Float[Tensor, "token feature"]


@dataclass(frozen=True, eq=False)
class IntegrationPath:
    """What each token contributes to a feature along the straight path from a reference to the input.

    Attributes:
        shares: of each token; with more points their sum approaches `feature - reference`.
        feature: of the input, not normalized.
        reference: feature of the reference, at the start of the path.
    """

    shares: Tangents
    feature: Float[Tensor, " feature"]
    reference: Float[Tensor, " feature"]


def pairs(text: IntegrationPath, image: IntegrationPath) -> Float[Tensor, "token patch"]:
    """What each pair contributes to the cosine: dot products of the shares over the product of both features' norms."""
    return text.shares @ image.shares.T / _lengths(text, image)


def target(text: IntegrationPath, image: IntegrationPath) -> Float[Tensor, ""]:
    """Limit of the sum of all pairs as points grow: (e_t - r_t) . (e_i - r_i) / (|e_t| |e_i|)."""
    moved = [(path.feature - path.reference).to(path.shares) for path in (text, image)]
    return moved[0] @ moved[1] / _lengths(text, image)


def _lengths(text: IntegrationPath, image: IntegrationPath) -> Float[Tensor, ""]:
    return text.feature.to(text.shares).norm() * image.feature.to(image.shares).norm()


def image_path(encoding: Encoding, depth: int, points: int) -> IntegrationPath:
    """The path from the zero image to an image, at the input of the last attention layers.

    Args:
        encoding: of two images, the image and zeros, with the last `depth` blocks kept. Zeros after color normalization
            are the mean color, as in the authors' code.
        depth: attention layers, as `chefer` counts them: that of a MAP head or a pool counts too.
        points: evaluated at 1/points, 2/points, ..., 1 of the path.

    Returns:
        Shares of all tokens; for a CNN of patches only, where the share of the pool's mean token is divided among them.
    """
    backbone = encoding.backbone
    count = depth if backbone.latent is None else depth - 1
    tail = encoding.tail(count, "pairs")
    whole = tail[0][1] if tail else encoding.tokens
    block = backbone.latent or (tail[-1][0] if tail else None)
    with watched(backbone):
        if tail and not tail[0][0].residual:  # the mean token is computed from the patches, not an input
            return _one_row(_pool_row(encoding, tail[0][0]), whole[:1], whole[1:], points)
        if backbone.pooling == "average" or block is None or block.relative is not None or depth > 1:
            return _path(lambda x: rest(encoding, len(tail), x, "pairs"), whole[:1], whole[1:], points)
        return _one_row(_image_row(encoding, block), whole[:1], whole[1:], points)


def text_path(reading: Reading, depth: int, points: int) -> IntegrationPath:
    """The path from a text without content to a text, at the input of the last blocks.

    Args:
        reading: of two texts, the text and its reference. The path uses the mask and pooled token of the text.
        depth: blocks, all if there are fewer.
        points: evaluated at 1/points, 2/points, ..., 1 of the path.
    """
    tower = reading.tower("pairs")
    ids, blocks = reading.ids[:1], tower.blocks[-depth:]
    mask, weights = tower.mask(ids), tower.weights(ids)
    total, count = weights.shape[1], _reach(mask, weights)
    x, weights = reading.entering(depth, "pairs")[:, :count], weights[:, :count]
    mask = None if mask is None else mask[:, :, :count, :count]

    def through(x: Tokens) -> Float[Tensor, "text feature"]:
        for block in blocks:
            x = run_text_block(block, x, mask)
        return tower.to_feature((weights.to(x)[:, None] @ x)[:, 0])

    with watched(reading.backbone, text=True):
        if len(blocks) == 1 and int((weights != 0).sum()) == 1:
            path = _one_row(_text_row(tower, blocks[0], int(weights.argmax()), mask), x[:1], x[1:], points)
        else:
            path = _path(through, x[:1], x[1:], points)
    return replace(path, shares=F.pad(path.shares, (0, 0, 0, total - count)))


def _reach(mask: Tensor | None, weights: Tensor) -> int:
    """How many of the first tokens can affect the feature; none of them attends to later ones, such as padding."""
    count = weights.shape[1]
    if mask is None:
        return count
    blind = mask[0, 0].expand(count, -1) == float("-inf")
    first = int(weights[0].nonzero().max()) + 1
    return next(n for n in range(first, count + 1) if bool(blind[:n, n:].all()))


def _path(through: Callable[[Tokens], Tensor], x: Tokens, reference: Tokens, points: int) -> IntegrationPath:
    """Any number of blocks: one derivative of the remaining network per point and token that moves."""
    step = x - reference
    moving = (step[0] != 0).any(dim=-1)  # padding does not move
    each = torch.eye(x.shape[1], dtype=x.dtype, device=x.device)[moving][:, None, :, None]  # one at a time
    chunk = max(1, AT_ONCE // (4 * x.numel()))
    feature, end = through(x)[0], through(reference)[0]
    shares = _zeros(x.shape[1], feature)
    for at in _points(points) if len(each) else []:
        [(_, moved)] = _along(
            lambda x: (through(x),), [reference + at * step], ([one * step] for one in each.split(chunk))
        )
        shares[moving] += moved[:, 0] / points
    return IntegrationPath(shares, feature, end)


def _zeros(tokens: int, feature: Tensor) -> Tangents:
    """Zeros to accumulate shares in, at least float32."""
    return torch.zeros(
        tokens, len(feature), dtype=torch.promote_types(feature.dtype, torch.float32), device=feature.device
    )


@dataclass(frozen=True, eq=False)
class _Row:
    """The last attention layer, one row of which becomes the feature.

    Attributes:
        qkv: input -> queries, keys, values; for each token separately.
        place: number of the row.
        seen: which tokens it attends to.
        feature: (row, channel), attention output (head, row, width) -> (row, feature); rows do not mix.
        mean: for a CNN's pool, whose row 0 is the mean of the patches: (row, channel) of that token -> its queries,
            keys and values (row, head, 1, width).
    """

    qkv: QKV
    place: int
    seen: Bool[Tensor, " token"] | None
    feature: Callable[[Tensor, Tensor], Tensor]
    mean: QKV | None = None


def _image_row(encoding: Encoding, block: Block) -> _Row:
    backbone = encoding.backbone

    def feature(x: Tensor, mixed: Tensor) -> Tensor:
        row = finish(block, x[None], mixed[None])[0]
        return backbone.to_feature(row if backbone.final_norm is None else backbone.final_norm(row))

    return _Row(lambda x: block.qkv(block.norm1(x)), 0, None, feature)


def _pool_row(encoding: Encoding, block: Block) -> _Row:
    [alone] = encoding.backbone.blocks_at(Grid(1, 1), encoding.positions)  # the mean has one position for all grids

    def mean(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = (part[:, :, :1] for part in alone.qkv(torch.stack([x, x], dim=1)))
        return q, k, v

    return replace(_image_row(encoding, block), mean=mean)


def _text_row(tower: TextTower, block: TextBlock, place: int, mask: Tensor | None) -> _Row:
    def feature(x: Tensor, mixed: Tensor) -> Tensor:
        return tower.to_feature(block.finish(x[None], block.out(mixed[None]))[0])

    seen = None if mask is None else mask[0, 0, min(place, mask.shape[2] - 1)] == 0
    return _Row(block.qkv, place, seen, feature)


def _one_row(last: _Row, x: Tokens, reference: Tokens, points: int) -> IntegrationPath:
    """The last layer alone: the derivative along each token has a closed form up to the pooled row."""

    def whole(x: Tokens) -> Tensor:
        q, k, v = (part[0] for part in last.qkv(x))
        _, mixed = _gathered(q[:, last.place if q.shape[1] > 1 else 0], k, v, last.seen)
        return last.feature(x[0, [last.place]], mixed[:, None])[0]

    step, feature, end = x - reference, whole(x), whole(reference)
    shares = _zeros(x.shape[1] - (last.mean is not None), feature)
    for at in _points(points):
        now = reference + at * step
        (q, dq), (k, dk), (v, dv) = ((part[0], moved[0, 0]) for part, moved in _along(last.qkv, [now], [[step[None]]]))
        place = last.place if q.shape[1] > 1 else 0  # a learned query is the only one
        attn, mixed = _gathered(q[:, place], k, v, last.seen)
        scale = q.shape[-1] ** -0.5
        bent = (q[:, place, None] * dk).sum(dim=-1) * scale  # each token's key changes the attention to it
        moved = attn[..., None] * (dv + (v - mixed[:, None]) * bent[..., None])  # head token width
        own = torch.zeros_like(step[0])
        if last.mean is None:
            turned = (k * dq[:, place, None]).sum(dim=-1) * scale  # and the row's query that to all tokens
            moved[:, last.place] += ((attn * turned)[..., None] * (v - mixed[:, None])).sum(dim=1)
            own[last.place] = step[0, last.place]
        else:
            moved, own = moved[:, 1:] + _of_mean(last.mean, now[0], step[0], attn, k, v, mixed), own[1:]
        row, gathered = now[0, last.place].expand(len(own), -1), mixed[:, None].expand(-1, len(own), -1)
        [(_, moved)] = _along(lambda *rows: (last.feature(*rows),), [row, gathered], [[own[None], moved[None]]])
        shares += moved[0] / points

    return IntegrationPath(shares, feature, end)


def _of_mean(
    mean: QKV, now: Tensor, step: Tensor, attn: Tensor, k: Tensor, v: Tensor, mixed: Tensor
) -> Float[Tensor, "head patch width"]:
    """Derivative of the attention output along each patch through the mean token, which depends on all of them."""
    count, scale = len(step) - 1, k.shape[-1] ** -0.5
    changed = _along(mean, [now[:1].expand(count, -1)], [[step[None, 1:] / count]])
    (q, dq), (_, dk), (_, dv) = (
        (part[:, :, 0].transpose(0, 1), moved[0, :, :, 0].transpose(0, 1)) for part, moved in changed
    )
    bent = (q * dk).sum(dim=-1, keepdim=True) * scale  # head patch 1
    turned = dq @ k.transpose(-1, -2) * scale  # head patch token
    return attn[:, :1, None] * (dv + (v[:, :1] - mixed[:, None]) * bent) + attn[:, None] * turned @ (v - mixed[:, None])


def _gathered(q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None) -> tuple[Tensor, Tensor]:
    scores = (k @ q[..., None])[..., 0] * q.shape[-1] ** -0.5  # head token
    attn = (scores if seen is None else scores.masked_fill(~seen, float("-inf"))).softmax(dim=-1)
    return attn, (attn[:, None] @ v)[:, 0]


def _along(
    function: Callable[..., Sequence[Tensor]], at: Sequence[Tensor], steps: Iterable[Sequence[Tensor]]
) -> list[tuple[Tensor, Tensor]]:
    """Outputs of a function and their derivatives (step, ...) along directions, in batches of these.

    A backward pass is linear in its starting vector, so the backward pass of it is a forward derivative.
    """
    with torch.enable_grad():
        inputs = [one.detach().requires_grad_() for one in at]
        outputs = function(*inputs)
        moving = [one for one in outputs if one.requires_grad]
        starts = [torch.zeros_like(one, requires_grad=True) for one in moving]
        back = torch.autograd.grad(moving, inputs, starts, create_graph=True, materialize_grads=True)
        parts = [
            torch.autograd.grad(back, starts, some, retain_graph=True, is_grads_batched=True, materialize_grads=True)
            for some in steps
        ]
    slopes = iter([torch.cat(pieces) for pieces in zip(*parts, strict=True)])
    still = [torch.zeros_like(one)[None] for one in outputs]
    return [
        (one.detach(), next(slopes) if one.requires_grad else zero) for one, zero in zip(outputs, still, strict=True)
    ]


def _points(points: int) -> list[float]:
    return [number / points for number in range(1, points + 1)]
