"""The frames of a film: the video's own frame, an overlay for each text, and the curve of the scores below."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageDraw

from eclip.explanation.explanation import Explanation
from eclip.render.colormaps import BACKGROUND, INK
from eclip.render.fonts import fit
from eclip.render.label_map import palette

LENGTH = 320
"""Longer side of a panel, in pixels."""
MOST = 4
"""The most texts with an overlay, those with the best mean score; the curve shows these too."""
CURVE, PAD, POINTS = 96, 8, 13
"""Height of the curve, space around it, and size of letters."""


def drawn_frames(
    frames: Sequence[Explanation],
    times: Sequence[float],
    images: Iterable[Image.Image],
    on_frame: Callable[[int], object],
) -> Iterator[Image.Image]:
    """Draw each frame; `images` are those of the video, in order."""
    scores = np.concatenate([one.scores for one in frames])
    best = sorted(np.argsort(-scores.mean(axis=0), kind="stable")[:MOST].tolist())
    curve = None
    for place, (one, image) in enumerate(zip(frames, images, strict=False)):
        own = replace(one, images=(image,), sizes=(image.size,))
        panels = [_within(image), *(_within(own.overlay(0, text, legend=False)) for text in best)]
        width = sum(panel.width for panel in panels) + PAD * (len(panels) + 1)
        if curve is None:
            curve = draw_curve(scores[:, best], times, [one.label(text) for text in best], width)
        height = max(panel.height for panel in panels)
        letters = (POINTS + PAD) * (len(best) + 1)
        page = Image.new("RGB", (width, height + 4 * PAD + CURVE + letters), BACKGROUND)
        left, draw = PAD, ImageDraw.Draw(page)
        for number, panel in enumerate(panels):
            page.paste(panel, (left, PAD))
            if number:  # its color in the curve
                bar = [left, PAD + panel.height + 2, left + panel.width - 1, PAD + panel.height + 4]
                draw.rectangle(bar, fill=_color(number - 1))
            left += panel.width + PAD
        page.paste(curve, (0, height + 2 * PAD))
        at = _across(times[place], times, width)
        draw.line([(at, height + 2 * PAD), (at, height + 2 * PAD + CURVE)], fill=INK, width=1)
        for line, text in enumerate(best):
            doubt = one.doubt(0, text)
            said = f"{one.label(text)}  {one.scores[0, text]:+.3f}" + (f"  {doubt}" if doubt else "")
            top = height + 2 * PAD + CURVE + PAD + line * (POINTS + PAD)
            line_of_text, font = fit(said, width - 4 * PAD, POINTS)
            draw.rectangle([PAD, top, PAD + POINTS, top + POINTS], fill=_color(line))
            draw.text((2 * PAD + POINTS, top), line_of_text, fill=INK, font=font)
        top = page.height - POINTS - PAD
        said, font = fit(f"{times[place]:.2f} s; the curves are the scores of the frames", width - 2 * PAD, POINTS)
        draw.text((PAD, top), said, fill=INK, font=font)
        yield page
        on_frame(place + 1)


def draw_curve(
    scores: Float[np.ndarray, "frame text"], times: Sequence[float], names: Sequence[str], width: int
) -> Image.Image:
    """The scores over time, one line for each text, and a gray one at zero if it is in their range."""
    picture = Image.new("RGB", (width, CURVE), BACKGROUND)
    draw, low, high = ImageDraw.Draw(picture), float(scores.min()), float(scores.max())
    room = max(high - low, 1e-6)

    def down(score: float) -> float:
        return CURVE - 4 - (score - low) / room * (CURVE - 8)

    if low < 0 < high:
        draw.line([(PAD, down(0)), (width - PAD, down(0))], fill=(160, 160, 160), width=1)
    for line in range(len(names)):
        points = [
            (_across(time, times, width), down(float(score)))
            for time, score in zip(times, scores[:, line], strict=True)
        ]
        if len(points) > 1:
            draw.line(points, fill=_color(line), width=2)
        else:
            draw.ellipse([points[0][0] - 2, points[0][1] - 2, points[0][0] + 2, points[0][1] + 2], fill=_color(line))
    return picture


def _across(time: float, times: Sequence[float], width: int) -> float:
    share = 0.0 if times[-1] <= 0 else time / times[-1]
    return PAD + share * (width - 2 * PAD - 1)


def _color(line: int) -> tuple[int, int, int]:
    red, green, blue = palette(MOST + 1)[line + 1].tolist()
    return red, green, blue


def _within(image: Image.Image) -> Image.Image:
    share = LENGTH / max(image.size)
    size = (max(2, round(image.width * share)), max(2, round(image.height * share)))
    return image.resize(size, Image.Resampling.BICUBIC)
