"""Tensors in, tensors out: preprocessed pixels and features into `explain`, results as tensors, and the docs of it."""

from __future__ import annotations

import copy
import json
import os
import pickle
import re
import shutil
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

import eclip
import tiny
from eclip.backbones.backbone import Backbone
from eclip.errors import (
    DeviceError,
    EclipError,
    EqualTextsWarning,
    ImageError,
    OptionError,
    RawPixelsWarning,
    ShapeError,
    TextError,
)
from eclip.explanation.explanation import Explanation
from eclip.explanation.health import MOST_EMPTINESS

ROOT = Path(__file__).parents[1]
TEXTS = ["a dog", "grass"]


def pictures(count: int = 2, size: tuple[int, int] = (40, 30)) -> list[Image.Image]:
    random = np.random.default_rng(0)
    return [Image.fromarray(random.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)) for _ in range(count)]


@pytest.fixture(scope="module")
def backbone(tiny_name: str) -> Backbone:
    return eclip.load(tiny_name)


@pytest.fixture(scope="module")
def pixels(backbone: Backbone) -> torch.Tensor:
    return torch.stack([backbone.preprocess(picture) for picture in pictures()])


@pytest.fixture(scope="module")
def answer(backbone: Backbone) -> Explanation:
    return eclip.explain(pictures(), TEXTS, model=backbone)


# --- preprocessed pixels ---


def test_preprocessed_pixels_give_the_maps_of_their_images(
    backbone: Backbone, pixels: torch.Tensor, answer: Explanation
) -> None:
    ours = eclip.explain(pixels, TEXTS, model=backbone, preprocessed=True)
    for one in (ours, eclip.explain(pixels.requires_grad_(), TEXTS, model=backbone, preprocessed=True)):
        assert np.array_equal(one.maps, answer.maps) and np.array_equal(one.scores, answer.scores)
        assert one.health is not None and answer.health is not None
        assert np.array_equal(one.health.presence, answer.health.presence)
    pixels.requires_grad_(False)
    assert ours.sources == ("image 0", "image 1") and ours.sizes == ((32, 32), (32, 32)), "what the model saw"
    assert ours.heatmap(1, 1).shape == (32, 32) and ours.provenance["command"] is None
    assert ours.provenance["resize"] is None and ours.provenance["pixels"] == [32, 32]
    for index, picture in enumerate(pictures()):  # undone, to the last value
        assert np.array_equal(np.asarray(ours.image(index)), backbone.preprocess.resized(picture))
    alone = eclip.explain(pixels[1], TEXTS, model=backbone, preprocessed=True)
    np.testing.assert_allclose(alone.maps[0], ours.maps[1], atol=1e-6)
    several = eclip.explain(pixels, TEXTS, model=backbone, preprocessed=True, method=["itsm", "surgery"])
    assert np.array_equal(several["surgery"].maps, ours.maps) and several["itsm"].provenance["resize"] is None


def test_preprocessed_pixels_of_any_precision_mode_and_grid(backbone: Backbone, pixels: torch.Tensor) -> None:
    expected = eclip.explain(pixels, TEXTS, model=backbone, preprocessed=True, method="legrad").maps
    with torch.inference_mode():
        frozen = pixels.clone()
        ours = eclip.explain(frozen, TEXTS, model=backbone, preprocessed=True, method="legrad").maps
    assert np.array_equal(ours, expected)
    assert np.array_equal(
        eclip.explain(frozen, TEXTS, model=backbone, preprocessed=True, method="legrad").maps, expected
    )
    assert np.array_equal(
        eclip.explain(pixels.double(), TEXTS, model=backbone, preprocessed=True, method="legrad").maps, expected
    )
    half = eclip.explain(pixels.bfloat16(), TEXTS, model=backbone, preprocessed=True, method="itsm")
    np.testing.assert_allclose(
        half.maps, eclip.explain(pictures(), TEXTS, model=backbone, method="itsm").maps, atol=0.1
    )
    wide = backbone.preprocess(pictures(1, (64, 32))[0], 32, "keep")[None]
    by_pixels = eclip.explain(wide, TEXTS, model=backbone, preprocessed=True)
    by_image = eclip.explain(pictures(1, (64, 32)), TEXTS, model=backbone, image_size=32, resize="keep")
    assert np.array_equal(by_pixels.maps, by_image.maps) and by_pixels.maps.shape[2] != by_pixels.maps.shape[3]
    large = torch.stack([backbone.preprocess(picture, 64) for picture in pictures()])
    by_pixels, by_image = (
        eclip.explain(large, TEXTS, model=backbone, preprocessed=True),
        eclip.explain(pictures(), TEXTS, model=backbone, image_size=64),
    )
    assert np.array_equal(by_pixels.maps, by_image.maps)
    assert by_pixels.health is not None and by_image.health is not None
    assert np.array_equal(by_pixels.health.emptiness, by_image.health.emptiness), "empty images of the same size"


def test_the_measured_level_counts_at_the_training_size_alone(pixels: torch.Tensor, backbone: Backbone) -> None:
    level = {"surgery": 0.625}
    measured = replace(backbone, levels=level)
    assert eclip.explain(pixels, TEXTS, model=measured, preprocessed=True).provenance["level"] == 0.625
    larger = torch.nn.functional.interpolate(pixels, (64, 64))
    assert eclip.explain(larger, TEXTS, model=measured, preprocessed=True).provenance["level"] == "otsu"
    with_sides = torch.nn.functional.interpolate(pixels, (32, 64))
    assert eclip.explain(with_sides, TEXTS, model=measured, preprocessed=True).provenance["level"] == "otsu"


@pytest.mark.usefixtures("shapes_unchecked")
def test_pixels_that_were_not_preprocessed_are_refused_with_both_ways(backbone: Backbone, pixels: torch.Tensor) -> None:
    both = r"make (them|it) with torch\.stack\(\[backbone\.preprocess\(image\), \.\.\.\]\), or leave preprocessed out"
    cases: list[tuple[Any, type[EclipError], str]] = [
        ((pixels * 255), ImageError, f"did not go through the preprocessing of .*gives -1.79 to 2.15: {both}"),
        (pixels - 2, ImageError, f"did not go through .*{both}"),
        (torch.zeros(2, 3, 32, 32, dtype=torch.uint8), ShapeError, f"floating point .*got torch.uint8 .*{both}"),
        (pixels[:, :, :-1], ShapeError, f"multiples of the patch size 8 .*{both}"),
        (pixels[:0], ShapeError, rf"got torch.float32 \(0, 3, 32, 32\): {both}"),
        (pixels[:, :1], ShapeError, rf"got torch.float32 \(2, 1, 32, 32\): {both}"),
        (pixels.permute(0, 2, 3, 1), ShapeError, both),
        (pixels[None], ShapeError, both),
        (pixels[0, 0], ShapeError, both),
        (pixels.masked_fill(pixels > 2, torch.nan), ImageError, "NaN or infinity"),
        (torch.zeros(1, 3, 32, 32, device="meta"), ImageError, "'meta' and has no values"),
        (pixels.numpy(), ImageError, f"takes a tensor, got ndarray: {both}"),
        ("a.png", ImageError, f"takes a tensor, got str: {both}"),
        (pictures()[0], ImageError, f"takes a tensor, got Image: {both}"),
        (
            [pixels, torch.tensor([0, 1])],
            ImageError,
            r"got a list of 2: of a DataLoader's batch \(images, labels\) pass",
        ),
        (list(pixels), ImageError, r"got a list of 2.*stack single images with torch\.stack"),
        ({"pixel_values": pixels}, ImageError, "got a dict of 1"),
    ]
    for given, error, message in cases:
        with pytest.raises(error, match=message):
            eclip.explain(given, TEXTS, model=backbone, preprocessed=True)
    for settings in ({"resize": "keep"}, {"image_size": 64}):
        with pytest.raises(OptionError, match="not resized: leave image_size and resize out"):
            eclip.explain(pixels, TEXTS, model=backbone, preprocessed=True, **settings)
    with pytest.raises(ImageError, match=r"must be in \[0, 1\].*before normalization.*preprocessed=True"):
        eclip.explain(pixels, TEXTS, model=backbone)


def test_raw_pixels_passed_as_preprocessed_are_used_with_a_warning(backbone: Backbone, pixels: torch.Tensor) -> None:
    raw = (pixels - pixels.amin()) / (pixels.amax() - pixels.amin())
    with pytest.warns(RawPixelsWarning, match="are 0 to 1, like those of raw images, while .* are -1.79 to 2.15"):
        eclip.explain(raw, TEXTS, model=backbone, preprocessed=True, health=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for plain in (pixels, backbone.blank(), backbone.blank() + 0.5):
            eclip.explain(plain, TEXTS, model=backbone, preprocessed=True, health=False)


@pytest.mark.usefixtures("shapes_unchecked")
def test_a_batch_of_a_loader_with_labels_is_refused_with_the_way_out(backbone: Backbone) -> None:
    images = torch.rand(4, 3, 30, 40, generator=torch.Generator().manual_seed(0))
    loader: DataLoader[Any] = DataLoader([(image, label) for label, image in enumerate(images)], batch_size=2)
    batch, sample = next(iter(loader)), (images[0], 3)
    named = (images[:2], ["a", "b"])
    ways: list[Any] = [batch, tuple(batch), sample, named, {"image": images}, (images[:1], {"label": 1})]
    for given in ways:
        for call in (eclip.explain, eclip.segment):
            with pytest.raises(ImageError, match=r"\(images, labels\) or a dict, .*pass the images alone"):
                call(given, TEXTS, model=backbone)
    with pytest.raises(ImageError, match=r"got list\. Of a batch \(images, labels\)"):
        list(eclip.explain_each(loader, TEXTS, model=backbone))
    together = eclip.explain(batch[0], TEXTS, model=backbone, method="itsm").maps
    assert together.shape[0] == 2
    assert np.array_equal(eclip.explain(list(batch[0]), TEXTS, model=backbone, method="itsm").maps, together)


# --- features in place of texts ---


def test_features_of_texts_give_their_maps(backbone: Backbone, answer: Explanation) -> None:
    features = eclip.encode_texts(backbone, TEXTS)
    ours = eclip.explain(pictures(), features, names=TEXTS, model=backbone)
    assert np.array_equal(ours.maps, answer.maps) and np.array_equal(ours.scores, answer.scores)
    assert ours.texts == tuple(TEXTS) and ours.provenance["templates"] is None
    for same in (3 * features, features * torch.tensor([[1e20], [1e-20]]), features.double(), 1000 * features.half()):
        near = eclip.explain(pictures(), same, model=backbone, method="itsm")
        np.testing.assert_allclose(
            near.maps, eclip.explain(pictures(), TEXTS, model=backbone, method="itsm").maps, atol=1e-3
        )
        assert near.texts == ("feature 0", "feature 1") and near.heatmap("feature 1").shape == (30, 40)
    with torch.inference_mode():
        frozen = features.clone()
    for graph in (frozen, features.clone().requires_grad_()):
        again = eclip.explain(pictures(), graph, model=backbone, method="legrad")
        assert np.array_equal(again.maps, eclip.explain(pictures(), TEXTS, model=backbone, method="legrad").maps)
    each = list(eclip.explain_each(pictures(), features, names=TEXTS, model=backbone))
    assert np.array_equal(np.concatenate([one.maps for one in each]), answer.maps)
    assert each[0].texts == tuple(TEXTS)


def test_health_of_features_is_what_needs_no_text(backbone: Backbone, answer: Explanation, tmp_path: Path) -> None:
    features = eclip.encode_texts(backbone, TEXTS)
    ours = eclip.explain(pictures(), features, model=backbone, names=TEXTS)
    assert ours.health is not None and answer.health is not None
    for name in ("sensitivity", "artefacts", "emptiness"):
        assert np.array_equal(getattr(ours.health, name), getattr(answer.health, name), equal_nan=True), name
        assert not np.isnan(getattr(ours.health, name)).any()
    assert np.isnan(ours.health.presence).all() and np.isnan(ours.health.polarity).all()
    [note] = ours.health.notes
    assert note.endswith("compare a text with other words, so they do not apply to features and examples")
    assert ours.provenance["health"] == [note]
    assert (ours.health.emptiness > MOST_EMPTINESS).all() and not ours.health.absent.any(), "presence is unknown"
    assert any("looks empty" in sentence for sentence in ours.health.warnings(0, 0))
    ours.save(tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["images"][0]["health"]["grass"]["presence"] is None and manifest["provenance"]["templates"] is None
    loaded = Explanation.load(tmp_path)
    assert loaded.health is not None and loaded.health.notes == (note,) and np.array_equal(loaded.maps, ours.maps)


def test_features_contrast_with_one_of_them(backbone: Backbone, images: Path) -> None:
    features = eclip.encode_texts(backbone, TEXTS)
    more: dict[str, Any] = {"model": backbone, "method": "itsm", "versus": "grass"}
    by_texts = eclip.explain(images / "a.png", TEXTS, **more)
    ours = eclip.explain(images / "a.png", features, names=TEXTS, **more)
    assert np.array_equal(ours.maps, by_texts.maps) and not ours.maps[:, 1].any()
    assert by_texts.provenance["command"] is not None and ours.provenance["command"] is None, "no command holds them"
    assert ours.only(0).provenance["command"] is None
    with pytest.raises(OptionError, match="versus must be the name of one of the features, a dog, grass, got 'a cat'"):
        eclip.explain(pictures(), features, names=TEXTS, model=backbone, versus="a cat")


def test_features_run_the_text_tower_only_for_nonsense(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    features = eclip.encode_texts(backbone, TEXTS)
    own = replace(backbone)  # knows its feature size no longer
    eclip.explain(pictures(), features, model=own)
    runs: list[int] = []
    counting = replace(own, encode_tokens=lambda ids: runs.append(len(ids)) or backbone.encode_tokens(ids))
    eclip.explain(pictures(), features, model=counting, method="itsm", health=False)
    eclip.explain(pictures(), features, model=counting, method="itsm", health=False)
    assert runs == [1], "one text, once, to learn the size"


@pytest.mark.usefixtures("shapes_unchecked")
def test_what_cannot_be_features_is_refused(backbone: Backbone) -> None:
    good = eclip.encode_texts(backbone, TEXTS)
    half = good.clone()
    half[1, 3] = torch.inf
    cases: list[tuple[Any, dict[str, Any], type[EclipError], str]] = [
        (good[:, :5], {}, ShapeError, r"have 24 values each, got \(2, 5\): use those of the same model"),
        (good[0], {}, ShapeError, r"\(text, feature\).*got torch.float32 \(24,\)\. Add the first axis with \[None\]"),
        (good[:0], {}, ShapeError, r"got torch.float32 \(0, 24\)"),
        (good[None], {}, ShapeError, r"got torch.float32 \(1, 2, 24\)"),
        ((100 * good).long(), {}, ShapeError, "floating-point tensor .*got torch.int64"),
        (good.to(torch.complex64), {}, ShapeError, "got torch.complex64"),
        (half, {}, TextError, "feature 2 of 2 contains NaN or infinity"),
        (good * torch.tensor([[0.0], [1.0]]), {}, TextError, "feature 1 of 2 is all zeros"),
        (good.to("meta"), {}, TextError, "'meta' and have no values"),
        (list(good), {}, TextError, r"text 1 of 2 must be a string, got Tensor; eclip.explain takes features too"),
        (good.numpy(), {}, TextError, r"got ndarray; eclip.explain takes features too, as one torch tensor"),
        (good, {"names": ["a"]}, OptionError, "names must be one for each of 2 features, got 1"),
        (good, {"names": "ab"}, OptionError, "names must be one for each of 2 features, got 1"),
        (good, {"names": ["a", "a"]}, OptionError, "two features have the name 'a'"),
        (good, {"names": ["a", ""]}, TextError, "text 2 of 2 is empty"),
        (good, {"names": ["a", 3]}, TextError, "must be a string, got int"),
        (good, {"templates": "single"}, OptionError, "templates are for texts"),
        (good, {"templates": ["a {}"]}, OptionError, "templates are for texts"),
        (TEXTS, {"names": TEXTS}, OptionError, "names are for features"),
    ]
    for given, settings, error, message in cases:
        for call in (eclip.explain, lambda *args, **more: list(eclip.explain_each(*args, **more))):
            with pytest.raises(error, match=message):
                call(pictures(), given, model=backbone, **settings)


def test_odd_names_are_names(backbone: Backbone, tmp_path: Path) -> None:
    names = ["a, b", '"quoted"\nline']
    ours = eclip.explain(pictures(1), eclip.encode_texts(backbone, TEXTS), names=iter(names), model=backbone)
    assert ours.texts == tuple(names)
    ours.save(tmp_path)
    assert Explanation.load(tmp_path).texts == tuple(names)


# --- results as tensors ---


def test_an_explanation_as_tensors_equals_its_arrays(backbone: Backbone) -> None:
    sizes = [*pictures(1), *pictures(1, (16, 20))]
    answer = eclip.explain(sizes, TEXTS, model=backbone)
    tensors = answer.torch()
    assert tensors.device == torch.device("cpu") and repr(tensors).startswith("ExplanationTensors(Explanation(2 images")
    assert np.array_equal(tensors.maps.numpy(), answer.maps) and np.array_equal(tensors.scores.numpy(), answer.scores)
    assert [tuple(heat.shape) for heat in tensors.heatmaps] == [(2, 30, 40), (2, 20, 16)]
    for image in range(2):
        for text in range(2):
            assert np.array_equal(tensors.heatmaps[image][text].numpy(), answer.heatmap(image, text))
            assert np.array_equal(tensors.masks[image][text].numpy(), answer.mask(image, text))
    assert tensors.heatmaps is tensors.heatmaps, "computed once"
    tensors.maps.zero_()
    assert answer.maps.any(), "a copy"


def test_tensors_go_to_the_device_of_the_model_in_this_process(answer: Explanation, tmp_path: Path) -> None:
    assert answer.origin == (os.getpid(), "cpu")
    elsewhere = replace(answer, origin=(os.getpid(), "cuda:99"))
    with pytest.raises(DeviceError, match="'cuda:99' is not available"):
        elsewhere.torch()
    assert elsewhere.torch("cpu").device.type == "cpu"
    assert elsewhere.only(1).origin == elsewhere.origin and copy.copy(elsewhere).origin == elsewhere.origin
    other = replace(elsewhere, origin=(os.getpid() + 1, "cuda:99"))  # as after it was sent here by another process
    assert pickle.loads(pickle.dumps(other)).torch().device.type == "cpu"
    elsewhere.save(tmp_path)
    assert Explanation.load(tmp_path).torch().device.type == "cpu"
    for wrong in ("mps", "gpu", True):
        with pytest.raises(DeviceError):
            answer.torch(wrong)


def test_heat_maps_masks_and_boxes_of_a_methods_maps_equal_the_explanations(
    backbone: Backbone, pixels: torch.Tensor
) -> None:
    with pytest.warns(EqualTextsWarning):
        answer = eclip.explain(pictures(), [*TEXTS, "Grass"], model=backbone)
    text = eclip.encode_texts(backbone, TEXTS)
    text = torch.cat([text, text[1:]])
    method = eclip.METHODS["surgery"]
    maps = method(eclip.encode(backbone, pixels), text)
    heat = eclip.heatmaps(maps, (30, 40), method.flat(maps, text))
    assert heat.dtype == torch.float32 and torch.equal(heat, torch.stack(answer.torch().heatmaps))
    masks = eclip.masks(heat)
    assert masks.dtype == torch.bool and torch.equal(masks, torch.stack(answer.torch().masks))
    for level in (0.3, np.float64(0.62), 0.0, 1.0):
        fixed = eclip.masks(heat, level)
        for image in range(2):
            for number in range(3):
                assert np.array_equal(fixed[image, number].numpy(), answer.mask(image, number, level))
    for image in range(2):
        for number in range(3):
            found = eclip.boxes(masks[image, number])
            assert found.dtype == torch.int64 and np.array_equal(found.numpy(), answer.boxes(image, number))
            every = eclip.boxes(masks[image, number], min_area=0.0)
            assert np.array_equal(every.numpy(), answer.boxes(image, number, min_area=0.0))
    one = maps[0, 0].double()
    assert torch.equal(eclip.heatmaps(one, (30, 40)), heat[0, 0]) and torch.equal(eclip.masks(heat[0, 0]), masks[0, 0])
    assert eclip.heatmaps(maps[:0], (3, 4)).shape == (0, 3, 3, 4)
    assert eclip.masks(heat[:0]).shape == eclip.masks(heat[:0], 0.5).shape == (0, 3, 30, 40)


def test_a_map_that_is_rounding_has_no_heat_where_flat_says_so() -> None:
    noise = 1e-7 * torch.rand(1, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    assert eclip.heatmaps(noise, (8, 8)).amax() > 0.9, "its values alone look like a map"
    heat = eclip.heatmaps(noise, (8, 8), torch.tensor([[True, False]]))
    assert not heat[0, 0].any() and heat[0, 1].amax() > 0.9
    assert not eclip.masks(heat)[0, 0].any() and eclip.boxes(eclip.masks(heat)[0, 0]).shape == (0, 4)


def test_boxes_leave_out_specks_as_explanations_do() -> None:
    mask = torch.zeros(20, 20, dtype=torch.bool)
    mask[2:12, 3:13] = mask[18, 18] = True
    assert eclip.boxes(mask).tolist() == [[3, 2, 13, 12]]
    assert eclip.boxes(mask, min_area=0.0).tolist() == [[3, 2, 13, 12], [18, 18, 19, 19]]


@pytest.mark.usefixtures("shapes_unchecked")
def test_what_the_functions_on_tensors_refuse() -> None:
    maps = torch.randn(1, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    heat = eclip.heatmaps(maps, (8, 8))
    cases: list[tuple[Any, type[EclipError], str]] = [
        (lambda: eclip.heatmaps(maps, (0, 8)), OptionError, r"size must be \(height, width\)"),
        (lambda: eclip.heatmaps(maps, 8), OptionError, r"size must be \(height, width\), whole numbers .*, got 8"),
        (lambda: eclip.heatmaps(maps, (8.0, 8.0)), OptionError, r"size must be .*, got \(8\.0, 8\.0\)"),
        (lambda: eclip.heatmaps(maps.numpy(), (8, 8)), ShapeError, "maps must be a torch tensor, got ndarray"),
        (lambda: eclip.heatmaps(maps, (8, 8), np.zeros((1, 2), bool)), ShapeError, "flat must be a torch tensor"),
        (lambda: eclip.heatmaps(maps, (8, 8), torch.zeros(1, 2)), ShapeError, "one boolean for each map"),
        (lambda: eclip.masks(heat.numpy()), ShapeError, "heat maps must be a torch tensor, got ndarray"),
        (lambda: eclip.boxes(heat[0, 0].numpy() > 0.5), ShapeError, "a mask must be a torch tensor"),
        (lambda: eclip.heatmaps(maps / 0, (8, 8)), EclipError, "NaN or infinite"),
        (lambda: eclip.heatmaps(maps, (8, 8), torch.tensor([True])), ShapeError, r"flat must be \(1, 2\).*got \(1,\)"),
        (lambda: eclip.masks(maps), EclipError, r"masks takes heat maps in \[0, 1\].*eclip.heatmaps first"),
        (lambda: eclip.masks(heat / 0), EclipError, r"masks takes heat maps in \[0, 1\]"),
        (lambda: eclip.masks(maps, 0.5), EclipError, r"masks takes heat maps in \[0, 1\]"),
        (lambda: eclip.masks(heat, 1.5), OptionError, r"threshold must be 'otsu' or a number in \[0, 1\], got 1.5"),
        (lambda: eclip.masks(heat, True), OptionError, "threshold must be"),
        (lambda: eclip.masks(heat, "mean"), OptionError, "threshold must be"),
        (lambda: eclip.boxes(heat > 0.5), ShapeError, r"one mask \(height, width\) of booleans, got torch.bool"),
        (lambda: eclip.boxes(heat[0, 0]), ShapeError, "of booleans, got torch.float32"),
        (lambda: eclip.boxes(heat[0, 0] > 0.5, min_area=2), OptionError, "min_area"),
    ]
    for call, error, message in cases:
        with pytest.raises(error, match=message):
            call()


def test_heat_maps_of_tensors_keep_a_graph() -> None:
    """For a loss on heat maps: min-max and bilinear resizing are differentiable."""
    maps = torch.randn(1, 1, 4, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    eclip.heatmaps(maps, (8, 8)).mean().backward()
    assert maps.grad is not None and maps.grad.abs().sum() > 0


def test_an_unloaded_model_is_left_as_it_was() -> None:
    backbone = tiny.backbone("vit")
    backbone.model.train()
    before, random = copy.deepcopy(backbone.model.state_dict()), torch.get_rng_state()
    pixels, features = tiny.pixels(backbone).clamp(-1, 1), tiny.texts(backbone)
    kept, own = pixels.clone(), features.clone()
    eclip.explain(pixels, features, model=backbone, preprocessed=True)
    with pytest.raises(ShapeError):
        eclip.explain(pixels, features[:, :3], model=backbone, preprocessed=True)
    assert all(module.training for module in backbone.model.modules())
    assert all(torch.equal(value, before[name]) for name, value in backbone.model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.equal(pixels, kept) and torch.equal(features, own), "nor were the tensors"


@pytest.mark.long
def test_the_code_of_the_docs_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "docs" / "images", tmp_path / "docs" / "images")
    monkeypatch.chdir(tmp_path)  # what the page saves stays there
    page = (ROOT / "docs" / "tensors.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", page, flags=re.M | re.S)
    assert len(blocks) >= 4
    space: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, "docs/tensors.md", "exec"), space)
