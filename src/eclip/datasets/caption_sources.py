"""Image-caption pairs for training, from tars, tables and folders: a list with random access to images.

`read_pairs` reads everything but the images once; `Pair.open` then goes straight to an image's bytes, also inside a
tar. Nothing is left out silently: whatever yields no pair is listed with the reason. A broken image is noticed only
when it is opened.
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
    "images and captions, or from a folder of images with a NAME.txt beside each NAME.jpg or a single captions.txt, "
    "captions.tsv or captions.csv."
)
"""The sources that `read_pairs` accepts, for messages."""
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
    """Read all pairs, in the order of the sources, a tar's members, a table's rows and a folder's sorted paths.

    Args:
        sources: any mix of the following; braces and glob patterns expand. A file that is named twice is read once.

            - An uncompressed WebDataset tar: an image and its captions share a key, which ends at the first dot of the
              base name. Captions are the non-empty lines of `.txt`; without a `.txt`, "captions" or "caption" of
              `.json`.
            - A table with the columns `image_key` and `caption_key`, like open_clip's; or Flickr8k's, with the header
              `image,caption`; or image, tab and caption without a header, with or without Flickr30k's `#0` after the
              image. Paths are relative to the table's folder. All rows of one image make one pair.
            - A folder with captions beside the images, as in a tar (but keys end at the last dot of a name), including
              subfolders; or with one such table named `captions.txt`, `captions.tsv` or `captions.csv`, in which a bare
              name may be in any subfolder if it is unique. Names that begin with a dot are skipped.
        image_key: header of the image column.
        caption_key: header of the caption column.
        separator: of columns, one character.

    Returns:
        (pairs, bad). Bad lists what was left out as (key, reason): images without a caption (one entry for a folder or
        tar in which none has one), captions without an image, empty captions, images that are missing or have 0 bytes,
        malformed rows and members, and a truncated tar, whose pairs before that point are used. A key that two sources
        share is prefixed with the source in the later one.

    Raises:
        DataError: a source is missing, unreadable or of an unknown kind, or yields no usable pair.
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
                wrong = [(labels.get(file, file), "it contains no image and no caption.")]
            pairs += [replace(pair, key=f"{file}:{pair.key}") if pair.key in taken else pair for pair in found]
            bad += wrong
            taken.update(pair.key for pair in found)
        if files and len(pairs) == had:
            (key, why), count = bad[had_bad], len(bad) - had_bad
            first = "" if count == 1 else f" (and {count - 1:,} more)"
            raise DataError(f"{source} has no usable image-caption pair. {key}{first}: {why} {KINDS}")
    return pairs, bad


def _named(sources: Iterable[str]) -> dict[str, list[str]]:
    """The files and folders of each source; one that several sources name belongs to the first."""
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
    """The files and folders that braces and patterns match; a source that exists is not expanded."""
    if "://" in source or source.startswith("pipe:"):
        raise DataError(f"{source} is a URL, not a file: download it first.")
    try:
        names = [source] if os.path.exists(source) else list(braceexpand(source, escape=False))
    except ValueError:
        raise DataError(f"{source} has an unclosed brace: write, for example, train-{{000..005}}.tar.") from None
    files = []
    for name in names:
        matches = [name] if os.path.exists(name) else sorted(glob.glob(name, recursive=True))
        if not matches:
            among = f" (one of {len(names)} from {source})" if len(names) > 1 else ""
            missing = "no file matches" if glob.has_magic(name) else "no such file or folder"
            raise DataError(f"{name}{among}: {missing}.")
        files += matches
    return files


def _labels(tars: list[str]) -> dict[str, str]:
    """The label of each tar in keys: its name, prefixed with as many folders as make it unique."""
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
    raise DataError(f"{file} is not a source of image-caption pairs. {KINDS}")


def _read_folder(folder: str, columns: Columns) -> tuple[list[Pair], Bad]:
    files = _inside(folder)
    images = [file for file in files if os.path.splitext(file)[1].lower() in EXTENSIONS]
    tables = [file for name in _OF_FOLDER if (file := os.path.join(folder, name)) in files]
    if not images:
        tars = f"It has tars: give {folder}{os.sep}*.tar to read them. " if any(map(TAR.search, files)) else ""
        raise DataError(f"{folder} contains no image. {tars}{KINDS}")
    if len(tables) > 1:
        raise DataError(
            f"{folder} has {' and '.join(map(os.path.basename, tables))}: give one of them instead of the folder."
        )
    if not tables:
        bad: Bad = []
        return pair_up(in_folder(files, bad), bad), bad
    pairs, bad = read_table(tables[0], columns, images)
    captioned = {pair.key for pair in pairs}
    told = captioned | {key for key, _ in bad}
    return pairs, bad + without_caption([image for image in images if image not in told], captioned)


def _inside(folder: str) -> list[str]:
    """All files, including those in subfolders, sorted; names that begin with a dot are skipped."""

    def fail(error: OSError) -> None:
        raise error

    files = []
    for at, folders, names in os.walk(folder, onerror=fail):
        folders[:] = [name for name in folders if not name.startswith(".")]
        files += [os.path.join(at, name) for name in names if not name.startswith(".")]
    return sorted(files)
