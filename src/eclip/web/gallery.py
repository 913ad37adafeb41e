"""Example images of the page, with their credits; or the images of a folder that people may look at."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from eclip.errors import OptionError
from eclip.images import find_images
from eclip.web.store import Store, plain_name

EXAMPLES = Path(__file__).parent / "examples"
MOST = 500
"""At most this many images of a folder are shown."""


@dataclass(frozen=True)
class Picture:
    """An image of the gallery.

    Attributes:
        id: for the API.
        name: of its file, inside the folder.
        alt: what it shows, in words; empty if unknown.
        texts: to ask about it.
        credit: its address; empty if unknown.
        license: its name; empty if unknown.
    """

    id: str
    name: str
    alt: str = ""
    texts: tuple[str, ...] = ()
    credit: str = ""
    license: str = ""


def examples(store: Store) -> list[Picture]:
    """The images of the package, held in the store."""
    found = []
    for entry in json.loads((EXAMPLES / "examples.json").read_text(encoding="utf-8")):
        picture = Picture(id=f"example-{Path(entry['name']).stem}", **{**entry, "texts": tuple(entry["texts"])})
        store.keep(picture.id, picture.name, EXAMPLES / picture.name)
        found.append(picture)
    return found


def of_folder(folder: Path, store: Store) -> list[Picture]:
    """The images of a folder, held in the store by number; files that are added later are not shown.

    Raises:
        OptionError: it has no image.
    """
    files, problems = find_images([folder])
    if not files:
        raise OptionError(f"--read-only-gallery: {problems[0][1]}")
    found = []
    for number, file in enumerate(files[:MOST]):
        name = plain_name(file.name)
        found.append(Picture(id=f"gallery-{number}", name=name, alt=name))
        store.keep(found[-1].id, name, file)
    return found
