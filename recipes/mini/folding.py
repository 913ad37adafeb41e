"""Batch norms folded into the convolutions before them: the same model, but faster."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


def fold_norms(model: nn.Module) -> None:
    """Fold each batch norm into the convolution before it, in place, and lay the weights out channels last.

    On a CPU this makes an EfficientNet two to three times as fast. Outputs differ by rounding only: the new weights are
    computed in float64.

    Args:
        model: in evaluation mode; each batch norm that follows a convolution among the children of a module must be
            applied to its output, as in timm's EfficientNets.
    """
    for parent in list(model.modules()):
        for (first, conv), (second, norm) in pairwise(list(parent.named_children())):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                dtype = conv.weight.dtype
                folded = fuse_conv_bn_eval(conv.double(), norm.double()).to(dtype)
                setattr(parent, first, folded.requires_grad_(False))
                setattr(parent, second, getattr(norm, "act", nn.Identity()))  # timm's norms contain the activation
    model.to(memory_format=torch.channels_last)
