"""Arrays in JSON: little-endian bytes in base64, with their type and shape; and as .npz files."""

from __future__ import annotations

import base64
import io
from typing import Any, Literal

import numpy as np

Precision = Literal["float32", "float16"]


def packed(array: np.ndarray, dtype: str | None = None) -> dict[str, Any]:
    """An array as JSON: {"dtype", "shape", "data"}.

    Args:
        array: of any shape.
        dtype: to convert to; None = its own.
    """
    plain = np.ascontiguousarray(array if dtype is None else array.astype(dtype))
    little = plain.astype(plain.dtype.newbyteorder("<"), copy=False)
    data = base64.b64encode(little.tobytes()).decode("ascii")
    return {"dtype": plain.dtype.name, "shape": list(array.shape), "data": data}


def unpacked(given: dict[str, Any]) -> np.ndarray:
    """The array of `packed`."""
    little = np.dtype(given["dtype"]).newbyteorder("<")
    return np.frombuffer(base64.b64decode(given["data"]), little).reshape(given["shape"])


def npz(arrays: dict[str, np.ndarray]) -> bytes:
    """Named arrays as a file for `numpy.load`."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()
