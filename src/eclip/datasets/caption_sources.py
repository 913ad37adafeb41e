"""Image-caption pairs for training, from tars, tables and folders: a list whose images can be read in any order.

Everything but the images is read once, in `read_pairs`; `Pair.open` then goes straight to an image's bytes, also inside
a tar. Nothing is left out silently: what gives no pair is listed with the reason. Whether an image is whole is seen
only when it is opened.
"""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from braceexpand import braceexpand

from eclip.datasets.archives import TAR, in_folder, in_tar, pair_up, without_caption
from eclip.datasets.caption_tables import Columns, read_table
from eclip.datasets.pair import Bad, Pair, Place, digest
from eclip.errors import DataError, OptionError
from eclip.images import EXTENSIONS

__all__ = ["KINDS", "Bad", "Pair", "Place", "digest", "read_pairs"]

KINDS = (
    "Pairs come from WebDataset tars (train-{000..005}.tar, shards/*.tar), from a table (.csv, .tsv, .txt, .token) of "
    "images and captions, or from a folder of images with a NAME.txt beside each NAME.jpg or with one captions.txt, "
    "captions.tsv or captions.csv for all."
)
"""What `read_pairs` reads, for messages."""
_TABLES = (".csv", ".tsv", ".txt", ".token")
_OF_FOLDER = ("captions.txt", "captions.tsv", "captions.csv")
_OPEN_CLIP = Columns()


def read_pairs(
    sources: Sequence[str],
    *,
    image_key: str = _OPEN_CLIP.image,
    caption_key: str = _OPEN_CLIP.caption,
    separator: str = _OPEN_CLIP.separator,
) -> tuple[list[Pair], Bad]:
    """All pairs: in the order of the sources, of a tar's members, of a table's rows, of a folder's sorted paths.

    Args:
        sources: any of these, in any mix; braces and patterns name several. A file that is named twice is read once.

            - A WebDataset tar, not compressed: an image and its captions share a key, which ends at the first dot of
            the
              base name. Captions are the lines of `.txt` that are not empty; where there is no `.txt`, "captions" or
              "caption" of `.json`.
            - A table with the columns `image_key` and `caption_key`, as open_clip's; or Flickr8k's, with the header
              `image,caption`; or image, tab and caption without a header, with or without Flickr30k's `#0` after the
              image. Paths start from the table's folder. All rows of one image make one pair.
            - A folder with captions beside the images, as in a tar (but keys end at a name's last dot), sub-folders
              included; or with one such table named `captions.txt`, `captions.tsv` or `captions.csv`, where a bare name
              may lie in any sub-folder, if one image alone has it. Names that begin with a dot are passed over.
        image_key: header of the column of images.
        caption_key: header of the column of captions.
        separator: between columns, one character.

    Returns:
        (pairs, bad). Bad are (key, why) of what was left out: images without a caption (one entry for a folder or tar
        in which none has one), captions without an image, empty captions, images that are missing or of 0 bytes, rows
        and members that do not fit, and a tar that breaks off, whose pairs before that place are used. A key that two
        sources have begins with the source in the later one.

    Raises:
        DataError: a source is missing, of no such kind, cannot be read, or has no pair that can be used.
        OptionError: the separator is not one character.
    """
    if len(separator) != 1 or separator in '\r\n"':
        raise OptionError(f"separator must be one character, such as a comma or a tab, got {separator!r}.")
    columns = Columns(image_key, caption_key, separator)
    named = _named([sources] if isinstance(sources, str) else sources)
    labels = _labels([file for files in named.values() for file in files if TAR.search(file)])
    pairs: list[Pair] = []
    bad: Bad = []
    taken: set[str] = set()
    for source, files in named.items():
        had, had_bad = len(pairs), len(bad)
        for file in files:
            try:
                found, wrong = _read(file, labels.get(file, ""), columns)
            except OSError as error:
                raise DataError(f"{error.filename or file} cannot be read: {error.strerror or error}.") from error
            if not found and not wrong:
                wrong = [(labels.get(file, file), "no image and no caption.")]
            pairs += [replace(pair, key=f"{file}:{pair.key}") if pair.key in taken else pair for pair in found]
            bad += wrong
            taken.update(pair.key for pair in found)
        if files and len(pairs) == had:
            (key, why), count = bad[had_bad], len(bad) - had_bad
            first = "" if count == 1 else f" (and {count - 1:,} more)"
            raise DataError(f"{source} has no pair that can be used. {key}{first}: {why} {KINDS}")
    return pairs, bad


def _named(sources: Iterable[str]) -> dict[str, list[str]]:
    """The files and folders of each source, each at its first mention."""
    named: dict[str, list[str]] = {}
    seen: set[str] = set()
    for source in sources:
        files = named.setdefault(source, [])
        for file in _files_of(source):
            if (real := os.path.realpath(file)) not in seen:
                seen.add(real)
                files.append(file)
    if not named:
        raise DataError(f"no source of image-caption pairs was given. {KINDS}")
    return named


def _files_of(source: str) -> list[str]:
    """The files and folders that braces and patterns name; a source that exists is taken by its name."""
    if "://" in source or source.startswith("pipe:"):
        raise DataError(f"{source} is an address, not a file: fetch it first.")
    try:
        names = [source] if os.path.exists(source) else list(braceexpand(source, escape=False))
    except ValueError:
        raise DataError(f"{source} has a brace that is not closed: write train-{{000..005}}.tar.") from None
    files = []
    for name in names:
        matches = [name] if os.path.exists(name) else sorted(glob.glob(name, recursive=True))
        if not matches:
            among = f" (one of {len(names)} that {source} names)" if len(names) > 1 else ""
            missing = "no file matches" if glob.has_magic(name) else "no such file or folder"
            raise DataError(f"{name}{among}: {missing}.")
        files += matches
    return files


def _labels(tars: list[str]) -> dict[str, str]:
    """What each tar is called in keys: its name, with as many folders before it as tell it from the others."""
    parts = {tar: Path(os.path.abspath(tar)).parts for tar in tars}
    labels: dict[str, str] = {}
    depth = 0
    while len(labels) < len(parts):
        depth += 1
        tails = {tar: "/".join(path[-depth:]) for tar, path in parts.items()}
        count = Counter(tails.values())
        labels = {tar: tail for tar, tail in tails.items() if count[tail] == 1} | labels
    return labels


def _read(file: str, label: str, columns: Columns) -> tuple[list[Pair], Bad]:
    if os.path.isdir(file):
        return _read_folder(os.path.normpath(file), columns)
    if TAR.search(file):
        bad: Bad = []
        return pair_up(in_tar(file, label, bad), bad), bad
    if file.lower().endswith(_TABLES):
        return read_table(file, columns)
    raise DataError(f"{file} is no source of image-caption pairs. {KINDS}")


def _read_folder(folder: str, columns: Columns) -> tuple[list[Pair], Bad]:
    files = _inside(folder)
    images = [file for file in files if os.path.splitext(file)[1].lower() in EXTENSIONS]
    tables = [file for name in _OF_FOLDER if (file := os.path.join(folder, name)) in files]
    if not images:
        tars = f"It has tars: {folder}{os.sep}*.tar names them all. " if any(map(TAR.search, files)) else ""
        raise DataError(f"{folder}: no image in this folder. {tars}{KINDS}")
    if len(tables) > 1:
        raise DataError(
            f"{folder} has {' and '.join(map(os.path.basename, tables))}: give the one that counts instead."
        )
    if not tables:
        bad: Bad = []
        return pair_up(in_folder(files, bad), bad), bad
    pairs, bad = read_table(tables[0], columns, images)
    captioned = {pair.key for pair in pairs}
    told = captioned | {key for key, _ in bad}
    return pairs, bad + without_caption([image for image in images if image not in told], captioned)


def _inside(folder: str) -> list[str]:
    """All files, sub-folders included, sorted; names that begin with a dot are passed over."""

    def fail(error: OSError) -> None:
        raise error

    files = []
    for at, folders, names in os.walk(folder, onerror=fail):
        folders[:] = [name for name in folders if not name.startswith(".")]
        files += [os.path.join(at, name) for name in names if not name.startswith(".")]
    return sorted(files)
