"""Gradient methods against autograd, one text at a time; against finite differences; how many passes they cost."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, normalize
from torch.utils._python_dispatch import TorchDispatchMode

import eclip
import tiny
from eclip.backbones import attention_pooling
from eclip.backbones.attention_pooling import cosine_slope, gather
from eclip.backbones.backbone import Backbone
from eclip.backbones.blocks import attention, finish
from eclip.backbones.encoding import Encoding
from eclip.backbones.pool import pool_tokens
from eclip.errors import GradientError, KeepError, NotApplicableError, OptionError
from eclip.methods import METHODS
from eclip.methods.gradcam import trunk_slope

TOWERS = [family for family in tiny.FAMILIES if family not in tiny.POOLS]
GATHERING = [family for family in tiny.FAMILIES if family not in tiny.AVERAGED]


@cache
def _frozen(family: str) -> Backbone:
    backbone = tiny.backbone(family, torch.float64)
    backbone.model.requires_grad_(False)
    return tiny.remember(backbone)


def _encoded(family: str, **grid: int) -> tuple[Backbone, Encoding, Tensor]:
    backbone = _frozen(family)
    return (
        backbone,
        eclip.encode(backbone, tiny.pixels(backbone, **grid)),
        normalize(tiny.texts(backbone).double(), dim=-1),
    )


def _close(ours: Tensor, expected: Tensor) -> None:
    assert expected.abs().max() > 1e-7, "zeros would agree with anything"
    torch.testing.assert_close(ours, expected, rtol=1e-8, atol=1e-12)


# --- Grad-CAM, through the host's own forward pass ---


def _captured(backbone: Backbone, part: nn.Module, text: Tensor) -> tuple[Tensor, Tensor]:
    """(what `part` gives, gradient of one text's score with respect to it), as a hook sees them in encode_image."""
    kept: list[Tensor] = []

    def keep(_: nn.Module, __: Any, output: Tensor) -> Tensor:
        kept.append(output.detach().requires_grad_())
        return kept[0]

    handle = part.register_forward_hook(keep)
    try:
        feature = backbone.model.encode_image(tiny.pixels(backbone).double())
    finally:
        handle.remove()
    [grad] = torch.autograd.grad(cosine_similarity(feature, text[None]).sum(), kept)
    return kept[0].detach(), grad


@pytest.mark.parametrize(("depth", "layer"), [(1, "norm"), (1, "input"), (3, "norm"), (2, "input")])
@pytest.mark.parametrize("family", TOWERS)
@pytest.mark.long(every=5)
def test_gradcam_in_a_vit_is_what_hooks_on_the_host_see(family: str, depth: int, layer: str) -> None:
    if (family, layer) == ("eva, norms behind", "norm"):
        pytest.skip("no norm in front of a block there, to hook on")
    backbone, encoding, text = _encoded(family)
    visual = backbone.model.visual
    timm = hasattr(visual, "trunk")
    blocks = visual.trunk.blocks if timm else visual.transformer.resblocks
    part = blocks[-depth].norm1 if timm else blocks[-depth].ln_1
    part = part if layer == "norm" else blocks[-depth - 1]
    expected = []
    for one in text:
        activation, grad = (values[:, encoding.prefix :] for values in _captured(backbone, part, one))
        expected.append((activation * grad.mean(dim=1, keepdim=True)).sum(dim=-1).unflatten(1, encoding.grid))
    _close(METHODS["gradcam"].function(encoding, text, depth=depth, layer=layer), torch.stack(expected, dim=1))


@pytest.mark.parametrize("family", tiny.POOLS)
def test_gradcam_in_a_cnn_is_what_hooks_on_the_host_see(family: str) -> None:
    backbone, encoding, text = _encoded(family)
    visual = backbone.model.visual
    part = visual.layer4 if family == "resnet" else visual.trunk
    expected = []
    for one in text:
        activation, grad = _captured(backbone, part, one)
        expected.append((activation * grad.mean(dim=(2, 3), keepdim=True)).sum(dim=1))
    _close(METHODS["gradcam"].function(encoding, text), torch.stack(expected, dim=1))


# --- attention as a leaf, one text at a time ---


def _attentions(encoding: Encoding, depth: int) -> tuple[list[Tensor], Tensor]:
    """(attention of each of the last layers, the feature they lead to), all rows of all blocks in the open."""
    backbone = encoding.backbone
    if backbone.latent is not None:
        depth -= 1
    tail = encoding.tail(depth, "test")
    x = tail[0][1] if tail else encoding.tokens
    leaves = []
    for block in [block for block, _ in tail] + ([backbone.latent] if backbone.latent is not None else []):
        q, k, v = block.qkv(block.norm1(x))
        leaves.append(attention(q, k).detach().requires_grad_() if not leaves else attention(q, k))
        leaves[-1].retain_grad()
        x = finish(block, x, leaves[-1] @ v)
    return leaves, _feature(backbone, x[:, 0]) if backbone.latent is not None else backbone.pool(x)


def _feature(backbone: Backbone, row: Tensor) -> Tensor:
    """What the host makes of the row that a learned query gathers."""
    return backbone.to_feature(row if backbone.final_norm is None else backbone.final_norm(row))


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_chefer_is_relevance_multiplied_out(family: str, depth: int) -> None:
    backbone, encoding, text = _encoded(family)
    depth = 1 if family in tiny.POOLS else depth
    expected = []
    for one in text:
        attns, feature = _attentions(encoding, depth)
        logit = backbone.logit_scale * cosine_similarity(feature, one[None])
        grads = torch.autograd.grad(logit.sum(), attns)
        tokens = encoding.tokens.shape[1]
        relevance = torch.eye(tokens, dtype=torch.float64).expand(2, -1, -1)
        for attn, grad in zip(attns, grads, strict=True):
            step = (attn * grad).clamp_min(0).mean(dim=1)
            whole = step.shape[1] == tokens and family not in tiny.POOLS
            relevance = relevance + step @ relevance if whole else step @ relevance
        row = relevance[:, encoding.prefix :].mean(dim=1) if family in tiny.AVERAGED else relevance[:, 0]
        expected.append(row[:, encoding.prefix :].unflatten(1, encoding.grid))
    _close(METHODS["chefer"].function(encoding, text, depth=depth), torch.stack(expected, dim=1).detach())


@pytest.mark.parametrize("depth", [1, 2, None])
@pytest.mark.parametrize("family", TOWERS)
@pytest.mark.long(every=5)
def test_legrad_is_the_positive_slope_of_each_blocks_own_score(family: str, depth: int | None) -> None:
    backbone, encoding, text = _encoded(family)
    outputs = [*encoding.inputs[1:], encoding.tokens]
    expected = []
    for one in text:
        total = 0.0
        for place in range(-(depth or len(encoding.blocks)), 0):
            if backbone.latent is not None:
                block, x = backbone.latent, outputs[place]
            else:
                block, x = encoding.blocks[place], encoding.inputs[place]
            q, k, v = block.qkv(block.norm1(x))
            attn = attention(q, k).detach().requires_grad_()
            out = finish(block, x, attn @ v)
            feature = _feature(backbone, out[:, 0]) if backbone.latent else backbone.project(out.mean(dim=1))
            [grad] = torch.autograd.grad(cosine_similarity(feature, one[None]).sum(), attn)
            total = total + grad.clamp_min(0).mean(dim=(1, 2))[:, encoding.prefix :]
        expected.append(total.unflatten(1, encoding.grid))
    _close(METHODS["legrad"].function(encoding, text, depth=depth), torch.stack(expected, dim=1))


def test_legrad_over_all_blocks_is_asked_by_name_too() -> None:
    backbone, image = tiny.kept("vit"), Image.new("RGB", (40, 30), (90, 140, 200))
    every, counted = (
        eclip.explain(image, "a dog", model=backbone, method="legrad", depth=depth) for depth in (None, 7)
    )
    assert METHODS["legrad"].keep_for({"depth": None}) is None and np.array_equal(every.maps, counted.maps)


@pytest.mark.parametrize("family", tiny.POOLS)
def test_legrad_in_a_pool_is_the_positive_slope_of_its_attention(family: str) -> None:
    _, encoding, text = _encoded(family)
    expected = []
    for one in text:
        [attn], feature = _attentions(encoding, 1)
        [grad] = torch.autograd.grad(cosine_similarity(feature, one[None]).sum(), attn)
        expected.append(grad[:, :, 0].clamp_min(0).mean(dim=1)[:, 1:].unflatten(1, encoding.grid))
    _close(METHODS["legrad"].function(encoding, text), torch.stack(expected, dim=1))


@pytest.mark.parametrize("loosened", ["script", "notebook", "none"])
@pytest.mark.parametrize("family", GATHERING)
def test_gradeclip_equals_the_formula(family: str, loosened: str) -> None:
    backbone, encoding, text = _encoded(family)
    block, x = (backbone.latent, encoding.tokens) if backbone.latent else (encoding.blocks[-1], encoding.inputs[-1])
    q, k, v = block.qkv(block.norm1(x))
    first = encoding.prefix
    expected = torch.zeros(2, 3, encoding.grid.row * encoding.grid.col, dtype=torch.float64)
    for place, one in enumerate(text):
        mixed = (attention(q, k) @ v).detach().requires_grad_()
        out = finish(block, x, mixed) if block.residual else finish(block, x[:, :1], mixed)
        feature = _feature(backbone, out[:, 0]) if backbone.latent else backbone.pool(out)
        [grad] = torch.autograd.grad(cosine_similarity(feature, one[None]).sum(), mixed)
        for image in range(2):
            keys = block.out(k)[image] if loosened == "script" else k[image].transpose(0, 1).flatten(1)
            query = block.out(q)[image, 0] if loosened == "script" else q[image, :, 0].flatten()
            near = cosine_similarity(keys[first:], query[None])
            near = (near - near.min()) / (near.max() - near.min()) if loosened != "none" else torch.ones_like(near)
            values = v[image].transpose(0, 1).flatten(1)[first:]
            slope = grad[image, :, 0].flatten()
            expected[image, place] = ((values @ slope) * near).clamp_min(0)
    ours = METHODS["gradeclip"].function(encoding, text, loosened=loosened)
    torch.testing.assert_close(ours.flatten(2), expected, rtol=1e-8, atol=1e-12)
    assert loosened != "none" or (ours > 0).any()


def test_gradeclip_without_loosening_sums_to_gradient_times_gathered() -> None:
    """With the true attention in the place of r, the sum over all tokens is g . o (paper notes, 4.19)."""
    _, encoding, text = _encoded("vit")
    last = gather(encoding, "gradeclip")
    grad = last.gradient(text)
    summed = (last.attn * (grad @ last.v.transpose(-1, -2))).sum(dim=(1, 3))
    torch.testing.assert_close(summed, (grad * (last.attn @ last.v)).sum(dim=(1, 3)), rtol=0, atol=1e-12)


# --- finite differences ---


def _central(score: Callable[[Tensor], Tensor], at: Tensor, direction: Tensor) -> Tensor:
    step = 1e-5
    return (score(at + step * direction) - score(at - step * direction)) / (2 * step)


@pytest.mark.parametrize("family", GATHERING)
def test_gradient_of_what_is_gathered_equals_finite_differences(family: str) -> None:
    _, encoding, text = _encoded(family)
    last = gather(encoding, "test")
    mixed = last.attn @ last.v
    direction = torch.randn(mixed.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    grad = last.gradient(text)

    def scores(gathered: Tensor) -> Tensor:  # image text
        return normalize(last.features(gathered)[:, 0], dim=-1) @ text.T

    expected = _central(scores, mixed, direction)
    torch.testing.assert_close((grad * direction).sum(dim=(1, 3)), expected, rtol=1e-5, atol=1e-9)
    assert torch.autograd.gradcheck(lambda gathered: last.features(gathered), mixed.requires_grad_())


@pytest.mark.parametrize("family", tiny.POOLS)
def test_slope_of_a_trunk_is_a_shift_of_all_its_positions(family: str) -> None:
    backbone, encoding, text = _encoded(family)
    assert encoding.trunk is not None
    shift = torch.randn(encoding.trunk.shape[1], generator=torch.Generator().manual_seed(3), dtype=torch.float64)

    def scores(trunk: Tensor) -> Tensor:
        return normalize(backbone.pool(encoding.blocks[0].forward(pool_tokens(trunk))), dim=-1) @ text.T

    expected = _central(scores, encoding.trunk, shift[None, :, None, None]) / encoding.trunk[0, 0].numel()
    torch.testing.assert_close(trunk_slope(encoding, text, "test") @ shift, expected, rtol=1e-5, atol=1e-10)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_pull_is_the_transpose_of_qkv(family: str) -> None:
    _, encoding, _ = _encoded(family)
    block, x = encoding.blocks[-1], encoding.inputs[-1]
    if family in ("vit with query norm", "timm rot_attn", "eva02", "eva with map head"):
        assert block.qkv_vjp is None, "queries and keys are no affine map there"
        return
    leaf = block.norm1(x).detach().requires_grad_()
    parts = block.qkv(leaf)
    generator = torch.Generator().manual_seed(3)
    slopes = [torch.randn(part.shape, generator=generator, dtype=torch.float64) for part in parts]
    [expected] = torch.autograd.grad(parts, leaf, slopes)
    assert block.qkv_vjp is not None
    torch.testing.assert_close(block.qkv_vjp(*slopes), expected, rtol=0, atol=1e-10)


def test_slope_of_the_cosine_equals_finite_differences() -> None:
    generator = torch.Generator().manual_seed(0)
    feature, direction = torch.randn(2, 4, 7, generator=generator, dtype=torch.float64)
    text = normalize(torch.randn(3, 7, generator=generator, dtype=torch.float64), dim=-1)
    expected = _central(lambda at: normalize(at, dim=-1) @ text.T, feature, direction)  # image text
    slope = cosine_slope(feature, text)  # text image feature
    torch.testing.assert_close((slope * direction).sum(dim=-1).T, expected, rtol=1e-6, atol=1e-10)


# --- what it costs ---

GRADIENTS = [name for name, method in METHODS.items() if method.kind == "gradient"]


class _Counting(TorchDispatchMode):
    """Counts what reaches the kernels, so that a loop over texts inside torch is seen as well."""

    def __init__(self, counts: dict[str, int]) -> None:
        super().__init__()
        self.counts = counts

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counts["operations"] += 1
        return func(*args, **(kwargs or {}))


def _passes(name: str, family: str, texts: int, monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Calls of every module of the image tower, and of autograd, by one method on a finished encoding."""
    backbone = tiny.backbone(family)
    encoding, text = eclip.encode(backbone, tiny.pixels(backbone)), tiny.texts(backbone, texts)
    counts = {"backward": 0, "forward": 0, "modules": 0, "operations": 0}
    real = torch.autograd.grad

    def grad(*args: Any, **options: Any) -> Any:
        counts["backward"] += 1
        return real(*args, **options)

    def count(_: nn.Module, __: Any) -> None:
        counts["modules"] += 1

    METHODS[name](encoding, text)  # its blocks are checked at first use alone
    first = next(m for m in backbone.model.visual.modules() if isinstance(m, nn.Conv2d))
    handles = [module.register_forward_pre_hook(count) for module in backbone.model.visual.modules()]
    handles.append(first.register_forward_pre_hook(lambda *_: counts.update(forward=counts["forward"] + 1)))
    monkeypatch.setattr(torch.autograd, "grad", grad)
    with _Counting(counts), torch.no_grad():
        METHODS[name].function(encoding, text)  # the method itself, which does not ask for hooks that are new
    monkeypatch.undo()
    for handle in handles:
        handle.remove()
    return counts


@pytest.mark.parametrize("family", ["vit", "vit with query norm", "vit, average pool", "resnet", "siglip"])
@pytest.mark.parametrize("name", GRADIENTS)
@pytest.mark.long(every=5)
def test_texts_share_their_passes(name: str, family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if family in tiny.GAPS.get(name, ()):
        pytest.skip("not applicable there")
    one, many = (_passes(name, family, texts, monkeypatch) for texts in (1, 40))
    assert many.pop("operations") - one.pop("operations") < 39, "not one operation runs once a text, in torch neither"
    assert one == many, "forty texts cost as many passes as one"
    assert many["forward"] == 0, "the encoding is enough"
    layers = 2 if name == "legrad" and family != "resnet" else 1
    assert many["backward"] == layers


@pytest.mark.parametrize("name", ["gradeclip", "chefer", "gradcam"])
def test_the_last_block_runs_one_row_a_text_alone(name: str) -> None:
    backbone = tiny.backbone("vit")
    encoding = eclip.encode(backbone, tiny.pixels(backbone), keep=1)
    shapes: list[tuple[int, ...]] = []
    mlp = backbone.model.visual.transformer.resblocks[-1].mlp
    METHODS[name](encoding, tiny.texts(backbone, 5))  # its blocks are checked at first use alone
    handle = mlp.register_forward_pre_hook(lambda _, inputs: shapes.append(tuple(inputs[0].shape)))
    with torch.no_grad():
        METHODS[name].function(encoding, tiny.texts(backbone, 5))
    handle.remove()
    assert shapes == [(2, 5, 32)], "(image, text, channel): no patch goes through the MLP again"


@pytest.mark.parametrize("family", TOWERS)
@pytest.mark.long(every=5)
def test_graphs_of_encode_change_no_bit(family: str) -> None:
    backbone = tiny.backbone(family)
    pixels, text = tiny.pixels(backbone), tiny.texts(backbone)
    plain, graphs = (eclip.encode(backbone, pixels, graph=count) for count in (0, None))
    tensors = [(one.feature, one.tokens, *one.inputs) for one in (plain, graphs)]
    assert all(map(torch.equal, *tensors)) and not any(tensor.requires_grad for tensor in tensors[1])
    for depth in (1, 3, None):
        maps = [METHODS["legrad"](one, text, depth=depth) for one in (plain, graphs)]
        assert torch.equal(*maps) and maps[0].std() > 0


@pytest.mark.parametrize(("family", "graph", "passes"), [("vit", 2, 1), ("vit", 0, 2), ("vit, average pool", 2, 0)])
def test_legrad_runs_no_mlp_whose_graph_is_known(family: str, graph: int, passes: int) -> None:
    backbone = tiny.backbone(family)
    encoding = eclip.encode(backbone, tiny.pixels(backbone), keep=2, graph=graph)
    METHODS["legrad"](encoding, tiny.texts(backbone))  # its blocks are checked at first use alone
    calls: list[int] = []
    for block in backbone.model.visual.transformer.resblocks:
        block.mlp.c_fc.register_forward_pre_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        METHODS["legrad"].function(encoding, tiny.texts(backbone))
    assert len(calls) == passes


@pytest.mark.parametrize(("family", "graphs"), [("vit", 5), ("vit, average pool", 6), ("siglip", 0), ("resnet", 0)])
def test_graphs_are_kept_only_where_legrad_reads_them(family: str, graphs: int) -> None:
    backbone = tiny.backbone(family)
    memo = eclip.encode(backbone, tiny.pixels(backbone), graph=None).memo
    assert sum(isinstance(key, tuple) for key in memo) == graphs


class _NoDerivative(nn.LayerNorm):
    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return super().forward(x)


def test_a_graph_that_is_refused_is_refused_by_the_method_alone() -> None:
    backbone = tiny.backbone("vit")
    norm = backbone.model.visual.transformer.resblocks[-2].ln_2
    other = _NoDerivative(norm.normalized_shape[0])
    other.load_state_dict(norm.state_dict())
    backbone.model.visual.transformer.resblocks[-2].ln_2 = other
    encoding = eclip.encode(backbone, tiny.pixels(backbone), graph=2)
    assert METHODS["surgery"](encoding, tiny.texts(backbone)).isfinite().all()
    with pytest.raises(GradientError, match="layer_norm"):
        METHODS["legrad"](encoding, tiny.texts(backbone))


@pytest.mark.parametrize(("name", "options"), [("legrad", {}), ("chefer", {"depth": 2}), ("gradcam", {"depth": 2})])
def test_texts_that_do_not_fit_at_once_take_turns(
    name: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, encoding, _ = _encoded("vit")
    text = tiny.texts(encoding.backbone, 7).double()
    whole = METHODS[name].function(encoding, text, **options)
    monkeypatch.setattr(attention_pooling, "AT_ONCE", 4 * 2 * 17 * 32 * 3)  # room for three
    torch.testing.assert_close(METHODS[name].function(encoding, text, **options), whole, rtol=0, atol=1e-14)


# --- errors ---


def test_gradient_methods_name_wrong_options() -> None:
    _, encoding, text = _encoded("vit")
    for name, options, message in [
        ("gradcam", {"depth": 8}, "depth between 1 and 7 for this model, got 8"),
        ("gradcam", {"layer": "mlp"}, "layer to be norm or input, got 'mlp'"),
        ("chefer", {"depth": 0}, "depth >= 1, got 0"),
        ("legrad", {"depth": 0}, "depth >= 1, got 0"),
        ("gradeclip", {"heads": "two"}, "heads to be native or single"),
        ("gradeclip", {"loosened": "paper"}, "loosened to be one of script, notebook, none"),
    ]:
        with pytest.raises(OptionError, match=message):
            METHODS[name](encoding, text, **options)
    shallow = eclip.encode(encoding.backbone, encoding.pixels, keep=1)
    with pytest.raises(KeepError, match="'legrad' reruns the last 2 of 7 blocks"):
        METHODS["legrad"](shallow, text)
    with pytest.raises(KeepError, match="'chefer' reruns the last 3 of 7 blocks"):
        METHODS["chefer"](shallow, text, depth=3)


@pytest.mark.parametrize(
    ("name", "family", "why"),
    [
        ("gradeclip", "vit, average pool", "averages its patches"),
        ("decompose", "vit, norm after pool", "averages its patches"),
        ("decompose", "vit with query norm", "do not add up to the feature"),
        ("rollout", "resnet", "it has a single attention layer"),
    ],
)
def test_a_method_that_is_not_applicable_says_why(name: str, family: str, why: str) -> None:
    backbone = tiny.backbone(family)
    with pytest.raises(NotApplicableError, match=f"'{name}' is not applicable to {family}, a .*{why}"):
        METHODS[name](eclip.encode(backbone, tiny.pixels(backbone)), tiny.texts(backbone))
