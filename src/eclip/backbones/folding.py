"""An EfficientNet with an attention pool, such as `mini`, computed faster: the same features up to rounding."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from open_clip import CLIP
from timm.layers import AttentionPool2d, Conv2dSame
from timm.layers.pos_embed import resample_abs_pos_embed
from timm.models import EfficientNet
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from eclip.backbones.host import is_all_plain, is_linear


class Padded(Conv2dSame):  # type: ignore[misc]
    """A convolution of stride 2 that pads inside, for inputs with even sides; others are padded as in timm.

    TensorFlow's padding has one row and column more below and to the right than above and to the left, which PyTorch
    pads in a copy. With a zero row and column before the kernel, equal padding on all sides gives the same values.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Outputs (image, channel, row, col)."""
        if x.shape[-2] % 2 or x.shape[-1] % 2:
            return super().forward(x)
        kernel = F.pad(self.weight, (1, 0, 1, 0))
        return F.conv2d(x, kernel, self.bias, self.stride, (self.kernel_size[0] - 1) // 2, groups=self.groups)


class OneByOne(EfficientNet):  # type: ignore[misc]
    """A trunk that on a CPU computes its images one by one: what lies between two layers then stays in the cache."""

    def forward(self, x: Tensor) -> Tensor:
        """Feature maps (image, channel, row, col)."""
        if len(x) == 1 or x.device.type != "cpu" or self.training or not is_all_plain(self):
            return super().forward(x)  # a hook would see a single image
        return torch.cat([super(OneByOne, self).forward(one) for one in x.split(1)])


class OneQuery(AttentionPool2d):  # type: ignore[misc]
    """A pool that computes its one output only: keys and values of single tokens are not needed for it."""

    def forward(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Features (image, feature), or with `pre_logits` those before the last projection."""
        if not is_linear(self.qkv):  # but an adapter, or quantized
            return super().forward(x, pre_logits)
        size = (x.shape[2], x.shape[3])
        x = x.flatten(2).transpose(1, 2)
        x = torch.cat([x.mean(1, keepdim=True), x], dim=1)
        x = x + resample_abs_pos_embed(self.pos_embed[None], size, old_size=self.feat_size, num_prefix_tokens=1)
        mixed = self.gathered(x)
        return mixed if pre_logits else self.proj(mixed)

    def gathered(self, x: Tensor) -> Tensor:
        """What the first token gathers from all tokens (image, token, channel), positions included."""
        q, k, v = self.qkv.weight.view(3, self.num_heads, self.head_dim, -1)  # head width channel
        q_bias, _, v_bias = self.qkv.bias.view(3, self.num_heads, self.head_dim)  # that of keys moves all logits alike
        query = (torch.einsum("nc,hwc->nhw", x[:, 0], q) + q_bias) * self.scale
        attention = (torch.einsum("nhw,hwc->nhc", query, k) @ x.transpose(1, 2)).softmax(-1)  # image head token
        mixed = (torch.einsum("nhc,hwc->nhw", attention @ x, v) + v_bias).flatten(1)
        gathered: Tensor = self.drop(mixed)
        return gathered


def speed_up(model: CLIP) -> None:
    """Let a CLIP with an EfficientNet under an attention pool compute faster on a CPU, in place.

    Besides `fold_norms`, modules whose forward pass can be shortened get the classes above. Weights keep their names
    and shapes.

    Args:
        model: in evaluation mode, with a joint projection of queries, keys and values, and no class token.
    """
    fold_norms(model)
    visual = model.visual
    pool = visual.head.pool
    assert type(visual.trunk) is EfficientNet and type(pool) is AttentionPool2d
    assert pool.qkv is not None and pool.cls_token is None and pool.pool_type == "token"
    visual.trunk.__class__, pool.__class__ = OneByOne, OneQuery
    for module in visual.trunk.modules():
        if type(module) is Conv2dSame and module.stride == (2, 2) and module.kernel_size in ((3, 3), (5, 5)):
            module.__class__ = Padded


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
