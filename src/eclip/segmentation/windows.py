"""Sliding windows over an image, in the image's own pixels."""

from __future__ import annotations

from eclip.errors import OptionError

Box = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels; right and bottom exclusive."""


def check_windows(window: int | None, stride: int | None, side: int | None) -> tuple[int, int] | None:
    """Stride and side for sliding windows, by default 0.5 and 1.5 windows; None without windows.

    Args:
        window: side of a window in pixels, None for no windows.
        stride: step between windows in such pixels, 1 to `window`.
        side: pixels that an image's shorter side counts as, at least `window`.
    """
    if window is None:
        if stride is not None:
            raise OptionError(f"stride={stride} requires window; set window too.")
        return None
    if window < 1:
        raise OptionError(f"window must be at least 1, got {window}.")
    stride = max(1, window // 2) if stride is None else stride
    side = round(1.5 * window) if side is None else side
    if side < window:
        raise OptionError(
            f"with windows, image_size is the number of pixels that the image's shorter side counts as; it must be at "
            f"least window={window}, got {side}."
        )
    if not 1 <= stride <= window:
        raise OptionError(f"stride must be between 1 and window={window}, so that no pixel is skipped, got {stride}.")
    return stride, side


def windows(size: tuple[int, int], window: int, stride: int, side: int) -> list[Box]:
    """Square windows, row by row; the last one in a row or column is shifted inward to end at the image border.

    The size is (width, height) of the image, which keeps its aspect ratio; for the others see `check_windows`.

    Returns:
        Boxes in the image's own pixels, each at least one pixel wide and high, which cover the image. A square image
        with windows of its side gives one box, the image.
    """
    factor = side / min(size)
    across, down = (_spans(length, max(window, round(length * factor)), window, stride) for length in size)
    return [(left, top, right, bottom) for top, bottom in down for left, right in across]


def _spans(length: int, counted: int, window: int, stride: int) -> list[tuple[int, int]]:
    """Starts and ends of windows along a side of `length` pixels that counts as `counted`."""
    starts = [*range(0, counted - window, stride), counted - window]
    edges = [(round(start * length / counted), round((start + window) * length / counted)) for start in starts]
    return [(first := min(start, length - 1), max(end, first + 1)) for start, end in edges]
