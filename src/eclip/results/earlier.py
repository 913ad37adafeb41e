"""The manifest of an earlier run in an output folder."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from eclip.files import is_in_memory, strings_in

MANIFEST = "manifest.json"


class Earlier:
    """What an earlier run left in a folder, according to its manifest.

    Attributes:
        command: the command that wrote it, such as "eclip explain", from its schema.
        places: its images: the path of each file, or the name of an image that was in memory.
        files: names of all files that it wrote into the folder.
        files_of: those of each image, by its source.
        asked: its inputs and options, for comparison with those of the current run.
    """

    def __init__(self, manifest: dict[str, Any]) -> None:
        self.command = command_of(manifest)
        self.asked, self.places, self.files = asked_of(manifest), set[str](), {MANIFEST}
        self.files_of: dict[str, set[str]] = {}
        for entry in manifest["images"]:
            held = entry["files"]["image"]
            self.places.add(held if os.path.isabs(held) else place_of(str(entry["source"])))
            own = {name for name in strings_in(entry["files"]) if os.path.basename(name) == name}
            self.files |= own
            self.files_of.setdefault(str(entry["source"]), set()).update(own)
        if isinstance(coco := manifest.get("coco"), str):
            self.files.add(coco)
        self.files |= {name for name in strings_in(manifest.get("exports")) if os.path.basename(name) == name}

    @classmethod
    def read(cls, folder: Path) -> Earlier | None:
        """Read the folder's manifest; None if there is none, or if it is not from eclip."""
        try:
            manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
            return cls(manifest) if manifest["schema"].startswith("eclip.") else None
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None


def command_of(manifest: dict[str, Any]) -> str:
    """The command whose results a manifest lists."""
    return str(manifest["schema"]).partition("/")[0].replace(".", " ")


def asked_of(manifest: dict[str, Any]) -> Any:
    """The inputs and options of a run, without its command line and package versions."""
    provenance = manifest.get("provenance") or {}
    kept = {key: one for key, one in provenance.items() if key not in ("command", "versions")}
    return json.loads(json.dumps([kept, manifest.get("texts"), manifest.get("classes")], default=str))


def place_of(source: str) -> str:
    """The path of an image, or its name if it was in memory."""
    path = Path(source)
    return str(path.resolve()) if path.is_file() and not is_in_memory(source) else source
