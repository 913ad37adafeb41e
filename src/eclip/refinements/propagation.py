"""Label propagation on a graph: weights between nodes, and the linear system that spreads values along them.

LPOSS (Stojnić et al. 2025, CVPR, https://arxiv.org/abs/2503.19777), after Zhou et al. 2003: values Z solve
`(I - alpha W_n) Z = Y` with `W_n = D^-1/2 W D^-1/2`, D the row sums of the weights W. Z is Y plus contributions along
one edge, two edges, ..., damped by alpha per edge. Code: vladan-stojnic/LPOSS (MIT), commit e489a74, reimplemented.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from eclip.backbones.backbone import Grid
from eclip.backbones.blocks import Fn


def patch_centers(grid: Grid, patch_size: int) -> Float[Tensor, "patch 2"]:
    """The center of each patch, (down, across) in pixels; patches row by row."""
    down, across = (
        patch_size // 2 + patch_size * torch.arange(count, dtype=torch.float32, device="cpu") for count in grid
    )
    return torch.cartesian_prod(down, across)


def patch_weights(
    features: Float[Tensor, "*batch node channel"],
    centers: Float[Tensor, "node 2"],
    *,
    k: int,
    gamma: float,
    sigma: float,
) -> Float[Tensor, "*batch node other"]:
    """Weights between patches: `A + A^T` without its diagonal, A the similarity of each patch to its k most similar.

    The similarity is `max(cosine, 0)^gamma * exp(-sigma * distance)`. The k are selected by cosine alone and include
    the patch itself, as in the authors' code. Patches of several windows of an image may be nodes of one graph.

    Args:
        features: unit length.
        centers: in pixels.
        k: at least 1; all patches if there are fewer.
        gamma: above 0.
        sigma: at least 0, per pixel of distance.
    """
    likeness, index = (features @ features.transpose(-1, -2)).topk(min(k, features.shape[-2]), dim=-1)
    centers = centers.to(features)
    apart = centers[:, None] - centers
    near = torch.exp(-sigma * apart.norm(dim=-1)).expand(*features.shape[:-1], -1)
    directed = torch.zeros_like(near.contiguous())
    directed.scatter_(-1, index, likeness.clamp(0, 1) ** gamma * near.gather(-1, index))
    weights = directed + directed.transpose(-1, -2)
    return weights * (1 - torch.eye(weights.shape[-1], dtype=weights.dtype, device=weights.device))


def balance(weights: Float[Tensor, "*batch node other"]) -> Float[Tensor, "*batch node other"]:
    """`D^-1/2 W D^-1/2`: symmetric, eigenvalues in [-1, 1]. Rows of isolated nodes stay zero."""
    scale = _inverse_root(weights.sum(dim=-1))
    return scale[..., :, None] * weights * scale[..., None, :]


def _inverse_root(degree: Tensor) -> Tensor:
    return torch.where(degree > 0, degree, 1).rsqrt()


@dataclass(frozen=True, eq=False)
class PixelGraph:
    """Balanced weights between each pixel of an image and those in a window around it, stored as stencils.

    Attributes:
        size: (height, width).
        ends: indices of all pixels that have a neighbor at one shift, and of the neighbors; opposite shifts are one.
        weights: for each shift, between each of these pixels and its neighbor.
    """

    size: tuple[int, int]
    ends: list[tuple[Any, Any]]
    weights: list[Float[Tensor, "_ _"]]

    def spread(self, values: Float[Tensor, "*batch node"]) -> Float[Tensor, "*batch node"]:
        """Multiply the weights by values; nodes are pixels, row by row."""
        values = values.unflatten(-1, self.size)
        spread = torch.zeros_like(values)
        for (here, there), weight in zip(self.ends, self.weights, strict=True):
            spread[here].addcmul_(weight, values[there])
            spread[there].addcmul_(weight, values[here])
        return spread.flatten(-2)


def _ends(size: tuple[int, int], shift: tuple[int, int]) -> tuple[Any, Any]:
    (height, width), (down, across) = size, shift
    left, right = max(0, -across), max(0, across)
    return (
        (..., slice(0, height - down), slice(left, width - right)),
        (..., slice(down, height), slice(right, width - left)),
    )


def pixel_graph(colors: Float[Tensor, "channel height width"], *, radius: int, tau: float) -> PixelGraph:
    """Weights `exp(-|color difference| / tau)` between pixels at most `radius` rows and columns apart, balanced.

    It stores `2 radius (radius + 1)` numbers per pixel: 84 for a window of 13, 34 MiB for 320 x 320 pixels.

    Args:
        colors: of one image, in a space where distance measures difference, such as Lab.
        radius: at least 1.
        tau: above 0.
    """
    size = (colors.shape[1], colors.shape[2])
    ends = [
        _ends(size, (down, across))
        for down in range(min(radius, size[0] - 1) + 1)
        for across in range(-min(radius, size[1] - 1), min(radius, size[1] - 1) + 1)
        if (down, across) > (0, 0)
    ]
    weights = [torch.exp((colors[here] - colors[there]).norm(dim=0) / -tau) for here, there in ends]
    graph = PixelGraph(size, ends, weights)
    scale = _inverse_root(graph.spread(colors.new_ones(size[0] * size[1]))).unflatten(0, size)
    for (here, there), weight in zip(ends, weights, strict=True):
        weight.mul_(scale[here]).mul_(scale[there])
    return graph


def propagate(
    values: Float[Tensor, "*batch node"], spread: Fn, *, alpha: float, steps: int, tolerance: float = 1e-6
) -> Float[Tensor, "*batch node"]:
    """Solve `(I - alpha W_n) Z = Y` by conjugate gradients from zero, each row of values independently.

    A row stops when its residual is at most `tolerance` times its own length, so scaling values, also by -1, scales the
    result. Each row has its own step sizes; the solution of a sum is therefore the sum only up to the residual.

    Args:
        values: Y.
        spread: values -> W_n times the values, symmetric, eigenvalues in [-1, 1].
        alpha: at least 0 and below 1.
        steps: maximum number of steps; enough of them reach the exact solution up to the tolerance.
        tolerance: relative to the length of Y.
    """
    result, rest = torch.zeros_like(values), values.clone()
    way, length = rest, _dot(rest, rest)
    goal = tolerance**2 * length
    for _ in range(steps):
        active = length > goal
        if not active.any():
            break
        image = way - alpha * spread(way)
        step = _over(length, _dot(way, image), active)
        result = result + step * way
        rest = rest - step * image
        new = _dot(rest, rest)
        way = rest + _over(new, length, active) * way
        length = torch.where(active, new, length)
    return result


def with_ones(maps: Float[Tensor, "image text row col"]) -> Float[Tensor, "image text_and_one row col"]:
    """The maps of the texts and, after them, a map of ones; see `as_means`."""
    return torch.cat([maps, torch.ones_like(maps[:, :1])], dim=1)


def as_means(refined: Float[Tensor, "image text_and_one row col"]) -> Float[Tensor, "image text row col"]:
    """The refined maps of `with_ones`, divided by the refined map of ones.

    The weights are at least 0, so each value is a weighted mean of the map, up to the remaining residual; a constant
    map is unchanged. The divisor is the same for all texts, so it does not change which is largest at a place.
    """
    return refined[:, :-1] / refined[:, -1:].clamp(min=1)  # the exact solution for ones is at least 1


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(dim=-1, keepdim=True)


def _over(above: Tensor, below: Tensor, where: Tensor) -> Tensor:
    return torch.where(where, above / torch.where(where, below, 1), 0)
