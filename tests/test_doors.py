"""Models as users pass them: inside wrappers, OpenAI's, under inference mode, offloaded; names, devices, processes."""

from __future__ import annotations

import copy
import json
import multiprocessing
import pickle
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
import torch.distributed as dist
from PIL import Image
from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

import eclip
import openai_clip
import tiny
from eclip.backbones import catalog, load
from eclip.backbones.unwrapped import unwrapped
from eclip.errors import (
    DeviceError,
    EclipError,
    ModelError,
    NotApplicableError,
    OptionError,
    TextError,
    UnsupportedTowerError,
)

COLORS = {"mean": tiny.MEAN, "std": tiny.STD}


@pytest.fixture
def image() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8))


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[None]:
    """A process group of this process alone."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'group'}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def _maps(backbone: eclip.Backbone) -> dict[str, torch.Tensor]:
    encoding = eclip.encode(backbone, tiny.pixels(backbone).to(backbone.weight.dtype))
    found = {"feature": encoding.feature, "text": eclip.encode_texts(backbone, ["a dog", "an elephant"])}
    for name, method in eclip.METHODS.items():
        with suppress(NotApplicableError):  # NoHeadError among them
            found[name] = method(encoding, tiny.texts(backbone), **tiny.FEW.get(name, {}))
    return found


def _assert_equal(ours: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], atol: float = 0) -> None:
    assert ours.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(ours[name], value, rtol=0, atol=atol, msg=lambda text, name=name: f"{name}: {text}")


# --- inside others ----------------------------------------------------------------------------------------------------

AROUND: dict[str, Callable[[nn.Module], nn.Module]] = {
    "DataParallel": DataParallel,
    "torch.compile": torch.compile,
    "both": lambda model: torch.compile(DataParallel(model)),
    "AveragedModel": lambda model: torch.optim.swa_utils.AveragedModel(model),
}


@pytest.mark.parametrize("around", AROUND)
@pytest.mark.long(every=5)
def test_the_model_inside_is_found(around: str) -> None:
    model = tiny.model("vit")
    backbone = eclip.wrap(AROUND[around](model), **COLORS)
    if around != "AveragedModel":  # which holds a copy
        assert backbone.model is model
    _assert_equal(_maps(backbone), _maps(eclip.wrap(model, **COLORS)))


def test_distributed_data_parallel_is_found(alone: None) -> None:
    model = tiny.model("vit")
    assert eclip.wrap(DistributedDataParallel(model), **COLORS).model is model


def test_a_peft_model_keeps_its_adapters_and_scores_with_them() -> None:
    peft = pytest.importorskip("peft")
    model = tiny.model("vit")
    plain = eclip.wrap(copy.deepcopy(model), **COLORS)
    config = peft.LoraConfig(target_modules=["c_fc", "c_proj"], r=2, init_lora_weights=False)
    adapted = peft.get_peft_model(model, config)
    backbone = eclip.wrap(DataParallel(adapted), **COLORS)
    assert backbone.model is adapted.base_model.model
    pixels = tiny.pixels(backbone)
    feature = eclip.encode(backbone, pixels).feature
    torch.testing.assert_close(feature, adapted.encode_image(pixels).detach(), rtol=0, atol=1e-5)
    assert (feature - eclip.encode(plain, pixels).feature).abs().max() > 1e-2
    with adapted.disable_adapter():
        torch.testing.assert_close(
            eclip.encode(backbone, pixels).feature, eclip.encode(plain, pixels).feature, rtol=0, atol=1e-5
        )


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_what_cannot_be_seen_into_names_the_way_out() -> None:
    traced = torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2))
    with pytest.raises(UnsupportedTowerError, match=r"TopLevelTracedModule is a scripted, traced.*jit=False"):
        eclip.wrap(traced)
    with pytest.raises(UnsupportedTowerError, match="scripted, traced or exported"):
        eclip.wrap(torch.fx.symbolic_trace(nn.Linear(2, 2)))
    with pytest.raises(UnsupportedTowerError, match="got Linear"):
        eclip.wrap(DataParallel(nn.Linear(2, 2)))
    model = tiny.model("vit")
    mlp = model.visual.transformer.resblocks[3].mlp
    model.visual.transformer.resblocks[3].mlp = torch.jit.trace(mlp, torch.zeros(1, 17, 32))
    with pytest.raises(UnsupportedTowerError, match=r"resblocks\.3\.mlp is a scripted or traced module"):
        eclip.wrap(model, **COLORS)


@pytest.mark.usefixtures("shapes_unchecked")
def test_arguments_of_another_type_are_named(image: Image.Image, images: Path, tmp_path: Path) -> None:
    backbone = tiny.kept("vit")
    settings: dict[str, Any] = {"models": backbone, "methods": "gem"}
    calls: list[tuple[Callable[[], Any], type[Exception], str]] = [
        (lambda: eclip.load(Path("a/b")), OptionError, "for a folder, write 'local-dir:a/b'"),  # type: ignore[arg-type]
        (lambda: eclip.explain(image, "a", model=Path("b")), OptionError, "write 'local-dir:b'"),  # type: ignore[arg-type]
        (lambda: eclip.encode(backbone, image), OptionError, "pixels must be of type Tensor"),
        (lambda: eclip.encode("mini", tiny.pixels(backbone)), OptionError, "must be of type Backbone"),  # type: ignore[arg-type]
        (lambda: backbone.encode_text([]), TextError, r"one text or more, got \[\]"),
        (lambda: backbone.encode_text([1]), TextError, r"one text or more, got \[1\]"),  # type: ignore[list-item]
        (lambda: eclip.compare(image, "a", options={"gem": None}, **settings), OptionError, "options of 'gem' must"),
        (lambda: eclip.compare(image, "a", options=["gem"], **settings), OptionError, "options must be of type Map"),
        (lambda: eclip.explain_dataset(images, "a", tmp_path, task="words"), EclipError, "task"),
    ]
    for call, kind, message in calls:
        with pytest.raises(kind, match=message):
            call()


def test_weights_that_are_not_at_hand_name_the_way_out() -> None:
    with pytest.raises(ModelError, match=r"'[\w.]+' is offloaded or on the device 'meta'.*device_map"):
        eclip.wrap(copy.deepcopy(tiny.model("vit")).to("meta"), **COLORS)
    part = tiny.model("vit")
    part.visual.proj = nn.Parameter(part.visual.proj.to("meta"))
    with pytest.raises(ModelError, match=r"'visual\.proj' is offloaded"):
        eclip.wrap(part, **COLORS)
    backbone = tiny.backbone("vit")
    backbone.model.to("meta")
    with pytest.raises(ModelError, match="weights of vit are on the device 'meta'"):
        eclip.encode(backbone, torch.zeros(1, 3, 32, 32))
    assert "on meta" in repr(backbone)


def test_a_model_that_accelerate_offloads_names_the_way_out() -> None:
    accelerate = pytest.importorskip("accelerate")
    model = accelerate.cpu_offload(tiny.model("vit"), torch.device("cpu"))
    with pytest.raises(ModelError, match="offloaded"):
        eclip.wrap(model, **COLORS)


# --- inference mode ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["vit", "resnet", "siglip", "eva02"])
def test_a_model_made_under_inference_mode_has_every_map_and_its_own_memory(family: str) -> None:
    with torch.inference_mode():
        model = tiny.model(family)
    options = {**COLORS, "tokenizer": tiny._tokenizer()}
    backbone = eclip.wrap(model, **options)
    _assert_equal(_maps(backbone), _maps(eclip.wrap(tiny.model(family), **options)))
    assert all(weight.is_inference() for weight in model.parameters()), "the user's model is as it was"
    pairs = zip(model.parameters(), backbone.model.parameters(), strict=True)
    assert all(ours.data_ptr() == theirs.data_ptr() for ours, theirs in pairs), "nothing was copied"


def test_all_of_it_under_inference_mode() -> None:
    expected = _maps(tiny.backbone("vit"))
    with torch.inference_mode():
        found = _maps(tiny.backbone("vit"))
    _assert_equal({key: value.clone() for key, value in found.items()}, expected)


# --- OpenAI's package -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["ViT", "ResNet"])
def test_openais_own_model_is_converted(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    model = openai_clip.model(kind).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    backbone = eclip.wrap(model, name="theirs")
    assert "clip.model.CLIP was converted to open_clip's CLIP" in caplog.text
    assert isinstance(backbone.model, open_clip.CLIP)
    assert (backbone.mean, backbone.std) == (tiny.MEAN, tiny.STD)
    assert backbone.family == {"ViT": "native ViT", "ResNet": "CLIP ResNet"}[kind]
    pixels = tiny.pixels(backbone)
    assert all(module.training for module in model.modules())
    model.eval()
    with torch.no_grad():
        image = model.encode_image(pixels)
        text = model.encode_text(tiny._tokenizer()(["a dog", "an elephant"]))
    torch.testing.assert_close(eclip.encode(backbone, pixels).feature, image, rtol=0, atol=1e-5)
    torch.testing.assert_close(backbone.encode_text(["a dog", "an elephant"]), text, rtol=0, atol=1e-5)
    assert backbone.logit_scale == pytest.approx(float(model.logit_scale.detach().exp()))
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), key
    assert eclip.METHODS["legrad"](eclip.encode(backbone, pixels), tiny.texts(backbone)).isfinite().all()


def test_openais_own_model_keeps_its_half_precision() -> None:
    model = openai_clip.halve(openai_clip.model("ViT"))
    backbone = eclip.wrap(model)
    theirs = {key: value.dtype for key, value in model.state_dict().items()}
    ours = {key: value.dtype for key, value in backbone.model.state_dict().items()}
    assert {torch.float16, torch.float32} == set(theirs.values())
    assert {key: ours[key] for key in theirs} == theirs
    assert backbone.weight.dtype == torch.float16


def test_openais_model_of_changed_code_is_refused() -> None:
    model = openai_clip.model("ViT")
    model.visual.transformer.resblocks[1].register_forward_hook(lambda module, args, output: 1.5 * output)
    with pytest.raises(UnsupportedTowerError, match=r"image features differ by .* from those of OpenAI's"):
        eclip.wrap(model)
    other = openai_clip.model("ViT")
    other.visual.norm = nn.LayerNorm(3)
    with pytest.raises(UnsupportedTowerError, match=r"weights have another layout.*visual\.norm"):
        eclip.wrap(other)


@pytest.mark.parametrize(("name", "meant"), [(name, f"{arch}/openai") for name, arch in catalog.OPENAI.items()])
def test_openais_names_mean_their_weights(name: str, meant: str) -> None:
    assert catalog.split_name(name) == catalog.split_name(meant)
    assert catalog.full_name(name) == meant == catalog.full_name(meant)


def test_openais_names_with_a_checkpoint_mean_the_architecture(tmp_path: Path) -> None:
    file = tmp_path / "tuned.pt"
    file.touch()
    assert catalog.split_name("ViT-B/32", file) == ("ViT-B-32-quickgelu", None, file)
    assert catalog.split_name(f"ViT-L/14@336px+{file}") == ("ViT-L-14-336-quickgelu", None, file)
    assert catalog.split_name("RN50", file) == ("RN50", None, file)


# --- processes --------------------------------------------------------------------------------------------------------


def _work(given: tuple[Any, ...], image: Image.Image) -> tuple[np.ndarray, list[list[int]]]:
    preprocess, tokenize = given
    return preprocess(image, 64).numpy(), tokenize(["a dog"]).tolist()


@pytest.fixture(scope="module")
def spawned() -> Iterator[Any]:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        yield pool


@pytest.mark.parametrize("family", ["vit", "siglip"])
@pytest.mark.long
def test_preprocess_and_tokenize_travel_to_a_spawned_process(family: str, image: Image.Image, spawned: Any) -> None:
    backbone = eclip.wrap(tiny.model(family), **COLORS)
    sent = pickle.dumps((backbone.preprocess, backbone.tokenize))
    weights = sum(weight.numel() * weight.element_size() for weight in backbone.model.parameters())
    assert len(sent) < weights / 2, "without the model; a vocabulary takes 2 MB"
    pixels, ids = spawned.apply(_work, ((backbone.preprocess, backbone.tokenize), image))
    np.testing.assert_array_equal(pixels, backbone.preprocess(image, 64).numpy())
    assert ids == backbone.tokenize(["a dog"]).tolist()


def test_what_load_made_is_loaded_again_by_its_name(tiny_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    backbone = eclip.load(f"local-dir:{folder}", precision="float64")
    sent = pickle.dumps(backbone)
    assert len(sent) < 10_000
    assert pickle.loads(sent) is backbone
    headed = eclip.with_head(backbone, eclip.EclipHead.start(backbone, init="random"))
    again = pickle.loads(pickle.dumps(headed))
    assert again.model is backbone.model
    assert torch.equal(again.head.image.weight, headed.head.image.weight)
    load._loaded.clear()
    other = pickle.loads(sent)
    assert other is not backbone
    pixels = tiny.pixels(backbone).double()
    assert torch.equal(eclip.encode(other, pixels).feature, eclip.encode(backbone, pixels).feature)
    file = folder / "open_clip_config.json"
    sent = pickle.dumps(other)
    file.write_text(file.read_text() + " ")
    with pytest.raises(ModelError, match=r"files of local-dir:.* have changed"):
        pickle.loads(sent)


@pytest.mark.parametrize("change", ["weights", "module", "hook"])
def test_what_was_changed_or_wrapped_says_how_to_send_it(change: str, tiny_folder: Path, tmp_path: Path) -> None:
    backbone = eclip.load(f"local-dir:{shutil.copytree(tiny_folder, tmp_path / 'model')}")
    block = backbone.model.visual.transformer.resblocks[0]
    if change == "weights":
        with torch.no_grad():
            block.attn.in_proj_weight[3] += 1
    elif change == "module":
        block.mlp.gelu = nn.ReLU()
    else:
        block.register_forward_hook(lambda *_: None)
    with pytest.raises(ModelError, match=r"was changed after it was loaded.*backbone\.preprocess"):
        pickle.dumps(backbone)
    with pytest.raises(ModelError, match=r"vit, a Backbone from eclip\.wrap.*eclip\.wrap\(model, tokenizer="):
        pickle.dumps(tiny.backbone("vit"))


# --- settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", [None, "cpu", "cpu:0", torch.device("cpu"), torch.device("cpu", 0)])
def test_the_cpu_by_all_its_names(device: Any, tiny_name: str, image: Image.Image) -> None:
    assert eclip.load(tiny_name, device=device) is eclip.load(tiny_name)
    explained = eclip.explain(image, "a dog", model=tiny_name, method="itsm", device=device, health=False)
    assert explained.provenance["device"] == "cpu"


@pytest.mark.parametrize("device", [0, "0", np.int64(0), "cuda", torch.device("cuda", 0), torch.device("cuda")])
def test_a_number_is_a_cuda_device(device: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    assert load.resolve_device(device) == torch.device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(DeviceError, match=r"is not available: torch .* sees 0 CUDA devices"):
        load.resolve_device(device)
    with pytest.raises(DeviceError, match=r"'cuda:200' is not available.*sees 0 CUDA"):
        load.resolve_device(200)
    with pytest.raises(DeviceError, match="sees 0 CUDA"):  # 0 is no None
        eclip.explain(np.zeros((9, 9, 3), np.uint8), "a dog", device=device)


@pytest.mark.parametrize("device", [True, -1, 1.5, "gpu", torch.device("meta")])
def test_what_is_no_device_is_refused(device: Any, shapes_unchecked: None) -> None:
    with pytest.raises(DeviceError, match=r"device must be 'cpu', 'cuda'.*a torch\.device.*got"):
        load.resolve_device(device)


def test_numpys_numbers_are_pythons(tiny_name: str, image: Image.Image, tmp_path: Path) -> None:
    plain = {"model": tiny_name, "health": False}
    for name, one, same in (
        ("gem", {"depth": 3}, {"depth": np.int32(3)}),
        ("rise", {"mask_count": 4, "keep": 0.25}, {"mask_count": np.int64(4), "keep": np.float32(0.25)}),
        ("occlusion", {"window": 1}, {"window": np.uint8(1)}),
    ):
        expected = eclip.explain(image, "a dog", method=name, image_size=48, **one, **plain)
        found = eclip.explain(image, "a dog", method=name, image_size=np.int64(48), **same, **plain)
        np.testing.assert_array_equal(found.maps, expected.maps)
        assert {**found.provenance, "options": None} == {**expected.provenance, "options": None}
        found.save(tmp_path / name)  # JSON has no numbers of NumPy
        encoding = eclip.encode(eclip.load(tiny_name), torch.zeros(1, 3, 32, 32), keep=np.int64(7))
        text = tiny.texts(eclip.load(tiny_name))
        assert torch.equal(eclip.METHODS[name](encoding, text, **one), eclip.METHODS[name](encoding, text, **same))
    [each] = eclip.explain_each([image], "a dog", batch_size=np.int64(2), image_size=np.int16(48), **plain)
    assert each.provenance["image_size"] == 48 and type(each.provenance["image_size"]) is int
    cut = eclip.segment(image, ["a dog", "grass"], model=tiny_name, image_size=np.int64(32), window=np.int64(32))
    cut.save(tmp_path / "segment")
    pairs = eclip.interactions(image, "a dog", model=tiny_name, points=np.int64(2), image_size=np.int64(48))
    assert json.loads(json.dumps(pairs.provenance))["points"] == 2


def test_what_is_no_whole_number_is_refused(shapes_unchecked: None, image: Image.Image) -> None:
    for value in (48.0, "48", True, np.float32(48)):
        with pytest.raises(OptionError, match=r"image_size must be a whole number"):
            eclip.explain(image, "a dog", image_size=value)


def test_reprs_are_one_short_line(image: Image.Image) -> None:
    backbone = tiny.backbone("vit")
    encoding = eclip.encode(backbone, backbone.preprocess(image)[None], keep=2)
    assert repr(backbone) == "Backbone('vit', native ViT, 4 x 4 patches of 8 px, float32 on cpu, with a head)"
    assert repr(encoding) == f"Encoding(1 images, 4 x 4 patches, the last 2 of 7 blocks kept, {backbone!r})"
    for one in (backbone.text_tower, backbone.preprocess, backbone.tokenize):
        assert len(repr(one)) < 400 and "\n" not in repr(one)


def test_the_door_leaves_other_objects_alone() -> None:
    given = object()
    assert unwrapped(given) is given


def test_a_mean_of_pixels_to_255_and_a_text_alone_are_refused() -> None:
    with pytest.raises(OptionError, match=r"mean must be that of pixels in \[0, 1\], got .*divide mean and std by 255"):
        eclip.wrap(tiny.model("vit"), mean=(122.8, 116.7, 104.1), std=(68.5, 66.6, 70.3))
    with pytest.raises(TextError, match=r"got the single text 'a dog': write \['a dog'\]"):
        tiny.backbone("vit").encode_text("a dog")
