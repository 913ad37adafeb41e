"""`explain_video`: which part of each frame matches each text, when, and for how long."""

from __future__ import annotations

import json
import shlex
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, SupportsIndex

import numpy as np
from jaxtyping import Float

from eclip.errors import DataError, DataWarning, OptionError, ResultError
from eclip.explanation.explain import query_of
from eclip.explanation.explanation import Explanation
from eclip.explanation.folder import explain_command
from eclip.explanation.rows import found_in, rows_of
from eclip.files import file_state, lock, replace_file, slug
from eclip.registry import real, whole
from eclip.results.folder import VIDEO, WAYS_OUT, check_no_other
from eclip.texts.queries import Texts
from eclip.video.film import drawn_frames
from eclip.video.frames import USUAL_RATE, Frame, frames_of, rate_of, write_film

SCHEMA = "eclip.video/1"
MANIFEST, ROWS, MAPS = "video.json", "frames.jsonl", "maps.npz"
GAP = 0.5
"""Seconds without the text that do not end a span."""
OnFrame = Callable[[int], object]


class Span(NamedTuple):
    """A stretch of time in which a text is found.

    Attributes:
        text: which.
        start: of its first frame, in seconds.
        end: of its last frame, in seconds.
        score: mean score of its frames.
    """

    text: str
    start: float
    end: float
    score: float


@dataclass(frozen=True, eq=False)
class VideoExplanation:
    """Maps and scores of the frames of a video.

    Attributes:
        path: of the video.
        frames: an Explanation of each frame, without its image; `at` adds it.
        times: of the frames, in seconds from the first.
        numbers: of the frames in the file.
        fps: that was asked for; None = all frames.
        smooth: of the maps along time, see `explain_video`.
        broken: what ended the frames early, if the file is damaged; None if it is not.
        command: the shell command that repeats it; None if there is none.
        stopped: whether `until` ended it early.
        state: of the file when it was read, see `eclip.files.file_state`.
    """

    path: str
    frames: tuple[Explanation, ...]
    times: tuple[float, ...]
    numbers: tuple[int, ...]
    fps: float | None
    smooth: float
    broken: str | None = None
    command: str | None = None
    stopped: bool = False
    state: tuple[Path, int, int] | None = None

    def __repr__(self) -> str:
        return f"VideoExplanation({self.path!r}, {len(self.frames)} frames, {len(self.texts)} texts)"

    @property
    def texts(self) -> tuple[str, ...]:
        """What was looked for."""
        return self.frames[0].texts

    @property
    def maps(self) -> Float[np.ndarray, "frame text row col"]:
        """Raw maps, smoothed along time if that was asked for."""
        return np.concatenate([one.maps for one in self.frames])

    @property
    def scores(self) -> Float[np.ndarray, "frame text"]:
        """Cosines of the frames, as `Explanation.scores`; they are not smoothed."""
        return np.concatenate([one.scores for one in self.frames])

    @property
    def rate(self) -> float:
        """Frames a second of this explanation, on average."""
        return (len(self.times) - 1) / self.times[-1] if len(self.times) > 1 and self.times[-1] > 0 else USUAL_RATE

    def at(self, time: float) -> Explanation:
        """The explanation of the last frame up to a time in seconds, with its image, read from the file.

        Raises:
            DataError: the file cannot be read anymore, or has changed.
        """
        place = max(0, int(np.searchsorted(self.times, time + 1e-6, side="right")) - 1)
        frame = next(islice(self._again(), place, None))
        return replace(self.frames[place], images=(frame.image,))

    def _again(self) -> Iterator[Frame]:
        """The frames of the file, if it is still the one that was explained."""
        if (now := file_state(Path(self._file))) != self.state:
            what = "is no longer there" if now is None else "has changed since it was explained"
            raise DataError(f"{self.path} {what}: restore it, or explain it again.")
        return frames_of(self._file, self.fps)

    @property
    def _file(self) -> str:
        """The path of the video, whatever the current folder is; a URL as it is."""
        return self.path if self.state is None else str(self.state[0])

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield a row for each frame: "frame", "time" and "texts", with the columns of a table but "image"."""
        for number, time, one in zip(self.numbers, self.times, self.frames, strict=True):
            texts = [{key: value for key, value in row.items() if key != "image"} for row in rows_of(one)]
            yield {"frame": number, "time": round(time, 4), "texts": texts}

    def spans(self, gap: float = GAP) -> list[Span]:
        """When each text is found, as `found` of a table says; interruptions of at most `gap` seconds do not count.

        An interruption lasts from the first frame without the text to the next one with it. Empty for texts without
        presence: examples, features, and with health off.
        """
        found: list[Span] = []
        for place, text in enumerate(self.texts):
            runs: list[list[int]] = []
            for index, frame in enumerate(self.frames):
                if found_in(frame.health, place) == "yes":
                    if not runs or self.times[index] - self.times[runs[-1][-1] + 1] > gap:
                        runs.append([])
                    runs[-1].append(index)
            for run in runs:
                score = float(np.mean([self.frames[one].scores[0, place] for one in run]))
                found.append(Span(text, self.times[run[0]], self.times[run[-1]], score))
        return found

    def save(self, folder: str | Path, *, overwrite: bool = False, on_frame: OnFrame = lambda done: None) -> Path:
        """Write the film, a row for each frame, the maps and `video.json` into a folder; returns the folder.

        - NAME.mp4: each frame beside its overlays, above the curve of the scores.
        - frames.jsonl: `rows`.
        - maps.npz: "maps", "scores", "times".
        - video.json: {"schema": "eclip.video/1", "source", "texts", "fps", "smooth", "frames", "seconds", "broken",
          "stopped", "spans", "provenance", "files", "complete"}; written first and last, "complete" once the film is
          there, even if `stopped` says that it ends before the video does.

        Args:
            folder: created if missing.
            overwrite: replace what a run on another video, or with other texts, wrote there.
            on_frame: called with the number of frames drawn so far.

        Raises:
            ResultError: it cannot be written, or contains something else.
            OptionError: it is the folder of the video itself.
            DataError: the video cannot be read anymore, or has changed.
        """
        folder, frames = Path(folder), self._again()
        earlier = begin(folder, self.path, self.texts, file=self._file, overwrite=overwrite)
        release = lock(folder)
        try:
            self._write(folder, frames, earlier, on_frame)
        finally:
            release()
        return folder

    def _write(self, folder: Path, frames: Iterator[Frame], earlier: str | None, on_frame: OnFrame) -> None:
        name = film_of(self.path)
        manifest = {
            "schema": SCHEMA,
            "source": self.path,
            "texts": list(self.texts),
            "fps": self.fps,
            "smooth": self.smooth,
            "frames": len(self.frames),
            "seconds": round(self.times[-1], 4),
            "broken": self.broken,
            "stopped": self.stopped,
            "spans": [span._asdict() for span in self.spans()],
            "provenance": {**self.frames[0].provenance, "command": self.command},
            "files": {"video": str(Path(self._file).resolve()), "film": name, "rows": ROWS, "maps": MAPS},
        }

        def note(*, complete: bool) -> None:
            text = json.dumps({**manifest, "complete": complete}, indent=1, ensure_ascii=False, allow_nan=False)
            replace_file(folder / MANIFEST, text.encode(errors="backslashreplace"))

        note(complete=False)  # first, so that what is interrupted can be repeated
        if earlier is not None:
            (folder / earlier).unlink(missing_ok=True)
        rows = (json.dumps(row, ensure_ascii=False) + "\n" for row in self.rows())
        replace_file(folder / ROWS, lambda file: file.writelines(row.encode() for row in rows))
        arrays = {"maps": self.maps, "scores": self.scores, "times": np.array(self.times)}
        replace_file(folder / MAPS, lambda file: np.savez_compressed(file, **arrays))  # type: ignore[arg-type]
        images = (frame.image for frame in islice(frames, len(self.frames)))
        draft = folder / f"{slug(name)}.part.mp4"
        try:
            write_film(draft, drawn_frames(self.frames, self.times, images, on_frame), self.rate)
            draft.replace(folder / name)
        finally:
            draft.unlink(missing_ok=True)
        note(complete=True)


def explain_video(
    path: str | Path,
    texts: Texts,
    *,
    fps: float | None = None,
    smooth: float = 0.0,
    batch_size: SupportsIndex = 8,
    on_frame: OnFrame = lambda done: None,
    until: Callable[[], bool] = lambda: False,
    **settings: Any,
) -> VideoExplanation:
    """Which part of each frame made the model match each text?

    Each frame is explained by itself, as `explain` would. About 2 kB of a frame and text stay in memory; with a
    refinement that returns maps on pixels, as much as these.

    Args:
        path: a video file that FFmpeg reads.
        texts: as in `explain`.
        fps: at most this many frames a second; None = all.
        smooth: sigma in seconds of a Gaussian of the difference in time, with which the maps of frames are averaged;
            0 = not at all. Frames on both sides of a cut mix within about two sigmas. Scores and health are those of
            each frame.
        batch_size: frames in one forward pass.
        on_frame: called with the number of frames explained so far.
        until: asked after each batch; true ends the explanation there.
        settings: all other arguments of `explain` but `preprocessed`, such as model, method and the method's options.

    Raises:
        DataError: the file cannot be read as a video. If it is damaged after its first frames, these are explained,
            `broken` says what is wrong, and a DataWarning is given.
        OptionError: fps or smooth is out of range.
        MissingExtraError: PyAV is not installed (extra `video`).
        EclipError: as in `explain`.
    """
    fps = rate_of(fps)
    smooth = real(smooth, "smooth", "a number of seconds, 0 or more", lambda seconds: 0 <= seconds < float("inf"))
    size, query = whole(batch_size, "batch_size", least=1), query_of(texts, **settings)
    found: list[Explanation] = []
    times: list[float] = []
    numbers: list[int] = []
    state, source, broken, stopped = file_state(Path(path)), frames_of(path, fps), None, False
    while broken is None and not (stopped := bool(found and until())):
        batch: list[Frame] = []
        try:
            for frame in islice(source, size):
                batch.append(frame)  # one by one: those before an error are kept
        except DataError as error:
            if not (found or batch):
                raise
            broken = str(error)
        if not batch:
            break
        named = [(f"{path}@{frame.time:.3f}s", frame.image) for frame in batch]
        [several] = query.answer(named).values()
        found += [replace(several.only(place), images=()) for place in range(len(batch))]
        times += [frame.time for frame in batch]
        numbers += [frame.number for frame in batch]
        on_frame(len(found))
    if broken is not None:
        warnings.warn(f"{broken} The {len(found)} frames before that are explained.", DataWarning, stacklevel=2)
    if smooth:
        maps = smoothed(np.concatenate([one.maps for one in found]), times, smooth)
        found = [replace(one, maps=maps[[place]]) for place, one in enumerate(found)]
    command = None
    [method] = query.methods
    if query.repeats(method, [str(path)]) and not stopped:
        more = [] if fps is None else ["--fps", repr(fps).removesuffix(".0")]
        more += ["--smooth", repr(smooth).removesuffix(".0")] if smooth else []
        command = f"{explain_command([str(path)], query.texts, found[0].provenance)} {shlex.join(more)}".strip()
    told: dict[str, Any] = {"broken": broken, "command": command, "stopped": stopped, "state": state}
    return VideoExplanation(str(path), tuple(found), tuple(times), tuple(numbers), fps, smooth, **told)


REACH = 4
"""Sigmas after which a frame has no more weight."""


def smoothed(
    maps: Float[np.ndarray, "frame text row col"], times: Sequence[float] | Float[np.ndarray, " frame"], sigma: float
) -> Float[np.ndarray, "frame text row col"]:
    """Means of the maps around each frame, weighted by a Gaussian of the difference in time, in seconds."""
    when, means = np.asarray(times), np.empty_like(maps)
    reach = REACH * sigma + 1e-6  # times of files are rounded
    first, last = np.searchsorted(when, when - reach, side="left"), np.searchsorted(when, when + reach, side="right")
    for place, (start, end) in enumerate(zip(first, last, strict=True)):
        weights = np.exp(-(((when[start:end] - when[place]) / sigma) ** 2) / 2)
        means[place] = np.average(maps[start:end], axis=0, weights=weights)
    return means


def film_of(source: str) -> str:
    """The name of the film of a video."""
    return f"{slug(Path(source).stem) or 'video'}.mp4"


def begin(folder: Path, source: str, texts: Sequence[str], *, overwrite: bool, file: str | None = None) -> str | None:
    """Check that an explanation may be written into a folder, and create it; returns the film that is there.

    `file` is the path of the video, if `source` is not, because the current folder may be another.

    Raises:
        OptionError: the video itself is in it.
        ResultError: it contains something else, or cannot be written.
    """
    check_no_other(folder, VIDEO)
    video = Path(file or source).resolve()
    if video.parent == folder.resolve():
        raise OptionError(f"{source} is in the output folder, where a film could replace it: choose another folder.")
    try:
        before = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        before = None
    ours = isinstance(before, dict) and before.get("schema") == SCHEMA
    asked = [str(video), list(texts)]
    if ours and not overwrite and [before["files"].get("video"), before["texts"]] != asked:
        raise ResultError(
            f"the folder {str(folder)!r} contains the explanation of another video or other texts: choose another "
            "folder, or replace it with --overwrite (Python: overwrite=True)."
        )
    film = Path(str(before["files"]["film"])).name if ours else None
    own = {film, ROWS, MAPS, MANIFEST} if ours else set()
    taken = [name for name in (film_of(source), ROWS, MAPS, MANIFEST) if name not in own and (folder / name).exists()]
    if taken and not overwrite:
        raise ResultError(f"{folder / taken[0]} already exists and is not from a run on this video: {WAYS_OUT}.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ResultError(f"the folder {str(folder)!r} cannot be written: {error.strerror}.") from error
    return film
