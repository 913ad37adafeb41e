"""The log of a run, one line of JSON per event, and the training curve as a picture."""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from eclip.backbones.catalog import HEAD_CONFIG
from eclip.errors import MissingExtraError, ResultError
from eclip.files import replace_file
from eclip.render.colormaps import BACKGROUND, FAINT, INK
from eclip.training.config import CHECKPOINT

FILE, PICTURE = "log.jsonl", "curve.png"
ENDINGS = ("stopped", "failed")
ESCAPED = "backslashreplace"
"""How names of files that are not valid Unicode are written; JSON reads such escapes."""
LINES = ("#f2a65a", "#e0567d", "#6fa8ff")


class Log:
    """Writes events of a run to a file. Without a folder, as on all ranks except the first, it does nothing.

    Args:
        folder: of the run.
        step: events of later steps and of stopping are removed, so that the log of a resumed run looks like that of an
            uninterrupted one.

    Attributes:
        kept: the earlier events that remain.

    Raises:
        ResultError: the folder cannot be written.
    """

    def __init__(self, folder: Path | None, step: int = 0) -> None:
        self.file = None if folder is None else folder / FILE
        self.kept: list[dict[str, Any]] = []
        if self.file is None:
            return
        if step and self.file.is_file():
            self.kept = [one for one in events(self.file) if one["step"] <= step and one["event"] not in ENDINGS]
        text = "".join(f"{json.dumps(event, ensure_ascii=False)}\n" for event in self.kept)
        replace_file(self.file, text.encode(errors=ESCAPED))

    def note(self, event: str, **facts: Any) -> None:
        """Append an event.

        Raises:
            ResultError: the file cannot be written, as after its folder was removed.
        """
        if self.file is None:
            return
        try:
            with self.file.open("a", encoding="utf-8", errors=ESCAPED) as stream:
                stream.write(json.dumps({"event": event, **facts}, ensure_ascii=False) + "\n")
        except OSError as error:
            raise ResultError(f"{str(self.file)!r} can no longer be written: {error.strerror or error}.") from error


def check_replaceable(folder: Path) -> None:
    """Check that a new run in a folder replaces nothing but an earlier one.

    Raises:
        ResultError: it has a file of that name, but neither the log nor the head of a run.
    """
    taken = [name for name in (CHECKPOINT, FILE, PICTURE) if (folder / name).exists()]
    found: list[Any] = [*events(folder / FILE)] if (folder / FILE).is_file() else []
    began = any(isinstance(event, dict) and event.get("event") == "start" for event in found)
    if taken and not (began or (folder / HEAD_CONFIG).exists()):
        raise ResultError(
            f"the folder {str(folder)!r} contains {taken[0]}, but no log of `eclip train`, so it may be yours, and a "
            "run would replace it: move it away, or choose another folder."
        )


def events(file: Path) -> list[dict[str, Any]]:
    """The events in a log; a truncated line is skipped."""
    found = []
    for line in file.read_text(encoding="utf-8", errors="replace").split("\n"):  # only these end a line of JSON
        with suppress(json.JSONDecodeError):
            found.append(json.loads(line))
    return found


def comparable(found: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The scores among events that are of the same images and masks as the last ones."""
    scores = [event for event in found if event["event"] == "scores"]
    return [event for event in scores if event.get("masks") == scores[-1].get("masks")]


def check_plot() -> None:
    """Check that the package for drawing curves is installed.

    Raises:
        MissingExtraError: it is not.
    """
    if find_spec("matplotlib") is None:
        raise MissingExtraError("the curve of a training run", "matplotlib", "train")


def draw(folder: Path) -> Path:
    """Draw the loss of each step and, if masks were given, the scores after each epoch; returns the picture's path.

    The scores of epoch 0 are those of the untrained head. Only scores on the masks that were used last are drawn.
    """
    from matplotlib import rc_context

    with rc_context({"text.usetex": False}):  # which needs LaTeX
        return _draw(folder, events(folder / FILE))


def _draw(folder: Path, found: list[dict[str, Any]]) -> Path:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    steps, scores = [event for event in found if event["event"] == "step"], comparable(found)
    figure = Figure(figsize=(7, 3.6), dpi=140, facecolor=_shade(BACKGROUND), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 2 if scores else 1, squeeze=False)[0]
    panels[0].plot([e["step"] for e in steps], [e["loss"] for e in steps], color=LINES[0], linewidth=1.2)
    panels[0].set_title("loss (symmetric InfoNCE)")
    panels[0].set_xlabel("step")
    if scores:
        epochs = [event["epoch"] for event in scores]
        for key, name, color in (("msc", "mSC", LINES[1]), ("miou", "mIoU", LINES[2])):
            panels[1].plot(epochs, [100 * e[key] for e in scores], color=color, marker="o", markersize=3, label=name)
        panels[1].set_title("map on masks, %")
        panels[1].set_xlabel("epoch")
        panels[1].legend(frameon=False, labelcolor=_shade(INK))
    for panel in panels:
        panel.set_facecolor(_shade(BACKGROUND))
        panel.title.set_color(_shade(INK))
        panel.xaxis.label.set_color(_shade(FAINT))
        panel.tick_params(colors=_shade(FAINT))
        panel.spines[:].set_visible(False)
        panel.grid(color=_shade(FAINT), alpha=0.2, linewidth=0.6)
    figure.savefig(folder / PICTURE, facecolor=figure.get_facecolor())
    return folder / PICTURE


def _shade(color: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*color)
