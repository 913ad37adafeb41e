"""`wrap`: a model object as a Backbone. transformers models are passed on to `huggingface.py`.

Parity tests of every family pin the internals of open_clip 3.3.0 and timm 1.0.31 that are used.
"""

from __future__ import annotations

import sys
from functools import partial
from typing import Any

from open_clip import CLIP, CoCa, CustomTextCLIP
from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from open_clip.transformer import VisionTransformer
from timm.layers import AttentionPool2d, AttentionPoolLatent, RotAttentionPool2d
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer as TimmViT
from timm.models.vision_transformer_relpos import VisionTransformerRelPos
from torch import Tensor, nn

from eclip.backbones.backbone import Backbone
from eclip.backbones.coca import check_coca
from eclip.backbones.create import clip_tokenizer
from eclip.backbones.hf_text import encoder_text
from eclip.backbones.host import is_quantized, original, steady
from eclip.backbones.huggingface import is_transformers, wrap_transformers
from eclip.backbones.native import native_vit, resnet
from eclip.backbones.native_text import native_text
from eclip.backbones.openai import converted, is_openai
from eclip.backbones.preprocess import Color, settled
from eclip.backbones.timm_cnn import CNNS, timm_cnn
from eclip.backbones.timm_relpos import relpos_vit
from eclip.backbones.timm_towers import timm_map, timm_pool
from eclip.backbones.timm_vit import eva_map, timm_vit
from eclip.backbones.tokenizing import NoTokenizer, Reader
from eclip.backbones.unwrapped import check_accessible, unwrapped, with_ordinary_weights
from eclip.errors import FAMILIES, ModelError, OptionError, UnsupportedTowerError, unsupported


def wrap(
    model: nn.Module,
    *,
    tokenizer: Any = None,
    processor: Any = None,
    mean: Color | None = None,
    std: Color | None = None,
    interpolation: str | None = None,
    name: str | None = None,
) -> Backbone:
    """Wrap a model object as a Backbone; the model itself is never changed.

    Args:
        model: open_clip's CLIP, CustomTextCLIP or CoCa, or transformers' CLIPModel, MetaClip2Model, ChineseCLIPModel,
            AltCLIPModel, SiglipModel or Siglip2Model; on any device, in any mode; it is run in evaluation mode. It is
            unwrapped from DataParallel, DistributedDataParallel, torch.compile or a PeftModel, and `Backbone.model` is
            the inner model, adapters included. The CLIP of OpenAI's own package is converted to open_clip's, its
            weights copied; its colors and tokenizer are known. A model created under `torch.inference_mode` gets new
            modules over the same memory, so that gradients can be computed.
        tokenizer: texts -> token ids, (text, token); a transformers tokenizer is accepted as it is. None: the
            processor's, or open_clip's CLIP tokenizer, if the vocabulary is CLIP's.
        processor: transformers' processor of the model, which provides tokenizer, mean, std and interpolation.
        mean: color mean the model was trained with, in [0, 1]. None: as open_clip recorded it on the model, or the
            processor's.
        std: color standard deviation, likewise.
        interpolation: "bicubic" or "bilinear", likewise; bicubic if not recorded.
        name: what to call it in results; the class name if None.

    Raises:
        UnsupportedTowerError: the image tower is of a kind that is not in `FAMILIES`.
        OptionError: mean, std or tokenizer is unknown and was not given, or a given value is invalid.
        ModelError: weights are not accessible: offloaded, on the device "meta", sharded, or on several devices.
    """
    model = unwrapped(model)
    if isinstance(model, nn.Module):
        check_accessible(model)
        model = with_ordinary_weights(model)
    given: dict[str, Any] = {"mean": mean, "std": std, "interpolation": interpolation}
    if is_transformers(model):
        return wrap_transformers(model, given, tokenizer, processor, name)
    model = converted(model) if is_openai(model) else model
    if not isinstance(model, CLIP | CustomTextCLIP | CoCa):
        raise UnsupportedTowerError(
            "wrap needs an open_clip CLIP, CustomTextCLIP or CoCa, or a transformers model, got "
            f"{type(model).__name__}. Supported families: {'; '.join(FAMILIES)}."
        )
    if processor is not None:
        raise OptionError("processor= requires a transformers model; for open_clip, pass tokenizer, mean and std.")
    check_coca(model)
    colors = settled(
        given,
        getattr(model.visual, "preprocess_cfg", None) or {},
        "this model does not store its color mean and std: use wrap(model, mean=(r, g, b), std=(r, g, b)) with those "
        "of its training; CLIP's are open_clip.OPENAI_DATASET_MEAN and open_clip.OPENAI_DATASET_STD.",
    )

    raw = {"normalize": False} if isinstance(model, CoCa) else {}  # unlike the others, it normalizes by default

    def encode_tokens(ids: Tensor) -> Tensor:
        try:
            with steady(model):
                return model.encode_text(ids, **raw)
        except AttributeError as error:
            if not is_quantized(*(child for child in model.children() if child is not model.visual)):
                raise
            raise ModelError(
                f"open_clip cannot encode texts with quantized layers in the text tower ({error}): quantize only the "
                "image tower, as in quantize_dynamic(model.visual, {torch.nn.Linear}, inplace=True)."
            ) from error

    return Backbone(
        name=name or type(model).__name__,
        model=model,
        tokenize=_tokenizer(model, tokenizer),
        encode_tokens=encode_tokens,
        encode_pixels=lambda pixels: model.encode_image(pixels, **raw),
        rewrap=partial(wrap, tokenizer=tokenizer, name=name, **given),
        text_tower=native_text(model) or encoder_text(getattr(model, "text", model)),
        **colors,
        **_tower(original(model.visual)),
    )


def _tokenizer(model: nn.Module, given: Any) -> Reader | NoTokenizer:
    text: Any = getattr(model, "text", model)
    words, context = getattr(text, "vocab_size", None), getattr(text, "context_length", 77)
    if given is None and words == clip_tokenizer(context).vocab_size:
        given = clip_tokenizer(context)
    if given is None:
        return NoTokenizer(
            f"the vocabulary of this model has {words} words, not CLIP's 49408, so its tokenizer cannot be "
            "guessed: use wrap(model, tokenizer=...) with a function from texts to token ids."
        )
    if hasattr(text, "transformer") and hasattr(text, "config"):  # HFTextEncoder: the context is its maximum
        pad = text.config.pad_token_id
        ahead = pad + 1 if "roberta" in text.config.model_type else 0  # it counts positions from the padding id + 1
        most = context - ahead if context else sys.maxsize  # T5 has no position table, and no limit
        return Reader(given, min(77, most), words, "masked", pad, most=most)
    if getattr(text, "use_pad_mask", False) or getattr(text, "cls_emb", None) is not None:
        return Reader(given, context, words, "masked", text.pad_id)
    pooling = getattr(text, "pool_type", getattr(text, "text_pool_type", None))
    if getattr(text, "attn_mask", None) is not None and pooling in ("argmax", "eos", "first"):
        return Reader(given, context, words, "unseen", None)
    return Reader(given, context, words, "seen", 0 if words == clip_tokenizer(context).vocab_size else None)


def _tower(visual: nn.Module) -> dict[str, Any]:
    if isinstance(visual, VisionTransformer):
        return native_vit(visual)
    if isinstance(visual, ModifiedResNet):
        return resnet(visual)
    if isinstance(visual, TimmModel):
        pool = getattr(visual.head, "pool", None)
        if isinstance(pool, AttentionPool2d | RotAttentionPool2d):
            return timm_pool(visual, pool)
        if isinstance(visual.trunk, TimmViT | Eva):
            if isinstance(visual.trunk.attn_pool, AttentionPoolLatent):
                return timm_map(visual) if isinstance(visual.trunk, TimmViT) else eva_map(visual)
            return timm_vit(visual)
        if isinstance(visual.trunk, VisionTransformerRelPos):
            return relpos_vit(visual)
        if isinstance(visual.trunk, CNNS):
            return timm_cnn(visual)
        raise unsupported(f"timm tower {type(visual.trunk).__name__} without attention pooling")
    raise unsupported(type(visual).__name__)
