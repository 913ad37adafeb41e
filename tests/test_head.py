"""The trained head: its initial values, that it changes nothing else, its files, and the method that uses it."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import eclip
import tiny
from eclip.backbones.backbone import Backbone
from eclip.backbones.blocks import cosine
from eclip.backbones.head import CONFIG, WEIGHTS, EclipHead, head_rows, load_head, with_head
from eclip.errors import HeadError, KeepError, NoHeadError, OptionError, ResultError
from eclip.methods import METHODS

STARTS = {"value": "maskclip", "output": "itsm"}
"""Source -> the method that the head is at its start."""


def of_hf(family: str) -> Backbone:
    import tiny_hf

    return tiny_hf.backbone(family, torch.float32)


def hf_families() -> list[Any]:
    try:
        import tiny_hf
    except pytest.skip.Exception:
        return [pytest.param(None, marks=pytest.mark.skip(reason="needs transformers"))]
    return list(tiny_hf.FAMILIES)


def random_head(backbone: Backbone, seed: int = 0, **options: Any) -> EclipHead:
    """A head whose every weight is noise, so that no path is zero."""
    head = EclipHead.start(backbone, init="random", **options)
    generator = torch.Generator().manual_seed(seed)
    for weight in head.parameters():
        weight.data.add_(0.1 * torch.randn(weight.shape, generator=generator))
    return head


def eclip_map(backbone: Backbone, head: EclipHead, pixels: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
    return METHODS["eclip"](eclip.encode(with_head(backbone, head), pixels, keep=1), text)


def check_start(backbone: Backbone, source: str) -> None:
    pixels = tiny.pixels(backbone, rows=backbone.native.row + 1)  # off the native grid
    text = tiny.texts(backbone)
    head = EclipHead.start(backbone, source)
    wanted = METHODS[STARTS[source]](eclip.encode(backbone, pixels, keep=1), text)
    torch.testing.assert_close(eclip_map(backbone, head, pixels, text), wanted, rtol=1e-5, atol=2e-6)
    other = EclipHead.start(backbone, source, init="random")
    assert other.image.weight.shape == head.image.weight.shape
    assert (eclip_map(backbone, other, pixels, text) - wanted).abs().max() > 0.05


@pytest.mark.parametrize("source", STARTS)
@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.long(every=5)
def test_at_its_start_the_map_is_the_one_of_the_models_own_projection(family: str, source: str) -> None:
    check_start(tiny.backbone(family), source)


@pytest.mark.parametrize("source", STARTS)
@pytest.mark.parametrize("family", hf_families())
@pytest.mark.long(every=5)
def test_so_it_is_with_models_of_transformers(family: str, source: str) -> None:
    check_start(of_hf(family), source)


@pytest.mark.parametrize("family", ["vit", "resnet", "timm rot_attn", "siglip", "timm vit"])
def test_a_model_in_bfloat16_starts_a_head_and_takes_its_float32_head(family: str) -> None:
    whole, half = tiny.backbone(family), tiny.backbone(family, torch.bfloat16)
    pixels, text = tiny.pixels(whole), tiny.texts(whole)
    wanted = METHODS["maskclip"](eclip.encode(whole, pixels, keep=1), text)
    for head in (EclipHead.start(whole), EclipHead.start(half)):
        assert head.image.weight.dtype == torch.float32
        for backbone in (whole, half):
            torch.testing.assert_close(eclip_map(backbone, head, pixels, text), wanted, rtol=0, atol=0.02)


def test_a_head_for_a_nonlinear_projection_starts_at_random_alone() -> None:
    vision = {"image_size": 96, "timm_model_name": "test_efficientnet", "timm_pool": "abs_attn", "timm_proj": "mlp"}
    model = tiny._clip(vision).eval()
    backbone = eclip.wrap(model, tokenizer=tiny._tokenizer(), mean=tiny.MEAN, std=tiny.STD, name="mlp")
    for source in STARTS:
        with pytest.raises(HeadError, match=r'mlp, a timm trunk .* nonlinear projection.*init="random"'):
            EclipHead.start(backbone, source)
        head = EclipHead.start(backbone, source, init="random")
        values = eclip_map(backbone, head, tiny.pixels(backbone), tiny.texts(backbone))
        assert values.isfinite().all() and values.std() > 0.01
    for name, weight in model.visual.named_parameters():
        if name.endswith("bias"):
            weight.data.zero_()  # then rows of a black image are zero, and so is what becomes of them
    assert not head_rows(eclip.encode(backbone, torch.zeros(1, 3, 96, 96), keep=1), "value").any()
    with pytest.raises(HeadError, match="nonlinear projection"):
        EclipHead.start(backbone, "value")


def test_the_start_is_checked_and_leaves_the_users_random_state(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = tiny.backbone("vit")
    for options, message in (
        ({"init": "zeros"}, "init must be one of model, random, got 'zeros'"),
        ({"source": "tokens"}, "source must be one of value, output, got 'tokens'"),
        ({"hidden": -1}, "hidden must be 0 or more, got -1"),
    ):
        with pytest.raises(OptionError, match=message):
            EclipHead.start(backbone, **options)
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: pytest.fail("the user's GPUs were seeded"))
    state = torch.random.get_rng_state()
    heads = [EclipHead.start(backbone, init="random", hidden=4, text=True, seed=seed) for seed in (0, 0, 1)]
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(heads[0].image.weight, heads[1].image.weight)
    assert not torch.equal(heads[0].image.weight, heads[2].image.weight)


@pytest.mark.parametrize("source", STARTS)
def test_the_nonlinear_path_and_the_projection_of_texts_change_nothing_at_the_start(source: str) -> None:
    backbone = tiny.backbone("vit")
    pixels, text = tiny.pixels(backbone), tiny.texts(backbone)
    plain = eclip_map(backbone, EclipHead.start(backbone, source), pixels, text)
    head = EclipHead.start(backbone, source, hidden=8, text=True)
    assert torch.equal(eclip_map(backbone, head, pixels, text), plain)
    assert head.hidden is not None and head.curved is not None and head.text is not None
    assert head.hidden.weight.any(), "else the curved path would never learn"
    rows = head_rows(eclip.encode(backbone, pixels, keep=1), source)
    nn.init.normal_(head.curved.weight)
    nn.init.normal_(head.text.weight)
    image = head.image.weight
    hidden = nn.functional.gelu(rows @ head.hidden.weight.T + head.hidden.bias)
    features = rows @ image.T + head.image.bias + hidden @ head.curved.weight.T
    wanted = cosine(features, text @ head.text.weight.T).transpose(1, 2).unflatten(2, (4, 4))
    torch.testing.assert_close(eclip_map(backbone, head, pixels, text), wanted.detach(), rtol=1e-4, atol=1e-5)


def test_a_head_changes_nothing_else() -> None:
    backbone = replace(tiny.backbone("vit"), head=None)
    model = backbone.model
    model.train()
    model.visual.ln_post.eval()
    next(model.parameters()).requires_grad_(False)
    model.logit_scale.grad = torch.ones(())

    def state() -> list[Any]:
        weights = [(key, value.clone(), value._version) for key, value in model.state_dict().items()]
        flags = [(weight.requires_grad, weight.grad is None) for weight in model.parameters()]
        hooks = [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()]
        return [weights, flags, hooks, [module.training for module in model.modules()]]

    before, rng = state(), torch.random.get_rng_state()
    pixels, text = tiny.pixels(backbone), eclip.encode_texts(backbone, ["a dog", "a cat"])
    bare = eclip.encode(backbone, pixels, keep=1)
    headed = with_head(backbone, random_head(backbone, hidden=4, text=True))
    same = eclip.encode(headed, pixels, keep=1)
    METHODS["eclip"](same, text)
    for name in ("feature", "tokens"):
        assert torch.equal(getattr(bare, name), getattr(same, name)), "recognition keeps the model's own projection"
    assert torch.equal(cosine(bare.feature, text), cosine(same.feature, text))
    assert torch.equal(eclip.encode_texts(headed, ["a dog", "a cat"]), text)
    for method in ("maskclip", "surgery", "gradeclip"):
        few = [eclip.encode(one, pixels) for one in (backbone, headed)]
        assert torch.equal(METHODS[method](few[0], text), METHODS[method](few[1], text))
    after = state()
    assert torch.equal(torch.random.get_rng_state(), rng)
    assert after[1:] == before[1:]
    for (key, value, version), (_, old, old_version) in zip(after[0], before[0], strict=True):
        assert torch.equal(value, old) and version == old_version, key
    assert headed.model is model and backbone.head is None and with_head(headed, None).head is None


# --- the method ---


def test_without_a_head_the_method_says_how_to_get_one() -> None:
    backbone = replace(tiny.backbone("vit"), head=None)
    encoding = eclip.encode(backbone, tiny.pixels(backbone), keep=1)
    with pytest.raises(NoHeadError, match=r"'eclip' needs a head.*eclip train --model vit.*eclip explain --head DIR"):
        METHODS["eclip"](encoding, tiny.texts(backbone))
    not_applicable: dict[str, str] = {}
    image = tiny.pixels(backbone, images=1)[0].sigmoid().permute(1, 2, 0).numpy()
    found = eclip.explain(image, "a dog", model=backbone, method=["eclip", "itsm"], not_applicable=not_applicable)
    assert list(found) == ["itsm"] and "has no trained head" in not_applicable["eclip"]


def test_a_head_of_values_needs_the_last_block_and_one_of_outputs_does_not() -> None:
    backbone = tiny.backbone("vit")
    pixels, text = tiny.pixels(backbone), tiny.texts(backbone)
    encoding = eclip.encode(with_head(backbone, EclipHead.start(backbone, "output")), pixels, keep=0)
    torch.testing.assert_close(METHODS["eclip"](encoding, text), METHODS["itsm"](encoding, text))
    with pytest.raises(KeepError, match="'eclip' reruns the last 1 of 7 blocks"):
        METHODS["eclip"](eclip.encode(backbone, pixels, keep=0), text)
    with pytest.raises(OptionError, match="source must be one of value, output, got 'rows'"):
        head_rows(encoding, "rows")


def test_no_mask_is_used_and_each_image_stands_alone() -> None:
    """A patch's value depends on its own row and the text: the map is the head's cosine, whatever lies around."""
    backbone = tiny.backbone("vit")
    head = random_head(backbone)
    pixels, text = tiny.pixels(backbone, images=3), tiny.texts(backbone)
    maps = eclip_map(backbone, head, pixels, text)
    rows = head_rows(eclip.encode(backbone, pixels, keep=1))
    for image, row, col in ((0, 0, 0), (2, 3, 1)):
        one = head(rows[image, 4 * row + col]).detach()
        wanted = [float(one @ each / one.norm()) for each in text]
        assert maps[image, :, row, col].tolist() == pytest.approx(wanted, abs=1e-6)
    torch.testing.assert_close(eclip_map(backbone, head, pixels[2:], text), maps[2:])


@pytest.mark.parametrize("text", [False, True])
def test_versus_is_the_difference_of_the_two_maps(text: bool) -> None:
    backbone = tiny.backbone("vit")
    headed = with_head(backbone, random_head(backbone, hidden=4, text=text))
    encoding = eclip.encode(headed, tiny.pixels(backbone), keep=1)
    one, other = tiny.texts(backbone, 2), tiny.texts(backbone, 1, seed=5)
    apart = METHODS["eclip"](encoding, one) - METHODS["eclip"](encoding, other)
    torch.testing.assert_close(METHODS["eclip"].difference(encoding, one, other), apart, rtol=1e-4, atol=1e-6)
    assert apart.abs().max() > 0.01


# --- on disk ---


@pytest.mark.parametrize("options", [{}, {"hidden": 5, "text": True, "source": "output"}])
def test_saved_and_loaded_a_head_is_the_same_to_the_bit(options: dict[str, Any], tmp_path: Path) -> None:
    backbone = tiny.backbone("vit")
    head = random_head(backbone, **options)
    head.config = replace(head.config, trained={"epochs": 3, "data": ["Köln.tar"], "lr": 1e-4})
    folder = head.save(tmp_path / "deep" / "head")
    assert sorted(path.name for path in folder.iterdir()) == [CONFIG, WEIGHTS]
    state = torch.random.get_rng_state()
    for place in (folder, str(folder), folder / WEIGHTS, folder / CONFIG):
        found = load_head(place)
        assert found.config == head.config and found.place == str(place)
        assert not found.training and not any(weight.requires_grad for weight in found.parameters())
        theirs = found.state_dict()
        assert theirs.keys() == head.state_dict().keys()
        assert all(torch.equal(theirs[key], value) for key, value in head.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), state), "loading draws no numbers of the user's"
    pixels, text = tiny.pixels(backbone), tiny.texts(backbone)
    assert torch.equal(eclip_map(backbone, found, pixels, text), eclip_map(backbone, head, pixels, text))
    head.save(folder)
    assert sorted(path.name for path in folder.iterdir()) == [CONFIG, WEIGHTS]


def break_weights(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-100])


def break_numbers(folder: Path) -> None:
    head = load_head(folder)
    head.image.bias[3] = torch.nan
    head.save(folder)


def in_config(**change: Any) -> Any:
    def change_it(folder: Path) -> None:
        said = json.loads((folder / CONFIG).read_text())
        (folder / CONFIG).write_text(json.dumps({**said, **change}))

    return change_it


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: shutil.rmtree(folder), r"no head at .*safetensors is missing.*eclip train -o DIR"),
        (lambda folder: (folder / CONFIG).unlink(), "eclip_head.json is missing"),
        (break_weights, "cannot be read"),
        (break_numbers, "contains NaN or infinity: train it again"),
        (lambda folder: (folder / CONFIG).write_text("{"), "cannot be read"),
        (lambda folder: (folder / CONFIG).write_text('"a word"'), "cannot be read"),
        (lambda folder: (folder / CONFIG).write_bytes(b"\xff"), "cannot be read"),
        (in_config(schema="eclip.head/9"), "its schema is not eclip.head/1"),
        (in_config(channels=31), "cannot be read"),
        (in_config(hidden=3), "Missing key.*hidden.weight"),
        (in_config(probe=["a"]), "cannot be read"),
        (in_config(probe=3), "cannot be read"),
        (in_config(source="foo"), "its source is 'foo', not one of value, output"),
        (in_config(color="red"), "unexpected keyword argument 'color'"),
    ],
)
def test_a_head_that_cannot_be_read_is_refused_by_name(damage: Any, message: str, tmp_path: Path) -> None:
    folder = random_head(tiny.backbone("vit")).save(tmp_path / "head")
    damage(folder)
    with pytest.raises(HeadError, match=message) as raised:
        load_head(folder)
    assert str(folder) in str(raised.value)


def test_what_is_no_place_of_a_head_is_refused_with_the_way_out(
    model_folder: Path, tmp_path: Path, shapes_unchecked: None
) -> None:
    head = EclipHead.start(eclip.load(f"local-dir:{model_folder}"))
    folder = head.save(tmp_path / "head")
    torch.save({"step": 3}, folder / "checkpoint.pt")
    torch.save(head.state_dict(), folder / "head.bin")
    for file in ("checkpoint.pt", "head.bin"):
        for tried in (load_head, lambda place: eclip.load(f"local-dir:{model_folder}", head=place)):
            with pytest.raises(
                HeadError, match=rf"{file}' is not a head: pass the folder with .*only for `eclip train --resume`"
            ):
                tried(folder / file)
    with pytest.raises(HeadError, match=r"got EclipHead: pass a head object to `eclip.with_head\(backbone, head\)`"):
        eclip.load(f"local-dir:{model_folder}", head=head)  # type: ignore[arg-type]
    with pytest.raises(HeadError, match="got int"):
        load_head(3)  # type: ignore[arg-type]


def test_what_is_no_head_or_no_backbone_is_refused_with_the_way_out(tmp_path: Path, shapes_unchecked: None) -> None:
    backbone = tiny.backbone("vit")
    head = EclipHead.start(backbone)
    for wrong in (str(head.save(tmp_path)), nn.Linear(2, 2), 3):
        with pytest.raises(HeadError, match=rf"got {type(wrong).__name__}: .*eclip\.load_head\(FOLDER\)"):
            eclip.with_head(backbone, wrong)  # type: ignore[arg-type]
    for none in ("mini", None, backbone.model):
        with pytest.raises(OptionError, match=rf"got {type(none).__name__}: .*eclip\.load\(NAME\)"):
            eclip.with_head(none, head)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["hf-hub:a/b/c", "hf-hub:my heads", "hf-hub:", ""])
def test_a_name_that_names_no_head_is_refused(name: str, model_folder: Path) -> None:
    EclipHead.start(eclip.load(f"local-dir:{model_folder}")).save(model_folder)
    with pytest.raises(HeadError, match=r"is not a repository name: write hf-hub:ORG/NAME|head is empty"):
        eclip.load(f"local-dir:{model_folder}", head=name)


def test_a_head_that_cannot_be_written_says_where(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(ResultError, match=r"taken/eclip_head.safetensors' cannot be written: File exists"):
        EclipHead.start(tiny.backbone("vit")).save(tmp_path / "taken")


def test_a_head_fits_its_own_model_alone() -> None:
    backbone = tiny.backbone("vit")
    head = EclipHead.start(backbone)
    other = eclip.wrap(tiny.model("vit", seed=1), tokenizer=tiny._tokenizer(), mean=tiny.MEAN, std=tiny.STD, name="Ann")
    assert EclipHead.start(other).image.weight.shape == head.image.weight.shape
    with pytest.raises(HeadError, match=r"trained for 'vit', but 'Ann' has other weights.*--model Ann"):
        with_head(other, head)
    for family in ("resnet", "vit without ln_pre"):
        with pytest.raises(HeadError, match="has other weights"):
            with_head(tiny.backbone(family), head)
    tuned = tiny.backbone("vit")
    for weight in tuned.model.parameters():
        weight.data.mul_(1.01)  # a little training would do as much
    with pytest.raises(HeadError, match="has other weights"):
        with_head(tuned, head)
    with pytest.raises(HeadError, match=r"the head is on meta, but vit is on cpu: move it with head.to\(...\)"):
        with_head(backbone, head.to("meta"))


# --- beside a model ---


@pytest.fixture
def model_folder(tiny_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_folder, tmp_path / "model"))


def first_bias(backbone: Backbone) -> float:
    assert isinstance(backbone.head, EclipHead)
    return float(backbone.head.image.bias[0])


def test_load_takes_up_the_head_beside_the_model_and_notices_another(model_folder: Path, tmp_path: Path) -> None:
    name = f"local-dir:{model_folder}"
    bare = eclip.load(name)
    assert bare.head is None
    head = EclipHead.start(bare)
    for value in (1.0, 2.0):
        head.image.bias.data.fill_(value)
        head.save(model_folder)
        found = eclip.load(name)
        assert first_bias(found) == value
        assert eclip.load(name) is found
        assert found.head is not None and found.head.place == "beside the model"
    elsewhere = tmp_path / "elsewhere"
    head.image.bias.data.fill_(3.0)
    head.save(elsewhere)
    headed = eclip.load(name, head=elsewhere)
    assert first_bias(headed) == 3 and headed.head is not None and headed.head.place == str(elsewhere)
    assert first_bias(eclip.load(name, head=elsewhere / WEIGHTS)) == 3
    assert first_bias(eclip.load(name)) == 2, "head= is of that call alone"
    for file in (WEIGHTS, CONFIG):
        (model_folder / file).unlink()
    assert eclip.load(name).head is None
    with pytest.raises(HeadError, match=r"no head at .*nowhere"):
        eclip.load(name, head=tmp_path / "nowhere")
    places = (elsewhere, elsewhere / WEIGHTS)
    assert [first_bias(eclip.load(name, head=place)) for place in places] == [3, 3]
    (elsewhere / CONFIG).write_text("{}")
    for place in places:
        with pytest.raises(HeadError, match="cannot be read"):
            eclip.load(name, head=place)


def test_loading_with_a_head_draws_no_random_numbers(model_folder: Path) -> None:
    EclipHead.start(eclip.load(f"local-dir:{model_folder}")).save(model_folder)
    state = torch.random.get_rng_state()
    assert eclip.load(f"local-dir:{model_folder}").head is not None
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_head_of_another_model_is_refused_when_it_is_loaded(model_folder: Path, tmp_path: Path) -> None:
    head = random_head(tiny.backbone("vit without ln_pre")).save(tmp_path / "other")
    with pytest.raises(HeadError, match="has other weights"):
        eclip.load(f"local-dir:{model_folder}", head=head)
