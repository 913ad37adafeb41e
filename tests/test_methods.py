"""Methods against their formulas, recomputed the long way, and what must hold for every one of them."""

from __future__ import annotations

import math
import re
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import linear, normalize

import eclip
import tiny
from eclip.backbones.blocks import Block
from eclip.errors import KeepError, OptionError, ShapeError
from eclip.guides import GUIDES, Seen
from eclip.methods import METHODS
from eclip.methods.surgery import empty_text
from eclip.refinements import REFINEMENTS


def _run(name: str, family: str, dtype: torch.dtype = torch.float64, texts: int = 3, **options: object) -> torch.Tensor:
    backbone = tiny.kept(family, dtype)
    METHODS[name].check(options)
    return METHODS[name].function(eclip.encode(backbone, tiny.pixels(backbone)), tiny.texts(backbone, texts), **options)


# --- the long way ---


def test_itsm_is_the_cosine_of_each_token_sent_through_the_head() -> None:
    backbone = tiny.kept("vit", torch.float64)
    pixels, text = tiny.pixels(backbone), tiny.texts(backbone)
    visual = backbone.model.visual
    tokens = visual.transformer(visual._embeds(pixels.double()))
    maps = METHODS["itsm"].function(eclip.encode(backbone, pixels), text)
    for image in range(2):
        for row in range(4):
            for col in range(4):
                token = visual.ln_post(tokens[image, 1 + 4 * row + col]) @ visual.proj
                expected = torch.stack([torch.dot(token, t.double()) / token.norm() for t in text])
                torch.testing.assert_close(maps[image, :, row, col], expected, rtol=0, atol=1e-12)


def test_itsm_in_a_pool_asks_every_token() -> None:
    """The released pool answers for its first token only; rolling the tokens makes each the first in turn."""
    backbone = tiny.kept("resnet", torch.float64)
    encoding = eclip.encode(backbone, tiny.pixels(backbone))
    pool = backbone.model.visual.attnpool
    x = encoding.inputs[0] + pool.positional_embedding
    attn = torch.nn.MultiheadAttention(256, pool.num_heads, batch_first=True).double()
    attn.in_proj_weight.data = torch.cat([pool.q_proj.weight, pool.k_proj.weight, pool.v_proj.weight])
    attn.in_proj_bias.data = torch.cat([pool.q_proj.bias, pool.k_proj.bias, pool.v_proj.bias])
    attn.out_proj.weight.data, attn.out_proj.bias.data = pool.c_proj.weight, pool.c_proj.bias
    attn.out_proj = torch.nn.Identity()  # its output width differs from its input's: apply it apart
    attn.out_proj.weight, attn.out_proj.bias = torch.eye(256).double(), torch.zeros(256).double()
    expected = pool.c_proj(attn(x, x, x, need_weights=False)[0])
    torch.testing.assert_close(encoding.tokens, expected, rtol=0, atol=1e-10)


def test_itsm_plain_compares_siglips_normed_tokens() -> None:
    backbone = tiny.kept("siglip", torch.float64)
    encoding, text = eclip.encode(backbone, tiny.pixels(backbone)), tiny.texts(backbone)
    normed = normalize(backbone.model.visual.trunk.norm(encoding.tokens), dim=-1)
    expected = (normed @ text.double().T).transpose(1, 2).reshape(2, 3, 4, 4)
    torch.testing.assert_close(METHODS["itsm"].function(encoding, text, plain=True), expected, rtol=0, atol=1e-12)
    with pytest.raises(OptionError, match="requires a MAP head"):
        _run("itsm", "vit", plain=True)


@pytest.mark.parametrize("family", ["vit", "siglip"])
def test_maskclip_is_the_last_block_with_identity_attention(family: str) -> None:
    backbone = tiny.kept(family, torch.float64)
    encoding, text = eclip.encode(backbone, tiny.pixels(backbone)), tiny.texts(backbone)
    block, x = encoding.blocks[-1], encoding.inputs[-1]
    eye = torch.eye(x.shape[1], dtype=x.dtype).expand(2, block.heads, -1, -1)
    tokens = x + block.out(eye @ block.qkv(block.norm1(x))[2])
    tokens = tokens + block.mlp(block.norm2(tokens))
    features = normalize(backbone.project(tokens[:, encoding.prefix :]), dim=-1)
    expected = (features @ text.double().T).transpose(1, 2).reshape(2, 3, 4, 4)
    torch.testing.assert_close(METHODS["maskclip"].function(encoding, text), expected, rtol=0, atol=1e-12)


def test_maskclip_in_a_timm_pool_reads_values_without_positions() -> None:
    backbone = tiny.kept("timm abs_attn", torch.float64)
    encoding, text = eclip.encode(backbone, tiny.pixels(backbone)), tiny.texts(backbone)
    pool = backbone.model.visual.head.pool
    patches = encoding.trunk.flatten(2).transpose(1, 2)
    value = linear(patches, pool.qkv.weight[512:], pool.qkv.bias[512:])
    expected = normalize(pool.proj(value), dim=-1) @ text.double().T
    torch.testing.assert_close(
        METHODS["maskclip"].function(encoding, text), expected.transpose(1, 2).reshape(2, 3, 3, 3), rtol=0, atol=1e-12
    )


def _surgery_by_hand(tokens: torch.Tensor, pooled: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
    """Feature surgery as published: the product tensor, its mean over classes, then the sum over channels."""
    rows, pooled = normalize(tokens, dim=-1), normalize(pooled, dim=-1)
    weights = (2 * pooled @ text.T).softmax(-1)
    weights = weights / weights.mean()
    product = rows[:, None] * text[None] * weights[None, :, None]  # token text feature
    return (product - product.mean(dim=1, keepdim=True)).sum(-1)  # token text


def test_surgery_in_a_vit_equals_the_formula() -> None:
    backbone = tiny.kept("vit", torch.float64)
    encoding, text = eclip.encode(backbone, tiny.pixels(backbone)), tiny.texts(backbone).double()
    maps = METHODS["surgery"].function(encoding, text)
    visual = backbone.model.visual
    for image in range(2):
        stream = encoding.inputs[1][image]
        for block, x in zip(visual.transformer.resblocks[1:], encoding.inputs[1:], strict=True):
            attn = block.attn
            v = linear(block.ln_1(x[image]), attn.in_proj_weight[64:], attn.in_proj_bias[64:])
            heads = [v[:, :16], v[:, 16:]]
            mixed = torch.cat([(h @ h.T / 4).softmax(-1) @ h for h in heads], dim=-1)
            stream = stream + attn.out_proj(mixed)
        tokens = visual.ln_post(stream) @ visual.proj
        expected = _surgery_by_hand(tokens[1:], encoding.feature[image], text)
        torch.testing.assert_close(maps[image], expected.T.reshape(3, 4, 4), rtol=0, atol=1e-12)


@pytest.mark.parametrize("family", ["timm abs_attn", "timm rot_attn"])
def test_surgery_in_a_timm_pool_equals_the_formula(family: str) -> None:
    backbone = tiny.kept(family, torch.float64)
    encoding, text = eclip.encode(backbone, tiny.pixels(backbone)), tiny.texts(backbone).double()
    pool = backbone.model.visual.head.pool
    x = encoding.inputs[0]
    if family == "timm abs_attn":
        table = pool.pos_embed[1:].reshape(*pool.feat_size, -1).permute(2, 0, 1)[None].float()
        table = torch.nn.functional.interpolate(table, (3, 3), mode="bicubic", antialias=True)[0].flatten(1).T.double()
        x = x + torch.cat([pool.pos_embed[:1], table])
    v = linear(x, pool.qkv.weight[512:], pool.qkv.bias[512:]).unflatten(-1, (pool.num_heads, -1)).transpose(1, 2)
    if family == "timm rot_attn":  # values are not rotated, nor is the attention between them
        torch.testing.assert_close(v, encoding.blocks[0].qkv(encoding.inputs[0])[2], rtol=0, atol=1e-12)
    mixed = (v @ v.transpose(-1, -2) * v.shape[-1] ** -0.5).softmax(-1) @ v
    tokens = pool.proj(mixed.transpose(1, 2).flatten(2))
    maps = METHODS["surgery"].function(encoding, text)
    for image in range(2):
        expected = _surgery_by_hand(tokens[image, 1:], tokens[image, 0], text)
        torch.testing.assert_close(maps[image], expected.T.reshape(3, 3, 3), rtol=0, atol=1e-12)


def test_surgery_halves_can_be_left_out() -> None:
    torch.testing.assert_close(_run("surgery", "vit", architecture=False, features=False), _run("itsm", "vit"))
    whole, plain = _run("surgery", "vit"), _run("surgery", "vit", features=False)
    assert (whole - plain).abs().max() > 1e-3
    assert (_run("surgery", "vit", architecture=False) - whole).abs().max() > 1e-4
    assert (_run("surgery", "vit", depth=1) - whole).abs().max() > 1e-4


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_surgery_of_several_texts_sums_to_zero(family: str) -> None:
    maps = _run("surgery", family)
    torch.testing.assert_close(maps.sum(dim=1), torch.zeros_like(maps[:, 0]), rtol=0, atol=1e-12)
    assert maps.abs().max() > 1e-4


def test_surgery_compares_a_single_text_with_the_empty_one() -> None:
    backbone = tiny.kept("vit", torch.float64)
    encoding, text = eclip.encode(backbone, tiny.pixels(backbone)), tiny.texts(backbone, 1)
    single = METHODS["surgery"].function(encoding, text)
    empty = eclip.encode_texts(backbone, [""], templates="surgery85")
    torch.testing.assert_close(empty_text(backbone), empty[0], rtol=0, atol=1e-12)
    plain = METHODS["surgery"].function(encoding, text, features=False)
    shared = METHODS["surgery"].function(encoding, empty, features=False)
    torch.testing.assert_close(single, plain - shared, rtol=0, atol=1e-12)
    torch.testing.assert_close(
        METHODS["surgery"].function(encoding, text, reference=empty[0]), single, rtol=0, atol=1e-12
    )


def test_empty_text_follows_weights_changed_in_place() -> None:
    backbone = tiny.backbone("vit")
    before = empty_text(backbone)
    assert empty_text(backbone) is before, "computed once"
    with torch.no_grad():
        backbone.model.token_embedding.weight.mul_(1.5)
    after = empty_text(backbone)
    assert (after - before).abs().max() > 1e-3
    backbone.model.token_embedding.weight.data.mul_(2 / 3)  # seen by no version counter
    torch.testing.assert_close(empty_text(backbone), before, rtol=0, atol=1e-6)


def test_surgery_names_wrong_options() -> None:
    with pytest.raises(OptionError, match="depth >= 1, got 0"):
        _run("surgery", "vit", depth=0)
    with pytest.raises(OptionError, match="released_vv or normed_scale8, got 'vv'"):
        _run("surgery", "resnet", resnet="vv")
    with pytest.raises(ShapeError, match=r"of shape \(24,\), got \(3,\)"):
        _run("surgery", "vit", reference=torch.zeros(3))
    with pytest.raises(OptionError, match="cannot subtract a reference: leave one of them out"):
        _run("surgery", "vit", reference=torch.zeros(24), features=False)


@pytest.mark.parametrize("name", METHODS)
def test_an_option_of_no_method_is_refused(name: str) -> None:
    with pytest.raises(OptionError, match=f"{name!r} has no option 'colour'; it has"):
        _run(name, "vit", colour=1)


def test_maskclip_in_a_resnet_reads_values_without_positions() -> None:
    backbone = tiny.kept("resnet", torch.float64)
    encoding, text = eclip.encode(backbone, tiny.pixels(backbone)), tiny.texts(backbone)
    pool = backbone.model.visual.attnpool
    value = pool.c_proj(pool.v_proj(encoding.trunk.flatten(2).transpose(1, 2)))
    expected = (normalize(value, dim=-1) @ text.double().T).transpose(1, 2).reshape(2, 3, 2, 2)
    torch.testing.assert_close(METHODS["maskclip"].function(encoding, text), expected, rtol=0, atol=1e-12)


def test_surgery_normed_scale8_changes_the_patch_rows_alone() -> None:
    backbone = tiny.kept("resnet", torch.float64)
    encoding, text = eclip.encode(backbone, tiny.pixels(backbone)), tiny.texts(backbone).double()
    pool = backbone.model.visual.attnpool
    x = encoding.inputs[0] + pool.positional_embedding
    v = pool.v_proj(x).unflatten(-1, (pool.num_heads, -1)).transpose(1, 2)
    unit = normalize(v, dim=-1)
    plain = (v @ v.transpose(-1, -2) * v.shape[-1] ** -0.5).softmax(-1) @ v
    mixed = (unit @ unit.transpose(-1, -2)).softmax(-1) @ v
    mixed[:, :, 0] = plain[:, :, 0]
    tokens = pool.c_proj(mixed.transpose(1, 2).flatten(2))
    maps = METHODS["surgery"].function(encoding, text, resnet="normed_scale8")
    for image in range(2):
        expected = _surgery_by_hand(tokens[image, 1:], tokens[image, 0], text)
        torch.testing.assert_close(maps[image], expected.T.reshape(3, 2, 2), rtol=0, atol=1e-12)


def _last_block(family: str) -> tuple[eclip.Encoding, Block, torch.Tensor, tuple[torch.Tensor, ...], torch.Tensor]:
    backbone = tiny.kept(family, torch.float64)
    encoding = eclip.encode(backbone, tiny.pixels(backbone, rows=2, cols=3))
    block, x = encoding.blocks[-1], encoding.inputs[-1]
    return encoding, block, x, block.qkv(block.norm1(x)), tiny.texts(backbone).double()


def _cosines(encoding: eclip.Encoding, tokens: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
    features = normalize(encoding.backbone.project(tokens[:, encoding.prefix :]), dim=-1)
    return (features @ text.T).transpose(1, 2).reshape(2, 3, 2, 3)


def _softmax(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return (torch.einsum("ihqw,ihkw->ihqk", a, b) / a.shape[-1] ** 0.5).softmax(dim=-1)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_sclip_adds_two_attentions(family: str) -> None:
    encoding, block, x, (q, k, v), text = _last_block(family)
    tokens = block.out((_softmax(q, q) + _softmax(k, k)) @ v)
    if block.residual:
        tokens = x + tokens
        tokens = tokens + block.mlp(block.norm2(tokens))
    expected = _cosines(encoding, tokens, text)
    torch.testing.assert_close(METHODS["sclip"].function(encoding, text), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_clearclip_keeps_what_attention_brings(family: str) -> None:
    encoding, block, _, (q, k, v), text = _last_block(family)
    for name, attn in {"qq": _softmax(q, q), "kk": _softmax(k, k), "vv": _softmax(v, v), "qk": _softmax(q, k)}.items():
        expected = _cosines(encoding, block.out(attn @ v), text)
        ours = METHODS["clearclip"].function(encoding, text, attention=name)
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(
        METHODS["clearclip"].function(encoding, text, attention="identity"),
        _cosines(encoding, block.out(v), text),
        rtol=0,
        atol=1e-12,
    )
    if block.residual:
        whole = METHODS["clearclip"].function(encoding, text, attention="qk", residual=True)
        torch.testing.assert_close(whole, METHODS["itsm"].function(encoding, text), rtol=0, atol=1e-10)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_naclip_favors_patches_that_are_near(family: str) -> None:
    encoding, block, _, (_, k, v), text = _last_block(family)
    near = torch.zeros(k.shape[2], k.shape[2], dtype=torch.float64)
    for one in range(6):
        for other in range(6):
            distance = (one // 3 - other // 3) ** 2 + (one % 3 - other % 3) ** 2
            near[encoding.prefix + one, encoding.prefix + other] = math.exp(-distance / (2 * 1.5**2))
    scores = torch.einsum("ihqw,ihkw->ihqk", k, k) / k.shape[-1] ** 0.5
    expected = _cosines(encoding, block.out((scores + near).softmax(dim=-1) @ v), text)
    ours = METHODS["naclip"].function(encoding, text, std=1.5)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-12)
    without = METHODS["naclip"].function(encoding, text, neighbors=False)
    torch.testing.assert_close(
        without, METHODS["clearclip"].function(encoding, text, attention="kk"), rtol=0, atol=1e-12
    )
    for std in (0.0, float("inf"), float("nan"), 1e-170, 1e200):
        with pytest.raises(OptionError, match=re.escape(f"a std from 1e-06 to 1e+06 patches, got {std}")):
            METHODS["naclip"](encoding, text, std=std)


@pytest.mark.parametrize("iterations", [0, 1, 2])
@pytest.mark.parametrize("family", ["vit", "vit with query norm", "siglip", "resnet", "timm rot_attn"])
def test_gem_mixes_three_self_self_attentions(family: str, iterations: int) -> None:
    encoding, block, _, _, text = _last_block(family)
    stream = encoding.inputs[-6:][0] if block.residual else 0
    for block, x in zip(encoding.blocks[-6:], encoding.inputs[-6:], strict=True):
        normed = block.norm1(x)
        v = block.qkv(normed)[2]
        temperature = normed.norm(dim=-1).mean(dim=-1) / v.shape[-1] ** 0.5
        total = 0
        for z in block.qkv(normed):
            z = normalize(z, dim=-1)
            for _ in range(iterations):
                attn = (temperature[:, None, None, None] * z @ z.transpose(2, 3)).softmax(dim=-1)
                z = normalize(attn @ z, dim=-1)
            total = total + (temperature[:, None, None, None] * z @ z.transpose(2, 3)).softmax(dim=-1) @ v / 3
        stream = stream + block.out(total)
    ours = METHODS["gem"].function(encoding, text, iterations=iterations)
    torch.testing.assert_close(ours, _cosines(encoding, stream, text), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.kind != "perturbation"])
def test_maps_of_texts_share_no_memory(name: str) -> None:
    backbone = tiny.kept("vit")
    maps = METHODS[name](eclip.encode(backbone, tiny.pixels(backbone)), tiny.texts(backbone))
    others = maps[:, 1:].clone()
    maps[:, 0].zero_()
    assert torch.equal(maps[:, 1:], others)


@pytest.mark.parametrize("kind", [METHODS, REFINEMENTS, GUIDES])
def test_arguments_of_a_wrong_kind_are_told(kind: Any, shapes_unchecked: Any) -> None:
    encoding, _, _, _, text = _last_block("vit")
    maps, seen = METHODS["itsm"](encoding, text), Seen([], [], encoding)
    said = {
        id(METHODS): [(encoding, text.numpy()), (encoding, ["a dog"]), (text, encoding)],
        id(REFINEMENTS): [(maps.numpy(), encoding), (encoding, maps), (maps, maps)],
        id(GUIDES): [(encoding,), (seen.images,)],
    }
    for arguments in said[id(kind)]:
        with pytest.raises(OptionError, match=r"^(text|encoding|maps|seen) must be of type \w+, as .*, got \w+\.$"):
            next(iter(kind.values()))(*arguments)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_attention_and_rollout_multiplied_out(family: str) -> None:
    """As whole matrices, identities and row sums included; the last layer of a MAP head has one row."""
    encoding, _, _, _, text = _last_block(family)
    backbone, prefix = encoding.backbone, encoding.prefix
    layers = [_softmax(*block.qkv(block.norm1(x))[:2]).mean(dim=1) for block, x in _walk(encoding)]
    if backbone.latent is not None:
        layers.append(_softmax(*backbone.latent.qkv(backbone.latent.norm1(encoding.tokens))[:2]).mean(dim=1))
    rows = slice(prefix, None) if family in tiny.AVERAGED else slice(0, 1)
    expected = layers[-1][:, rows].mean(dim=1)[:, prefix:].reshape(2, 1, 2, 3).expand(-1, 3, -1, -1)
    torch.testing.assert_close(METHODS["attention"].function(encoding, text), expected, rtol=0, atol=1e-12)
    if family in tiny.POOLS:
        return
    product = torch.eye(encoding.tokens.shape[1], dtype=torch.float64)
    for layer in layers:
        if layer.shape[1] == layer.shape[2]:
            layer = layer + torch.eye(layer.shape[1])
            layer = layer / layer.sum(dim=-1, keepdim=True)
        product = layer @ product
    expected = product[:, rows].mean(dim=1)[:, prefix:].reshape(2, 1, 2, 3).expand(-1, 3, -1, -1)
    torch.testing.assert_close(METHODS["rollout"].function(encoding, text), expected, rtol=0, atol=1e-12)


def _walk(encoding: eclip.Encoding) -> list[tuple[Block, torch.Tensor]]:
    return list(zip(encoding.blocks, encoding.inputs, strict=True))


def test_similarity_methods_name_wrong_options() -> None:
    for name, options, message in [
        ("clearclip", {"attention": "qv"}, "attention to be one of qq, kk, vv, qk, identity, got 'qv'"),
        ("gem", {"depth": 0}, "depth >= 1 and iterations >= 0, got 0 and 1"),
        ("gem", {"iterations": -1}, "got 6 and -1"),
    ]:
        with pytest.raises(OptionError, match=message):
            _run(name, "vit", **options)


def test_what_methods_rerun() -> None:
    assert METHODS["surgery"].keep_for({"depth": 9}) == 9
    assert METHODS["surgery"].keep_for({"depth": 2}) == 6
    for name, method in METHODS.items():
        backbone = tiny.kept("vit")
        encoding = eclip.encode(backbone, tiny.pixels(backbone), keep=method.keep)
        method(encoding, tiny.texts(backbone), **tiny.FEW.get(name, {}))
        if method.keep:
            less = eclip.encode(backbone, tiny.pixels(backbone), keep=method.keep - 1)
            if name != "gscorecam":  # of a ViT it needs the output alone
                with pytest.raises(KeepError, match=f"'{name}' reruns the last {method.keep} of 7 blocks"):
                    method(less, tiny.texts(backbone))


def test_maps_are_float32_without_gradient_and_texts_are_checked() -> None:
    backbone = tiny.kept("vit", torch.float64)
    assert all(weight.requires_grad for weight in backbone.model.parameters()), "a model in training"
    encoding, text = eclip.encode(backbone, tiny.pixels(backbone)), tiny.texts(backbone)
    for name, method in METHODS.items():
        maps = method(encoding, text, **tiny.FEW.get(name, {}))
        assert maps.dtype == torch.float32
        assert not maps.requires_grad
        for wrong in (text[0], text[:, :5], text[:0]):
            with pytest.raises(ShapeError, match=r"must be \(text, feature\) = \(1 or more, 24\), got"):
                method(encoding, wrong)


@pytest.mark.parametrize("family", ["vit", "resnet", "siglip"])
@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.versus is not None])
@pytest.mark.long(every=5)
def test_the_difference_of_two_texts_is_signed(name: str, family: str) -> None:
    """Changing sides changes the sign; of linear methods it is the difference of the two maps."""
    backbone = tiny.kept(family, torch.float64)
    encoding, text = eclip.encode(backbone, tiny.pixels(backbone)), tiny.texts(backbone, 3).double()
    method, options = METHODS[name], tiny.FEW.get(name, {})
    for_two = method.difference(encoding, text[:2], text[2:], **options)
    against = method.difference(encoding, text[2:], text[:1], **options)
    torch.testing.assert_close(against, -for_two[:, :1], rtol=0, atol=1e-6)
    assert for_two.std() > 1e-9
    if method.kind == "gradient" and not method.signed:
        assert (for_two > 0).any()
        assert (for_two < 0).any(), "what speaks for the other text is kept"
        return
    own = [method(encoding, text[i : i + 1], **options, **(method.versus or {})) for i in range(3)]
    torch.testing.assert_close(for_two, torch.cat(own[:2], dim=1) - own[2], rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["attention", "rollout", "gscorecam"])
def test_a_method_that_cannot_explain_a_difference_says_so(name: str) -> None:
    backbone = tiny.kept("vit")
    encoding, text = eclip.encode(backbone, tiny.pixels(backbone)), tiny.texts(backbone, 2)
    with pytest.raises(
        OptionError, match=f"'{name}' cannot explain the difference.*Use one of itsm, rclip, eclip, maskclip"
    ):
        METHODS[name].difference(encoding, text[:1], text[1:])


def test_a_difference_checks_its_sides_and_its_options() -> None:
    backbone = tiny.kept("vit")
    encoding, text = eclip.encode(backbone, tiny.pixels(backbone)), tiny.texts(backbone, 3)
    itsm = METHODS["itsm"]
    with pytest.raises(ShapeError, match="versus must be one text, or one for each of 2 texts, got 3"):
        itsm.difference(encoding, text[:2], text)
    with pytest.raises(ShapeError, match="versus must be"):
        itsm.difference(encoding, text, text[0])
    with pytest.raises(OptionError, match=r"versus must be of type Tensor, .*, got list"):
        itsm.difference(encoding, text, ["a cat"])  # type: ignore[arg-type]
    for option, value in {"features": True, "reference": text[0]}.items():
        with pytest.raises(OptionError, match=f"'surgery' requires {option}=.*leave {option} out"):
            METHODS["surgery"].difference(encoding, text[:1], text[1:2], **{option: value})


def test_options_may_be_numbers_of_numpy() -> None:
    METHODS["surgery"].check({"depth": np.int64(2)})
    for wrong in (True, 2.0, "2"):
        with pytest.raises(OptionError, match="must be a whole number"):
            _run("surgery", "vit", depth=wrong)
    METHODS["naclip"].check({"std": np.float32(2)})


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("family", ["vit", "resnet", "siglip"])
@pytest.mark.long(every=5)
def test_what_surrounds_a_call_changes_nothing(name: str, family: str) -> None:
    """Inference mode and autocast of the caller, and training mode with dropout inside the model."""
    if family in tiny.GAPS.get(name, ()):
        pytest.skip("not applicable")
    backbone = tiny.backbone(family)
    part = backbone.model.visual.trunk if family == "siglip" else backbone.model.visual
    for module in part.modules():
        if isinstance(module, torch.nn.Sequential) and hasattr(module, "c_proj"):
            module.c_proj = torch.nn.Sequential(module.c_proj, torch.nn.Dropout(0.5))
        elif isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    method = partial(METHODS[name], **tiny.FEW.get(name, {}))
    pixels, text = tiny.pixels(backbone), tiny.texts(backbone)
    expected = method(eclip.encode(backbone, pixels), text)
    with torch.inference_mode():
        inside = eclip.encode(backbone, pixels.clone())
        torch.testing.assert_close(method(inside, text.clone()), expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(method(inside, text), expected, rtol=0, atol=1e-6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(method(eclip.encode(backbone, pixels), text), expected, rtol=0, atol=1e-6)
    backbone.model.train()
    torch.testing.assert_close(method(eclip.encode(backbone, pixels), text), expected, rtol=0, atol=1e-6)


# --- what holds for every method, on every family ---

EVERY = [(name, family) for name in METHODS for family in tiny.FAMILIES if family not in tiny.GAPS.get(name, ())]
FLAT = {("gem", pool) for pool in tiny.POOLS}
"""Random pools have short tokens: GEM's temperature, which is their length, is near 0, and all tokens become alike."""
FAINT = {("rise", "resnet"), ("occlusion", "resnet")}
"""A random ResNet's score hardly sees the image; what is left of a difference of scores in bfloat16 is rounding."""


@pytest.mark.parametrize(("name", "family"), EVERY)
@pytest.mark.long(every=5)
def test_maps_follow_their_text_and_image(name: str, family: str) -> None:
    backbone = tiny.kept(family)
    pixels, text = tiny.pixels(backbone, 3, rows=2, cols=3), tiny.texts(backbone, 4)
    method = partial(METHODS[name], **tiny.FEW.get(name, {}))
    encoding = eclip.encode(backbone, pixels, keep=METHODS[name].keep)
    maps = method(encoding, text)
    assert maps.shape == (3, 4, 2, 3)
    assert maps.dtype == torch.float32
    assert maps.isfinite().all()
    if (name, family) not in FLAT:  # a flat map would pass every test below; ReLU may leave nothing of some maps
        assert maps.std(dim=(2, 3)).amax(dim=1).max() > 1e-6
    order = [2, 0, 3, 1]
    torch.testing.assert_close(method(encoding, text[order]), maps[:, order], rtol=0, atol=1e-5)
    alone = method(eclip.encode(backbone, pixels[1:2]), text)
    torch.testing.assert_close(alone, maps[1:2], rtol=0, atol=1e-5)
    assert torch.equal(method(eclip.encode(backbone, pixels), text), maps), "same input, same map"


@pytest.mark.parametrize(("name", "family"), EVERY)
@pytest.mark.long(every=5)
def test_bfloat16_and_constant_images_are_finite_and_near(name: str, family: str) -> None:
    exact, coarse = tiny.kept(family), tiny.kept(family, torch.bfloat16)
    pixels, text = tiny.pixels(exact), tiny.texts(exact)
    method = partial(METHODS[name], **tiny.FEW.get(name, {}))
    fine, rough = (method(eclip.encode(b, pixels), text) for b in (exact, coarse))
    assert rough.dtype == torch.float32
    assert rough.isfinite().all()
    if (name, family) not in FAINT:
        assert (rough - fine).abs().max() < 0.2 * fine.abs().max()
    flat = torch.full_like(pixels, 0.3)
    assert method(eclip.encode(exact, flat), text).isfinite().all()


@pytest.mark.parametrize("family", ["vit", "siglip", "timm abs_attn"])
def test_an_image_of_one_patch_has_a_finite_map(family: str) -> None:
    """Nothing is divided by the spread over patches, which is zero."""
    backbone = tiny.kept(family)
    encoding, text = eclip.encode(backbone, tiny.pixels(backbone, rows=1, cols=1)), tiny.texts(backbone)
    for name, method in METHODS.items():
        if family not in tiny.GAPS.get(name, ()):
            maps = method(encoding, text, **tiny.FEW.get(name, {}))
            assert maps.shape == (2, 3, 1, 1) and maps.isfinite().all(), name


OPTIONS_OF_ONE_ENCODING = {
    "surgery": [{}, {"depth": 2}, {"architecture": False}, {"features": False}],
    "gem": [{}, {"depth": 2}, {"iterations": 0}, {"residual": False}],
    "clearclip": [{}, {"attention": "kk"}, {"residual": True}],
    "naclip": [{}, {"std": 1.0}, {"neighbors": False}, {"reduced": False}],
    "sclip": [{}],
    "maskclip": [{}],
}


@pytest.mark.parametrize("family", ["vit", "resnet"])
@pytest.mark.parametrize("name", OPTIONS_OF_ONE_ENCODING)
def test_what_an_encoding_remembers_belongs_to_its_images_and_options(name: str, family: str) -> None:
    """Each map from one encoding, whatever ran on it before, is that of a fresh one; so are those of its parts."""
    backbone = tiny.kept(family)
    pixels, text = tiny.pixels(backbone), tiny.texts(backbone)
    one, method = eclip.encode(backbone, pixels), eclip.METHODS[name]
    for options in OPTIONS_OF_ONE_ENCODING[name]:
        found = method(one, text, **options)
        fresh = method(eclip.encode(backbone, pixels), text, **options)
        assert torch.equal(found, fresh), options
        torch.testing.assert_close(method(one.only(1), text, **options), fresh[1:], rtol=0, atol=1e-5)
        torch.testing.assert_close(method(one, text.flip(0), **options).flip(1), fresh, rtol=0, atol=1e-5)


def test_an_encoding_remembers_queries_of_its_own_input_only() -> None:
    encoding = eclip.encode(tiny.kept("vit"), tiny.pixels(tiny.kept("vit")))
    block, x = encoding.blocks[-1], encoding.inputs[-1]
    with torch.no_grad():
        assert encoding.qkv(block, x)[0] is encoding.qkv(block, x)[0], "remembered"
        assert torch.equal(encoding.qkv(block, x.flip(1))[1], block.qkv(block.norm1(x.flip(1)))[1])


def test_an_encoding_remembers_nothing_of_a_graph() -> None:
    encoding = eclip.encode(tiny.kept("vit"), tiny.pixels(tiny.kept("vit")))
    with torch.enable_grad():
        encoding.once("x", lambda: torch.ones(1, dtype=torch.float32, device="cpu"))
    assert "x" not in encoding.memo
    with torch.no_grad():
        first = encoding.once("x", lambda: torch.ones(1, dtype=torch.float32, device="cpu"))
        assert encoding.once("x", lambda: torch.zeros(1, dtype=torch.float32, device="cpu")) is first
