"""GEM, grounding everything (Bousselham et al. 2024, https://arxiv.org/abs/2312.00878).

Formula as in the copy of GEM in mc-lan/ClearCLIP, commit ad68a40; the authors' own code is WalBouss/GEM.
Differs from it: cosines only, any grid; attention pools, which have no residual, use only the mean of the three.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize
from torch.nn.functional import scaled_dot_product_attention as attend

from eclip.backbones.blocks import Heads, cosine
from eclip.backbones.encoding import Encoding
from eclip.errors import OptionError


def gem(
    encoding: Encoding,
    text: Float[Tensor, "text feature"],
    *,
    depth: int = 6,
    iterations: int = 1,
    residual: bool = True,
) -> Float[Tensor, "image text row col"]:
    """Cosine of tokens after self-self attention of values, keys and queries in the last blocks.

    For each z in v, k, q: normalize per head, repeat z <- unit(softmax(t z z) z) `iterations` times, then compute
    softmax(t z z) v. The mean of the three is projected into a second stream without MLPs. The temperature t is the
    mean norm of an image's tokens after layer norm, divided by sqrt(width).

    Args:
        encoding: with the last `depth` blocks kept.
        text: unit length.
        depth: how many last blocks feed the second stream, all if there are fewer; the authors use six.
        iterations: how often z is sharpened, 0 or more; the authors use one.
        residual: False uses only the output of the last block instead of the sum.

    Returns:
        Cosines in [-1, 1].

    Raises:
        OptionError: depth below 1 or iterations below 0.
    """
    if depth < 1 or iterations < 0:
        raise OptionError(f"'gem' needs depth >= 1 and iterations >= 0, got {depth} and {iterations}.")
    features = encoding.once(
        ("gem", depth, iterations, residual), lambda: _features(encoding, depth, iterations, residual)
    )
    return encoding.on_grid(cosine(features, text))


def _features(encoding: Encoding, depth: int, iterations: int, residual: bool) -> Float[Tensor, "image patch feature"]:
    tail = encoding.tail(depth if residual else 1, "gem")
    stream: Tensor | float = tail[0][1] if residual and tail[0][0].residual else 0.0
    for block, x in tail:
        normed = block.norm1(x)
        q, k, v = encoding.qkv(block, x)
        sharpness = normed.norm(dim=-1).mean(dim=1)[:, None, None, None] * v.shape[-1] ** -0.5  # one per image
        mixed = (_self_self(v, v, sharpness, iterations) + _self_self(k, v, sharpness, iterations)) / 3
        stream = stream + block.out(mixed + _self_self(q, v, sharpness, iterations) / 3)
    assert isinstance(stream, Tensor)
    return encoding.backbone.project(stream[:, encoding.prefix :])


def _self_self(z: Heads, v: Heads, sharpness: Tensor, iterations: int) -> Heads:
    z = normalize(z, dim=-1)
    for _ in range(iterations):
        z = normalize(attend(z * sharpness, z, z, scale=1.0), dim=-1)
    return attend(z * sharpness, z, v, scale=1.0)
