"""Models by name: what loads, what is refused, and with which message."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import huggingface_hub
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

import eclip
import tiny
from eclip.backbones import catalog, create, load, wrap
from eclip.backbones.building import built_apart
from eclip.errors import DeviceError, DownloadError, HeadError, ModelError, UnknownNameError, UnsupportedTowerError


def test_a_folder_loads_and_equals_its_model(tiny_name: str) -> None:
    random = torch.get_rng_state()
    backbone = eclip.load(tiny_name)
    assert torch.equal(torch.get_rng_state(), random)
    pixels = tiny.pixels(backbone)
    expected = tiny.model("vit").encode_image(pixels)
    torch.testing.assert_close(eclip.encode(backbone, pixels).feature, expected.detach(), rtol=0, atol=1e-6)
    assert not backbone.model.training
    assert not any(weight.requires_grad for weight in backbone.model.parameters())
    assert backbone.mean == tiny.MEAN


def test_the_same_call_gives_the_same_object_until_the_files_change(tiny_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    first = eclip.load(f"local-dir:{folder}")
    assert eclip.load(f"local-dir:{folder}") is first
    assert eclip.load(f"local-dir:{folder}", precision="float64") is not first
    assert load.is_loaded(first)
    assert not load.is_loaded(tiny.backbone("vit"))
    os.utime(folder / "open_clip_model.safetensors", ns=(1, 1))
    assert eclip.load(f"local-dir:{folder}") is not first


def test_what_is_changed_in_place_is_no_longer_what_its_name_loads(tiny_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    (folder / "eclip_levels.json").write_text(json.dumps({"schema": "eclip.levels/1", "levels": {"eclip": 0.5}}))
    own = eclip.EclipHead.start(eclip.load(f"local-dir:{folder}"))
    own.save(folder)
    source = tmp_path / "image.png"
    Image.new("RGB", (40, 30), "red").save(source)

    def told() -> tuple[bool, bool, object]:
        found = eclip.explain(source, "a dog", model=backbone, method="eclip", health=False).provenance
        return load.is_loaded(backbone), found["command"] is not None, found["level"]

    backbone = eclip.load(f"local-dir:{folder}")
    assert told() == (True, True, 0.5)
    backbone.model.train()
    backbone.model.eval()
    assert told() == (True, True, 0.5), "nothing is changed by that"
    assert isinstance(backbone.head, eclip.EclipHead)
    with torch.no_grad():
        backbone.head.image.weight.mul_(2)
    assert told() == (False, False, "otsu"), "another head"
    again = pickle.loads(pickle.dumps(backbone)).head
    assert torch.equal(again.image.weight, backbone.head.image.weight), "the head as it is, not as it was"
    os.utime(folder / "open_clip_model.safetensors", ns=(1, 1))
    backbone = eclip.load(f"local-dir:{folder}")
    assert told() == (True, True, 0.5)
    with torch.no_grad():
        backbone.model.visual.proj.mul_(2)
    assert told() == (False, False, "otsu"), "another model"


def test_files_that_are_not_the_models_change_no_model(tiny_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    name, head = f"local-dir:{folder}", tmp_path / "head"
    (folder / "gone.json").symlink_to(tmp_path / "nowhere")
    (folder / "loop.json").symlink_to(folder / "loop.json")
    (folder / "folder.json").mkdir()
    first = eclip.load(name)
    eclip.EclipHead.start(first).save(head)
    (head / "loop.json").symlink_to(head / "loop.json")
    headed = eclip.load(name, head=head)
    sent = pickle.dumps(first)
    for place in (folder, folder / "folder.json", head):
        (place / "log.jsonl").write_text("{}")
        (place / "results").mkdir()
    (head / "manifest.json").write_text("{}")
    assert eclip.load(name) is first and pickle.loads(sent) is first
    assert eclip.load(name, head=head) is headed
    (folder / "vocab.txt").write_text("dog")
    assert eclip.load(name) is not first
    os.utime(head / "eclip_head.json", ns=(1, 1))
    assert eclip.load(name, head=head / "eclip_head.json") is not headed


def test_a_file_that_vanishes_is_no_error(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    first = eclip.load(f"local-dir:{folder}")
    there = Path.glob
    monkeypatch.setattr(Path, "glob", lambda path, pattern: [*there(path, pattern), path / "temporary.json"])
    assert eclip.load(f"local-dir:{folder}") is first


@pytest.mark.parametrize("scheme", ["local-dir:", "hf:./", "ViT-B-16+", "head"])
def test_names_too_long_for_the_file_system_name_nothing(scheme: str, tiny_name: str) -> None:
    name = "x" * 5000
    with pytest.raises(HeadError if scheme == "head" else ModelError):
        eclip.load(*([tiny_name] if scheme == "head" else [scheme + name]), head=name if scheme == "head" else None)


def test_thresholds_in_the_folder_of_a_model(tiny_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    name, file = f"local-dir:{folder}", folder / "eclip_levels.json"
    assert eclip.load(name).levels == {}
    file.write_text(json.dumps({"schema": "eclip.levels/1", "levels": {"eclip": 0.5, "gem": 0.7}}))
    own = eclip.EclipHead.start(eclip.load(name))
    own.save(folder)
    assert eclip.load(name).levels == {"eclip": 0.5, "gem": 0.7}
    assert eclip.load(name, head=own.save(tmp_path / "head")).levels == {"gem": 0.7}, "measured with the other head"
    assert pickle.loads(pickle.dumps(eclip.load(name))).levels == {"eclip": 0.5, "gem": 0.7}
    for content in ("{", '{"levels": {}}', '{"schema": "eclip.levels/1", "levels": {"gem": 2}}', "[]"):
        file.write_text(content)
        with pytest.raises(ModelError, match=r"eclip_levels.json' cannot be read .*: delete it"):
            eclip.load(name)


def test_a_weight_that_no_file_gives_is_noticed() -> None:
    """While a model is loaded, its weights are NaN until they are read; what else is random is drawn as always."""
    with built_apart(draw=False):
        made = [nn.Linear(3, 2), nn.Embedding(4, 2), nn.MultiheadAttention(4, 2), nn.Conv2d(3, 2, 1)]
        drawn = torch.rand(3)
        with built_apart():
            assert nn.Linear(3, 2).weight.isfinite().all(), "within, it is drawn again"
    weights = [weight for module in made for name, weight in module.named_parameters() if name.endswith("weight")]
    assert len(weights) == 5 and drawn.unique().numel() == 3
    assert all(weight.isnan().all() for weight in weights)
    with pytest.raises(ModelError, match="a model: the weight 'weight' contains NaN"):
        load._check_finite(made[0], "a model")


@pytest.mark.parametrize("precision", ["bfloat16", "float64"])
def test_precision(tiny_name: str, precision: str) -> None:
    backbone = eclip.load(tiny_name, precision=precision)
    assert backbone.weight.dtype == load.PRECISIONS[precision]
    assert eclip.encode(backbone, tiny.pixels(backbone)).feature.dtype == load.PRECISIONS[precision]


# --- names ----------------------------------------------------------------------------------------------------------


CLASSES = {
    "ViT-B-32": "native ViT",
    "RN50": "CLIP ResNet",
    "vit_medium_patch16_gap_256": "timm ViT",
    "MobileCLIP-B": "timm ViT",
    "ViTamin-S": "timm ViT",
    "EVA01-g-14": "EVA",
    "EVA02-B-16": "EVA",
    "EVA02-E-14": "EVA",
    "ViT-B-16-SigLIP": "timm ViT with MAP head",
    "MobileCLIP-S1": catalog.CNN,
    "convnext_tiny": catalog.CNN,
    "swin_base_patch4_window7_224": catalog.SWIN,
    "vit_relpos_medium_patch16_cls_224": catalog.RELPOS,
    "PE-Core-T-16-384": "EVA with MAP head",
    "coca_ViT-B-32": catalog.COCA,
    "coca_base": "native ViT",
}
"""One architecture of each class of image tower that open_clip has."""


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.long(every=5)
def test_the_catalog_says_of_each_class_of_tower_what_wrap_does(name: str) -> None:
    config = catalog.architectures()[name]
    family, reason = catalog.tower_of(config)
    assert (family, bool(reason)) == (CLASSES[name], CLASSES[name] is None)
    with torch.device("meta"):
        visual = open_clip.model._build_vision_tower(config["embed_dim"], config["vision_cfg"])
    if family is None:
        with pytest.raises(UnsupportedTowerError):
            wrap._tower(visual)
    else:
        assert wrap._tower(visual)["family"] == family


def test_every_architecture_has_an_adapter() -> None:
    assert not {name for name, config in catalog.architectures().items() if catalog.tower_of(config)[1]}


def test_an_architecture_without_an_adapter_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    config = {"vision_cfg": {"attentional_pool": "cascade"}}
    monkeypatch.setattr(catalog, "architectures", lambda: {"coca_two": config})
    with pytest.raises(
        UnsupportedTowerError, match=r"coca_two \(two attentional poolers\)\. Supported families: native"
    ):
        eclip.load("coca_two/tag")


def test_the_catalog_is_open_clips() -> None:
    assert set(catalog.architectures()) == set(open_clip.list_models())
    for name in open_clip.list_models():
        assert catalog.tags().get(name, []) == open_clip.list_pretrained_tags_by_model(name), name


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("ViT-B-61/openai", UnknownNameError, "unknown model 'ViT-B-61'. Did you mean 'ViT-B-16'"),
        ("openai/clip-vit-base-patch16", ModelError, r"hf:openai/clip-vit-base-patch16 \(transformers\)"),
        ("minni", UnknownNameError, "Did you mean 'mini'"),
        ("ViT-B-16/openia", UnknownNameError, "'openia'. Did you mean 'openai'"),
        ("ViT-B-16", ModelError, "add a tag as in ViT-B-16/openai"),
        ("ViT-S-16", ModelError, r"open_clip lists none for it.*ViT-S-16\+FILE"),
        ("hf:name", ModelError, r"not a transformers model folder \(no config\.json\)\. Write hf:ORG/NAME"),
        ("hf-hub:name", ModelError, "write hf-hub:ORG/NAME"),
        ("local-dir:/nowhere", ModelError, "no model folder '/nowhere'"),
        ("ViT-B-16+nothing.pt", ModelError, "no checkpoint file 'nothing.pt'"),
        ("ViT-B-16-quickgelu/laion2b_s34b_b88k", UnknownNameError, "unknown weights"),
    ],
)
def test_names_that_name_nothing(name: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        eclip.load(name)


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("cuda:99", "'cuda:99' is not available: torch .* sees"),
        ("mps", "'mps' is not supported"),
        ("gpu", "got 'gpu'"),
        ("meta", "got 'meta'"),
        ("cuda:x", "got 'cuda:x'"),
    ],
)
def test_devices_that_are_not_there(tiny_name: str, device: str, message: str) -> None:
    with pytest.raises(DeviceError, match=message):
        eclip.load(tiny_name, device=device)


def test_cuda_without_cuda(tiny_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(DeviceError, match=r"sees 0 CUDA devices\. Use 'cpu'"):
        eclip.load(tiny_name, device="cuda")


def test_unknown_precision(tiny_name: str) -> None:
    with pytest.raises(DeviceError, match="got 'float16'"):
        eclip.load(tiny_name, precision="float16")


# --- damaged folders ------------------------------------------------------------------------------------------------


def _drop(weights: dict[str, torch.Tensor]) -> None:
    del weights["visual.conv1.weight"]


def _reshape(weights: dict[str, torch.Tensor]) -> None:
    weights["visual.proj"] = weights["visual.proj"][:-1].contiguous()


def _spoil(weights: dict[str, torch.Tensor]) -> None:
    weights["visual.proj"][0, 0] = torch.nan


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_drop, r"Missing key\(s\) in state_dict: \"visual.conv1.weight\""),
        (_reshape, "size mismatch for visual.proj"),
        (_spoil, "the weight 'visual.proj' contains NaN"),
    ],
)
def test_wrong_weights_are_named(tiny_folder: Path, tmp_path: Path, change: Any, message: str) -> None:
    shutil.copy(tiny_folder / "open_clip_config.json", tmp_path)
    weights = load_file(tiny_folder / "open_clip_model.safetensors")
    change(weights)
    save_file(weights, tmp_path / "open_clip_model.safetensors")
    with pytest.raises(ModelError, match=message) as raised:
        eclip.load(f"local-dir:{tmp_path}")
    assert str(tmp_path) in str(raised.value)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("open_clip_config.json", None, "no open_clip_config.json"),
        ("open_clip_config.json", "{", "cannot be loaded: JSONDecodeError"),
        ("open_clip_config.json", "[]", "cannot be loaded"),
        ("open_clip_config.json", '{"model_cfg": {}}', "cannot be loaded"),
        ("open_clip_config.json", '{"model_cfg": {"embed_dim": 24, "vision_cfg": {"x": 1}, "text_cfg": {}}}', "'x'"),
        ("open_clip_model.safetensors", None, "has no weights"),
        ("open_clip_model.safetensors", "nonsense", "cannot be loaded"),
        ("open_clip_model.safetensors", "", "cannot be loaded"),
    ],
)
def test_damaged_folders(tiny_folder: Path, tmp_path: Path, file: str, content: str | None, message: str) -> None:
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    (folder / file).unlink()
    if content is not None:
        (folder / file).write_text(content)
    with pytest.raises(ModelError, match=message) as raised:
        eclip.load(f"local-dir:{folder}")
    assert str(folder) in str(raised.value)


# --- checkpoints ----------------------------------------------------------------------------------------------------


@pytest.fixture
def tiny_architecture(monkeypatch: pytest.MonkeyPatch, tiny_folder: Path, tmp_path: Path) -> str:
    """The tiny ViT as an architecture that open_clip and our catalog know by name."""
    config = json.loads((tiny_folder / "open_clip_config.json").read_text())["model_cfg"]
    (tmp_path / "Tiny-ViT.json").write_text(json.dumps(config))
    monkeypatch.setattr(open_clip.factory, "_MODEL_CONFIG_PATHS", [*open_clip.factory._MODEL_CONFIG_PATHS])
    monkeypatch.setattr(open_clip.factory, "_MODEL_CONFIGS", dict(open_clip.factory._MODEL_CONFIGS))
    open_clip.add_model_config(tmp_path / "Tiny-ViT.json")
    known = {**catalog.architectures(), "Tiny-ViT": config}
    monkeypatch.setattr(catalog, "architectures", lambda: known)
    return "Tiny-ViT"


def test_a_fine_tuned_checkpoint_loads(tiny_architecture: str, tmp_path: Path) -> None:
    tuned = tiny.model("vit", seed=5)
    state = {"epoch": 3, "name": "run", "state_dict": {f"module.{k}": v for k, v in tuned.state_dict().items()}}
    torch.save(state, tmp_path / "epoch_3.pt")
    backbone = eclip.load(tiny_architecture, checkpoint=tmp_path / "epoch_3.pt")
    pixels = tiny.pixels(backbone)
    expected = tuned.encode_image(pixels).detach()
    torch.testing.assert_close(eclip.encode(backbone, pixels).feature, expected, rtol=0, atol=1e-6)
    assert backbone.name == f"Tiny-ViT+{tmp_path / 'epoch_3.pt'}"
    assert eclip.load(backbone.name) is backbone, "the name that results carry loads it again"


class _Code:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (os.environ["ECLIP_TEST_BOMB"],)


@pytest.mark.parametrize("kind", ["code", "nonsense", "empty", "other model", "a picture"])
def test_other_files_are_no_checkpoints(
    tiny_architecture: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    file, bomb = tmp_path / "file.pt", tmp_path / "the code has run"
    monkeypatch.setenv("ECLIP_TEST_BOMB", str(bomb))
    if kind == "code":
        torch.save({"state_dict": _Code()}, file)
        with pytest.raises(pickle.UnpicklingError):
            torch.load(file, weights_only=True)
    elif kind == "other model":
        torch.save(tiny.model("resnet").state_dict(), file)
    else:
        file.write_bytes({"nonsense": b"nonsense", "empty": b"", "a picture": b"\x89PNG\r\n"}[kind])
    message = {"code": "contains more than weights", "other model": "Error"}.get(kind, "cannot be loaded")
    with pytest.raises(ModelError, match=message) as raised:
        eclip.load(tiny_architecture, checkpoint=file)
    assert str(file) in str(raised.value)
    assert len(str(raised.value)) < 700
    assert not bomb.exists()


def test_a_checkpoint_goes_with_an_architecture_alone(tiny_folder: Path, tiny_name: str) -> None:
    file = tiny_folder / "open_clip_model.safetensors"
    with pytest.raises(ModelError, match="a tag or a checkpoint, not both"):
        eclip.load("ViT-B-16/openai", checkpoint=file)
    with pytest.raises(ModelError, match="requires an architecture"):
        eclip.load(tiny_name, checkpoint=file)


# --- downloads ------------------------------------------------------------------------------------------------------


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The Hub as it looks without network, and the requests to it."""
    asked: list[str] = []

    def refuse(url: str, **_: Any) -> None:
        asked.append(url)
        raise OSError("[Errno -2] Name or service not known\nsecond line")

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", refuse)
    return asked


@pytest.mark.parametrize(
    ("name", "size", "place"),
    [
        ("ViT-B-16/openai", "about 571 MiB", "huggingface.co/timm/vit_base_patch16_clip_224.openai"),
        ("RN50/openai", "about 389 MiB", "huggingface.co/timm/resnet50_clip.openai"),
        ("hf-hub:laion/whatever", "", "huggingface.co/laion/whatever"),
    ],
)
def test_without_network_one_sentence_names_size_place_and_mini(
    no_network: list[str], name: str, size: str, place: str
) -> None:
    with pytest.raises(DownloadError) as raised:
        eclip.load(name)
    message = str(raised.value)
    assert message.startswith(f"{name}: ")
    assert size in message
    assert place in message
    assert "'mini'" in message
    assert "\n" not in message
    assert len(no_network) == 1, "asked once, not again and again"


def test_weights_in_the_cache_need_no_network(
    no_network: list[str], tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda repository, name: str(tiny_folder / name))
    backbone = eclip.load("hf-hub:org/tiny")
    pixels = tiny.pixels(backbone)
    expected = tiny.model("vit").encode_image(pixels).detach()
    torch.testing.assert_close(eclip.encode(backbone, pixels).feature, expected, rtol=0, atol=1e-6)
    assert backbone.name == "hf-hub:org/tiny"
    assert no_network == []


def test_a_download_says_its_size_first(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Found:
        size = 7 * 2**20

    def download(repository: str, name: str) -> str:
        assert name == "open_clip_config.json" or " once from " in caplog.text
        return str(tiny_folder / name)

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", lambda *_, **__: Found())
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: None)
    eclip.load("hf-hub:org/fetched")
    assert "(7 MiB) once from huggingface.co/org/fetched" in caplog.text


@pytest.mark.parametrize(("tag", "quick"), [("openai", True), ("laion2b_s34b_b88k", False)])
def test_weights_get_the_activation_and_colors_they_were_trained_with(
    monkeypatch: pytest.MonkeyPatch, tag: str, quick: bool
) -> None:
    monkeypatch.setattr(create, "fetch", lambda *_: Path("weights.bin"))
    options = create._tag_options("ViT-B-16", tag)
    assert options["force_quick_gelu"] is quick
    assert options["pretrained"] == "weights.bin"
    assert options["force_preprocess_cfg"]["mean"] == open_clip.OPENAI_DATASET_MEAN
    with torch.device("meta"):  # what the option does, without the time for 150 million weights
        built = open_clip.create_model("ViT-B-16", load_weights=False, device="meta", force_quick_gelu=quick)
    assert ("QuickGELU" in repr(built.visual.transformer.resblocks[0])) is quick


def test_siglip_gets_its_own_colors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(create, "fetch", lambda *_: Path("weights.bin"))
    assert create._tag_options("ViT-B-16-SigLIP", "webli")["force_preprocess_cfg"]["mean"] == (0.5, 0.5, 0.5)


def test_a_text_side_of_transformers_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(create.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"ViT-B-16-SigLIP requires.*pip install 'eclip\[hf\]'"):
        create.create("ViT-B-16-SigLIP", "webli", None)
