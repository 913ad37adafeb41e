"""More altered models: how adapters are used, hooks of all kinds, and changes after the first map."""

from __future__ import annotations

import copy
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from open_clip.transformer import ResidualAttentionBlock
from PIL import Image
from torch import Tensor, nn

import eclip
import tiny
import tiny_hf
from eclip.backbones.host import modules_of
from eclip.errors import AlteredModelError, GradientError, ModelError
from eclip.explanation.explain import query_of
from eclip.methods.surgery import empty_text
from eclip.words.tokens import read
from test_agreement import GRADIENTS, adapted, apart, maps, wrapped, wrapped_hf

# --- adapters ---


def weights_of(model: nn.Module) -> dict[str, tuple[int, bool, Tensor]]:
    """Each weight's identity, flag and bits, read without the methods that peft overrides."""
    return {
        f"{path}.{name}": (id(weight), weight.requires_grad, weight.detach().clone())
        for path, module in modules_of(model)
        for name, weight in module.__dict__["_parameters"].items()
        if weight is not None
    }


def test_adapter_on_attention_leaves_every_weight_the_same_object() -> None:
    inner = adapted(tiny.model("vit"), ["attn", "c_fc"]).base_model.model
    before, backbone = weights_of(inner), wrapped(inner)
    maps(backbone, tiny.texts(wrapped(tiny.model("vit"))), ["surgery", "gradcam"])
    assert empty_text(backbone).isfinite().all() and read(backbone, ["a dog"]).tower("test")
    after = weights_of(inner)
    assert after.keys() == before.keys()
    for name, (identity, flag, bits) in before.items():
        assert after[name][:2] == (identity, flag) and torch.equal(after[name][2], bits), name


def test_threads_share_a_model_whose_adapters_rewrite_its_weights() -> None:
    inner = adapted(tiny.model("vit"), ["attn"]).base_model.model
    backbone, text = wrapped(inner), tiny.texts(wrapped(tiny.model("vit")))
    expected, failures = maps(backbone, text, ["surgery", "gradcam"]), []

    def work() -> None:
        try:
            for _ in range(4):
                backbone.encode_text(["a dog"])
                found = maps(backbone, text, list(expected))
                failures.extend(name for name in expected if apart(found[name], expected[name]) > 1e-5)
        except Exception as error:
            failures.append(repr(error))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_adapter_in_half_precision_gives_the_maps_of_the_merged_model(dtype: torch.dtype) -> None:
    """peft casts such an adapter to float32 and back at each pass, which is no change of the model."""
    held = adapted(tiny.model("vit").to(dtype), ["attn", "c_fc"]).to(dtype)
    text = tiny.texts(wrapped(tiny.model("vit")))
    unmerged = maps(wrapped(held.base_model.model), text, ["surgery", "chefer", "legrad"])
    for name, merged in maps(wrapped(held.merge_and_unload()), text, list(unmerged)).items():
        assert apart(unmerged[name], merged) < 0.05, name


@pytest.mark.parametrize(("family", "targets"), [("vit", ["attn"]), ("siglip", ["qkv"])])
def test_adapter_merged_and_disabled_at_once_is_refused_and_stays_merged(family: str, targets: list[str]) -> None:
    held, text = adapted(tiny.model(family), targets), tiny.texts(wrapped(tiny.model(family)))
    backbone = wrapped(held.base_model.model)
    unmerged = maps(backbone, text, ["surgery"])["surgery"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft merges the output projection with its attention, then finds it merged
        held.merge_adapter()
    with held.disable_adapter(), pytest.raises(AlteredModelError, match=r"merged and disabled.*unmerge_adapter"):
        eclip.encode(backbone, tiny.pixels(backbone))
    assert apart(maps(backbone, text, ["surgery"])["surgery"], unmerged) < 1e-5


def test_adapter_on_text_embeddings_counts_for_words() -> None:
    held = adapted(tiny_hf.model("CLIP").float(), ["token_embedding", "text_model.embeddings.position_embedding"])
    for name, weight in held.named_parameters():
        if "lora_embedding" in name:
            nn.init.normal_(weight, std=0.3)
    image = nn.functional.normalize(torch.ones(1, 24))

    def words(model: nn.Module) -> list[Tensor]:
        reading = read(wrapped_hf(model, "CLIP"), ["a dog"])
        return [eclip.WORD_METHODS[name](reading, image) for name in ("gradeclip", "chefer")]

    unmerged, plain = words(held.base_model.model), words(tiny_hf.model("CLIP").float())
    for live, fixed, without in zip(unmerged, words(held.merge_and_unload()), plain, strict=True):
        assert apart(live, fixed) < 1e-4 < apart(without, fixed)


def test_trained_copy_of_the_final_norm_is_used_and_refused_where_its_weights_are_read() -> None:
    held = adapted(tiny_hf.model("CLIP").float(), ["q_proj"], modules_to_save=["post_layernorm", "visual_projection"])
    for name, weight in held.named_parameters():
        if "modules_to_save" in name:
            nn.init.normal_(weight, std=0.3)
    text, backbone = tiny.texts(tiny_hf.backbone("CLIP", torch.float32)), wrapped_hf(held.base_model.model, "CLIP")
    with pytest.raises(AlteredModelError, match=r"decompose.*vision_model\.post_layernorm\. Merge the adapter"):
        maps(backbone, text, ["decompose"])
    names = ["surgery", "gradcam", "chefer"]
    unmerged = maps(backbone, text, names)
    for name, merged in maps(wrapped_hf(held.merge_and_unload(), "CLIP"), text, names).items():
        assert apart(unmerged[name], merged) < 1e-5, name


@pytest.mark.parametrize(
    ("family", "targets"),
    [("vit", ["attn", "c_fc"]), ("timm vit", ["qkv", "proj"]), ("CLIP", ["q_proj", "visual_projection", "fc1"])],
)
def test_adapter_put_on_after_wrap_is_followed_by_maps_and_words(family: str, targets: list[str]) -> None:
    of_hf = family == "CLIP"
    model = tiny_hf.model(family).float() if of_hf else tiny.model(family)
    fresh: Any = (lambda: wrapped_hf(model, family)) if of_hf else (lambda: wrapped(model))
    backbone = fresh()
    text = tiny.texts(backbone)
    plain = maps(backbone, text, ["surgery"])["surgery"]
    words = eclip.WORD_METHODS["chefer"](read(backbone, ["a dog"]), text[:1])
    adapted(model, targets)
    expected = maps(fresh(), text, ["surgery"])["surgery"]
    assert torch.equal(maps(backbone, text, ["surgery"])["surgery"], expected) and apart(plain, expected) > 1e-3
    now = eclip.WORD_METHODS["chefer"](read(backbone, ["a dog"]), text[:1])
    assert torch.equal(now, eclip.WORD_METHODS["chefer"](read(fresh(), ["a dog"]), text[:1]))
    assert apart(words, now) > 1e-3 or family == "timm vit", "its targets are in the image tower"


@pytest.mark.parametrize(
    ("family", "path"),
    [
        ("vit", "visual.ln_post"),
        ("vit, coca's pooler", "visual.attn_pool.ln_k"),
        ("timm vit", "visual.trunk.norm"),
        ("siglip", "visual.trunk.attn_pool.mlp"),
        ("CLIP", "vision_model.post_layernorm"),
        ("SigLIP", "vision_model.head.layernorm"),
    ],
)
def test_module_replaced_after_wrap_is_the_one_that_maps_read(family: str, path: str) -> None:
    of_hf = family in tiny_hf.FAMILIES
    model = tiny_hf.model(family).float() if of_hf else tiny.model(family)
    fresh: Any = (lambda: wrapped_hf(model, family)) if of_hf else (lambda: wrapped(model))
    backbone = fresh()
    text, names = tiny.texts(backbone), ["gradcam", "chefer"]
    before = maps(backbone, text, names)
    new = copy.deepcopy(model.get_submodule(path))
    for weight in new.parameters():
        weight.data.mul_(torch.linspace(-2, 3, weight.numel()).view_as(weight))
    model.set_submodule(path, new)
    for name, expected in maps(fresh(), text, names).items():
        assert torch.equal(maps(backbone, text, [name])[name], expected), name
        assert apart(before[name], expected) > 1e-3, name


@pytest.mark.parametrize("family", ["vit", "timm vit", "eva with map head"])
def test_weights_assigned_after_wrap_are_those_that_maps_read(family: str) -> None:
    model = tiny.model(family)
    backbone, text = wrapped(model), tiny.texts(tiny.backbone(family))
    model.load_state_dict(tiny.model(family, seed=1).state_dict(), assign=True)
    assert torch.equal(maps(backbone, text, ["gradcam"])["gradcam"], maps(wrapped(model), text, ["gradcam"])["gradcam"])


# --- hooks ---


@pytest.mark.parametrize("kind", ["register_full_backward_hook", "register_full_backward_pre_hook", "global"])
def test_backward_hook_refuses_gradients_and_nothing_else(kind: str) -> None:
    model, text = tiny.model("vit"), tiny.texts(tiny.backbone("vit"))
    layer, backbone = model.visual.transformer.resblocks[6].mlp, wrapped(model)
    before = maps(backbone, text)

    def double(module: nn.Module, *grads: Any) -> Any:
        return tuple(2 * grad for grad in grads[0]) if module is layer else None

    if kind == "global":
        handle = torch.nn.modules.module.register_module_full_backward_hook(double)
    else:
        handle = getattr(layer, kind)(double)
    try:
        encoding = eclip.encode(backbone, tiny.pixels(backbone))
        for name, expected in before.items():
            if name in GRADIENTS:
                with pytest.raises(AlteredModelError, match=r"backward hook is registered on .*handle\.remove\(\)"):
                    eclip.METHODS[name](encoding, text)
            else:
                torch.testing.assert_close(eclip.METHODS[name](encoding, text), expected, rtol=0, atol=1e-5, msg=name)
    finally:
        handle.remove()
    again = maps(backbone, text)
    assert all(torch.equal(again[name], before[name]) for name in before)


@dataclass
class Recorder:
    """A hook with the equality of a data class: it cannot be hashed, and two of them cannot be compared."""

    seen: Tensor

    def __call__(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self.seen = output.detach()


def test_hook_that_cannot_be_hashed_only_looks() -> None:
    model = tiny.model("vit")
    backbone, text = wrapped(model), tiny.texts(tiny.backbone("vit"))
    before, empty = maps(backbone, text, ["surgery"])["surgery"], empty_text(backbone)
    for _ in range(2):
        handles = [
            tower.resblocks[0].register_forward_hook(Recorder(torch.zeros(3)))
            for tower in (model.visual.transformer, model.transformer)
        ]
        assert torch.equal(maps(backbone, text, ["surgery"])["surgery"], before)
        assert torch.equal(empty_text(backbone), empty)
        for handle in handles:
            handle.remove()


# --- what changes after the first map, and what does not ---


class Counting(nn.Module):
    """A part that notes what goes through it."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.calls, self.seen = inner, 0, []

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.seen.append(x.detach())
        self.last = x
        return self.inner(x)


@pytest.mark.parametrize(
    ("family", "part"), [("vit", "transformer.resblocks.5.mlp"), ("siglip", "trunk.blocks.5.attn")]
)
def test_part_that_counts_its_passes_is_no_change(family: str, part: str) -> None:
    model = tiny.model(family)
    text, before = tiny.texts(wrapped(model)), maps(wrapped(model), tiny.texts(wrapped(model)))
    parent = model.visual.get_submodule(part)
    name = "c_fc" if family == "vit" else "qkv"
    setattr(parent, name, Counting(getattr(parent, name)))
    after = maps(wrapped(model), text)
    for method, expected in before.items():
        assert apart(after[method], expected) < 1e-5, method


def test_copy_of_a_model_is_no_change() -> None:
    """Copying an object of a class for the first time notes something on the class."""

    class Own(nn.Linear):
        pass

    model = tiny.model("vit")
    mlp = model.visual.transformer.resblocks[5].mlp
    plain, mlp.c_fc = mlp.c_fc, Own(32, 128)
    mlp.c_fc.load_state_dict(plain.state_dict())
    backbone = wrapped(model)
    encoding, text = eclip.encode(backbone, tiny.pixels(backbone)), tiny.texts(backbone)
    copy.deepcopy(mlp.c_fc)
    assert eclip.METHODS["surgery"](encoding, text).isfinite().all()


def _louder(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args, **kwargs: 1.05 * function(*args, **kwargs)


def _scale_of_hf(model: Any, patch: pytest.MonkeyPatch) -> None:
    model.vision_model.encoder.layers[5].self_attn.scale *= 1.5


def _attention_of_hf(model: Any, patch: pytest.MonkeyPatch) -> None:
    from transformers import AttentionInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    AttentionInterface.register("louder", lambda *args, **kw: (1.05 * sdpa_attention_forward(*args, **kw)[0], None))
    model.vision_model.config._attn_implementation = "louder"


CHANGES: dict[str, tuple[str, Callable[[Any, pytest.MonkeyPatch], Any]]] = {
    "function of torch": (
        "siglip",
        lambda model, patch: patch.setattr(F, "scaled_dot_product_attention", _louder(F.scaled_dot_product_attention)),
    ),
    "method of a class": (
        "vit",
        lambda model, patch: patch.setattr(
            ResidualAttentionBlock, "attention", _louder(ResidualAttentionBlock.attention)
        ),
    ),
    "method of a block": (
        "vit",
        lambda model, patch: setattr(
            model.visual.transformer.resblocks[5], "attention", _louder(model.visual.transformer.resblocks[5].attention)
        ),
    ),
    "encode_image of the class": (
        "vit",
        lambda model, patch: patch.setattr(
            type(model), "encode_image", lambda self, *args, **kw: self.visual(args[0]).flip(-1)
        ),
    ),
    "scale of an attention": ("CLIP", _scale_of_hf),
    "kind of attention": ("CLIP", _attention_of_hf),
}


@pytest.mark.parametrize("change", CHANGES)
def test_code_that_changes_after_the_first_map_is_refused(change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    family, apply = CHANGES[change]
    model = tiny_hf.model(family).float() if family == "CLIP" else tiny.model(family)
    backbone = wrapped_hf(model, family) if family == "CLIP" else wrapped(model)
    text = tiny.texts(backbone)
    maps(backbone, text, ["surgery"])
    apply(model, monkeypatch)
    with pytest.raises(AlteredModelError):
        maps(backbone, text, ["surgery"])


def test_encode_text_that_changes_after_the_first_words_is_refused() -> None:
    model = tiny.model("vit")
    backbone, image = wrapped(model), nn.functional.normalize(torch.ones(1, 24))
    eclip.WORD_METHODS["chefer"](read(backbone, ["a dog"]), image)
    inner = model.encode_text
    model.encode_text = lambda ids, normalize=False: inner(ids, normalize).flip(-1)
    with pytest.raises(AlteredModelError, match="the text tower"):
        eclip.WORD_METHODS["chefer"](read(backbone, ["a dog"]), image)


def test_logit_scale_of_a_model_in_training_is_the_one_it_has_now() -> None:
    model = tiny.model("vit")
    backbone, text = wrapped(model), tiny.texts(tiny.backbone("vit"))
    before = eclip.METHODS["chefer"](eclip.encode(backbone, tiny.pixels(backbone)), text, depth=3)
    with torch.no_grad():
        model.logit_scale.add_(1)
    after = eclip.METHODS["chefer"](eclip.encode(backbone, tiny.pixels(backbone)), text, depth=3)
    fresh = wrapped(model)
    assert torch.equal(after, eclip.METHODS["chefer"](eclip.encode(fresh, tiny.pixels(fresh)), text, depth=3))
    assert apart(before, after) > 0.1


def test_empty_text_follows_every_row_of_the_projection() -> None:
    model = tiny.model("vit")
    backbone = wrapped(model)
    before = empty_text(backbone)
    with torch.no_grad():
        model.text_projection[1:].mul_(torch.linspace(0.5, 2, 24))
    assert torch.equal(empty_text(backbone), empty_text(wrapped(model)))
    assert apart(before, empty_text(backbone)) > 0.01


# --- modules of other classes ---


class Merging(ResidualAttentionBlock):
    """As token merging: one token fewer leaves it."""

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        x = super().forward(*args, **kwargs)
        return torch.cat([x[:, :-2], x[:, -2:].mean(dim=1, keepdim=True)], dim=1)


def test_blocks_that_merge_tokens_are_refused_whatever_the_method() -> None:
    model = tiny.model("vit")
    model.visual.transformer.resblocks[5].__class__ = Merging
    with pytest.raises(AlteredModelError, match=r"16 tokens instead of 17.*resblocks\.5 is a \S*Merging"):
        eclip.encode(wrapped(model), tiny.pixels(wrapped(tiny.model("vit"))))


def test_feature_that_is_no_tensor_is_refused() -> None:
    model = tiny.model("vit")
    inner = model.encode_image
    model.encode_image = lambda pixels, normalize=False: {"image_embeds": inner(pixels)}
    with pytest.raises(AlteredModelError, match="is a dict, not a tensor"):
        eclip.encode(wrapped(model), tiny.pixels(wrapped(tiny.model("vit"))))


@pytest.mark.parametrize("part", ["visual", "visual.transformer.resblocks.5", "visual.transformer.resblocks.5.mlp"])
@pytest.mark.long
def test_compiled_part_gives_the_maps_of_the_part(part: str) -> None:
    model, text = tiny.model("vit"), tiny.texts(tiny.backbone("vit"))
    before = maps(wrapped(model), text, ["surgery", "gradcam", "itsm"])
    model.set_submodule(part, torch.compile(model.get_submodule(part), backend="eager"))
    model.train()  # the flag of the wrapper is that of the module inside: it must be restored once
    for name, after in maps(wrapped(model), text, list(before)).items():
        assert apart(after, before[name]) < 1e-5, name
    assert all(module.training for module in model.modules())


def test_attention_that_transformers_notes_at_its_first_pass_is_no_change() -> None:
    """transformers puts hooks on a model that is asked for its attention, when it first runs."""
    model = tiny_hf.model("CLIP", "eager").float()
    model.config.output_attentions = model.vision_model.config.output_attentions = True
    backbone = wrapped_hf(model, "CLIP")
    text = tiny.texts(backbone)
    plain = maps(wrapped_hf(tiny_hf.model("CLIP", "eager").float(), "CLIP"), text, ["surgery", "gradcam"])
    for name, found in maps(backbone, text, list(plain)).items():
        assert apart(found, plain[name]) < 1e-5, name


@pytest.mark.parametrize("family", ["vit", "CLIP"])
def test_forward_that_only_passes_on_changes_nothing(family: str) -> None:
    """As the hooks of accelerate, which stand on every layer of a model with a device map."""
    model = tiny_hf.model(family).float() if family == "CLIP" else tiny.model(family)
    fresh: Any = (lambda: wrapped_hf(model, family)) if family == "CLIP" else (lambda: wrapped(model))
    text = tiny.texts(fresh())
    before = maps(fresh(), text)
    for module in model.modules():
        if not list(module.children()):
            module.forward = partial(lambda inner, *args, **kwargs: inner(*args, **kwargs), module.forward)
    after = maps(fresh(), text)
    assert after.keys() == before.keys()
    for name, expected in before.items():
        assert apart(after[name], expected) < 1e-5, name


class Detached(nn.Module):
    """A part whose answer leaves the graph."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x.detach()).detach()


def test_gradient_that_is_cut_whole_is_refused_as_such() -> None:
    model = tiny.model("siglip")
    text = tiny.texts(wrapped(model))
    model.visual.trunk.attn_pool.proj = Detached(model.visual.trunk.attn_pool.proj)
    backbone = wrapped(model)
    encoding = eclip.encode(backbone, tiny.pixels(backbone))
    assert eclip.METHODS["surgery"](encoding, text).isfinite().all()
    for name in GRADIENTS:
        with pytest.raises(GradientError, match="stops at detach"):
            eclip.METHODS[name](encoding, text)


def test_pixels_that_are_no_numbers_are_named() -> None:
    backbone = wrapped(tiny.model("vit"))
    pixels = tiny.pixels(backbone)
    pixels[0, 0, 0, 0] = float("nan")
    with pytest.raises(ModelError, match="NaN or infinity: the pixels do as well"):
        eclip.encode(backbone, pixels)


def test_backward_hook_in_the_image_tower_does_not_concern_words() -> None:
    model = tiny.model("vit")
    backbone, image = wrapped(model), nn.functional.normalize(torch.ones(1, 24))
    before = eclip.WORD_METHODS["chefer"](read(backbone, ["a dog"]), image)
    model.visual.ln_post.register_full_backward_hook(lambda module, into, out: (2 * into[0],))
    assert torch.equal(eclip.WORD_METHODS["chefer"](read(backbone, ["a dog"]), image), before)
    model.ln_final.register_full_backward_hook(lambda module, into, out: (2 * into[0],))
    with pytest.raises(AlteredModelError, match=r"backward hook is registered on ln_final "):
        eclip.WORD_METHODS["chefer"](read(backbone, ["a dog"]), image)


def test_a_feature_that_overflows_later_is_named() -> None:
    backbone = tiny.kept("vit")
    query = query_of(["a"], model=backbone, method="itsm", health=False)
    encoding = eclip.encode(backbone, tiny.pixels(backbone), keep=0)
    broken = replace(encoding, feature=encoding.feature.index_fill(0, torch.tensor([1]), torch.inf))
    named = [(name, Image.new("RGB", (32, 32)), (32, 32)) for name in ("a.png", "b.png")]
    assert query.answer_encoding(encoding, named)["itsm"].maps.shape[0] == 2
    with pytest.raises(ModelError, match=r"the feature of b.png by vit contains NaN or infinity: float16"):
        query.answer_encoding(broken, named)
