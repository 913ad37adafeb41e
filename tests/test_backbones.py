"""Every family equals its library, on and off the training grid, and comes out unchanged."""

from __future__ import annotations

import copy
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn.functional import interpolate
from torchvision import transforms

import eclip
import tiny
from eclip.backbones.backbone import Grid
from eclip.backbones.blocks import finish, finish_mean, mix, run_block
from eclip.backbones.positions import resize_positions
from eclip.backbones.state import image_state
from eclip.errors import (
    AlteredModelError,
    KeepError,
    ModelError,
    NotApplicableError,
    OptionError,
    ShapeError,
    UnsupportedTowerError,
)

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_feature_equals_encode_image(family: str, dtype: torch.dtype) -> None:
    backbone = tiny.backbone(family, dtype)
    pixels = tiny.pixels(backbone).to(dtype)
    expected = backbone.model.encode_image(pixels)
    encoding = eclip.encode(backbone, pixels)
    assert encoding.feature.dtype == dtype
    torch.testing.assert_close(encoding.feature, expected, rtol=0, atol=TOLERANCE[dtype])
    assert (expected[0] - expected[1]).abs().max() > 1e-3, "two images must differ, or the test sees nothing"


def test_mixed_precision_as_open_clip_makes_it_equals_encode_image() -> None:
    vision, text = {**tiny.VIT}, dict(tiny.TEXT)
    model = open_clip.CLIP(embed_dim=24, vision_cfg=vision, text_cfg=text, cast_dtype=torch.bfloat16).eval()
    open_clip.model.convert_weights_to_lp(model, torch.bfloat16)
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16, torch.float32}
    backbone = eclip.wrap(model, mean=tiny.MEAN, std=tiny.STD)
    backbone = eclip.with_head(backbone, eclip.EclipHead.start(backbone))
    pixels = tiny.pixels(backbone)
    encoding = eclip.encode(backbone, pixels)
    with torch.no_grad():  # with gradients torch takes another attention kernel, which rounds otherwise
        expected = model.encode_image(pixels.bfloat16())
    torch.testing.assert_close(encoding.feature, expected, rtol=0, atol=1e-3)
    for method in eclip.METHODS.values():
        assert method(encoding, tiny.texts(backbone)).isfinite().all()


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_blocks_in_the_open_equal_the_hosts(family: str) -> None:
    encoding = eclip.encode(backbone := tiny.backbone(family, torch.float64), tiny.pixels(backbone))
    assert len(encoding.inputs) == len(encoding.blocks)
    outputs = [*encoding.inputs[1:], encoding.tokens]
    for block, x, output in zip(encoding.blocks, encoding.inputs, outputs, strict=True):
        torch.testing.assert_close(run_block(block, x), output, rtol=0, atol=1e-10)
        if block.residual:
            normed = block.norm1(x)
            torch.testing.assert_close(block.value(normed), block.qkv(normed)[2], rtol=0, atol=1e-12)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_a_tower_walked_in_the_open_has_the_hosts_tokens_and_knows_its_queries(family: str) -> None:
    backbone = tiny.backbone(family)
    encoding = eclip.encode(backbone, tiny.pixels(backbone))
    walked = list(zip(encoding.blocks, encoding.inputs, strict=True))[-6:]
    pool = backbone.pooling == "token" and encoding.blocks[-1].first is not None
    with torch.no_grad():
        for (block, x), after in zip(walked, [*(x for _, x in walked[1:]), None], strict=True):
            if after is not None:
                torch.testing.assert_close(after, block.forward(x), rtol=0, atol=1e-5)
            fresh = block.qkv(block.norm1(x))
            known = encoding.qkv(block, x)
            assert all(map(torch.equal, known, fresh))
            assert (known[0] is encoding.qkv(block, x)[0]) != pool, "computed once, except for a pool's one row"
            assert encoding.qkv(block, x + 0)[0] is not known[0], "of another input they are computed"


@pytest.mark.parametrize("index", [3, 6], ids=["inside", "last"])
def test_a_block_that_does_not_agree_is_the_hosts_own(index: int) -> None:
    """A change that modules do not show, but the comparison with the host's own block does."""
    backbone = copy.deepcopy(tiny.backbone("vit"))
    pixels = tiny.pixels(backbone)

    def loud(x: torch.Tensor) -> torch.Tensor:
        return 1.01 * host.forward(x)

    host = backbone.blocks[index]
    blocks = [replace(one, forward=loud) if i == index else one for i, one in enumerate(backbone.blocks)]
    altered = replace(backbone, blocks_at=lambda *_: tuple(blocks))
    altered.agreed.clear()
    state = image_state(altered)
    altered.agreed["tower"] = (state, {0})  # so that encode reaches the block
    encoding = eclip.encode(altered, pixels)
    x, found = encoding.inputs[index], encoding.inputs[index + 1] if index < 6 else encoding.tokens
    with torch.no_grad():
        torch.testing.assert_close(found, loud(x), rtol=0, atol=0)
    assert blocks[index] not in encoding.memo
    assert blocks[5 if index == 6 else 6] in encoding.memo
    with pytest.raises(AlteredModelError, match=f"block {index + 1} of 7"):
        encoding.tail(None, "rollout")


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_the_mean_of_a_block_is_that_of_its_rows(family: str) -> None:
    backbone = tiny.backbone(family, torch.float64)
    encoding = eclip.encode(backbone, tiny.pixels(backbone).double())
    block, x = encoding.blocks[0], encoding.inputs[0]
    mixed = mix(block, *block.qkv(block.norm1(x)))
    expected = finish(block, x, mixed).mean(dim=1)
    torch.testing.assert_close(finish_mean(block, x, mixed), expected, rtol=0, atol=1e-12)
    split = block.halves is not None and block.halves() is not None
    assert split == (family in HALVED), "an MLP of two plain layers, and no other, is split"


HALVED = {
    "vit",
    "vit without ln_pre",
    "vit with layer scale",
    "vit, average pool",
    "vit, norm after pool",
    "vit, coca's pooler",
    "vit, not square",
    "siglip",
    "timm vit",
}


def test_an_altered_mlp_is_not_split() -> None:
    backbone = copy.deepcopy(tiny.backbone("vit"))
    mlp = backbone.blocks[2].host.mlp
    for part in (mlp, mlp.c_fc, mlp.c_proj):
        assert backbone.blocks[2].halves() is not None
        handle = part.register_forward_hook(lambda *args: 2 * args[-1])
        assert backbone.blocks[2].halves() is None
        handle.remove()
    backbone.blocks[2].host.mlp = nn.Sequential(mlp.c_fc, nn.Tanh(), mlp.c_proj)
    assert backbone.blocks[2].halves() is None


@pytest.mark.parametrize("family", ["vit", "vit, norm after pool", "timm vit"])
def test_legrad_is_the_gradient_by_rows(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = tiny.backbone(family, torch.float64)
    encoding = eclip.encode(backbone, tiny.pixels(backbone).double())
    short = eclip.METHODS["legrad"](encoding, tiny.texts(backbone).double())
    monkeypatch.setattr("eclip.backbones.encoding.finish_mean", lambda *args: finish(*args).mean(dim=1))
    whole = eclip.METHODS["legrad"](encoding, tiny.texts(backbone).double())
    torch.testing.assert_close(short, whole, rtol=0, atol=1e-12)
    assert whole.std() > 1e-6


@pytest.mark.parametrize("family", ["timm abs_attn", "timm rot_attn"])
def test_pools_off_the_training_grid_equal_timm(family: str) -> None:
    backbone = tiny.backbone(family, torch.float64)
    pixels = tiny.pixels(backbone, rows=5, cols=2).double()
    expected = backbone.model.encode_image(pixels)
    torch.testing.assert_close(eclip.encode(backbone, pixels).feature, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("size", [(48, 48), (24, 56)])
def test_vit_off_the_training_grid_equals_a_model_resized_by_open_clip(size: tuple[int, int]) -> None:
    backbone = tiny.backbone("vit")
    resized = open_clip.CLIP(
        embed_dim=24, vision_cfg={**tiny.VIT, "image_size": size}, text_cfg=dict(tiny.TEXT), quick_gelu=True
    ).eval()
    state = copy.deepcopy(backbone.model.state_dict())
    open_clip.model.resize_pos_embed(state, resized)
    resized.load_state_dict(state)
    pixels = torch.randn(1, 3, *size)
    torch.testing.assert_close(eclip.encode(backbone, pixels).feature, resized.encode_image(pixels), rtol=0, atol=1e-5)


def test_siglip_off_the_training_grid_equals_timm() -> None:
    backbone = tiny.backbone("siglip", torch.float64)
    pixels = tiny.pixels(backbone, rows=3, cols=6).double()
    flexible = copy.deepcopy(backbone.model)
    trunk = flexible.visual.trunk
    trunk.dynamic_img_size = True
    trunk.patch_embed.strict_img_size = trunk.patch_embed.flatten = False
    trunk.patch_embed.output_fmt = "NHWC"
    flat = trunk.patch_embed.forward
    trunk.patch_embed.forward = lambda x: flat(x).permute(0, 2, 3, 1) if flat(x).shape[1] == 32 else flat(x)
    expected = flexible.encode_image(pixels)
    torch.testing.assert_close(eclip.encode(backbone, pixels).feature, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("family", ["timm vit", "eva", "eva02"])
def test_timm_vits_off_the_training_grid_equal_timm(family: str) -> None:
    """timm's own way to any grid, with the same weights; EVA turns queries by the place in the reference grid."""
    backbone = tiny.backbone(family, torch.float64)
    flexible = tiny.model(family)
    made = {"timm vit": (tiny.VisionTransformer, {"global_pool": "token", "no_embed_class": True, "init_values": 0.5})}
    made |= {"eva": (tiny.Eva, {"global_pool": "token", "init_values": 0.5}), "eva02": (tiny.Eva, tiny.EVA02)}
    build, options = made[family]
    flexible.visual.trunk = tiny._trunk(build, **options, dynamic_img_size=True)().visual.trunk
    flexible.double().load_state_dict(backbone.model.state_dict())
    for rows, cols in ((4, 4), (5, 2)):
        pixels = tiny.pixels(backbone, rows=rows, cols=cols).double()
        expected = flexible.eval().encode_image(pixels)
        torch.testing.assert_close(eclip.encode(backbone, pixels).feature, expected, rtol=0, atol=1e-6)


def test_positions_differ_between_modes_and_leave_the_table_alone() -> None:
    table = torch.randn(17, 8, generator=torch.Generator().manual_seed(0))
    before = table.clone()
    native, grid = Grid(4, 4), Grid(6, 3)
    modes = ("bicubic_aa", "bicubic", "bilinear", "bicubic_plus01")
    resized = [resize_positions(table, native, grid, mode) for mode in modes]
    for index, one in enumerate(resized):
        assert one.shape == (19, 8)
        assert torch.equal(one[:1], table[:1]), "the CLS row is not a place and stays"
        for other in resized[:index]:
            assert (one - other).abs().max() > 1e-3
    assert torch.equal(table, before)
    assert resize_positions(table, native, native, "bilinear") is table


def test_positions_are_resized_as_each_mode_says() -> None:
    table = torch.randn(17, 8, generator=torch.Generator().manual_seed(0))
    maps = table[1:].reshape(4, 4, 8).permute(2, 0, 1)[None]
    expected = {
        "bicubic_aa": interpolate(maps, (6, 3), mode="bicubic", antialias=True),
        "bicubic": interpolate(maps, (6, 3), mode="bicubic"),
        "bilinear": interpolate(maps, (6, 3), mode="bilinear"),
        "bicubic_plus01": interpolate(maps, scale_factor=(6.1 / 4, 3.1 / 4), mode="bicubic"),
    }
    for mode, resized in expected.items():
        ours = resize_positions(table, Grid(4, 4), Grid(6, 3), mode)
        torch.testing.assert_close(ours[1:], resized[0].flatten(1).T, rtol=0, atol=0)


@pytest.mark.parametrize("mode", ["bicubic_aa", "bilinear_aa", "bicubic", "bilinear", "bicubic_plus01"])
@pytest.mark.parametrize("native", [Grid(4, 4), Grid(5, 3), Grid(6, 1)])
def test_positions_of_a_tall_grid_are_those_of_the_wide_one_on_its_side(native: Grid, mode: str) -> None:
    """torch is right where the grid is one row high."""
    table = torch.randn(1 + native.row * native.col, 8, generator=torch.Generator().manual_seed(0))
    patches = table[1:].unflatten(0, native).transpose(0, 1).flatten(0, 1)
    aside = torch.cat([table[:1], patches])
    for side in (2, 9, 16):
        wide = resize_positions(aside, Grid(native.col, native.row), Grid(1, side), mode)
        tall = resize_positions(table, native, Grid(side, 1), mode)
        torch.testing.assert_close(tall, wide, rtol=0, atol=1e-6)


@pytest.mark.parametrize("family", ["vit", "siglip"])
def test_preprocess_equals_torchvisions_resize_and_normalize(family: str) -> None:
    backbone = tiny.backbone(family)
    values = np.random.default_rng(0).integers(0, 256, (45, 70, 3), dtype=np.uint8)
    image = Image.fromarray(values)
    steps = [
        transforms.Resize((32, 32), transforms.InterpolationMode.BICUBIC),
        transforms.ToTensor(),
        transforms.Normalize(backbone.mean, backbone.std),
    ]
    torch.testing.assert_close(backbone.preprocess(image), transforms.Compose(steps)(image), rtol=0, atol=1e-6)
    assert backbone.preprocess(image.convert("L")).shape == (3, 32, 32)


def test_siglip_token_alone_is_the_head_on_one_token() -> None:
    backbone = tiny.backbone("siglip", torch.float64)
    encoding = eclip.encode(backbone, tiny.pixels(backbone))
    trunk = backbone.model.visual.trunk
    alone = torch.stack([trunk.attn_pool(trunk.norm(encoding.tokens[:, i : i + 1])) for i in range(16)], dim=1)
    torch.testing.assert_close(backbone.project(encoding.tokens), alone, rtol=0, atol=1e-12)


# --- nothing changed ---


def _state(model: nn.Module) -> dict[str, Any]:
    return {
        "weights": {key: value.clone() for key, value in model.state_dict().items()},
        "versions": [weight._version for weight in model.parameters()],
        "grads": [weight.grad for weight in model.parameters()],
        "flags": [weight.requires_grad for weight in model.parameters()],
        "modes": [module.training for module in model.modules()],
        "hooks": [len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in model.modules()],
        "attributes": [sorted(vars(module)) for module in model.modules()],
    }


def _assert_same(model: nn.Module, before: dict[str, Any], random: torch.Tensor) -> None:
    after = _state(model)
    for key, value in before.pop("weights").items():
        assert torch.equal(after["weights"][key], value), key
    after.pop("weights")
    assert after == before
    assert torch.equal(torch.get_rng_state(), random)


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.long(every=5)
def test_nothing_of_the_model_changes(family: str, training: bool) -> None:
    backbone = tiny.backbone(family)
    expected = eclip.encode(backbone, tiny.pixels(backbone)).feature
    model = backbone.model
    model.train(training)
    next(model.visual.children()).eval()  # modes of parts are kept too, not only the whole model's
    before, random = _state(model), torch.get_rng_state()
    encoding = eclip.encode(backbone, tiny.pixels(backbone, rows=backbone.native.row + training))  # off the grid too
    for method in eclip.METHODS.values():
        with suppress(NotApplicableError):
            method(encoding, tiny.texts(backbone), **tiny.FEW.get(method.name, {}))
    eclip.encode_texts(backbone, ["a dog"])
    assert torch.equal(eclip.encode(backbone, tiny.pixels(backbone)).feature, expected), "dropout and batch norm rest"
    _assert_same(model, before, random)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_nothing_of_the_model_changes_when_it_raises(family: str) -> None:
    backbone = tiny.backbone(family)
    model = backbone.model.train()

    class Broken(nn.Module):
        def forward(self, *_: Any, **__: Any) -> torch.Tensor:
            raise RuntimeError("broken inside")

    part = model.visual.transformer.resblocks[2] if hasattr(model.visual, "transformer") else None
    if part is None and family == "resnet":
        part = model.visual.layer3
    elif part is None:
        part = model.visual.trunk.blocks[1]
    inner = part.mlp if hasattr(part, "mlp") else part[0]
    name = (
        "gelu"
        if hasattr(inner, "gelu")
        else "act"
        if hasattr(inner, "act")
        else next(n for n, _ in inner.named_children())
    )
    setattr(inner, name, Broken())
    before, random = _state(model), torch.get_rng_state()
    with pytest.raises(eclip.errors.AlteredModelError, match=r"cannot be run \(broken inside\).*Broken\. Use the"):
        eclip.encode(backbone, tiny.pixels(backbone))
    _assert_same(model, before, random)


@pytest.mark.parametrize("family", ["vit", "vit, average pool", "resnet", "timm abs_attn", "siglip"])
@pytest.mark.parametrize("name", eclip.METHODS)
@pytest.mark.long(every=5)
def test_nothing_of_the_model_changes_when_a_method_raises(name: str, family: str) -> None:
    """The part that gives the feature breaks after the encoding is done; what asks it again must leave no trace."""
    backbone = tiny.backbone(family)
    model, calls = backbone.model.train(), []

    def broken(*_: Any) -> torch.Tensor:
        calls.append(1)
        raise RuntimeError("broken inside")

    encoding = eclip.encode(backbone, tiny.pixels(backbone))
    fields = dict.fromkeys(("project", "pool", "to_feature"), broken)
    within = replace(encoding, backbone=replace(backbone, **fields))
    before, random = _state(model), torch.get_rng_state()
    try:
        eclip.METHODS[name](within, tiny.texts(backbone), **tiny.FEW.get(name, {}))
    except (RuntimeError, NotApplicableError) as error:
        assert isinstance(error, NotApplicableError) or "broken inside" in str(error)
    assert (
        calls or name in ("attention", "rollout", "eclip") or family in tiny.GAPS.get(name, ())
    )  # eclip: its own head
    assert torch.is_grad_enabled(), "gradients are as they were"
    _assert_same(model, before, random)


# --- errors ---


@pytest.mark.parametrize(
    "vision",
    [
        {"timm_model_name": "test_efficientnet", "timm_pool": "avg", "timm_proj": "linear", "image_size": 96},
        {"timm_model_name": "test_vit", "timm_pool": "max", "timm_proj": "linear", "image_size": 160},
        {**tiny.VIT, "attentional_pool": "parallel", "attn_pooler_heads": 2},
        {**tiny.VIT, "attentional_pool": True, "attn_pooler_heads": 2, "pool_type": "avg"},
        {**tiny.VIT, "patch_size": (8, 16)},
    ],
    ids=["average pool", "greatest patch", "two poolers", "averaged queries", "oblong patches"],
)
def test_other_towers_are_refused_by_name(vision: dict[str, Any]) -> None:
    model = open_clip.CLIP(embed_dim=24, vision_cfg=vision, text_cfg=dict(tiny.TEXT))
    with pytest.raises(UnsupportedTowerError, match="Supported families: native ViTs"):
        eclip.wrap(model, mean=tiny.MEAN, std=tiny.STD)


def test_wrap_refuses_what_is_no_open_clip_model() -> None:
    with pytest.raises(UnsupportedTowerError, match="got Linear"):
        eclip.wrap(nn.Linear(2, 2))


def test_wrap_asks_for_what_it_cannot_know() -> None:
    with pytest.raises(OptionError, match="mean and std"):
        eclip.wrap(tiny.model("vit"))
    model = open_clip.CLIP(embed_dim=8, vision_cfg=dict(tiny.VIT), text_cfg={**tiny.TEXT, "vocab_size": 100})
    backbone = eclip.wrap(model, mean=tiny.MEAN, std=tiny.STD)
    with pytest.raises(OptionError, match="100 words"):
        eclip.encode_texts(backbone, ["a dog"])
    wrong = eclip.wrap(model, mean=tiny.MEAN, std=tiny.STD, tokenizer=open_clip.SimpleTokenizer())
    with pytest.raises(ModelError, match="token id 49407"):
        eclip.encode_texts(wrong, ["a dog"])


def test_encode_names_what_is_wrong_with_pixels() -> None:
    backbone = tiny.backbone("vit")
    with pytest.raises(ShapeError, match=r"patch size 8.*\(1, 3, 33, 32\)"):
        eclip.encode(backbone, torch.zeros(1, 3, 33, 32))
    with pytest.raises(ShapeError, match="one image or more"):
        eclip.encode(backbone, torch.zeros(0, 3, 32, 32))
    with pytest.raises(OptionError, match="keep must be"):
        eclip.encode(backbone, tiny.pixels(backbone), keep=-1)
    with pytest.raises(OptionError, match="positions must be one of bicubic_aa"):
        eclip.encode(backbone, tiny.pixels(backbone), positions="nearest")


def test_keep_decides_what_can_be_rerun() -> None:
    backbone = tiny.backbone("vit")
    encoding = eclip.encode(backbone, tiny.pixels(backbone), keep=1)
    assert len(encoding.inputs) == 1
    whole = eclip.encode(backbone, tiny.pixels(backbone))
    assert torch.equal(encoding.inputs[0], whole.inputs[-1])
    with pytest.raises(KeepError, match=r"'surgery' reruns the last 6 of 7 blocks.*kept 1.*keep=6"):
        eclip.METHODS["surgery"](encoding, tiny.texts(backbone))
    assert len(eclip.encode(backbone, tiny.pixels(backbone), keep=100).inputs) == 7
    assert eclip.encode(backbone, tiny.pixels(backbone), keep=0).inputs == ()


def test_one_of_several_images_is_numbered_as_in_a_list() -> None:
    backbone = tiny.backbone("vit")
    encoding = eclip.encode(backbone, tiny.pixels(backbone))
    assert torch.equal(encoding.only(-1).pixels, encoding.only(1).pixels) and len(encoding.only(-1).feature) == 1
    with pytest.raises(IndexError):
        encoding.only(2)


def test_grid_keeps_the_aspect_ratio_and_bounds_the_patches() -> None:
    backbone = tiny.backbone("vit")  # 4 x 4 patches
    assert backbone.grid_for((100, 100)) == (4, 4)
    assert backbone.grid_for((640, 160), resize="keep") == (2, 8)  # four times as wide as high
    assert backbone.grid_for((1, 4000), resize="keep") == (16, 1)  # no more patches than the square has
    assert backbone.grid_for((500, 100), image_size=64, resize="squash") == (8, 8)
    with pytest.raises(OptionError, match=r"multiple of the patch size 8 of vit, got 30\. The nearest is 32"):
        backbone.grid_for((10, 10), image_size=30)
    with pytest.raises(OptionError, match="resize must be one of squash, keep, got 'crop'"):
        backbone.grid_for((10, 10), resize="crop")
