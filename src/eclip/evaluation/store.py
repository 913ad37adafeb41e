"""The results of an evaluation so far, on disk: one file per batch, written atomically, so that nothing is lost.

Batches are cut by the position of images in the data set, whatever is done already. A run that resumes after a kill
therefore measures the same batches as an uninterrupted one, and ends with the same numbers.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eclip.errors import ResultError
from eclip.files import replace_file, slug
from eclip.results.differences import told
from eclip.results.folder import check_no_other

QUESTION, RESULTS, TABLE, PAIRS = "question.json", "results.json", "results.csv", "pairs.csv"
FILES = (RESULTS, TABLE, PAIRS)
PARTS, EXAMPLES = "parts", "examples"
FOLDERS = (PARTS, EXAMPLES)
_META = "meta"


@dataclass(frozen=True)
class BatchResult:
    """The result of one batch, stored as a file.

    Attributes:
        arrays: of the task, by name.
        seconds: spent on each method, and on "forward".
        images: number of images that were measured.
        not_applicable: methods that are not applicable to this model, with the reason.
        failures: images that could not be measured, as (name, error).
        files: digest of the files that were measured.
    """

    arrays: dict[str, NDArray[Any]]
    seconds: dict[str, float] = field(default_factory=dict)
    images: int = 0
    not_applicable: dict[str, str] = field(default_factory=dict)
    failures: list[tuple[str, str]] = field(default_factory=list)
    files: str = ""


class ResultStore:
    """The results of one model on disk, one file per batch; `files` has a digest of what each batch measures."""

    def __init__(self, folder: Path, model: str, files: Sequence[str]) -> None:
        self.folder, self.files = folder / PARTS / folder_of(model), files

    def missing(self) -> list[int]:
        """Numbers of the batches that must still be measured, ascending.

        Batches with failures are measured again, and so are those whose files changed, such as a repaired image.

        Raises:
            ResultError: a file cannot be read.
        """
        return [n for n in range(len(self.files)) if not self._path(n).exists() or self._is_stale(n)]

    def unmeasured(self) -> list[int]:
        """As `missing`, without the batches that were measured although some of their images cannot be read."""
        return [n for n in range(len(self.files)) if not self._path(n).exists() or self._digest(n) != self.files[n]]

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:06d}.npz"

    def _is_stale(self, number: int) -> bool:
        result = self._read(number, whole=False)
        return bool(result.failures) or result.files != self.files[number]

    def _digest(self, number: int) -> str:
        return self._read(number, whole=False).files

    def write(self, number: int, result: BatchResult) -> None:
        """Store a result.

        Raises:
            ResultError: the folder cannot be written.
        """
        result = replace(result, files=self.files[number])
        meta = {key: one for key, one in vars(result).items() if key != "arrays"}
        buffer = io.BytesIO()
        arrays = {**result.arrays, _META: np.array(json.dumps(meta))}
        np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]  # it also has a parameter that is a flag
        replace_file(self._path(number), buffer.getvalue())

    def __iter__(self) -> Iterator[BatchResult]:
        """All results in order, read one by one.

        Raises:
            ResultError: a file cannot be read.
        """
        return (self._read(number, whole=True) for number in range(len(self.files)))

    def notes(self) -> list[BatchResult]:
        """All results in order, without their arrays; errors are as in iteration."""
        return [self._read(number, whole=False) for number in range(len(self.files))]

    def _read(self, number: int, *, whole: bool) -> BatchResult:
        path = self._path(number)
        try:  # np.load alone does not close broken files
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
                meta = json.loads(str(file[_META]))
                arrays = {name: file[name] for name in file.files if name != _META} if whole else {}
                meta["failures"] = [(name, why) for name, why in meta["failures"]]
                return BatchResult(arrays, **meta)
        except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile, zlib.error) as error:
            advice = "remove it and rerun the same command to measure it again"
            raise ResultError(f"{path} cannot be read ({error}): {advice}.") from error


def folder_of(model: str) -> str:
    """A unique folder name for a model: names may be long, or differ only in characters that file names exclude."""
    return f"{slug(model)[:60] or 'model'}.{hashlib.sha256(model.encode()).hexdigest()[:8]}"


def open_run(folder: Path, question: dict[str, Any], *, overwrite: bool = False) -> None:
    """Begin a run in a folder, or resume the run there if its settings are the same.

    Args:
        folder: of the run.
        question: everything that its numbers depend on, as JSON.
        overwrite: remove the results of any earlier run in the folder, also one with the same settings.

    Raises:
        ResultError: the folder contains a run with different settings or unrelated files, or cannot be written.
    """
    file, question, emptied = folder / QUESTION, json.loads(json.dumps(question)), {"schema": question["schema"]}
    held = [name for name in (QUESTION, *FOLDERS, *FILES) if (folder / name).exists()]
    before = _question(file)  # after the look at what is there, since another part of the same run may just begin it
    if not str(before.get("schema")).startswith("eclip.eval/"):
        check_no_other(folder, "eclip eval")
        if held:
            raise ResultError(
                f"the folder {str(folder)!r} contains {', '.join(held)}, not written by eclip: choose another folder."
            )
    elif before == question and not overwrite:
        return
    elif before != emptied and not overwrite:
        raise ResultError(
            f"the folder {str(folder)!r} contains a run with different settings ({told(before, question)}): use "
            "another folder (-o DIR), or replace it (--overwrite)."
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if held:  # so that a partly removed run is ours, and not resumed
            replace_file(file, json.dumps(emptied).encode())
        for path in (folder / name for name in held if name != QUESTION):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    except OSError as error:
        raise ResultError(f"the folder {str(folder)!r} cannot be written: {error.strerror or error}.") from error
    replace_file(file, json.dumps(question, indent=1, ensure_ascii=False).encode(errors="backslashreplace"))


def _question(file: Path) -> dict[str, Any]:
    """The question of a run; empty if there is none, or none that can be read."""
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):  # the latter if it is no object
        return {}
