"""Color tables, built in OKLab (Ottosson 2020, https://bottosson.github.io/posts/oklab/).

Lightness is strictly linear in the value and all steps are equal, so that equal differences look equal.
"""

from collections.abc import Sequence
from functools import cache, lru_cache

import numpy as np
from jaxtyping import Float, UInt8

LEVELS = 255  # odd, so that the diverging table has a level for zero in the middle
FAINTEST, FULL = 0.12, 0.85  # absolute values at which color starts and reaches full opacity
BAR_GRAY = 140  # the gray, 0 to 255, behind the colors of a legend's bar
BACKGROUND, INK, FAINT = (20, 20, 24), (240, 240, 242), (150, 150, 158)
DOUBT = (232, 176, 96)  # letters of a warning
OWN = "eclip"
COLORMAPS = (OWN, "cividis", "inferno", "magma", "plasma", "viridis")
"""Colormaps whose lightness rises evenly with the value; others would draw edges where there are none."""

# fmt: off
LMS = np.array([[0.4122214708, 0.5363325363, 0.0514459929],  # linear sRGB to cone responses
                [0.2119034982, 0.6806995451, 0.1073969566],
                [0.0883024619, 0.2817188376, 0.6299787005]])
LAB = np.array([[0.2104542553, 0.7936177850, -0.0040720468],  # cube roots of cone responses to OKLab
                [1.9779984951, -2.4285922050, 0.4505937099],
                [0.0259040371, 0.7827717662, -0.8086757660]])
# fmt: on


@cache
def sequential() -> Float[np.ndarray, "level 3"]:
    """Colors for 0 to 1: indigo, magenta, coral, pale gold; sRGB in [0, 1], OKLab lightness linear, 0.22 to 0.92."""
    lightness = np.linspace(0.22, 0.92, LEVELS)
    chroma, hue = (0.10, 0.175, 0.20, 0.15, 0.11), (284, 312, 357, 411, 456)
    return srgb(_even_path(lightness, chroma, hue))


@cache
def diverging() -> Float[np.ndarray, "level 3"]:
    """Colors for -1 to 1: blue, neutral, amber; sRGB in [0, 1], OKLab lightness linear in |value|, 0.25 to 0.80."""
    lightness = np.linspace(0.25, 0.80, LEVELS // 2 + 1)
    amber = _even_path(lightness, (0.0, 0.05, 0.10, 0.135, 0.14), (45, 45, 48, 55, 70))
    blue = _even_path(lightness, (0.0, 0.05, 0.10, 0.13, 0.115), (265, 265, 262, 255, 237))
    return srgb(np.concatenate([blue[:0:-1], amber]))


@cache
def table(signed: bool, colormap: str = OWN) -> Float[np.ndarray, "level 3"]:
    """The colors of a map's values, sRGB in [0, 1].

    Args:
        signed: values from -1 to 1, always in our own colors; else from 0 to 1.
        colormap: a name of `COLORMAPS`, of which all but ours are matplotlib's (extra `train`).
    """
    if signed or colormap == OWN:
        return diverging() if signed else sequential()
    from matplotlib import colormaps

    return np.asarray(colormaps[colormap](np.linspace(0, 1, LEVELS))[:, :3])


@lru_cache(maxsize=16)
def blend(signed: bool, alpha: float, colormap: str = OWN) -> UInt8[np.ndarray, "level gray 3"]:
    """The color of each value over each gray; lightness is blended less than color, so the texture stays visible."""
    gray = np.linspace(0, 1, 256)
    ground = 0.90 * oklab(np.stack([gray] * 3, axis=1))[:, 0]
    color = oklab(table(signed, colormap))[:, None]
    strength = np.abs(np.linspace(-1 if signed else 0, 1, LEVELS))[:, None]
    ramp = np.clip((strength - FAINTEST) / (FULL - FAINTEST), 0, 1)
    opacity = alpha * ramp**2 * (3 - 2 * ramp)
    lightness = ground + 0.92 * opacity * (color[..., 0] - ground)
    plane = np.broadcast_to(opacity[..., None] * color[..., 1:], (*lightness.shape, 2))
    mixed = np.concatenate([lightness[..., None], plane], axis=-1)
    return (srgb(mixed) * 255).round().astype(np.uint8)


def _even_path(
    lightness: Float[np.ndarray, " level"], chroma: Sequence[float], hue: Sequence[int]
) -> Float[np.ndarray, "level 3"]:
    """OKLab colors with this lightness along a smooth curve through (chroma, hue in degrees), in equal steps."""
    at = np.linspace(0, 1, len(chroma))
    fine = np.linspace(0, 1, 4001)
    angle = np.deg2rad(hue)
    plane = [np.polyval(np.polyfit(at, chroma * wave(angle), len(at) - 1), fine) for wave in (np.cos, np.sin)]
    length = np.concatenate([[0], np.cumsum(np.hypot(*np.diff(plane, axis=1)))])
    even = np.linspace(0, length[-1], len(lightness))
    return np.stack([lightness, *(np.interp(even, length, axis) for axis in plane)], axis=1)


def srgb(lab: Float[np.ndarray, "*color 3"]) -> Float[np.ndarray, "*color 3"]:
    """Convert OKLab to sRGB, clipped to [0, 1]."""
    linear = np.clip((lab @ np.linalg.inv(LAB).T) ** 3 @ np.linalg.inv(LMS).T, 0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def oklab(rgb: Float[np.ndarray, "*color 3"]) -> Float[np.ndarray, "*color 3"]:
    """Convert sRGB in [0, 1] to OKLab."""
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return np.cbrt(linear @ LMS.T) @ LAB.T
