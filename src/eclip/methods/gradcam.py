"""Grad-CAM (Selvaraju et al. 2017, https://arxiv.org/abs/1610.02391), as used on CLIP.

Reproduces jacobgil/pytorch-grad-cam (MIT), commit 084273b: its ViT recipe uses the output of the last block's first
norm and drops CLS before averaging; for CNNs it uses the last feature map. Differs from it: raw values, before ReLU;
the score is the cosine, without the logit scale.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from eclip.backbones.attention_pooling import Gathering, gather, gather_from, rest, score_gradients
from eclip.backbones.blocks import attend, finish
from eclip.backbones.encoding import Encoding
from eclip.backbones.gradients import gradients
from eclip.backbones.pool import pool_tokens
from eclip.errors import OptionError

LAYERS = ("norm", "input")


def gradcam(
    encoding: Encoding, text: Float[Tensor, "text feature"], *, depth: int = 1, layer: str = "norm"
) -> Float[Tensor, "image text row col"]:
    """Sum of a layer's channels, each weighted by the gradient of the score averaged over patches.

    Args:
        encoding: with the last `depth` blocks kept.
        text: unit length.
        depth: which block of a ViT, counted from the end: 1 is the last. CNNs always use the trunk's feature map.
        layer: "norm" (output of the block's first norm) or "input" (of the block); ignored for CNNs.

    Returns:
        Signed, before ReLU: negative values are evidence against the text.

    Raises:
        OptionError: depth exceeds the tower, or layer is unknown.
    """
    if layer not in LAYERS:
        raise OptionError(f"'gradcam' needs layer to be {' or '.join(LAYERS)}, got {layer!r}.")
    most = len(encoding.blocks) or 1  # a CNN without attention pooling has no block
    if not 1 <= depth <= most:
        raise OptionError(f"'gradcam' needs depth between 1 and {most} for this model, got {depth}.")
    if encoding.trunk is not None:
        activation = encoding.trunk.flatten(2).transpose(1, 2)  # image patch channel
        weights = trunk_slope(encoding, text, "gradcam")  # image text channel
    else:
        block, x = encoding.tail(depth, "gradcam")[0]
        activation = (block.norm1(x) if layer == "norm" else x)[:, encoding.prefix :]
        weights = _block_slope(encoding, text, depth, layer)
    return encoding.on_grid(activation.to(weights) @ weights.transpose(1, 2))


def trunk_slope(
    encoding: Encoding, text: Float[Tensor, "text feature"], method: str
) -> Float[Tensor, "image text channel"]:
    """Gradients of the scores with respect to a CNN's last feature map, averaged over positions."""
    assert encoding.trunk is not None, "for towers with a trunk"
    last = gather(encoding, method) if encoding.blocks else None
    if last is None or last.block.qkv_vjp is None:
        with gradients(encoding.backbone):
            trunk = encoding.trunk.detach().requires_grad_()
            if last is None:
                feature = encoding.backbone.pool(trunk.flatten(2).transpose(1, 2))
            else:
                x = pool_tokens(trunk)
                moved = gather_from(encoding, last.block, x, last.block.norm1(x))
                feature = moved.features(moved.attn @ moved.v)[:, 0]
        slopes = [grad.mean(dim=(3, 4)) for [grad] in score_gradients(feature, text, [trunk])]
        return torch.cat(slopes).transpose(0, 1)
    # Shifting all positions shifts every token, including the mean token. All keys then shift equally, which softmax
    # ignores; so do the gathered values; only the query changes by itself.
    grad, slope = _attention_slope(last, text)
    query = slope @ last.k.to(slope)  # image head text width
    return last.block.qkv_vjp(query, torch.zeros_like(query), grad) / (encoding.grid.row * encoding.grid.col)


def _block_slope(encoding: Encoding, text: Tensor, depth: int, layer: str) -> Float[Tensor, "image text channel"]:
    block, x = encoding.tail(depth, "gradcam")[0]
    in_row = depth == 1 and encoding.backbone.pooling == "token"
    if in_row and layer == "norm" and block.qkv_vjp is not None:
        last = gather(encoding, "gradcam")
        grad, slope = _attention_slope(last, text)
        patches = slice(encoding.prefix, None)
        key = slope[..., patches].sum(dim=-1, keepdim=True) * last.q
        value = last.attn[..., patches].sum(dim=-1, keepdim=True) * grad
        return block.qkv_vjp(torch.zeros_like(key), key, value) / (encoding.grid.row * encoding.grid.col)
    with gradients(encoding.backbone):
        leaf = (block.norm1(x) if layer == "norm" else x).detach().requires_grad_()
        stream, normed = (x, leaf) if layer == "norm" else (leaf, block.norm1(leaf))
        if in_row:
            last = gather_from(encoding, block, stream, normed)
            feature = last.features(last.attn @ last.v)[:, 0]
        else:
            q, k, v = block.qkv(normed)
            feature = rest(encoding, depth - 1, finish(block, stream, attend(block, q, k) @ v), "gradcam")
    slopes = [grad[:, :, encoding.prefix :].mean(dim=2) for [grad] in score_gradients(feature, text, [leaf])]
    return torch.cat(slopes).transpose(0, 1)


def _attention_slope(
    last: Gathering, text: Tensor
) -> tuple[Float[Tensor, "image head text width"], Float[Tensor, "image head text token"]]:
    """Gradients of the scores with respect to the gathered values, and to q k before scaling and softmax."""
    grad = last.gradient(text)
    raised = grad @ last.v.to(grad).transpose(-1, -2)  # with respect to the attention
    raised = raised - (raised * last.attn).sum(dim=-1, keepdim=True)
    return grad, last.attn * raised * last.q.shape[-1] ** -0.5
