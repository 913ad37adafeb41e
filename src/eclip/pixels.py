"""Images in memory, as arrays, tensors or PIL images of more than 8 bits, converted to 8-bit PIL images.

Layouts are never guessed: a NumPy array has its channels last, as all libraries that read images into NumPy do, and a
torch tensor has them first, as torch's transforms do, whatever the sizes of the axes suggest. The type sets
the range: [0, 1] for floating point, 0 to 255 for uint8, 0 to 65535 for uint16.
"""

from __future__ import annotations

import io
import numbers
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from eclip.errors import ImageError

OVERSHOOT = 0.15
"""How far floating-point values may be out of range, as a share of it, before they are an error; they are clipped.
Bicubic resizing overshoots by up to 0.11 at an edge."""
MAX_PIXELS = 178_956_970
"""Larger images are refused before they are decoded: Pillow's own limit against decompression bombs (535 MB as RGB)."""
LABELED = "Of a batch (images, labels) or a dict, as a DataLoader gives it, pass the images alone."


@runtime_checkable
class TensorLike(Protocol):
    """A torch tensor, recognized without importing torch."""

    def detach(self) -> Any:
        """The tensor without its graph."""

    def cpu(self) -> Any:
        """The tensor in main memory."""


def what_is_wrong(source: object) -> str:
    """Why it is not an image, and what to pass."""
    said = "an image must be a path, a PIL image, a NumPy array or a torch tensor, got"
    if isinstance(source, io.IOBase | bytes | bytearray):
        what = "io.BytesIO(data)" if isinstance(source, bytes | bytearray) else "file"
        return f"{said} {type(source).__name__}: open it with PIL.Image.open({what}) first."
    return f"{said} {type(source).__name__}." + (f" {LABELED}" if isinstance(source, list | tuple | Mapping) else "")


def from_array(values: NDArray[Any]) -> Image.Image:
    """An image from an array (height, width) or (height, width, channel) of 1, 3 or 4 channels; also a batch of one."""
    return _picture(_alone(values, "array"), "array")


def from_tensor(tensor: TensorLike) -> Image.Image:
    """An image from a tensor (height, width), or (channel, height, width) with 1, 3 or 4 channels; also a batch of one.

    It may be of any floating-point type, on any device, and require gradients.
    """
    return _picture(_channels_last(_alone(_as_array(tensor), "tensor")), "tensor")


def is_sparse(tensor: object) -> bool:
    """Whether it is a sparse tensor of torch."""
    return "sparse" in str(getattr(tensor, "layout", ""))


def check_dense(tensor: object) -> None:
    """Check that a tensor has a value for each pixel; else raise an ImageError."""
    if is_sparse(tensor):
        raise ImageError("the tensor is sparse: pass tensor.to_dense().")


def is_label(value: object) -> bool:
    """Whether it is a number, or several labels, and so cannot be an image."""
    if isinstance(value, np.ndarray | TensorLike):
        return getattr(value, "ndim", 2) < 2
    return isinstance(value, numbers.Number | list | tuple | Mapping)


def from_deep(picture: Image.Image, name: str) -> Image.Image:
    """16-bit, 32-bit or float grayscale, scaled so that full scale becomes 255; `convert` would clip instead."""
    values = np.asarray(picture, dtype=np.float32)
    if not np.isfinite(values).all():
        raise ImageError(f"{name} contains NaN or infinity.")
    scales = {"F": [1.0, 255.0, 65535.0], "I": [255.0, 65535.0]}.get(picture.mode, [65535.0])
    least, most = float(values.min()), float(values.max())
    full = next((scale for scale in scales if most <= scale * (1 + OVERSHOOT)), most)
    if least < -OVERSHOOT * max(most, 1):
        raise ImageError(f"{name} must not have negative values, got {least:.3g} to {most:.3g}.{_hint(least, most)}")
    return Image.fromarray((np.clip(values / full, 0, 1) * 255).round().astype(np.uint8)).convert("RGB")


def _alone(values: NDArray[Any], kind: str) -> NDArray[Any]:
    if values.ndim != 4:
        return values
    if len(values) != 1:
        raise ImageError(f"expected one image, got {len(values)} in {_a(kind)} {values.shape}: pass a list.")
    return np.asarray(values[0])


def _as_array(tensor: Any) -> NDArray[Any]:
    import torch  # already imported, or there would be no tensor

    if tensor.is_meta:
        raise ImageError("the tensor is on the device 'meta' and has no values: create it on a real device.")
    check_dense(tensor)
    tensor = tensor.detach()
    if tensor.is_floating_point():
        tensor = tensor.to(torch.float64 if tensor.dtype == torch.float64 else torch.float32)  # NumPy has no bfloat16
    values: NDArray[Any] = tensor.cpu().resolve_conj().resolve_neg().numpy()
    return values


def _channels_last(values: NDArray[Any]) -> NDArray[Any]:
    shape = values.shape
    if values.ndim not in (2, 3) or (values.ndim == 3 and shape[0] not in (1, 3, 4)) or 0 in shape:
        hint = ""
        if values.ndim == 3 and shape[2] in (1, 3, 4):
            hint = " It looks like (height, width, channel): move the channels first with .permute(2, 0, 1)."
        raise ImageError(
            "a tensor must be (channel, height, width) with 1, 3 or 4 channels, with or without a batch axis, or "
            f"(height, width), got {shape}.{hint}"
        )
    return values if values.ndim == 2 else values.transpose(1, 2, 0)


def _picture(values: NDArray[Any], kind: str) -> Image.Image:
    shape = values.shape
    if values.ndim not in (2, 3) or (values.ndim == 3 and shape[2] not in (1, 3, 4)) or 0 in shape:
        hint = ""
        if values.ndim == 3 and shape[0] in (1, 3, 4):
            hint = f" It looks like ({shape[0]}, height, width): move the channels last with .transpose(1, 2, 0)."
        raise ImageError(f"an array must be (height, width) or (height, width, 1, 3 or 4), got {shape}.{hint}")
    if values.ndim == 3 and shape[2] == 1:
        values = values[:, :, 0]
    return Image.fromarray(np.ascontiguousarray(_eight_bits(values, kind)))


def _eight_bits(values: NDArray[Any], kind: str) -> NDArray[np.uint8]:
    if values.dtype == np.uint8:
        return values
    if values.dtype == bool:
        return values.astype(np.uint8) * 255
    if values.dtype.kind == "u" and values.dtype.itemsize == 2:  # in either byte order
        return (values / 65535.0 * 255).round().astype(np.uint8)
    if values.dtype.kind != "f":
        cast = ".astype(np.uint8)" if kind == "array" else ".to(torch.uint8)"
        raise ImageError(
            f"{_a(kind)} must be 8-bit (0 to 255), 16-bit unsigned (0 to 65535), boolean or floating point (0 to 1), "
            f"got {values.dtype}: convert it, for example with {cast} if its values are 0 to 255."
        )
    values = values.astype(np.float64)
    least, most = float(values.min()), float(values.max())  # NaN if one is
    if not np.isfinite(values).all():
        raise ImageError(f"a floating-point {kind} must be in [0, 1], but contains NaN or infinity.")
    if least < -OVERSHOOT or most > 1 + OVERSHOOT:
        raise ImageError(
            f"a floating-point {kind} must be in [0, 1], got {least:.3g} to {most:.3g}.{_hint(least, most)}"
        )
    return (values.clip(0, 1) * 255).round().astype(np.uint8)


def _hint(least: float, most: float) -> str:
    """What such a range usually means, and what to do about it."""
    if -10 < least < -OVERSHOOT and most < 10:
        return (
            " It looks normalized, by a mean and std or to [-1, 1]: pass the image before normalization, because eclip "
            "normalizes it as the model requires, or pass a tensor from backbone.preprocess to "
            "eclip.explain(..., preprocessed=True)."
        )
    if least < -OVERSHOOT:
        return " Scale it so that black is 0 and white is 1."
    if most <= 255 * (1 + OVERSHOOT):
        return " It looks like 0 to 255: divide it by 255."
    return " Divide it by its white value."


def _a(kind: str) -> str:
    return f"an {kind}" if kind == "array" else f"a {kind}"


TURNS = ["FLIP_LEFT_RIGHT", "ROTATE_180", "FLIP_TOP_BOTTOM", "TRANSPOSE", "ROTATE_270", "TRANSVERSE", "ROTATE_90"]
"""How Pillow makes images upright that are stored with the EXIF orientations 2 to 8."""
ORIENTED = ("exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp")
"""What Pillow keeps of a file, and reads an orientation from."""


def turn_of(picture: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 if the file has none, or EXIF that cannot be read."""
    with suppress(Exception):  # Pillow raises whatever the bytes lead to
        turn = picture.getexif().get(ExifTags.Base.Orientation, 1)
        return int(turn) if turn in range(1, 9) else 1
    return 1


def made_upright(picture: Image.Image) -> Image.Image:
    """The image as its EXIF orientation says, and without it; errors are those of Pillow for damaged pixels."""
    picture.load()
    turn = turn_of(picture)
    if turn == 1:
        return picture
    upright = picture.transpose(Image.Transpose[TURNS[turn - 2]])
    upright.info = {key: value for key, value in upright.info.items() if key not in ORIENTED}  # else turned again later
    return upright


def to_rgb(picture: Image.Image, name: str) -> Image.Image:
    """A new, upright RGB image, on white.

    Raises:
        ImageError: it is too large, has no pixels, or is damaged.
    """
    width, height = picture.size
    if width * height > MAX_PIXELS:
        raise ImageError(f"{name} has {width} x {height} pixels, more than {MAX_PIXELS:,}; downscale it first.")
    if width == 0 or height == 0:
        raise ImageError(f"{name} has no pixels ({width} x {height}).")
    try:
        upright = made_upright(picture)
        if upright.mode.startswith("I") or upright.mode == "F":
            return from_deep(upright, name)
        if upright.has_transparency_data:
            layered = (upright.convert("LA") if upright.mode == "La" else upright).convert("RGBA")
            white = Image.new("RGBA", layered.size, (255, 255, 255, 255))
            return Image.alpha_composite(white, layered).convert("RGB")
        return upright.convert("RGB")
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, TypeError, OverflowError, RuntimeError) as error:
        # Pillow's decoders raise all of these for damaged data
        if isinstance(error, ImageError):
            raise
        raise ImageError(f"{name} is damaged: {error}.") from error
