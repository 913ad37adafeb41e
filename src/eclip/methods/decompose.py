"""Decomposition of the feature by layer, token and head (Gandelsman et al. 2024, https://arxiv.org/abs/2310.05916).

Code: yossigandelsman/clip_prs (CC BY-NC; written from the formula), commit e122b8a.
Differs from it: returns raw values, before clipping and resizing; also supports attention pools and MAP heads, whose
single attention layer is decomposed exactly, without the layers below.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from eclip.backbones.attention_pooling import gather, gather_from
from eclip.backbones.backbone import eval_no_grad
from eclip.backbones.blocks import Block, Fn, finish, split_heads
from eclip.backbones.encoding import Encoding
from eclip.backbones.host import is_plain, oddities, path_of
from eclip.errors import AlteredModelError, NotApplicableError


def decompose(
    encoding: Encoding, text: Float[Tensor, "text feature"], *, centered: bool = True
) -> Float[Tensor, "image text row col"]:
    """Cosine with the text of each patch's contribution to the feature through attention, over all layers and heads.

    The pooled token's stream is the sum of its initial value, attention outputs from each token, and MLP outputs. The
    final norm is linearized at its actual mean and deviation, so that all parts add up to the unit feature.

    Args:
        encoding: with all blocks kept.
        text: unit length.
        centered: subtract the mean over the texts if there are at least two, as the authors do over their classes.

    Returns:
        Signed. Without `centered`, the sum over patches plus all other terms is the score.

    Raises:
        NotApplicableError: the tower averages its patches, norms in the attention output or the head mix the parts, or
            the final norm is no LayerNorm.
        AlteredModelError: the final norm was modified.
    """
    layers, rest = _stream(encoding)
    part = 1 / (len(layers) + rest.shape[1])  # the norm's mean and the biases are divided among all terms
    count = layers[0][1].shape[2]
    own = torch.stack([block.out(weighted) + _bias(block, weighted) * (1 / count - 1) for block, weighted in layers])
    tokens = _to_feature(encoding, own.sum(dim=0), len(layers) * part / count)  # image token feature
    patches = (tokens / _length(encoding))[:, encoding.prefix :]
    patches = patches.to(torch.promote_types(patches.dtype, torch.float32))
    values = patches @ text.to(patches).T  # image patch text
    if centered and len(text) > 1:
        values = values - values.mean(dim=-1, keepdim=True)
    return encoding.on_grid(values)


@dataclass(frozen=True, eq=False)
class Terms:
    """Terms that add up to the unit feature.

    Attributes:
        attention: contribution of each token through each head of each attention layer.
        rest: the initial value of the stream, then the contribution of each MLP.
    """

    attention: Float[Tensor, "image layer token head feature"]
    rest: Float[Tensor, "image part feature"]


def terms(encoding: Encoding) -> Terms:
    """Every single term of the decomposition, of an encoding with all blocks; errors as in `decompose`."""
    encoding.check_current()
    with eval_no_grad(encoding.backbone.model):
        layers, rest = _stream(encoding)
        part, length = 1 / (len(layers) + rest.shape[1]), _length(encoding)
        count = layers[0][1].shape[2]
        parts = []
        for block, weighted in layers:
            own = torch.einsum("ihtw,hwc->ithc", weighted, _head_weights(block, weighted))
            own = own + _bias(block, weighted) / (count * block.heads)
            parts.append(_to_feature(encoding, own, part / (count * block.heads)) / length[..., None])
        return Terms(torch.stack(parts, dim=1), _to_feature(encoding, rest, part) / length)


def _stream(
    encoding: Encoding,
) -> tuple[list[tuple[Block, Float[Tensor, "image head token width"]]], Float[Tensor, "image part channel"]]:
    """Attention-weighted values of each layer for the token that becomes the feature, and all other terms."""
    last = gather(encoding, "decompose")
    if last.block.residual:
        rows = [gather_from(encoding, block, x, block.norm1(x)) for block, x in encoding.tail(None, "decompose")]
        rest = [rows[0].x[:, :1]]
    else:
        rows, rest = [last], []
    for row in rows:
        block, mixed = row.block, row.attn @ row.v
        if block.mlp is not None and block.norm2 is not None:
            before = block.out(mixed) + row.x[:, :1] if block.residual else block.out(mixed)
            rest.append(block.mlp(block.norm2(before)))
    layers = [(row.block, row.attn.transpose(-1, -2) * row.v) for row in rows]
    _check_parts(encoding, layers)
    return layers, torch.cat(rest, dim=1) if rest else last.block.out(last.attn @ last.v)[:, :0]


def _bias(block: Block, weighted: Tensor) -> Float[Tensor, " channel"]:
    return block.out(torch.zeros_like(weighted[:1, :, :1]))[0, 0]


def _head_weights(block: Block, weighted: Tensor) -> Float[Tensor, "head width channel"]:
    """The output projection as a matrix, computed from unit vectors."""
    size = block.heads * weighted.shape[-1]
    rows = torch.eye(size, dtype=weighted.dtype, device=weighted.device)[None]
    matrix = block.out(split_heads(rows, block.heads))[0] - _bias(block, weighted)
    return matrix.unflatten(0, (block.heads, -1))


def _to_feature(encoding: Encoding, parts: Tensor, share: float) -> Float[Tensor, "*batch feature"]:
    """Parts of the stream after the linearized norm and the projection, each with this share of the constants."""
    backbone, norm = encoding.backbone, encoding.backbone.final_norm
    if isinstance(norm, nn.LayerNorm):
        row = _row(encoding)
        _check_norm(encoding, norm, row)
        shape = (-1,) + (1,) * (parts.ndim - 1)
        mean = row.mean(dim=-1).reshape(shape)
        deviation = (row.var(dim=-1, correction=0) + norm.eps).sqrt().reshape(shape)
        parts = (parts - share * mean) / deviation
        parts = parts if norm.weight is None else parts * norm.weight
        parts = (parts if norm.bias is None else parts + share * norm.bias).to(row.dtype)
    elif isinstance(norm, nn.Module) and not isinstance(norm, nn.Identity):
        raise _altered(encoding, norm)
    zero = backbone.to_feature(parts.new_zeros(1, parts.shape[-1]))[0]
    return backbone.to_feature(parts) + (share - 1) * zero


def _row(encoding: Encoding) -> Float[Tensor, "image channel"]:
    """The row that the final norm takes: the first token, or what a learned query gathers."""
    if encoding.backbone.latent is None:
        return encoding.tokens[:, 0]
    last = gather(encoding, "decompose")
    return finish(last.block, last.x[:, :1], last.attn @ last.v)[:, 0]


def _check_norm(encoding: Encoding, norm: nn.LayerNorm, row: Float[Tensor, "image channel"]) -> None:
    """Check that the final norm computes what its weights imply."""
    if not is_plain(norm):
        theirs, ours = norm(row), nn.functional.layer_norm(row, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
        if not bool((ours - theirs).norm() <= 64 * torch.finfo(row.dtype).eps * theirs.norm()):
            raise _altered(encoding, norm)


def _altered(encoding: Encoding, norm: nn.Module) -> AlteredModelError | NotApplicableError:
    backbone = encoding.backbone
    where = path_of(backbone.model, norm)
    if not (found := oddities(where, norm)):
        why = f"its final norm is a {type(norm).__name__}, not a LayerNorm"
        return NotApplicableError("decompose", backbone.name, backbone.family, why)
    stands, way = found[0]
    return AlteredModelError(
        f"'decompose' reads the weights of the final norm of {backbone.name}, but {stands}. {way}, then explain again."
    )


def _length(encoding: Encoding) -> Float[Tensor, "image 1 1"]:
    return encoding.feature.norm(dim=-1)[:, None, None]


def _check_parts(encoding: Encoding, layers: list[tuple[Block, Tensor]]) -> None:
    """Check that output projection and head are linear; otherwise the parts do not add up."""

    def halves(through: Fn, whole: Tensor) -> bool:
        zero = through(torch.zeros_like(whole))
        full, half = through(whole) - zero, through(whole / 2) - zero
        rounding = 4 * torch.finfo(zero.dtype).eps * zero.norm()  # relevant if the constant exceeds the gathered values
        return bool((full - 2 * half).norm() <= 0.05 * full.norm() + rounding)  # half precision is off by 0.01

    outputs = [(block.out, weighted.sum(dim=2, keepdim=True)) for block, weighted in layers]
    last = outputs[-1]
    head = (encoding.backbone.to_feature, last[0](last[1]))
    if not all(halves(through, whole) for through, whole in [*outputs, head]):
        raise NotApplicableError(
            "decompose",
            encoding.backbone.name,
            encoding.backbone.family,
            "norms in its attention output or its head mix the parts, so that they do not add up to the feature",
        )
