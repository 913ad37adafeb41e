"""Tiny open_clip models with random weights, one of each family, built in code. For tests only."""

from __future__ import annotations

import copy
import io
import pickle
import weakref
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import open_clip
import torch
from open_clip.timm_model import TimmModel
from timm.layers import HybridEmbed
from timm.models.eva import Eva
from timm.models.fastvit import FastVit
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from timm.models.vision_transformer_relpos import VisionTransformerRelPos
from timm.models.vitamin import GeGluMlp
from torch import nn

import eclip
from eclip.backbones.backbone import Backbone
from eclip.backbones.head import EclipHead
from eclip.backbones.state import image_state, text_state

torch.set_num_threads(1)  # these models are too small for two

TEXT = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
VIT = {"image_size": 32, "patch_size": 8, "width": 32, "head_width": 16, "layers": 7}
MEAN, STD = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD


def _clip(vision: dict[str, Any], **options: Any) -> nn.Module:
    return open_clip.CLIP(embed_dim=24, vision_cfg=vision, text_cfg=dict(TEXT), **options)


def _vit(**options: Any) -> nn.Module:
    return _clip({**VIT, **options}, quick_gelu=True)


def _rect() -> nn.Module:
    return _clip({**VIT, "image_size": (32, 48)}, quick_gelu=True)


def _resnet() -> nn.Module:
    return _clip({"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None})


def _pooled(pool: str) -> Callable[[], nn.Module]:
    vision = {"image_size": 96, "timm_model_name": "test_efficientnet", "timm_pool": pool, "timm_proj": ""}
    return lambda: _clip(vision)


def _siglip() -> nn.Module:
    model = open_clip.CustomTextCLIP(
        embed_dim=32,
        vision_cfg={"image_size": 32, "timm_model_name": "test_vit", "timm_pool": "avg", "timm_proj": "none"},
        text_cfg=dict(TEXT),
        init_logit_bias=-10,
    )
    visual: TimmModel = model.visual
    visual.trunk = VisionTransformer(
        img_size=32,
        patch_size=8,
        embed_dim=32,
        depth=7,
        num_heads=2,
        class_token=False,
        global_pool="map",
        num_classes=0,
    )
    return model


def _trunk(build: Callable[..., nn.Module], **options: Any) -> Callable[[], nn.Module]:
    """A trunk of timm in open_clip's model, whose last linear layer is the projection."""

    def make() -> nn.Module:
        model = _clip({"image_size": 32, "timm_model_name": "test_vit", "timm_pool": "token", "timm_proj": ""})
        shape = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 7, "num_heads": 2, "num_classes": 24}
        model.visual.trunk = build(**{**shape, **options})
        return model

    return make


def _behind_convolutions(**shape: Any) -> nn.Module:
    """As ViTamin: strided convolutions, then blocks with gated MLPs, and the mean of the patches."""
    stem = nn.Sequential(nn.Conv2d(3, 16, 4, 4), nn.GELU(), nn.Conv2d(16, 32, 2, 2))
    return VisionTransformer(
        **{**shape, "patch_size": 1},
        embed_layer=partial(HybridEmbed, backbone=stem, proj=False),
        mlp_layer=GeGluMlp,
        class_token=False,
        global_pool="avg",
    )


def _convnext() -> nn.Module:
    return _clip({"image_size": 96, "timm_model_name": "test_convnext", "timm_pool": "", "timm_proj": "linear"})


def _fastvit() -> nn.Module:
    """As in MobileCLIP-S: convolutions, attention in the last stage, and timm's classifier as the projection."""
    model = _clip({"image_size": 64, "timm_model_name": "test_convnext", "timm_pool": "avg", "timm_proj": None})
    shape = {"layers": (1,) * 4, "embed_dims": (8, 16, 32, 64), "mlp_ratios": (2,) * 4, "num_classes": 24}
    model.visual.trunk = FastVit(token_mixers=("repmixer", "repmixer", "repmixer", "attention"), **shape)
    return model


def _swin() -> nn.Module:
    """Windows of 4 x 4, shifted in every second block, and a last stage that is one window."""
    model = _clip({"image_size": 64, "timm_model_name": "test_convnext", "timm_pool": "avg", "timm_proj": None})
    shape = {"img_size": 64, "patch_size": 4, "embed_dim": 8, "depths": (2, 1, 1), "num_heads": (1, 2, 2)}
    model.visual.trunk = SwinTransformer(**shape, window_size=4, num_classes=24)
    return model


def _relpos(**shape: Any) -> nn.Module:
    """Relative positions by a small network in each block, large enough to matter."""
    built = VisionTransformerRelPos(**shape, class_token=True, global_pool="token", rel_pos_dim=8, init_values=0.5)
    for block in built.blocks:
        nn.init.normal_(block.attn.rel_pos.mlp.fc2.weight)
        nn.init.normal_(block.attn.rel_pos.mlp.fc1.weight)
    return built


PE = {
    "attn_type": "rope",
    "use_pre_transformer_norm": True,
    "ref_feat_shape": (4, 4),
    "rope_grid_offset": 1.0,
    "rope_grid_indexing": "xy",
    "attn_pool_num_heads": 4,
    "attn_pool_mlp_ratio": 2.0,
}
"""As PE-Core."""
EVA02 = {
    "global_pool": "token",
    "use_rot_pos_emb": True,
    "ref_feat_shape": (3, 3),
    "swiglu_mlp": True,
    "scale_mlp": True,
    "scale_attn_inner": True,
    "qkv_fused": False,
}

FAMILIES: dict[str, Callable[[], nn.Module]] = {
    "vit": _vit,
    "vit without ln_pre": lambda: _vit(no_ln_pre=True),
    "vit with layer scale": lambda: _vit(ls_init_value=0.5),
    "vit with query norm": lambda: _vit(qk_norm=True, scale_attn_inner=True, scale_heads=True, scale_attn=True),
    "vit, average pool": lambda: _vit(pool_type="avg"),
    "vit, norm after pool": lambda: _vit(pool_type="avg", final_ln_after_pool=True),
    "vit, coca's pooler": lambda: _vit(attentional_pool=True, attn_pooler_heads=2, attn_pooler_queries=5),
    "vit, not square": _rect,
    "resnet": _resnet,
    "timm abs_attn": _pooled("abs_attn"),
    "timm rot_attn": _pooled("rot_attn"),
    "siglip": _siglip,
    "timm vit": _trunk(VisionTransformer, global_pool="token", no_embed_class=True, init_values=0.5),
    "timm vit, average pool": _trunk(_behind_convolutions),
    "eva": _trunk(Eva, global_pool="token", init_values=0.5),
    "eva02": _trunk(Eva, **EVA02),
    "eva with map head": _trunk(Eva, global_pool="map", use_rot_pos_emb=True, **PE),
    "eva, norms behind": _trunk(Eva, global_pool="token", use_post_norm=True),
}


CNNS: dict[str, Callable[[], nn.Module]] = {"convnext": _convnext, "fastvit": _fastvit, "swin": _swin}
"""Towers without an attention block, to which few methods are applicable: see test_cnn.py."""
FIXED: dict[str, Callable[[], nn.Module]] = {"timm vit, relative positions": _trunk(_relpos)}
"""Towers that read images of their training size only: see test_relpos.py."""
AVERAGED = ("vit, average pool", "vit, norm after pool", "timm vit, average pool")
POOLS = ("resnet", "timm abs_attn", "timm rot_attn")
GAPS: dict[str, tuple[str, ...]] = {
    "rollout": POOLS,
    "gradeclip": AVERAGED,
    "decompose": (*AVERAGED, "vit with query norm", "eva02", "eva, norms behind"),
}
"""Methods and the families to which they are not applicable."""

FEW: dict[str, dict[str, Any]] = {"rise": {"mask_count": 12}, "gscorecam": {"channels": 12}}
"""Options that make perturbation methods quick."""


@cache
def _model(family: str, seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        built = (FAMILIES | CNNS | FIXED)[family]()
        for weight in built.parameters():
            weight.data.add_(0.02 * torch.randn_like(weight))
        for module in built.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.data.uniform_(0.5, 1.5)
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
    return built.eval()


class _Pickler(pickle.Pickler):
    """Pickles all but the tensors, which it keeps."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.tensors: list[torch.Tensor] = []

    def persistent_id(self, value: Any) -> int | None:
        if not isinstance(value, torch.Tensor):
            return None
        self.tensors.append(value)
        return len(self.tensors) - 1


class _Unpickler(pickle.Unpickler):
    """Unpickles what `_Pickler` pickled, with copies of the tensors."""

    def __init__(self, file: io.BytesIO, tensors: list[torch.Tensor]) -> None:
        super().__init__(file)
        self.tensors, self.copies = tensors, dict[int, Any]()

    def persistent_load(self, place: int) -> torch.Tensor:
        return copy.deepcopy(self.tensors[place], self.copies)


@cache
def _pickled(family: str, seed: int) -> tuple[bytes, list[torch.Tensor]]:
    pickler = _Pickler(file := io.BytesIO())
    pickler.dump(_model(family, seed))
    return file.getvalue(), pickler.tensors


def model(family: str, seed: int = 0) -> nn.Module:
    """A copy of the model, with noise on every weight, so that terms that start at zero or one matter.

    Made by pickle, which takes a quarter of the time of `copy.deepcopy`.
    """
    content, tensors = _pickled(family, seed)
    return _Unpickler(io.BytesIO(content), tensors).load()


@cache
def _tokenizer() -> open_clip.SimpleTokenizer:
    return open_clip.SimpleTokenizer()


def backbone(family: str, dtype: torch.dtype = torch.float32) -> Backbone:
    """A model of its own at each call, so that a test may break it, with a head of random weights."""
    bare = eclip.wrap(model(family).to(dtype), tokenizer=_tokenizer(), mean=MEAN, std=STD, name=family)
    return eclip.with_head(bare, EclipHead.start(bare, init="random"))


@cache
def kept(family: str, dtype: torch.dtype = torch.float32) -> Backbone:
    """One model for all tests that only read it; conftest.py checks that they do."""
    return remember(backbone(family, dtype))


_remembered: list[tuple[Backbone, object]] = []


def remember(of: Backbone) -> Backbone:
    """Have it checked at the end that nothing of this model has changed."""
    _remembered.append((of, _condition(of)))
    return of


def changed() -> list[str]:
    """Names of remembered models of which something has changed since."""
    return [of.name for of, before in _remembered if _condition(of) != before]


def _condition(of: Backbone) -> object:
    flags = [module.training for module in of.model.modules()], [one.requires_grad for one in of.model.parameters()]
    return image_state(of), text_state(of), flags


def pixels(of: Backbone, images: int = 2, rows: int = 0, cols: int = 0, seed: int = 0) -> torch.Tensor:
    """Random pixels on the native grid, or on another by its number of patches."""
    height, width = (rows or of.native.row) * of.patch_size, (cols or of.native.col) * of.patch_size
    return torch.randn(images, 3, height, width, generator=torch.Generator().manual_seed(seed))


_widths = weakref.WeakKeyDictionary[nn.Module, int]()


def texts(of: Backbone, count: int = 3, seed: int = 1) -> torch.Tensor:
    width = _widths.get(of.model)
    if width is None:
        width = _widths[of.model] = of.encode_text(["a"]).shape[1]
    return nn.functional.normalize(torch.randn(count, width, generator=torch.Generator().manual_seed(seed)), dim=-1)
