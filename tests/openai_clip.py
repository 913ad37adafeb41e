"""A double of OpenAI's package (https://github.com/openai/CLIP, MIT): its class, parts and state dict, for tests only.

Written from the published layout: names of modules and weights, activation, and where half precision is. Weights are
random; widths are multiples of 64, since the number of heads is not stored but is the width over 64.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LayerNorm(nn.LayerNorm):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.float()).type(x.dtype) if x.dtype == torch.float16 else super().forward(x)


class QuickGELU(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class ResidualAttentionBlock(nn.Module):
    def __init__(self, width: int, heads: int, mask: Tensor | None) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(width, heads)
        self.ln_1 = LayerNorm(width)
        inner = [("c_fc", nn.Linear(width, 4 * width)), ("gelu", QuickGELU()), ("c_proj", nn.Linear(4 * width, width))]
        self.mlp = nn.Sequential(OrderedDict(inner))
        self.ln_2 = LayerNorm(width)
        self.attn_mask = mask

    def forward(self, x: Tensor) -> Tensor:
        mask = None if self.attn_mask is None else self.attn_mask.to(x)
        normed = self.ln_1(x)
        x = x + self.attn(normed, normed, normed, need_weights=False, attn_mask=mask)[0]
        return x + self.mlp(self.ln_2(x))


class Transformer(nn.Module):
    def __init__(self, width: int, layers: int, mask: Tensor | None = None) -> None:
        super().__init__()
        self.width, self.layers = width, layers
        self.resblocks = nn.Sequential(*(ResidualAttentionBlock(width, width // 64, mask) for _ in range(layers)))

    def forward(self, x: Tensor) -> Tensor:
        return self.resblocks(x)


class VisionTransformer(nn.Module):
    def __init__(self, size: int, patch: int, width: int, layers: int, features: int) -> None:
        super().__init__()
        self.input_resolution, self.output_dim = size, features
        self.conv1 = nn.Conv2d(3, width, patch, patch, bias=False)
        self.class_embedding = nn.Parameter(width**-0.5 * torch.randn(width))
        self.positional_embedding = nn.Parameter(width**-0.5 * torch.randn((size // patch) ** 2 + 1, width))
        self.ln_pre, self.ln_post = LayerNorm(width), LayerNorm(width)
        self.transformer = Transformer(width, layers)
        self.proj = nn.Parameter(width**-0.5 * torch.randn(width, features))

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_embedding.to(x).expand(len(x), 1, -1), x], dim=1) + self.positional_embedding.to(x)
        x = self.transformer(self.ln_pre(x).transpose(0, 1)).transpose(0, 1)
        return self.ln_post(x[:, 0]) @ self.proj


class Bottleneck(nn.Module):
    def __init__(self, inside: int, width: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inside, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.avgpool = nn.AvgPool2d(stride) if stride > 1 else nn.Identity()
        self.conv3, self.bn3 = nn.Conv2d(width, 4 * width, 1, bias=False), nn.BatchNorm2d(4 * width)
        self.downsample = None
        if stride > 1 or inside != 4 * width:
            steps = [("-1", nn.AvgPool2d(stride)), ("0", nn.Conv2d(inside, 4 * width, 1, bias=False))]
            self.downsample = nn.Sequential(OrderedDict([*steps, ("1", nn.BatchNorm2d(4 * width))]))

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu())).relu()
        out = self.bn3(self.conv3(self.avgpool(out)))
        return (out + (x if self.downsample is None else self.downsample(x))).relu()


class AttentionPool2d(nn.Module):
    def __init__(self, side: int, width: int, heads: int, features: int) -> None:
        super().__init__()
        self.positional_embedding = nn.Parameter(torch.randn(side**2 + 1, width) / width**0.5)
        self.k_proj, self.q_proj, self.v_proj = (nn.Linear(width, width) for _ in range(3))
        self.c_proj = nn.Linear(width, features)
        self.num_heads = heads

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(2).permute(2, 0, 1)
        x = torch.cat([x.mean(dim=0, keepdim=True), x]) + self.positional_embedding[:, None].to(x)
        q, k, v = self.q_proj(x[:1]), self.k_proj(x), self.v_proj(x)
        q, k, v = (one.unflatten(2, (self.num_heads, -1)).permute(1, 2, 0, 3) for one in (q, k, v))
        return self.c_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))[:, 0]


class ModifiedResNet(nn.Module):
    def __init__(self, size: int, width: int, layers: tuple[int, ...], features: int) -> None:
        super().__init__()
        self.input_resolution, self.output_dim = size, features
        self.conv1 = nn.Conv2d(3, width // 2, 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width // 2)
        self.conv2 = nn.Conv2d(width // 2, width // 2, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width // 2)
        self.conv3 = nn.Conv2d(width // 2, width, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)
        self.avgpool = nn.AvgPool2d(2)
        inside = width
        for number, count in enumerate(layers):
            stage = []
            for index in range(count):
                stage.append(Bottleneck(inside, width * 2**number, 2 if number and not index else 1))
                inside = 4 * width * 2**number
            setattr(self, f"layer{number + 1}", nn.Sequential(*stage))
        self.attnpool = AttentionPool2d(size // 32, width * 32, width * 32 // 64, features)

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(self.conv1.weight)
        for number in (1, 2, 3):
            x = getattr(self, f"bn{number}")(getattr(self, f"conv{number}")(x)).relu()
        x = self.avgpool(x)
        return self.attnpool(self.layer4(self.layer3(self.layer2(self.layer1(x)))))


class CLIP(nn.Module):
    def __init__(self, visual: nn.Module, features: int = 24, context: int = 77, words: int = 49408) -> None:
        super().__init__()
        self.context_length, self.vocab_size, width = context, words, 64
        self.visual = visual
        mask = torch.full((context, context), float("-inf")).triu_(1)
        self.transformer = Transformer(width, 2, mask)
        self.token_embedding = nn.Embedding(words, width)
        self.positional_embedding = nn.Parameter(0.1 * torch.randn(context, width))
        self.ln_final = LayerNorm(width)
        self.text_projection = nn.Parameter(width**-0.5 * torch.randn(width, features))
        self.logit_scale = nn.Parameter(torch.tensor(2.6593))

    def initialize_parameters(self) -> None:
        raise NotImplementedError("weights are given")

    @property
    def dtype(self) -> torch.dtype:
        return self.visual.conv1.weight.dtype

    def encode_image(self, image: Tensor) -> Tensor:
        return self.visual(image.type(self.dtype))

    def encode_text(self, text: Tensor) -> Tensor:
        x = self.token_embedding(text).type(self.dtype) + self.positional_embedding.type(self.dtype)
        x = self.ln_final(self.transformer(x.transpose(0, 1)).transpose(0, 1)).type(self.dtype)
        return x[torch.arange(len(x)), text.argmax(dim=-1)] @ self.text_projection


for _one in (CLIP, VisionTransformer, ModifiedResNet):
    _one.__module__ = "clip.model"


def model(kind: str) -> Any:
    """As `clip.load` gives it on a CPU: float32, in evaluation mode, weights that want gradients."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        visual = VisionTransformer(32, 8, 64, 3, 24) if kind == "ViT" else ModifiedResNet(64, 8, (1, 2, 1, 1), 24)
        made = CLIP(visual)
        for module in made.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
    return made.eval()


def halve(made: Any) -> Any:
    """`convert_weights` of the package: half precision but for norms, embeddings of places and words, and the scale."""
    for module in made.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.half()
        if isinstance(module, nn.MultiheadAttention):
            module.in_proj_weight.data = module.in_proj_weight.data.half()
            module.in_proj_bias.data = module.in_proj_bias.data.half()
        for name in ("text_projection", "proj"):
            if isinstance(weight := getattr(module, name, None), nn.Parameter):
                weight.data = weight.data.half()
    return made
