"""Guides: the formulas recomputed step by step, timm's own attention, and what must hold for any guide and tower."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import scipy.linalg
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from timm.models import get_pretrained_cfg
from torch import nn

import eclip
import tiny
from eclip.backbones.backbone import Backbone, Grid
from eclip.backbones.encoding import encode
from eclip.errors import (
    DownloadError,
    EclipError,
    KeepError,
    ModelError,
    OptionError,
    ShapeError,
    UnknownNameError,
    UnsupportedTowerError,
)
from eclip.guides import GUIDES, Seen, check_guide, on_grid
from eclip.guides.spectral import likeness, second_eigenvector
from eclip.images import open_image
from eclip.methods import METHODS

ROOT = Path(__file__).parents[1]
SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 2, "num_classes": 0}


def _random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _image(seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (30, 44, 3), dtype=np.uint8))


def _seen(backbone: Backbone, rows: int = 0, cols: int = 0, keep: int = 1) -> Seen:
    encoding = encode(backbone, tiny.pixels(backbone, 2, rows, cols), keep)
    return Seen([_image(0), _image(1)], ["images/a.jpg", "train-000.tar/000123"], encoding)


def _over_peak(maps: torch.Tensor) -> torch.Tensor:
    return maps / maps.amax((-2, -1), keepdim=True)


@pytest.mark.parametrize(("cells", "side"), [((7, 7), 14), ((5, 9), 3), ((6, 1), 9)])
def test_guide_on_a_grid_one_column_wide_is_that_of_its_side(cells: tuple[int, int], side: int) -> None:
    guide = _random(2, *cells).abs()
    tall, wide = on_grid(guide, Grid(side, 1)), on_grid(guide.mT, Grid(1, side))
    torch.testing.assert_close(tall, wide.mT, rtol=0, atol=1e-6)


def _state(module: nn.Module) -> tuple[dict[str, torch.Tensor], list[bool], int, torch.Tensor, list[bool]]:
    weights = {name: value.clone() for name, value in module.state_dict().items()}
    modes = [one.training for one in module.modules()]
    hooks = sum(len(one._forward_hooks) + len(one._forward_pre_hooks) for one in module.modules())
    return weights, modes, hooks, torch.random.get_rng_state(), [one.requires_grad for one in module.parameters()]


def _same(before: Any, after: Any) -> None:
    assert all(torch.equal(before[0][name], value) for name, value in after[0].items())
    assert before[1:3] == after[1:3] and torch.equal(before[3], after[3]) and before[4] == after[4]


# --- the dict ----------------------------------------------------------------


def test_guide_files_are_the_guides() -> None:
    files = {path.stem for path in (ROOT / "src" / "eclip" / "guides").glob("*.py")} - {"__init__"}
    assert files == set(GUIDES)
    assert all(guide.name == name == guide.function.__name__ for name, guide in GUIDES.items())


def test_the_dict_and_a_check_of_a_name_import_nothing_heavy() -> None:
    script = (
        "import sys, eclip.guides as g; g.check_guide('dino', {}); print({'torch', 'timm', 'PIL'} & {*sys.modules})"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout == "set()\n"


# --- any guide, any tower ----------------------------------------------------

OFFLINE: list[tuple[str, dict[str, Any]]] = [
    ("none", {}),
    ("centre", {}),
    ("backbone", {"kind": "vv"}),
    ("backbone", {"kind": "pool"}),
    ("spectral", {}),
    ("spectral", {"features": "keys", "centered": False, "tau": 0.2, "foreground": "largest"}),
    ("spectral", {"features": "values"}),
    ("spectral", {"features": "tokens"}),
]


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.long(every=5)
def test_every_guide_on_every_tower(family: str) -> None:
    backbone = tiny.backbone(family)
    backbone.model.train()
    before = _state(backbone.model)
    seen = _seen(backbone, 3, 4)
    alone = Seen(seen.images[1:], seen.sources[1:], seen.encoding.only(1))
    for name, options in OFFLINE:
        maps = GUIDES[name](seen, **options)
        assert maps.shape == (2, 3, 4) and maps.dtype == torch.float32 and not maps.requires_grad
        assert (maps >= 0).all() and (maps.amax((1, 2)) == 1).all()
        torch.testing.assert_close(GUIDES[name](alone, **options)[0], maps[1], rtol=0, atol=1e-5)
        assert torch.equal(GUIDES[name](seen, **options), maps)
    with pytest.raises(OptionError):
        GUIDES["backbone"](seen, kind="qq")
    _same(before, _state(backbone.model))


@pytest.mark.parametrize("family", ["vit", "resnet", "siglip", "timm vit, average pool", "eva02"])
def test_backbone_the_long_way(family: str) -> None:
    seen = _seen(tiny.backbone(family), 3, 4)
    encoding, prefix = seen.encoding, seen.encoding.prefix
    [(block, x)] = encoding.tail(1, "test")
    values = block.value(block.norm1(x))
    received = torch.zeros(2, 12)
    for image in range(2):
        for head in range(block.heads):
            v = values[image, head]
            for query in range(prefix, len(v)):
                shares = torch.exp(v @ v[query] / v.shape[1] ** 0.5)
                received[image] += (shares / shares.sum())[prefix:]
    ours = GUIDES["backbone"](seen, kind="vv")
    torch.testing.assert_close(ours, _over_peak(received.view(2, 3, 4)), rtol=1e-4, atol=1e-5)
    pooled = METHODS["attention"](encoding, tiny.texts(encoding.backbone, 1))[:, 0]
    torch.testing.assert_close(GUIDES["backbone"](seen, kind="pool"), _over_peak(pooled))
    assert not torch.allclose(ours, _over_peak(pooled), atol=1e-3)


def test_centre_the_long_way() -> None:
    maps = GUIDES["centre"](_seen(tiny.backbone("vit"), 3, 4), sigma=0.3)
    for row in range(3):
        for col in range(4):
            down, across = (row + 0.5) / 3 - 0.5, (col + 0.5) / 4 - 0.5
            expected = np.exp(-(down**2 + across**2) / (2 * 0.3**2)) / np.exp(-(0.125**2) / (2 * 0.3**2))
            assert float(maps[1, row, col]) == pytest.approx(expected, rel=1e-5)
    sharp = GUIDES["centre"](_seen(tiny.backbone("vit"), 3, 4), sigma=0.001)
    assert sharp[0].tolist() == [[0, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0]]


# --- spectral ----------------------------------------------------------------


def _planted(sign: float = 1.0) -> tuple[Seen, torch.Tensor]:
    """Tokens of two kinds around a shared mean, the one on four inner patches of 6 x 5; and where that is."""
    backbone = tiny.backbone("vit")
    seen = _seen(backbone, 6, 5)
    thing = torch.zeros(6, 5, dtype=torch.bool)
    thing[2:4, 2:4] = True
    mean, one, other = _random(3, 32, seed=4)
    patches = 5 * mean + torch.where(thing.flatten()[:, None], sign * one, sign * other) + 0.2 * _random(2, 30, 32)
    inputs = torch.cat([_random(2, 1, 32), patches], dim=1)
    return replace(seen, encoding=replace(seen.encoding, inputs=(inputs,))), thing


@pytest.mark.parametrize("tau", [None, 0.2])
@pytest.mark.parametrize("foreground", ["border", "largest"])
def test_spectral_finds_what_was_planted(tau: float | None, foreground: str) -> None:
    seen, thing = _planted()
    for found in GUIDES["spectral"](seen, tau=tau, foreground=foreground):
        assert float(found[thing].min()) > 0.8 and float(found[~thing].max()) < 0.2


def test_spectral_the_long_way() -> None:
    tokens = 0.7 * _random(2, 12, 6).double() + _random(6, seed=1)
    for centered, tau in ((True, None), (False, 0.2)):
        weights = likeness(tokens, centered, tau)
        for image, found in zip(range(2), second_eigenvector(weights), strict=True):
            rows = tokens[image] - tokens[image].mean(0) * centered
            expected = np.empty((12, 12))
            for i in range(12):
                for j in range(12):
                    cosine = float(rows[i] @ rows[j] / rows[i].norm() / rows[j].norm())
                    expected[i, j] = max(cosine, 1e-5) if tau is None else 1.0 if cosine >= tau else 1e-5
            np.testing.assert_allclose(weights[image], expected, atol=1e-12)
            degree = np.diag(expected.sum(1))
            least, vectors = scipy.linalg.eigh(degree - expected, degree)
            assert least[2] - least[1] > 1e-3, "else the second is not one but two"
            np.testing.assert_allclose(degree @ found.numpy() @ np.ones(12), 0, atol=1e-9)
            cosine = found.numpy() @ vectors[:, 1] / np.linalg.norm(found) / np.linalg.norm(vectors[:, 1])
            assert abs(cosine) == pytest.approx(1, abs=1e-9)


def test_which_side_of_the_cut_is_the_thing() -> None:
    """The larger values are outside here, where the border is; TokenCut takes them, we do not."""
    seen, _ = _planted()
    inner = torch.zeros(6, 5, dtype=torch.bool)
    inner[1:5, 1:4] = True
    inner[0, :3] = inner[5, 1:3] = True  # 17 patches of 30, 5 of the 18 on the border
    inputs = torch.where(inner.flatten()[:, None], _random(32, seed=5), _random(32, seed=6)).repeat(2, 1, 1)
    inputs = torch.cat([_random(2, 1, 32), inputs + 0.1 * _random(2, 30, 32)], dim=1)
    seen = replace(seen, encoding=replace(seen.encoding, inputs=(inputs,)))
    by_border, by_size = (GUIDES["spectral"](seen, foreground=by) for by in ("border", "largest"))
    torch.testing.assert_close(by_border, 1 - by_size)
    assert float(by_border[0][inner].min()) > float(by_border[0][~inner].max())


def test_patches_that_are_all_alike_give_ones() -> None:
    seen, _ = _planted()
    equal = replace(seen.encoding, inputs=(_random(1, 1, 32).repeat(2, 31, 1),))
    for options in ({}, {"centered": False, "tau": 0.5}):
        assert GUIDES["spectral"](replace(seen, encoding=equal), **options).eq(1).all()
    one_patch = _seen(tiny.backbone("vit"), 1, 1)
    assert GUIDES["spectral"](one_patch).tolist() == [[[1]], [[1]]]
    assert GUIDES["backbone"](one_patch).tolist() == [[[1]], [[1]]]


THINGS = {"elephant": (0, 30, 40, 100), "dog": (30, 35, 70, 95), "cat": (25, 33, 70, 60), "horses": (37, 40, 75, 70)}
"""Boxes of docs/images by eye: left, top, right, bottom in percent."""


def test_with_mini_spectral_finds_things_and_beats_the_control() -> None:
    mini = eclip.load("mini")
    images = [open_image(ROOT / "docs" / "images" / f"{name}.jpg") for name in THINGS]
    encoding = encode(mini, torch.stack([mini.preprocess(image) for image in images]), 1)
    seen = Seen(images, list(THINGS), encoding)
    rows, cols = mini.native
    boxes = torch.zeros(4, rows, cols, dtype=torch.bool)
    for box, (left, top, right, bottom) in zip(boxes, THINGS.values(), strict=True):
        down, across = (
            slice(round(a * side / 100), round(b * side / 100))
            for a, b, side in ((top, bottom, rows), (left, right, cols))
        )
        box[down, across] = True

    def contrast(name: str, **options: Any) -> torch.Tensor:
        maps = GUIDES[name](seen, **options)
        return torch.stack([one[box].mean() - one[~box].mean() for one, box in zip(maps, boxes, strict=True)])

    assert not contrast("none").any()
    assert (contrast("spectral") > 0.3).all(), contrast("spectral")
    assert contrast("spectral").mean() > contrast("centre").mean() + 0.1
    assert contrast("spectral").mean() > contrast("spectral", centered=False).mean() + 0.1


# --- dino --------------------------------------------------------------------


def _vit(**options: Any) -> nn.Module:
    return _noisy(timm.create_model("vit_tiny_patch16_224", **{**SMALL, **options}))


def _registers() -> nn.Module:
    return _noisy(timm.create_model("vit_small_patch14_reg4_dinov2", **SMALL, dynamic_img_size=True))


def _dinov3() -> nn.Module:
    return _noisy(timm.create_model("vit_small_patch16_dinov3", **{**SMALL, "patch_size": 16}))


def _noisy(network: nn.Module) -> nn.Module:
    for seed, weight in enumerate(network.parameters()):
        weight.data.add_(0.1 * _random(*weight.shape, seed=seed))
    return network


@pytest.mark.parametrize(
    ("make", "size"),
    [(_vit, 32), (lambda: _vit(dynamic_img_size=True), 56), (_registers, 48), (_dinov3, 32), (_dinov3, 64)],
)
def test_dino_is_timms_own_attention(make: Callable[[], nn.Module], size: int) -> None:
    network = make()
    network.train()
    before, seen = _state(network), _seen(tiny.backbone("vit"))
    ours = GUIDES["dino"](seen, network=network, size=size)
    _same(before, _state(network))

    network.eval()
    pixels = []
    for image in seen.images:
        values = np.asarray(image.resize((size, size), Image.Resampling.BICUBIC)) / 255
        pixels.append((values - network.pretrained_cfg["mean"]) / network.pretrained_cfg["std"])
    last, kept = network.blocks[-1].attn, []
    last.fused_attn = False
    last.attn_drop.register_forward_hook(lambda module, given, attn: kept.append(attn))
    network.forward_features(torch.from_numpy(np.stack(pixels)).float().permute(0, 3, 1, 2))
    side = size // network.patch_embed.patch_size[0]
    row = kept[0][:, :, 0, network.num_prefix_tokens :].mean(1).view(2, side, side)
    torch.testing.assert_close(ours, _over_peak(row), rtol=1e-4, atol=1e-5)
    assert float(ours.min()) < 0.9, "else a flat map would pass"


def test_dino_takes_the_networks_own_size() -> None:
    seen, network = _seen(tiny.backbone("vit")), _vit()
    assert torch.equal(GUIDES["dino"](seen, network=network), GUIDES["dino"](seen, network=network, size=32))


def _spoiled() -> nn.Module:
    network = _vit()
    network.blocks[1].attn.qkv.weight.data[0, 0] = torch.nan
    return network


@pytest.mark.parametrize(
    ("make", "options", "error", "message"),
    [
        (_vit, {"size": 30}, OptionError, r"multiple of 8, got 30\. The nearest is 32"),
        (_vit, {"size": 0}, OptionError, r"multiple of 8, got 0\. The nearest is 8"),
        (
            lambda: _vit(class_token=False, global_pool="avg"),
            {},
            UnsupportedTowerError,
            "class token, and this Vi",
        ),
        (
            lambda: timm.create_model("test_resnet"),
            {},
            UnsupportedTowerError,
            r"this ResNet is not one",
        ),
        (lambda: timm.models.VisionTransformer(**SMALL), {}, OptionError, "reads mean, std and interpolation"),
        (_spoiled, {}, EclipError, "'dino': values of a guide must be finite"),
        (lambda: 3, {}, OptionError, "'network' of 'dino' must be a Module or none, got 3"),
    ],
)
def test_networks_that_will_not_do(
    make: Callable[[], Any], options: dict[str, Any], error: type[Exception], message: str
) -> None:
    network = make()
    before = _state(network) if isinstance(network, nn.Module) else None
    with pytest.raises(error, match=message):
        GUIDES["dino"](_seen(tiny.backbone("vit")), network=network, **options)
    if before is not None:
        _same([{}, *before[1:]], [{}, *_state(network)[1:]])


def test_dino_by_name_from_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    name = "test_vit.r160_in1k"
    network = _noisy(timm.create_model(name, pretrained=False)).eval()
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    asked = []

    def in_cache(repository: str, file: str) -> str:
        asked.append(repository)
        return str(tmp_path / file)

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", in_cache)
    seen, drawn = _seen(tiny.backbone("vit")), torch.random.get_rng_state()
    maps = GUIDES["dino"](seen, name=name)
    assert torch.equal(torch.random.get_rng_state(), drawn)
    assert maps.shape == (2, 10, 10) and torch.equal(maps, GUIDES["dino"](seen, name=name, network=network))
    GUIDES["dino"](seen, name=name, size=96)
    assert asked == ["timm/test_vit.r160_in1k"], "loaded once"


def test_dino_by_a_name_that_cannot_be_had(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: None)
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", refuse)
    seen = _seen(tiny.backbone("vit"))
    place = r"huggingface\.co/timm/vit_small_patch16_224\.dino"
    with pytest.raises(DownloadError, match=rf"^vit_small_patch16_224\.dino: .*about 83 MiB.*{place}.*'spectral'"):
        GUIDES["dino"](seen)
    with pytest.raises(UnknownNameError, match=r"Did you mean 'vit_small_patch16_224\.dino'"):
        GUIDES["dino"](seen, name="vit_small_patch16_224_dino")
    with pytest.raises(
        UnsupportedTowerError,
        match=r"^convnext_tiny\.dinov3_lvd1689m: .*this ConvNeXt is not one",
    ):
        GUIDES["dino"](seen, name="convnext_tiny.dinov3_lvd1689m")
    broken = tmp_path / "model.safetensors"
    broken.write_bytes(b"nonsense")
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: str(broken))
    with pytest.raises(ModelError, match=r"^vit_tiny_patch16_224\.augreg_in21k cannot be loaded"):
        GUIDES["dino"](seen, name="vit_tiny_patch16_224.augreg_in21k")


def test_the_default_is_a_name_that_timm_has() -> None:
    assert get_pretrained_cfg(GUIDES["dino"].options["name"]).hf_hub_id == "timm/vit_small_patch16_224.dino"


# --- folder ------------------------------------------------------------------


def test_folder_reads_arrays_and_pictures(tmp_path: Path) -> None:
    seen = _seen(tiny.backbone("vit"), 2, 3)
    np.save(tmp_path / "a.npy", np.array([[0, 1, 2], [4, 3, 2]], np.uint8))
    deep = np.array([[0, 10000, 20000], [40000, 30000, 20000]], np.uint16)
    Image.fromarray(deep).save(tmp_path / "000123.png")
    expected = torch.tensor([[0, 0.25, 0.5], [1, 0.75, 0.5]])
    torch.testing.assert_close(GUIDES["folder"](seen, path=str(tmp_path)), torch.stack([expected, expected]))
    np.save(tmp_path / "000123.npy", np.zeros((7, 5)))  # goes before the picture, and says nothing
    torch.testing.assert_close(GUIDES["folder"](seen, path=tmp_path), torch.stack([expected, torch.ones(2, 3)]))
    dotted = replace(seen, sources=["x/a.PNG", "t.tar/v1.2"])
    np.save(tmp_path / "v1.2.npy", np.eye(2, 3))
    torch.testing.assert_close(GUIDES["folder"](dotted, path=tmp_path)[1], torch.eye(2, 3))


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (None, OptionError, r"no map for 'train-000\.tar/000123': expected '.*000123\.npy' or '000123\.png'"),
        (b"nonsense", OptionError, r"000123\.npy' cannot be read"),
        (np.zeros((2, 3, 1)), ShapeError, r"must be \(row, col\), got \(2, 3, 1\)"),
        (np.zeros((0, 3)), ShapeError, r"must be \(row, col\), got \(0, 3\)"),
        (np.array([[0, np.nan]]), OptionError, r"000123\.npy' must contain only finite numbers of at least 0"),
        (np.array([[1.0, -1.0]]), OptionError, r"000123\.npy' must contain only finite numbers of at least 0"),
        (np.array([["x"]]), OptionError, "must hold numbers, got <U1"),
        (Image.new("RGB", (3, 2)), OptionError, r"000123\.png' must be 8- or 16-bit grayscale, got Pillow mode RGB"),
    ],
)
def test_maps_of_a_folder_that_will_not_do(tmp_path: Path, content: Any, error: type[Exception], message: str) -> None:
    np.save(tmp_path / "a.npy", np.ones((2, 3)))
    if isinstance(content, bytes):
        (tmp_path / "000123.npy").write_bytes(content)
    elif isinstance(content, np.ndarray):
        np.save(tmp_path / "000123.npy", content)
    elif content is not None:
        content.save(tmp_path / "000123.png")
    with pytest.raises(error, match=message):
        GUIDES["folder"](_seen(tiny.backbone("vit")), path=str(tmp_path))


# --- on_grid -----------------------------------------------------------------


def test_on_grid_both_ways_by_hand() -> None:
    guide = torch.tensor([[[0.0, 0.4, 0.4, 0.8]]])
    finer = on_grid(guide, Grid(1, 8))  # at a quarter and three quarters between centers
    torch.testing.assert_close(finer, torch.tensor([[[0, 0.1, 0.3, 0.4, 0.4, 0.5, 0.7, 0.8]]]) / 0.8)
    coarser = on_grid(guide, Grid(1, 2))  # triangle of weights 3, 3, 1 at the border, where its fourth has no cell
    torch.testing.assert_close(
        coarser, torch.tensor([[[(3 * 0.4 + 0.4) / 7, (0.4 + 3 * 0.4 + 3 * 0.8) / 7]]]) * 7 / 4.0
    )
    both = on_grid(guide.mT.expand(1, 4, 2), Grid(2, 3))
    torch.testing.assert_close(both, coarser.mT.expand(1, 2, 3))
    torch.testing.assert_close(on_grid(guide, Grid(1, 4)), guide / 0.8)


def test_on_grid_of_maps_that_say_nothing() -> None:
    guide = torch.stack([torch.zeros(3, 3), torch.full((3, 3), 0.3), torch.eye(3)])
    resized = on_grid(guide, Grid(7, 2))
    torch.testing.assert_close(resized[:2], torch.ones(2, 7, 2))
    assert resized[2].max() == 1 and resized[2].min() < 0.9
    for wrong in (torch.nan, -1.0):
        with pytest.raises(EclipError, match="finite and at least 0"):
            on_grid(torch.full((1, 2, 2), wrong), Grid(2, 2))


# --- what users get wrong ----------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("none", {"sigma": 1}, "'none' has no option 'sigma'; it has none"),
        ("centre", {"sigma": 0.0}, r"sigma >= 0\.001, as a fraction of the image's side, got 0\.0"),
        ("centre", {"sigma": float("nan")}, "got nan"),
        ("centre", {"sigma": "wide"}, "must be a number, got 'wide'"),
        ("backbone", {"kind": "qk"}, "kind to be one of vv, pool, got 'qk'"),
        ("spectral", {"features": "queries"}, "features to be one of inputs, keys, values, tokens, got 'queries'"),
        ("spectral", {"foreground": "left"}, "foreground to be one of border, largest, got 'left'"),
        ("spectral", {"tau": 2.0}, "tau to be None or a cosine between -1 and 1, got 2.0"),
        ("spectral", {"tau": float("nan")}, "got nan"),
        ("spectral", {"centered": 1}, "must be true or false, got 1"),
        ("folder", {}, "'folder' requires path, a folder with"),
        ("folder", {"path": "/nowhere"}, "'/nowhere' is not a folder"),
        ("folder", {"path": 3}, "must be a string or a Path or none, got 3"),
    ],
)
def test_bad_options(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        GUIDES[name](_seen(tiny.backbone("vit")), **options)


def test_bad_names_and_inputs() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown guide 'spectrum'\. Did you mean 'spectral'"):
        check_guide("spectrum", {})
    with pytest.raises(OptionError, match="must be a name, such as 'spectral', got None"):
        check_guide(None, {})
    with pytest.raises(OptionError, match="'backbone' has no option 'tau'; it has kind"):
        check_guide("backbone", {"tau": 0.2})
    check_guide("spectral", {"tau": 0.2})
    seen = _seen(tiny.backbone("vit"))
    with pytest.raises(ShapeError, match="got 1 images, 2 sources and an encoding of 2"):
        GUIDES["none"](replace(seen, images=seen.images[:1]))
    for name in ("backbone", "spectral"):
        with pytest.raises(KeepError, match=f"'{name}' reruns the last 1"):
            GUIDES[name](_seen(tiny.backbone("vit"), keep=0))
    broken = replace(seen.encoding, inputs=(torch.full_like(seen.encoding.inputs[0], torch.nan),))
    for name in ("backbone", "spectral"):
        with pytest.raises(EclipError, match="NaN"):
            GUIDES[name](replace(seen, encoding=broken))
