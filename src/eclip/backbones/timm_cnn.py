"""Towers of timm that average their last feature map: ConvNeXt, FastViT in MobileCLIP, and Swin.

None has an attention block over all patches: CNNs have no attention, and Swin attends within windows. Each position of
the map is a token. What the model computes from the average, it can compute from one position: the
feature of an image that looks like this position everywhere.
"""

from __future__ import annotations

from typing import Any

from open_clip.timm_model import TimmModel
from timm.models.convnext import ConvNeXt
from timm.models.fastvit import FastVit
from timm.models.swin_transformer import SwinTransformer
from torch import Tensor

from eclip.backbones.backbone import Grid, Positions
from eclip.backbones.catalog import CNN, SWIN
from eclip.errors import OptionError, unsupported

CNNS = (ConvNeXt, FastVit, SwinTransformer)


def timm_cnn(visual: TimmModel) -> dict[str, Any]:
    """The fields of a Backbone that depend on the tower."""
    trunk: Any = visual.trunk
    pool = getattr(getattr(trunk.head, "global_pool", None), "pool_type", "")
    if pool != "avg":
        raise unsupported(f"a timm {type(trunk).__name__} with {pool or 'no'} pooling instead of the average")
    stride, swin = int(trunk.feature_info[-1]["reduction"]), isinstance(trunk, SwinTransformer)
    native = Grid(*(side // stride for side in visual.image_size))

    def embed(pixels: Tensor, grid: Grid, positions: Positions) -> tuple[Tensor, Tensor]:
        if swin and grid != native and not trunk.dynamic_img_size:
            raise OptionError(
                f"this Swin was built for {visual.image_size[0]} x {visual.image_size[1]} pixels, and its windows fit "
                "no other size: leave out image_size, and leave resize at 'squash'."
            )
        last = trunk.forward_features(pixels)
        last = last.movedim(-1, 1) if swin else last  # image channel row col
        if last.ndim != 4 or tuple(last.shape[-2:]) != grid:
            kind = type(trunk).__name__
            raise unsupported(f"a timm {kind} whose feature map is {tuple(last.shape)} where the grid is {tuple(grid)}")
        return last.flatten(2).transpose(1, 2), last

    def normed(tokens: Tensor) -> Tensor:
        """The trunk's head up to its classifier, for each token as a map of one position."""
        maps = tokens.reshape(-1, *((1, 1, tokens.shape[-1]) if swin else (tokens.shape[-1], 1, 1)))
        return trunk.forward_head(maps, pre_logits=True).reshape(tokens.shape)

    def to_feature(rows: Tensor) -> Tensor:
        return visual.head(trunk.get_classifier()(rows))

    return {
        "family": SWIN if swin else CNN,
        "native": native,
        "patch_size": stride,
        "prefix": 0,
        "embed": embed,
        "blocks_at": lambda grid, positions: (),
        "project": lambda tokens: to_feature(normed(tokens)),
        "pool": lambda tokens: to_feature(normed(tokens.mean(dim=1))),
        "pooling": "average",
        "norm": lambda: normed,
        "to_feature": to_feature,
    }
