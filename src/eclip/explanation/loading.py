"""What a folder of an Explanation holds, as the fields of one."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from PIL import Image

from eclip.errors import ImageError, ResultError
from eclip.explanation.folder import SCHEMA
from eclip.explanation.health import NUMBERS, Health
from eclip.images import Place, open_image
from eclip.results.earlier import MANIFEST


def fields_in(folder: Path) -> dict[str, Any]:
    """The fields of the explanation that `Explanation.save` wrote into a folder; errors as in `Explanation.load`."""
    file = folder / MANIFEST
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
        if (schema := manifest["schema"]) != SCHEMA:
            raise ResultError(f"{file} has schema {schema!r}, not {SCHEMA!r}: it is not an explanation.")
        entries = manifest["images"]
        files = [_read_arrays(folder / entry["files"]["npz"]) for entry in entries]
        if len(shapes := sorted({one["maps"].shape for one in files})) != 1:
            what = f"maps of different shapes {shapes}; read its npz files" if shapes else "no explained image"
            raise ResultError(f"{folder} holds {what}.")
        arrays = {name: np.stack([one[name] for one in files]) for name in set(files[0]).intersection(*files)}
        texts, notes, flat = tuple(manifest["texts"]), manifest["provenance"].get("health"), arrays.get("flat")
        listed = isinstance(manifest["texts"], list) and all(isinstance(text, str) for text in texts)
        named = {tuple(entry["scores"]) for entry in entries} == {tuple(dict.fromkeys(texts))}
        if not (listed and named) or {arrays["maps"].shape[1], arrays["scores"].shape[1]} != {len(texts)}:
            raise ResultError(f"{file} lists other texts than its arrays have maps of: it was changed by hand.")
        unknown = np.full(arrays["scores"].shape, np.nan, dtype=np.float32)
        numbers = {name: arrays.get(f"health_{name}", unknown) for name in NUMBERS if notes is not None}
        return dict(
            maps=arrays["maps"],
            scores=arrays["scores"],
            flat=flat,
            texts=texts,
            sources=tuple(entry["source"] for entry in entries),
            sizes=tuple((entry["width"], entry["height"]) for entry in entries),
            signed=manifest["signed"],
            provenance=manifest["provenance"],
            images=tuple(folder.absolute() / entry["files"]["image"] for entry in entries),
            health=None if notes is None else Health(**numbers, texts=texts, notes=tuple(notes), flat=flat),
        )
    except ResultError:
        raise
    except (OSError, EOFError, KeyError, TypeError, ValueError, AttributeError, zipfile.BadZipFile) as error:
        raise ResultError(
            f"cannot load an explanation from {folder} ({type(error).__name__}: {error}). Write one with "
            "Explanation.save, with formats npz and json."
        ) from error


def reopened(file: Path | Place, size: tuple[int, int]) -> Image.Image:
    """The image of a file, which must have the size (width, height) that it had; else ResultError."""
    try:
        image = open_image(file)
    except ImageError as error:
        raise ResultError(f"cannot reopen the image of this explanation: {error}") from error
    if image.size != size:
        raise ResultError(
            f"{file} has {image.width} x {image.height} pixels by now, and had {size[0]} x {size[1]} when it was "
            "explained: explain it again."
        )
    return image


def _read_arrays(file: Path) -> dict[str, Float[np.ndarray, "*axes"]]:
    with file.open("rb") as opened, np.load(opened) as arrays:  # np.load alone would leave a damaged file open
        return {name: arrays[name] for name in arrays.files}
