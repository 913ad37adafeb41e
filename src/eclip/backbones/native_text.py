"""Text towers that open_clip implements itself, as a TextTower.

Host internals repeated here, and pinned by parity tests: embedding and positions, masks, and the pooled token, which
in CoCa is a learned one behind the text.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from open_clip import CLIP, CoCa, CustomTextCLIP
from open_clip.transformer import TextTransformer
from torch import Tensor, nn

from eclip.backbones.blocks import reread
from eclip.backbones.native import native_block
from eclip.backbones.text_tower import TextTower, padding_mask, text_block
from eclip.errors import UnsupportedTowerError


def native_text(model: CLIP | CustomTextCLIP | CoCa) -> TextTower | None:
    """The text tower of an open_clip model: its own transformer; None for any other, whose blocks are unknown."""
    text: Any = getattr(model, "text", model)
    if not isinstance(text, CLIP | TextTransformer):
        return None
    cls = getattr(text, "cls_emb", None)  # CoCa's, behind the text and its padding; it is what is pooled then
    pooling = (
        "last" if cls is not None else text.pool_type if isinstance(text, TextTransformer) else text.text_pool_type
    )
    end = text.eos_id if isinstance(text, TextTransformer) else text.text_eos_id
    if pooling not in ("first", "last", "argmax", "eos"):
        return None

    try:
        build = reread(lambda: (text_block(native_block(block)) for block in text.transformer.resblocks))
    except UnsupportedTowerError:
        return None

    def embed(ids: Tensor) -> Tensor:
        x = text.token_embedding(ids).to(text.transformer.get_cast_dtype())
        if cls is not None:
            x = torch.cat([x, text.cls_emb.to(x).expand(len(x), 1, -1)], dim=1)
        return x + text.positional_embedding[: x.shape[1]].to(x)

    def mask(ids: Tensor) -> Tensor | None:
        if cls is not None:
            kept, own = ids != text.pad_id, torch.ones_like(ids[:, :1], dtype=torch.bool)
            # Published weights were trained with the mask of CLS in front, shifted by one against the tokens.
            kept = torch.cat([kept, own] if text.correct_cls_mask else [own, kept], dim=1)
            padding, count = padding_mask(kept, text.positional_embedding), kept.shape[1]
            return padding if text.attn_mask is None else padding + text.attn_mask[None, None, :count, :count]
        if getattr(text, "use_pad_mask", False):  # open_clip uses it only in towers without a causal mask
            return padding_mask(ids != text.pad_id, text.positional_embedding)
        return None if text.attn_mask is None else text.attn_mask[None, None, : ids.shape[1], : ids.shape[1]]

    def weights(ids: Tensor) -> Tensor:
        count = ids.shape[1] + (cls is not None)
        if pooling == "argmax":
            place = ids.argmax(dim=1)
        elif pooling == "eos":
            place = (ids == end).int().argmax(dim=1)
        else:
            place = torch.full_like(ids[:, 0], 0 if pooling == "first" else count - 1)
        return F.one_hot(place, count)

    def to_feature(pooled: Tensor) -> Tensor:
        normed = text.ln_final(pooled)
        projection = text.text_projection
        if projection is None:
            return normed
        return projection(normed) if isinstance(projection, nn.Linear) else normed @ projection

    return TextTower(embed, build, mask, weights, to_feature)
