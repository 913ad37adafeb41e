"""Tiny models of transformers with random weights, one of each class, their tokenizers, and twins in open_clip."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from typing import Any

import open_clip
import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

import eclip
import tiny
from eclip.backbones.backbone import Backbone

transformers = pytest.importorskip("transformers", reason="models of transformers need pip install 'eclip[hf]'")
tokenizers = pytest.importorskip("tokenizers")

WORDS = ["a", "an", "the", "image", "of", "dog", "cat", "elephant", "in", "front", "ball", "狗", "猫", "一", "只", "的"]
VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 7,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
}
TEXT = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
BERT = {**TEXT, "vocab_size": 100, "pad_token_id": 0, "max_position_embeddings": 80}
MEAN, STD = tiny.MEAN, tiny.STD


def _config(name: str, text: dict[str, Any], vision: dict[str, Any], **options: Any) -> Any:
    if not hasattr(transformers, f"{name}Config"):
        pytest.skip(f"transformers {transformers.__version__} has no {name}")
    return getattr(transformers, f"{name}Config")(text_config=text, vision_config=vision, **options)


def _clip(end: int = 2, act: str = "quick_gelu") -> Any:
    text = {**TEXT, "vocab_size": 100, "max_position_embeddings": 77, "hidden_act": act}
    text |= {"eos_token_id": end, "bos_token_id": 98, "pad_token_id": 99}
    return _config("CLIP", text, {**VISION, "hidden_act": act}, projection_dim=24)


def _metaclip() -> Any:
    text = {
        **TEXT,
        "vocab_size": 100,
        "max_position_embeddings": 77,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "pad_token_id": 1,
    }
    return _config("MetaClip2", text, {**VISION, "hidden_act": "quick_gelu"}, projection_dim=24)


def _alt() -> Any:
    text = {**BERT, "pad_token_id": 1, "project_dim": 20}
    return _config("AltCLIP", text, {**VISION, "hidden_act": "quick_gelu"}, projection_dim=24)


def _siglip(name: str = "Siglip", act: str = "gelu_pytorch_tanh") -> Any:
    vision = {**VISION, "hidden_act": act}
    if name == "Siglip2":
        del vision["image_size"]
        vision["num_patches"] = 16
    return _config(
        name,
        {
            **TEXT,
            "vocab_size": 100,
            "max_position_embeddings": 64,
            "pad_token_id": 1,
            "bos_token_id": 0,
            "eos_token_id": 2,
        },
        vision,
    )


FAMILIES: dict[str, Callable[[], Any]] = {
    "CLIP, end told as 2": _clip,
    "CLIP": lambda: _clip(end=99),
    "CLIP, gelu": lambda: _clip(end=99, act="gelu"),
    "MetaCLIP 2": _metaclip,
    "Chinese-CLIP": lambda: _config(
        "ChineseCLIP", dict(BERT), {**VISION, "hidden_act": "quick_gelu"}, projection_dim=24
    ),
    "AltCLIP": _alt,
    "SigLIP": _siglip,
    "SigLIP, gelu": lambda: _siglip(act="gelu"),
    "SigLIP 2 NaFlex": lambda: _siglip("Siglip2"),
}


@cache
def _model(family: str, attention: str, seed: int) -> Any:
    config = FAMILIES[family]()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        cls = getattr(transformers, type(config).__name__.replace("Config", "Model"))
        if attention == "sdpa" and not cls._supports_sdpa:
            pytest.skip(f"{cls.__name__} of transformers {transformers.__version__} has no sdpa")
        built = cls._from_config(config, attn_implementation=attention)
        for weight in built.parameters():
            weight.data.add_(0.05 * torch.randn_like(weight))
    return built.eval()


def model(family: str, attention: str = "sdpa", seed: int = 0) -> Any:
    """A copy of the model in evaluation mode, with noise on every weight."""
    return copy.deepcopy(_model(family, attention, seed))


@cache
def tokenizer(family: str) -> Any:
    """A tokenizer of the kind that the family has, from a vocabulary built here."""
    if family.startswith("CLIP"):
        return _byte_pairs()
    if family == "Chinese-CLIP":
        return _word_pieces()
    if family == "SigLIP 2 NaFlex" and hasattr(transformers, "Siglip2Tokenizer"):
        return _byte_fallback()
    return _unigram(start=not family.startswith("SigLIP"))


def _byte_pairs() -> Any:
    """CLIP's: byte pairs, lower case, start and end, padded with the end token."""

    vocab = {}
    for letter in [
        *"abcdefghijklmnopqrstuvwxyz",
        *(f"{one}</w>" for one in "abcdefghijklmnopqrstuvwxyz"),
        "do",
        "dog</w>",
    ]:
        vocab[letter] = len(vocab)

    vocab |= {"<|startoftext|>": 98, "<|endoftext|>": 99}
    merges = [("d", "o"), ("do", "g</w>")]
    inner = tokenizers.Tokenizer(
        tokenizers.models.BPE(vocab, merges, end_of_word_suffix="</w>", unk_token="do", fuse_unk=False)
    )
    inner.normalizer = tokenizers.normalizers.Lowercase()
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    return _fast(inner, "<|startoftext|>", "<|endoftext|>", "<|endoftext|>", vocab, 77)


def _word_pieces() -> Any:
    vocab = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3}
    for word in [*WORDS, "##s", "##o", "##g", *"bcdefghijklmnopqrstuvwxyz"]:
        vocab.setdefault(word, len(vocab))
    inner = tokenizers.Tokenizer(tokenizers.models.WordPiece(vocab, unk_token="[UNK]"))
    inner.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=True)
    inner.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    return _fast(inner, "[CLS]", "[SEP]", "[PAD]", vocab, 60)


def _unigram(start: bool) -> Any:
    """As XLM-RoBERTa's (start and end) and SigLIP's (end alone)."""
    pieces = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -3.0)]
    pieces += [(f"▁{word}", -2.0) for word in WORDS] + [
        (letter, -5.0) for letter in "abcdefghijklmnopqrstuvwxyz狗猫一只"
    ]
    inner = tokenizers.Tokenizer(tokenizers.models.Unigram(pieces, unk_id=3, byte_fallback=False))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    vocab = {piece: place for place, (piece, _) in enumerate(pieces)}
    return _fast(inner, "<s>" if start else None, "</s>", "<pad>", vocab, 77 if start else 64)


def _byte_fallback() -> Any:
    """SigLIP 2's, as Gemma's: lower case, spaces are letters, the end alone; padded on the right, as trained."""
    letters = ["<pad>", "<s>", "</s>", "<unk>", "▁", *"abcdefghijklmnopqrstuvwxyz狗猫一只", "do", "dog"]
    vocab = {letter: place for place, letter in enumerate(letters)}
    built = transformers.Siglip2Tokenizer(
        vocab=vocab,
        merges=[("d", "o"), ("do", "g")],
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        padding_side="right",
        model_max_length=64,
    )
    built.backend_tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 2)]
    )
    return built


def _fast(inner: Any, start: str | None, end: str, pad: str, vocab: dict[str, int], most: int) -> Any:
    marks = [(token, vocab[token]) for token in (start, end) if token is not None]
    inner.post_processor = tokenizers.processors.TemplateProcessing(
        single=f"{start} $A {end}" if start else f"$A {end}", special_tokens=marks
    )
    names = {"bos_token": start} if start else {}
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token=end, pad_token=pad, model_max_length=most, **names
    )


def backbone(family: str, dtype: torch.dtype = torch.float64, attention: str = "sdpa") -> Backbone:
    """A model of its own at each call, so that a test may break it."""
    host = model(family, attention).to(dtype)
    return _headed(eclip.wrap(host, tokenizer=tokenizer(family), mean=MEAN, std=STD, name=family))


@cache
def kept(family: str, dtype: torch.dtype = torch.float64, attention: str = "sdpa") -> Backbone:
    """One model for all tests that only read it."""
    return tiny.remember(backbone(family, dtype, attention))


def image_features(host: Any, pixels: torch.Tensor) -> torch.Tensor:
    """The host's own, off its grid too."""
    if type(host).__name__ == "Siglip2Model":
        patch = host.config.vision_config.patch_size
        row, col = pixels.shape[2] // patch, pixels.shape[3] // patch
        rows = pixels.reshape(len(pixels), 3, row, patch, col, patch).permute(0, 2, 4, 3, 5, 1)
        answer = host.get_image_features(
            pixel_values=rows.reshape(len(pixels), row * col, -1),
            pixel_attention_mask=torch.ones(len(pixels), row * col, dtype=torch.long),
            spatial_shapes=torch.tensor([[row, col]] * len(pixels)),
        )
    else:
        answer = host.get_image_features(pixel_values=pixels, interpolate_pos_encoding=True)
    return answer if isinstance(answer, torch.Tensor) else answer.pooler_output


def text_features(host: Any, texts: list[str], with_tokenizer: Any) -> torch.Tensor:
    """The host's own, fed as its processor feeds it: SigLIP padded to its length and without mask, others with one."""
    options = {"padding": True, "truncation": True}
    if "Siglip" in type(host).__name__:
        options = {"padding": "max_length", "truncation": True, "max_length": 64, "return_attention_mask": False}
    given = with_tokenizer(texts, return_tensors="pt", return_token_type_ids=False, **options)
    answer = host.get_text_features(**given)
    return answer if isinstance(answer, torch.Tensor) else answer.pooler_output


# --- twins ---


def twin(of: Backbone) -> Backbone:
    """The same image tower and text features as a model of open_clip, the weights carried over by their names."""
    host = of.model
    built = (_siglip_twin if of.pooling == "latent" else _clip_twin)(host).to(of.weight.dtype).eval()
    return _headed(eclip.wrap(built, tokenizer=tiny._tokenizer(), mean=MEAN, std=STD, name=f"twin of {of.name}"))


def _headed(bare: Backbone) -> Backbone:
    """With a head of random weights, which are the same for a model and its twin."""
    return eclip.with_head(bare, eclip.EclipHead.start(bare, init="random").to(bare.weight.dtype))


def _clip_twin(host: Any) -> nn.Module:
    act = host.config.vision_config.hidden_act
    built = open_clip.CLIP(24, dict(tiny.VIT, mlp_ratio=2.0), dict(tiny.TEXT), quick_gelu=act == "quick_gelu")
    vision, visual = host.vision_model, built.visual
    pairs = [
        (visual.conv1.weight, vision.embeddings.patch_embedding.weight),
        (visual.class_embedding, vision.embeddings.class_embedding),
        (visual.positional_embedding, vision.embeddings.position_embedding.weight),
        (visual.proj, host.visual_projection.weight.T),
    ]
    pairs += [*_norm(visual.ln_pre, vision.pre_layrnorm), *_norm(visual.ln_post, vision.post_layernorm)]
    for ours, theirs in zip(visual.transformer.resblocks, vision.encoder.layers, strict=True):
        attn = theirs.self_attn
        parts = (attn.q_proj, attn.k_proj, attn.v_proj)
        pairs += [(ours.attn.in_proj_weight, torch.cat([part.weight for part in parts]))]
        pairs += [(ours.attn.in_proj_bias, torch.cat([part.bias for part in parts]))]
        pairs += [*_norm(ours.ln_1, theirs.layer_norm1), *_norm(ours.ln_2, theirs.layer_norm2)]
        pairs += _norm(ours.attn.out_proj, attn.out_proj)
        pairs += [*_norm(ours.mlp.c_fc, theirs.mlp.fc1), *_norm(ours.mlp.c_proj, theirs.mlp.fc2)]
    return _carry(built, host, pairs)


def _siglip_twin(host: Any) -> nn.Module:
    tanh = host.config.vision_config.hidden_act == "gelu_pytorch_tanh"
    built = tiny.FAMILIES["siglip"]()
    built.visual.trunk = trunk = VisionTransformer(
        img_size=32,
        patch_size=8,
        embed_dim=32,
        depth=7,
        num_heads=2,
        mlp_ratio=2,
        class_token=False,
        global_pool="map",
        num_classes=0,
        act_layer="gelu_tanh" if tanh else "gelu",
    )
    if tanh:
        trunk.attn_pool.mlp.act = nn.GELU(approximate="tanh")
    vision, pool = host.vision_model, trunk.attn_pool
    patch = vision.embeddings.patch_embedding.weight
    if patch.ndim == 2:  # NaFlex: (row col color) in a row
        patch = patch.reshape(32, 8, 8, 3).permute(0, 3, 1, 2)
    q, kv = vision.head.attention.in_proj_weight.split([32, 64])
    q_bias, kv_bias = vision.head.attention.in_proj_bias.split([32, 64])
    pairs = [
        (trunk.patch_embed.proj.weight, patch),
        (trunk.patch_embed.proj.bias, vision.embeddings.patch_embedding.bias),
        (trunk.pos_embed, vision.embeddings.position_embedding.weight[None]),
        (pool.latent, vision.head.probe),
        (pool.q.weight, q),
        (pool.q.bias, q_bias),
        (pool.kv.weight, kv),
        (pool.kv.bias, kv_bias),
        *_norm(pool.proj, vision.head.attention.out_proj),
        *_norm(pool.norm, vision.head.layernorm),
        *_norm(pool.mlp.fc1, vision.head.mlp.fc1),
        *_norm(pool.mlp.fc2, vision.head.mlp.fc2),
        *_norm(trunk.norm, vision.post_layernorm),
    ]
    for ours, theirs in zip(trunk.blocks, vision.encoder.layers, strict=True):
        attn = theirs.self_attn
        parts = (attn.q_proj, attn.k_proj, attn.v_proj)
        pairs += [(ours.attn.qkv.weight, torch.cat([part.weight for part in parts]))]
        pairs += [(ours.attn.qkv.bias, torch.cat([part.bias for part in parts]))]
        pairs += [*_norm(ours.norm1, theirs.layer_norm1), *_norm(ours.norm2, theirs.layer_norm2)]
        pairs += _norm(ours.attn.proj, attn.out_proj)
        pairs += [*_norm(ours.mlp.fc1, theirs.mlp.fc1), *_norm(ours.mlp.fc2, theirs.mlp.fc2)]
    return _carry(built, host, pairs)


def _norm(ours: Any, theirs: Any) -> list[tuple[torch.Tensor, torch.Tensor]]:
    ours.eps = getattr(theirs, "eps", None)
    return [(ours.weight, theirs.weight), (ours.bias, theirs.bias)]


def _carry(built: nn.Module, host: Any, pairs: list[tuple[torch.Tensor, torch.Tensor]]) -> nn.Module:
    built.to(pairs[0][1].dtype)
    with torch.no_grad():
        built.logit_scale.copy_(host.logit_scale.reshape(()))
        for ours, theirs in pairs:
            assert ours.shape == theirs.shape
            ours.data = theirs.detach().clone()
    left = {id(w) for w in built.visual.parameters()} - {id(ours) for ours, _ in pairs}
    assert not left, "every weight of the image tower is carried over"
    return built
