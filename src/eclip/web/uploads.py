"""From uploaded bytes to images: checked before they are decoded."""

from __future__ import annotations

from io import BytesIO

import numpy as np
from PIL import Image

from eclip.datasets.mask_files import check_exact, object_in
from eclip.errors import DataError, ImageError
from eclip.images import decode_image
from eclip.web.refusals import Refusal
from eclip.web.settings import Limits

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
"""Formats that are decoded, as far as Pillow was built with them; others of its may run programs."""


def opened(data: bytes, name: str, limits: Limits) -> Image.Image:
    """An upright RGB image from the bytes of its file; `name` is what errors call it.

    Raises:
        Refusal: it has too many pixels.
        ImageError: it is empty, damaged, not an image, or of another format.
    """
    _check(data, name, limits)
    return decode_image(data, name)


def opened_mask(data: bytes, name: str, size: tuple[int, int], limits: Limits) -> np.ndarray:
    """The object in a mask (height, width): the pixels that are not black; `size` is (width, height) of the image.

    Raises:
        Refusal, ImageError: as in `opened`.
        DataError: it has another size than the image, is empty, or its values were blended.
    """
    _check(data, name, limits)
    try:
        with Image.open(BytesIO(data), formats=_formats()) as picture:
            check_exact(picture.format, name)
            inside = object_in(picture.copy(), name)
    except DataError:
        raise
    except (OSError, SyntaxError, ValueError) as error:
        raise ImageError(f"{name} is damaged: {error}.") from error
    if inside.shape != size[::-1]:
        raise DataError(
            f"{name} has {inside.shape[1]} x {inside.shape[0]} pixels, and the image has {size[0]} x {size[1]}: give a "
            "mask of the same size."
        )
    if not inside.any():
        raise DataError(f"{name} is black everywhere: every pixel that is not black counts as the object.")
    return inside


def _formats() -> list[str]:
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _check(data: bytes, name: str, limits: Limits) -> None:
    if not data:
        raise ImageError(f"{name} is empty (0 bytes).")
    if len(data) > limits.file_bytes:
        raise Refusal(413, "TooLarge", f"{name} is larger than {limits.file_bytes >> 20} MiB.", "Downscale it.")
    try:
        with Image.open(BytesIO(data), formats=_formats()) as picture:
            width, height = picture.size
    except Image.DecompressionBombError:
        message = f"{name} has far more than {limits.pixels / 1e6:.0f} million pixels."
        raise Refusal(413, "TooLarge", message, "Downscale it.") from None
    except (OSError, SyntaxError, ValueError, RuntimeError):
        raise ImageError(f"{name} is not a readable image ({len(data):,} bytes).") from None
    if width * height > limits.pixels:
        most = f"{limits.pixels / 1e6:.0f} million"
        raise Refusal(413, "TooLarge", f"{name} has {width} x {height} pixels, more than {most}.", "Downscale it.")
