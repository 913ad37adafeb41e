"""A timm ViT with relative positions: its own attention wherever a formula has it, and only its own size."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from timm.models.vision_transformer_relpos import ResPostRelPosBlock, VisionTransformerRelPos
from torch import Tensor
from torch.nn.functional import cosine_similarity

import eclip
import tiny
from eclip.backbones.blocks import attention, run_block
from eclip.backbones.encoding import Encoding, encode
from eclip.errors import AlteredModelError, NotApplicableError, OptionError, StaleEncodingError, UnsupportedTowerError
from eclip.methods import METHODS
from eclip.words.second_order import image_path
from test_agreement import adapted, apart, maps, wrapped
from test_backbones import _assert_same, _state

FAMILY = "timm vit, relative positions"
IMAGE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8))


def encoded(dtype: torch.dtype = torch.float64) -> tuple[Encoding, Tensor]:
    backbone = tiny.backbone(FAMILY, dtype)
    backbone.model.requires_grad_(False)
    return encode(backbone, tiny.pixels(backbone).to(dtype)), tiny.texts(backbone).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_feature_and_blocks_are_the_hosts(dtype: torch.dtype) -> None:
    encoding, text = encoded(dtype)
    theirs = encoding.backbone.model.encode_image(encoding.pixels)
    assert (encoding.feature - theirs).norm() <= (1e-12 if dtype == torch.float64 else 0.03) * theirs.norm()
    for name, method in METHODS.items():
        assert method(encoding, text, **tiny.FEW.get(name, {})).isfinite().all()
    if dtype == torch.float64:
        outputs = [*encoding.inputs[1:], encoding.tokens]
        for block, x, output in zip(encoding.blocks, encoding.inputs, outputs, strict=True):
            torch.testing.assert_close(run_block(block, x), output, rtol=0, atol=1e-12)
            q, k, _ = block.qkv(block.norm1(x))
            assert (attention(q, k) - hosts_attention(block.host, q, k)).abs().max() > 0.01, "positions must matter"


def hosts_attention(block: Any, q: Tensor, k: Tensor) -> Tensor:
    return (q @ k.transpose(-1, -2) * block.attn.scale + block.attn.rel_pos.get_bias()).softmax(dim=-1)


def test_attention_and_rollout_are_those_of_the_host() -> None:
    encoding, text = encoded()
    shares = []
    for block, x in zip(encoding.blocks, encoding.inputs, strict=True):
        q, k, _ = block.qkv(block.norm1(x))
        shares.append(hosts_attention(block.host, q, k).mean(dim=1))
    ours = METHODS["attention"](encoding, text)[:, 0].double()
    torch.testing.assert_close(ours.flatten(1), shares[-1][:, 0, 1:], rtol=1e-6, atol=1e-8)
    whole = torch.eye(17, dtype=torch.float64)
    for share in shares:
        whole = (share + torch.eye(17, dtype=torch.float64)) / 2 @ whole
    ours = METHODS["rollout"](encoding, text)[:, 0].double()
    torch.testing.assert_close(ours.flatten(1), whole[:, 0, 1:], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("depth", [1, 2])
def test_gradients_are_those_of_the_host(depth: int) -> None:
    """Grad-CAM, LeGrad and Chefer by autograd, with the attention written out."""
    encoding, text = encoded()
    backbone, trunk = encoding.backbone, encoding.backbone.model.visual.trunk
    cams, slopes, relevances = [], [], []
    for one in text:
        leaf = encoding.inputs[-depth].clone().requires_grad_()
        x, attns, normed = leaf, [], None
        for block in trunk.blocks[-depth:]:
            normal = block.norm1(x)
            normed = normal if normed is None else normed
            q, k, v = block.attn.qkv(normal).unflatten(2, (3, 2, 16)).permute(2, 0, 3, 1, 4)
            attns.append(hosts_attention(block, q, k))
            x = x + block.ls1(block.attn.proj((attns[-1] @ v).transpose(1, 2).flatten(2)))
            x = x + block.ls2(block.mlp(block.norm2(x)))
        feature = backbone.model.visual.head(trunk.forward_head(trunk.norm(x)))
        score = cosine_similarity(feature, one[None]).sum()
        [at, *grads] = torch.autograd.grad(score, [normed, *attns], retain_graph=True)
        cams.append((normed * at[:, 1:].mean(dim=1, keepdim=True)).sum(dim=-1)[:, 1:].detach())
        whole = torch.eye(17, dtype=torch.float64)
        for attn, grad in zip(attns, grads, strict=True):
            whole = whole + (backbone.logit_scale * attn * grad).clamp_min(0).mean(dim=1) @ whole
        relevances.append(whole[:, 0, 1:].detach())
        mean = backbone.model.visual.head(trunk.head(trunk.norm(x.mean(dim=1))))
        [grad] = torch.autograd.grad(cosine_similarity(mean, one[None]).sum(), attns[-1])
        slopes.append(grad.clamp_min(0).mean(dim=(1, 2))[:, 1:])
    for name, wanted in (("gradcam", cams), ("chefer", relevances)):
        ours = METHODS[name].function(encoding, text, depth=depth).flatten(2)
        torch.testing.assert_close(ours, torch.stack(wanted, dim=1), rtol=1e-6, atol=1e-10)
    ours = METHODS["legrad"].function(encoding, text, depth=1).flatten(2)
    torch.testing.assert_close(ours, torch.stack(slopes, dim=1), rtol=1e-6, atol=1e-10)


def test_pairs_add_up_with_the_positions() -> None:
    backbone = tiny.backbone(FAMILY, torch.float64)
    found = eclip.interactions(IMAGE, "a big dog", model=backbone, points=40, text_depth=1)
    assert found.total == pytest.approx(found.goal, abs=0.05 * abs(found.goal) + 1e-4)
    table = tiny._trunk(VisionTransformerRelPos, class_token=True, global_pool="token", rel_pos_type="bias")()
    for block in table.visual.trunk.blocks:  # here CLS has positions too
        torch.nn.init.normal_(block.attn.rel_pos.relative_position_bias_table)
        block.ls1.gamma.data.fill_(0.5)
    backbone = eclip.wrap(table.double().eval(), mean=tiny.MEAN, std=tiny.STD)
    encoding = encode(backbone, tiny.pixels(backbone).double())
    path = image_path(encoding, 1, 2)
    torch.testing.assert_close(path.feature, encoding.feature[0], rtol=0, atol=1e-12)


def test_one_head_for_all_and_other_sizes_are_refused() -> None:
    encoding, text = encoded(torch.float32)
    with pytest.raises(NotApplicableError, match="each has its own relative positions"):
        METHODS["gradeclip"](encoding, text, heads="single")
    with pytest.raises(OptionError, match=r"those of 32 x 32 pixels.*leave out image_size"):
        eclip.explain(IMAGE, "a dog", model=encoding.backbone, method="itsm", image_size=64)


def test_positions_of_its_own_kinds_and_blocks_of_another() -> None:
    shared = tiny._trunk(
        VisionTransformerRelPos, global_pool="avg", class_token=True, rel_pos_type="bias", shared_rel_pos=True
    )()
    torch.nn.init.normal_(shared.visual.trunk.shared_rel_pos.relative_position_bias_table)
    backbone = eclip.wrap(shared.double().eval(), mean=tiny.MEAN, std=tiny.STD)
    encoding = encode(backbone, tiny.pixels(backbone).double())
    torch.testing.assert_close(encoding.feature, shared.encode_image(encoding.pixels), rtol=0, atol=1e-12)
    block, x = encoding.blocks[-1], encoding.inputs[-1]
    q, k, _ = block.qkv(block.norm1(x))
    bias = shared.visual.trunk.shared_rel_pos.get_bias()
    row = (q @ k.transpose(-1, -2) * block.host.attn.scale + bias).softmax(dim=-1)[:, :, 1:, 1:].mean(dim=(1, 2))
    ours = METHODS["attention"](encoding, tiny.texts(backbone).double())[:, 0].flatten(1)
    torch.testing.assert_close(ours.double(), row, rtol=1e-6, atol=1e-8)
    other = tiny._trunk(VisionTransformerRelPos, block_fn=ResPostRelPosBlock)()
    with pytest.raises(UnsupportedTowerError, match="blocks of class ResPostRelPosBlock"):
        eclip.wrap(other, mean=tiny.MEAN, std=tiny.STD)


def test_unmerged_lora_gives_the_maps_of_the_merged_model() -> None:
    held = adapted(tiny.model(FAMILY), ["qkv", "proj", "mlp.fc1"])
    text, few = tiny.texts(wrapped(tiny.model(FAMILY))), ["legrad", "rollout", "surgery", "gradcam"]
    unmerged, plain = maps(wrapped(held.base_model.model), text, few), maps(wrapped(tiny.model(FAMILY)), text, few)
    for name, found in maps(wrapped(held.merge_and_unload()), text, few).items():
        assert apart(unmerged[name], found) < 2e-5 and apart(plain[name], found) > 5e-4, name


def test_compiled_copied_and_in_training_mode() -> None:
    model = tiny.model(FAMILY).train()
    backbone, text = wrapped(model), tiny.texts(tiny.backbone(FAMILY))
    before, random = _state(model), torch.get_rng_state()
    expected = maps(backbone, text, ["legrad", "rollout"])
    assert torch.equal(maps(copy.deepcopy(backbone), text, ["legrad"])["legrad"], expected["legrad"])
    _assert_same(model, before, random)
    model.visual.trunk.blocks[6] = torch.compile(model.visual.trunk.blocks[6], backend="eager")
    for name, after in maps(wrapped(model), text, list(expected)).items():
        assert apart(after, expected[name]) < 1e-5, name


def test_a_position_that_changes_after_the_encoding_is_noticed() -> None:
    encoding, text = encoded(torch.float32)
    with torch.no_grad():
        encoding.backbone.model.visual.trunk.blocks[6].attn.rel_pos.mlp.fc2.weight.mul_(2)
    with pytest.raises(StaleEncodingError, match="encode the image again"):
        METHODS["attention"](encoding, text)


def test_a_hook_on_its_attention_is_refused() -> None:
    encoding, text = encoded(torch.float32)
    encoding.backbone.model.visual.trunk.blocks[5].attn.register_forward_hook(lambda module, args, output: 1.5 * output)
    again = encode(encoding.backbone, encoding.pixels)
    with pytest.raises(AlteredModelError, match=r"hook is registered on visual\.trunk\.blocks\.5\.attn"):
        METHODS["legrad"](again, text)
