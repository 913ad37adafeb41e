"""Masks of SAM: what the model is asked, what comes back, the numbers beside it, files, and the model unchanged."""

from __future__ import annotations

import copy
import json
import shlex
import sys
from collections.abc import Callable
from dataclasses import replace
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
import tiny
import tiny_sam
from eclip.backbones import sam as sams
from eclip.backbones.sam import Sam, SamPrompt, load_sam, sam_of
from eclip.cli import app
from eclip.errors import DownloadError, EclipError, ImageError, MissingExtraError, ModelError, OptionError
from eclip.explanation.explanation import Explanation
from eclip.explanation.sam import _compared
from eclip.results.coco import compressed, filled, runs
from hub import Hub
from test_hub import cache, hub  # noqa: F401  # fixtures

FAMILIES = ("sam", "sam2", "sam3")
TEXTS = ("a dog", "grass")
SIZE = (41, 30)
"""Width and height of the images: SAM resizes them to 64 x 47, so the two sides by different factors."""
FACTORS = {"sam": (64 / 41, 47 / 30), "sam2": (64 / 41, 64 / 30), "sam3": (56 / 41, 56 / 30)}


def _noise(size: tuple[int, int], seed: int = 0) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(values)


@pytest.fixture(scope="module")
def answer() -> Explanation:
    asked: dict[str, Any] = {"model": tiny.kept("vit"), "method": "maskclip"}
    return eclip.explain([_noise(SIZE), _noise(SIZE, 1)], TEXTS, **asked)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_sam.save("sam", tmp_path_factory.mktemp("sam"))


class Recorder:
    """What a model is asked, while it answers as ever."""

    def __init__(self, model: Any) -> None:
        self.encoded: list[torch.Tensor] = []
        self.asked: list[dict[str, Any]] = []
        self.grads: list[bool] = []
        encode, forward = model.get_image_embeddings, model.forward

        def encoding(pixels: torch.Tensor, **more: Any) -> Any:
            self.encoded.append(pixels)
            self.grads.append(torch.is_grad_enabled())
            return encode(pixels, **more)

        def decoding(**asked: Any) -> Any:
            self.asked.append(asked)
            self.grads.append(torch.is_grad_enabled())
            return forward(**asked)

        model.get_image_embeddings, model.forward = encoding, decoding


# --- what goes in, and what comes out -------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_points_and_box_reach_the_model_at_their_places(family: str, answer: Explanation) -> None:
    model, processor = tiny_sam.pair(family)
    seen = Recorder(model)
    masks = answer.sam((model, processor))
    assert len(seen.encoded) == 2 and len(seen.asked) == 4, "an image is encoded once, whatever the number of texts"
    assert not any(seen.grads)
    assert all(one["multimask_output"] for one in seen.asked)
    x, y = FACTORS[family]
    for number, asked in enumerate(seen.asked):
        image, text = divmod(number, 2)
        points, labels = answer.points(image, text)
        left, top, right, bottom = answer.boxes(image, text)[0].tolist()
        assert set(labels.tolist()) == {0, 1}
        assert asked["input_points"][0, 0].tolist() == pytest.approx(np.array([[a * x, b * y] for a, b in points]))
        assert asked["input_labels"][0, 0].tolist() == labels.tolist()
        corners = [left * x, top * y, (right - 1) * x, (bottom - 1) * y]
        assert asked["input_boxes"][0, 0].tolist() == pytest.approx(corners), "the last pixels, not those behind them"
        assert (masks.prompts[image][text].box == [left, top, right, bottom]).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_masks_are_those_of_transformers_own_pipeline(family: str, answer: Explanation) -> None:
    model, processor = tiny_sam.pair(family)
    found = answer.sam((model, processor))
    for image in range(2):
        for text in range(2):
            points, labels = answer.points(image, text)
            box = answer.boxes(image, text)[0] - [0, 0, 1, 1]
            asked = {"input_points": [[points.tolist()]], "input_labels": [[labels.tolist()]]}
            asked["input_boxes"] = [[box.tolist()]]
            inputs = processor(images=answer.image(image), return_tensors="pt", **asked)
            sizes = [inputs.pop(name) for name in ("original_sizes", "reshaped_input_sizes") if name in inputs]
            with torch.no_grad():
                expected = model(**{**inputs, **{k: v.float() for k, v in inputs.items() if v.is_floating_point()}})
            whole = processor.post_process_masks(expected.pred_masks, *sizes)[0][0].numpy()
            ious = expected.iou_scores[0, 0].numpy()
            order = np.argsort(-ious, kind="stable")
            answers = found.of(image, text)
            assert [one.predicted_iou for one in answers] == pytest.approx(ious[order], abs=1e-6)
            assert all((one.mask == whole[place]).all() for one, place in zip(answers, order, strict=True))
            assert answers[0].mask.shape == SIZE[::-1] and 0 < answers[0].area < 1
    different = found.of(0, 0)[0].mask != found.of(0, 1)[0].mask
    assert different.any(), "the test would not see a prompt that is ignored"


def test_a_text_does_not_depend_on_the_others(answer: Explanation) -> None:
    pair = tiny_sam.pair("sam2")
    alone = replace(
        answer, maps=answer.maps[:, 1:], scores=answer.scores[:, 1:], texts=TEXTS[1:], health=None, flat=None
    )
    one, two = alone.sam(pair).of(0, 0), answer.sam(pair).of(0, 1)
    assert [(a.counts == b.counts).all() for a, b in zip(one, two, strict=True)] == [True] * 3


def test_an_image_with_exif_orientation_is_asked_upright(tmp_path: Path) -> None:
    upright = _noise((20, 30))
    turned = upright.transpose(Image.Transpose.ROTATE_90)
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.png", exif=exif)
    upright.save(tmp_path / "upright.png")
    asked: dict[str, Any] = {"model": tiny.kept("vit"), "method": "maskclip", "health": False}
    explanation = eclip.explain([tmp_path / "turned.png", tmp_path / "upright.png"], TEXTS, **asked)
    model, processor = tiny_sam.pair("sam2")
    seen = Recorder(model)
    masks = explanation.sam((model, processor))
    for text in range(2):
        a, b = masks.of(0, text)[0], masks.of(1, text)[0]
        assert a.mask.shape == (30, 20) and (a.counts == b.counts).all()
    first, second = seen.asked[0], seen.asked[2]
    assert torch.equal(seen.encoded[0], seen.encoded[1]) and torch.equal(first["input_points"], second["input_points"])


@pytest.mark.parametrize("size", [(1, 1), (50, 1), (3, 50), (50, 3), (1, 64)])
@pytest.mark.parametrize("family", FAMILIES)
def test_odd_sizes(family: str, size: tuple[int, int]) -> None:
    sam = sam_of(tiny_sam.pair(family), None)
    prompt = SamPrompt(np.array([[0, 0]]), np.array([1]), np.array([0, 0, *size]))
    masks, ious = sam.encode(_noise(size)).masks(prompt)
    assert masks.shape == (3, size[1], size[0]) and masks.dtype == bool
    assert list(ious) == sorted(ious, reverse=True)


def test_gray_images_and_those_with_transparency_are_asked_as_rgb() -> None:
    sam, prompt = sam_of(tiny_sam.pair("sam2"), None), SamPrompt(np.array([[5, 5]]), np.array([1]), None)
    gray = _noise((20, 20)).convert("L")
    expected = sam.encode(gray.convert("RGB")).masks(prompt)[0]
    assert (sam.encode(gray).masks(prompt)[0] == expected).all()


def test_an_image_that_vanishes_when_resized_is_refused() -> None:
    sam = sam_of(tiny_sam.pair("sam"), None)
    with pytest.raises(ImageError, match="300 x 1 pixels is too narrow for SamModel"):
        sam.encode(Image.new("RGB", (300, 1)))
    assert sam_of(tiny_sam.pair("sam2"), None).encode(Image.new("RGB", (300, 1))).size == (300, 1)


def test_the_prompt_is_chosen(answer: Explanation, shapes_unchecked: None) -> None:
    model, processor = tiny_sam.pair("sam")
    seen = Recorder(model)
    answer.only(0).sam((model, processor), k=1, box=False)
    assert [one["input_points"].shape[2] for one in seen.asked] == [2, 2] and "input_boxes" not in seen.asked[0]
    masks = answer.only(0).sam((model, processor), k=np.int64(0), box=np.bool_(True))
    json.dumps(masks.noted_provenance())
    assert "input_points" not in seen.asked[2] and "input_boxes" in seen.asked[2]
    assert (masks.provenance["points"], masks.provenance["box"]) == (0, True)
    nothing = answer.only(0).sam((model, processor), k=0, box=False)
    assert nothing.of(0, 0) == () and len(seen.encoded) == 2, "nothing to ask, nothing to encode"
    with pytest.raises(OptionError, match="whole number"):
        answer.sam((model, processor), k=-1)


def test_a_flat_map_has_no_mask(answer: Explanation) -> None:
    flat = replace(answer, flat=np.array([[True, False], [True, True]]))
    model, processor = tiny_sam.pair("sam")
    seen = Recorder(model)
    masks = flat.sam((model, processor))
    assert [[len(masks.of(image, text)) for text in range(2)] for image in range(2)] == [[0, 3], [0, 0]]
    assert len(seen.encoded) == 1


# --- numbers --------------------------------------------------------------------------------------------------------


def test_numbers_beside_a_mask() -> None:
    heat = np.array([[0.0, 0.25], [0.5, 1.0]], np.float32)
    own, mask = np.array([[False, False], [True, True]]), np.array([[False, True], [False, True]])
    told = _compared(mask, 0.9, heat, own)
    assert (told.area, told.agreement, told.inside, told.outside) == (0.5, 1 / 3, 0.625, 0.25)
    assert (told.mask == mask).all() and told.size == (2, 2)
    empty = _compared(np.zeros((2, 2), bool), 0.9, heat, np.zeros((2, 2), bool))
    assert (empty.area, empty.agreement, empty.inside, empty.outside) == (0.0, None, None, pytest.approx(0.4375))
    assert _compared(np.ones((2, 2), bool), 0.9, heat, own).outside is None


def test_numbers_are_those_of_the_explanation(answer: Explanation) -> None:
    for one in answer.sam(tiny_sam.pair("sam2")).of(1, "grass"):
        heat, own = answer.heatmap(1, 1), answer.mask(1, 1)
        assert one.area == pytest.approx(one.mask.mean())
        assert one.agreement == pytest.approx((one.mask & own).sum() / (one.mask | own).sum())
        assert one.inside == pytest.approx(heat[one.mask].mean(), abs=1e-6)
        assert one.outside == pytest.approx(heat[~one.mask].mean(), abs=1e-6)


@pytest.mark.parametrize("size", [(1, 1), (7, 5), (64, 40)])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 1.0])
def test_run_lengths_are_those_of_pycocotools(size: tuple[int, int], share: float) -> None:
    coco = pytest.importorskip("pycocotools.mask")
    mask = np.random.default_rng(0).random(size) < share
    counts = runs(mask)
    assert compressed(counts) == coco.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
    assert (filled(np.array(counts), size) == mask).all()


def test_a_long_run_is_compressed() -> None:
    coco = pytest.importorskip("pycocotools.mask")
    mask = np.zeros((3000, 400), bool)
    mask[:, 150:] = mask[5:9, 3] = True
    assert compressed(runs(mask)) == coco.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()


def test_an_absent_text_has_masks_and_says_so(answer: Explanation, tmp_path: Path) -> None:
    assert answer.health is not None
    presence = np.array([[0.95, 0.2], [0.7, np.nan]], np.float32)
    sure = replace(answer, health=replace(answer.health, presence=presence, emptiness=np.zeros_like(presence)))
    masks = sure.sam(tiny_sam.pair("sam"))
    assert masks.doubt(0, 0) == "" and masks.doubt(0, "grass") == "probably not in the image"
    assert len(masks.of(0, "grass")) == 3
    told = [[masks.noted(image)[text]["doubt"] for text in TEXTS] for image in range(2)]
    assert told == [[None, "probably not in the image"], ["may not be in the image", None]]


# --- the user's model -----------------------------------------------------------------------------------------------


def _state(model: nn.Module) -> Any:
    hooks = [(name, len(one._forward_hooks), len(one._forward_pre_hooks)) for name, one in model.named_modules()]
    flags = [(name, one.training, sorted(vars(one))) for name, one in model.named_modules()]
    weights = [(name, one.requires_grad, one.dtype, one.grad, one._version) for name, one in model.named_parameters()]
    return hooks, flags, weights, json.dumps(model.config.to_dict(), default=str, sort_keys=True)


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_model_is_as_it_was(family: str, fails: bool, answer: Explanation, monkeypatch: pytest.MonkeyPatch) -> None:
    model, processor = tiny_sam.pair(family)
    model.train()
    model.mask_decoder.eval()
    next(model.parameters()).requires_grad_(False)
    model.set_attn_implementation("eager")
    for config in (model.config, model.vision_encoder.config):  # transformers would answer with hooks, and leave them
        config.output_hidden_states = config.output_attentions = True
    before, values = _state(model), copy.deepcopy(model.state_dict())
    random = torch.get_rng_state()
    if fails:
        monkeypatch.setattr(processor.image_processor, "post_process_masks", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            answer.sam((model, processor))
    else:
        answer.sam((model, processor))
    assert _state(model) == before and torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, values[name]) for name, value in model.state_dict().items())


def test_training_mode_gradients_and_autocast_around_it_change_nothing(answer: Explanation) -> None:
    model, processor = tiny_sam.with_dropout()
    expected = answer.sam((model, processor))
    model.train()
    with torch.enable_grad(), torch.autocast("cpu", torch.bfloat16):
        found = answer.sam((model, processor))
    with torch.inference_mode():
        again = answer.sam((model, processor))
    for one in (found, again):
        assert [a.predicted_iou for a in one.of(0, 0)] == [a.predicted_iou for a in expected.of(0, 0)]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_half_precision(family: str, dtype: torch.dtype, answer: Explanation) -> None:
    pair = tiny_sam.pair(family)
    expected = answer.sam(pair)
    half = tiny_sam.model(family).to(dtype)
    seen = Recorder(half)
    found = answer.sam((half, pair[1]))
    assert seen.encoded[0].dtype == dtype and seen.asked[0]["input_points"].dtype == torch.float32
    assert found.provenance["precision"] == str(dtype).removeprefix("torch.")
    assert all(weight.dtype == dtype for weight in half.parameters())
    for image in range(2):
        for text in range(2):
            ours = {round(one.predicted_iou, 1): one for one in expected.of(image, text)}
            same = [
                (one.mask == ours[near].mask).mean()
                for one in found.of(image, text)
                for near in [min(ours, key=lambda iou: abs(iou - one.predicted_iou))]
            ]
            assert max(same) > 0.9


def test_masks_that_are_not_finite_are_refused(answer: Explanation) -> None:
    model, processor = tiny_sam.pair("sam")
    model.half().mask_decoder.upscale_conv2.weight.data.fill_(6e4)
    with pytest.raises(ModelError, match=r"not finite: .* use float32 instead of torch.float16"):
        answer.sam((model, processor))


def test_wrapped_models_are_asked_inside(answer: Explanation) -> None:
    model, processor = tiny_sam.pair("sam2")
    expected = answer.sam((model, processor)).of(0, 0)[0]
    for wrapped in (nn.DataParallel(model), torch.compile(model)):
        found = answer.sam((wrapped, processor))
        assert (found.of(0, 0)[0].counts == expected.counts).all() and found.provenance["family"] == "Sam2Model"
    assert (answer.sam(sam_of((model, processor.image_processor), None)).of(0, 0)[0].counts == expected.counts).all()


class Other(nn.Module):
    pass


WRONG: dict[str, tuple[Callable[[], Any], type[EclipError], str]] = {
    "no processor": (lambda: tiny_sam.model("sam"), OptionError, r"a pair \(model, processor\).*got SamModel"),
    "the wrong way round": (
        lambda: tiny_sam.pair("sam")[::-1],
        OptionError,
        "got a pair of SamProcessor and SamModel",
    ),
    "nothing": (lambda: None, OptionError, "got NoneType"),
    "another model": (lambda: (Other(), tiny_sam.processor("sam")), ModelError, "Other is not one of .* use a model"),
    "a part": (
        lambda: (tiny_sam.model("sam").vision_encoder, tiny_sam.processor("sam")),
        ModelError,
        "SamVisionEncoder is not one of transformers' SamModel, Sam2Model, Sam3TrackerModel",
    ),
    "no such processor": (lambda: (tiny_sam.model("sam"), str), OptionError, "processor of the model, got type"),
    "another processor": (
        lambda: (tiny_sam.model("sam2"), tiny_sam.processor("sam3")),
        ModelError,
        "images of 56 x 56 pixels, but Sam2Model takes 64 x 64",
    ),
    "no such folder": (lambda: "./nowhere", ModelError, "neither a folder with a Segment Anything model"),
    "no name": (lambda: "sam", ModelError, "nor ORG/NAME on the Hugging Face Hub: write a name such as"),
    "meta": (lambda: (tiny_sam.model("sam").to("meta"), tiny_sam.processor("sam")), ModelError, "meta"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_no_sam_is_refused(case: str, answer: Explanation) -> None:
    make, kind, words = WRONG[case]
    with pytest.raises(kind, match=words):
        answer.sam(make())


def test_models_that_are_nearly_one_say_which_to_load(answer: Explanation, tmp_path: Path) -> None:
    video = tiny_sam.save_video("sam2", tmp_path / "video")
    with pytest.raises(ModelError, match=r"Sam2VideoModel is not .*videos\. Load Sam2Model from the same weights"):
        answer.sam((video, tiny_sam.processor("sam2")))
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "config.json").write_text('{"model_type": "sam3"}')
    with pytest.raises(ModelError, match=r"'sam3' is not .*no points\. Load Sam3TrackerModel"):
        answer.sam(tmp_path / "text")


def test_a_model_in_memory_stays_where_it_is(answer: Explanation) -> None:
    with pytest.raises(OptionError, match="device='cpu' requires a model's name"):
        answer.sam(tiny_sam.pair("sam"), device="cpu")
    with pytest.raises(EclipError, match="device"):
        answer.sam("org/name", device="cuda:99")


# --- names ----------------------------------------------------------------------------------------------------------


def test_a_folder_is_a_model(folder: Path, answer: Explanation) -> None:
    expected = answer.sam(tiny_sam.pair("sam"))
    for name in (str(folder), f"hf:{folder}", folder):
        found = answer.sam(name)
        assert (found.of(0, 0)[0].counts == expected.of(0, 0)[0].counts).all()
        assert found.provenance["model"] == str(name)
    sam = load_sam(str(folder))
    assert load_sam(str(folder)) is sam
    assert not sam.model.training and not any(weight.requires_grad for weight in sam.model.parameters())
    (folder / "config.json").touch()
    assert load_sam(str(folder)) is not sam, "its files have changed"


def test_a_link_to_nothing_beside_the_files_does_no_harm(tmp_path: Path) -> None:
    place = tiny_sam.save("sam", tmp_path / "sam")
    (place / "notes.txt").symlink_to(tmp_path / "gone.txt")
    assert isinstance(load_sam(str(place)), Sam)


@pytest.mark.parametrize("family", ["sam2", "sam3"])
def test_a_folder_with_a_model_for_videos_is_read_as_one_for_images(family: str, tmp_path: Path) -> None:
    video = tiny_sam.save_video(family, tmp_path / "video")
    sam = load_sam(str(tmp_path / "video"))
    assert sam.family == {"sam2": "Sam2Model", "sam3": "Sam3TrackerModel"}[family]
    tracker = getattr(video, "tracker_model", video)
    assert torch.equal(sam.model.mask_decoder.iou_token.weight, tracker.mask_decoder.iou_token.weight)  # type: ignore[union-attr]
    masks, _ = sam.encode(_noise(SIZE)).masks(SamPrompt(np.array([[3, 3]]), np.array([1]), None))
    assert masks.shape == (3, 30, 41)


def test_folders_that_are_incomplete_say_what_is_missing(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    place = tiny_sam.save("sam2", tmp_path / "sam2")
    weights = load_file(place / "model.safetensors")
    save_file({name: one for name, one in weights.items() if "iou_token" not in name}, place / "model.safetensors")
    with pytest.raises(ModelError, match=r"sam2.*the weights lack mask_decoder.iou_token.weight"):
        load_sam(str(place))
    for file in place.glob("*processor*"):
        file.unlink()
    with pytest.raises(ModelError, match=r"no preprocessor_config.json: save the model's processor there too"):
        load_sam(str(place))
    (place / "config.json").write_text("{")
    with pytest.raises(ModelError, match="not a transformers model configuration"):
        load_sam(str(place))
    (place / "config.json").write_text('{"model_type": "clip"}')
    with pytest.raises(ModelError, match=r"a model of type 'clip' is not one of .*: use a model such as"):
        load_sam(str(place))


def test_without_transformers_the_extra_is_named(answer: Explanation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtraError, match=r"SAM needs the package transformers: pip install 'eclip\[hf\]'"):
        answer.sam("facebook/sam-vit-base")


def test_a_repository_of_the_hub(
    hub: Hub,  # noqa: F811
    cache: Path,  # noqa: F811
    folder: Path,
    answer: Explanation,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sams, "_loaded", {})
    hub.put("org/sam", folder)
    hub.put("org/clip", folder)
    hub.repositories["org/clip"]["config.json"] = b'{"model_type": "clip"}'
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DownloadError, match=r"org/sam.*HF_HUB_OFFLINE is set.*a model in a local folder needs no"):
        load_sam("org/sam")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(ModelError, match=r"org/clip: a model of type 'clip'"):
        load_sam("org/clip")
    assert not any("org/clip" in one.path and "safetensors" in one.path for one in hub.asked), "refused by its type"
    found = answer.sam("org/sam")
    assert (found.of(0, 0)[0].counts == answer.sam(tiny_sam.pair("sam")).of(0, 0)[0].counts).all()
    hub.asked.clear()
    monkeypatch.setattr(sams, "_loaded", {})
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert isinstance(load_sam("hf:org/sam"), Sam) and not hub.asked, "from the cache"


# --- files and the command line -------------------------------------------------------------------------------------


def explain(*words: object) -> Any:
    return CliRunner().invoke(app, ["explain", *map(str, words)])


def _manifest(folder: Path) -> dict[str, Any]:
    told: dict[str, Any] = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    return told


def test_saved_masks_are_the_masks(answer: Explanation, tmp_path: Path) -> None:
    coco = pytest.importorskip("pycocotools.mask")
    masks = answer.sam(tiny_sam.pair("sam"))
    told = _manifest(masks.save(tmp_path, ("jpg", "json")))
    assert told["provenance"]["sam"] == masks.provenance and told["provenance"]["command"] is None
    for image, entry in enumerate(told["images"]):
        for text, own in entry["sam"].items():
            number = TEXTS.index(text)
            points, labels = answer.points(image, number)
            assert own["points"] == np.column_stack([points, labels]).tolist()
            assert own["box"] == answer.boxes(image, number)[0].tolist()
            files = entry["files"]["sam"][text]
            assert len(files) == len(own["masks"]) == 3
            for file, noted, one in zip(files, own["masks"], masks.of(image, number), strict=True):
                assert noted["predicted_iou"] == pytest.approx(one.predicted_iou, abs=1e-6)
                picture = np.asarray(Image.open(tmp_path / file))
                assert picture.dtype == np.uint8 and ((picture == 255) == one.mask).all()
                assert set(np.unique(picture)) <= {0, 255}
                assert (coco.decode(noted["segmentation"]) == one.mask).all()
    assert Explanation.load(masks.save(tmp_path / "all")).texts == TEXTS
    assert repr(masks).startswith("SamMasks(2 images, 2 texts, by SamModel, of Explanation(")


def test_only_what_a_command_repeats_has_one(tiny_name: str, images: Path, folder: Path) -> None:
    explanation = eclip.explain(images / "a.png", "a dog", model=tiny_name, method="maskclip", health=False)
    assert explanation.provenance["command"] is not None
    command = explanation.sam(str(folder)).noted_provenance()["command"]
    assert command.startswith("eclip explain") and command.endswith(f"--sam={folder}")
    others = (explanation.sam(folder, k=3), explanation.sam(folder, box=False), explanation.sam(tiny_sam.pair("sam")))
    assert [one.noted_provenance()["command"] for one in others] == [None] * 3


def test_the_command_writes_masks_and_says_how_good_they_are(
    tiny_name: str, images: Path, folder: Path, tmp_path: Path
) -> None:
    asked = ["-t", "a dog", "-t", "grass", "--model", tiny_name, "--method", "maskclip", "--sam", str(folder)]
    done = explain(images / "a.png", *asked, "-o", tmp_path / "out")
    assert done.exit_code == 0, done.output
    lines = [line for line in done.stdout.splitlines() if "SAM's best mask: predicted IoU" in line]
    assert len(lines) == 2 and lines[0].startswith("  a dog") and " inside and " in lines[0]
    told = _manifest(tmp_path / "out")
    assert told["provenance"]["command"].endswith(f" --sam={folder}") and len(told["images"][0]["sam"]["grass"]) == 4
    pictures = sorted(path.name for path in (tmp_path / "out").glob("*.sam-*.png"))
    assert pictures[0] == "a.0-a-dog.sam-1.png" and len(pictures) == 6
    again = explain(*shlex.split(told["provenance"]["command"])[2:], "-o", tmp_path / "again", "--json")
    assert json.loads(again.stdout)["images"][0]["sam"] == told["images"][0]["sam"]
    without = explain(images / "a.png", *asked[:-2], "-o", tmp_path / "out")
    assert without.exit_code == 0 and not list((tmp_path / "out").glob("*.sam-*.png")), "replaced as a whole"
    quiet = explain(images / "a.png", *asked, "-o", tmp_path / "quiet", "--quiet", "--format", "json")
    assert quiet.output == "" and "sam" in _manifest(tmp_path / "quiet")["images"][0]
    assert not list((tmp_path / "quiet").glob("*.png"))


def test_the_command_names_what_is_wrong(tiny_name: str, images: Path, folder: Path, tmp_path: Path) -> None:
    asked = ["-t", "a dog", "--model", tiny_name, "--method", "maskclip", "-o", tmp_path / "out"]
    for words, more, code in (
        ("neither a folder with a Segment Anything model", ["--sam", "./nowhere"], 2),
        ("add --format png or --format json", ["--sam", folder, "--format", "csv"], 2),
        ("--sam does not apply to shards, which --write asks for", ["--sam", folder, "--write", "maps"], 2),
    ):
        done = explain(images / "a.png", *asked, *more)
        assert done.exit_code == code and words in done.stderr, done.output
    narrow = tmp_path / "narrow.png"
    Image.new("RGB", (300, 1)).save(narrow)
    done = explain(narrow, images / "a.png", *asked, "--sam", folder)
    assert done.exit_code == 1 and "300 x 1 pixels is too narrow" in done.stderr and "1 of 2 failed" in done.stderr
    told = _manifest(tmp_path / "out")
    assert [entry["source"] for entry in told["images"]] == [str(images / "a.png")]
    assert told["failures"][0]["source"] == str(narrow)


def test_a_flat_map_is_said_to_have_no_mask() -> None:
    from eclip.cli.sam import lines_of

    told = {"a dog": {"points": [], "box": None, "doubt": None, "masks": []}}
    assert list(lines_of(told)) == ["a dog: no mask of SAM, since the map gives neither a point nor a box"]
    best = {"predicted_iou": 0.5, "area": 0.0, "agreement": None, "inside": None, "outside": 0.25}
    told["a dog"] |= {"doubt": "may not be in the image", "masks": [best]}
    expected = "a dog (may not be in the image): SAM's best mask: predicted IoU 0.50, 0% of the image, map 0.25 outside"
    assert list(lines_of(told)) == [expected]
