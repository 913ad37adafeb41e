"""CNNs of timm that average their last feature map: ConvNeXt, and FastViT in MobileCLIP. They have no attention block.

Each position of the map is a token. What the model computes from the average, it can compute from one position: the
feature of an image that looks like this position everywhere.
"""

from __future__ import annotations

from typing import Any

from open_clip.timm_model import TimmModel
from timm.models.convnext import ConvNeXt
from timm.models.fastvit import FastVit
from torch import Tensor

from eclip.backbones.backbone import Grid, Positions
from eclip.backbones.catalog import CNN
from eclip.errors import unsupported

CNNS = (ConvNeXt, FastVit)


def timm_cnn(visual: TimmModel) -> dict[str, Any]:
    """The fields of a Backbone that depend on the tower."""
    trunk: Any = visual.trunk
    pool = getattr(getattr(trunk.head, "global_pool", None), "pool_type", "")
    if pool != "avg":
        raise unsupported(f"a timm {type(trunk).__name__} with {pool or 'no'} pooling instead of the average")
    stride = int(trunk.feature_info[-1]["reduction"])

    def embed(pixels: Tensor, grid: Grid, positions: Positions) -> tuple[Tensor, Tensor]:
        last = trunk.forward_features(pixels)
        if last.ndim != 4 or tuple(last.shape[-2:]) != grid:
            raise unsupported(f"a timm CNN whose feature map is {tuple(last.shape)} where the grid is {tuple(grid)}")
        return last.flatten(2).transpose(1, 2), last

    def normed(tokens: Tensor) -> Tensor:
        """The trunk's head up to its classifier, for each token as a map of one position."""
        maps = tokens.reshape(-1, tokens.shape[-1], 1, 1)
        return trunk.forward_head(maps, pre_logits=True).reshape(tokens.shape)

    def to_feature(rows: Tensor) -> Tensor:
        return visual.head(trunk.get_classifier()(rows))

    return {
        "family": CNN,
        "native": Grid(*(side // stride for side in visual.image_size)),
        "patch_size": stride,
        "prefix": 0,
        "embed": embed,
        "blocks_at": lambda grid, positions: (),
        "project": lambda tokens: to_feature(normed(tokens)),
        "pool": lambda tokens: to_feature(normed(tokens.mean(dim=1))),
        "pooling": "average",
        "final_norm": normed,
        "to_feature": to_feature,
    }
