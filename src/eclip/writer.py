"""What an Explanation looks like on disk: pictures, arrays, and the one manifest over them."""

from __future__ import annotations

import functools
import io
import json
import os
import platform
import re
import shlex
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eclip.errors import OptionError, ResultError

if TYPE_CHECKING:
    from PIL import Image

    from eclip.explanation import Explanation

FORMATS = ("png", "npz", "json")
MANIFEST, SCHEMA = "manifest.json", "eclip.explain/1"


def command(sources: Sequence[str], texts: Sequence[str], how: dict[str, Any]) -> str:
    """The shell command that repeats an explanation; `how` is that of an Explanation."""
    words = ["eclip", "explain", *(f"./{source}" if source.startswith("-") else source for source in sources)]
    for text in texts:
        words += [f"--text={text}"] if text.startswith("-") else ["-t", text]
    words += ["--model", how["model"], "--method", how["method"], "--resize", how["resize"]]
    words += ["--positions", how["positions"], "--device", how["device"]]
    if how["image_size"] is not None:
        words += ["--image-size", str(how["image_size"])]
    for template in [how["templates"]] if isinstance(how["templates"], str) else how["templates"]:
        words += ["--template", template]
    for key, value in how["options"].items():
        words += ["--set", f"{key}={value}"]
    return shlex.join(words)


@functools.cache
def versions() -> dict[str, str]:
    """Versions of what a result depends on."""
    from importlib.metadata import version  # slow to import

    packages = ("eclip", "torch", "torchvision", "open_clip_torch", "timm", "numpy", "pillow")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


class Writer:
    """Writes explanations one after the other into a folder, and one manifest over all of them.

    Every file appears whole or not at all. The manifest is written on leaving, also after an exception or Ctrl-C, so
    what was done is on record. It is also what `eclip explain --json` prints:

        {"schema": "eclip.explain/1", "texts": [text, ...], "signed": bool, "how": {as `Explanation.how`},
         "photos": [{"source", "width", "height", "grid": [row, col], "scores": {text: score},
                     "files": {"photo", "npz", "strip", "overlays": {text: file}}}, ...],
         "failures": [{"source", "error"}, ...]}

    Files are relative to the folder, "photo" may be absolute; those of formats not asked for are absent. "texts" is
    empty, "signed" and "how" are null where no photo was explained.
    """

    def __init__(self, folder: str | Path, formats: Sequence[str] = FORMATS) -> None:
        unknown = [name for name in formats if name not in FORMATS]
        if unknown or not formats:
            raise OptionError(f"formats are {', '.join(FORMATS)}, got {', '.join(unknown) or 'none'}.")
        self.folder, self.formats = Path(folder), tuple(formats)
        self.manifest: dict[str, Any] = {"schema": SCHEMA, "texts": [], "signed": None, "how": None}
        self.manifest |= {"photos": [], "failures": []}
        self._taken: set[str] = set()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.folder):
                pass
        except OSError as error:
            raise ResultError(f"the folder {str(folder)!r} cannot be written: {error.strerror}.") from error

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        if "json" in self.formats and (self.manifest["photos"] or self.manifest["failures"]):
            text = json.dumps(self.manifest, indent=1, ensure_ascii=False)
            self._put(MANIFEST, text.encode(errors="backslashreplace"))  # names that are no Unicode: JSON's own escapes

    def fail(self, source: str, error: str) -> None:
        """Record a photo that could not be explained."""
        self.manifest["failures"].append({"source": source, "error": error})

    def add(self, explanation: Explanation) -> list[dict[str, Any]]:
        """Write the files of an explanation; returns its entries in the manifest."""
        if self.manifest["how"] is None:
            self.manifest |= {"texts": list(explanation.texts), "signed": explanation.signed, "how": explanation.how}
        entries = [self._add(explanation, image) for image in range(len(explanation.sources))]
        self.manifest["photos"] += entries
        return entries

    def _add(self, explanation: Explanation, image: int) -> dict[str, Any]:
        source = Path(explanation.sources[image])
        if source.is_file() and source.resolve().parent == self.folder.resolve():
            raise OptionError(
                f"{source} lies in the output folder, where pictures could replace it: choose another folder."
            )
        stem = self._free(_slug(source.stem) or "photo")
        files: dict[str, Any] = {"photo": str(source.resolve())}
        if not source.is_file():
            files["photo"] = self._put(f"{stem}.photo.png", png(explanation.photo(image)))
        if "npz" in self.formats:
            import numpy as np  # here, so that the command line can check folder and formats first

            buffer = io.BytesIO()
            np.savez_compressed(buffer, maps=explanation.maps[image], scores=explanation.scores[image])
            files["npz"] = self._put(f"{stem}.npz", buffer.getvalue())
        if "png" in self.formats:
            files["strip"] = self._put(f"{stem}.png", png(explanation.strip(image)))
            files["overlays"] = {
                explanation.texts[text]: self._put(
                    f"{stem}.{text}-{_slug(explanation.texts[text])}".rstrip("-") + ".png",
                    png(explanation.overlay(image, text)),
                )
                for text in explanation.best_texts(image)
            }
        width, height = explanation.sizes[image]
        scores = {t: round(float(s), 6) for t, s in zip(explanation.texts, explanation.scores[image], strict=True)}
        grid = list(explanation.maps.shape[2:])
        name = explanation.sources[image]
        return {"source": name, "width": width, "height": height, "grid": grid, "scores": scores, "files": files}

    def _free(self, stem: str) -> str:
        name, number = stem, 1
        while name.casefold() in self._taken:
            number += 1
            name = f"{stem}-{number}"
        self._taken.add(name.casefold())
        return name

    def _put(self, name: str, content: bytes) -> str:
        part = None
        try:
            with tempfile.NamedTemporaryFile(dir=self.folder, suffix=".part", delete=False) as part:
                part.write(content)
            os.chmod(part.name, 0o644)
            os.replace(part.name, self.folder / name)
        except BaseException as error:
            if part is not None:
                Path(part.name).unlink(missing_ok=True)
            if not isinstance(error, OSError):
                raise
            done = len(self.manifest["photos"])
            raise ResultError(
                f"{self.folder / name} cannot be written: {error.strerror}. {done} photos before it are done."
            ) from error
        return name


def png(picture: Image.Image) -> bytes:
    """The picture as a PNG file."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=3)  # as small as Pillow's 6 on overlays, in a third of the time
    return buffer.getvalue()


def _slug(text: str) -> str:
    """Letters, digits and hyphens only, so that dots can join the parts of a name; short enough for file systems."""
    return re.sub(r"\W+", "-", text).strip("-").encode(errors="ignore")[:80].decode(errors="ignore")
