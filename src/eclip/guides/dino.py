"""Attention of a self-supervised ViT, which attends to objects although it was trained without labels.

DINO (Caron et al. 2021, https://arxiv.org/abs/2104.14294), DINOv2 (Oquab et al. 2023, https://arxiv.org/abs/2304.07193),
with registers (Darcet et al. 2023, https://arxiv.org/abs/2309.16588), DINOv3 (Siméoni et al. 2025,
https://arxiv.org/abs/2508.10104; its weights have their own license), as provided by timm.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import timm
import torch
from jaxtyping import Float
from timm.models import get_pretrained_cfg
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from eclip.backbones.backbone import DEFAULT_POSITIONS, Grid, eval_no_grad
from eclip.backbones.blocks import attention
from eclip.backbones.building import built_apart
from eclip.backbones.hub import fetch
from eclip.backbones.preprocess import INTERPOLATIONS, Preprocess
from eclip.backbones.timm_vit import BareViT, bare_vit
from eclip.errors import DownloadError, ModelError, OptionError, UnknownNameError, UnsupportedTowerError
from eclip.guides import Seen

DEFAULT = "vit_small_patch16_224.dino"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")


def dino(
    seen: Seen, *, name: str = DEFAULT, size: int | None = None, network: nn.Module | None = None
) -> Float[Tensor, "image row col"]:
    """The class token's last-block attention to the patches, averaged over heads, on the network's own grid.

    The whole image is resized to a square and normalized as the network expects. Position embeddings are resized
    bicubically with antialiasing, as in timm.

    Args:
        seen: only its images and the device of its encoding are used.
        name: of weights in timm, such as "vit_base_patch16_224.dino", "vit_small_patch14_reg4_dinov2.lvd142m" or
            "vit_small_patch16_dinov3.lvd1689m"; downloaded once, kept in memory. `timm.list_pretrained("*dino*")`
            lists them; any other timm ViT or EVA with a class token works too.
        size: side of the square in pixels, a multiple of the network's patch size; None = its training size.
        network: your own ViT from `timm.create_model`, instead of a name. It is neither changed nor moved.

    Raises:
        UnknownNameError: timm has no weights of this name.
        DownloadError: the weights are not cached and cannot be downloaded.
        UnsupportedTowerError: the network is not a supported ViT or EVA, or has no class token.
        OptionError: size is not a multiple of the patch size, or the network's preprocessing is unknown.
        ModelError: the weights cannot be loaded.
    """
    if network is None:
        network = _load(name, seen.encoding.pixels.device)
    with eval_no_grad(network):
        vit = _readable(network)
        config: dict[str, Any] = getattr(network, "pretrained_cfg", None) or {}
        mean, std = config.get("mean"), config.get("std")
        if mean is None or std is None or config.get("interpolation") not in INTERPOLATIONS:
            raise OptionError(
                "'dino' reads mean, std and interpolation (bicubic or bilinear) from network.pretrained_cfg, but they "
                "are missing or invalid. Set them, or create the network with timm.create_model."
            )
        side, patch = vit.native.row * vit.patch_size if size is None else size, vit.patch_size
        if side < patch or side % patch:
            near = max(1, round(side / patch)) * patch
            raise OptionError(f"'dino' needs size to be a multiple of {patch}, got {side}. The nearest is {near}.")
        weight = next(network.parameters())
        grid = Grid(side // patch, side // patch)
        to_pixels = Preprocess(name, grid, patch, config["interpolation"], mean, std)
        pixels = torch.stack([to_pixels(image) for image in seen.images])
        x, _ = vit.embed(pixels.to(weight), grid, DEFAULT_POSITIONS)
        *blocks, last = vit.blocks_at(grid, DEFAULT_POSITIONS)
        for block in blocks:
            x = block.forward(x)
        q, k, _ = last.qkv(last.norm1(x))
        row = attention(q[:, :, :1], k).mean(dim=1)[:, 0, vit.prefix :]  # image patch
        return row.unflatten(1, grid).to(seen.encoding.pixels.device)


def _readable(network: nn.Module) -> BareViT:
    if isinstance(network, VisionTransformer | Eva) and network.cls_token is not None:
        return bare_vit(network)
    raise UnsupportedTowerError(
        f"'dino' needs a timm ViT or EVA with a class token, and this {type(network).__name__} is not one or has none. "
        "timm.list_pretrained(\"*dino*\") lists names; the guides 'spectral' and 'backbone' need no network."
    )


@cache
def _load(name: str, device: torch.device) -> nn.Module:
    config = get_pretrained_cfg(name)
    if config is None or not config.hf_hub_id:
        raise UnknownNameError(
            "network of timm", name, timm.list_pretrained("*dino*"), 'timm.list_pretrained("*dino*")'
        )
    with torch.device("meta"):  # check support before downloading
        shape = timm.create_model(name, pretrained=False)
    try:
        _readable(shape)
        weights = sum(weight.numel() for weight in shape.parameters())
        size, instead = f"about {weights * 4 / 2**20:,.0f} MiB", "the guides 'spectral' and 'backbone' need no network"
        file = fetch(config.hf_hub_id, WEIGHTS, size, instead)
        with built_apart():
            overlay = {"file": str(file), "custom_load": False}
            network = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay)
    except (DownloadError, UnsupportedTowerError) as error:
        raise type(error)(f"{name}: {error}") from error
    except Exception as error:  # timm and the readers of its files raise RuntimeError, OSError and others alike
        raise ModelError(f"{name} cannot be loaded: {type(error).__name__}: {' '.join(str(error).split())}") from error
    return network.to(device).eval().requires_grad_(False)
