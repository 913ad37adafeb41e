"""Whole runs of training on images of colored shapes: they learn, stop, resume, and report errors."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import eclip
import shapes
from eclip.backbones.blocks import unit
from eclip.backbones.head import CONFIG, WEIGHTS, EclipHead, head_rows, load_head
from eclip.datasets.masks import present, read_masks, sides
from eclip.errors import DataError, HeadError, OptionError, ResultError, TrainingError
from eclip.guides import GUIDES, Seen, on_grid
from eclip.metrics.localization import Localization
from eclip.training.checkpoint import Interrupts
from eclip.training.config import CHECKPOINT, TrainConfig
from eclip.training.data import Batch
from eclip.training.learner import Learner
from eclip.training.log import FILE, PICTURE, events
from eclip.training.pooling import masked_max_pool, match
from eclip.training.run import Run, train
from eclip.training.schedule import fitting

Made = Callable[..., TrainConfig]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 images; of the first there are two captions."""
    return shapes.write_pairs(tmp_path_factory.mktemp("data") / "pairs")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("training-cache")


@pytest.fixture
def made(tiny_name: str, data: Path, cache: Path, tmp_path: Path) -> Made:
    """A small run: 3 steps an epoch."""

    def make(out: str = "out", **options: Any) -> TrainConfig:
        small = {"epochs": 2, "batch_size": 20, "lr": 0.02, "warmup": 2, "guide": "none", "checkpoint_every": 1000}
        small |= {"texts": "captions", "form": "soft", "wd": 0.05}
        settled = {"model": tiny_name, "train_data": (str(data),), "cache": str(cache), "device": "cpu"}
        return TrainConfig(out=str(tmp_path / out), **{**small, **settled, **options})

    return make


def log_of(config: TrainConfig) -> list[dict[str, Any]]:
    return events(Path(config.out) / FILE)


def of(kind: str, config: TrainConfig) -> list[dict[str, Any]]:
    return [event for event in log_of(config) if event["event"] == kind]


def losses(config: TrainConfig) -> list[float]:
    return [event["loss"] for event in of("step", config)]


def timeless(config: TrainConfig) -> list[dict[str, Any]]:
    """The log without what differs from run to run."""
    log = [
        {key: value for key, value in event.items() if key not in ("seconds", "peak_mib")} for event in log_of(config)
    ]
    log[0]["config"] = {key: value for key, value in log[0]["config"].items() if key not in ("out", "checkpoint_every")}
    return log


def same_head(one: EclipHead | TrainConfig, other: EclipHead | TrainConfig, **tolerance: float) -> None:
    heads = [load_head(head.out) if isinstance(head, TrainConfig) else head for head in (one, other)]
    first, second = (head.state_dict() for head in heads)
    assert first.keys() == second.keys()
    for key in first:
        torch.testing.assert_close(first[key], second[key], **{"rtol": 0, "atol": 0, **tolerance})


def retrieval(head: EclipHead, model: str) -> float:
    """Share of new images whose pooled vector is nearest to its own caption of the twelve."""
    backbone = eclip.load(model)
    asked = list(product(shapes.COLORS, shapes.SHAPES)) * 5
    images = [shapes.draw(color, shape, 5000 + seed)[0] for seed, (color, shape) in enumerate(asked)]
    encoding = eclip.encode(backbone, torch.stack([backbone.preprocess(image) for image in images]), keep=1)
    guide = on_grid(GUIDES["none"](Seen(images, ["new"] * len(images), encoding)), encoding.grid).flatten(1)
    with torch.no_grad():
        pooled = unit(masked_max_pool(head(head_rows(encoding, head.config.source)), guide))
        words = unit(head.project_text(eclip.encode_texts(backbone, shapes.CAPTIONS)))
    return float(((pooled @ words.T).argmax(dim=1) == torch.arange(len(images)) % 12).float().mean())


# --- it learns ---


def test_the_loss_falls_and_new_images_find_their_captions_but_not_with_shuffled_captions(made: Made) -> None:
    options = {"epochs": 20, "lr": 0.05, "hidden": 16, "text": True}
    config, control = made(**options), made("control", shuffle_captions=True, **options)
    head, shuffled = train(config), train(control)
    start = EclipHead.start(eclip.load(config.model), hidden=16, text=True)
    assert [round(retrieval(one, config.model), 2) < 0.2 for one in (start, shuffled)] == [True, True], "chance is 0.08"
    assert retrieval(head, config.model) > 0.3
    falling = losses(config)
    assert len(falling) == 60 and falling[0] > 2.9
    assert np.mean(falling[-6:]) < 1.4 < 1.7 < np.mean(losses(control)[-6:])
    same_head(config, head)


def test_every_epoch_is_scored_from_the_start_on_and_drawn(made: Made, tmp_path: Path) -> None:
    masks = shapes.write_masks(tmp_path / "masks")
    config = made(epochs=3, masks=str(masks), mask_count=6)
    told: list[tuple[str, int, int, str]] = []
    head = train(config, on_progress=lambda *said: told.append(said))
    scores = of("scores", config)
    assert [(one["epoch"], one["step"]) for one in scores] == [(0, 0), (1, 3), (2, 6), (3, 9)]
    assert len({one["msc"] for one in scores}) == 4 and all(-1 <= one["msc"] <= 1 for one in scores)
    assert [one["epoch"] for one in of("epoch", config)] == [1, 2, 3] and of("epoch", config)[0]["peak_mib"] > 50

    some = read_masks(masks)
    some = replace(some, items=tuple(some.items[place] for place in (0, 1, 3, 4, 6, 7)))
    for epoch, one in ((0, EclipHead.start(eclip.load(config.model))), (3, head)):
        backbone = eclip.with_head(eclip.load(config.model), one)
        wanted, prompts = Localization(), [f"a photo of a {name}" for name in some.classes.values()]
        for item in some.items:
            mask, answer = item.read(), eclip.explain(item.image, prompts, model=backbone, method="eclip")
            for number in present(mask):
                wanted.add(number, answer.heatmap(0, [*some.classes].index(number)), *sides(mask, number))
        record = wanted.record()
        assert record.msc == pytest.approx(scores[epoch]["msc"], abs=1e-5)
        assert record.miou == pytest.approx(scores[epoch]["miou"], abs=1e-3)
    with Image.open(Path(config.out) / PICTURE) as picture:
        colors = np.asarray(picture.convert("RGB")).reshape(-1, 3)
        assert picture.width > 800 and picture.height > 400
    for line in ((242, 166, 90), (224, 86, 125), (111, 168, 255)):  # loss, mSC, mIoU
        assert (np.abs(colors - np.array(line)).max(axis=1) < 8).sum() > 100
    assert told[-1][:3] == ("scores", 3, 3) and ("training", 9, 9) in [said[:3] for said in told]


def test_the_head_on_disk_is_taken_up_and_says_how_it_was_trained(made: Made) -> None:
    config = made(source="output", guide="centre", guide_options={"sigma": 0.3})
    state = torch.random.get_rng_state()
    head = train(config)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not head.training and not any(weight.requires_grad for weight in head.parameters())
    found = load_head(config.out)
    assert found.config == head.config
    trained = found.config.trained
    assert (trained["guide"], trained["guide_options"], trained["epochs_done"]) == ("centre", {"sigma": 0.3}, 2)
    assert trained["pairs"] == 60 and len(trained["data"]) == 16 and "torch" in trained
    image = shapes.draw("red", "disk", 9)[0]
    shown = eclip.explain(image, "a red disk", model=eclip.load(config.model, head=config.out), method="eclip")
    start = eclip.explain(image, "a red disk", model=eclip.load(config.model), method="itsm")
    assert np.abs(shown.maps - start.maps).max() > 0.05
    names = {"checkpoint.pt", PICTURE, CONFIG, WEIGHTS, FILE}
    assert {file.name for file in Path(config.out).iterdir()} == names
    assert all(file.stat().st_mode & 0o044 == 0o044 for file in Path(config.out).iterdir()), "others may read them"


def alike_in_parts_and_streamed(make: Made, options: dict[str, Any]) -> TrainConfig:
    """A run that ends as it does in parts, and without a cache; returns it."""
    whole, parts = make(**options), make("parts", accum_freq=4, **options)
    streamed = make("streamed", stream=True, **options)
    head = train(whole)
    same_head(train(parts), head, rtol=1e-5, atol=1e-5)
    assert losses(parts) == pytest.approx(losses(whole), rel=1e-5)
    assert losses(train_and(streamed)) == pytest.approx(losses(whole), abs=2e-3)
    same_head(streamed, head, rtol=0, atol=0.02)  # an Adam step is as long for a slope that is rounding alone
    return whole


def test_a_batch_in_parts_and_a_batch_without_cache_train_the_same_head(made: Made) -> None:
    options = {"hidden": 4, "text": True, "learn_scale": True, "guide": "spectral"}
    whole = alike_in_parts_and_streamed(made, options)
    half = made("half", precision="bfloat16", **options)
    assert losses(train_and(half)) == pytest.approx(losses(whole), abs=0.05)
    assert losses(half) != losses(whole)


def train_and(config: TrainConfig) -> TrainConfig:
    train(config)
    return config


# --- data ---


def test_each_epoch_sees_every_image_once_and_all_captions_in_time(made: Made) -> None:
    run = Run(made(batch_size=60), 0, 1, "cpu", lambda *_: None)
    good = np.array([place for place in range(60) if place != 7])
    epochs = [run._order(epoch, good) for epoch in range(30)]
    for images, owners, which in epochs:
        assert sorted(images) == sorted(good) and np.array_equal(images, owners)
        assert all(0 <= one < len(run.pairs[owner].captions) for owner, one in zip(owners, which, strict=True))
    assert len({tuple(images) for images, _, _ in epochs}) == 30
    double = next(place for place, pair in enumerate(run.pairs) if len(pair.captions) == 2)
    assert {int(which[list(images).index(double)]) for images, _, which in epochs} == {0, 1}
    wrong = Run(made(batch_size=60, shuffle_captions=True), 0, 1, "cpu", lambda *_: None)
    partners = [dict(zip(*wrong._order(epoch, good)[:2], strict=True)) for epoch in (0, 1)]
    assert partners[0] == partners[1] and sorted(partners[0].values()) == sorted(good)
    assert not any(image == owner for image, owner in partners[0].items()), "no image keeps its own caption"
    for epoch in (0, 1):  # partners are anywhere, not beside each other in a batch, where true captions were negatives
        at = {image: place for place, image in enumerate(wrong._order(epoch, good)[0].tolist())}
        apart = [abs(at[image] - at[owner]) for image, owner in partners[0].items()]
        assert 12 < np.mean(apart) < 28, "a third of 60 on average"


def encoded(config: TrainConfig) -> int:
    """Images that a run encodes."""
    done = [0]
    train(config, on_progress=lambda what, count, of, word: done.append(count) if what == "images" else None)
    return max(done)


@pytest.mark.long
def test_runs_share_the_cache_and_the_first_pairs_are_the_same_of_all(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eclip.training.data.IMAGES_IN_SHARD", 10)
    own: dict[str, Any] = {"cache": str(tmp_path / "cache"), "epochs": 1}
    counts = [encoded(made(str(limit), limit=limit, batch_size=5, **own)) for limit in (15, 20, 35, None, 10)]
    assert counts == [20, 0, 20, 20, 0], "shards of 10: 60 images, none of them twice"
    assert [event["pairs"] for limit in (15, 35, None) for event in of("start", made(str(limit)))] == [15, 35, 60]
    assert encoded(made("seed", seed=3, limit=10, batch_size=5, **own)) == 0
    assert encoded(made("guided", guide="centre", limit=10, batch_size=5, **own)) == 10
    assert len(list((tmp_path / "cache").glob("rows-*"))) == 1


def with_bad(folder: Path, data: Path, *, broken: int = 1, count: int = 60) -> Path:
    """The same pairs, some images broken, a row without image, an empty caption, and an image without one."""
    shutil.copytree(data, folder)
    rows = (folder / "captions.tsv").read_text().splitlines()
    for number in range(count - 60):
        shutil.copy(folder / f"{number % 60:03d}.png", folder / f"more{number:03d}.png")
        rows.append(f"more{number:03d}.png\tmore of it")
    for number in range(3, 3 + broken):
        file = folder / f"{number:03d}.png"
        file.write_bytes(file.read_bytes()[:50])
    rows += ["gone.png\ta image that is not there", "extra.png\t"]
    shutil.copy(folder / "000.png", folder / "extra.png")
    shutil.copy(folder / "000.png", folder / "untold.png")
    (folder / "captions.tsv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.mark.parametrize(
    ("mode", "precision"),
    [
        (torch.no_grad, "float32"),
        (torch.inference_mode, "float32"),
        (lambda: torch.autocast("cpu", torch.bfloat16), "float32"),
        (lambda: torch.autocast("cpu", torch.bfloat16), "bfloat16"),
    ],
)
def test_it_trains_whatever_surrounds_it(mode: Callable[[], Any], precision: str, made: Made) -> None:
    config = made("alone", epochs=1, precision=precision)
    train(config)
    with mode():
        train(made("within", epochs=1, precision=precision))
    same_head(config, made("within"))


@pytest.mark.parametrize("stream", [False, True])
def test_bad_pairs_are_named_counted_and_left_out(stream: bool, made: Made, data: Path, tmp_path: Path) -> None:
    config = made(train_data=(str(with_bad(tmp_path / "bad", data, broken=2)),), stream=stream, batch_size=20, epochs=3)
    train(config)
    bad = {Path(event["key"]).name: event["why"] for event in of("bad", config)}
    assert bad.keys() == {"003.png", "004.png", "gone.png", "extra.png", "untold.png"} and len(of("bad", config)) == 5
    assert (
        "no such file" in bad["gone.png"] and "empty caption" in bad["extra.png"] and "no caption" in bad["untold.png"]
    )
    assert "003.png" in bad["003.png"]
    assert of("start", config)[0]["pairs"] == 60
    if not stream:
        assert of("cached", config)[0]["bad"] == 2
        assert len(losses(config)) == 2 * 3, "58 good ones"
    assert all(map(math.isfinite, losses(config)))


@pytest.mark.parametrize("stream", [False, True])
def test_more_than_a_twentieth_of_bad_images_stops_the_run(
    stream: bool, made: Made, data: Path, tmp_path: Path
) -> None:
    few, many = (with_bad(tmp_path / str(broken), data, broken=broken, count=260) for broken in (8, 20))
    options: dict[str, Any] = {"stream": stream, "batch_size": 65, "epochs": 1}
    train(made("few", train_data=(str(few),), **options))
    with pytest.raises(
        DataError, match=r"20 of 260 pairs are bad, more than 5%. The first: .*006.png is damaged: .*Fix the data"
    ):
        train(made("many", train_data=(str(many),), **options))
    assert len(of("bad", made("many"))) == 23


def test_more_than_a_twentieth_of_missing_images_stops_before_anything(made: Made, data: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(data, tmp_path / "torn"))
    rows = "".join(f"gone{number}.png\ta thing\n" for number in range(150))
    with (folder / "captions.tsv").open("a") as file:
        file.write(rows)
    with pytest.raises(DataError, match=r"150 of 210 pairs are bad.*gone0.png: no such file"):
        train(made(train_data=(str(folder),), limit=40))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("pairs", "shares", "size"),
    [(1, 1, 1), (12, 1, 12), (60, 1, 16), (200, 1, 25), (200, 4, 24), (2047, 1, 255), (2048, 1, 256), (10**6, 3, 255)],
)
def test_the_batch_fits_the_data_if_none_is_given(pairs: int, shares: int, size: int) -> None:
    assert fitting(pairs, shares) == size


def test_runs_that_are_too_short_to_do_anything_say_so(made: Made, caplog: pytest.LogCaptureFixture) -> None:
    config = made(batch_size=None, warmup=30)
    train(config)
    [start] = of("start", config)
    assert (start["batch_size"], len(losses(config))) == (16, 6), "60 pairs: three batches of 16, twice"
    assert load_head(config.out).config.trained["batch_size"] == 16
    assert "this run has 6 steps, and the learning rate still rises in the first 30" in caplog.text
    assert "an epoch has only 3 steps of 16 pairs, for 60 pairs" in caplog.text
    caplog.clear()
    train(made("longer", batch_size=10, epochs=2, warmup=2))
    assert "steps" not in caplog.text


def test_batches_that_cannot_be_are_refused_before_anything_is_encoded(made: Made, tmp_path: Path) -> None:
    own = str(tmp_path / "cache")
    with pytest.raises(OptionError, match="batch_size=61 exceeds the number of pairs, 60: set --batch-size 60"):
        train(made(batch_size=61, cache=own))
    with pytest.raises(OptionError, match="pairs, 12: set --batch-size 12"):
        train(made(batch_size=20, limit=12, cache=own))
    with pytest.raises(
        OptionError, match="batch_size=20 is not divisible by 1 processes x 3 parts: set --batch-size 18"
    ):
        train(made(accum_freq=3, cache=own))
    with pytest.raises(OptionError, match="lr must be between 0 and 1, got 3"):
        train(made(lr=3.0, cache=own))
    with pytest.raises(OptionError, match="image_size must be a multiple of the patch size 8"):
        train(made(image_size=30, cache=own))
    assert not Path(own).exists()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"batch_size": 1}, OptionError, "batch_size=1 leaves nothing to contrast.*set --batch-size 2 or more"),
        ({"batch_size": None, "limit": 1}, DataError, "there are too few pairs: 1. Train on more pairs"),
        (
            {"limit": 24, "accum_freq": 32},
            DataError,
            "few pairs: 24, and cannot be .* smaller --accum-freq than 32",
        ),
        ({"limit": 24, "batch_size": 30, "accum_freq": 5}, OptionError, "exceeds .* pairs, 24: set --batch-size 20"),
        ({"image_size": 100}, OptionError, "must be a multiple of the patch size 8"),
        ({"guide": "spectral", "guide_options": {"tau": 5.0}}, OptionError, "tau"),
    ],
)
def test_what_is_refused_replaces_nothing(
    options: dict[str, Any], error: type[Exception], message: str, made: Made
) -> None:
    folder = Path(made().out)
    folder.mkdir()
    for name in (CHECKPOINT, CONFIG, WEIGHTS, FILE):
        (folder / name).write_text("of an earlier run")
    with pytest.raises(error, match=message):
        train(made(**options))
    assert {file.read_text() for file in folder.iterdir()} == {"of an earlier run"} and len(list(folder.iterdir())) == 4


def test_texts_that_are_true_of_every_image_are_refused(made: Made, data: Path, tmp_path: Path) -> None:
    alike = Path(shutil.copytree(data, tmp_path / "alike"))
    rows = [f"{file.name}\ta dog" for file in sorted(alike.glob("*.png"))]
    (alike / "captions.tsv").write_text("\n".join(["filepath\ttitle", *rows]))
    for texts in ("captions", "words"):
        with pytest.raises(DataError, match=r"nothing to contrast, because every text, such as '(a photo of )?a dog'"):
            train(made(texts=texts, train_data=(str(alike),)))


def test_the_default_batch_leaves_room_for_broken_images(made: Made, data: Path, tmp_path: Path) -> None:
    bad = str(shutil.copytree(data, tmp_path / "bad"))
    for file in Path(bad).glob("*.png"):
        file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(DataError, match=r"none of the 60 pairs is usable. The first: .*\.png.* All are listed in"):
        train(made(train_data=(bad,), batch_size=None))
    few = with_bad(tmp_path / "few", data, broken=50)
    config = made("few", train_data=(str(few),), batch_size=None, epochs=1)
    train(config)
    assert of("start", config)[0]["batch_size"] == 16 and of("smaller batch", config)[0]["batch_size"] == 10
    assert load_head(config.out).config.trained["batch_size"] == 10
    streamed = made("streamed", train_data=(bad,), stream=True)
    with pytest.raises(DataError, match=r"none of the images of step 1 can be read. The first: .*\.png"):
        train(streamed)


def test_names_that_are_no_unicode_are_recorded(made: Made, data: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(data, Path(os.fsdecode(os.fsencode(tmp_path) + b"/d\xeata\xc2\x85"))))
    shutil.copy(data / "000.png", folder / os.fsdecode(b"f\xeate.png"))
    config = made(train_data=(str(folder),), epochs=1)
    train(config)
    assert of("start", config)[0]["config"]["train_data"] == [str(folder)]
    assert [event["key"] for event in of("bad", config)] == [str(folder / os.fsdecode(b"f\xeate.png"))]
    assert load_head(config.out).config.trained["train_data"] == [f"{tmp_path.name}/{folder.name}"]
    train(replace(config, epochs=2), resume=True)
    assert len(of("epoch", config)) == 2


def test_a_curve_that_cannot_be_drawn_stops_nothing(
    made: Made, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, seen = made(epochs=1), []

    def refuse(folder: Path, found: Any) -> Path:
        seen.append((matplotlib.rcParams["text.usetex"], (Path(config.out) / CHECKPOINT).is_file()))
        raise PermissionError("no curve today")

    monkeypatch.setattr("eclip.training.log._draw", refuse)
    with matplotlib.rc_context({"text.usetex": True}):
        train(config)
    assert seen == [(False, True)] and "the curve of the run cannot be drawn: PermissionError: no curve" in caplog.text
    same_head(config, train(config, resume=True))


def test_a_folder_that_is_removed_meanwhile_is_told(made: Made) -> None:
    config = made()

    def remove(what: str, *_: Any) -> None:
        if what == "training":
            shutil.rmtree(config.out)

    with pytest.raises(ResultError, match=r"log.jsonl' can no longer be written: No such file"):
        train(config, on_progress=remove)


def test_a_folder_is_locked_while_a_run_writes_to_it(made: Made) -> None:
    config = made(epochs=1)

    def intrude(what: str, *_: Any) -> None:
        if what == "training":
            for resume in (False, True):
                with pytest.raises(ResultError, match="another run is writing to"):
                    train(replace(config, seed=2), resume=resume)

    train(config, on_progress=intrude)
    assert len(of("start", config)) == 1
    train(replace(config, seed=2))


@pytest.mark.parametrize("name", [CHECKPOINT, FILE, PICTURE])
def test_files_of_others_are_not_replaced(name: str, made: Made) -> None:
    config = made(epochs=1)
    file = Path(config.out) / name
    file.parent.mkdir()
    file.write_text('{"loss": 1}\n3\n')
    with pytest.raises(ResultError, match=f"contains {name}, but no log of `eclip train`.*move it away, or choose"):
        train(config)
    assert [one.name for one in file.parent.iterdir()] == [name] and file.read_text() == '{"loss": 1}\n3\n'


def test_a_folder_that_cannot_be_written_says_so(made: Made, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(ResultError, match=r"log.jsonl' cannot be written: File exists"):
        train(made("taken"))


# --- stopped and resumed ---


def stop_at(step: int, number: int) -> Callable[..., None]:
    """An `on_progress` by which the process gets a signal in the middle of a step."""

    def on_progress(what: str, done: int, of: int, word: str) -> None:
        if what == "training" and done == step:
            os.kill(os.getpid(), number)

    return on_progress


@pytest.fixture(scope="module")
def masks(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(shapes.write_masks(tmp_path_factory.mktemp("scored") / "masks", count=2))


@pytest.mark.parametrize(
    ("number", "error", "steps"),
    [
        (signal.SIGTERM, SystemExit, (2, 4)),
        (signal.SIGINT, KeyboardInterrupt, (3,)),
        (signal.SIGINT, KeyboardInterrupt, (6,)),
    ],
    ids=["twice within an epoch", "at the end of an epoch", "at the end"],
)
@pytest.mark.long(every=5)
def test_stopped_and_resumed_is_uninterrupted_to_the_bit(
    number: int, error: type[BaseException], steps: tuple[int, ...], made: Made, masks: str, data: Path, tmp_path: Path
) -> None:
    bad = with_bad(tmp_path / "bad", data)
    options = {
        "hidden": 4,
        "text": True,
        "learn_scale": True,
        "masks": masks,
        "train_data": (str(bad),),
        "batch_size": 19,
    }
    whole, config = made("whole", **options), made(**options)
    head, handler = train(whole), signal.getsignal(number)
    for place, step in enumerate(steps):
        with pytest.raises(error) as raised:
            train(config, resume=place > 0, on_progress=stop_at(step, number))
        if error is SystemExit:
            assert raised.value.code == 128 + signal.SIGTERM  # type: ignore[attr-defined]
        assert log_of(config)[-1] == {"event": "stopped", "step": step, "signal": signal.Signals(number).name}
        assert len(losses(config)) == step
    assert signal.getsignal(number) == handler, "the user's again"
    again = train(config, resume=True)
    same_head(again, head)
    same_head(config, whole)
    assert timeless(config) == timeless(whole)
    assert replace(again.config, trained={}) == replace(head.config, trained={})
    assert again.config.trained["epochs_done"] == 2


@pytest.mark.parametrize("again", [True, False])
def test_a_second_signal_counts_but_not_where_a_launcher_passes_them_on(again: bool) -> None:
    before, came = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)], []
    try:
        signal.signal(signal.SIGINT, lambda number, frame: came.append(number))
        signal.signal(signal.SIGTERM, lambda number, frame: came.append(number))
        with Interrupts(again=again) as interrupts:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
                os.kill(os.getpid(), number)
        assert interrupts.signal == signal.SIGTERM, "the first"
        assert came == ([signal.SIGINT, signal.SIGTERM] if again else [])
        os.kill(os.getpid(), signal.SIGINT)
        assert came[-1] == signal.SIGINT, "afterwards they are the user's again"
    finally:
        for number, handler in zip((signal.SIGINT, signal.SIGTERM), before, strict=True):
            signal.signal(number, handler)


def test_streamed_runs_resume_to_the_bit_too(made: Made, data: Path, tmp_path: Path) -> None:
    bad = with_bad(tmp_path / "bad", data, broken=3)
    options: dict[str, Any] = {"stream": True, "train_data": (str(bad),), "guide": "centre"}
    whole, config = made("whole", **options), made(**options)
    head = train(whole)
    with pytest.raises(KeyboardInterrupt):
        train(config, on_progress=stop_at(4, signal.SIGINT))
    same_head(train(config, resume=True), head)
    assert timeless(config) == timeless(whole) and len(of("bad", config)) == 6


def test_a_finished_run_is_resumed_for_more_epochs(made: Made, data: Path, tmp_path: Path) -> None:
    config = made()
    head = train(config)
    before = log_of(config)
    same_head(train(config, resume=True), head)
    assert log_of(config) == before, "nothing was left to do"
    moved = Path(shutil.copytree(data, tmp_path / "moved"))
    longer = made(epochs=3, train_data=(str(moved),), workers=1)
    assert train(longer, resume=True).config.trained["epochs_done"] == 3
    assert log_of(longer)[: len(before)] == before and len(losses(longer)) == 9
    with pytest.raises(TrainingError, match=r"has done 3 epochs of 1"):
        train(made(epochs=1), resume=True)
    for name in (CONFIG, WEIGHTS):
        (Path(longer.out) / name).unlink()
    same_head(train(longer, resume=True), longer)


def test_the_batch_of_a_resumed_run_is_that_of_its_start(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    config = made(batch_size=None, epochs=1)
    train(config)
    monkeypatch.setattr("eclip.training.run.fitting", lambda pairs, shares: 15)  # as for three processes
    assert train(replace(config, epochs=2), resume=True).config.trained["batch_size"] == 16
    assert len(losses(config)) == 6


def test_resume_refuses_another_run(made: Made, data: Path, tiny_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"nothing to resume: .*checkpoint.pt' does not exist. Leave --resume out"):
        train(made(), resume=True)
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "model"))
    config = made(epochs=1, model=f"local-dir:{folder}")
    train(config)
    for change, message in (
        ({"lr": 0.01}, "has lr=0.02, but now it is 0.01: resume with the same value, or start in another folder"),
        ({"guide": "centre"}, "has guide='none', but now it is 'centre'"),
        ({"limit": 40}, "has limit=None, but now it is 40"),
    ):
        with pytest.raises(TrainingError, match=message):
            train(replace(config, **change), resume=True)
    maps = tmp_path / "maps"
    maps.mkdir()
    for number in range(60):
        np.save(maps / f"{number:03d}.npy", np.ones((2, 2)))
    guided = made("guided", epochs=1, guide="folder", guide_options={"path": str(maps)})
    train(guided)
    train(guided, resume=True)
    np.save(maps / "007.npy", np.eye(2))
    with pytest.raises(TrainingError, match="the pairs or the maps of the guide have changed since"):
        train(guided, resume=True)
    other = shapes.write_pairs(tmp_path / "other", seed=77)
    with pytest.raises(TrainingError, match="the pairs have changed since"):
        train(replace(config, train_data=(str(other),)), resume=True)

    weights = load_file(folder / "open_clip_model.safetensors")
    save_file({key: 1.1 * value for key, value in weights.items()}, folder / "open_clip_model.safetensors")
    with pytest.raises(TrainingError, match="the weights of 'local-dir:"):
        train(config, resume=True)
    file = Path(config.out) / CHECKPOINT
    for content in (file.read_bytes()[:-300], b"", b"no checkpoint"):
        file.write_bytes(content)
        with pytest.raises(TrainingError, match=r"checkpoint.pt' cannot be read"):
            train(config, resume=True)
    torch.save({"epoch": 3}, file)
    with pytest.raises(TrainingError, match=r"checkpoint.pt' cannot be read \(KeyError\)"):
        train(config, resume=True)


def test_a_new_run_in_the_folder_of_an_old_one_leaves_nothing_of_it_to_resume(made: Made) -> None:
    config = made(epochs=1)
    train(config)
    with pytest.raises(RuntimeError, match="lights out"):
        train(config, on_progress=lights_out)
    assert [file.name for file in Path(config.out).iterdir()] == [FILE] and not of("step", config)[1:]


def lights_out(what: str, done: int, of: int, word: str) -> None:
    if what == "training":
        raise RuntimeError("lights out")


def test_a_loss_that_is_not_finite_stops_and_the_last_checkpoint_is_good(made: Made, tmp_path: Path) -> None:
    """A row of one image is damaged on disk: its epoch's step cannot be taken."""
    cache = tmp_path / "cache"
    whole = made("whole", cache=str(cache), epochs=1)
    train(whole)
    [file] = cache.glob("rows-*/*.npy")
    rows = np.load(file, mmap_mode="r+")
    first, found = rows.copy(), []
    for place in range(len(rows)):
        rows[:] = first
        rows[place, 3, 0] = np.inf
        rows.flush()
        config = made(f"out{place}", cache=str(cache), epochs=1, checkpoint_every=1)
        with pytest.raises(TrainingError, match=r"not finite at step \d.*applied; .*lower --lr") as raised:
            train(config)
        found.append(len(losses(config)))
        said = "the last checkpoint in .* is intact" if found[-1] else "there is no checkpoint yet"
        assert re.search(said, str(raised.value))
        if found[-1] == 2:
            break
    assert found[-1] == 2, "the damaged pair comes in the third step"
    assert losses(config) == losses(whole)[:2] and log_of(config)[-1]["event"] == "failed"
    with pytest.raises(HeadError, match="no head"):
        load_head(config.out)
    rows[:] = first
    rows.flush()
    same_head(train(config, resume=True), load_head(whole.out))
    assert timeless(config) == timeless(whole)
    assert json.loads((Path(config.out) / CONFIG).read_text())["trained"]["epochs_done"] == 1


# --- on words ---


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> str:
    """60 images with words for the color and the shape (the first for the color alone), and one without words."""
    return str(shapes.write_named(tmp_path_factory.mktemp("named") / "pairs"))


@pytest.fixture
def worded(made: Made, named: str) -> Made:
    def make(out: str = "out", **options: Any) -> TrainConfig:
        on_words = {"texts": "words", "form": "similarity_smooth", "train_data": (named,)}
        return made(out, **{**on_words, **options})

    return make


def naming(head: EclipHead, model: str) -> float:
    """Share of new images that match the word for their color best of the four."""
    backbone = eclip.load(model)
    asked = list(product(shapes.COLORS, shapes.SHAPES)) * 5
    images = [shapes.draw(color, shape, 5000 + seed)[0] for seed, (color, shape) in enumerate(asked)]
    encoding = eclip.encode(backbone, torch.stack([backbone.preprocess(image) for image in images]), keep=1)
    prompts = [f"a photo of a {shapes.NOUNS[color]}" for color in shapes.COLORS]
    with torch.no_grad():
        words = unit(head.project_text(eclip.encode_texts(backbone, prompts)))
        best = match(head(head_rows(encoding)), words, None, "similarity_smooth").argmax(dim=1)
    return float(np.mean([list(shapes.COLORS)[place] == color for place, (color, _) in zip(best, asked, strict=True)]))


def test_words_are_learned_but_not_from_shuffled_captions(worded: Made) -> None:
    options = {"epochs": 20, "lr": 0.05, "hidden": 16, "text": True}
    config, control = worded(**options), worded("control", shuffle_captions=True, **options)
    start = EclipHead.start(eclip.load(config.model), hidden=16, text=True)
    scores = [naming(one, config.model) for one in (start, train(control), train(config))]
    assert max(scores[:2]) < 0.4 < 0.6 < scores[2], "chance is 0.25"
    assert np.mean(losses(config)[-6:]) < np.mean(losses(control)[-6:]) - 0.5
    assert [event["pairs"] for event in of("without words", config)] == [1]
    assert of("start", config)[0]["pairs"] == 61 and len(losses(config)) == 60, "60 that have words"
    trained = load_head(config.out).config.trained
    assert (trained["texts"], trained["near"], trained["form"]) == ("words", 0.5, "similarity_smooth")


def test_on_words_stopped_and_resumed_is_uninterrupted_to_the_bit(worded: Made) -> None:
    options = {"hidden": 4, "text": True, "learn_scale": True, "guide": "centre", "near": 0.2}
    whole, config = worded("whole", **options), worded(**options)
    head = train(whole)
    with pytest.raises(SystemExit):
        train(config, on_progress=stop_at(2, signal.SIGTERM))
    for change, message in (
        ({"near": 0.3}, "has near=0.2, but now it is 0.3"),
        ({"texts": "captions"}, "has texts='words', but now it is 'captions'"),
        ({"form": "similarity"}, "has form='similarity_smooth', but now it is 'similarity'"),
    ):
        with pytest.raises(TrainingError, match=message):
            train(replace(config, **change), resume=True)
    same_head(train(config, resume=True), head)
    assert timeless(config) == timeless(whole) and len(of("without words", config)) == 1


@pytest.mark.parametrize("form", ["soft", "similarity_smooth"])
def test_on_words_parts_and_streamed_batches_train_the_same_head(form: str, worded: Made) -> None:
    options = {"form": form, "hidden": 4, "text": True, "learn_scale": True, "guide": "centre"}
    whole = alike_in_parts_and_streamed(worded, options)
    with pytest.raises(DataError, match=r"nothing to contrast, because every text, such as .*, or set a higher --near"):
        train(worded("alone", near=-1.0, **options))
    assert losses(whole)[0] > 1


@pytest.mark.parametrize("shuffle", [False, True])
def test_an_image_is_not_contrasted_with_the_words_of_the_pair_whose_text_it_gets(
    shuffle: bool, worded: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts, own = [], Learner.step

    def noting(learner: Learner, batch: list[Batch], rate: float) -> float:
        parts.extend(batch)
        return own(learner, batch, rate)

    monkeypatch.setattr(Learner, "step", noting)
    config = worded(shuffle_captions=shuffle, near=1.0, epochs=1)
    run = Run(config, 0, 1, "cpu", lambda *_: None)
    run.go(False)
    assert run.false_negatives is not None and len(run.false_negatives.number) == 7 and len(parts) == 3
    words = eclip.encode_texts(run.backbone, list(run.false_negatives.number))
    images, owners, _ = run._orders[0]
    assert bool((images == owners).all()) is not shuffle
    for step, part in enumerate(parts):
        torch.testing.assert_close(part.text, words[part.number], rtol=1e-5, atol=1e-6)
        for row, owner in zip(part.false_negatives, owners[20 * step :], strict=False):
            assert row.nonzero()[:, 0].tolist() == sorted(run.false_negatives.number[word] for word in run.texts[owner])


def test_too_few_pairs_with_words_are_told_before_anything_is_encoded(worded: Made, named: str, tmp_path: Path) -> None:
    own = str(tmp_path / "cache")
    with pytest.raises(OptionError, match="batch_size=61 exceeds the number of pairs with words, 60: set --batch"):
        train(worded(batch_size=61, cache=own))
    with pytest.raises(DataError, match="no vocabulary word occurs in the captions of at least 10 images"):
        train(worded(train_data=(str(shapes.write_pairs(tmp_path / "no words")),), cache=own))
    few = Path(shutil.copytree(named, tmp_path / "few"))
    first = Path(Run(worded(), 0, 1, "cpu", print).pairs[0].key).name
    rows = (few / "captions.tsv").read_text().splitlines()
    rows = [f"{first}\tnothing" if row.startswith(first) else row for row in rows]
    (few / "captions.tsv").write_text("\n".join(rows))
    with pytest.raises(DataError, match="none of the 1 pairs has a known word in its captions"):
        train(worded(train_data=(str(few),), limit=1, batch_size=1, cache=own))
    assert not Path(own).exists()
