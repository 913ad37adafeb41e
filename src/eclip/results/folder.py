"""An output folder: the results of one run with a manifest, without losing files of others.

A run may start in a folder that is new, that contains unrelated files (they are kept; our file names avoid theirs), or
that contains an earlier run of the same kind on some of the same images, which is replaced. Results of another kind of
run, or of images that this run does not process, are replaced only with `overwrite`.
"""

from __future__ import annotations

import io
import itertools
import json
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from eclip.errors import ImageError, OptionError, ResultError
from eclip.files import STATE, file_state, is_in_memory, lock, replace_file, slug
from eclip.results.earlier import MANIFEST, Earlier, asked_of, command_of, place_of
from eclip.results.marks import MARK, is_ours, png

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image

AnyFolder = TypeVar("AnyFolder", bound="Folder")
FORMATS = ("png", "npz", "json")
EXPORTS = {"csv": "table.csv", "html": "gallery.html", "coco": "coco.json", "labelstudio": "labelstudio.json"}
"""Formats of explanations with one file for all images, and its name."""
FIGURES = ("pdf", "svg")
"""Formats of figures for print."""
EXPLAIN_FORMATS = (*FORMATS, "jpg", *FIGURES, *EXPORTS)
SHARDS = "eclip explain --write`, `eclip segment --write` or `eclip words --layout"
VIDEO = "eclip explain VIDEO"
OTHER_RUNS = (
    (("question.json", "parts"), "eclip eval"),
    (("eclip_head.json",), "eclip train"),
    (("checkpoint.pt", "log.jsonl"), "eclip train"),
    (("run.json", "images.jsonl"), SHARDS),
    (("video.json", "frames.jsonl"), VIDEO),
)
"""Files that identify a folder of another eclip command, if all of them exist."""
WAYS_OUT = "choose another folder, or replace them with --overwrite (Python: overwrite=True)"
MOST_NAMED = 3
ENDINGS = frozenset(
    f".{ending}"
    for ending in "png jpg jpeg pdf svg eps webp gif tif tiff bmp json html csv npy npz zip".split()  # noqa: SIM905
)
"""File extensions, which the name of a folder should not have."""


class Folder:
    """An output folder, filled one image at a time, with a manifest of all images.

    Files are written atomically. The manifest is written on exit, even after an exception or Ctrl-C, so that finished
    images are recorded. Entering locks the folder, so that no two runs write to it at once.

    Args:
        folder: its path; created if it does not exist.
        formats: some of `known`.
        manifest: its fields before the images, including "schema".
        overwrite: replace the results of another run.

    Attributes:
        fixed: names of files besides the manifest that a run of this kind writes.
        known: formats that a run of this kind can write.
        steps_aside: use "NAME-2", "NAME-3", ... instead of a default folder that contains other results.
        replaced: after exit, whether an earlier run with other inputs or options was replaced.
    """

    fixed: tuple[str, ...] = ()
    known: tuple[str, ...] = FORMATS

    def __init__(
        self, folder: str | Path, formats: Sequence[str], manifest: dict[str, Any], *, overwrite: bool = False
    ) -> None:
        check_place(folder, formats, self.known)
        self.folder, self.formats, self.overwrite = Path(folder), tuple(formats), overwrite
        self.manifest: dict[str, Any] = {**manifest, "images": [], "failures": []}
        self.steps_aside = self.replaced = False
        self._taken: set[str] = set()
        self._sources: set[str] | None = None
        self._before: Earlier | None = None
        self._written: set[str] = set()
        self._others: dict[str, list[str]] = {}
        self._release: Callable[[], None] = lambda: None
        make_folder(self.folder)

    def over(self: AnyFolder, sources: Iterable[str]) -> AnyFolder:
        """Announce the images of this run, so that results of other images in the folder are protected."""
        self._sources = {place_of(source) for source in sources}
        return self

    def __enter__(self: AnyFolder) -> AnyFolder:
        asked = self.folder
        for number in itertools.count(2):
            try:
                self._take()
                break
            except ResultError:
                if not self.steps_aside:
                    raise
            self.folder = asked.with_name(f"{asked.name}-{number}")
            make_folder(self.folder)
        return self

    def _take(self) -> None:
        self._release = lock(self.folder)
        try:
            self._look()
        except BaseException:
            self._release()
            raise

    def __exit__(self, *reason: object) -> None:
        try:
            done = bool(self.manifest["images"])
            if "json" in self.formats and (done or (self.manifest["failures"] and self._before is None)):
                text = json.dumps(self.manifest, indent=1, ensure_ascii=False, allow_nan=False)
                self._put(MANIFEST, text.encode(errors="backslashreplace"))  # escape names that are not Unicode
            if done and self._before is not None and (self.overwrite or reason[:1] in ((), (None,))):
                self._clear(self._before)
        finally:
            self._release()

    def fail(self, source: str, error: str) -> None:
        """Record an image that failed."""
        self.manifest["failures"].append({"source": source, "error": error})

    def check_free(self, name: str) -> None:
        """Check that a file of this name may be written.

        Raises:
            ResultError: a file that is not from an earlier run of this kind exists.
        """
        path = self.folder / name
        if path.is_file() and not (self.overwrite or self._own(name)):
            raise ResultError(f"{path} already exists and is not from a run of this kind: {WAYS_OUT}.")

    def _look(self) -> None:
        """Examine what is already in the folder and check that this run may start there."""
        check_no_other(self.folder)
        self._before = before = Earlier.read(self.folder)
        self._others = {}
        for name in {path.name for path in self.folder.iterdir()} - (before.files if before else set()):
            self._others.setdefault(name.partition(".")[0].casefold(), []).append(name)
        if self.overwrite:
            return
        own = command_of(self.manifest)
        if before is not None and before.command != own:
            raise self._holds(f"`{before.command}`, which would mix with those of `{own}`")
        if before is not None and self._sources and (lost := sorted(before.places - self._sources)):
            more = f" and {len(lost) - MOST_NAMED:,} more" if lost[MOST_NAMED:] else ""
            named = ", ".join(lost[:MOST_NAMED]) + more
            raise self._holds(f"other images ({named}), which the new manifest would no longer list")
        for name in (MANIFEST, *self.fixed) if "json" in self.formats else ():
            self.check_free(name)

    def _holds(self, whose: str) -> ResultError:
        return ResultError(f"the folder {str(self.folder)!r} contains results of {whose}: {WAYS_OUT}.")

    def _own(self, name: str) -> bool:
        return name in self._written or (self._before is not None and name in self._before.files)

    def _clear(self, before: Earlier) -> None:
        """Remove files of an earlier run that this run did not rewrite, except those of images that failed now."""
        self.replaced = before.asked != asked_of(self.manifest)
        failed = {one["source"] for one in self.manifest["failures"]}
        kept = set().union(*(files for source, files in before.files_of.items() if source in failed))
        for name in before.files - self._written - kept:
            with suppress(OSError):
                (self.folder / name).unlink(missing_ok=True)

    def _image(self, name: str, image: Callable[[], Image.Image]) -> tuple[str, dict[str, Any]]:
        """A free stem for the files of an image, and the image's file: its own if it still is that, or a copy here."""
        source = Path(name)
        if not is_in_memory(name) and source.is_file() and source.resolve().parent == self.folder.resolve():
            raise OptionError(
                f"{source} is in the output folder, where results could overwrite it: choose another folder."
            )
        stem = self._free(slug(source.stem) or "image")
        if (file := file_of(picture := image(), name)) is not None:
            return stem, {"image": str(file)}
        copy, content = f"{stem}.image.png", png(picture)
        if self._before is not None and copy in self._before.files and not self.overwrite:
            with suppress(FileNotFoundError):
                if (self.folder / copy).read_bytes() != content:
                    raise self._holds(f"another image named {name!r}")
        return stem, {"image": self._put(copy, content)}

    def _free(self, stem: str) -> str:
        name, number = stem, 1
        while name.casefold() in self._taken or self._is_anothers(name):
            number += 1
            name = f"{stem}-{number}"
        self._taken.add(name.casefold())
        return name

    def _is_anothers(self, stem: str) -> bool:
        """Whether a file that is not from eclip has this stem and could be overwritten."""
        return any(not is_ours(self.folder / one) for one in self._others.get(stem.casefold(), ()))

    def _arrays(self, stem: str, arrays: dict[str, NDArray[Any]]) -> str:
        import numpy as np  # here, so that the command line can check folder and formats first

        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]  # one parameter of its own is a flag
        with zipfile.ZipFile(buffer, "a") as archive:
            archive.comment = MARK
        return self._put(f"{stem}.npz", buffer.getvalue())

    def _put(self, name: str, content: bytes | Iterable[bytes]) -> str:
        pieces = [content] if isinstance(content, bytes) else content
        try:
            replace_file(self.folder / name, lambda file: file.writelines(pieces))
        except ResultError as error:
            raise ResultError(f"{error} {len(self.manifest['images'])} images were finished before.") from error
        self._written.add(name)
        return name


def make_folder(folder: Path) -> None:
    """Create a folder, if it does not exist.

    Raises:
        ResultError: it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ResultError(f"the folder {str(folder)!r} cannot be written: {error.strerror}.") from error


def file_of(picture: Image.Image, name: str) -> Path | None:
    """The file of an image of this name, if it still holds that image."""
    from eclip.images import open_image  # here, so that the command line can check folder and formats first

    if is_in_memory(name) or not Path(name).is_file():
        return None
    file = Path(name).resolve()
    if (state := vars(picture).get(STATE)) is not None:
        return file if file_state(file) == state else None
    with suppress(ImageError):  # a picture that was copied, or sent by another process
        if (held := open_image(file)).size == picture.size and held.tobytes() == picture.tobytes():
            return file
    return None


def check_no_other(folder: Path, own: str | None = None) -> None:
    """Check that a folder contains no run of a command that needs a folder to itself; nor results, if `own` does.

    Args:
        folder: it need not exist.
        own: the calling command, if it needs a folder to itself; None for commands that fill a `Folder`.

    Raises:
        OptionError: its name has a file extension.
        ResultError: it contains such a run.
    """
    check_is_folder(folder)
    made = [command for files, command in OTHER_RUNS if all((folder / name).exists() for name in files)]
    if own is not None and (before := Earlier.read(folder)) is not None:
        made.append(before.command)
    for command in made:
        if command != own:
            raise ResultError(f"the folder {str(folder)!r} contains results of `{command}`: choose another folder.")


def check_place(folder: str | Path, formats: Sequence[str], known: Sequence[str] = FORMATS) -> None:
    """Results can be written in these formats, into a place that is named as folders are.

    Raises:
        OptionError: a format is unknown, there is none, pictures are asked for twice, or see `check_is_folder`.
    """
    unknown = [name for name in formats if name not in known]
    if unknown or not formats:
        raise OptionError(f"formats must be among {', '.join(known)}, got {', '.join(unknown) or 'none'}.")
    if {"png", "jpg"} <= set(formats):
        raise OptionError("png and jpg are formats of the same pictures: choose one of them.")
    check_is_folder(folder)


def check_is_folder(folder: str | Path) -> None:
    """Check that an output folder is not named like a file.

    Raises:
        OptionError: it has a file extension and is not an existing folder.
    """
    path = Path(folder)
    if path.suffix.lower() in ENDINGS and not path.is_dir():
        raise OptionError(
            f"{str(folder)!r} looks like a file, but results are several files in a folder: name a folder, such as "
            f"{str(path.with_suffix(''))!r}; it will contain the pictures as PNG files."
        )
