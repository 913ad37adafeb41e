"""Models of transformers: features, blocks, texts, the map of every method, and the model unchanged."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from typer.testing import CliRunner

import eclip
import test_backbones
import tiny
import tiny_hf
from eclip import cli
from eclip.backbones import catalog, create
from eclip.backbones.blocks import run_block
from eclip.backbones.hf_image import feature_of
from eclip.backbones.text_tower import run_text_block
from eclip.errors import AlteredModelError, DownloadError, ModelError, OptionError, UnsupportedTowerError
from eclip.methods.surgery import empty_text
from eclip.texts.encode import words_read
from eclip.words import WORD_METHODS
from eclip.words.tokens import read

TEXTS = ["a dog", "the photo of an elephant in front of the cat", "狗 一只猫", ""]
ATTENTION = {"sdpa": 1e-10, "eager": 1e-6}
"""transformers' own eager attention takes its softmax in float32, whatever the model's precision."""


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("family", tiny_hf.FAMILIES)
@pytest.mark.long(every=5)
def test_feature_equals_get_image_features(family: str, attention: str, dtype: torch.dtype) -> None:
    backbone = tiny_hf.kept(family, dtype, attention)
    pixels = tiny.pixels(backbone).to(dtype)
    with torch.no_grad():
        expected = tiny_hf.image_features(backbone.model, pixels)
    feature = eclip.encode(backbone, pixels).feature
    atol = {torch.float64: 1e-6 if "NaFlex" in family else 1e-10, torch.float32: 1e-5, torch.bfloat16: 0.02}[dtype]
    torch.testing.assert_close(feature, expected, rtol=0, atol=atol)  # NaFlex rounds its positions to float32
    assert (expected[0] - expected[1]).abs().max() > 1e-2, "two images must differ, or the test sees nothing"


@pytest.mark.parametrize("family", tiny_hf.FAMILIES)
def test_feature_off_the_training_grid_equals_the_hosts(family: str) -> None:
    """CLIP and SigLIP resize positions without antialias when asked to; NaFlex always with its own filter."""
    backbone = tiny_hf.kept(family)
    pixels = tiny.pixels(backbone, rows=6, cols=3).double()
    with torch.no_grad():
        expected = tiny_hf.image_features(backbone.model, pixels)
    positions = "bicubic_aa" if "NaFlex" in family else "bicubic"
    feature = eclip.encode(backbone, pixels, positions=positions).feature
    torch.testing.assert_close(feature, expected, rtol=0, atol=1e-5)
    if "NaFlex" in family:
        with pytest.raises(OptionError, match=r"'bilinear' is not available for a Siglip2Model off its grid \(4, 4\)"):
            eclip.encode(backbone, pixels, positions="bilinear")
    else:
        assert (eclip.encode(backbone, pixels, positions="bilinear").feature - expected).abs().max() > 1e-4


@pytest.mark.parametrize(("rows", "cols"), [(16, 1), (9, 1), (1, 16), (1, 1)])
def test_naflex_on_a_grid_one_patch_wide_equals_the_hosts(rows: int, cols: int) -> None:
    backbone = tiny_hf.kept("SigLIP 2 NaFlex")
    pixels = tiny.pixels(backbone, rows=rows, cols=cols).double()
    with torch.no_grad():
        expected = tiny_hf.image_features(backbone.model, pixels)
    torch.testing.assert_close(eclip.encode(backbone, pixels).feature, expected, rtol=0, atol=1e-5)


def test_a_size_that_is_no_multiple_of_the_patch_leaves_out_what_the_host_does() -> None:
    """As so400m-patch14-384: the host's convolution drops the last pixels; images here get the multiple below."""
    config = tiny_hf.FAMILIES["SigLIP"]()
    config.vision_config.image_size = 37
    host = tiny_hf.transformers.SiglipModel(config).double().eval()
    backbone = eclip.wrap(host, mean=tiny.MEAN, std=tiny.STD)
    assert (backbone.native, backbone.image_size) == ((4, 4), 32)
    pixels = torch.randn(1, 3, 37, 37, generator=torch.Generator().manual_seed(0)).double()
    with torch.no_grad():
        expected = host.get_image_features(pixel_values=pixels)
    expected = expected if isinstance(expected, torch.Tensor) else expected.pooler_output
    torch.testing.assert_close(eclip.encode(backbone, pixels[:, :, :32, :32]).feature, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("family", ["CLIP", "MetaCLIP 2", "Chinese-CLIP", "AltCLIP"])
def test_so_it_is_with_hosts_that_check_the_size(family: str) -> None:
    config = tiny_hf.FAMILIES[family]()
    config.vision_config.image_size = 36
    host = getattr(tiny_hf.transformers, type(config).__name__.replace("Config", "Model"))(config).double().eval()
    backbone = eclip.wrap(host, mean=tiny.MEAN, std=tiny.STD)
    assert (backbone.native, backbone.image_size) == ((4, 4), 32)
    pixels = tiny.pixels(backbone).double()
    whole = torch.randn(len(pixels), 3, 36, 36, generator=torch.Generator().manual_seed(0)).double()
    whole[:, :, :32, :32] = pixels
    with torch.no_grad():
        expected = feature_of(host.get_image_features(pixel_values=whole))
    torch.testing.assert_close(eclip.encode(backbone, pixels).feature, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("family", tiny_hf.FAMILIES)
def test_blocks_in_the_open_equal_the_hosts(family: str, attention: str) -> None:
    encoding = eclip.encode(backbone := tiny_hf.kept(family, attention=attention), tiny.pixels(backbone))
    outputs = [*encoding.inputs[1:], encoding.tokens]
    assert len(encoding.inputs) == 7
    for block, x, output in zip(encoding.blocks, encoding.inputs, outputs, strict=True):
        torch.testing.assert_close(run_block(block, x), output, rtol=0, atol=ATTENTION[attention])
        normed = block.norm1(x)
        torch.testing.assert_close(block.value(normed), block.qkv(normed)[2], rtol=0, atol=1e-12)
    if (latent := backbone.latent) is not None:
        normed = latent.norm1(encoding.tokens)
        torch.testing.assert_close(latent.value(normed), latent.qkv(normed)[2], rtol=0, atol=1e-12)
        torch.testing.assert_close(latent.forward(encoding.tokens)[:, 0], encoding.feature, rtol=0, atol=1e-12)


# --- texts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("family", tiny_hf.FAMILIES)
def test_text_features_equal_the_hosts_and_do_not_depend_on_the_batch(family: str, attention: str) -> None:
    backbone, tokenizer = tiny_hf.kept(family, attention=attention), tiny_hf.tokenizer(family)
    features = backbone.encode_text(TEXTS)
    with torch.no_grad():
        expected = tiny_hf.text_features(backbone.model, TEXTS, tokenizer)
    torch.testing.assert_close(features, expected, rtol=0, atol=ATTENTION[attention])
    alone = torch.cat([backbone.encode_text([text]) for text in TEXTS])
    torch.testing.assert_close(alone, features, rtol=0, atol=ATTENTION[attention])
    for one in range(4):
        assert all((features[one] - features[other]).abs().max() > 1e-2 for other in range(one))


@pytest.mark.parametrize("family", tiny_hf.FAMILIES)
def test_text_tower_in_the_open_equals_the_hosts(family: str) -> None:
    backbone = tiny_hf.backbone(family)
    tower, ids = backbone.text_tower, backbone.tokenize(TEXTS)
    assert tower is not None
    with torch.no_grad():
        x, mask = tower.embed(ids), tower.mask(ids)
        for block in tower.blocks:
            x = run_text_block(block, x, mask)
        torch.testing.assert_close(tower.pool(ids, x), backbone.encode_text(TEXTS), rtol=0, atol=1e-10)
        backbone.model.train()
        assert torch.equal(tower.embed(ids), tower.embed(ids)), "no dropout"
    assert (tower.weights(ids).sum(dim=1) == 1).all()


@pytest.mark.parametrize("family", ["CLIP", "Chinese-CLIP", "AltCLIP", "SigLIP", "SigLIP 2 NaFlex"])
def test_words_that_are_read_whole_are_counted(family: str) -> None:
    backbone = tiny_hf.kept(family)
    context = backbone.tokenize([""]).shape[1]
    words = ["dog"] * (2 * context)
    if family == "SigLIP 2 NaFlex":  # a token a word and one a space between, and the end
        assert words_read(backbone, words) == context // 2
    else:
        assert words_read(backbone, words) == context - (1 if family == "SigLIP" else 2)
    assert words_read(backbone, ["dog", "cat"]) == 2
    if family != "CLIP":  # no spaces: one word of many tokens, of which all or none is read whole
        assert words_read(backbone, ["dog", "狗猫" * context]) == 1
        assert words_read(backbone, ["狗猫只"]) == 1


@pytest.mark.parametrize("family", ["CLIP", "Chinese-CLIP", "SigLIP"])
def test_ensembles_and_the_empty_text(family: str) -> None:
    backbone = tiny_hf.kept(family)
    twice = [eclip.encode_texts(backbone, ["dog"], templates="imagenet80") for _ in range(2)]
    torch.testing.assert_close(twice[0], twice[1], rtol=0, atol=1e-7)  # the second is read from disk
    torch.testing.assert_close(empty_text(backbone).norm(), torch.tensor(1.0).double(), rtol=0, atol=1e-10)


def test_the_end_token_is_found_even_where_padding_is_the_same() -> None:
    """A mask told from `ids != padding` would hide the end token from itself; the legacy end is the greatest id."""
    features = [tiny_hf.kept(family).encode_text(["a dog"]) for family in ("CLIP", "CLIP, end told as 2")]
    torch.testing.assert_close(features[0], features[1], rtol=0, atol=1e-12)  # the same weights, two ways to the end
    assert tiny_hf.tokenizer("CLIP").pad_token_id == 99


def test_tokenizers_that_do_not_fit_are_named() -> None:
    host = tiny_hf.model("CLIP")
    colors = {"mean": tiny.MEAN, "std": tiny.STD}
    with pytest.raises(
        ModelError, match=r"pools the end token, id 99, but the tokenizer's ids do not contain it: \[98, 5"
    ):
        eclip.wrap(host, tokenizer=lambda texts: torch.tensor([[98, 5, 0]]), **colors).encode_text(["a"])
    with pytest.raises(ModelError, match="token id 100, but the model's ids are below 100"):
        eclip.wrap(host, tokenizer=lambda texts: torch.tensor([[98, 100, 99]]), **colors).encode_text(["a"])
    with pytest.raises(OptionError, match=r"cannot be guessed.*AutoTokenizer"):
        eclip.wrap(host, **colors).encode_text(["a"])
    with pytest.raises(ModelError, match="pads with id 1, but the model's padding is 0"):
        eclip.wrap(tiny_hf.model("Chinese-CLIP"), tokenizer=tiny_hf.tokenizer("AltCLIP"), **colors)
    left = tiny_hf._unigram(start=True)
    left.padding_side = "left"
    with pytest.raises(OptionError, match="pads on the left"):
        eclip.wrap(tiny_hf.model("AltCLIP"), tokenizer=left, **colors)
    bare = tiny_hf._unigram(start=True)
    bare.pad_token = None
    with pytest.raises(OptionError, match="no padding token"):
        eclip.wrap(tiny_hf.model("AltCLIP"), tokenizer=bare, **colors)


# --- every method ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("family", tiny_hf.FAMILIES)
@pytest.mark.long(every=5)
def test_every_method_gives_the_map_of_a_twin_in_open_clip(family: str, attention: str) -> None:
    backbone = tiny_hf.kept(family, attention=attention)
    twin = tiny_hf.twin(backbone)
    pixels, text = tiny.pixels(backbone), tiny.texts(backbone).double()
    ours, theirs = eclip.encode(backbone, pixels), eclip.encode(twin, pixels)
    assert (ours.grid, ours.prefix) == (theirs.grid, theirs.prefix)
    torch.testing.assert_close(ours.feature, theirs.feature, rtol=0, atol=ATTENTION[attention])
    for name, method in eclip.METHODS.items():
        options = tiny.FEW.get(name, {})
        one, other = method(ours, text, **options), method(theirs, text, **options)
        assert other.std() > 0
        tolerance = {"sdpa": 1e-9, "eager": 1e-4}[attention] * other.abs().max().item()
        torch.testing.assert_close(one, other, rtol=0, atol=tolerance, msg=lambda said: f"{name}: {said}")  # noqa: B023


# --- nothing changed ------------------------------------------------------------------------------------------------


def _state(model: nn.Module) -> dict[str, Any]:
    return {
        **test_backbones._state(model),
        "attention": [getattr(m.config, "_attn_implementation", 0) for m in model.modules() if hasattr(m, "config")],
        "config": model.config.to_json_string(),
    }


def _assert_same(model: nn.Module, before: dict[str, Any], random: torch.Tensor) -> None:
    after = _state(model)
    for key, value in before.pop("weights").items():
        assert torch.equal(after["weights"][key], value), key
    after.pop("weights")
    assert after == before
    assert torch.equal(torch.get_rng_state(), random)


@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("family", tiny_hf.FAMILIES)
@pytest.mark.long(every=5)
def test_nothing_of_the_model_changes(family: str, attention: str) -> None:
    backbone = tiny_hf.backbone(family, torch.float32, attention)
    expected = eclip.encode(backbone, tiny.pixels(backbone)).feature
    model = backbone.model.train()
    model.text_model.eval()  # modes of parts are kept too
    before, random = _state(model), torch.get_rng_state()
    for rows in (4, 5):
        encoding = eclip.encode(backbone, tiny.pixels(backbone, rows=rows))
        for name, method in eclip.METHODS.items():
            method(encoding, tiny.texts(backbone), **tiny.FEW.get(name, {}))
    eclip.encode_texts(backbone, ["a dog"])
    assert torch.equal(eclip.encode(backbone, tiny.pixels(backbone)).feature, expected)
    _assert_same(model, before, random)


@pytest.mark.parametrize("family", tiny_hf.FAMILIES)
def test_nothing_of_the_model_changes_when_it_raises(family: str) -> None:
    backbone = tiny_hf.backbone(family)
    model = backbone.model.train()

    class Broken(nn.Module):
        def forward(self, *_: Any, **__: Any) -> torch.Tensor:
            raise RuntimeError("broken inside")

    model.vision_model.encoder.layers[2].mlp = Broken()
    texts = model.text_model.roberta if family == "AltCLIP" else model.text_model
    texts.embeddings = Broken()
    before, random = _state(model), torch.get_rng_state()
    with pytest.raises(AlteredModelError, match=r"cannot be run \(broken inside\).*mlp is a \S*Broken"):
        eclip.encode(backbone, tiny.pixels(backbone))
    with pytest.raises(RuntimeError, match="broken inside"):
        backbone.encode_text(["a dog"])
    _assert_same(model, before, random)


# --- folders and the Hub --------------------------------------------------------------------------------------------

COLORS = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4], "resample": 2, "do_normalize": True}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders as save_pretrained writes them, one a family."""
    whole = tmp_path_factory.mktemp("hf")
    for family in ("CLIP", "Chinese-CLIP", "AltCLIP", "SigLIP", "SigLIP 2 NaFlex"):
        if family == "SigLIP 2 NaFlex" and not hasattr(tiny_hf.transformers, "Siglip2Model"):
            continue
        tiny_hf.model(family, "eager").save_pretrained(whole / family)
        tiny_hf.tokenizer(family).save_pretrained(whole / family)
        (whole / family / "preprocessor_config.json").write_text(json.dumps(COLORS))
    return whole


@pytest.mark.parametrize("family", ["CLIP", "Chinese-CLIP", "AltCLIP", "SigLIP", "SigLIP 2 NaFlex"])
def test_a_folder_loads_and_equals_its_model(folders: Path, family: str) -> None:
    random = torch.get_rng_state()
    backbone = eclip.load(f"hf:{folders / family}")
    assert torch.equal(torch.get_rng_state(), random)
    assert eclip.load(f"hf:{folders / family}") is backbone
    here = tiny_hf.kept(family, torch.float32)
    pixels = tiny.pixels(backbone)
    torch.testing.assert_close(eclip.encode(backbone, pixels).feature, eclip.encode(here, pixels).feature)
    torch.testing.assert_close(backbone.encode_text(TEXTS), here.encode_text(TEXTS))
    assert backbone.mean == (0.4, 0.5, 0.6)
    assert (backbone.std, backbone.interpolation) == ((0.2, 0.3, 0.4), "bilinear")
    assert not any(weight.requires_grad for weight in backbone.model.parameters())
    assert not backbone.model.training


def test_a_processor_says_tokenizer_and_colors_at_once() -> None:
    class Processor:
        tokenizer = tiny_hf.tokenizer("CLIP")
        image_processor = tiny_hf.transformers.CLIPImageProcessor(image_mean=[0.1, 0.2, 0.3], resample=2)

    backbone = eclip.wrap(tiny_hf.model("CLIP"), processor=Processor())
    assert (backbone.mean, backbone.interpolation, backbone.name) == ((0.1, 0.2, 0.3), "bilinear", "CLIPModel")
    assert backbone.encode_text(["a dog"]).shape == (1, 24)
    with pytest.raises(OptionError, match=r"processor=AutoProcessor\.from_pretrained"):
        eclip.wrap(tiny_hf.model("CLIP"), tokenizer=Processor.tokenizer)
    with pytest.raises(OptionError, match="processor= requires"):
        eclip.wrap(tiny.model("vit"), processor=Processor())


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"do_rescale": False, "image_mean": [100.0, 110.0, 120.0], "image_std": [60.0, 70.0, 80.0]},
        {"rescale_factor": 1 / 127.5, "image_mean": 0.5, "image_std": [0.2, 0.3, 0.4]},
        {"do_normalize": False},
        {"do_normalize": False, "do_rescale": False},
        {"do_normalize": False, "rescale_factor": 1 / 127.5},
    ],
)
def test_pixels_are_those_of_the_image_processor(config: dict[str, Any]) -> None:
    processor = tiny_hf.transformers.CLIPImageProcessor(**{**COLORS, **config})
    backbone = eclip.wrap(tiny_hf.model("CLIP"), processor=processor)
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    options = {"do_resize": False, "do_center_crop": False, "return_tensors": "pt"}
    expected = processor(Image.fromarray(image), **options)["pixel_values"][0]
    torch.testing.assert_close(backbone.preprocess(Image.fromarray(image)), expected.float(), rtol=1e-5, atol=1e-5)


def test_what_is_given_wins_and_the_processor_is_asked_for_the_rest_alone() -> None:
    host = tiny_hf.model("CLIP")
    processor = tiny_hf.transformers.CLIPImageProcessor(**{**COLORS, "resample": 0})
    for name in ("image_mean", "image_std"):
        setattr(processor, name, None)
    given: dict[str, Any] = {"mean": (0.1, 0.2, 0.3), "std": (0.5, 0.5, 0.5), "interpolation": "bilinear"}
    backbone = eclip.wrap(host, processor=processor, **given)
    assert {name: getattr(backbone, name) for name in given} == given
    for name, message in [
        ("mean", "does not define image_mean: pass mean to eclip.wrap"),
        ("std", "does not define image_std: pass std to eclip.wrap"),
        ("interpolation", r"filter <?.*0.*bicubic\) are supported: pass interpolation to eclip.wrap"),
    ]:
        with pytest.raises(ModelError, match=message):
            eclip.wrap(host, processor=processor, **{**given, name: None})
    processor = tiny_hf.transformers.CLIPImageProcessor(**COLORS)
    one = eclip.wrap(host, processor=processor, mean=(0.1, 0.2, 0.3), interpolation="bicubic")
    assert (one.mean, one.std, one.interpolation) == ((0.1, 0.2, 0.3), (0.2, 0.3, 0.4), "bicubic")


def test_a_processor_that_is_none_is_refused() -> None:
    with pytest.raises(OptionError, match=r"its image processor, got \w+: pass a tokenizer alone as tokenizer="):
        eclip.wrap(tiny_hf.model("CLIP"), processor=tiny_hf.tokenizer("CLIP"))


@pytest.mark.parametrize("kind", ["transformers", "open_clip"])
def test_colors_are_numbers_for_each_color_of_whatever_type(kind: str) -> None:
    host = tiny_hf.model("CLIP") if kind == "transformers" else tiny.model("vit")
    backbone = eclip.wrap(host, mean=np.array([0.25, 0.5, 0.75]), std=torch.tensor([0.5, 0.25, 0.5]))
    assert (backbone.mean, backbone.std, backbone.interpolation) == ((0.25, 0.5, 0.75), (0.5, 0.25, 0.5), "bicubic")
    black = eclip.wrap(host, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), interpolation="bilinear")
    assert (black.mean, black.interpolation) == ((0.0, 0.0, 0.0), "bilinear")
    if kind == "open_clip":
        host.visual.preprocess_cfg = {"mean": (0.1, 0.1, 0.1), "std": (0.2, 0.2, 0.2), "interpolation": "bilinear"}
        noted = eclip.wrap(host, mean=(0.3, 0.3, 0.3))
        assert (noted.mean, noted.std, noted.interpolation) == ((0.3,) * 3, (0.2,) * 3, "bilinear")
    for wrong, message in [
        ({"mean": (0.5, 0.5)}, r"mean must be three numbers \(red, green, blue\), got \(0.5, 0.5\)"),
        ({"std": (0.5, 0.0, 0.5)}, "std must be positive"),
        ({"std": (0.5, float("nan"), 0.5)}, "std must be three numbers"),
        ({"interpolation": "lanczos"}, "interpolation must be one of bicubic, bilinear, got 'lanczos'"),
    ]:
        colors: dict[str, Any] = {"mean": tiny.MEAN, "std": tiny.STD, **wrong}
        with pytest.raises(OptionError, match=message):
            eclip.wrap(host, **colors)


@pytest.mark.parametrize("family", ["CLIP", "MetaCLIP 2"])
@pytest.mark.parametrize("end", [[99], [2, 99], None])
def test_an_end_token_that_transformers_cannot_find_is_named(family: str, end: Any) -> None:
    host = tiny_hf.model(family)
    host.text_model.eos_token_id = end
    with pytest.raises(AttributeError):
        tiny_hf.text_features(host, ["a dog"], tiny_hf.tokenizer(family))
    with pytest.raises(ModelError, match=rf"must be one token id, got {re.escape(repr(end))}, .*model\.text_model"):
        eclip.wrap(host, tokenizer=tiny_hf.tokenizer(family), mean=tiny.MEAN, std=tiny.STD)


def test_an_old_clip_needs_the_end_token_of_its_tokenizer_to_be_the_greatest() -> None:
    host, colors = tiny_hf.model("CLIP, end told as 2"), {"mean": tiny.MEAN, "std": tiny.STD}
    with pytest.raises(ModelError, match=r"pools the greatest id, but the tokenizer's end token, 2, is not .*: \[0, 5"):
        eclip.wrap(host, tokenizer=tiny_hf.tokenizer("AltCLIP"), **colors).encode_text(["a dog"])


def test_the_mask_needs_no_more_than_the_tokenizer_gives() -> None:
    assert tiny_hf.model("Chinese-CLIP").config.text_config.max_position_embeddings == 80
    assert tiny_hf.kept("Chinese-CLIP").tokenize(["dog"]).shape == (1, 60), "model_max_length of the tokenizer"


def test_the_command_line_and_its_results_name_the_model(folders: Path, images: Path, tmp_path: Path) -> None:
    name = f"hf:{folders / 'SigLIP'}"
    words = ["explain", str(images / "a.png"), "-t", "a dog", "-t", "a cat", "-m", name, "-o", str(tmp_path)]
    done = CliRunner().invoke(cli.app, words)
    assert done.exit_code == 0, done.output
    answer = eclip.Explanation.load(tmp_path)
    assert answer.maps.shape[-2:] == (4, 4)
    assert name in (tmp_path / "manifest.json").read_text()
    image = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    assert np.isfinite(eclip.explain(image, ["a dog"], model=name, method="gradcam").maps).all()
    done = CliRunner().invoke(cli.app, ["doctor", name, "--json"])
    [row] = [row for row in json.loads(done.stdout) if row["what"] == f"model {name}"]
    assert row["is"].startswith(
        "works: transformers SiglipModel, 4 x 4 patches of 8 px, 32 features, `eclip words` supported"
    )
    assert row[""] == "ok"


def _without(name: str) -> Any:
    return lambda folder: (folder / name).unlink()


def _write(name: str, **changes: Any) -> Any:
    def damage(folder: Path) -> None:
        old = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**old, **changes}))

    return damage


def _half(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    kept = {key: weight for key, weight in weights.items() if "layers.3" not in key}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_without("config.json"), r"not a transformers model folder \(no config\.json"),
        (_without("model.safetensors"), "cannot be loaded"),
        (_without("preprocessor_config.json"), r"no preprocessor_config\.json"),
        (_write("config.json", model_type="blip"), "no adapter for transformers' model_type 'blip'"),
        (_write("preprocessor_config.json", resample=0), "Pillow's filter 0"),
        (_write("preprocessor_config.json", image_mean=None), "does not define image_mean"),
        (_half, r"the weights lack .*layers\.3"),
    ],
)
def test_damaged_folders(folders: Path, tmp_path: Path, damage: Any, message: str) -> None:
    folder = shutil.copytree(folders / "CLIP", tmp_path / "model")
    damage(folder)
    with pytest.raises(ModelError, match=f"(?s)hf:{folder}.*{message}"):
        eclip.load(f"hf:{folder}")


def test_a_folder_whose_tokenizer_does_not_fit_is_named(folders: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(folders / "Chinese-CLIP", tmp_path / "model")
    _write("config.json", pad_token_id=1)(folder)
    text = json.loads((folder / "config.json").read_text())["text_config"]
    _write("config.json", text_config={**text, "pad_token_id": 1})(folder)
    with pytest.raises(ModelError, match=f"hf:{folder}: the tokenizer pads with id 0, but the model's padding is 1"):
        eclip.load(f"hf:{folder}")


def test_colors_may_lie_in_processor_config(folders: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(folders / "CLIP", tmp_path / "model")
    (folder / "preprocessor_config.json").unlink()
    nested = {"processor_class": "CLIPProcessor", "image_processor": {**COLORS, "image_mean": [0.7, 0.5, 0.6]}}
    (folder / "processor_config.json").write_text(json.dumps(nested))
    assert eclip.load(f"hf:{folder}").mean == (0.7, 0.5, 0.6)


def test_names_mean_the_hub_or_a_folder_never_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "openai" / "clip").mkdir(parents=True)
    assert catalog.hf_folder("hf:openai/clip") is None, "a folder here does not hide the Hub"
    assert catalog.hf_folder("hf:./openai/clip") == Path("openai/clip")
    assert catalog.hf_folder("hf:/openai/clip") == Path("/openai/clip")
    assert catalog.hf_folder("hf:~/clip") == Path.home() / "clip"
    with pytest.raises(
        ModelError, match=r"'clip' is not a transformers model folder \(no config\.json.*Write hf:ORG/NAME"
    ):
        eclip.load("hf:clip")
    with pytest.raises(ModelError, match=r"'hf:~nobody-here/x': '~nobody-here' has no home folder"):
        eclip.load("hf:~nobody-here/x")
    for path in ("/models/m1", "./m1", "../m1/m2", "~/m1"):
        hint = f"'{path}' is a path: for a model folder, write hf:{path} (transformers) or local-dir:"
        with pytest.raises(ModelError, match=re.escape(hint)):
            eclip.load(path)


def test_the_hub_is_asked_once_and_for_the_kind_first(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def refuse(url: str, **_: Any) -> None:
        asked.append(url)
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", refuse)
    with pytest.raises(DownloadError, match=r"hf:openai/nothing-here: .*huggingface\.co/openai/nothing-here"):
        eclip.load("hf:openai/nothing-here")
    assert len(asked) == 1
    cached = folders / "Chinese-CLIP"
    monkeypatch.setattr(
        huggingface_hub,
        "try_to_load_from_cache",
        lambda repository, name: str(cached / name) if (cached / name).is_file() else None,
    )
    backbone = eclip.load("hf:org/cached")
    assert backbone.family == "transformers ChineseCLIPModel"
    assert len(asked) == 1, "what is in the cache needs no network"


def test_without_transformers_the_extra_is_named(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(create.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"requires the package transformers: pip install 'eclip\[hf\]'"):
        eclip.load(f"hf:{folders / 'CLIP'}")


def test_other_models_of_transformers_are_refused_by_name() -> None:
    config = tiny_hf.transformers.CLIPVisionConfig(**tiny_hf.VISION)
    with pytest.raises(UnsupportedTowerError, match=r"transformers' CLIPVisionModel.*Siglip2Model"):
        eclip.wrap(tiny_hf.transformers.CLIPVisionModel(config), mean=tiny.MEAN, std=tiny.STD)
    headless = tiny_hf.FAMILIES["SigLIP"]()
    headless.vision_config.vision_use_head = False
    with pytest.raises(UnsupportedTowerError, match="without its pooling head"):
        eclip.wrap(tiny_hf.transformers.SiglipModel(headless), mean=tiny.MEAN, std=tiny.STD)


def test_an_adapter_on_a_projection_has_no_transpose_but_works() -> None:
    """A LoRA or quantized layer is no plain matrix; methods then go through autograd, to the same map."""

    class Adapted(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner(x)

    plain, adapted = tiny_hf.kept("CLIP"), tiny_hf.model("CLIP").double()
    for layer in adapted.vision_model.encoder.layers:
        layer.self_attn.q_proj = Adapted(layer.self_attn.q_proj)
    other = eclip.wrap(adapted, tokenizer=tiny_hf.tokenizer("CLIP"), mean=tiny.MEAN, std=tiny.STD)
    assert plain.blocks[-1].qkv_vjp is not None
    assert other.blocks[-1].qkv_vjp is None
    pixels, text = tiny.pixels(plain), tiny.texts(plain).double()
    for name in ("gradcam", "chefer", "decompose"):
        maps = [eclip.METHODS[name](eclip.encode(one, pixels), text) for one in (plain, other)]
        torch.testing.assert_close(maps[0], maps[1], rtol=0, atol=1e-9)


@pytest.mark.parametrize("family", tiny_hf.FAMILIES)
@pytest.mark.long(every=5)
def test_words_of_every_text_tower(family: str) -> None:
    """Spans, methods for words, and pairs that add up, whatever the tokenizer and wherever the norms are."""
    backbone = tiny_hf.kept(family)
    text = "the dog in front of a ball"
    reading = read(backbone, [text])
    assert " ".join(word.letters for word in reading.words[0]) == text
    used = [place for word in reading.words[0] for place in range(word.first, word.last)]
    assert used == list(range(used[0], used[-1] + 1))  # all tokens of the text, each in one word
    image = eclip.encode(backbone, tiny.pixels(backbone, images=1)).feature
    image = torch.nn.functional.normalize(image, dim=-1)
    for method in WORD_METHODS.values():
        [values] = reading.by_word(method(reading, image))
        assert values.shape == (1, len(reading.words[0]))
        assert float(values.abs().min()) > 0 or method.name == "chefer"
        alone = method(read(backbone, ["a cat", text]), image)[:, 1]
        torch.testing.assert_close(alone, method(reading, image)[:, 0], rtol=1e-5, atol=1e-8)
    picture = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    found = [eclip.interactions(picture, text, model=backbone, points=points) for points in (10, 20)]
    coarse, fine = (one.total - one.goal for one in found)
    assert 1.7 < coarse / fine < 2.5, "twice the points halve what is missing, so nothing is missing in the limit"
    assert abs(fine) < 0.3 * abs(found[1].goal)


@pytest.mark.parametrize("family", [name for name in tiny_hf.FAMILIES if "Chinese" in name])
def test_chinese_words_are_characters(family: str) -> None:
    reading = read(tiny_hf.kept(family), ["一只狗 dog"])
    assert [word.letters for word in reading.words[0]] == ["一", "只", "狗", "dog"]
    assert [word.last - word.first for word in reading.words[0]] == [1, 1, 1, 1]


@pytest.mark.parametrize("setting", [{"return_dict": False}, {"output_attentions": True, "output_hidden_states": True}])
@pytest.mark.parametrize("family", tiny_hf.FAMILIES)
def test_what_else_the_host_is_told_to_answer_changes_nothing(family: str, setting: dict[str, bool]) -> None:
    """Such settings are for the caller of `forward`: who reads features gets the same."""
    backbone = tiny_hf.backbone(family, attention="eager")
    texts, pixels = ["a dog", "a photo of an elephant"], tiny.pixels(backbone).double()
    encoding, text = eclip.encode(backbone, pixels), backbone.encode_text(texts)
    expected = eclip.METHODS["legrad"](encoding, tiny.texts(backbone))
    for name, value in setting.items():
        setattr(backbone.model.config, name, value)
    torch.testing.assert_close(backbone.encode_text(texts), text, rtol=0, atol=1e-12)
    again = eclip.encode(backbone, pixels)
    torch.testing.assert_close(again.feature, encoding.feature, rtol=0, atol=1e-12)
    torch.testing.assert_close(eclip.METHODS["legrad"](again, tiny.texts(backbone)), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("family", ["Chinese-CLIP", "AltCLIP"])
def test_a_setting_with_which_the_host_itself_fails_is_named(family: str) -> None:
    backbone = tiny_hf.backbone(family)
    backbone.model.config.text_config.return_dict = False
    with pytest.raises(ModelError, match=r"model\.config\.text_config\.return_dict = True"):
        backbone.encode_text(["a dog"])
