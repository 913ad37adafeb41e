"""Attacks: bounded, aimed, repeatable, and without a trace in the model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import eclip
import tiny
from eclip.backbones.encoding import encode_with_graph
from eclip.backbones.eval_no_grad import eval_no_grad
from eclip.backbones.gradients import gradients
from eclip.errors import AlteredModelError, EclipError, GradientError, NotApplicableError, OptionError, TextError

TEXTS = ["a dog", "grass", "a red car"]


def _image(seed: int = 0, size: tuple[int, int] = (40, 30)) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(values)


def _attack(family: str = "vit", **given: Any) -> Any:
    backbone = tiny.kept(family)
    return eclip.attack(_image(), TEXTS[0], model=backbone, **{"others": TEXTS[1:], "steps": 4, **given})


@pytest.mark.parametrize("family", ["vit", "siglip", "vit, average pool", "eva02", "swin"])
def test_the_score_falls_within_the_bound(family: str) -> None:
    found = _attack(family, eps=3.5 / 255)
    assert found.scores[1, 0] < found.scores[0, 0] - 1e-3
    before, after = (np.asarray(one).astype(int) for one in found.images)
    assert 0 < np.abs(after - before).max() <= 3  # colors are whole numbers, so the half is lost
    assert found.eps == pytest.approx(3 / 255)
    assert not tiny.changed()


def test_the_gradient_is_that_of_the_host() -> None:
    for family in ("resnet", "timm abs_attn", "siglip"):
        backbone = tiny.kept(family)
        pixels, text = tiny.pixels(backbone, 1), tiny.texts(backbone, 1)
        encoding = eclip.encode(backbone, pixels)
        with eval_no_grad(backbone.model), gradients(backbone):
            leaf = pixels.clone().requires_grad_()
            ours = torch.autograd.grad((encode_with_graph(encoding, leaf).feature @ text.T).sum(), leaf)[0]
            leaf = pixels.clone().requires_grad_()
            theirs = torch.autograd.grad((backbone.model.encode_image(leaf) @ text.T).sum(), leaf)[0]
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6 * float(theirs.abs().max()))


def test_scores_are_those_of_the_saved_images(tmp_path: Any) -> None:
    found = _attack()
    for place, image in enumerate(found.images):
        image.save(tmp_path / "a.png")
        again = eclip.explain(tmp_path / "a.png", TEXTS, model=tiny.kept("vit"), method="itsm", health=False)
        np.testing.assert_allclose(again.scores[0], found.scores[place], atol=1e-6)
    again = eclip.explain(_image(), TEXTS, model=tiny.kept("vit"), method="itsm", health=False)
    np.testing.assert_allclose(again.scores[0], found.scores[0], atol=1e-6)


def test_a_first_step_follows_the_gradient_of_the_score() -> None:
    """One step without room for noise: eps of one color, whose sign is that of the model's own gradient."""
    backbone = tiny.backbone("vit")
    text = eclip.encode_texts(backbone, TEXTS[:1])
    found = eclip.attack(_image(), TEXTS[0], model=backbone, eps=1 / 255, steps=1, step=1.0)
    pixels = found.pixels[:1].clone().requires_grad_()
    feature = torch.nn.functional.normalize(backbone.model.encode_image(pixels), dim=-1)
    slope = torch.autograd.grad((feature * text).sum(), pixels)[0][0]
    moved = np.asarray(found.images[1]).astype(int) - np.asarray(found.images[0]).astype(int)
    free = (np.asarray(found.images[0]) > 1) & (np.asarray(found.images[0]) < 254)
    signs = -slope.sign().permute(1, 2, 0).numpy()
    clear = (slope.abs() > slope.abs().median()).permute(1, 2, 0).numpy() & free
    assert (moved == signs)[clear].mean() > 0.99  # the gradient is taken at the noisy start


def test_towards_another_text() -> None:
    away, towards = _attack(), _attack(towards="grass", others=())
    assert towards.texts == ("a dog", "grass")
    assert _attack(towards="grass", others=("sky", "grass")).texts == ("a dog", "sky", "grass")
    assert _attack(others="a cat").texts == ("a dog", "a cat")
    assert _attack(others=("sky", "a cat", "sky", "a dog")).texts == ("a dog", "sky", "a cat")  # each once
    assert towards.scores[1, 1] - towards.scores[0, 1] > away.scores[1, 1] - away.scores[0, 1]
    assert towards.scores[1, 1] - towards.scores[1, 0] > towards.scores[0, 1] - towards.scores[0, 0]


def test_only_the_map_moves() -> None:
    """The map turns further than under an attack of the score, and the score less."""
    on_score = _attack(steps=20, eps=8 / 255)
    on_map = _attack(aim="map", steps=20, eps=8 / 255)
    left_by_score, left_by_map = (one.moved("maskclip")["maskclip"] for one in (on_score, on_map))
    assert left_by_map < left_by_score and left_by_map < 0.5
    assert abs(on_map.scores[1, 0] - on_map.scores[0, 0]) < abs(on_score.scores[1, 0] - on_score.scores[0, 0])


def test_moved_is_the_correlation_of_both_maps() -> None:
    found = _attack()
    both = eclip.explain(found.pixels, TEXTS, model=tiny.kept("vit"), method="gem", preprocessed=True, health=False)
    wanted = np.corrcoef(both.maps[0, 0].ravel(), both.maps[1, 0].ravel())[0, 1]
    moved = found.moved("gem,attention")
    assert moved["gem"] == pytest.approx(wanted, abs=1e-5) and set(moved) == {"gem", "attention"}


def test_ranks_count_better_texts() -> None:
    found = _attack()
    assert found.ranks() == tuple(1 + int((row > row[0]).sum()) for row in found.scores)
    assert "a dog" in repr(found)


def test_a_seed_repeats_it_and_no_generator_is_touched() -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    one, same, other = _attack(seed=1), _attack(seed=1), _attack(seed=2)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(one.pixels, same.pixels) and not torch.equal(one.pixels, other.pixels)


def test_the_model_is_left_as_it_was() -> None:
    backbone = tiny.backbone("vit")
    backbone.model.train()
    before = {name: one.clone() for name, one in backbone.model.state_dict().items()}
    eclip.attack(_image(), "a dog", model=backbone, steps=1, aim="map")
    assert backbone.model.training and all(one.grad is None for one in backbone.model.parameters())
    assert all(torch.equal(one, before[name]) for name, one in backbone.model.state_dict().items())


@pytest.mark.parametrize(
    ("given", "kind", "said"),
    [
        ({"eps": 0.001}, OptionError, "eps must be a number from 1/255"),
        ({"eps": float("nan")}, OptionError, "eps must be a number from"),
        ({"eps": 2.0}, OptionError, "eps must be a number from"),
        ({"eps": "8/255"}, OptionError, "eps must be a number from 1/255 to 1, such as 4 / 255, got '8/255'"),
        ({"eps": None}, OptionError, "eps must be a number from"),
        ({"steps": 0}, OptionError, "steps"),
        ({"step": 0.0}, OptionError, "step must be a number above 0"),
        ({"step": "1/255"}, OptionError, "step must be a number above 0"),
        ({"aim": "boxes"}, OptionError, "aim"),
        ({"aim": "map", "towards": "grass"}, OptionError, "towards is for"),
        ({"aim": "map", "method": "gradcam"}, OptionError, "not comparable between texts"),
        ({"towards": ""}, TextError, "empty"),
        ({"towards": "a dog"}, OptionError, "towards must be another text"),
        ({"others": ["a cat", " "]}, TextError, "empty"),
    ],
)
def test_what_is_refused(given: dict[str, Any], kind: type[EclipError], said: str) -> None:
    with pytest.raises(kind, match=said):
        _attack(**given)


def test_a_map_that_the_tower_does_not_have() -> None:
    with pytest.raises(NotApplicableError):
        _attack("swin", aim="map", method="gem")


def test_inference_mode_around_it_does_not_matter() -> None:
    with torch.inference_mode():
        inside = [_attack(), _attack(aim="map")]
    for found, again in zip(inside, (_attack(), _attack(aim="map")), strict=True):
        assert torch.equal(found.pixels, again.pixels)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_int8_layers_have_no_gradient() -> None:
    model = tiny.model("vit")
    model.visual = torch.ao.quantization.quantize_dynamic(model.visual, {torch.nn.Linear}, dtype=torch.qint8)
    with pytest.raises(GradientError, match="int8"):
        eclip.attack(_image(), "a dog", model=eclip.wrap(model, mean=tiny.MEAN, std=tiny.STD), steps=1)


def test_a_backward_hook_is_refused() -> None:
    model = tiny.model("vit")
    model.visual.transformer.resblocks[3].register_full_backward_hook(lambda *given: None)
    with pytest.raises(AlteredModelError, match="backward hook"):
        eclip.attack(_image(), "a dog", model=eclip.wrap(model, mean=tiny.MEAN, std=tiny.STD), steps=1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_precisions(dtype: torch.dtype) -> None:
    found = eclip.attack(_image(), "a dog", model=tiny.backbone("vit", dtype), steps=4)
    assert found.pixels.dtype == dtype and found.scores[1, 0] < found.scores[0, 0]
