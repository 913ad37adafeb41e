"""CoCa: its image feature, from a learned query or CLS, and its texts; adapters, hooks, wrappers, threads, copies."""

from __future__ import annotations

import copy
import json
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

import eclip
import tiny
from eclip.backbones import create
from eclip.backbones.backbone import Backbone
from eclip.backbones.encoding import encode
from eclip.backbones.text_tower import run_text_block
from eclip.errors import AlteredModelError, ModelError, NotApplicableError
from eclip.methods import METHODS
from test_agreement import adapted, apart, hooked, maps, uneven
from test_backbones import _assert_same, _state
from test_text_towers import _encoder

POOLER = {"attentional_pool": True, "attn_pooler_heads": 2, "attn_pooler_queries": 5}
KINDS: dict[str, tuple[int, dict[str, Any]]] = {
    "wider tokens than features": (24, POOLER),
    "one width": (32, POOLER),
    "no pooler": (24, {}),
}
"""coca_ViT-B-32 and -L-14 have wider tokens; coca_base and coca_roberta-ViT-B-32 have no pooler."""
IMAGE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8))
TEXTS = ["a big dog", "! the photo of an elephant", ""]
METHODS_FEW = ("legrad", "gradcam", "chefer", "decompose", "surgery")


def coca(kind: str = "wider tokens than features", **text: Any) -> Any:
    features, vision = KINDS[kind]
    decoder = {"context_length": 76, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        built = open_clip.CoCa(
            features,
            decoder,
            {**tiny.TEXT, "context_length": 76, "embed_cls": True, "output_tokens": True, **text},
            {**tiny.VIT, "output_tokens": True, **vision},
        )
        nn.init.zeros_(built.text_decoder.text_projection)  # memory that open_clip leaves as it was
        for weight in built.parameters():
            weight.data.add_(0.02 * torch.randn_like(weight))
    return built.eval()


def wrapped(model: nn.Module) -> Backbone:
    return eclip.wrap(model, mean=tiny.MEAN, std=tiny.STD, name="CoCa")


@pytest.mark.parametrize(("dtype", "bar"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 0.03)])
@pytest.mark.parametrize("kind", KINDS)
def test_features_are_the_models_own(kind: str, dtype: torch.dtype, bar: float) -> None:
    backbone = wrapped(coca(kind).to(dtype))
    encoding = encode(backbone, tiny.pixels(backbone))
    with torch.no_grad():
        image = backbone.model.encode_image(encoding.pixels, normalize=False)
        text = backbone.model.encode_text(backbone.tokenize(TEXTS), normalize=False)
        unit = backbone.model.encode_image(encoding.pixels)
    assert (encoding.feature - image).norm() <= bar * image.norm()
    assert torch.equal(backbone.encode_text(TEXTS), text)
    assert apart(nn.functional.normalize(encoding.feature, dim=-1), unit) <= bar
    for name, method in METHODS.items():
        if name != "eclip":
            found = method(encoding, nn.functional.normalize(text.float(), dim=-1), **tiny.FEW.get(name, {}))
            assert found.isfinite().all() and found.std() > 0, name


@pytest.mark.parametrize("kind", ["wider tokens than features", "one width"])
def test_the_pooler_is_a_block_with_one_query(kind: str) -> None:
    backbone = wrapped(coca(kind).double())
    encoding, pooler = encode(backbone, tiny.pixels(backbone)), backbone.model.visual.attn_pool
    text = tiny.texts(backbone).double()
    normed, query = pooler.ln_k(encoding.tokens), pooler.ln_q(pooler.query).expand(2, -1, -1)
    with torch.no_grad():
        gathered, shares = pooler.attn(query, normed, normed)
        alone = [pooler(encoding.tokens[:, i : i + 1])[:, 0] for i in range(17)]
    ours = METHODS["attention"](encoding, text)[:, 0].flatten(1)
    torch.testing.assert_close(ours.double(), shares[:, 0, 1:], rtol=1e-6, atol=1e-8)
    block = backbone.latent
    assert block is not None
    torch.testing.assert_close(block.forward(encoding.tokens), gathered[:, :1], rtol=0, atol=1e-12)
    own = torch.stack([backbone.model.visual.ln_post(one) @ backbone.model.visual.proj for one in alone], dim=1)
    torch.testing.assert_close(backbone.project(encoding.tokens), own, rtol=0, atol=1e-12)


def test_legrad_takes_the_slope_of_the_poolers_own_attention() -> None:
    """Each block's output is pooled and scored, as in the authors' code for attention poolers."""
    backbone = wrapped(coca().double())
    encoding, visual = encode(backbone, tiny.pixels(backbone)), backbone.model.visual
    pooler, text = visual.attn_pool, nn.functional.normalize(tiny.texts(backbone).double(), dim=-1)
    attn = pooler.attn
    wanted = torch.zeros(2, 3, 16, dtype=torch.float64)
    for tokens in (encoding.inputs[-1], encoding.tokens):
        for index, one in enumerate(text):
            normed, biases = pooler.ln_k(tokens), attn.in_proj_bias.chunk(3)
            q = (pooler.ln_q(pooler.query[0]) @ attn.q_proj_weight.T + biases[0]).unflatten(-1, (2, 12))
            k = (normed @ attn.k_proj_weight.T + biases[1]).unflatten(-1, (2, 12))
            v = (normed @ attn.v_proj_weight.T + biases[2]).unflatten(-1, (2, 12))
            shares = (torch.einsum("hw,ithw->iht", q, k) / 12**0.5).softmax(dim=-1)
            gathered = attn.out_proj(torch.einsum("iht,ithw->ihw", shares, v).flatten(1))
            score = cosine_similarity(visual.ln_post(gathered) @ visual.proj, one[None]).sum()
            [slope] = torch.autograd.grad(score, shares)
            wanted[:, index] += slope.clamp_min(0).mean(dim=1)[:, 1:]
    torch.testing.assert_close(METHODS["legrad"].function(encoding, text).flatten(2), wanted, rtol=1e-8, atol=1e-12)


# --- texts ---


def again(backbone: Backbone, ids: Tensor) -> Tensor:
    tower = backbone.text_tower
    assert tower is not None
    x, mask = tower.embed(ids), tower.mask(ids)
    for block in tower.blocks:
        x = run_text_block(block, x, mask)
    return tower.pool(ids, x)


@pytest.mark.parametrize("shifted", [True, False])
@pytest.mark.parametrize("causal", [True, False])
def test_the_text_tower_is_the_models_with_its_token_behind_the_text(causal: bool, shifted: bool) -> None:
    """The mask of published weights is shifted by one; "!" has the id of padding. Both are the model's own."""
    backbone = wrapped(coca(no_causal_mask=not causal).double())
    backbone.model.text.correct_cls_mask = not shifted
    ids = backbone.tokenize(TEXTS)
    with torch.no_grad():
        torch.testing.assert_close(again(backbone, ids), backbone.encode_text(TEXTS), rtol=0, atol=1e-12)
    words = eclip.explain_words(IMAGE, TEXTS[0], model=backbone, method="gradeclip")
    assert words.words[0] == ("a", "big", "dog") and np.abs(words.values[0]).min() > 0


def test_pairs_add_up_with_the_text_token() -> None:
    """With a part of the text tower, the path moves that token too; without its share, the sum would be off."""
    backbone = wrapped(coca().double())
    found = eclip.interactions(IMAGE, "a big dog", model=backbone, points=40, text_depth=1)
    assert found.total == pytest.approx(found.goal, rel=0.03)


def test_roberta_as_text_tower() -> None:
    """As coca_roberta-ViT-B-32."""
    model = coca("no pooler").double()
    model.text = _encoder("roberta", "mean_pooler", "linear")
    model.text.output_tokens = True
    pad = model.text.config.pad_token_id

    def tokenizer(texts: list[str]) -> Tensor:
        rows = [[2, *(5 + ord(letter) % 50 for letter in text), 3] for text in texts]
        return torch.tensor([[*row, *[pad] * (18 - len(row))][:18] for row in rows])

    backbone = eclip.wrap(model, tokenizer=tokenizer, mean=tiny.MEAN, std=tiny.STD)
    texts = ["big dog", "elephant"]
    with torch.no_grad():
        expected = model.encode_text(tokenizer(texts), normalize=False)
        torch.testing.assert_close(backbone.encode_text(texts), expected, rtol=0, atol=1e-12)
        torch.testing.assert_close(again(backbone, backbone.tokenize(texts)), expected, rtol=0, atol=1e-12)
    explained = eclip.explain(IMAGE, texts, model=backbone, method="legrad")
    assert explained.maps.shape[1] == 2
    with pytest.raises(NotApplicableError, match="averages the tokens of a text"):
        eclip.explain_words(IMAGE, texts, model=backbone, method="gradeclip")


# --- refused, adapted, hooked, wrapped ---


@pytest.mark.parametrize("tower", ["visual", "text"])
def test_a_tower_that_returns_no_tokens_is_refused(tower: str) -> None:
    """CoCa would unpack a batch of two into feature and tokens."""
    model = coca()
    getattr(model, tower).output_tokens = False
    with pytest.raises(ModelError, match=rf"set model\.{tower}\.output_tokens = True"):
        wrapped(model)


@pytest.mark.long
def test_unmerged_lora_gives_the_maps_of_the_merged_model() -> None:
    held = adapted(coca("one width"), ["attn", "c_fc"])
    inner = held.base_model.model
    before = {key: value.clone() for key, value in inner.state_dict().items()}
    text = tiny.texts(wrapped(coca("one width")))
    unmerged, plain = maps(wrapped(inner), text), maps(wrapped(coca("one width")), text)
    words = eclip.explain_words(IMAGE, "a big dog", model=wrapped(inner)).values[0]
    assert all(torch.equal(value, before[key]) for key, value in inner.state_dict().items())
    merged = wrapped(held.merge_and_unload())
    for name, found in maps(merged, text).items():
        assert apart(unmerged[name], found) < 2e-5 and apart(plain[name], found) > 5e-4, name
    np.testing.assert_allclose(words, eclip.explain_words(IMAGE, "a big dog", model=merged).values[0], rtol=1e-3)


def test_an_adapter_that_the_pooler_never_calls_is_refused() -> None:
    inner = adapted(coca(), ["attn_pool.attn.out_proj"]).base_model.model
    with pytest.raises(AlteredModelError, match=r"never called.*merge_and_unload"):
        maps(wrapped(inner), tiny.texts(wrapped(coca())), ["legrad"])


@pytest.mark.parametrize(("part", "seen"), [("attn_pool", False), ("attn_pool.attn", True), ("attn_pool.ln_k", None)])
def test_hooks_on_the_pooler(part: str, seen: bool | None) -> None:
    """On the whole pooler and on its attention, refused; on a norm, which is called, the maps follow."""
    model = coca()
    backbone, text = wrapped(model), tiny.texts(wrapped(coca()))
    before = maps(backbone, text, ["legrad"])["legrad"]
    with hooked(model.visual.get_submodule(part), uneven):
        if seen is None:
            assert apart(maps(backbone, text, ["legrad"])["legrad"], before) > 1e-3
        else:
            with pytest.raises(AlteredModelError, match=rf"hook is registered on visual\.{part}\."):
                maps(backbone, text, ["legrad"])
    assert torch.equal(maps(backbone, text, ["legrad"])["legrad"], before)


def test_another_pooler_after_wrap_is_noticed() -> None:
    backbone = wrapped(coca())
    backbone.model.visual.attn_pool = copy.deepcopy(backbone.model.visual.attn_pool)
    backbone.model.visual.attn_pool.query.data.mul_(-1)
    with pytest.raises(AlteredModelError, match="wrap it again"):
        encode(backbone, tiny.pixels(backbone))


@pytest.mark.parametrize("part", ["visual", "visual.attn_pool", "text"])
@pytest.mark.long
def test_a_compiled_tower_gives_the_same_maps(part: str) -> None:
    model = coca()
    text = tiny.texts(wrapped(model))
    expected = maps(wrapped(model), text, ["legrad"])["legrad"]
    feature = wrapped(model).encode_text(TEXTS)
    model.set_submodule(part, torch.compile(model.get_submodule(part), backend="eager"))
    backbone = wrapped(model)
    torch.testing.assert_close(maps(backbone, text, ["legrad"])["legrad"], expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(backbone.encode_text(TEXTS), feature, rtol=1e-4, atol=1e-6)


def test_threads_copies_and_the_model_as_it_was() -> None:
    model = coca().train()
    backbone = wrapped(model)
    before, random = _state(model), torch.get_rng_state()
    pixels, text = tiny.pixels(backbone), tiny.texts(backbone)

    def work(_: int = 0) -> list[Tensor]:
        encoding = encode(backbone, pixels)
        return [METHODS[name](encoding, text) for name in METHODS_FEW]

    expected = work()
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(work, range(8)):
            assert all(map(torch.equal, found, expected))
    _assert_same(model, before, random)
    copied = copy.deepcopy(backbone)
    assert torch.equal(encode(copied, pixels).feature, encode(backbone, pixels).feature)
    assert copied.model is not model and copied.latent is not backbone.latent
    with pytest.raises(ModelError, match="cannot be pickled"):
        pickle.dumps(backbone)


def test_its_size_is_known_before_a_download() -> None:
    assert create._size("coca_ViT-B-32") == "about 967 MiB"


def test_a_folder_of_open_clip_is_loaded_and_pickles(tmp_path: Path) -> None:
    features, vision = KINDS["wider tokens than features"]
    decoder = {"context_length": 76, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    text = {**tiny.TEXT, "context_length": 76, "embed_cls": True, "output_tokens": True}
    config = {
        "embed_dim": features,
        "vision_cfg": {**tiny.VIT, "output_tokens": True, **vision},
        "text_cfg": text,
        "multimodal_cfg": decoder,
        "custom_text": True,
    }
    written = {"model_cfg": config, "preprocess_cfg": {"mean": tiny.MEAN, "std": tiny.STD}}
    (tmp_path / create.CONFIG).write_text(json.dumps(written), encoding="utf-8")
    save_file(coca().state_dict(), tmp_path / create.WEIGHTS[0])
    loaded, own = eclip.load(f"local-dir:{tmp_path}"), wrapped(coca())
    assert apart(encode(loaded, tiny.pixels(own)).feature, encode(own, tiny.pixels(own)).feature) < 1e-5
    assert apart(loaded.encode_text(TEXTS), own.encode_text(TEXTS)) < 1e-5
    assert pickle.loads(pickle.dumps(loaded)) is loaded
