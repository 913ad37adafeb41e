"""Runs of `eclip.evaluate` as one page to read, print or send: numbers, curves, costs, classes and images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from eclip.errors import OptionError, ResultError
from eclip.evaluation.evaluation import Evaluation
from eclip.evaluation.report.page import page_of
from eclip.evaluation.store import QUESTION, RESULTS


def report(folders: str | Path | Sequence[str | Path], *, title: str | None = None) -> str:
    """One self-contained HTML page about runs.

    Args:
        folders: of `eclip.evaluate`; several are compared side by side, then shown in turn.
        title: of the page; None = named after the data.

    Raises:
        ResultError: a folder has no results, or its run is not finished.
        OptionError: no folder is given.
    """
    listed = [folders] if isinstance(folders, str | Path) else list(folders)
    if not listed:
        raise OptionError("a report requires the folder of at least one run.")
    return page_of([_loaded(Path(folder).expanduser()) for folder in listed], title)


def _loaded(folder: Path) -> Evaluation:
    if folder.name == RESULTS and folder.is_file():
        folder = folder.parent
    if not (folder / RESULTS).is_file():
        why = "it does not exist"
        if (folder / QUESTION).is_file():
            why = "its run is not finished; rerun its command to resume"
        elif folder.is_dir():
            why = "it has no results.json, which `eclip eval ... -o DIR` writes"
        raise ResultError(f"cannot make a report of the folder {str(folder)!r}: {why}.")
    return Evaluation.load(folder)
