"""Devices, in all the forms in which torch users name them."""

from __future__ import annotations

import re

import numpy as np
import torch

from eclip.errors import DeviceError

Device = str | int | np.integer | torch.device
"""A name, the number of a CUDA device, or a torch.device."""


def resolve_device(device: Device | None) -> torch.device:
    """The torch device, checked to be available; None is the CPU.

    Raises:
        DeviceError: it is not available, or of an unsupported type.
    """
    name = "cpu" if device is None else str(device)
    if isinstance(device, bool) or not isinstance(device, Device | None):
        name = ""
    elif re.fullmatch(r"\d+", name):
        name = f"cuda:{name}"
    elif name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.partition(":")[0] == "mps":
        raise DeviceError("device 'mps' is not supported, because no result has been checked on it. Use 'cpu'.")
    try:
        where = torch.device(name)
    except RuntimeError:
        where = None
    if where is None or where.type not in ("cpu", "cuda"):
        raise DeviceError(
            "device must be 'cpu', 'cuda', 'cuda:N', 'auto', a torch.device of these, or the number of a CUDA device, "
            f"got {device!r}."
        )
    if where.type == "cpu":
        return torch.device("cpu")
    count = torch.cuda.device_count()
    if not 0 <= (where.index or 0) < count:  # torch reads 200 as -56
        raise DeviceError(
            f"device {name!r} is not available: torch {torch.__version__} sees {count} CUDA devices. Use 'cpu'."
        )
    return torch.device("cuda", torch.cuda.current_device() if where.index is None else where.index)
