"""Every kind of text tower, rerun block by block, gives the model's own text features."""

from __future__ import annotations

from typing import Any

import open_clip
import pytest
import torch
from open_clip.transformer import ResidualAttentionBlock

import eclip
import tiny
from eclip.backbones.hf_text import encoder_text
from eclip.backbones.native_text import native_text
from eclip.backbones.text_tower import TextTower, run_text_block
from eclip.errors import TextError

IDS = torch.tensor([[49406, 320, 1929, 49407, 0, 0, 0, 0], [49406, 3, 49407, 0, 0, 0, 0, 0]])
KINDS: dict[str, dict[str, Any]] = {
    "CLIP": {},
    "first": {"pool_type": "first", "no_causal_mask": True},
    "last, as SigLIP": {"pool_type": "last", "no_causal_mask": True, "proj_bias": True},
    "padding masked": {"pool_type": "argmax", "no_causal_mask": True, "use_pad_mask": True},
    "end by its id": {"pool_type": "eos", "eos_id": 49407},
    "no projection": {"proj_type": "none"},
    "normed inside": {"block_type": "custom", "scale_attn_inner": True, "scale_attn": True, "scale_heads": True},
}


def _again(tower: TextTower, ids: torch.Tensor) -> torch.Tensor:
    x, mask = tower.embed(ids), tower.mask(ids)
    for block in tower.blocks:
        x = run_text_block(block, x, mask)
    return tower.pool(ids, x)


def text_model(kind: str) -> open_clip.CustomTextCLIP:
    """A model of that kind in float64, with no weight left at zero or one."""
    torch.manual_seed(0)
    text = {**tiny.TEXT, "context_length": 8, **KINDS[kind]}
    masked = text.pop("use_pad_mask", False)  # no configuration of open_clip's reaches it, but models built in code may
    model = open_clip.CustomTextCLIP(embed_dim=32, vision_cfg=tiny.VIT, text_cfg=text).double().eval()
    model.text.use_pad_mask = masked
    for weight in model.text.parameters():
        weight.data += 0.1 * torch.randn_like(weight)
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_blocks_in_the_open_equal_open_clips(kind: str) -> None:
    model = text_model(kind)
    tower = native_text(model)
    assert tower is not None
    with torch.no_grad():
        torch.testing.assert_close(_again(tower, IDS), model.encode_text(IDS), rtol=0, atol=1e-12)


def test_clip_class_and_mixed_precision() -> None:
    model = tiny.model("vit").eval()
    tower = native_text(model)
    ids = torch.nn.functional.pad(IDS, (0, 69))
    assert tower is not None
    with torch.no_grad():
        torch.testing.assert_close(_again(tower, ids), model.encode_text(ids), rtol=1e-4, atol=1e-5)
        open_clip.model.convert_weights_to_lp(model, torch.bfloat16)
        torch.testing.assert_close(_again(tower, ids), model.encode_text(ids), rtol=0.05, atol=0.05)


def test_towers_nobody_has_read_have_no_blocks() -> None:
    cosine = open_clip.CustomTextCLIP(32, tiny.VIT, {**tiny.TEXT, "block_type": "custom", "scaled_cosine_attn": True})
    assert native_text(cosine) is None
    foreign = tiny.model("vit")
    foreign.transformer.resblocks[0] = torch.nn.Identity()
    assert not isinstance(foreign.transformer.resblocks[0], ResidualAttentionBlock)
    assert native_text(foreign) is None


HOSTS = {"roberta": "RobertaConfig", "xlm-roberta": "XLMRobertaConfig", "bert": "BertConfig"}


def _encoder(kind: str, pooler: str, projection: str = "mlp") -> torch.nn.Module:
    """open_clip's wrapper around an encoder of transformers, with random weights, as its configurations name it."""
    transformers = pytest.importorskip(
        "transformers", reason="text towers of transformers need pip install 'eclip[hf]'"
    )
    from open_clip.hf_model import HFTextEncoder

    options = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = getattr(transformers, HOSTS.get(kind, kind))(vocab_size=60, max_position_embeddings=20, **options)
    torch.manual_seed(0)
    text = HFTextEncoder("", 24, config=config, pooler_type=pooler, proj_type=projection).double().eval()
    for weight in text.parameters():
        weight.data += 0.1 * torch.randn_like(weight)
    return text


@pytest.mark.parametrize("pooler", ["mean_pooler", "cls_pooler", "cls_last_hidden_state_pooler"])
@pytest.mark.parametrize("kind", HOSTS)
def test_encoders_of_transformers_inside_open_clip(kind: str, pooler: str) -> None:
    text = _encoder(kind, pooler)
    pad = text.config.pad_token_id
    ids = torch.tensor([[2, 7, 9, 3, pad, pad], [2, 11, 12, 13, 14, 3]])
    tower = encoder_text(text)
    assert tower is not None
    with torch.no_grad():
        torch.testing.assert_close(_again(tower, ids), text(ids), rtol=0, atol=1e-12)
    torch.testing.assert_close(tower.weights(ids).sum(dim=1).double(), torch.ones(2).double())


@pytest.mark.parametrize("kind", ["bert", "roberta", "t5"])
def test_an_encoder_inside_open_clip_reads_padding_of_any_width(kind: str) -> None:
    """Padding is masked; a T5 has no table of positions, so nothing is too long for it."""
    transformers = pytest.importorskip(
        "transformers", reason="text towers of transformers need pip install 'eclip[hf]'"
    )
    model = open_clip.CustomTextCLIP(24, tiny.VIT, tiny.TEXT)
    if kind == "t5":
        from open_clip.hf_model import HFTextEncoder

        config = transformers.MT5Config(vocab_size=60, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=2)
        model.text = HFTextEncoder("", 24, config=config, pooler_type="mean_pooler", proj_type="mlp").eval()
        model.text.transformer = model.text.transformer.encoder  # as open_clip does of a model by name
    else:
        model.text = _encoder(kind, "mean_pooler").float()
    pad = model.text.config.pad_token_id

    def longest(texts: list[str], least: int = 0) -> torch.Tensor:
        rows = [[2, *(5 + ord(letter) % 50 for letter in text), 3] for text in texts]
        width = max(least, *map(len, rows))
        return torch.tensor([[*row, *[pad] * (width - len(row))] for row in rows])

    backbone = eclip.wrap(model, tokenizer=longest, mean=tiny.MEAN, std=tiny.STD)
    texts = ["dog", "an elephant"]
    with torch.no_grad():
        expected = model.text(longest(texts))
    for text, row in zip(texts, expected, strict=True):
        torch.testing.assert_close(backbone.encode_text([text])[0], row, rtol=0, atol=1e-6)
    if kind == "t5":
        assert torch.isfinite(backbone.encode_text(["elephants " * 30])).all()
    else:
        with pytest.raises(TextError, match=f"more tokens than the {20 if kind == 'bert' else 18} that"):
            backbone.encode_text(["elephants " * 3])


def test_an_encoder_inside_open_clip_is_found_by_wrap() -> None:
    model = open_clip.CustomTextCLIP(24, tiny.VIT, tiny.TEXT)
    model.text = _encoder("roberta", "mean_pooler").float()
    backbone = eclip.wrap(model, tokenizer=lambda texts: torch.full((len(texts), 6), 5), mean=tiny.MEAN, std=tiny.STD)
    assert backbone.text_tower is not None
    assert len(backbone.text_tower.blocks) == 2


def test_encoders_nobody_has_read_have_no_blocks() -> None:
    assert encoder_text(_encoder("roberta", "max_pooler")) is None
    other = _encoder("bert", "mean_pooler")
    other.transformer = torch.nn.Identity()
    assert encoder_text(other) is None
    assert encoder_text(torch.nn.Identity()) is None
