"""A job: what a run over many images is asked, recorded in its folder, so that only the same run continues there."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eclip.backbones.state import identity
from eclip.errors import OptionError, ResultError
from eclip.explanation.folder import check_max_side
from eclip.files import SHARDED
from eclip.registry import one_of, real, whole
from eclip.results.differences import told
from eclip.results.folder import SHARDS, check_is_folder, check_no_other, make_folder
from eclip.stream.decoding import PATIENCE
from eclip.stream.index import check_index
from eclip.stream.plan import LISTING
from eclip.stream.records import DEFAULT, check_contents
from eclip.stream.shards import LAYOUTS, PART
from eclip.stream.tasks import TASKS

if TYPE_CHECKING:
    from eclip.stream.tasks import Task

RUN = "run.json"
SCHEMA = "eclip.stream/1"
PIECE = 512
"""Images of a shard."""


@dataclass(frozen=True)
class Job:
    """What is asked, everything that the bytes of the output depend on and how to compute them.

    Attributes:
        sources: as in `list_images`.
        texts: what to look for; for segmentations, classes as in `segment_each`.
        out: the folder.
        settings: model, method and so on, as in `explain`, `segment_each` or `explain_words`; the options of the
            method too.
        task: one of `TASKS`.
        write: some of the task's contents.
        layout: "tar" or "folder".
        index: "jsonl" or "parquet".
        batch_size: images of a forward pass; another one changes rounding.
        shard_size: images of a shard.
        threads: of torch on a CPU; another number changes rounding. None = torch's own number.
        workers: processes that decode images.
        timeout: seconds after which an image counts as unreadable.
        max_side: longer side of overlays in pixels; None = as the image.
    """

    sources: tuple[str, ...]
    texts: Any
    out: Path
    settings: dict[str, Any]
    task: str = "explain"
    write: tuple[str, ...] = DEFAULT
    layout: str = "tar"
    index: str = "jsonl"
    batch_size: int = 8
    shard_size: int = PIECE
    threads: int | None = None
    workers: int = 0
    timeout: float = PATIENCE
    max_side: int | None = None

    def __post_init__(self) -> None:
        """Check all options.

        Raises:
            OptionError: one is outside its range, or the folder is named like a file.
            MissingExtraError: the index needs a package that is not installed.
        """
        object.__setattr__(self, "write", check_contents(self.write, TASKS[self.task].contents))
        one_of(self.layout, "layout", LAYOUTS)
        check_index(self.index)
        check_is_folder(self.out)
        if check_max_side(self.max_side) is not None and (self.task != "explain" or "overlays" not in self.write):
            raise OptionError(
                'max_side is for pictures of explanations: write "overlays" too (--write overlays), or leave it out.'
            )
        for name, least in (("batch_size", 1), ("shard_size", 1), ("workers", 0), ("threads", 1)):
            if name != "threads" or self.threads is not None:
                object.__setattr__(self, name, whole(getattr(self, name), name, least=least))
        if self.shard_size % self.batch_size:
            raise OptionError(
                "shard_size must be a multiple of batch_size, so that shards hold whole batches, got "
                f"{self.shard_size} and {self.batch_size}."
            )
        timeout = real(self.timeout, "timeout", "a positive number of seconds", lambda seconds: seconds > 0)
        object.__setattr__(self, "timeout", timeout)

    def asked(self, task: Task, images: int | None, threads: int) -> dict[str, Any]:
        """Everything that the output depends on, as JSON; `threads` is the number that torch uses."""
        settings = dict(task.settings)
        settings["device"] = settings["device"].partition(":")[0]
        used: tuple[str, ...] = ("python", "eclip", "torch", "open_clip_torch", "timm", "numpy", "pillow")
        used = (*used, "transformers") if settings["model"].startswith("hf:") else used
        settings["versions"] = {name: one for name, one in settings["versions"].items() if name in used}
        backbone = task.backbone
        settings |= {"mean": backbone.mean, "std": backbone.std, "interpolation": backbone.interpolation}
        settings |= identity(backbone, backbone.head if task.method == "eclip" else None)
        told = {
            "schema": SCHEMA,
            "task": self.task,
            **task.asked,
            "sources": list(self.sources),
            "images": images,
            "write": list(self.write),
            "layout": self.layout,
            "index": self.index,
            "batch_size": self.batch_size,
            "shard_size": self.shard_size,
            "threads": threads if settings["device"] == "cpu" else None,
            "max_side": self.max_side,
            "provenance": settings,
        }
        return dict(json.loads(json.dumps(told)))


def threads_of(folder: Path) -> int | None:
    """How many threads the run in a folder uses; None if there is no run, or it does not matter."""
    try:
        number = json.loads((folder / RUN).read_text(encoding="utf-8"))["threads"]
        return None if number is None else int(number)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def begin(folder: Path) -> None:
    """Check that a run may begin or continue in a folder, and create it; nothing is deleted.

    Raises:
        ResultError: it contains files that eclip did not write, or results of another command, or cannot be written.
    """
    check_no_other(folder, SHARDS)
    held = [name for name in (RUN, LISTING, *SHARDED) if (folder / name).exists()]
    if held and not _is_ours(folder):
        raise ResultError(
            f"the folder {str(folder)!r} contains {', '.join(held)}, not written by eclip: choose another folder."
        )
    make_folder(folder)


def _is_ours(folder: Path) -> bool:
    """Whether a run is recorded there, or was killed before it could be."""
    try:
        if (folder / RUN).exists():
            return bool(json.loads((folder / RUN).read_text(encoding="utf-8"))["schema"] == SCHEMA)
        with (folder / LISTING).open("rb") as stream:
            first = json.loads(stream.readline())
        return isinstance(first, list) and len(first) == 5
    except (OSError, ValueError, KeyError, TypeError):
        return False


def clear(folder: Path) -> None:
    """Delete what an earlier run in a folder wrote, except for its listing of images: what says that it is done first.

    Raises:
        ResultError: something cannot be deleted.
    """
    try:
        for name in SHARDED:
            if (folder / name).exists():
                shutil.rmtree(folder / name)
        (folder / RUN).unlink(missing_ok=True)
    except OSError as error:
        raise ResultError(f"{error.filename or folder} cannot be deleted: {error.strerror}.") from error


def settle(folder: Path, asked: dict[str, Any]) -> None:
    """Record what is asked; if a run is recorded there, check that it was asked the same.

    Raises:
        ResultError: it was asked something else.
    """
    file, text = folder / RUN, json.dumps(asked, indent=1, ensure_ascii=False)
    if not file.exists():
        draft = folder / f"{RUN}.{os.getpid()}{PART}"
        try:
            draft.write_bytes(text.encode(errors="backslashreplace"))
            try:
                os.link(draft, file)  # only the first of several processes succeeds
            except FileExistsError:
                pass
            except OSError:  # a file system without hard links
                os.replace(draft, file)
        except OSError as error:
            raise ResultError(f"{str(file)!r} cannot be written: {error.strerror or error}.") from error
        finally:
            draft.unlink(missing_ok=True)
    try:
        before = dict(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        before = {}
    if before != asked:
        raise ResultError(
            f"the folder {str(folder)!r} contains a run with different settings ({told(before, asked)}): use another "
            "folder (-o DIR), or replace it (--overwrite)."
        )
