"""The image side behind the frozen trunk, the adapter of the sentence encoder, and an average of weights."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import torch
import torch.nn.functional as F
from features import as_tokens, build_trunk, halves, on_grid
from names import COCO, MENTIONED
from reduce import KEPT
from timm.layers import AttentionPool2d
from timm.layers.pos_embed import resample_abs_pos_embed
from torch import Tensor, nn

from eclip.backbones.folding import fold_norms

FEATURE = 256


class Pool(nn.Module):
    """timm's attention pool over tokens, computed with only the mean token as query.

    With one query the keys and values need not be formed for every token: q . (W x) = (W^T q) . x, and the mean of the
    values is W applied to the mean of the tokens. Same numbers, a thirtieth of the work.
    """

    def __init__(self, channels: int = KEPT) -> None:
        super().__init__()
        self.pool = AttentionPool2d(channels, feat_size=(7, 7), embed_dim=1280, out_features=FEATURE)

    def full(self, basis: dict[str, Tensor]) -> Pool:
        """The same pool on unreduced tokens: (x - mean) @ matrix + position = (x + full position - mean) @ matrix."""
        matrix = basis["directions"] / basis["scale"]
        back = basis["directions"] * basis["scale"]
        state = dict(self.pool.state_dict())
        weight = state["qkv.weight"] @ matrix.T
        state.update(
            {
                "qkv.weight": weight,
                "qkv.bias": state["qkv.bias"] - weight @ basis["mean"],
                "pos_embed": state["pos_embed"] @ back.T,
            }
        )
        full = Pool(1280)
        full.pool.load_state_dict(state)
        return full

    def positions(self, side: int) -> tuple[Tensor, Tensor]:
        """Position of the mean token and of the others, resampled to a grid of this many tokens a side."""
        position = resample_abs_pos_embed(
            self.pool.pos_embed[None], (side, side), old_size=(7, 7), num_prefix_tokens=1
        )[0]
        return position[0], position[1:]

    def split(self) -> tuple[Tensor, ...]:
        """Query, key and value weights (head width channel), then their biases (head width)."""
        heads, width = self.pool.num_heads, self.pool.head_dim
        weight = self.pool.qkv.weight.view(3, heads, width, -1)
        bias = self.pool.qkv.bias.view(3, heads, width)
        return *weight, *bias

    def forward(
        self,
        tokens: Tensor,
        keep: Tensor | None = None,
        flip: bool = False,
        drop: float = 0.0,
        some: tuple[int, Tensor] | None = None,
    ) -> Tensor:
        """Tokens (image, token, channel) to features (image, feature).

        `keep` (image, token) leaves tokens out, `flip` mirrors the grid, `drop` is the share of channels set to zero
        in all tokens of an image; each acts on the small tensors, not on the tokens. If the tokens are not a whole
        grid, `some` has its side and their places on it.
        """
        wq, wk, wv, bq, _, bv = self.split()
        side, places = some or (math.isqrt(tokens.shape[1]), slice(None))
        first, rest = self.positions(side)
        if flip:
            rest = rest.view(side, side, -1).flip(1).flatten(0, 1)
        rest = rest[places]
        if keep is None:
            mean = tokens.mean(1)
        else:
            share = keep.float() / keep.sum(1, keepdim=True)
            mean = torch.bmm(share[:, None], tokens)[:, 0]
        channels = (torch.rand_like(mean) >= drop) / (1 - drop) if drop else torch.ones_like(mean)
        mean = mean * channels + first
        q = torch.einsum("ic,hdc->ihd", mean, wq) + bq
        qk = torch.einsum("ihd,hdc->ihc", q, wk) * self.pool.scale
        own = torch.einsum("ihc,ic->ih", qk, mean)[..., None]
        logit = torch.bmm(tokens, (qk * channels[..., None, :]).transpose(1, 2)).transpose(1, 2) + qk @ rest.T
        if keep is not None:
            logit = logit.masked_fill(~keep[:, None], -1e4)
        attn = torch.cat([own, logit], 2).softmax(2)  # image head token
        mixed = torch.bmm(attn[..., 1:], tokens) * channels[..., None, :]
        mixed = mixed + attn[..., :1] * mean[:, None] + attn[..., 1:] @ rest
        value = torch.einsum("ihc,hdc->ihd", mixed, wv) + bv
        return self.pool.proj(value.flatten(1))

    def value(self, tokens: Tensor) -> Tensor:
        """The value path of single tokens (..., channel) without positions."""
        wv, bv = self.pool.qkv.weight[-1280:], self.pool.qkv.bias[-1280:]
        weight = self.pool.proj.weight @ wv
        return tokens @ weight.T + (self.pool.proj.weight @ bv + self.pool.proj.bias)


class Last(nn.Module):
    """The trunk's last part, with its norms folded into its convolutions."""

    def __init__(self, trunk: nn.Module) -> None:
        super().__init__()
        self.part = copy.deepcopy(halves(trunk)[1])
        fold_norms(self.part)
        self.part.requires_grad_(True)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens of a square (image, token, 192) to tokens (image, token, 1280)."""
        return as_tokens(self.part(on_grid(tokens)))


class Adapter(nn.Module):
    """MiniLM vectors to the shared space: a linear map plus a small MLP."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(384, FEATURE, bias=False)
        self.mlp = nn.Sequential(
            nn.Dropout(0.1), nn.Linear(384, 768), nn.GELU(), nn.Dropout(0.2), nn.Linear(768, FEATURE)
        )

    def forward(self, vectors: Tensor) -> Tensor:
        """Sentence vectors to unit features."""
        return F.normalize(self.linear(vectors) + self.mlp(vectors), dim=-1)


class Model(nn.Module):
    """Pool, text adapter and the learned scales of the losses; behind the trunk's `last` part if it has one."""

    def __init__(self, last: Last | None = None) -> None:
        super().__init__()
        self.last: nn.Module = last or nn.Identity()
        self.image = Pool(KEPT if last is None else 1280)
        self.text = Adapter()
        self.log_scale = nn.Parameter(torch.tensor(math.log(20.0)))
        self.name_scale = nn.Parameter(torch.tensor(math.log(20.0)))
        self.mention_scale = nn.Parameter(torch.tensor(math.log(15.0)))
        self.mention_bias = nn.Parameter(torch.full((len(MENTIONED),), -4.0))
        self.label_scale = nn.Parameter(torch.tensor(math.log(15.0)))
        self.label_bias = nn.Parameter(torch.full((len(COCO),), -4.0))
        self.token_scale = nn.Parameter(torch.tensor(math.log(15.0)))
        self.where_scale = nn.Parameter(torch.tensor(math.log(15.0)))
        self.phrase_scale = nn.Parameter(torch.tensor(math.log(20.0)))


def load_model(work: Path, size: int, name: str) -> Model:
    """A trained model, in front of the trunk's last part; one trained on reduced tokens is converted."""
    state = torch.load(work / f"{name}.pt", weights_only=True)
    last = Last(build_trunk())
    if any(key.startswith("last.") for key in state):
        model = Model(last)
        model.load_state_dict(state)
        return model
    model = Model()
    model.load_state_dict(state)
    model.last = last
    model.image = model.image.full(torch.load(work / str(size) / "basis.pt", weights_only=True))
    return model


class Average:
    """Exponential moving average of the weights."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay, self.steps = decay, 0
        self.state = {name: value.detach().clone() for name, value in model.state_dict().items()}

    def update(self, model: nn.Module) -> None:
        """Take one step toward the current weights."""
        self.steps += 1
        decay = min(self.decay, self.steps / (self.steps + 10))
        for name, value in model.state_dict().items():
            self.state[name].lerp_(value.detach(), 1 - decay)
