"""Altered models (adapters, hooks, patches): a map explains the model that was scored, or the model is refused."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import peft
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

import eclip
import tiny
import tiny_hf
from eclip.backbones.backbone import Backbone
from eclip.backbones.blocks import run_block
from eclip.errors import AlteredModelError, EclipError, GradientError, ModelError, StaleEncodingError
from eclip.methods.surgery import empty_text
from eclip.words.tokens import read

METHODS = [name for name in eclip.METHODS if name not in ("eclip", "rise", "occlusion", "gscorecam")]
GRADIENTS = ("gradcam", "chefer", "legrad", "gradeclip")


def wrapped(model: nn.Module, name: str = "model") -> Backbone:
    return eclip.wrap(model, tokenizer=tiny._tokenizer(), mean=tiny.MEAN, std=tiny.STD, name=name)


def wrapped_hf(model: nn.Module, family: str) -> Backbone:
    return eclip.wrap(model, tokenizer=tiny_hf.tokenizer(family), mean=tiny.MEAN, std=tiny.STD, name=family)


def maps(of: Backbone, text: Tensor, methods: list[str] = METHODS) -> dict[str, Tensor]:
    encoding = eclip.encode(of, tiny.pixels(of).to(of.weight.dtype))
    found = {}
    for name in methods:
        try:
            found[name] = eclip.METHODS[name](encoding, text)
        except eclip.errors.NotApplicableError:
            continue
    return found


def apart(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).norm() / theirs.norm())


def adapted(model: nn.Module, targets: list[str], **options: Any) -> Any:
    """A PeftModel with LoRA of noticeable size on every layer of these names."""
    torch.manual_seed(3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft's own, on what transformers has renamed
        built = peft.get_peft_model(model, peft.LoraConfig(r=4, lora_alpha=8, target_modules=targets, **options))
    for name, weight in built.named_parameters():
        if "lora_" in name:
            nn.init.normal_(weight, std=0.1)
    return built.eval()


# --- adapters ---

ADAPTED = [
    ("vit", ["attn", "c_fc"]),
    ("vit with query norm", ["out_proj", "c_proj"]),
    ("siglip", ["qkv", "proj", "kv", "q", "fc1"]),
    ("timm vit", ["qkv", "proj"]),
    ("eva02", ["q_proj", "k_proj", "v_proj"]),
    ("timm rot_attn", ["qkv", "proj"]),
]


@pytest.mark.parametrize(("family", "targets"), ADAPTED, ids=lambda value: value if isinstance(value, str) else "")
def test_unmerged_lora_gives_the_maps_of_the_merged_model(family: str, targets: list[str]) -> None:
    held = adapted(tiny.model(family), targets)
    inner = held.base_model.model
    before = {key: value.clone() for key, value in inner.state_dict().items()}
    text = tiny.texts(wrapped(tiny.model(family)))
    unmerged, plain = maps(wrapped(inner), text), maps(wrapped(tiny.model(family)), text)
    for key, value in inner.state_dict().items():
        assert torch.equal(value, before[key]), f"{key} was changed"
    merged = maps(wrapped(held.merge_and_unload()), text)
    assert unmerged.keys() == merged.keys() and len(merged) >= 10
    for name in merged:
        assert apart(unmerged[name], merged[name]) < 2e-5, name
        assert apart(plain[name], merged[name]) > 5e-4, f"{name}: the adapter is too small to see"


@pytest.mark.parametrize(
    ("family", "targets"), [("CLIP", ["q_proj", "v_proj", "fc1"]), ("SigLIP", ["q_proj", "attention"])], ids=str
)
def test_unmerged_lora_on_transformers_gives_the_maps_of_the_merged_model(family: str, targets: list[str]) -> None:
    name = next(one for one in tiny_hf.FAMILIES if one.startswith(family))
    held = adapted(tiny_hf.model(name, "sdpa").float(), targets)
    text = tiny.texts(tiny_hf.backbone(name, torch.float32))
    unmerged = maps(wrapped_hf(held.base_model.model, name), text)
    merged = maps(wrapped_hf(held.merge_and_unload(), name), text)
    for method in merged:
        assert apart(unmerged[method], merged[method]) < 2e-5, method


def test_adapter_put_on_after_wrap_is_followed_and_so_is_its_switch() -> None:
    model = tiny.model("vit")
    backbone, text = wrapped(model), tiny.texts(wrapped(tiny.model("vit")))
    plain = maps(backbone, text, ["surgery"])["surgery"]
    held = adapted(model, ["attn", "c_fc"])
    with_adapter = maps(backbone, text, ["surgery"])["surgery"]
    assert apart(with_adapter, plain) > 0.01
    with held.disable_adapter():
        assert torch.allclose(maps(backbone, text, ["surgery"])["surgery"], plain, atol=1e-6)
    held.merge_and_unload()
    assert apart(maps(backbone, text, ["surgery"])["surgery"], with_adapter) < 1e-5


def test_lora_in_the_text_tower_counts_for_scores_and_words_and_leaves_the_weights_alone() -> None:
    model = tiny.model("vit")
    plain = wrapped(copy.deepcopy(model)).encode_text(["a dog"])
    held = adapted(model, [f"transformer.resblocks.{block}.attn" for block in range(2)])
    inner = held.base_model.model
    before = {key: value.clone() for key, value in inner.state_dict().items()}
    backbone = wrapped(inner)
    feature = backbone.encode_text(["a dog"])
    words = eclip.WORD_METHODS["chefer"](read(backbone, ["a dog"]), nn.functional.normalize(feature))
    assert all(torch.equal(value, before[key]) for key, value in inner.state_dict().items())
    merged = wrapped(held.merge_and_unload())
    assert apart(feature, merged.encode_text(["a dog"])) < 1e-5 < apart(feature, plain)
    again = eclip.WORD_METHODS["chefer"](read(merged, ["a dog"]), nn.functional.normalize(feature))
    assert apart(words, again) < 1e-4


@pytest.mark.parametrize("family", ["resnet", "eva"])
def test_adapter_that_the_model_never_calls_is_refused(family: str) -> None:
    """CLIP's ResNets and EVA read the weights of these layers themselves, so unmerged LoRA on them does nothing."""
    inner = adapted(tiny.model(family), ["q_proj" if family == "resnet" else "qkv"]).base_model.model
    backbone = wrapped(inner)
    with pytest.raises(AlteredModelError, match=r"never called.*merge_and_unload"):
        maps(backbone, tiny.texts(tiny.backbone(family)), ["maskclip"])


def test_text_ensembles_of_an_adapted_model_are_not_kept_on_disk() -> None:
    """Weights do not tell which adapter is on, so a file made with one would be read without it."""
    model = tiny.model("vit")
    held = adapted(model, [f"transformer.resblocks.{block}.mlp.c_fc" for block in range(2)])
    backbone = wrapped(held.base_model.model)
    on = eclip.encode_texts(backbone, ["a dog"], templates="imagenet80")
    empty = empty_text(backbone)
    with held.disable_adapter():
        off = eclip.encode_texts(backbone, ["a dog"], templates="imagenet80")
        assert apart(empty_text(backbone), empty) > 1e-5
    plain = eclip.encode_texts(wrapped(tiny.model("vit")), ["a dog"], templates="imagenet80")
    assert torch.allclose(off, plain, atol=1e-6) and not torch.allclose(on, plain, atol=1e-6)


class LowRank(nn.Module):
    """LoRA as a parametrization of torch."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.randn(len(weight), 2)), nn.Parameter(torch.randn(2, weight.shape[1]))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + 0.1 * self.a @ self.b


@pytest.mark.parametrize(
    ("family", "path", "name"),
    [
        ("vit", "transformer.resblocks.5.attn", "in_proj_weight"),
        ("siglip", "trunk.blocks.5.attn.qkv", "weight"),
        ("siglip", "trunk.attn_pool.kv", "weight"),
        ("resnet", "attnpool.v_proj", "weight"),
    ],
)
def test_parametrized_weights_give_the_maps_of_the_weights_they_make(family: str, path: str, name: str) -> None:
    torch.manual_seed(0)
    model = tiny.model(family)
    layer = model.visual.get_submodule(path)
    parametrize.register_parametrization(layer, name, LowRank(getattr(layer, name)))
    text = tiny.texts(tiny.backbone(family))
    live = maps(wrapped(model), text)
    parametrize.remove_parametrizations(layer, name)
    for method, fixed in maps(wrapped(model), text).items():
        assert apart(live[method], fixed) < 2e-5, method


# --- hooks, patches, classes ---


def uneven(module: nn.Module, inputs: Any, output: Any) -> Any:
    if isinstance(output, tuple):
        return uneven(module, inputs, output[0]), *output[1:]
    return output * torch.linspace(0.9, 1.1, output.shape[-1])


@contextmanager
def hooked(module: nn.Module, hook: Callable[..., Any]) -> Iterator[None]:
    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


ATTENTION = {
    "vit": "transformer.resblocks.5.attn",
    "vit with query norm": "transformer.resblocks.5.attn",
    "siglip": "trunk.blocks.5.attn",
    "timm vit": "trunk.blocks.5.attn",
    "eva02": "trunk.blocks.5.attn",
}


@pytest.mark.parametrize("family", ATTENTION)
def test_hook_that_changes_attention_is_refused_by_name_until_it_is_removed(family: str) -> None:
    model, text = tiny.model(family), tiny.texts(tiny.backbone(family))
    backbone = wrapped(model)
    before = maps(backbone, text, ["surgery", "itsm"])
    with hooked(model.visual.get_submodule(ATTENTION[family]), uneven):
        with pytest.raises(
            AlteredModelError, match=rf"block 6 of 7 .*hook is registered on visual\.{ATTENTION[family]}\."
        ):
            maps(backbone, text, ["surgery"])
        assert apart(maps(backbone, text, ["itsm"])["itsm"], before["itsm"]) > 1e-4, "itsm reruns no block"
    assert torch.equal(maps(backbone, text, ["surgery"])["surgery"], before["surgery"])


@pytest.mark.parametrize(
    ("family", "path"),
    [
        ("vit", ""),
        ("vit", "transformer"),
        ("siglip", "trunk"),
        ("siglip", "trunk.attn_pool"),
        ("resnet", "attnpool"),
        ("timm rot_attn", "head.pool"),
    ],
)
def test_hook_outside_of_the_blocks_is_refused(family: str, path: str) -> None:
    model = tiny.model(family)
    backbone = wrapped(model)
    stands = ".".join(part for part in ("visual", path) if part)
    with (
        hooked(model.visual.get_submodule(path), uneven),
        pytest.raises(AlteredModelError, match=rf"hook is registered on {stands}\."),
    ):
        eclip.encode(backbone, tiny.pixels(backbone))


@pytest.mark.parametrize("part", ["ln_1", "mlp", "mlp.c_fc", "ls_2"])
def test_hook_on_a_part_that_is_called_counts_in_every_map(part: str) -> None:
    """A block with such a hook equals one whose part is the changed layer."""
    model, text = tiny.model("vit with layer scale"), tiny.texts(tiny.backbone("vit with layer scale"))
    backbone = wrapped(model)
    plain = maps(backbone, text)
    layer = model.visual.transformer.resblocks[5].get_submodule(part)
    with hooked(layer, uneven):
        with_hook = maps(backbone, text)
    factor = torch.linspace(0.9, 1.1, 128 if part == "mlp.c_fc" else 32)
    with torch.no_grad():
        if part == "ln_1" or part == "mlp.c_fc":
            layer.bias.mul_(factor)
            layer.weight.mul_(factor if part == "ln_1" else factor[:, None])
        elif part == "ls_2":
            layer.gamma.mul_(factor)
        else:
            layer.c_proj.bias.mul_(factor)
            layer.c_proj.weight.mul_(factor[:, None])
    for name, expected in maps(backbone, text).items():
        assert apart(with_hook[name], expected) < 2e-5, name
    assert apart(plain["surgery"], with_hook["surgery"]) > 1e-4 or part != "ln_1"


def test_hook_that_only_looks_changes_nothing() -> None:
    model, text = tiny.model("vit"), tiny.texts(tiny.backbone("vit"))
    backbone = wrapped(model)
    before, seen = maps(backbone, text), []
    with hooked(model.visual.transformer.resblocks[5].attn, lambda module, inputs, output: seen.append(1)):
        during = maps(backbone, text)
    assert seen, "a block with a hook runs as its host does, with the host's rounding"
    assert all(apart(during[name], before[name]) < 1e-5 for name in before)


def test_hook_whose_strength_changes_after_the_first_check_is_refused() -> None:
    model, strength = tiny.model("vit"), {"now": 1.0}
    backbone, text = wrapped(model), tiny.texts(tiny.backbone("vit"))
    with hooked(model.visual.transformer.resblocks[5].attn, lambda m, i, o: (o[0] * strength["now"], None)):
        maps(backbone, text, ["surgery"])
        strength["now"] = 1.05
        with pytest.raises(AlteredModelError, match="hook"):
            maps(backbone, text, ["surgery"])


class Louder(nn.MultiheadAttention):
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        mixed, weights = super().forward(*args, **kwargs)
        return 1.05 * mixed, weights


def _subclass(attn: nn.Module) -> None:
    attn.__class__ = Louder


def _patch(attn: Any) -> None:
    inner = attn.forward
    attn.forward = lambda *args, **kwargs: (1.05 * inner(*args, **kwargs)[0], None)


@pytest.mark.parametrize(
    ("change", "stands"),
    [
        (_subclass, r"attn is a \S*Louder\. Use the original module"),
        (_patch, r"forward method of \S*attn was replaced"),
    ],
)
@pytest.mark.parametrize("when", ["before wrap", "after wrap", "after the first map"])
def test_another_forward_is_refused_by_name(change: Callable[[nn.Module], None], stands: str, when: str) -> None:
    model, text = tiny.model("vit"), tiny.texts(tiny.backbone("vit"))
    attn = model.visual.transformer.resblocks[5].attn
    if when == "before wrap":
        change(attn)
    backbone = wrapped(model)
    if when == "after the first map":
        maps(backbone, text, ["surgery"])
    if when != "before wrap":
        change(attn)
    with pytest.raises(AlteredModelError, match=stands):
        maps(backbone, text, ["surgery"])


def test_encode_image_of_another_class_is_refused() -> None:
    model = tiny.model("vit")
    inner = model.encode_image
    model.encode_image = lambda pixels, normalize=False: uneven(model, None, inner(pixels, normalize))
    with pytest.raises(AlteredModelError, match="the image tower"):
        eclip.encode(wrapped(model), tiny.pixels(wrapped(tiny.model("vit"))))


def test_hook_in_the_text_tower_is_refused_for_words_only_where_blocks_are_rerun() -> None:
    model = tiny.model("vit")
    backbone = wrapped(model)
    with hooked(model.transformer.resblocks[1].attn, uneven):
        reading = read(backbone, ["a dog"])
        image = nn.functional.normalize(torch.ones(1, 24))
        with pytest.raises(AlteredModelError, match=r"the text tower .*transformer\.resblocks\.1\.attn"):
            eclip.WORD_METHODS["gradeclip"](reading, image)
        lost = eclip.WORD_METHODS["leave_one_out"](reading, image)
    assert float(lost.abs().max()) > 0


# --- what is read after what ---


@pytest.mark.parametrize("change", ["write", "replace", "hook", "module"])
def test_encoding_of_a_model_that_changed_is_refused(change: str) -> None:
    model, text = tiny.model("vit"), tiny.texts(tiny.backbone("vit"))
    backbone = wrapped(model)
    encoding = eclip.encode(backbone, tiny.pixels(backbone))
    block = model.visual.transformer.resblocks[5]
    with torch.no_grad():
        if change == "write":
            block.attn.in_proj_weight.mul_(1.01)
        elif change == "replace":
            block.attn.in_proj_weight.data = block.attn.in_proj_weight.data * 1.01
        elif change == "hook":
            block.mlp.register_forward_hook(uneven)
        else:
            model.visual.transformer.resblocks[5] = copy.deepcopy(block)
    with pytest.raises(StaleEncodingError, match="encode the image again"):
        eclip.METHODS["surgery"](encoding, text)
    eclip.METHODS["surgery"](eclip.encode(backbone, tiny.pixels(backbone)), text)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.long(every=5)
def test_plain_model_agrees_well_inside_of_what_is_allowed(
    family: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a quarter of the allowance every plain block still agrees, so no machine's rounding refuses a model."""
    from eclip.backbones import agreement

    monkeypatch.setattr(agreement, "PLAIN", agreement.PLAIN / 4)
    monkeypatch.setattr(agreement, "MARGIN", agreement.MARGIN / 4)
    backbone = wrapped(tiny.model(family).to(dtype), family)
    encoding = eclip.encode(backbone, tiny.pixels(backbone))
    encoding.tail(None, "test")
    agreement.check_latent(backbone, encoding.state, encoding.tokens)


@pytest.mark.parametrize("family", ["vit", "siglip", "eva02"])
def test_a_change_of_one_in_ten_thousand_is_seen(family: str) -> None:
    model = tiny.model(family)
    backbone = wrapped(model)
    change = lambda m, i, o: (o[0] * 1.0001, None) if isinstance(o, tuple) else o * 1.0001  # noqa: E731
    with hooked(model.visual.get_submodule(ATTENTION[family]), change):
        encoding = eclip.encode(backbone, tiny.pixels(backbone))
        with pytest.raises(AlteredModelError):
            encoding.tail(2, "test")


# --- integers ---


def quantized(model: nn.Module) -> nn.Module:
    from torch.ao.quantization import quantize_dynamic

    return quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8, inplace=True)


@pytest.fixture
def _no_advice(recwarn: Any) -> Iterator[None]:
    """torch.ao advises to use another package."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", UserWarning)
        yield


@pytest.mark.usefixtures("_no_advice")
@pytest.mark.parametrize("family", ["vit", "siglip", "timm vit", "timm abs_attn", "CLIP", "SigLIP"])
def test_int8_keeps_maps_without_gradients_and_refuses_the_others(family: str) -> None:
    if family in tiny.FAMILIES:
        floating, model = wrapped(tiny.model(family)), tiny.model(family)
        quantized(model.visual)
        backbone = wrapped(model)
    else:
        name = next(one for one in tiny_hf.FAMILIES if one.startswith(family))
        floating = tiny_hf.backbone(name, torch.float32)
        backbone = wrapped_hf(quantized(tiny_hf.model(name, "sdpa").float()), name)
    text = tiny.texts(floating)
    exact, encoding = maps(floating, text), eclip.encode(backbone, tiny.pixels(floating))
    for name, expected in exact.items():
        if name in GRADIENTS:
            with pytest.raises(GradientError, match=r"quantized\.linear_dynamic.*Use a method without gradients"):
                eclip.METHODS[name](encoding, text)
        else:
            found = eclip.METHODS[name](encoding, text)
            pair = torch.stack([found.flatten(), expected.flatten()])
            assert float(torch.corrcoef(pair)[0, 1]) > 0.99, name


@pytest.mark.usefixtures("_no_advice")
def test_int8_text_tower_of_open_clip_is_refused_with_the_way_out() -> None:
    backbone = wrapped(quantized(tiny.model("vit")))
    with pytest.raises(ModelError, match=r"quantize only the image tower"):
        backbone.encode_text(["a dog"])


class Frozen(nn.Module):
    """A layer that computes outside of the graph, as some integer layers do."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return self.inner(x)


def test_layer_that_cuts_the_graph_refuses_gradients_alone() -> None:
    model, text = tiny.model("vit"), tiny.texts(tiny.backbone("vit"))
    mlp = model.visual.transformer.resblocks[6].mlp
    mlp.c_fc = Frozen(mlp.c_fc)
    backbone = wrapped(model)
    encoding = eclip.encode(backbone, tiny.pixels(backbone))
    eclip.METHODS["surgery"](encoding, text)
    for name in GRADIENTS:
        with pytest.raises(GradientError):
            eclip.METHODS[name](encoding, text)


# --- copies ---


@pytest.mark.parametrize("family", ["vit", "siglip", "resnet", "eva02"])
def test_deep_copy_runs_the_copied_model_alone(family: str) -> None:
    original = tiny.backbone(family)
    text, before = tiny.texts(original), eclip.encode(original, tiny.pixels(original))
    copied = copy.deepcopy(original)
    with torch.no_grad():
        for weight in copied.model.parameters():
            weight.mul_(0.5)
        copied.head.image.weight.mul_(0.5)
    after = eclip.encode(original, tiny.pixels(original))
    assert torch.equal(after.feature, before.feature)
    assert not torch.allclose(eclip.encode(copied, tiny.pixels(copied)).feature, before.feature)
    assert not torch.allclose(copied.encode_text(["a dog"]), original.encode_text(["a dog"]))
    assert torch.equal(eclip.METHODS["eclip"](before, text), eclip.METHODS["eclip"](after, text))
    assert copied.name == original.name and copied.head is not original.head
    assert copy.copy(original).model is original.model


def test_deep_copy_of_an_encoding_reruns_the_copied_model() -> None:
    original = tiny.backbone("vit")
    encoding, text = eclip.encode(original, tiny.pixels(original)), tiny.texts(original)
    expected = eclip.METHODS["surgery"](encoding, text)
    copied = copy.deepcopy(encoding)
    assert copied.backbone.model is not original.model
    with torch.no_grad():
        original.model.visual.transformer.resblocks[5].attn.in_proj_weight.zero_()
    assert torch.equal(eclip.METHODS["surgery"](copied, text), expected)
    with pytest.raises(StaleEncodingError):
        eclip.METHODS["surgery"](encoding, text)


def test_deep_copy_of_a_block_alone_is_refused() -> None:
    with pytest.raises(ModelError, match="deep-copy the Backbone"):
        copy.deepcopy(tiny.backbone("vit").blocks[0])


# --- half precision ---


@pytest.mark.parametrize("family", ["vit", "siglip", "timm vit, average pool"])
def test_gradients_in_float16_do_not_vanish(family: str) -> None:
    """The image feature is made so long that slopes of its cosine fall below the smallest float16, 6e-8."""

    def long(dtype: torch.dtype) -> Backbone:
        model = tiny.model(family)
        with torch.no_grad():
            if family == "vit":
                model.visual.proj.mul_(300)
            elif family == "siglip":
                model.visual.trunk.attn_pool.mlp.fc2.weight.mul_(3e4)
            else:
                model.visual.trunk.head.weight.mul_(300)
        return wrapped(model.to(dtype))

    exact, half = long(torch.float32), long(torch.float16)
    text = tiny.texts(wrapped(tiny.model(family)))
    expected, found = maps(exact, text, list(GRADIENTS)), maps(half, text, list(GRADIENTS))
    assert len(expected) >= 3
    for name in expected:
        pair = torch.stack([found[name].flatten(), expected[name].flatten()])
        assert float(torch.corrcoef(pair)[0, 1]) > 0.99, name
        assert 0.9 < float(found[name].norm() / expected[name].norm()) < 1.1, name


def test_errors_of_altered_models_are_errors_of_eclip() -> None:
    assert issubclass(AlteredModelError, EclipError) and issubclass(GradientError, eclip.errors.NotApplicableError)


def test_open_block_equals_the_host_block() -> None:
    backbone = tiny.backbone("vit", torch.float64)
    encoding = eclip.encode(backbone, tiny.pixels(backbone))
    for block, x in encoding.tail(None, "test"):
        assert torch.allclose(run_block(block, x), block.host(x), rtol=0, atol=1e-12)
