"""Sliding windows over an image, in its own pixels."""

from __future__ import annotations

from eclip.errors import OptionError

Box = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels; right and bottom exclusive."""


def check_windows(window: int | None, stride: int | None, side: int | None) -> tuple[int, int] | None:
    """Stride and side of the windows, with their defaults: half a window, one and a half; None without windows.

    Args:
        window: side of a window in pixels, None for no windows.
        stride: from one window to the next in such pixels, 1 to `window`.
        side: pixels that an image's shorter side is counted as, at least `window`.

    Raises:
        OptionError: one is outside its range, or there is a stride and no window.
    """
    if window is None:
        if stride is not None:
            raise OptionError(f"stride {stride} is that of windows, and there are none: give window as well.")
        return None
    if window < 1:
        raise OptionError(f"window must be at least 1, got {window}.")
    stride = max(1, window // 2) if stride is None else stride
    side = round(1.5 * window) if side is None else side
    if side < window:
        raise OptionError(
            f"with windows, image_size is what the image's shorter side is counted as, and must be at least "
            f"window = {window}, got {side}."
        )
    if not 1 <= stride <= window:
        raise OptionError(f"stride must be between 1 and window = {window}, got {stride}: else pixels are left out.")
    return stride, side


def windows(size: tuple[int, int], window: int, stride: int, side: int) -> list[Box]:
    """Square windows, row by row; the last of a row or column is shifted inward, to end where the image ends.

    Args:
        size: (width, height) of the image.
        window: see `check_windows`, as the next two.
        stride: see there.
        side: see there; the image keeps its shape.

    Returns:
        Boxes in the image's own pixels, which they cover, each at least one pixel wide and high. A square image and
        windows of its side give one box, the image.
    """
    factor = side / min(size)
    across, down = (_spans(length, max(window, round(length * factor)), window, stride) for length in size)
    return [(left, top, right, bottom) for top, bottom in down for left, right in across]


def _spans(length: int, counted: int, window: int, stride: int) -> list[tuple[int, int]]:
    """Beginnings and ends along a side of so many pixels, counted as `counted`."""
    starts = [*range(0, counted - window, stride), counted - window]
    edges = [(round(start * length / counted), round((start + window) * length / counted)) for start in starts]
    return [(first := min(start, length - 1), max(end, first + 1)) for start, end in edges]
