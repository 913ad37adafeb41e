"""Runs of `eclip.evaluate` as one page to read, to print and to send: numbers, curves, costs, classes and images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from eclip.errors import OptionError, ResultError
from eclip.evaluation.evaluation import Evaluation
from eclip.evaluation.report.page import page_of
from eclip.evaluation.store import QUESTION, RESULTS


def report(folders: str | Path | Sequence[str | Path]) -> str:
    """The page of runs, which needs nothing but a browser.

    Args:
        folders: of `eclip.evaluate`; several come side by side, then one after the other.

    Raises:
        ResultError: a folder holds no results, or those of a run that is not finished.
        OptionError: no folder is given.
    """
    listed = [folders] if isinstance(folders, str | Path) else list(folders)
    if not listed:
        raise OptionError("a report needs the folder of a run at least.")
    return page_of([_loaded(Path(folder)) for folder in listed])


def _loaded(folder: Path) -> Evaluation:
    if folder.name == RESULTS and folder.is_file():
        folder = folder.parent
    if not (folder / RESULTS).is_file():
        why = "it is not there"
        if (folder / QUESTION).is_file():
            why = "its run is not finished: the command that began it goes on"
        elif folder.is_dir():
            why = "it has no results.json: `eclip eval ... -o DIR` makes one"
        raise ResultError(f"the folder {str(folder)!r} cannot be reported, {why}.")
    return Evaluation.load(folder)
