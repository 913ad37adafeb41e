"""The colors of classes: recomputed, and as red-blind and green-blind people see them."""

from __future__ import annotations

import numpy as np

from eclip.render.colormaps import oklab
from eclip.render.label_map import COLORS, palette

LIGHTNESS, LEAST_CHROMA = (0.56, 0.90), 0.09  # of a class's color, in OKLab: light enough on dark, no gray
STEPS = 24  # levels of red, green and blue among which colors are chosen

# How red-blind and green-blind eyes see linear sRGB (Machado et al. 2009, severity 1, doi 10.1109/TVCG.2009.113)
# fmt: off
BLIND = np.array([[[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
                  [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]])
# fmt: on


def _seen(rgb: np.ndarray, blind: np.ndarray) -> np.ndarray:
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ blind.T, 0, 1)
    found: np.ndarray = np.where(seen <= 0.0031308, 12.92 * seen, 1.055 * seen ** (1 / 2.4) - 0.055)
    return found


def test_each_color_is_the_farthest_from_all_before_it() -> None:
    """To red-blind and green-blind eyes distances count a fifth more, or the others would get much blue."""
    levels = np.linspace(0, 255, STEPS).round().astype(np.uint8)
    colors = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(-1, 3)
    lab = oklab(colors / 255.0)
    fits = (lab[:, 0] >= LIGHTNESS[0]) & (lab[:, 0] <= LIGHTNESS[1]) & (np.hypot(lab[:, 1], lab[:, 2]) >= LEAST_CHROMA)
    colors = colors[fits]
    seen = np.stack([oklab(colors / 255.0), *(1.2 * oklab(_seen(colors / 255.0, blind)) for blind in BLIND)])
    chosen = [int(np.argmin(np.abs(colors.astype(int) - (230, 159, 0)).sum(axis=1)))]  # an orange all eyes know
    nearest = np.full(len(colors), np.inf)
    for _ in range(len(COLORS) // 3 - 1):
        nearest = np.minimum(nearest, np.linalg.norm(seen - seen[:, chosen[-1:]], axis=2).min(axis=0))
        chosen.append(int(nearest.argmax()))
    np.testing.assert_array_equal(palette(254)[1:], colors[chosen])


def test_palette_is_steady_and_apart_for_all_eyes() -> None:
    twenty = palette(20)
    assert twenty.shape == (21, 3)
    np.testing.assert_array_equal(palette(7), twenty[:8])
    assert not twenty[0].any()
    colors = twenty[1:] / 255
    for least, lab in ((0.08, oklab(colors)), *((0.06, oklab(_seen(colors, blind))) for blind in BLIND)):
        apart = np.linalg.norm(lab[:, None] - lab[None], axis=2) + np.eye(20)
        assert apart.min() > least
    assert len(np.unique(palette(254), axis=0)) == 255
    np.testing.assert_array_equal(palette(300)[255:], palette(46)[1:])
