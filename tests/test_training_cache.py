"""What training needs of each pair: stored on disk once, found again by its key, in bounded memory."""

from __future__ import annotations

import os
import shutil
import sys
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, ClassVar

import numpy as np
import pytest
import torch
from open_clip.transformer import QuickGELU
from PIL import Image

import eclip
import shapes
import tiny
from eclip.backbones.backbone import Backbone
from eclip.backbones.head import EclipHead, head_rows
from eclip.datasets.caption_sources import Pair, read_pairs
from eclip.datasets.pair import Place
from eclip.errors import DataError, ResultError, TextCutWarning
from eclip.files import replace_file
from eclip.guides import GUIDES, Seen, on_grid
from eclip.texts.encode import encode_texts
from eclip.training import data as data_module
from eclip.training.cache import Store
from eclip.training.data import Batch, Cached, PairEncoder, Places, Streamed


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return tiny.backbone("vit")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> list[Pair]:
    """36, each with a caption of its own, the first with two."""
    pairs = read_pairs([str(shapes.write_pairs(tmp_path_factory.mktemp("pairs"), each=3))])[0]
    return [
        replace(pair, captions=(f"{pair.captions[0]}, number {place}", *pair.captions[1:]))
        for place, pair in enumerate(pairs)
    ]


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_module, "IMAGES_IN_SHARD", 8)
    monkeypatch.setattr(data_module, "CAPTIONS_IN_SHARD", 10)


def encoder_of(backbone: Backbone, **options: Any) -> PairEncoder:
    source = options.pop("source", "value")
    return PairEncoder(backbone, EclipHead.start(backbone, source).config.channels, source, **options)


def captions_of(pairs: list[Pair]) -> list[tuple[str, ...]]:
    return [pair.captions for pair in pairs]


def on_disk(provenance: PairEncoder, pairs: list[Pair], folder: Path, count: int | None = None) -> Cached:
    return Cached(provenance, pairs, captions_of(pairs), folder, count)


def streaming(provenance: PairEncoder, pairs: list[Pair]) -> Streamed:
    return Streamed(provenance, pairs, captions_of(pairs))


def filled(cached: Cached, **options: Any) -> dict[str, int]:
    """Fill; how many images and captions were encoded for it."""
    done = {"images": 0, "captions": 0}

    def on_progress(what: str, count: int, of: int, word: str) -> None:
        if what in done:
            done[what] = count

    cached.fill(on_progress, **options)
    cached.note_bad()
    return done


def places(*numbers: int) -> Places:
    return np.array(numbers, dtype=np.int64)


def same(one: Batch, other: Batch, **tolerance: float) -> None:
    for name in ("rows", "guide", "text", "good"):
        torch.testing.assert_close(getattr(one, name), getattr(other, name), **tolerance)


# --- a store ---


def test_a_store_gives_records_in_the_order_asked_for(tmp_path: Path) -> None:
    values = np.random.default_rng(0).standard_normal((11, 2, 3)).astype(np.float16)
    store = Store(tmp_path / "deep" / "store", 11, (2, 3), np.float16, shard=4)
    assert store.missing() == [range(4), range(4, 8), range(8, 11)]
    assert store.bytes_missing() == 11 * 12 and store.bytes_missing(5) == 8 * 12
    for span in store.missing(9)[1:]:
        store.write(span.start, values[span.start : span.stop])
    assert store.missing() == store.missing(1) == [range(4)] and not store.missing(0)
    store.write(0, values[:4].astype(np.float64), {2: "torn", 3: "wet"})
    asked = places(10, 0, 7, 7, 4, 3, 10)
    assert np.array_equal(store.take(asked), values[asked]) and store.take(asked).dtype == np.float16
    assert store.take(places()).shape == (0, 2, 3)
    store.write(4, values[4:8], {5: "torn"})
    store.write(4, values[4:8])  # written again without it
    again = Store(tmp_path / "deep" / "store", 11, (2, 3), np.float16, shard=4)
    assert again.bad() == {2: "torn", 3: "wet"} and not again.missing()
    assert np.array_equal(np.load(store.folder / "000001.npy"), values[4:8]), "a file that anyone can read"
    assert sorted(file.name for file in store.folder.iterdir()) == [
        "000000.bad.json",
        "000000.npy",
        "000001.npy",
        "000002.npy",
    ]


def test_a_shard_that_was_cut_off_is_missing(tmp_path: Path) -> None:
    store = Store(tmp_path, 4, (5,), np.float32, shard=2)
    for start in (0, 2):
        store.write(start, np.ones((2, 5)))
    os.truncate(tmp_path / "000001.npy", 150)
    assert store.missing() == [range(2, 4)]


def test_a_shard_that_is_cut_off_later_gives_no_numbers(tmp_path: Path) -> None:
    store = Store(tmp_path, 4, (8,), np.float16, shard=4)
    store.write(0, np.ones((4, 8)))
    os.truncate(tmp_path / "000000.npy", (tmp_path / "000000.npy").stat().st_size - 3)
    assert store.take(places(2, 0)).all()
    with pytest.raises(ResultError, match=r"000000.npy was truncated during the run: start again"):
        store.take(places(0, 3))
    shutil.rmtree(tmp_path)
    with pytest.raises(ResultError, match=r"000000.npy cannot be read any more \(No such file or directory\): start"):
        store.take(places(0))


def test_what_cannot_be_written_says_so_and_leaves_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("as it was")
    with pytest.raises(ResultError, match=r"000000.npy' cannot be written: File exists"):
        Store(tmp_path / "file", 2, (3,), np.float32, shard=2).write(0, np.ones((2, 3)))

    def half(file: IO[bytes]) -> None:
        file.write(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        replace_file(tmp_path / "file", half)
    assert [file.read_text() for file in tmp_path.iterdir()] == ["as it was"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks Linux for the memory in use")
def test_taking_records_holds_no_shard_in_memory(tmp_path: Path) -> None:
    store = Store(tmp_path, 512, (2**17,), np.float32, shard=256)  # 256 MiB, all zeros, which take no room on disk
    for span in store.missing():
        np.lib.format.open_memmap(tmp_path / f"{span.start // 256:06d}.npy", "w+", np.float32, (256, 2**17))
    assert not store.missing()

    def used() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    before = used()
    for start in range(0, 512, 16):
        assert not store.take(np.arange(start, start + 16)).any()
        assert used() - before < 48 * 2**20, "8 MiB of records are taken at a time"


# --- what is looked at ---


def test_rows_guide_and_captions_are_those_of_the_pair(backbone: Backbone, pairs: list[Pair], tmp_path: Path) -> None:
    cached = on_disk(encoder_of(backbone, guide="spectral", image_size=48), pairs, tmp_path)
    assert filled(cached) == {"images": 36, "captions": 37} and cached.bytes_missing == 0
    batch = cached.batch(places(30, 0, 7), places(30, 0, 35), places(0, 1, 0))
    images = [pairs[place].open() for place in (30, 0, 7)]
    encoding = eclip.encode(backbone, torch.stack([backbone.preprocess(image, 48) for image in images]), keep=1)
    guide = on_grid(GUIDES["spectral"](Seen(images, ["a", "b", "c"], encoding)), encoding.grid).flatten(1)
    assert batch.rows.dtype == torch.float16 and batch.rows.shape == (3, 36, 32)
    torch.testing.assert_close(batch.rows.float(), head_rows(encoding), rtol=2e-3, atol=1e-3)
    torch.testing.assert_close(batch.guide.float(), guide, rtol=2e-3, atol=1e-3)
    assert guide.std() > 0.1
    said = [pairs[30].captions[0], pairs[0].captions[1], pairs[35].captions[0]]
    assert said[1] == "one red shape"
    torch.testing.assert_close(batch.text, encode_texts(backbone, said), rtol=1e-5, atol=1e-6)
    assert batch.good.all()


@pytest.mark.parametrize("guide", ["none", "centre"])
def test_streamed_is_cached_to_half_precision(
    guide: str, backbone: Backbone, pairs: list[Pair], tmp_path: Path
) -> None:
    provenance = encoder_of(backbone, guide=guide, source="output", workers=3)
    cached = on_disk(provenance, pairs, tmp_path)
    filled(cached)
    asked = places(*range(0, 36, 2)), places(*range(1, 36, 2)), places(*[0] * 18)
    same(streaming(provenance, pairs).batch(*asked), cached.batch(*asked), rtol=2e-3, atol=1e-3)


def test_images_that_cannot_be_read_are_named_and_not_used(
    backbone: Backbone, pairs: list[Pair], tmp_path: Path
) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(Path(pairs[5].place.file).read_bytes()[:60])
    some = list(pairs)
    some[5] = Pair("broken", Place(str(broken), 0, 60), ("a torn photo",))
    some[20] = replace(pairs[20], key="gone", place=Place(str(tmp_path / "gone.png"), 0, 9))
    provenance = encoder_of(backbone, guide="spectral")
    cached, streamed = on_disk(provenance, some, tmp_path / "cache"), streaming(provenance, some)
    filled(cached)
    assert list(cached.bad) == [5, 20] and "broken" in cached.bad[5] and "can no longer be read" in cached.bad[20]
    asked = places(4, 20, 5), places(4, 20, 5), places(0, 0, 0)
    for one in (cached, streamed):
        batch = one.batch(*asked)
        assert batch.good.tolist() == [True, False, False]
        assert batch.rows[0].any() and not batch.rows[1:].any() and bool((batch.guide[1:] == 1).all())
    assert streamed.bad == cached.bad
    again = on_disk(provenance, some, tmp_path / "cache")
    assert filled(again) == {"images": 0, "captions": 0} and again.bad == cached.bad
    few = on_disk(provenance, some, tmp_path / "cache", count=12)
    few.note_bad()
    assert list(few.bad) == [5], "only those that are used"
    rows, _, bad = provenance.encode_images([some[5], some[20]])
    assert list(bad) == [0, 1] and not rows.any()


def test_images_that_can_be_read_again_are_used(backbone: Backbone, pairs: list[Pair], tmp_path: Path) -> None:
    away = tmp_path / "away.png"
    some = [*pairs[:9], replace(pairs[9], place=pairs[9].place._replace(file=str(away))), *pairs[10:]]
    provenance = encoder_of(backbone, guide="centre")
    whole, torn = (on_disk(provenance, data, tmp_path / "cache") for data in (pairs, some))
    assert filled(whole)["images"] == filled(torn)["images"] == 36 and list(torn.bad) == [9]
    shutil.copy(pairs[9].place.file, away)
    assert filled(torn, retry=False)["images"] == 0 and list(torn.bad) == [9], "a resumed run goes on as it began"
    assert filled(torn) == {"images": 8, "captions": 0} and not torn.bad, "its shard"
    same(torn.batch(places(9), places(9), places(0)), whole.batch(places(9), places(9), places(0)), rtol=0, atol=0)
    assert filled(torn)["images"] == 0


class Counted(Pair):
    """A pair that counts how many of the images are in memory."""

    alive: ClassVar[set[int]] = set()
    most: ClassVar[list[int]] = []

    def open(self) -> Image.Image:
        image = super().open()
        self.alive.add(number := id(image))
        weakref.finalize(image, self.alive.discard, number)
        self.most.append(len(self.alive))
        return image


def test_an_image_that_broke_before_another_guide_looked_is_not_used(
    backbone: Backbone, pairs: list[Pair], tmp_path: Path
) -> None:
    copy = shutil.copy(pairs[5].place.file, tmp_path / "image.png")
    some = [*pairs[:5], replace(pairs[5], place=pairs[5].place._replace(file=str(copy)))]
    whole = on_disk(encoder_of(backbone), some, tmp_path / "cache")
    filled(whole)
    assert not whole.bad
    Path(copy).write_bytes(bytes(pairs[5].place.size))
    other = on_disk(encoder_of(backbone, guide="centre"), some, tmp_path / "cache")
    filled(other)
    assert list(other.bad) == [5] and not other.batch(places(5), places(5), places(0)).good


def test_few_images_are_in_memory_at_a_time(backbone: Backbone, pairs: list[Pair]) -> None:
    many = [Counted(pair.key, pair.place, pair.captions) for pair in pairs * 5]
    encoder_of(backbone, guide="centre", workers=2).encode_images(many)
    assert len(Counted.most) == 180 and max(Counted.most) <= 3 * data_module.IMAGES_AT_ONCE


def test_rows_beyond_half_precision_are_refused(pairs: list[Pair]) -> None:
    loud = tiny.backbone("vit")
    provenance = encoder_of(loud)
    loud.model.visual.ln_post.weight.data.mul_(1e6)
    with pytest.raises(DataError, match="rows of vit exceed the range of half precision"):
        provenance.encode_images(pairs[:3])


# --- kept once ---


def test_a_second_run_encodes_nothing_and_another_guide_shares_the_rows(
    backbone: Backbone, pairs: list[Pair], tmp_path: Path
) -> None:
    whole = {"images": 36, "captions": 37}
    assert filled(on_disk(encoder_of(backbone), pairs, tmp_path)) == whole
    assert [file.name[:5] for file in sorted(tmp_path.iterdir())] == ["rows-", "texts"], "ones need no file"
    assert filled(on_disk(encoder_of(backbone, workers=3), pairs, tmp_path)) == {"images": 0, "captions": 0}
    rows = {file: file.stat().st_mtime_ns for file in tmp_path.glob("rows-*/*")}
    guided = on_disk(encoder_of(backbone, guide="centre"), pairs, tmp_path)
    assert guided.bytes_missing == 36 * 16 * 2, "the guide alone"
    assert filled(guided) == {"images": 36, "captions": 0}
    assert {file: file.stat().st_mtime_ns for file in tmp_path.glob("rows-*/*")} == rows
    wide = on_disk(encoder_of(backbone, guide="centre", guide_options={"sigma": 0.5}), pairs, tmp_path)
    assert filled(wide)["images"] == 36
    assert not torch.equal(wide.batch(*[places(0)] * 3).guide, guided.batch(*[places(0)] * 3).guide)
    assert len(list(tmp_path.iterdir())) == 4


def test_the_key_changes_with_all_that_the_numbers_depend_on(
    backbone: Backbone, pairs: list[Pair], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    maps = tmp_path / "maps"
    maps.mkdir()
    for pair in pairs:
        Image.fromarray(np.full((4, 4), 9, np.uint8)).save(maps / Path(pair.key).name)

    def names(of: Backbone = backbone, data: list[Pair] = pairs, **options: Any) -> list[str]:
        cached = on_disk(
            encoder_of(of, **{"guide": "folder", "guide_options": {"path": str(maps)}, **options}), data, tmp_path
        )
        return [store.folder.name for store in (cached.rows, cached.guides, cached.texts)]

    def changed(**options: Any) -> str:
        return "".join(
            kind[0]
            for kind, new, old in zip(("rows", "guide", "text"), names(**options), first, strict=True)
            if new != old
        )

    first = names()
    assert changed() == changed(workers=4) == ""
    assert changed(image_size=48) == changed(source="output") == "rg"
    assert changed(of=replace(backbone, std=(0.5, 0.5, 0.5))) == changed(of=replace(backbone, mean=(0.5,) * 3)) == "rg"
    assert changed(guide="centre", guide_options={}) == "g"
    before = Path(pairs[3].key).stat()
    os.utime(pairs[3].key, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert changed() == "rg", "an image that was replaced by one of the same size"
    os.utime(pairs[3].key, ns=(before.st_atime_ns, before.st_mtime_ns))
    for part, heads, kind in (("visual.transformer", 4, "rg"), ("transformer", 8, "t")):
        other = tiny.backbone("vit")
        other.model.get_submodule(part).resblocks[0].attn.num_heads = heads
        assert changed(of=other) == kind, "settings that have no weights"
        other.model.get_submodule(part).resblocks[0].mlp.gelu = QuickGELU()
        assert changed(of=other) == kind
    reads_less = replace(backbone, tokenize=lambda texts: backbone.tokenize([text[:3] for text in texts]))
    assert changed(of=reads_less) == "t"
    other = tiny.backbone("vit")
    other.model.visual.proj.data[0, 0] += 1
    assert changed(of=other) == "rg", "the image side"
    other = tiny.backbone("vit")
    other.model.ln_final.bias.data[0] += 1
    assert changed(of=other) == "t", "the text side"
    for data in (pairs[:-1], pairs[::-1], [replace(pairs[0], captions=("a",)), *pairs[1:]]):
        assert changed(data=data) == "rgt"
    grown = replace(pairs[7], place=pairs[7].place._replace(size=1))
    assert changed(data=[*pairs[:7], grown, *pairs[8:]]) == "rg"
    with monkeypatch.context() as patch:
        patch.setattr(data_module, "LAYOUT", 0)
        assert changed() == "rgt", "files are laid out anew"
    Image.fromarray(np.eye(4, dtype=np.uint8)).save(maps / Path(pairs[3].key).name)
    assert changed() == "g", "maps that were made anew"


def test_an_interrupted_cache_goes_on(backbone: Backbone, pairs: list[Pair], tmp_path: Path) -> None:
    def stop_at(which: str, count: int) -> Callable[..., None]:
        def on_progress(what: str, done: int, of: int, word: str) -> None:
            if what == which and done >= count:
                raise KeyboardInterrupt

        return on_progress

    provenance = encoder_of(backbone, guide="centre")
    for what, count in (("images", 16), ("captions", 10)):
        with pytest.raises(KeyboardInterrupt):
            on_disk(provenance, pairs, tmp_path).fill(stop_at(what, count))
    assert filled(on_disk(provenance, pairs, tmp_path)) == {"images": 0, "captions": 27}
    whole = on_disk(provenance, pairs, tmp_path / "whole")
    filled(whole)
    asked = [places(*range(36))] * 2
    same(
        on_disk(provenance, pairs, tmp_path).batch(*asked, places(*[0] * 36)),
        whole.batch(*asked, places(*[0] * 36)),
        rtol=0,
        atol=0,
    )


def test_each_process_takes_its_own_shards(backbone: Backbone, pairs: list[Pair], tmp_path: Path) -> None:
    provenance = encoder_of(backbone, guide="spectral")
    done = [filled(on_disk(provenance, pairs, tmp_path), rank=rank, world=3) for rank in (2, 0, 1)]
    assert done == [{"images": 8, "captions": 10}, {"images": 16, "captions": 17}, {"images": 12, "captions": 10}]
    assert not on_disk(provenance, pairs, tmp_path).bytes_missing


def test_the_first_pairs_need_only_their_shards_and_all_share_them(
    backbone: Backbone, pairs: list[Pair], tmp_path: Path
) -> None:
    provenance, done = encoder_of(backbone, guide="centre"), []
    for count in (5, 12, 16, None, 20):
        cached = on_disk(provenance, pairs, tmp_path, count)
        done.append(filled(cached))
        last = (count or 36) - 1
        batch = cached.batch(*[places(last)] * 2, places(0))
        same(batch, streaming(provenance, pairs).batch(*[places(last)] * 2, places(0)), rtol=2e-3, atol=1e-3)
    assert [one["images"] for one in done] == [8, 8, 0, 20, 0], "shards of 8: none is made twice"
    assert [one["captions"] for one in done] == [10, 10, 0, 17, 0]


def test_a_text_of_many_pairs_is_read_once_and_some_pairs_may_have_none(
    backbone: Backbone, pairs: list[Pair], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data_module, "CAPTIONS_IN_SHARD", 2)
    provenance = encoder_of(backbone, guide="centre")
    filled(on_disk(provenance, pairs, tmp_path))
    texts: list[tuple[str, ...]] = [(f"word {place % 5}", f"word {place % 7}")[place % 2 :] for place in range(36)]
    texts[2], texts[35] = (), ("word 4", "the last one")
    assert filled(Cached(provenance, pairs, texts, tmp_path, count=3)) == {"images": 0, "captions": 2}
    assert filled(Cached(provenance, pairs, texts, tmp_path, count=1)) == {"images": 0, "captions": 0}
    cached = Cached(provenance, pairs, texts, tmp_path)
    assert filled(cached) == {"images": 0, "captions": 6}, "of 8"
    assert len(list(tmp_path.glob("rows-*"))) == 1 and len(list(tmp_path.glob("texts-*"))) == 2
    asked = places(9, 1, 2, 3), places(35, 35, 4, 35), places(1, 0, 1, 1)
    batch = cached.batch(*asked)
    said = ["the last one", "word 4", "word 4", "the last one"]
    torch.testing.assert_close(batch.text, encode_texts(backbone, said), rtol=1e-5, atol=1e-6)
    same(Streamed(provenance, pairs, texts).batch(*asked), batch, rtol=2e-3, atol=1e-3)


def test_repeated_texts_are_read_once_and_given_in_the_order_asked_for(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    own = Backbone.encode_text

    def noting(of: Backbone, texts: list[str]) -> torch.Tensor:
        read.extend(texts)
        return own(of, texts)

    monkeypatch.setattr(Backbone, "encode_text", noting)
    said = ["a dog", "a cat", "a dog", "a dog", "two cats"]
    got = encoder_of(backbone).encode_captions(said)
    assert read == ["a dog", "a cat", "two cats"]
    torch.testing.assert_close(got, encode_texts(backbone, said), rtol=1e-5, atol=1e-6)


def test_a_disk_without_room_is_told_before_anything_is_encoded(
    backbone: Backbone, pairs: list[Pair], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10, 9, 1))
    with pytest.raises(ResultError, match=r"the cache needs 0.0 GiB in .*cache.*0.0 GiB are free: .*--cache DIR"):
        filled(on_disk(encoder_of(backbone), pairs, tmp_path / "deep" / "cache"))
    assert not (tmp_path / "deep").exists()


def test_texts_that_are_cut_off_are_told_in_one_line() -> None:
    backbone = tiny.backbone("vit")
    long = ["a dog " * 60, "a cat " * 60]
    with pytest.warns(TextCutWarning, match=r"^2 of 3 texts are truncated. The first: vit reads ") as told:
        features = encoder_of(backbone).encode_captions([*long, "a dog", long[0]])
    assert len(told) == 1
    assert torch.equal(features[0], features[3]) and not torch.equal(features[0], features[1])
