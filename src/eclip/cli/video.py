"""`eclip explain` on a video: a film, a row for each frame, and the spans in which each text is found."""

from __future__ import annotations

import json
import signal
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from eclip.cli import loop, options
from eclip.cli.errors import stop
from eclip.errors import OptionError
from eclip.video import is_video

_option = partial(typer.Option, rich_help_panel="Videos")
Fps = Annotated[float | None, _option(help="At most this many frames a second. Default: all.")]
Smooth = Annotated[float | None, _option(help="Average maps along time, with this sigma in seconds.")]


def check_video(sources: list[str], fps: float | None, smooth: float | None, others: dict[str, Any]) -> str | None:
    """The video to explain; None if the sources are images. `others` has the options that do not apply to videos.

    Raises:
        OptionError: there are several sources, or an option does not apply.
    """
    videos = [one for one in sources if is_video(one)]
    if not videos:
        for name, given in (("fps", fps), ("smooth", smooth)):
            if given is not None:
                raise OptionError(f"--{name} is for videos: omit it.")
        return None
    if len(sources) > 1:
        raise OptionError(f"a video is explained alone, got {len(sources)} sources with {videos[0]}: one at a time.")
    if wrong := [name for name, given in others.items() if given is not None and given is not False]:
        raise OptionError(
            f"--{wrong[0].replace('_', '-')} does not apply to a video: omit it. A video has its own files."
        )
    return videos[0]


def run(
    source: str,
    texts: list[Any],
    out: Path,
    *,
    fps: float | None,
    smooth: float | None,
    overwrite: bool,
    as_json: bool,
    head: str | None,
    **settings: Any,
) -> None:
    """Explain the video, and write and print the results; after Ctrl-C, those of the frames so far.

    Raises:
        EclipError: as in `explain_video` and its `save`.
    """
    from eclip.render import printable
    from eclip.texts.queries import names_of
    from eclip.video.explain import MANIFEST, VideoExplanation, begin, explain_video  # imports torch
    from eclip.video.frames import length_of

    begin(out, source, names_of(texts), overwrite=overwrite)
    settings["model"], settings["device"] = options.parse_model(settings["model"], settings["device"], head)
    found: VideoExplanation | None = None
    stopped = False
    with loop.progressing() as bar:
        task = bar.add_task("loading", total=length_of(source, fps))

        def interrupt(number: int, frame: object) -> None:
            nonlocal stopped
            if stopped or found is not None:
                raise KeyboardInterrupt
            stopped = True

        before = signal.signal(signal.SIGINT, interrupt)
        try:
            found = explain_video(
                source,
                texts,
                fps=fps,
                smooth=smooth or 0.0,
                on_frame=lambda done: bar.update(task, description="explaining", completed=done),
                until=lambda: stopped,
                **settings,
            )
            bar.update(task, total=len(found.frames), completed=0)
            found.save(
                out,
                overwrite=overwrite,
                on_frame=lambda done: bar.update(task, description="drawing", completed=done),
            )
        except KeyboardInterrupt:
            kept = "nothing of it is saved" if found is None else f"its rows and maps are in {out}, but no film"
            stop(f"interrupted: {kept}. The same command begins again.", 130)
        finally:
            signal.signal(signal.SIGINT, before)
    manifest = json.loads((out / MANIFEST).read_text(encoding="utf-8"))
    if as_json:
        typer.echo(json.dumps(manifest, ensure_ascii=False))
    elif options.talks(as_json):
        for span in found.spans():
            typer.echo(printable(f"{span.text}: {span.start:.2f} to {span.end:.2f} s, score {span.score:.3f}"))
        film = out / manifest["files"]["film"]
        typer.echo(f"{len(found.frames)} frames of {manifest['seconds']:.1f} s explained in {film}", err=True)
    if stopped:
        stop(f"interrupted; the {len(found.frames)} frames explained so far are saved in {out}.", 130)
    if found.broken is not None:
        stop(f"{source} is damaged: the {len(found.frames)} frames before that are saved in {out}.", 1)
