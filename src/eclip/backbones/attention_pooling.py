"""The attention with which one query pools an image into its feature, and gradients of scores for all texts at once.

In a ViT with CLS the query belongs to that token, in the last block; in an attention pool to the mean token; in a MAP
head it is learned. Only this row carries the gradient of the score, so methods that need no other token run only this
one backward; with one copy of the row per text, a single backward pass serves every text.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from eclip.backbones.agreement import check_latent
from eclip.backbones.backbone import Backbone
from eclip.backbones.blocks import Block, Fn, Heads, Tokens, attend, finish, run_block, unit
from eclip.backbones.encoding import Encoding
from eclip.backbones.gradients import gradients
from eclip.errors import GradientError, NotApplicableError

LARGEST = 10
"""Half-precision gradients are scaled up to at most two to this power."""
AT_ONCE = 1 << 24
"""Most elements in one intermediate tensor of a batched backward pass; further texts go into further passes."""
CUT = "this model", "network in which a layer leaves the autograd graph", "detach"
"""What a GradientError says if the score does not depend on the requested tensors through the autograd graph."""


@dataclass(frozen=True, eq=False)
class Gathering:
    """One query's attention over the tokens, and the mapping from the values it gathers to the feature.

    Attributes:
        backbone: the model.
        block: the block with this attention.
        x: input of the block.
        q: the single query.
        k: keys of all tokens.
        v: values of all tokens.
        attn: attention weights of the query.
        to_feature: (..., channel) -> (..., feature), from the block's output row.
    """

    backbone: Backbone
    block: Block
    x: Tokens
    q: Float[Tensor, "image head 1 width"]
    k: Heads
    v: Heads
    attn: Float[Tensor, "image head 1 token"]
    to_feature: Fn

    def features(self, mixed: Float[Tensor, "image head row width"]) -> Float[Tensor, "image row feature"]:
        """Features the image would have if `mixed` were gathered; each row independently."""
        return self.to_feature(finish(self.block, self.x[:, :1], mixed))

    def gradient(
        self, text: Float[Tensor, "text feature"], mixed: Float[Tensor, "image head 1 width"] | None = None
    ) -> Float[Tensor, "image head text width"]:
        """Gradient of each text's score with respect to the gathered values: one backward pass with one row per text.

        Args:
            text: unit length, or a difference of two such texts.
            mixed: the gathered values, if not `attn @ v`.
        """
        start = (self.attn @ self.v if mixed is None else mixed).detach()
        parts: list[Tensor] = []
        for some in text.split(max(1, AT_ONCE // (4 * start.numel()))):
            with gradients(self.backbone):
                rows = start.repeat(1, 1, len(some), 1).requires_grad_()  # image head text width
                features = self.features(rows)  # image text feature
            cotangent = cosine_slope(features[:, 0].detach(), some).transpose(0, 1)
            parts += _pull(features, [rows], cotangent)
        return torch.cat(parts, dim=2)


def gather(encoding: Encoding, method: str, tokens: Tokens | None = None) -> Gathering:
    """The one-query attention of a tower; `tokens` is its input, if not the one in the model.

    Raises:
        NotApplicableError: the tower averages its patches, so no query gathers them.
        KeepError: the last block was not kept.
    """
    backbone = encoding.backbone
    if backbone.pooling == "average":
        raise NotApplicableError(
            method, backbone.name, backbone.family, "it averages its patches, so no single token gathers them"
        )
    if backbone.latent is not None:
        block, x = backbone.latent, encoding.tokens
        check_latent(backbone, encoding.state, x)
    else:
        [(block, x)] = encoding.tail(1, method)
    x = x if tokens is None else tokens
    return gather_from(encoding, block, x, block.norm1(x))


def pooling_row(encoding: Encoding, method: str) -> Float[Tensor, "image patch"]:
    """Attention of the token that becomes the feature: its row of the last block's attention, averaged over heads.

    If patches are averaged, the mean of their rows; in a pool, the mean token's row; in a MAP head, the learned query's
    row.

    Returns:
        Shares of attention in [0, 1]; the difference of their sum from 1 went to tokens that are not patches.

    Raises:
        KeepError: the last block was not kept.
    """
    if encoding.backbone.pooling == "average":
        [(block, x)] = encoding.tail(1, method)
        q, k, _ = encoding.qkv(block, x)
        patches = slice(encoding.prefix, None)
        attn = attend(block, q[:, :, patches], k, patches).mean(dim=2, keepdim=True)
    else:
        attn = gather(encoding, method).attn
    return attn.mean(dim=1)[:, 0, encoding.prefix :]


def gather_from(encoding: Encoding, block: Block, x: Tokens, normed: Tokens) -> Gathering:
    """The gathering of a block's normalized input, in the same autograd graph if gradients are on."""
    backbone = encoding.backbone

    def to_feature(row: Tensor) -> Tensor:
        return backbone.to_feature(row if backbone.final_norm is None else backbone.final_norm(row))

    q, k, v = block.qkv(normed) if torch.is_grad_enabled() else encoding.qkv(block, x)
    return Gathering(backbone, block, x, q[:, :, :1], k, v, attend(block, q[:, :, :1], k, slice(1)), to_feature)


def rest(encoding: Encoding, count: int, x: Tokens, method: str) -> Float[Tensor, "image feature"]:
    """The feature, recomputed from the input `x` of the last `count` blocks (0: only pooling), in the same graph."""
    backbone = encoding.backbone
    blocks = [block for block, _ in encoding.tail(count, method)]
    last = blocks.pop() if blocks and backbone.pooling == "token" else backbone.latent  # one row of these is enough
    for block in blocks:
        x = run_block(block, x)
    if last is None:
        return backbone.pool(x)
    row = gather_from(encoding, last, x, last.norm1(x))
    return row.features(row.attn @ row.v)[:, 0]


def score_gradients(
    feature: Float[Tensor, "image feature"], text: Float[Tensor, "text feature"], of: list[Tensor]
) -> Iterator[list[Tensor]]:
    """Gradients of every text's score, the cosine of feature and text, in batched backward passes.

    Args:
        feature: not normalized, with its graph.
        text: unit length, or a difference of two such texts.
        of: tensors (image, ...) of that graph.

    Yields:
        Gradients (text, image, ...) of each tensor, in float32 at least, for all texts at once, or for parts of them if
        memory is limited.
    """
    cotangents = cosine_slope(feature.detach(), text)  # text image feature
    # An MLP is four times as wide as its tokens; attention has one row per token and head.
    widest = max(max(4 * one.numel(), one.numel() // one.shape[-1] * one.shape[-2]) for one in of)

    for some in cotangents.split(max(1, AT_ONCE // widest)):
        yield _pull(feature, of, some, batched=True)


def _pull(output: Tensor, of: list[Tensor], cotangent: Tensor, batched: bool = False) -> list[Tensor]:
    """Gradients in float32 at least. In half precision they are scaled up so that none underflows on the way.

    float16 ends at 6e-8, and gradients of scores are smaller. The cotangent is multiplied by a power of two and the
    result divided by it; the power is lowered if something overflows.
    """
    if not output.requires_grad:
        raise GradientError(*CUT)

    def qkv_vjp(start: Tensor) -> tuple[Tensor, ...]:
        grads = torch.autograd.grad(output, of, start, retain_graph=True, allow_unused=True)
        if any(grad is None for grad in grads):
            raise GradientError(*CUT)
        return grads

    half = output.dtype == torch.float16
    largest = float(cotangent.abs().max()) if half else 0.0
    power = LARGEST - math.frexp(largest)[1] if largest else 0
    for lift in range(power, power - 64, -8):
        lifted = (cotangent * 2.0**lift).to(output)
        # vmap, since is_grads_batched takes norms one by one
        grads = torch.func.vmap(qkv_vjp)(lifted) if batched else qkv_vjp(lifted)
        if not half or all(bool(grad.isfinite().all()) for grad in grads):
            break
    return [grad.to(torch.promote_types(grad.dtype, torch.float32)) * 2.0**-lift for grad in grads]


def cosine_slope(
    feature: Float[Tensor, "image feature"], text: Float[Tensor, "text feature"]
) -> Float[Tensor, "text image feature"]:
    """Gradient of cosine(feature, text) with respect to the feature: (text - cosine * unit feature) / length."""
    direction = unit(feature)
    text = text.to(direction)
    cosines = text @ direction.T  # text image
    length = feature.to(direction).norm(dim=-1, keepdim=True).clamp_min(1e-12)
    return (text[:, None] - cosines[..., None] * direction) / length
