"""Towers that average their feature map (ConvNeXt, MobileCLIP-S, Swin): features, and which methods apply."""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

import eclip
import tiny
from eclip.backbones import catalog
from eclip.backbones.encoding import Encoding, encode
from eclip.cli.options import default_method
from eclip.errors import AlteredModelError, NotApplicableError, OptionError, UnsupportedTowerError
from eclip.methods import METHODS
from test_agreement import adapted, apart, hooked, maps, uneven, wrapped

APPLICABLE = ("itsm", "rclip", "eclip", "gradcam", "rise", "occlusion", "gscorecam")
each_cnn = pytest.mark.parametrize("family", tiny.CNNS)
IMAGE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8))


def encoded(family: str, dtype: torch.dtype = torch.float64, **grid: int) -> tuple[Encoding, Tensor]:
    backbone = tiny.backbone(family, dtype)
    return encode(backbone, tiny.pixels(backbone, **grid).to(dtype)), tiny.texts(backbone).to(dtype)


def turned(model: Any, maps: Tensor) -> Tensor:
    """From the trunk's order of axes to (image, channel, row, col) and back; only Swin's order is another."""
    last = getattr(model.visual.trunk, "output_fmt", "NCHW") == "NHWC"
    return (
        maps.movedim(-1, 1)
        if last and maps.shape[-1] == model.visual.trunk.num_features
        else (maps.movedim(1, -1) if last else maps)
    )


def trunk_map(model: Any, pixels: Tensor) -> Tensor:
    """What a hook on the trunk's head sees."""
    seen: list[Tensor] = []
    with model.visual.trunk.head.register_forward_pre_hook(lambda _, given: seen.append(given[0])):
        model.encode_image(pixels)
    return turned(model, seen[0])


@each_cnn
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("grid", [{}, {"rows": 4, "cols": 2}])
def test_features_are_the_models_own(family: str, dtype: torch.dtype, grid: dict[str, int]) -> None:
    if family == "swin" and grid:
        with pytest.raises(OptionError, match=r"built for 64 x 64 pixels.*leave out image_size"):
            encoded(family, dtype, **grid)
        return
    encoding, _ = encoded(family, dtype, **grid)
    with torch.no_grad():
        theirs = encoding.backbone.model.encode_image(encoding.pixels)
    bar = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 0.03}[dtype]
    assert (encoding.feature - theirs).norm() <= bar * theirs.norm()
    assert encoding.blocks == () and encoding.prefix == 0
    assert encoding.grid == ((grid["rows"], grid["cols"]) if grid else encoding.backbone.native)


@each_cnn
def test_itsm_is_the_feature_of_an_image_that_is_this_position_everywhere(family: str) -> None:
    encoding, text = encoded(family)
    model = encoding.backbone.model
    with torch.no_grad():
        last = trunk_map(model, encoding.pixels)  # image channel row col
        rows = []
        for row in range(last.shape[2]):
            for col in range(last.shape[3]):
                alone = last[:, :, row : row + 1, col : col + 1].expand_as(last)
                rows.append(
                    F.normalize(model.visual.head(model.visual.trunk.forward_head(turned(model, alone))), dim=-1)
                    @ text.T
                )
    wanted = torch.stack(rows, dim=-1).unflatten(-1, encoding.grid)
    torch.testing.assert_close(METHODS["itsm"].function(encoding, text), wanted, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(METHODS["rclip"].function(encoding, text), -wanted, rtol=1e-9, atol=1e-12)


@each_cnn
def test_gradcam_is_what_a_hook_on_the_host_sees(family: str) -> None:
    encoding, text = encoded(family)
    model = copy.deepcopy(encoding.backbone.model).requires_grad_(False)
    wanted = torch.zeros(2, 3, *encoding.grid, dtype=torch.float64)
    for image in range(2):
        for index, one in enumerate(text):
            seen: list[Tensor] = []

            def keep(_: Any, given: tuple[Tensor, ...], seen: list[Tensor] = seen) -> tuple[Tensor]:
                seen.append(given[0].detach().requires_grad_())
                return (seen[0],)

            with model.visual.trunk.head.register_forward_pre_hook(keep):
                feature = F.normalize(model.encode_image(encoding.pixels[image : image + 1]), dim=-1)
            [slope] = torch.autograd.grad((feature @ one).sum(), seen)
            slope, value = turned(model, slope), turned(model, seen[0].detach())
            wanted[image, index] = (slope.mean(dim=(2, 3), keepdim=True) * value).sum(dim=1)[0]
    torch.testing.assert_close(METHODS["gradcam"].function(encoding, text), wanted, rtol=1e-8, atol=1e-12)
    with pytest.raises(OptionError, match="depth between 1 and 1 for this model, got 2"):
        METHODS["gradcam"](encoding, text, depth=2)


@each_cnn
def test_the_other_methods_say_why_they_are_not_applicable(family: str) -> None:
    encoding, text = encoded(family, torch.float32)
    for name, method in METHODS.items():
        if name in APPLICABLE:
            maps = method(encoding, text, **tiny.FEW.get(name, {}))
            assert maps.shape == (2, 3, *encoding.grid) and maps.std() > 0, name
        else:
            with pytest.raises(NotApplicableError, match=r"needs the attention of a block|no single token gathers"):
                method(encoding, text)
    with pytest.raises(NotApplicableError, match="gradcam, itsm and perturbation methods do not"):
        METHODS["surgery"](encoding, text)


@each_cnn
def test_compare_and_health_take_what_applies(family: str) -> None:
    found = eclip.compare(IMAGE, ["a dog", "a cat"], models=tiny.backbone(family), methods="fast")
    assert {method for _, method in found.explanations} == {"itsm", "rclip", "eclip", "gradcam"}
    assert all("attention" in why or "gathers" in why for why in found.not_applicable.values())
    answer = eclip.explain(IMAGE, ["a dog", "a cat"], model=tiny.backbone(family), method="gradcam", health=True)
    assert answer.health is not None and np.isnan(answer.health.polarity).all()
    assert "polarity needs the values of an attention block" in answer.health.notes[0]
    assert np.isfinite(answer.health.sensitivity).all() and np.isfinite(answer.health.presence).all()


@each_cnn
def test_without_a_head_the_default_is_a_method_that_applies(family: str) -> None:
    bare = eclip.wrap(tiny.model(family), tokenizer=tiny._tokenizer(), mean=tiny.MEAN, std=tiny.STD)
    assert eclip.explain(IMAGE, "a dog", model=bare).provenance["method"] == "gradcam"
    assert eclip.segment(IMAGE, ["dog", "cat"], model=bare, templates="none").provenance["method"] == "itsm"


def test_the_command_line_knows_it_from_the_name(tmp_path: Any) -> None:
    assert default_method("convnext_base_w/laion2b_s13b_b82k", None) == "gradcam"
    assert default_method("ViT-B-32/openai", None) == "surgery"


@each_cnn
def test_a_head_starts_as_the_models_own_projection(family: str) -> None:
    backbone = tiny.backbone(family, torch.float32)
    encoding, text = encode(backbone, tiny.pixels(backbone)), tiny.texts(backbone)
    for source in ("value", "output"):
        own = eclip.with_head(backbone, eclip.EclipHead.start(backbone, source))
        maps = METHODS["eclip"](encode(own, tiny.pixels(own)), text)
        torch.testing.assert_close(maps, METHODS["itsm"](encoding, text), rtol=1e-4, atol=1e-5)


@each_cnn
def test_nothing_of_the_model_changes_and_changes_are_noticed(family: str) -> None:
    model = tiny.model(family)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.train()
    backbone = eclip.wrap(model, tokenizer=tiny._tokenizer(), mean=tiny.MEAN, std=tiny.STD)
    encoding = encode(backbone, tiny.pixels(backbone))
    METHODS["gradcam"](encoding, tiny.texts(backbone))
    assert model.training and all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    copied = copy.deepcopy(backbone)
    assert torch.equal(encode(copied, encoding.pixels).feature, encoding.feature)
    model.visual.trunk.register_forward_hook(lambda module, args, output: 1.5 * output + 1)
    with pytest.raises(AlteredModelError, match="the image tower"):
        encode(backbone, encoding.pixels)


ADAPTED = {"convnext": ["fc1", "fc2"], "fastvit": ["qkv", "fc1"], "swin": ["qkv", "proj", "fc1"]}


@each_cnn
def test_unmerged_lora_gives_the_maps_of_the_merged_model(family: str) -> None:
    held = adapted(tiny.model(family), ADAPTED[family])
    inner = held.base_model.model
    before = {key: value.clone() for key, value in inner.state_dict().items()}
    text = tiny.texts(wrapped(tiny.model(family)))
    unmerged, plain = maps(wrapped(inner), text), maps(wrapped(tiny.model(family)), text)
    assert all(torch.equal(value, before[key]) for key, value in inner.state_dict().items())
    for name, found in maps(wrapped(held.merge_and_unload()), text).items():
        assert apart(unmerged[name], found) < 2e-5 and apart(plain[name], found) > 5e-4, name


@pytest.mark.long
def test_a_compiled_swin_and_threads_give_the_same_maps() -> None:
    model, pixels = tiny.model("swin").train(), tiny.pixels(tiny.backbone("swin"))
    text = tiny.texts(tiny.backbone("swin"))
    expected = maps(wrapped(model), text, ["gradcam", "itsm"])
    backbone = wrapped(model)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: METHODS["gradcam"](encode(backbone, pixels), text), range(8)):
            assert torch.equal(found, expected["gradcam"])
    assert all(module.training for module in model.modules())
    model.visual.trunk.layers[1] = torch.compile(model.visual.trunk.layers[1], backend="eager")
    for name, after in maps(wrapped(model), text, list(expected)).items():
        assert apart(after, expected[name]) < 1e-5, name


@pytest.mark.parametrize("part", ["trunk.layers.1.blocks.0.attn", "trunk.norm"])
def test_a_hook_inside_a_swin_counts_in_every_map(part: str) -> None:
    """The model's own modules are called, so scores and maps follow."""
    model = tiny.model("swin")
    backbone, text = wrapped(model), tiny.texts(tiny.backbone("swin"))
    before = maps(backbone, text, ["itsm"])["itsm"]
    with hooked(model.visual.get_submodule(part), uneven):
        encoding = encode(backbone, tiny.pixels(backbone))
        with torch.no_grad():
            torch.testing.assert_close(encoding.feature, model.encode_image(encoding.pixels), rtol=1e-4, atol=1e-6)
        assert apart(METHODS["itsm"](encoding, text), before) > 1e-4


def test_other_pooling_is_refused() -> None:
    model = tiny.model("convnext")
    model.visual.trunk.reset_classifier(0, global_pool="max")
    with pytest.raises(UnsupportedTowerError, match="with max pooling instead of the average"):
        eclip.wrap(model, tokenizer=tiny._tokenizer(), mean=tiny.MEAN, std=tiny.STD)


def test_open_clips_own_architectures_are_counted() -> None:
    """docs/models.md says how many work."""
    families = {name: catalog.tower_of(config)[0] for name, config in catalog.architectures().items()}
    cnns = sorted(name for name, family in families.items() if family == catalog.CNN)
    assert cnns[0] == "MobileCLIP-S1" and len(cnns) == 17 and all("convnext" in n or "MobileCLIP" in n for n in cnns)
    if open_clip.__version__ == "3.3.0":
        assert (len(families), sum(family is not None for family in families.values())) == (144, 144)


def test_mobileclips_own_configuration_is_read() -> None:
    """The smallest that open_clip has, with random weights."""
    model = open_clip.create_model("MobileCLIP2-S0", load_weights=False)
    backbone = eclip.wrap(model.eval(), tokenizer=tiny._tokenizer(), mean=(0, 0, 0), std=(1, 1, 1))
    assert backbone.native == (8, 8) and backbone.patch_size == 32
    encoding = encode(backbone, tiny.pixels(backbone, images=1))
    assert METHODS["gradcam"](encoding, tiny.texts(backbone)).shape == (1, 3, 8, 8)
