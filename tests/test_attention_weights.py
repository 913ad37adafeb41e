"""Attention weights equal the host's own, and similarities are cosines, in every kind of tower."""

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import eclip
import tiny
from eclip.backbones.backbone import Backbone
from eclip.errors import KeepError, NotApplicableError, OptionError, StaleEncodingError

MULTIHEAD = ["vit", "vit, average pool", "vit, coca's pooler", "vit, not square"]
TIMM = ["siglip", "timm vit", "eva", "eva02", "eva with map head", "eva, norms behind"]
TIMM += list(tiny.FIXED)
DOUBLE = torch.float64


def seen(backbone: Backbone, module: nn.Module, *, out: bool = False) -> list[Tensor]:
    """What goes into a module, or comes out, in each pass of the host's own `encode_image`."""
    found: list[Tensor] = []
    handle = module.register_forward_hook(lambda _, given, result: found.append(result if out else given[0]))
    with torch.no_grad():
        backbone.model.encode_image(tiny.pixels(backbone).to(backbone.weight.dtype))
    handle.remove()
    return found


def assert_equal(backbone: Backbone, theirs: list[Tensor], atol: float = 1e-7) -> None:
    """Of all blocks and heads, by numbers from the start and from the end."""
    encoding = eclip.encode(backbone, tiny.pixels(backbone))
    depth, heads = len(theirs), theirs[0].shape[1]
    assert len(encoding.blocks) == depth
    for number, expected in enumerate(theirs):
        ours = eclip.attention(encoding, number)
        assert ours.dtype == torch.float32 and not ours.requires_grad
        torch.testing.assert_close(ours.double(), expected.double(), rtol=0, atol=atol)
        assert torch.equal(eclip.attention(encoding, number - depth), ours)
        for head in range(heads):
            assert torch.equal(eclip.attention(encoding, number, head), ours[:, head])
            assert torch.equal(eclip.attention(encoding, np.int64(number), head - heads), ours[:, head])
    assert (theirs[0] - theirs[0].mean(dim=-1, keepdim=True)).abs().max() > 1e-3, "not all alike, or the test is blind"
    assert (theirs[0][:, 0] - theirs[0][:, -1]).abs().max() > 1e-3 and ours.sum(dim=-1).sub(1).abs().max() < 1e-6


@pytest.mark.parametrize("family", MULTIHEAD)
def test_weights_are_those_of_torchs_multihead_attention(family: str) -> None:
    backbone = tiny.backbone(family, DOUBLE)
    theirs = []
    for block in backbone.model.visual.transformer.resblocks:
        with torch.no_grad():
            [x] = seen(backbone, block.ln_1, out=True)
            theirs.append(block.attn(x, x, x, need_weights=True, average_attn_weights=False)[1])
    assert_equal(backbone, theirs)


def test_weights_with_normed_queries_are_the_hosts() -> None:
    backbone = tiny.backbone("vit with query norm", DOUBLE)
    theirs = []
    for block in backbone.model.visual.transformer.resblocks:
        attn: Any = block.attn
        with torch.no_grad():
            [q], [k] = seen(backbone, attn.ln_q, out=True), seen(backbone, attn.ln_k, out=True)
        theirs.append((q * attn.scale @ k.transpose(-2, -1)).softmax(dim=-1))
    assert_equal(backbone, theirs)


@pytest.mark.parametrize("family", TIMM)
def test_weights_are_those_of_timms_unfused_attention(family: str) -> None:
    """Rotary and relative positions included."""
    backbone = tiny.backbone(family, DOUBLE)
    blocks: Any = backbone.model.visual.trunk.blocks
    for block in blocks:
        block.attn.fused_attn = False
    assert_equal(backbone, [seen(backbone, block.attn.attn_drop)[0] for block in blocks])


def test_the_pool_of_a_resnet_is_its_only_block() -> None:
    backbone = tiny.backbone("resnet", DOUBLE)
    pool: Any = backbone.model.visual.attnpool
    with torch.no_grad():
        [maps] = seen(backbone, pool)
        x = maps.flatten(2).permute(2, 0, 1)  # token image channel
        x = torch.cat([x.mean(dim=0, keepdim=True), x]) + pool.positional_embedding[:, None]
        parts = pool.q_proj, pool.k_proj, pool.v_proj
        given = {f"{name}_proj_weight": part.weight for name, part in zip("qkv", parts, strict=True)}
        bias = torch.cat([part.bias for part in parts])
        theirs = F.multi_head_attention_forward(
            *(x, x, x, x.shape[-1], pool.num_heads, None, bias, None, None, False, 0.0),
            *(pool.c_proj.weight, pool.c_proj.bias),
            use_separate_proj_weight=True,
            average_attn_weights=False,
            **given,
        )[1]
    assert theirs is not None
    assert_equal(backbone, [theirs])
    ours = eclip.attention(eclip.encode(backbone, tiny.pixels(backbone)), -1)
    gathered = eclip.METHODS["attention"](eclip.encode(backbone, tiny.pixels(backbone)), tiny.texts(backbone, 1))
    torch.testing.assert_close(ours.mean(dim=1)[:, 0, 1:], gathered.flatten(1))


@pytest.mark.parametrize("family", ["CLIP", "SigLIP", "Chinese-CLIP"])
def test_weights_are_those_that_transformers_returns(family: str) -> None:
    import tiny_hf

    backbone = tiny_hf.kept(family, torch.float32, "eager")
    with torch.no_grad():
        vision = tiny_hf.model(family, "eager").vision_model
        theirs = vision(pixel_values=tiny.pixels(backbone), output_attentions=True).attentions
    assert_equal(backbone, list(theirs), atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_in_half_precision(dtype: torch.dtype) -> None:
    exact, half = (tiny.kept("vit", one) for one in (torch.float32, dtype))
    ours = eclip.attention(eclip.encode(half, tiny.pixels(half)), 0)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, eclip.attention(eclip.encode(exact, tiny.pixels(exact)), 0), rtol=0, atol=0.02)


@pytest.mark.usefixtures("shapes_unchecked")
def test_what_attention_refuses() -> None:
    backbone = tiny.kept("vit")
    encoding = eclip.encode(backbone, tiny.pixels(backbone), keep=2)
    assert torch.equal(
        eclip.attention(encoding, 5), eclip.attention(eclip.encode(backbone, tiny.pixels(backbone)), -2)
    ), "what is kept does not change it"
    with pytest.raises(KeepError, match=r"'attention' reruns the last 3 of 7 blocks, .* kept 2: call encode\(.*keep=3"):
        eclip.attention(encoding, 4)
    wrong: list[tuple[Any, Any, str]] = [
        (7, None, "no block 7 in the image tower of vit: there are 7 blocks, numbered 0 to 6"),
        (-8, None, "no block -8"),
        (0.5, None, "block must be a whole number, got 0.5"),
        (True, None, "block must be a whole number"),
        (None, None, "block must be a whole number, got None"),
        (6, 2, "no head 2 .* there are 2 heads, numbered 0 to 1"),
        (6, "0", "head must be a whole number"),
    ]
    for block, head, message in wrong:
        with pytest.raises(OptionError, match=message):
            eclip.attention(encoding, block, head)
    for family in tiny.CNNS:
        cnn = tiny.kept(family)
        with pytest.raises(
            NotApplicableError, match=f"'attention' is not applicable to {family}, .*this tower has none"
        ):
            eclip.attention(eclip.encode(cnn, tiny.pixels(cnn)), -1)


def test_a_changed_model_is_refused() -> None:
    backbone = tiny.backbone("vit")
    encoding = eclip.encode(backbone, tiny.pixels(backbone))
    with torch.no_grad():
        backbone.model.visual.transformer.resblocks[6].attn.in_proj_weight.mul_(1.5)
    for ask in (lambda: eclip.attention(encoding, -1), lambda: eclip.similarity(encoding, (0, 0), "keys")):
        with pytest.raises(StaleEncodingError):
            ask()


# --- similarity ---


def _rows(encoding: eclip.Encoding, space: str) -> Tensor:
    """Patches in a space, recomputed from the block's own layers."""
    backbone, prefix = encoding.backbone, encoding.prefix
    if space in ("tokens", "features"):
        rows = encoding.tokens if space == "tokens" else backbone.project(encoding.tokens)
        return rows[:, prefix:]
    block = encoding.blocks[-1]
    normed = block.norm1(encoding.inputs[-1])
    heads = block.value(normed) if space == "values" else block.qkv(normed)[1]
    return heads.transpose(1, 2).flatten(2)[:, prefix:]


@pytest.mark.parametrize("family", ["vit", "vit, not square", "resnet", "timm rot_attn", "siglip", "eva02"])
def test_similarity_is_the_cosine_of_one_patch_with_all(family: str) -> None:
    backbone = tiny.kept(family)
    encoding = eclip.encode(backbone, tiny.pixels(backbone), keep=1)
    rows, cols = encoding.grid
    found = []
    for space in ("tokens", "features", "values", "keys"):
        ours = eclip.similarity(encoding, (1, 0), space)
        assert ours.shape == (2, rows, cols) and ours.dtype == torch.float32 and not ours.requires_grad
        with torch.no_grad():
            patches = _rows(encoding, space)
            theirs = F.cosine_similarity(patches[:, [cols]], patches, dim=-1).unflatten(1, (rows, cols))
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
        assert (ours[:, 1, 0] - 1).abs().max() < 1e-6 and ours.abs().max() <= 1
        assert torch.equal(eclip.similarity(encoding, (np.int64(1 - rows), -cols), space), ours), "from the end"
        found.append(ours)
    assert torch.equal(eclip.similarity(encoding, [1, 0]), found[0]), "tokens by default"
    different = [(one - other).abs().max() > 1e-3 for i, one in enumerate(found) for other in found[:i]]
    assert sum(different) >= 5, "spaces differ, but for those that are one, as tokens and features of a pool"


def test_similarity_in_a_cnn_compares_its_feature_map() -> None:
    backbone = tiny.kept("convnext")
    encoding = eclip.encode(backbone, tiny.pixels(backbone))
    assert encoding.trunk is not None
    patch = encoding.trunk[:, :, 1, 2, None, None].expand_as(encoding.trunk)
    theirs = F.cosine_similarity(patch, encoding.trunk, dim=1)
    torch.testing.assert_close(eclip.similarity(encoding, (1, 2)), theirs, rtol=0, atol=1e-6)
    with pytest.raises(NotApplicableError, match="'similarity' is not applicable to convnext"):
        eclip.similarity(encoding, (1, 2), "values")


@pytest.mark.usefixtures("shapes_unchecked")
def test_what_similarity_refuses() -> None:
    backbone = tiny.kept("vit")
    encoding = eclip.encode(backbone, tiny.pixels(backbone), keep=0)
    assert eclip.similarity(encoding, (0, 0)).shape == (2, 4, 4), "tokens need no block"
    with pytest.raises(KeepError, match="'similarity' reruns the last 1 of 7 blocks"):
        eclip.similarity(encoding, (0, 0), "keys")
    wrong: list[tuple[Any, str, str]] = [
        ((4, 0), "tokens", r"no patch \(4, 0\): the grid has 4 rows and 4 columns"),
        ((0, -5), "tokens", r"no patch \(0, -5\)"),
        (3, "tokens", r"patch must be two whole numbers, \(row, col\), got 3"),
        ("00", "tokens", "patch must be two whole numbers"),
        ((0, 0, 0), "tokens", "patch must be two whole numbers"),
        ((0, 0.5), "tokens", "each number of patch must be a whole number, got 0.5"),
        ((0, 0), "queries", "space must be one of tokens, features, values, keys, got 'queries'"),
    ]
    for patch, space, message in wrong:
        with pytest.raises(OptionError, match=message):
            eclip.similarity(encoding, patch, space)


def test_both_leave_the_model_as_it_was_and_record_no_graph() -> None:
    backbone = tiny.backbone("vit")
    backbone.model.train()
    before = {name: value.clone() for name, value in backbone.model.state_dict().items()}
    random = torch.get_rng_state()
    encoding = eclip.encode(backbone, tiny.pixels(backbone))
    with torch.enable_grad():
        weights, cosines = eclip.attention(encoding, 0), eclip.similarity(encoding, (0, 0), "values")
    assert not weights.requires_grad and not cosines.requires_grad
    assert all(module.training for module in backbone.model.modules())
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, before[name]) for name, value in backbone.model.state_dict().items())
    alone = eclip.attention(encoding.only(1), 0)
    torch.testing.assert_close(alone[0], weights[1], rtol=0, atol=1e-6)
    assert list(inspect.signature(eclip.attention).parameters) == ["encoding", "block", "head"]


def test_an_adapted_block_is_refused_as_by_methods() -> None:
    from eclip.errors import AlteredModelError

    backbone = tiny.backbone("vit")
    block: Any = backbone.model.visual.transformer.resblocks[6]
    block.attn.register_forward_hook(lambda *given: (given[-1][0] * 1.1, None))
    encoding = eclip.encode(replace(backbone, agreed={}), tiny.pixels(backbone))
    with pytest.raises(AlteredModelError):
        eclip.attention(encoding, -1)
