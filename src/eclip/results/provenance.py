"""How a result was made: its model, package versions and options."""

from __future__ import annotations

import functools
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eclip import __version__
from eclip.backbones.catalog import BESIDE
from eclip.backbones.load import is_loaded
from eclip.files import is_in_memory

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from eclip.backbones.backbone import Backbone


def noted(options: dict[str, Any]) -> dict[str, Any]:
    """Options as stored in a manifest: vectors and tuples as lists, larger tensors as their shape."""

    def note(value: Any) -> Any:
        if not hasattr(value, "tolist"):
            return list(value) if isinstance(value, tuple) else value
        return value.tolist() if value.ndim <= 1 else f"a tensor of {tuple(value.shape)}"

    return {key: note(value) for key, value in options.items()}


def versions() -> dict[str, str]:
    """Versions of the packages that a result depends on, including optional ones if they have been imported."""
    packages = ["torch", "torchvision", "open_clip_torch", "timm", "numpy", "pillow"]
    some = ("transformers", "transformers"), ("scikit-learn", "sklearn")
    packages += [name for name, module in some if module in sys.modules]
    return {"python": platform.python_version(), "eclip": __version__, **{name: _version(name) for name in packages}}


@functools.cache
def _version(package: str) -> str:
    from importlib.metadata import version  # slow to import

    return version(package)


def made_by(backbone: Backbone) -> dict[str, Any]:
    """The provenance of a result; "head" is the path of the head of the method eclip, or None without one."""
    return {
        "model": backbone.name,
        "family": backbone.family,
        "head": None if backbone.head is None else backbone.head.place or "from memory",
        "device": str(backbone.weight.device),
        "precision": str(backbone.weight.dtype).removeprefix("torch."),
        "versions": versions(),
    }


def maker(provenance: dict[str, Any]) -> str:
    """Who made a map, for pictures: the method, the model, the head if the method used it, and the refinement."""
    own = head_of(provenance) if provenance["method"] == "eclip" else ""
    return f"{provenance['method']} on {provenance['model']}{own}{refined_by(provenance)}"


def refined_by(provenance: dict[str, Any]) -> str:
    """The refinement in words, as the end of a phrase; empty without one."""
    return "" if provenance.get("refine") is None else f", refined by {provenance['refine']}"


def head_of(provenance: dict[str, Any]) -> str:
    """The head of a model in words, as the end of a phrase; empty without one."""
    place = provenance["head"]
    return "" if place is None else " with its own head" if place == BESIDE else f" with the head {Path(place).name!r}"


def repeatable(backbone: Backbone, sources: Sequence[str], *options: dict[str, Any]) -> bool:
    """Whether a command can repeat a result: its model has a name, its images lie in files, no option is a tensor."""
    plain = not any(hasattr(value, "shape") for own in options for value in own.values())
    return plain and is_loaded(backbone) and all(Path(one).is_file() and not is_in_memory(one) for one in sources)


def named(texts: Sequence[str], values: NDArray[Any]) -> dict[str, float]:
    """A dict from text to value, as stored in manifests."""
    return {text: round(float(value), 6) for text, value in zip(texts, values, strict=True)}
