"""Word-patch pairs: shares of the path equal a plain integral of the Jacobian, for every kind of tower."""

from __future__ import annotations

import pytest
import torch

import eclip
import tiny
from eclip.backbones.base import Encoding
from eclip.backbones.gathering import rest
from eclip.words.pairs import image_path

FAMILIES = list(tiny.FAMILIES)


def _encoding(family: str, depth: int) -> Encoding:
    backbone = tiny.backbone(family)
    size = [backbone.native.row * backbone.patch_size, backbone.native.col * backbone.patch_size]
    pixels = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(1))
    return eclip.encode(backbone, torch.cat([pixels, torch.zeros_like(pixels)]), depth)


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("family", FAMILIES)
def test_image_shares_equal_the_integrated_jacobian(family: str, depth: int) -> None:
    encoding = _encoding(family, depth)
    backbone, points = encoding.backbone, 3
    tail = encoding.tail(depth if backbone.latent is None else depth - 1, "pairs")
    start = tail[0][1] if tail else encoding.tokens
    pool = bool(tail) and not tail[0][0].residual
    start = start[:, 1:] if pool else start

    def through(x: torch.Tensor) -> torch.Tensor:
        whole = torch.cat([x.mean(dim=1, keepdim=True), x], dim=1) if pool else x
        return rest(encoding, len(tail), whole, "pairs")[0]

    step = start[:1] - start[1:]
    wanted = torch.zeros(())
    for at in (1 / 3, 2 / 3, 1):
        jacobian = torch.autograd.functional.jacobian(through, start[1:] + at * step)  # feature 1 token channel
        wanted = wanted + (jacobian[:, 0] * step[0]).sum(dim=-1).T / points
    path = image_path(encoding, depth, points)
    torch.testing.assert_close(path.shares, wanted.detach(), rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(path.feature, encoding.feature[0], rtol=1e-4, atol=1e-5)
