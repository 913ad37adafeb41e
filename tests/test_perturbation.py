"""Perturbation methods and the decomposition, recomputed the long way; models whose right map is known; their costs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from timm.layers import RmsNorm
from torch import Tensor
from torch.nn.functional import cosine_similarity, interpolate, normalize

import eclip
import tiny
from eclip.backbones.encoding import Encoding
from eclip.errors import NotApplicableError, OptionError
from eclip.methods import METHODS
from eclip.methods.decompose import terms
from eclip.methods.occlusion import _windows
from eclip.methods.rise import _masks

DECOMPOSED = [family for family in tiny.FAMILIES if family not in tiny.GAPS["decompose"]]


def _encoded(family: str, **grid: int) -> tuple[eclip.Backbone, eclip.Encoding, Tensor]:
    backbone = tiny.backbone(family, torch.float64)
    return (
        backbone,
        eclip.encode(backbone, tiny.pixels(backbone, **grid)),
        normalize(tiny.texts(backbone).double(), dim=-1),
    )


def _score(backbone: eclip.Backbone, pixels: Tensor, text: Tensor) -> Tensor:
    """(image, text) cosines of the host's own encode_image."""
    with torch.no_grad():
        return cosine_similarity(backbone.model.encode_image(pixels)[:, None], text[None], dim=-1)


# --- RISE ---


@pytest.mark.parametrize("centered", [True, False])
def test_rise_is_the_mean_of_masks_weighted_by_scores(centered: bool) -> None:
    backbone, encoding, text = _encoded("vit")
    ours = METHODS["rise"].function(encoding, text, mask_count=7, cells=3, keep=0.4, centered=centered, seed=5)
    masks = _masks(7, (32, 32), 3, 0.4, torch.Generator().manual_seed(5)).double()
    for image in range(2):
        scores = torch.cat([_score(backbone, encoding.pixels[image : image + 1] * mask, text) for mask in masks])
        scores = scores - scores.mean(dim=0) if centered else scores
        expected = torch.einsum("mt,mhw->thw", scores, masks) / (7 * 0.4)
        expected = expected.unflatten(2, (4, 8)).unflatten(1, (4, 8)).mean(dim=(2, 4))  # each patch's pixels
        torch.testing.assert_close(ours[image], expected, rtol=1e-6, atol=1e-7)  # masks are float32


def test_rise_masks_are_soft_cells_shifted_at_random() -> None:
    masks = _masks(400, (30, 50), 5, 0.3, torch.Generator().manual_seed(0))
    assert masks.shape == (400, 30, 50)
    assert 0 <= masks.min() < 0.01 < 0.99 < masks.max() < 1 + 1e-6
    assert abs(masks.mean() - 0.3) < 0.02, "the share that lets the image through"
    assert ((masks > 0.01) & (masks < 0.99)).float().mean() > 0.3, "enlarged bilinearly, not in steps"
    assert (masks.mean(dim=0) - 0.3).abs().max() < 0.12, "no place is favored"


def test_rise_masks_are_cells_enlarged_by_hand_and_cut_out() -> None:
    """Bilinear between the centers of cells, one cell larger than the image, and cut out at a random place."""
    masks = _masks(3, (12, 20), 4, 0.5, torch.Generator().manual_seed(3)).numpy()
    generator = torch.Generator().manual_seed(3)
    for mask in masks:
        cells = (torch.rand(1, 1, 4, 4, generator=generator)[0, 0] < 0.5).float().numpy()
        for axis, side in ((0, 3), (1, 5)):  # of a cell, in pixels; there are five cells' worth of pixels
            centers = (np.arange(5 * side) + 0.5) * 4 / (5 * side) - 0.5
            cells = np.apply_along_axis(lambda line, at=centers: np.interp(at, np.arange(4), line), axis, cells)
        top, left = (int(torch.randint(side, (1,), generator=generator)) for side in (3, 5))
        np.testing.assert_allclose(mask, cells[top : top + 12, left : left + 20], atol=1e-6)


def test_rise_depends_on_its_seed_alone() -> None:
    _, encoding, text = _encoded("vit")
    before = torch.get_rng_state()
    maps = [
        METHODS["rise"](encoding, text, mask_count=9, seed=seed, batch_size=size) for seed, size in [(0, 9), (0, 2)]
    ]
    torch.testing.assert_close(maps[0], maps[1], rtol=0, atol=1e-7)
    assert (METHODS["rise"](encoding, text, mask_count=9, seed=1) - maps[0]).abs().max() > 1e-4
    assert torch.equal(torch.get_rng_state(), before)


# --- occlusion ---


@pytest.mark.parametrize(("window", "stride"), [(1, 1), (3, 2), (2, 1)])
def test_occlusion_is_the_loss_of_the_windows_over_a_patch(window: int, stride: int) -> None:
    backbone, encoding, text = _encoded("vit", rows=3, cols=5)
    ours = METHODS["occlusion"].function(encoding, text, window=window, stride=stride)
    full = cosine_similarity(encoding.feature[:, None], text[None], dim=-1)
    losses: dict[tuple[int, int], list[Tensor]] = {(row, col): [] for row in range(3) for col in range(5)}
    for row in sorted({*range(0, 3, stride), 2}):
        for col in sorted({*range(0, 5, stride), 4}):
            first = max(0, row - (window - 1) // 2), max(0, col - (window - 1) // 2)
            last = row + window // 2 + 1, col + window // 2 + 1
            covered = encoding.pixels.clone()
            covered[:, :, 8 * first[0] : 8 * last[0], 8 * first[1] : 8 * last[1]] = 0
            feature = eclip.encode(backbone, covered).feature
            loss = full - cosine_similarity(feature[:, None], text[None], dim=-1)
            for place in losses:
                if first[0] <= place[0] < last[0] and first[1] <= place[1] < last[1]:
                    losses[place].append(loss)
    for (row, col), found in losses.items():
        torch.testing.assert_close(ours[:, :, row, col], torch.stack(found).mean(dim=0), rtol=0, atol=1e-10)


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (7, 10), (24, 24), (40, 3)])
@pytest.mark.long(every=5)
def test_occlusion_covers_every_patch_with_few_windows(shape: tuple[int, int]) -> None:
    backbone = tiny.backbone("vit")
    for window in (1, 2, 3, 5):
        for stride in range(1, window + 1):
            cover = _windows(eclip.backbones.backbone.Grid(*shape), window, stride)
            assert cover.sum(dim=0).min() >= 1, f"a patch that no window covers at {window}, {stride}"
    encoding, count = _counted(1, *shape)
    text = tiny.texts(backbone)
    assert 0 < count(lambda: METHODS["occlusion"](encoding, text)) <= 1 + 256, "few for the windows, one with none"


def _at(backbone: eclip.Backbone, shape: tuple[int, int]) -> eclip.Encoding:
    return eclip.encode(backbone, tiny.pixels(backbone, 1, *shape))


@pytest.mark.parametrize("name", ["rise", "occlusion", "gscorecam"])
def test_masked_passes_use_the_positions_of_the_encoding(name: str) -> None:
    backbone = tiny.backbone("vit")
    pixels, text = tiny.pixels(backbone, 1, 6, 5), tiny.texts(backbone)
    seen = []
    options = tiny.FEW.get(name, {})
    for positions in ("bilinear", "bicubic_plus01"):
        encoding = eclip.encode(backbone, pixels, positions=positions)
        asked = replace(backbone, embed=lambda *of: seen.append(of[2]) or backbone.embed(*of))
        METHODS[name](replace(encoding, backbone=asked), text, **options)
        assert set(seen) == {positions}
        seen.clear()


def test_occlusion_on_a_large_grid_holds_few_masks_at_a_time() -> None:
    backbone = tiny.backbone("vit")
    encoding = _at(backbone, (24, 24))
    sizes = []
    asked = replace(backbone, embed=lambda *of: sizes.append(len(of[0])) or backbone.embed(*of))
    METHODS["occlusion"](replace(encoding, backbone=asked), tiny.texts(backbone), window=12, stride=12, batch_size=2)
    assert sizes == [2] * 4 + [1], "three windows down and across, two at a time"


# --- gScoreCAM ---


@pytest.mark.parametrize("family", ["vit", "vit, average pool", "siglip", "resnet", "timm rot_attn"])
def test_gscorecam_equals_the_formula(family: str) -> None:
    backbone, encoding, text = _encoded(family)
    if encoding.trunk is not None:
        leaf = encoding.trunk.detach().requires_grad_()
        feature = backbone.pool(encoding.blocks[0].forward(eclip.backbones.pool.pool_tokens(leaf)))
        activation = encoding.trunk
    else:
        leaf = encoding.tokens.detach().requires_grad_()
        feature = backbone.pool(leaf)
        activation = encoding.tokens[:, encoding.prefix :].transpose(1, 2).unflatten(2, encoding.grid)
    ours = METHODS["gscorecam"].function(encoding, text, channels=5)
    positive = 0
    for place, one in enumerate(text):
        scores = cosine_similarity(feature, one[None])
        [grad] = torch.autograd.grad(scores.sum(), leaf, retain_graph=True)
        slope = grad.mean(dim=(2, 3)) if encoding.trunk is not None else grad.mean(dim=1)
        for image in range(2):
            logits = torch.zeros(activation.shape[1], dtype=torch.float64)
            for channel in slope[image].argsort(descending=True)[:5]:
                seen = activation[image, channel][None, None].float()
                seen = interpolate(seen, encoding.pixels.shape[2:], mode="bilinear", align_corners=True).double()
                seen = (seen - seen.min()) / (seen.max() - seen.min()).clamp_min(1e-6)
                logits[channel] = backbone.logit_scale * _score(backbone, encoding.pixels[[image]] * seen, one[None])
            expected = (logits.softmax(dim=0)[:, None, None] * activation[image]).sum(dim=0).clamp_min(0)
            torch.testing.assert_close(ours[image, place].double(), expected, rtol=1e-4, atol=1e-7)
            positive += int(expected.max() > 0)
    assert positive, "ReLU left nothing of any map"


# --- what they cost, and where they look ---


def _counted(images: int, *shape: int) -> tuple[Encoding, Callable[[Callable[[], object]], int]]:
    """An encoding, and what counts the images that go through the tower during a task."""
    backbone, seen = tiny.backbone("vit"), []

    def embed(pixels: Tensor, *where: Any) -> Any:
        seen.append(len(pixels))
        return backbone.embed(pixels, *where)

    def count(task: Callable[[], object]) -> int:
        seen.clear()
        task()
        return sum(seen)

    return eclip.encode(replace(backbone, embed=embed), tiny.pixels(backbone, images, *shape)), count


@pytest.mark.parametrize(("name", "options", "passes"), [("rise", {"mask_count": 11}, 11), ("occlusion", {}, 16)])
def test_texts_share_masked_passes(name: str, options: dict[str, int], passes: int) -> None:
    encoding, count = _counted(2)
    for texts in (1, 30):
        text = tiny.texts(encoding.backbone, texts)
        assert count(lambda text=text: METHODS[name](encoding, text, **options)) == 2 * passes


def test_gscorecam_looks_through_each_channel_once() -> None:
    encoding, count = _counted(1)  # 32 channels
    texts = {number: tiny.texts(encoding.backbone, number) for number in (1, 9, 50)}
    passes = [count(lambda n=n: METHODS["gscorecam"](encoding, texts[n])) for n in (1, 50)]
    assert passes[0] == 4, "a tenth of the channels, rounded up"
    assert passes[0] < passes[1] <= 32, "no channel twice"
    everything = count(lambda: METHODS["gscorecam"](encoding, texts[9], channels=300))
    assert everything == 32


@pytest.mark.parametrize("name", ["rise", "occlusion"])
def test_a_model_that_sees_one_patch_is_found_out(name: str) -> None:
    backbone = tiny.backbone("vit")
    direction = normalize(torch.randn(2, 24, generator=torch.Generator().manual_seed(0)), dim=-1)

    def pool(tokens: Tensor) -> Tensor:  # the brighter the patch at (1, 2), the nearer to the first direction
        bright = tokens[:, 1 + 1 * 4 + 2, :1]
        return bright * direction[0] + direction[1]

    seeing = replace(backbone, pool=pool, embed=lambda pixels, grid, positions: (_brightness(pixels), None))
    seeing = replace(seeing, blocks_at=lambda grid, positions: ())  # no block mixes the patches
    encoding = eclip.encode(seeing, torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(1)) + 0.5)
    options = {"mask_count": 300} if name == "rise" else {"window": 1}
    maps = METHODS[name](encoding, direction[:1], **options)[0, 0]
    assert maps.argmax() == 1 * 4 + 2
    if name == "occlusion":
        assert (maps.flatten()[torch.arange(16) != 6].abs() < 1e-6).all(), "no other patch matters"


def _brightness(pixels: Tensor) -> Tensor:
    means = pixels.mean(dim=1).unflatten(2, (4, 8)).unflatten(1, (4, 8)).mean(dim=(2, 4)).flatten(1)
    tokens = torch.cat([torch.zeros(len(pixels), 1), means], dim=1)
    return tokens[..., None].expand(-1, -1, 32)


def test_perturbation_methods_name_wrong_options() -> None:
    _, encoding, text = _encoded("vit")
    for name, options, message in [
        ("rise", {"mask_count": 0}, "mask_count, cells and batch_size >= 1"),
        ("rise", {"keep": 1.0}, "got 256, 8, 8, 1.0 and 0"),
        ("rise", {"seed": -1}, "seed from 0 to 2.63 - 1, got 256, 8, 8, 0.5 and -1"),
        ("occlusion", {"window": 2, "stride": 3}, "a stride from 1 to window, got 2, 8 and 3"),
        ("gscorecam", {"channels": 0}, "channels and batch_size >= 1, got 0 and 8"),
    ]:
        with pytest.raises(OptionError, match=message):
            METHODS[name](encoding, text, **options)


# --- decomposition ---


@pytest.mark.parametrize("family", DECOMPOSED)
def test_terms_add_up_to_the_feature_and_to_the_map(family: str) -> None:
    _, encoding, text = _encoded(family)
    found = terms(encoding)
    total = found.attention.sum(dim=(1, 2, 3)) + found.rest.sum(dim=1)
    torch.testing.assert_close(total, normalize(encoding.feature, dim=-1), rtol=0, atol=1e-12)
    latent = encoding.backbone.latent
    deep = encoding.blocks[-1].residual and latent is None
    layers = 7 if deep else 1
    rest = 8 if deep else 0 if latent is None or latent.mlp is None else 1
    assert found.attention.shape[1:4] == (layers, encoding.tokens.shape[1], (latent or encoding.blocks[-1]).heads)
    assert found.rest.shape[1] == rest, "the start and an MLP a block, as far as there are any"
    plain = METHODS["decompose"].function(encoding, text, centered=False)
    by_patch = found.attention.sum(dim=(1, 3))[:, encoding.prefix :] @ text.T
    expected = by_patch.transpose(1, 2).unflatten(2, encoding.grid)
    torch.testing.assert_close(plain, expected, rtol=0, atol=1e-12)
    centered = METHODS["decompose"].function(encoding, text)
    torch.testing.assert_close(centered, expected - expected.mean(dim=1, keepdim=True), rtol=0, atol=1e-12)
    single = METHODS["decompose"].function(encoding, text[:1])
    torch.testing.assert_close(single, expected[:, :1], rtol=0, atol=1e-12)


@pytest.mark.parametrize("gone", [("bias",), ("weight", "bias")])
def test_terms_of_a_final_norm_without_some_weights_add_up_too(gone: tuple[str, ...]) -> None:
    backbone = tiny.backbone("timm vit", torch.float64)
    for name in gone:
        setattr(backbone.final_norm, name, None)
    encoding = eclip.encode(backbone, tiny.pixels(backbone).double())
    found = terms(encoding)
    total = found.attention.sum(dim=(1, 2, 3)) + found.rest.sum(dim=1)
    torch.testing.assert_close(total, normalize(encoding.feature, dim=-1), rtol=0, atol=1e-12)


def test_a_final_norm_that_is_no_layer_norm_is_not_applicable() -> None:
    model = tiny.model("timm vit")
    model.visual.trunk.norm = RmsNorm(32)
    backbone = eclip.wrap(model, mean=tiny.MEAN, std=tiny.STD)
    encoding, text = eclip.encode(backbone, tiny.pixels(backbone)), tiny.texts(backbone)
    with pytest.raises(NotApplicableError, match="its final norm is a RmsNorm, not a LayerNorm"):
        METHODS["decompose"](encoding, text)


def test_terms_are_those_of_evaluation_without_autocast() -> None:
    backbone = tiny.backbone("vit")
    encoding = eclip.encode(backbone, tiny.pixels(backbone))
    expected = terms(encoding)
    for block in backbone.model.visual.transformer.resblocks:
        block.mlp = torch.nn.Sequential(*block.mlp, torch.nn.Dropout(0.5))
    encoding = eclip.encode(backbone, tiny.pixels(backbone))
    backbone.model.train()
    state = torch.get_rng_state()
    with torch.autocast("cpu", torch.bfloat16):
        found = terms(encoding)
    assert torch.equal(found.attention, expected.attention) and torch.equal(found.rest, expected.rest)
    assert torch.equal(torch.get_rng_state(), state) and backbone.model.training


def test_a_head_that_is_switched_off_adds_nothing() -> None:
    backbone = tiny.backbone("vit", torch.float64)
    block = backbone.model.visual.transformer.resblocks[3].attn
    block.out_proj.weight.data[:, 16:] = 0  # what the second head of two would pass on
    block.out_proj.bias.data.zero_()
    found = terms(eclip.encode(backbone, tiny.pixels(backbone)))
    spread = found.attention[:, 3].std(dim=1)  # over tokens; the shared constants are the same for each
    assert spread[:, 1].max() < 1e-12 < 1e-4 < spread[:, 0].max()
