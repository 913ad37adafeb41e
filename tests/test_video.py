"""Videos: each frame is explained as an image, smoothing along time, spans, the film, and what is refused."""

from __future__ import annotations

import json
import os
import shlex
import signal
import struct
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from PIL import Image
from scipy.ndimage import gaussian_filter1d
from typer.testing import CliRunner

import eclip
from eclip import cli
from eclip.errors import DataError, DataWarning, ImageError, OptionError, ResultError
from eclip.files import lock
from eclip.video import explain as module
from eclip.video import is_video
from eclip.video.explain import MAPS, ROWS, VideoExplanation, smoothed
from eclip.video.frames import frames_of, length_of, write_film

av = pytest.importorskip("av", reason="videos need PyAV")
ROOT = Path(__file__).parents[1]
DOG, HORSES = (
    Image.open(ROOT / f"docs/images/{name}.jpg").convert("RGB").resize((192, 128)) for name in ("dog", "horses")
)
SIZE = (64, 48)


def _noise(seed: int) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(values).resize(SIZE, Image.Resampling.NEAREST)


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve frames at ten a second."""
    path = tmp_path_factory.mktemp("video") / "clip.mp4"
    write_film(path, map(_noise, range(12)), 10)
    return path


@pytest.fixture(scope="session")
def cut(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten frames of a dog, ten of horses, ten of the dog, at ten a second."""
    path = tmp_path_factory.mktemp("video") / "cut.mp4"
    write_film(path, [DOG] * 10 + [HORSES] * 10 + [DOG] * 10, 10)
    return path


def _explain(path: Path, model: str, **given: Any) -> Any:
    return eclip.explain_video(path, ["a dog", "grass"], model=model, method="maskclip", **given)


def test_frames_come_back_in_order_with_their_times(clip: Path) -> None:
    frames = list(frames_of(clip))
    assert [frame.number for frame in frames] == list(range(12))
    np.testing.assert_allclose([frame.time for frame in frames], np.arange(12) / 10, atol=1e-3)
    for seed, frame in enumerate(frames):  # H.264 is not lossless
        assert np.abs(np.asarray(frame.image, float) - np.asarray(_noise(seed), float)).mean() < 16
    assert length_of(clip, None) == 12 and length_of(clip, 5) == 6


def test_films_are_the_same_bytes(clip: Path, tmp_path: Path) -> None:
    write_film(tmp_path / "clip.mp4", map(_noise, range(12)), 10)
    assert (tmp_path / "clip.mp4").read_bytes() == clip.read_bytes()


@pytest.mark.parametrize(("fps", "numbers"), [(5, [0, 2, 4, 6, 8, 10]), (10, list(range(12))), (99, list(range(12)))])
def test_a_lower_rate_takes_the_nearest_frames_after(clip: Path, fps: float, numbers: list[int]) -> None:
    assert [frame.number for frame in frames_of(clip, fps)] == numbers


def _uneven(path: Path, times: list[float]) -> None:
    """A video whose frames have these times, in milliseconds at best."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for seed, when in enumerate(times):
            frame = av.VideoFrame.from_image(_noise(seed))
            frame.pts, frame.time_base = round(1000 * when), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def test_a_lower_rate_holds_after_a_gap(tmp_path: Path) -> None:
    times = [0, 0.5, 1, 1.5, *(20 + step / 25 for step in range(31))]
    _uneven(tmp_path / "gap.mkv", times)
    assert [round(frame.time, 2) for frame in frames_of(tmp_path / "gap.mkv")] == pytest.approx(times, abs=2e-3)
    assert [round(frame.time) for frame in frames_of(tmp_path / "gap.mkv", 1)] == [0, 1, 20, 21]


@pytest.mark.parametrize("ending", ["mp4", "mkv"])
def test_a_video_that_starts_later_is_whole(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"late.{ending}"
    _uneven(path, [5 + step / 25 for step in range(8)])
    assert [round(frame.time, 2) for frame in frames_of(path)] == [round(step / 25, 2) for step in range(8)]


def test_spans_count_time_and_not_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    """A gap between two frames with the text is no interruption; frames without it are, for as long as they last."""
    said = ["yes", "yes", "yes", "no", "no", "yes", "no", "yes"]
    frames: Any = [SimpleNamespace(health=one, texts=("a",), scores=np.ones((1, 1))) for one in said]
    monkeypatch.setattr(module, "found_in", lambda health, place: health)
    times = (0.0, 10.0, 20.0, 20.1, 20.4, 20.7, 21.0, 21.4)
    there = VideoExplanation("x", tuple(frames), times, tuple(range(8)), None, 0.0)
    assert [(span.start, span.end) for span in there.spans(gap=0.5)] == [(0, 20), (20.7, 21.4)]
    assert [(span.start, span.end) for span in there.spans(gap=0.7)] == [(0, 21.4)]
    assert [(span.start, span.end) for span in there.spans(gap=0.3)] == [(0, 20), (20.7, 20.7), (21.4, 21.4)]


@pytest.mark.parametrize("ending", ["mp4", "mkv"])
@pytest.mark.long
def test_a_damaged_video_keeps_the_frames_before(ending: str, tiny_name: str, tmp_path: Path) -> None:
    path = tmp_path / f"clip.{ending}"
    _uneven(path, [step / 25 for step in range(60)])
    content = path.read_bytes()
    if ending == "mp4":
        half = len(content) // 2
        path.write_bytes(content[:half] + bytes(len(content) // 4) + content[half + len(content) // 4 :])
    else:
        path.write_bytes(content[: len(content) * 2 // 3])
    with pytest.warns(DataWarning, match="frames before that are explained"):
        found = _explain(path, tiny_name, batch_size=8)
    assert 8 <= len(found.frames) < 60 and found.broken is not None and str(path) in found.broken
    out = tmp_path / "out"
    done = _run("explain", path, "-t", "a dog", "--model", tiny_name, "-o", out)
    assert done.exit_code == 1, done.output
    assert f"is damaged: the {len(found.frames)} frames before that are saved" in done.stderr
    manifest = json.loads((out / "video.json").read_text(encoding="utf-8"))
    assert manifest["broken"] == found.broken and manifest["frames"] == len(found.frames)
    assert len(list(frames_of(out / "clip.mp4"))) == len(found.frames)


def test_the_video_itself_is_never_replaced(clip: Path, tiny_name: str, tmp_path: Path) -> None:
    own = tmp_path / "own" / "clip.mp4"
    own.parent.mkdir()
    own.write_bytes(clip.read_bytes())
    found = _explain(own, tiny_name, fps=2)
    for overwrite in (False, True):
        with pytest.raises(OptionError, match="in the output folder"):
            found.save(own.parent, overwrite=overwrite)
    other = tmp_path / "other"
    other.mkdir()
    (other / "clip.mp4").write_bytes(b"another film")
    with pytest.raises(ResultError, match="not from a run on this video"):
        found.save(other)
    assert (other / "clip.mp4").read_bytes() == b"another film" and own.read_bytes() == clip.read_bytes()
    done = _run("explain", own, "-t", "a dog", "--model", tiny_name, "-o", own.parent)
    assert done.exit_code == 2 and "in the output folder" in done.stderr
    assert [path.name for path in own.parent.iterdir()] == ["clip.mp4"]


def test_what_was_interrupted_while_drawing_is_repeated(clip: Path, tiny_name: str, tmp_path: Path) -> None:
    def stop(done: int) -> None:
        raise KeyboardInterrupt

    found, out = _explain(clip, tiny_name, fps=5), tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        found.save(out, on_frame=stop)
    assert json.loads((out / "video.json").read_text(encoding="utf-8"))["complete"] is False
    assert {path.name for path in out.iterdir()} == {ROWS, MAPS, "video.json"}
    found.save(out)
    assert json.loads((out / "video.json").read_text(encoding="utf-8"))["complete"] is True
    assert len(list(frames_of(out / "clip.mp4"))) == 6


def test_another_video_takes_the_film_along(clip: Path, tiny_name: str, tmp_path: Path) -> None:
    _explain(clip, tiny_name, fps=2).save(tmp_path / "out")
    (tmp_path / "second.mp4").write_bytes(clip.read_bytes())
    _explain(tmp_path / "second.mp4", tiny_name, fps=2).save(tmp_path / "out", overwrite=True)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"second.mp4", ROWS, MAPS, "video.json"}


def test_the_file_may_have_changed(clip: Path, tiny_name: str, tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(clip.read_bytes())
    found = _explain(path, tiny_name)
    write_film(path, map(_noise, range(3)), 10)
    for again in (lambda: found.at(0.0), lambda: found.save(tmp_path / "out")):
        with pytest.raises(DataError, match="has changed since it was explained"):
            again()
    assert not (tmp_path / "out").exists()


def test_a_turned_video_is_upright(tmp_path: Path) -> None:
    """As phones write it: the matrix of the track turns the frame clockwise, so that its top comes to the right."""
    half = Image.new("RGB", SIZE, "black")
    half.paste("white", (0, 0, SIZE[0], SIZE[1] // 2))
    write_film(tmp_path / "flat.mp4", [half] * 3, 10)
    content = bytearray((tmp_path / "flat.mp4").read_bytes())
    start = content.index(b"tkhd") + 44
    assert struct.unpack(">9i", content[start : start + 36]) == (65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30)
    content[start : start + 36] = struct.pack(">9i", 0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30)
    (tmp_path / "turned.mp4").write_bytes(content)
    turned = np.asarray(next(frames_of(tmp_path / "turned.mp4")).image, float)
    assert turned.shape[:2] == SIZE
    np.testing.assert_allclose(turned, np.rot90(np.asarray(half, float), -1), atol=60)
    assert turned[:, -1].mean() > 200 > 50 > turned[:, 0].mean()


def test_a_film_is_found_from_any_folder_and_kept_if_its_video_is_gone(
    clip: Path, tiny_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "clip.mp4").write_bytes(clip.read_bytes())
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path)
    found = _explain(Path("clip.mp4"), tiny_name, fps=5)
    found.save("out")
    monkeypatch.chdir("below")
    assert found.at(0.0).image().size == SIZE
    found.save(tmp_path / "out")
    with pytest.raises(OptionError, match="is in the output folder"):
        found.save(tmp_path)
    (tmp_path / "clip.mp4").unlink()
    for again in (lambda: found.at(0.0), lambda: found.save(tmp_path / "out")):
        with pytest.raises(DataError, match=r"clip.mp4 is no longer there: restore it, or explain it again"):
            again()
    assert len(list(frames_of(tmp_path / "out" / "clip.mp4"))) == 6


def test_pixels_that_are_not_square_are_stretched(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "wide.mp4"), "w") as film:
        stream = film.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(4, 3)
        film.mux(stream.encode(av.VideoFrame.from_image(_noise(0))))
        film.mux(stream.encode())
    [frame] = frames_of(tmp_path / "wide.mp4")
    assert frame.image.size == (85, 48)


def test_each_frame_is_explained_as_an_image(clip: Path, tiny_name: str) -> None:
    found = _explain(clip, tiny_name, batch_size=5)
    images = [frame.image for frame in frames_of(clip)]
    apart = eclip.explain(images, ["a dog", "grass"], model=tiny_name, method="maskclip")
    np.testing.assert_allclose(found.maps, apart.maps, atol=1e-6)
    np.testing.assert_allclose(found.scores, apart.scores, atol=1e-6)
    assert found.texts == ("a dog", "grass") and found.rate == pytest.approx(10)
    one = found.at(0.35)
    np.testing.assert_array_equal(one.maps, found.maps[3:4])
    assert one.image().tobytes() == images[3].tobytes() and one.overlay(0, "grass").width >= SIZE[0]


def test_smoothing_is_a_gaussian_along_time(clip: Path, tiny_name: str) -> None:
    plain, smooth = _explain(clip, tiny_name), _explain(clip, tiny_name, smooth=0.2)
    every = np.eye(12, dtype=np.float32)[:, :, None, None]  # what each frame gives to each
    weights = smoothed(every, plain.times, 0.2)[:, :, 0, 0]
    np.testing.assert_allclose(smooth.maps, np.einsum("ij,jtrc->itrc", weights, plain.maps), atol=1e-6)
    np.testing.assert_array_equal(smooth.scores, plain.scores)
    shares = np.exp(-0.5 * (np.arange(12) / 2.0) ** 2)  # of the first frame, by hand: four sigmas are eight frames
    shares[9:] = 0
    np.testing.assert_allclose(weights[0], shares / shares.sum(), atol=1e-6)


def test_away_from_the_ends_smoothing_is_that_of_scipy() -> None:
    maps = np.random.default_rng(0).normal(size=(60, 2, 3, 4)).astype(np.float32)
    found = smoothed(maps, np.arange(60) / 10, 0.2)
    np.testing.assert_allclose(found[8:-8], gaussian_filter1d(maps, 2.0, axis=0)[8:-8], atol=1e-5)
    far = smoothed(maps[:3], [0.0, 10.0, 10.1], 0.2)  # the time between frames counts, not their number
    np.testing.assert_array_equal(far[0], maps[0])
    share = 1 / (1 + np.exp(-0.5 * 0.25))
    np.testing.assert_allclose(far[1], share * maps[1] + (1 - share) * maps[2], atol=1e-5)


def test_what_smoothing_costs_at_a_cut() -> None:
    """By hand: of a step between two shots, the share of the other shot is the normal distribution's tail."""
    maps = np.zeros((40, 1, 1, 1), np.float32)
    maps[20:] = 1
    mixed = smoothed(maps, np.arange(40) / 25, 2 / 25)[:, 0, 0, 0]
    assert mixed[19] == pytest.approx(0.4, abs=0.01)  # half a frame before the cut
    assert mixed[17] == pytest.approx(0.106, abs=0.01)  # 2.5 frames, 1.25 sigmas
    assert mixed[15] == pytest.approx(0.012, abs=0.004)
    assert mixed[11] < 1e-4
    np.testing.assert_allclose(mixed + mixed[::-1], 1, atol=1e-6)


@pytest.mark.long
def test_spans_say_when_a_text_is_found(cut: Path) -> None:
    found = eclip.explain_video(cut, ["a dog", "a horse", "a boat"], smooth=0.1)
    dogs = [(round(span.start, 1), round(span.end, 1)) for span in found.spans(gap=0.2) if span.text == "a dog"]
    horses = [(round(span.start, 1), round(span.end, 1)) for span in found.spans(gap=0.2) if span.text == "a horse"]
    assert (1.0, 1.9) in horses and len(horses) == 1
    assert dogs[0][0] == 0.0 and dogs[-1][1] == 2.9
    assert not [span for span in found.spans() if span.text == "a boat"]
    for span in found.spans():
        assert 0.05 < span.score < 1
    whole = [span for span in found.spans(gap=5) if span.text == "a dog"]
    assert len(whole) == 1 and (whole[0].start, round(whole[0].end, 1)) == (0.0, 2.9)


def test_no_spans_without_presence(clip: Path, tiny_name: str) -> None:
    assert _explain(clip, tiny_name, health=False).spans() == []


def test_saved_files_hold_every_frame(clip: Path, tiny_name: str, tmp_path: Path) -> None:
    found = _explain(clip, tiny_name, fps=5)
    drawn: list[int] = []
    assert found.save(tmp_path / "out", on_frame=drawn.append) == tmp_path / "out"
    assert drawn == list(range(1, 7))
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"clip.mp4", ROWS, MAPS, "video.json"}
    rows = [json.loads(line) for line in (tmp_path / "out" / ROWS).read_text(encoding="utf-8").splitlines()]
    assert [row["frame"] for row in rows] == [0, 2, 4, 6, 8, 10]
    for row, scores in zip(rows, found.scores, strict=True):
        assert [one["text"] for one in row["texts"]] == ["a dog", "grass"]
        np.testing.assert_allclose([one["score"] for one in row["texts"]], scores, atol=1e-5)
    with np.load(tmp_path / "out" / MAPS) as arrays:
        np.testing.assert_array_equal(arrays["maps"], found.maps)
        np.testing.assert_array_equal(arrays["times"], found.times)
    manifest = json.loads((tmp_path / "out" / "video.json").read_text(encoding="utf-8"))
    assert manifest["schema"] == "eclip.video/1" and manifest["frames"] == 6 and manifest["fps"] == 5
    film = list(frames_of(tmp_path / "out" / "clip.mp4"))
    assert len(film) == 6 and film[0].image.width > 3 * 320
    assert not np.array_equal(np.asarray(film[0].image)[:200], np.asarray(film[5].image)[:200])


def test_a_folder_is_not_overwritten_by_another_video(clip: Path, tiny_name: str, tmp_path: Path) -> None:
    found = _explain(clip, tiny_name, fps=2)
    found.save(tmp_path / "out")
    found.save(tmp_path / "out")  # the same again
    other = eclip.explain_video(clip, "a cat", model=tiny_name, method="maskclip", fps=2)
    with pytest.raises(ResultError, match="another video or other texts"):
        other.save(tmp_path / "out")
    other.save(tmp_path / "out", overwrite=True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / ROWS).write_text("mine", encoding="utf-8")
    with pytest.raises(ResultError, match="not from a run on this video"):
        found.save(tmp_path / "mine")
    assert (tmp_path / "mine" / ROWS).read_text(encoding="utf-8") == "mine"


def test_what_is_refused(clip: Path, tiny_name: str, tmp_path: Path) -> None:
    for given, said in (
        ({"fps": 0}, "fps must"),
        ({"fps": np.inf}, "fps must"),
        ({"smooth": -1.0}, "smooth must"),
        ({"smooth": np.nan}, "smooth"),
        ({"smooth": None}, "smooth must be a number of seconds, 0 or more, got None"),
        ({"fps": "5"}, "fps must be a number .* got '5'"),
    ):
        with pytest.raises(OptionError, match=said):
            _explain(clip, tiny_name, **given)
    with pytest.raises(DataError, match="no such file"):
        _explain(tmp_path / "none.mp4", tiny_name)
    (tmp_path / "text.mp4").write_text("no video", encoding="utf-8")
    with pytest.raises(DataError, match="cannot be read as a video"):
        _explain(tmp_path / "text.mp4", tiny_name)
    (tmp_path / "half.mp4").write_bytes(clip.read_bytes()[:300])
    with pytest.raises(DataError, match="cannot be read as a video"):
        _explain(tmp_path / "half.mp4", tiny_name)
    assert is_video("A.MP4") and is_video("a.3gp") and not is_video("a.jpg")
    with pytest.raises(ImageError, match=r"for a video, use .*eclip\.explain_video"):
        eclip.explain(clip, "a dog", model=tiny_name)


@pytest.mark.parametrize(("fps", "written"), [(Fraction(1, 3), repr(1 / 3)), (np.float32(5), "5"), (np.int64(5), "5")])
def test_any_number_is_a_rate_that_the_command_repeats(
    clip: Path, tiny_name: str, tmp_path: Path, fps: Any, written: str
) -> None:
    found = eclip.explain_video(
        clip, "a dog", model="mini", method="itsm", fps=fps, smooth=np.float64(0.1), health=False
    )
    assert found.command is not None and found.command.endswith(f" --fps {written} --smooth 0.1")
    manifest = json.loads((found.save(tmp_path / "out") / "video.json").read_text(encoding="utf-8"))
    assert manifest["fps"] == float(fps)


def test_what_is_stopped_says_so_and_has_no_command(clip: Path, tiny_name: str, tmp_path: Path) -> None:
    found = _explain(clip, tiny_name, batch_size=4, until=lambda: True)
    manifest = json.loads((found.save(tmp_path / "out") / "video.json").read_text(encoding="utf-8"))
    assert (manifest["stopped"], manifest["frames"], manifest["provenance"]["command"]) == (True, 4, None)


def test_videos_of_one_name_are_told_apart_in_any_folder(
    clip: Path, tiny_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    for place in ("one", "two"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "clip.mp4").write_bytes(clip.read_bytes())
    monkeypatch.chdir(tmp_path / "one")
    _explain(Path("clip.mp4"), tiny_name, fps=2).save(out)
    _explain(tmp_path / "one" / "clip.mp4", tiny_name, fps=2).save(out)  # the same file
    monkeypatch.chdir(tmp_path / "two")
    other = _explain(Path("clip.mp4"), tiny_name, fps=2)
    with pytest.raises(ResultError, match="another video or other texts"):
        other.save(out)
    release = lock(out)
    with pytest.raises(ResultError, match="another run is writing"):
        other.save(out, overwrite=True)
    release()
    picture = eclip.explain(DOG, "a dog", model=tiny_name, method="maskclip", health=False)
    with pytest.raises(ResultError, match="contains results of `eclip explain VIDEO`"):
        picture.save(out)
    other.save(out, overwrite=True)


def test_a_film_may_be_slow(tmp_path: Path) -> None:
    write_film(tmp_path / "slow.mp4", [_noise(0), _noise(1)], 1 / 3600)
    assert list(frames_of(tmp_path / "slow.mp4"))[1].time == pytest.approx(3600, rel=1e-3)


def _run(*words: object) -> Result:
    return CliRunner().invoke(cli.app, [str(word) for word in words])


@pytest.mark.long
def test_the_command(cut: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = _run("explain", cut, "-t", "a dog", "-t", "a horse", "--fps", "5", "--smooth", "0.1", "-o", out)
    assert done.exit_code == 0, done.output
    assert "a horse: 1.00 to 1.80 s, score" in done.stdout
    assert f"15 frames of 2.8 s explained in {out / 'cut.mp4'}" in done.stderr
    done = _run("explain", cut, "-t", "a dog", "-t", "a horse", "--fps", "5", "--json", "-o", out)
    assert json.loads(done.stdout)["schema"] == "eclip.video/1"
    command = json.loads(done.stdout)["provenance"]["command"]
    assert command.startswith(f"eclip explain {cut} -t 'a dog' -t 'a horse'") and command.endswith(" --fps 5")
    done = _run(*shlex.split(command)[1:], "--json", "-o", out)
    assert json.loads(done.stdout)["provenance"]["command"] == command
    done = _run("explain", cut, "-t", "a mouse", "-o", out)
    assert done.exit_code == 1 and "another video or other texts" in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["VIDEO", "docs/images/dog.jpg"], "explained alone"),
        (["VIDEO", "--write", "maps"], "--write does not apply to a video"),
        (["VIDEO", "--shard-size", "8"], "--shard-size does not apply"),
        (["VIDEO", "--workers", "0"], "--workers does not apply"),
        (["VIDEO", "--format", "csv", "--min-presence", "0"], "--min-presence does not apply"),
        (["VIDEO", "--format", "csv"], "--format does not apply"),
        (["VIDEO", "--dry-run"], "--dry-run does not apply"),
        (["VIDEO", "--min-presence", "0"], "--min-presence does not apply"),
        (["VIDEO", "--workers", "0"], "--workers does not apply"),
        (["VIDEO", "--format", "parquet"], "--format does not apply"),
        (["docs/images/dog.jpg", "--smooth", "1"], "--smooth is for videos"),
        (["docs/images/dog.jpg", "--fps", "1"], "--fps is for videos"),
    ],
)
def test_the_command_refuses(cut: Path, tmp_path: Path, words: list[str], said: str) -> None:
    given = [str(cut) if word == "VIDEO" else word for word in words]
    done = _run("explain", *given, "-t", "a dog", "-o", tmp_path / "out")
    assert done.exit_code == 2 and said in done.stderr and not (tmp_path / "out").exists()


@pytest.mark.long
def test_ctrl_c_keeps_the_frames_so_far(tmp_path: Path) -> None:
    write_film(tmp_path / "long.mp4", [DOG] * 600, 25)
    words = [
        sys.executable,
        "-m",
        "eclip",
        "explain",
        tmp_path / "long.mp4",
        "-t",
        "a dog",
        "-o",
        tmp_path / "out",
        "-v",
    ]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{os.environ['PYTHONPATH']}"}
    with subprocess.Popen(list(map(str, words)), stderr=subprocess.PIPE, encoding="utf-8", env=environment) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "8 images" in line:  # the first batch is done
                break
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
    assert process.returncode == 130 and "frames explained so far are saved" in rest
    manifest = json.loads((tmp_path / "out" / "video.json").read_text(encoding="utf-8"))
    assert manifest["stopped"] and 8 <= manifest["frames"] < 600 and manifest["frames"] % 8 == 0
    assert len(list(frames_of(tmp_path / "out" / "long.mp4"))) == manifest["frames"]
