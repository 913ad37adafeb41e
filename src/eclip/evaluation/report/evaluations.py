"""Evaluations as a page: their results, the pictures that lie beside them, and what each method is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from eclip.errors import ResultError
from eclip.evaluation.report.page import Run, report_page
from eclip.methods import METHODS

if TYPE_CHECKING:
    from eclip.evaluation.evaluation import Evaluation


def page_of(evaluations: Sequence[Evaluation]) -> str:
    """One self-contained HTML page of them all.

    Args:
        evaluations: at least one.

    Raises:
        ResultError: a picture that the results name cannot be read.
    """
    about = {name: method.summary for name, method in METHODS.items()}
    return report_page([Run(one.results, _pictures(one), about) for one in evaluations])


def _pictures(one: Evaluation) -> dict[str, bytes]:
    found = {}
    for example in one.results.get("examples", []):
        path = one.folder / example["file"]
        try:
            found[example["file"]] = path.read_bytes()
        except OSError as error:
            raise ResultError(
                f"{path} cannot be read ({error.strerror}): the command of the run draws what is missing."
            ) from error
    return found
