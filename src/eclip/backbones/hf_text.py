"""Text towers of transformers as a TextTower: CLIP's and SigLIP's, and the post-norm towers of BERT and RoBERTa.

They serve both transformers' own models and open_clip's HFTextEncoder. transformers is not imported here.
This module repeats host internals, which parity tests pin: masks, the pooled token, and the order of steps in BERT.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from eclip.backbones.blocks import Fn, merge_heads, reread, split_qkv
from eclip.backbones.hf_image import layer_block
from eclip.backbones.text_tower import Ids, TextBlock, TextTower, padding_mask, text_block
from eclip.errors import ModelError

BERTS = ("BertModel", "RobertaModel", "XLMRobertaModel", "ChineseCLIPTextModel", "AltRobertaModel")
"""Encoders with the weight layout of BERT."""


def end_token(text: Any) -> int:
    """The id of the token that CLIP pools.

    Raises:
        ModelError: the configuration defines none, or several, with which transformers itself cannot find it.
    """
    end = text.eos_token_id
    if not isinstance(end, int):
        raise ModelError(
            f"eos_token_id of the text configuration must be one token id, got {end!r}, with which transformers cannot "
            "compare token ids: set it to the tokenizer's eos_token_id, in config.json or on model.text_model."
        )
    return end


def clip_text(model: Any, legacy: bool) -> TextTower:
    """Pre-norm and causal; the first end token is pooled, so the padding after it has no effect.

    Old configurations wrongly state that the end token is 2; for those, CLIP pools the greatest id (`legacy`), as
    OpenAI does. In MetaCLIP 2 it is 2.
    """
    text = model.text_model
    end = end_token(text)

    def mask(ids: Ids) -> Tensor:
        size, dtype = (ids.shape[1], ids.shape[1]), text.final_layer_norm.weight.dtype
        return torch.full(size, float("-inf"), dtype=dtype, device=ids.device).triu(1)[None, None]

    def weights(ids: Ids) -> Tensor:
        marks = ids if legacy and end == 2 else (ids == end).int()
        return F.one_hot(marks.argmax(dim=1), ids.shape[1])

    def to_feature(pooled: Tensor) -> Tensor:
        return model.text_projection(text.final_layer_norm(pooled))

    return TextTower(text.embeddings, _blocks_of(text), mask, weights, to_feature)


def siglip_text(model: Any) -> TextTower:
    """Pre-norm without a mask: all tokens attend to padding, and the last position, mostly padding, is pooled."""
    text = model.text_model
    return TextTower(
        text.embeddings,
        _blocks_of(text),
        lambda ids: None,
        lambda ids: F.one_hot(torch.full_like(ids[:, 0], ids.shape[1] - 1), ids.shape[1]),
        lambda pooled: text.head(text.final_layer_norm(pooled)),
    )


def chinese_text(model: Any) -> TextTower:
    """A BERT that pools its first token."""
    return _bert(model.text_model, _first, model.text_projection)


def alt_text(model: Any) -> TextTower:
    """An XLM-RoBERTa that pools its first token, through its own norm and linear layer."""
    text = model.text_model
    return _bert(text.roberta, _first, lambda pooled: model.text_projection(text.transformation(text.pre_LN(pooled))))


def encoder_text(text: Any) -> TextTower | None:
    """open_clip's HFTextEncoder over BERT, RoBERTa or XLM-RoBERTa; None over others, whose blocks are unknown."""
    if type(text).__name__ != "HFTextEncoder" or type(text.transformer).__name__ not in BERTS:
        return None
    encoder = text.transformer
    if getattr(encoder.config, "position_embedding_type", "absolute") != "absolute":
        return None
    kind, projection = type(text.pooler).__name__, text.proj
    if kind == "MeanPooler":

        def shares(ids: Tensor) -> Tensor:
            kept = (ids != encoder.config.pad_token_id).to(encoder.embeddings.word_embeddings.weight.dtype)
            return kept / kept.sum(dim=1, keepdim=True)

        return _bert(encoder, shares, projection)
    if kind == "ClsPooler" and encoder.pooler is not None:
        inner = encoder.pooler
        return _bert(encoder, _first, lambda pooled: projection(inner.activation(inner.dense(pooled))))
    if kind in ("ClsPooler", "ClsLastHiddenStatePooler"):
        return _bert(encoder, _first, projection)
    return None


def _blocks_of(text: Any) -> Callable[[], tuple[TextBlock, ...]]:
    return reread(lambda: (text_block(layer_block(layer)) for layer in text.encoder.layers))


def _first(ids: Tensor) -> Tensor:
    return F.one_hot(torch.zeros_like(ids[:, 0]), ids.shape[1])


def _bert(encoder: Any, weights: Callable[[Tensor], Tensor], to_feature: Fn) -> TextTower:
    def mask(ids: Ids) -> Tensor:
        return padding_mask(ids != encoder.config.pad_token_id, encoder.embeddings.word_embeddings.weight)

    def build() -> tuple[TextBlock, ...]:
        stack = encoder.encoder  # its list is `layer` in BERT; in AltCLIP `layers` from transformers 5 on
        return tuple(_post_norm(layer) for layer in getattr(stack, "layer", None) or stack.layers)

    return TextTower(lambda ids: _embed(encoder.embeddings, ids), build, mask, weights, to_feature)


def _embed(parts: Any, ids: Ids) -> Tensor:
    """Sum of word, position and first token type embeddings, normalized; without the dropout of training mode."""
    place = torch.arange(ids.shape[1], dtype=torch.long, device=ids.device).expand_as(ids)
    if hasattr(parts, "padding_idx"):  # RoBERTa counts from the padding id + 1, and does not count padding
        kept = (ids != parts.padding_idx).long()
        place = kept.cumsum(dim=1) * kept + parts.padding_idx
    kind = parts.token_type_embeddings(torch.zeros_like(ids))
    return parts.LayerNorm(parts.word_embeddings(ids) + kind + parts.position_embeddings(place))


def _post_norm(layer: Any) -> TextBlock:
    """BERT's block: `h = norm(x + attention(x))`, then `norm(h + mlp(h))`."""
    inner, after, behind = layer.attention.self, layer.attention.output, layer.output
    heads = int(inner.num_attention_heads)

    def finish(x: Tensor, attended: Tensor) -> Tensor:
        x = after.LayerNorm(x + attended)
        return behind.LayerNorm(x + behind.dense(layer.intermediate(x)))

    return TextBlock(
        heads,
        qkv=lambda x: split_qkv((part(x) for part in (inner.query, inner.key, inner.value)), heads),
        out=lambda mixed: after.dense(merge_heads(mixed)),
        finish=finish,
    )
