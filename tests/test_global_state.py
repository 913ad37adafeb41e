"""Nothing depends on torch's default precision or device: maps, features, pixels, heads and runs are the same bits.

The default device is "meta" here, which holds no numbers: what is left to the default cannot come out right.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import eclip
import tiny
from eclip.backbones import load
from eclip.backbones.building import built_apart
from eclip.errors import NotApplicableError
from eclip.explanation.checkup import polarity_by_hiding
from eclip.guides import Seen
from eclip.metrics.fills import FILLS, fill
from eclip.refinements import REFINEMENTS
from eclip.words import WORD_METHODS
from eclip.words.tokens import read

FAMILIES = ["vit", "resnet", "timm rot_attn", "siglip", "eva02"]


@pytest.fixture(params=["bfloat16", "meta"])
def elsewhere(request: pytest.FixtureRequest) -> Iterator[Any]:
    """A switch that turns the defaults away, and what turns them back."""

    def turn() -> None:
        if request.param == "meta":
            torch.set_default_device("meta")
        else:
            torch.set_default_dtype(getattr(torch, request.param))

    yield turn
    torch.set_default_device(None)
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def image() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8))


def _same(ours: Any, expected: Any, where: str = "") -> None:
    if isinstance(expected, dict):
        assert ours.keys() == expected.keys()
        for key, value in expected.items():
            _same(ours[key], value, f"{where} {key}")
    elif isinstance(expected, torch.Tensor):
        assert ours.dtype == expected.dtype and ours.device == expected.device, where
        _same(ours.detach().numpy(), expected.detach().numpy(), where)
    elif isinstance(expected, np.ndarray):  # a default device keeps torch from its fused attention, which rounds apart
        assert ours.dtype == expected.dtype, where
        peak = np.abs(expected[np.isfinite(expected)]).max(initial=1)
        np.testing.assert_allclose(ours, expected, rtol=0, atol=2e-5 * peak, err_msg=where)
    else:
        assert ours == expected, where


def _maps(backbone: eclip.Backbone, image: Image.Image) -> dict[str, Any]:
    """Pixels, text features, and every method on and off the training grid."""
    found: dict[str, Any] = {}
    text = found["texts"] = eclip.encode_texts(backbone, ["a dog", "an elephant"])
    for positions, resize in (("bicubic_aa", "squash"), ("bicubic_plus01", "keep")):
        pixels = found[f"pixels {resize}"] = backbone.preprocess(image, resize=resize)[None]
        encoding = eclip.encode(backbone, pixels, positions=positions)
        found[f"feature {resize}"] = encoding.feature
    for name, method in eclip.METHODS.items():
        with suppress(NotApplicableError):
            found[name] = method(encoding, text, **tiny.FEW.get(name, {}))
    found["hiding"] = polarity_by_hiding(encoding, text, found["surgery"])
    return found


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.long(every=5)
def test_maps_of_every_method(family: str, elsewhere: Any, image: Image.Image) -> None:
    backbone = tiny.backbone(family)
    expected = _maps(backbone, image)
    elsewhere()
    _same(_maps(backbone, image), expected)


def test_guides_refinements_fills_and_words(elsewhere: Any, image: Image.Image) -> None:
    backbone = tiny.backbone("vit")

    def ask() -> dict[str, Any]:
        encoding = eclip.encode(backbone, backbone.preprocess(image)[None])
        seen = Seen([image], ["image.jpg"], encoding)
        maps = eclip.METHODS["itsm"](encoding, eclip.encode_texts(backbone, ["a dog"]))
        reading = read(backbone, ["a dog in front of a ball", "an elephant"])
        ends = torch.zeros(3, dtype=torch.float32, device="cpu"), torch.ones(3, dtype=torch.float32, device="cpu")
        feature = torch.nn.functional.normalize(encoding.feature, dim=-1)
        return {
            **{name: eclip.GUIDES[name](seen) for name in ("none", "centre", "spectral", "backbone")},
            **{name: one(maps, encoding) for name, one in REFINEMENTS.items()},
            **{f"fill {name}": fill(name, encoding.pixels[0], black=ends[0], white=ends[1]) for name in FILLS},
            **{f"words {name}": one(reading, feature) for name, one in WORD_METHODS.items()},
        }

    expected = ask()
    elsewhere()
    _same(ask(), expected)


def _paths(image: Image.Image) -> dict[str, Any]:
    model, mean = tiny.backbone("timm abs_attn"), np.full(24, 0.1, np.float32)
    many = eclip.explain(image, ["an elephant", "grass"], model=model, method=["surgery", "legrad"], refine="pamr")
    one = many["surgery"]
    return {
        "maps": {name: found.maps for name, found in many.items()},
        "scores": one.scores,
        "health": {name: values for name, values in vars(one.health).items() if isinstance(values, np.ndarray)},
        "heat": one.heatmap(0, 0),
        "points": one.points(0, 0)[0],
        "labels": eclip.segment(image, ["elephant", "grass"], model=model).labels[0],
        "words": eclip.explain_words(image, "an elephant on grass", model=model).values[0],
        "pairs": eclip.interactions(image, "an elephant on grass", model=model).values,
        "concepts": eclip.concepts(image, model=model, vocabulary=["elephant", "grass"], image_mean=mean).weights,
    }


def test_the_main_paths(image: Image.Image) -> None:
    expected = _paths(image)
    try:
        torch.set_default_dtype(torch.bfloat16)
        torch.set_default_device("meta")
        found = _paths(image)
    finally:
        torch.set_default_device(None)
        torch.set_default_dtype(torch.float32)
    _same(found, expected)


def _state(module: torch.nn.Module) -> dict[str, Any]:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


@pytest.mark.parametrize("family", FAMILIES)
def test_models_are_built(family: str, elsewhere: Any) -> None:
    def build() -> dict[str, Any]:
        with built_apart(seed=3):
            return _state(tiny.FAMILIES[family]().float())

    expected = build()
    elsewhere()
    _same(build(), expected)


def test_a_model_is_loaded_and_a_head_begun_saved_and_read(elsewhere: Any, tiny_name: str, tmp_path: Path) -> None:
    def ask(place: str) -> dict[str, Any]:
        load._loaded.clear()
        backbone = eclip.load(tiny_name)
        heads = {init: eclip.EclipHead.start(backbone, init=init, hidden=4, text=True) for init in ("model", "random")}
        found = {init: _state(head) for init, head in heads.items()}
        found["read"] = _state(eclip.load_head(heads["random"].save(tmp_path / place)))
        return {**found, "model": _state(backbone.model), "blank": backbone.blank()}

    random = torch.get_rng_state()
    expected = ask("before")
    elsewhere()
    _same(ask("after"), expected)
    assert torch.equal(torch.get_rng_state(), random)


def test_a_head_is_trained(elsewhere: Any, tiny_name: str, images: Path, tmp_path: Path) -> None:
    rows = [f"{images / name}\t{text}" for name in ("a.png", "b.jpg") for text in ("a dog", "an elephant")] * 2
    (tmp_path / "pairs.tsv").write_text("\n".join(["filepath\ttitle", *rows]))

    def ask(place: str) -> dict[str, Any]:
        config = eclip.TrainConfig(
            model=tiny_name,
            train_data=(str(tmp_path / "pairs.tsv"),),
            out=str(tmp_path / place),
            batch_size=2,
            epochs=2,
            device="cpu",
            guide="spectral",
            texts="captions",
            cache=str(tmp_path / f"cache {place}"),
        )
        return _state(eclip.train(config))

    expected = ask("before")
    elsewhere()
    _same(ask("after"), expected)


def test_what_another_thread_draws_is_not_taken_back(tiny_name: str) -> None:
    """Each number of torch's one random state is given out once, however often models are loaded meanwhile."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    torch.manual_seed(0)
    try:
        expected = [float(torch.rand(())) for _ in range(3000)]
        torch.manual_seed(0)
        backbone, done = eclip.load(tiny_name), threading.Event()

        def build() -> None:
            while not done.is_set():
                eclip.EclipHead.start(backbone, init="random")

        thread = threading.Thread(target=build)
        thread.start()
        drawn = [float(torch.rand(())) for _ in range(3000)]
        done.set()
        thread.join()
    finally:
        sys.setswitchinterval(before)
    assert drawn == expected
