"""Pairs of images and caption files that share a name, in a tar or a folder."""

from __future__ import annotations

import json
import os
import re
import tarfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, NamedTuple

from eclip.datasets.pair import Bad, Pair, Place
from eclip.errors import DataError
from eclip.images import EXTENSIONS

TAR = re.compile(r"\.(tar(\.\w+)?|tgz|tbz2?|txz)$", re.IGNORECASE)
"""Extensions of tars, compressed or not."""
_PACKED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")  # gzip, bzip2, xz, zstd
_BLOCK = 512  # block size of a tar, in bytes
_TEXTS = (".txt", ".json")
SEG = ".seg.png"
"""Extension of a mask in a tar."""
_DAMAGE = (tarfile.TarError, ValueError, OverflowError, OSError)  # what tarfile raises for invalid headers


class Member(NamedTuple):
    """A file in a tar or a folder.

    Attributes:
        stem: the name that an image and its captions share.
        kind: the extension, lower case, with its dot.
        key: its name in logs.
        name: its file name.
        place: the location of its bytes.
        text: the contents of `.txt` and `.json` files; empty for others.
    """

    stem: str
    kind: str
    key: str
    name: str
    place: Place
    text: bytes


def in_folder(files: Iterable[str], bad: Bad) -> Iterator[Member]:
    """Yield the images and caption files; a stem ends at the last dot. Unreadable files are added to bad."""
    for file in files:
        stem, kind = os.path.splitext(file)
        if _counts(kind := kind.lower()):
            try:
                size = os.path.getsize(file)
                text = Path(file).read_bytes() if kind in _TEXTS else b""
            except OSError as error:
                bad.append((file, f"cannot be read: {error.strerror}."))
                continue
            yield Member(stem, kind, file, os.path.basename(file), Place(file, 0, size), text)


def in_tar(file: str, label: str, bad: Bad) -> Iterator[Member]:
    """Yield the files of a tar in order; a stem ends at the first dot of the base name, as in WebDataset.

    Args:
        file: the tar.
        label: its name in keys.
        bad: truncated members and links are added here, and the tar itself if it is truncated.

    Raises:
        DataError: it is compressed or not a tar.
    """
    with open(file, "rb") as stream:
        if not file.lower().endswith(".tar") or stream.read(6).startswith(_PACKED):
            raise DataError(f"{file} is compressed, which rules out random access: decompress it to a .tar.")
        length = stream.seek(0, os.SEEK_END)
        stream.seek(0)
        tar = _opened(file, stream)
        try:
            for member in tar:
                tar.members.clear()  # type: ignore[attr-defined]  # they would all be kept
                name = member.name.removeprefix("./")
                folder, _, base = name.rpartition("/")
                stem, dot, kind = base.partition(".")
                if member.isdir() or not (stem and dot):
                    continue
                stem, kind, text = f"{folder}/{stem}".removeprefix("/"), f".{kind.lower()}", b""
                key, place = f"{label}/{stem}", Place(file, member.offset_data, member.size)
                if _counts(kind) and (not member.isreg() or member.issparse()):
                    bad.append((key, f"{name} is a link or sparse: its bytes are not contiguous in the tar."))
                    continue
                if _counts(kind) and place.offset + place.size > length:
                    bad.append((key, f"{name} is cut off at the end of the tar."))
                    continue
                if kind in _TEXTS:
                    stream.seek(place.offset)
                    text = stream.read(place.size)
                yield Member(stem, kind, key, name, place, text)
        except _DAMAGE as error:
            broken = f"cut short or damaged before byte {min(tar.offset, length):,} ({error})"
        else:
            broken = _unfinished(stream, tar.offset)
        if broken:
            bad.append((label, f"{broken}: only the files before that are used."))


def _opened(file: str, stream: IO[bytes]) -> tarfile.TarFile:
    try:
        return tarfile.open(fileobj=stream, mode="r:", errors="replace")
    except _DAMAGE as error:
        raise DataError(f"{file} is not a readable tar: {error}.") from None


def _unfinished(stream: IO[bytes], offset: int) -> str:
    """What is wrong where tarfile silently found no further header; "" at the end-of-archive marker, zeros."""
    stream.seek(offset)
    rest = stream.read(1 << 20)
    if not rest:
        return f"it ends at byte {offset:,} without an end-of-archive marker"
    if rest[:_BLOCK].strip(b"\0"):
        return f"there is no header at byte {offset:,}"
    return f"data follow its end at byte {offset:,}, as in concatenated tars" if rest.strip(b"\0") else ""


def pair_up(members: Iterable[Member], bad: Bad) -> list[Pair]:
    """Join images and captions of the same stem, in order; files without a counterpart are added to bad."""
    groups: dict[str, dict[str, Member]] = defaultdict(dict)
    for member in members:
        slot = "image" if member.kind in EXTENSIONS else member.kind
        first = groups[member.stem].setdefault(slot, member)
        if first is not member and _counts(member.kind):
            bad.append((member.key, f"{member.name} is left out because {first.name} has the same key."))
    pairs, lonely = [], []
    for group in groups.values():
        image, text = group.get("image"), group.get(".txt", group.get(".json"))
        if image and text:
            captions, why = captions_in(text)
            if why:
                bad.append((image.key, f"{text.name} {why}."))
            if not image.place.size:
                bad.append((image.key, f"{image.name} is empty (0 bytes)."))
            elif captions:
                pairs.append(Pair(image.key, image.place, captions))
        elif image:
            lonely.append(image.key)
        elif text:
            bad.append((text.key, f"{text.name} has no image beside it."))
        else:
            dotted = [one for one in group.values() if os.path.splitext(one.kind)[1] in EXTENSIONS]
            bad += [
                (one.key, f"{one.name}: a key ends at the first dot, so this is not read as an image: rename it.")
                for one in dotted
            ]
    bad += without_caption(lonely, (pair.key for pair in pairs))
    return pairs


def _counts(kind: str) -> bool:
    return kind in EXTENSIONS or kind in _TEXTS or kind == SEG


def without_caption(images: Sequence[str], captioned: Iterable[str]) -> Bad:
    """List images without a caption as (key, reason); one entry for a folder or tar in which no image has one."""
    places = {os.path.dirname(key) for key in captioned}
    alone = Counter(os.path.dirname(key) for key in images)
    bad = [(key, "no caption.") for key in images if os.path.dirname(key) in places]
    whole = {at: f"{count:,} image{'s' * (count > 1)}, none with a caption." for at, count in alone.items()}
    return bad + [(at, why) for at, why in whole.items() if at not in places]


def captions_in(member: Member) -> tuple[tuple[str, ...], str]:
    """The captions that are not empty, and what is wrong with the others."""
    try:
        text = member.text.decode("utf-8-sig")
        record = json.loads(text) if member.kind == ".json" else None
    except UnicodeDecodeError:
        return (), "is not UTF-8"
    except (ValueError, RecursionError) as error:
        return (), f"is not valid JSON ({error})"
    if member.kind == ".txt":
        captions = tuple(line.strip() for line in text.split("\n") if line.strip())
        return captions, "" if captions else "contains no caption"
    given = record.get("captions", record.get("caption")) if isinstance(record, dict) else None
    given = [given] if isinstance(given, str) else given
    if not isinstance(given, list) or not given or not all(isinstance(one, str) for one in given):
        return (), 'must have "caption", a text, or "captions", a list of texts'
    try:
        "".join(given).encode()
    except UnicodeEncodeError:  # JSON can escape lone surrogates
        return (), "contains a caption that is not valid Unicode"
    captions = tuple(one.strip() for one in given if one.strip())
    return captions, "" if len(captions) == len(given) else "contains an empty caption"
