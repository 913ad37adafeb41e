"""Images of every kind come out upright, RGB and with the right values; broken ones raise an error of one sentence."""

from __future__ import annotations

import io
import os
import struct
import warnings
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image, ImageOps
from torch.nn import functional as F

import eclip
from eclip.backbones.fitting import Fitting, Grid
from eclip.errors import ImageError
from eclip.images import at_least_one, decode_image, find_images, open_image, stored_size
from eclip.stream.sources import list_images


def _pixel(source: Any, x: int = 0, y: int = 0) -> tuple[int, ...]:
    image = open_image(source)
    assert image.mode == "RGB"
    return image.getpixel((x, y))  # type: ignore[return-value]


def test_modes_become_rgb_with_the_right_values(tmp_path: Path) -> None:
    made = {
        "gray.png": (Image.new("L", (2, 2), 100), (100, 100, 100)),
        "gray-alpha.png": (Image.new("LA", (2, 2), (100, 0)), (255, 255, 255)),  # clear: white shines through
        "rgba.png": (Image.new("RGBA", (2, 2), (200, 0, 0, 255)), (200, 0, 0)),
        "bilevel.png": (Image.new("1", (2, 2), 1), (255, 255, 255)),
        "cmyk.tif": (Image.new("CMYK", (2, 2), (0, 255, 255, 0)), (255, 0, 0)),
        "sixteen.png": (Image.fromarray(np.full((2, 2), 32768, np.uint16)), (128, 128, 128)),
        "dark-sixteen.png": (Image.fromarray(np.full((2, 2), 200, np.uint16)), (1, 1, 1)),  # not mistaken for 8 bits
        "big-endian.tif": (Image.fromarray(np.full((2, 2), 65535, np.dtype(">u2"))), (255, 255, 255)),
        "thirty-two.tif": (Image.fromarray(np.full((2, 2), 65535, np.int32)), (255, 255, 255)),
        "float.tif": (Image.fromarray(np.full((2, 2), 0.5, np.float32)), (128, 128, 128)),
    }
    for name, (picture, expected) in made.items():
        picture.save(tmp_path / name)
        assert _pixel(tmp_path / name) == expected, name


def test_sixteen_bits_keep_their_order_where_pillow_would_clip(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 1000, 30000, 65535]], np.uint16)).save(tmp_path / "ramp.png")
    assert [_pixel(tmp_path / "ramp.png", x)[0] for x in range(4)] == [0, 4, 117, 255]


def test_palette_transparency_is_laid_on_white(tmp_path: Path) -> None:
    picture = Image.new("P", (2, 1))
    picture.putpalette([255, 0, 0, 0, 0, 255])
    picture.putdata([0, 1])
    picture.save(tmp_path / "palette.png", transparency=0)
    assert _pixel(tmp_path / "palette.png", 0) == (255, 255, 255)
    assert _pixel(tmp_path / "palette.png", 1) == (0, 0, 255)


def test_first_frame_of_an_animated_file_but_the_current_one_of_an_open_image(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "blue")]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    assert _pixel(tmp_path / "moving.gif") == (255, 0, 0)
    with Image.open(tmp_path / "moving.gif") as moving:
        moving.seek(1)
        assert _pixel(moving) == (0, 0, 255)
        assert moving.tell() == 1


def test_exif_rotation_is_applied(tmp_path: Path) -> None:
    picture = Image.new("RGB", (4, 2), "black")
    picture.putpixel((0, 0), (255, 255, 255))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn a quarter to the right
    picture.save(tmp_path / "turned.png", exif=exif)
    image = open_image(tmp_path / "turned.png")
    assert image.size == (2, 4)
    assert image.getpixel((1, 0)) == (255, 255, 255)


@pytest.mark.parametrize("size", [(1, 1), (1, 4000), (4000, 1)])
def test_thin_images_are_images(size: tuple[int, int]) -> None:
    assert open_image(Image.new("RGB", size)).size == size


def test_arrays() -> None:
    assert _pixel(np.full((2, 3), 7, np.uint8)) == (7, 7, 7)
    assert _pixel(np.full((2, 3, 1), 7, np.uint8)) == (7, 7, 7)
    assert _pixel(np.full((2, 3, 3), 1.0)) == (255, 255, 255)
    assert _pixel(np.full((2, 3), 32768, np.uint16)) == (128, 128, 128)
    assert _pixel(np.zeros((2, 3, 4), np.uint8)) == (255, 255, 255)  # clear
    assert _pixel(np.ones((2, 3), bool)) == (255, 255, 255)
    values = np.zeros((2, 3, 3), np.uint8)
    image = open_image(values)
    values[:] = 9
    assert image.getpixel((0, 0)) == (0, 0, 0), "a copy, whatever happens to the array"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros((3, 5, 6)), r"got \(3, 5, 6\).*channels last"),
        (np.zeros((0, 5, 3)), r"got \(0, 5, 3\)"),
        (np.zeros((5, 6, 2)), r"got \(5, 6, 2\)\.$"),
        (np.zeros((4, 5, 6, 3)), "expected one image, got 4"),
        (np.full((2, 2), 255.0), "0, 1.*got 255 to 255.*divide it by 255"),
        (np.full((2, 2), 40000.0), "0, 1.*Divide it by its white value"),
        (np.linspace(-2, 2.6, 12).reshape(2, 2, 3), "0, 1.*got -2 to 2.6.*looks normalized"),
        (np.linspace(-1, 1, 12).reshape(2, 2, 3), "0, 1.*got -1 to 1.*looks normalized"),
        (np.full((2, 2), 1.2), "0, 1.*got 1.2 to 1.2"),
        (np.full((2, 2), np.nan), "0, 1.*NaN"),
        (np.full((2, 2), np.inf), "0, 1.*infinity"),
        (np.zeros((2, 2), np.int64), r"int64: convert it, for example with \.astype\(np\.uint8\)"),
        (np.zeros((2, 2), complex), "complex128"),
        (torch.zeros(5, 6, 3), r"got \(5, 6, 3\)\. It looks like .*\.permute\(2, 0, 1\)"),
        (torch.zeros(2, 5, 6), r"got \(2, 5, 6\)\.$"),
        (torch.zeros(3, 0, 6), r"got \(3, 0, 6\)\.$"),
        (torch.zeros(4, 3, 5, 6), "expected one image, got 4"),
        (torch.linspace(-2, 2.6, 12).reshape(3, 2, 2), r"tensor must be in \[0, 1\], got -2 to 2.6.*looks normalized"),
        (torch.full((3, 2, 2), 128.0), "divide it by 255"),
        (torch.full((3, 2, 2), torch.nan, dtype=torch.bfloat16), "NaN"),
        (torch.zeros(3, 2, 2, dtype=torch.int64), r"int64: convert it, for example with \.to\(torch\.uint8\)"),
        (torch.zeros(3, 2, 2, device="meta"), "'meta' and has no values"),
    ],
)
def test_what_is_no_image_is_named(values: Any, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        open_image(values)


def test_big_endian_arrays_are_read_as_the_others() -> None:
    for dtype, white in ((">u2", 65535), (">f4", 1), (">f8", 1), ("<f2", 1)):
        values = np.array([[0, white / 2, white]]).astype(dtype)
        assert [_pixel(values, x)[0] for x in range(3)] == [0, 127 if white > 1 else 128, 255], dtype
    for mode in ("I;16", "I;16L", "I;16B", "I;16N"):
        assert _pixel(Image.new(mode, (2, 2), 32768)) == (128, 128, 128), mode


def test_premultiplied_transparency_is_laid_on_white() -> None:
    for mode in ("La", "RGBa", "LA", "RGBA", "PA"):
        assert _pixel(Image.new(mode, (2, 2))) == (255, 255, 255), mode


def test_values_that_resizing_pushed_out_are_clipped() -> None:
    for values in (np.full((2, 2, 3), 1.0000002, np.float32), np.full((2, 2), 1.05), np.array([[1 + 1e-9]])):
        assert _pixel(values) == (255, 255, 255)
        assert _pixel(torch.from_numpy(np.moveaxis(values, -1, 0))) == (255, 255, 255)
    assert _pixel(np.full((2, 2), -1e-7, np.float32)) == (0, 0, 0)
    edge = F.interpolate(torch.tensor([[[[0.0, 1.0]]]]), size=(8, 16), mode="bicubic")[0]
    assert edge.min() < 0 and edge.max() > 1
    assert np.array_equal(np.asarray(open_image(edge))[..., 0], (edge[0].clamp(0, 1) * 255).round().byte().numpy())


def test_deep_images_out_of_range_are_not_shown_black() -> None:
    hair = Image.fromarray(np.array([[0, 0.5, 1.0000001]], np.float32))
    assert [_pixel(hair, x)[0] for x in range(3)] == [0, 128, 255]
    bright = Image.fromarray(np.array([[0, 128, 260]], np.int32))  # 0 to 255 after bicubic resizing
    assert [_pixel(bright, x)[0] for x in range(3)] == [0, 128, 255]
    for dtype, message in (
        (np.float32, "got -2 to 2.6.*normalized"),
        (np.int32, "not have negative values, got -200 to 260"),
    ):
        values = np.array([[-2, 0, 2.6]]) if dtype == np.float32 else np.array([[-200, 0, 260]])
        with pytest.raises(ImageError, match=message):
            open_image(Image.fromarray(values.astype(dtype)))


def test_float_images_with_nan_are_refused() -> None:
    with pytest.raises(ImageError, match="NaN"):
        open_image(Image.fromarray(np.full((2, 2), np.nan, np.float32)))


# --- tensors -----------------------------------------------------------------


def test_tensors_are_read_with_channels_first() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 5, 3), dtype=np.uint8)  # no size tells the axes apart
    array, tensor = open_image(pixels), open_image(torch.from_numpy(pixels))
    assert array.size == (5, 3) and np.array_equal(np.asarray(array), pixels)
    assert tensor.size == (3, 5) and np.array_equal(np.asarray(tensor), pixels.transpose(1, 2, 0))


def test_tensors_of_every_type_give_the_same_image() -> None:
    whole = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 5, 6), dtype=np.uint8))
    expected = np.asarray(open_image(whole))
    assert np.array_equal(expected, whole.permute(1, 2, 0).numpy())
    share = whole / 255
    for same in (share, share.double(), share.requires_grad_(), share[None], whole[None], share.flip(2).flip(2)):
        assert np.array_equal(np.asarray(open_image(same)), expected)
    for few in (torch.half, torch.bfloat16):
        assert np.abs(np.asarray(open_image(share.to(few))).astype(int) - expected).max() <= 1
    gray = open_image(whole[0])
    assert np.array_equal(np.asarray(gray)[..., 1], whole[0]) and gray.tobytes() == open_image(whole[:1]).tobytes()
    assert _pixel(torch.zeros(4, 2, 3, dtype=torch.uint8)) == (255, 255, 255), "clear: white shines through"
    assert _pixel(torch.ones(2, 3, dtype=torch.bool)) == (255, 255, 255)
    assert _pixel(torch.full((1, 2, 3), 32768, dtype=torch.uint16)) == (128, 128, 128)


def test_several_images_in_a_list_a_batch_or_one_after_the_other(tiny_name: str) -> None:
    model = eclip.load(tiny_name)
    batch = torch.from_numpy(np.random.default_rng(0).random((2, 3, 30, 40), np.float32))
    whole = eclip.explain(batch, "a dog", model=model)
    assert whole.maps.shape[0] == 2 and whole.sources == ("image 0", "image 1")
    for one, tensor in enumerate(batch):
        assert np.allclose(eclip.explain(tensor, "a dog", model=model).maps[0], whole.maps[one], atol=1e-6)
    arrays = (batch.permute(0, 2, 3, 1) * 255).round().byte().numpy()
    ways: list[Any] = [list(batch), tuple(arrays), arrays, [batch[:1], arrays[1]]]
    for several in ways:
        assert np.array_equal(eclip.explain(several, "a dog", model=model).maps, whole.maps)
        each = list(eclip.explain_each(several, "a dog", model=model))
        assert np.array_equal(np.concatenate([one.maps for one in each]), whole.maps)
    for alone in (batch[0], arrays[0]):  # one image, not its channels or its rows
        [only] = eclip.explain_each(alone, "a dog", model=model)
        assert only.sizes == ((40, 30),) and np.allclose(only.maps[0], whole.maps[0], atol=1e-6)
        assert eclip.segment(alone, ["dog", "grass"], model=model).labels[0].shape == (30, 40)
    with pytest.raises(ImageError, match="expected one image, got 2"):
        eclip.compare(batch, "a dog", models=model)
    with pytest.raises(ImageError, match="no image"):
        eclip.explain(batch[:0], "a dog", model=model)


def test_a_path_is_one_image_wherever_several_are_taken(tiny_name: str, images: Path) -> None:
    for path in (images / "a.png", str(images / "a.png")):
        [only] = eclip.explain_each(path, "a dog", model=tiny_name)
        assert only.sources == (str(path),)


def _png_header(width: int, height: int) -> bytes:
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))]
    data = b"IDAT" + zlib.compress(b"\0" * 100)
    chunks.append(struct.pack(">I", len(data) - 4) + data + struct.pack(">I", zlib.crc32(data)))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def broken_files(folder: Path) -> dict[str, str]:
    """Files that are no images, with what is said of each."""
    Image.effect_noise((64, 64), 50).convert("RGB").save(folder / "whole.jpg")
    whole = (folder / "whole.jpg").read_bytes()
    (folder / "whole.jpg").unlink()
    contents = {
        "empty.jpg": (b"", "is empty (0 bytes)"),
        "text.jpg": (b"no picture at all", "is not a readable image (17 bytes)"),
        "cut.jpg": (whole[: len(whole) // 2], "is damaged: image file is truncated"),
        "header.jpg": (whole[:20], "header.jpg is"),
        "bomb.png": (_png_header(20_000, 20_000), "has more than 178,956,970 pixels"),
        "large.png": (_png_header(14_000, 14_000), "has more than 178,956,970 pixels"),
        "lying.png": (_png_header(50, 50), "is damaged"),
    }
    for name, (content, _) in contents.items():
        (folder / name).write_bytes(content)
    return {name: message for name, (_, message) in contents.items()}


def test_broken_files_say_what_is_wrong(tmp_path: Path) -> None:
    for name, message in broken_files(tmp_path).items():
        with warnings.catch_warnings(), pytest.raises(ImageError) as raised:
            open_image(tmp_path / name)
        assert message in str(raised.value), name
        assert str(tmp_path / name) in str(raised.value)


def test_bytes_are_read_as_files_are(tmp_path: Path, images: Path) -> None:
    whole = images / "b.jpg"
    assert decode_image(whole.read_bytes(), "b").tobytes() == open_image(whole).tobytes()
    for name, message in broken_files(tmp_path).items():
        with warnings.catch_warnings(), pytest.raises(ImageError) as raised:
            decode_image((tmp_path / name).read_bytes(), f"tar/{name}")
        assert message in str(raised.value), name
        assert str(raised.value).startswith(f"tar/{name} ")


def test_an_open_image_that_is_truncated_is_refused(tmp_path: Path) -> None:
    broken_files(tmp_path)
    with Image.open(tmp_path / "cut.jpg") as picture, pytest.raises(ImageError, match="the image is damaged"):
        open_image(picture)


def test_a_bomb_is_not_decoded(tmp_path: Path) -> None:
    import tracemalloc

    broken_files(tmp_path)
    tracemalloc.start()
    for name in ("bomb.png", "large.png"):
        with pytest.raises(ImageError):
            open_image(tmp_path / name)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5e6


def test_paths_that_are_no_files(tmp_path: Path) -> None:
    for path, message in [
        (tmp_path, "is a folder"),
        (tmp_path / "nothing.jpg", "no such file"),
        ("https://example.org/a.jpg", "download it first"),
        (tmp_path / ("x" * 300), "too long"),
        ("a\0b.jpg", "damaged"),
    ]:
        with pytest.raises(ImageError, match=message):
            open_image(path)


def _ifd(*entries: tuple[int, int, int, bytes]) -> bytes:
    """A TIFF directory of tags with their types, counts and values."""
    rows = b"".join(struct.pack("<HHI4s", *entry) for entry in entries)
    return b"II*\x00\x08\x00\x00\x00" + struct.pack("<H", len(entries)) + rows + bytes(4)


def _with_exif(path: Path, ifd: bytes) -> Path:
    """A JPEG with these bytes as EXIF."""
    Image.new("RGB", (6, 4), "red").save(path, exif=b"Exif\x00\x00" + ifd)
    return path


@pytest.mark.parametrize(
    ("ifd", "turned"),
    [
        (_ifd((0x112, 3, 1, b"\x06\x00\x00\x00"), (0x100, 2, 4, b"abc\x00")), True),
        (_ifd((0x112, 2, 4, b"abc\x00")), False),
        (b"II*\x00\xff\xff", False),
    ],
    ids=["text for a number", "orientation of letters", "cut"],
)
def test_odd_exif_costs_no_image(ifd: bytes, turned: bool, tmp_path: Path) -> None:
    file = _with_exif(tmp_path / "a.jpg", ifd)
    assert open_image(file).size == ((4, 6) if turned else (6, 4))
    assert stored_size(file) == (6, 4, 6 if turned else 1)


def test_every_orientation_is_as_pillow_turns_it(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    for turn in range(10):
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = turn
        Image.fromarray(values).save(tmp_path / f"{turn}.png", exif=exif)
        with Image.open(tmp_path / f"{turn}.png") as stored:
            wanted = np.asarray(ImageOps.exif_transpose(stored))
        image = open_image(tmp_path / f"{turn}.png")
        np.testing.assert_array_equal(np.asarray(image), wanted)
        np.testing.assert_array_equal(np.asarray(open_image(image)), wanted, "turned once, such as result.image(0)")


@pytest.mark.parametrize("mode", ["turned", "RGBA", "I;16", "F"])
def test_preprocess_reads_an_image_as_explain_does(mode: str, tmp_path: Path) -> None:
    random, file, exif = np.random.default_rng(0), tmp_path / "a.tif", Image.Exif()
    exif[ExifTags.Base.Orientation] = 6 if mode == "turned" else 1
    made = {
        "turned": random.integers(0, 256, (24, 40, 3)).astype(np.uint8),
        "RGBA": random.integers(0, 256, (24, 40, 4)).astype(np.uint8),
        "I;16": random.integers(0, 65536, (24, 40)).astype(np.uint16),
        "F": random.random((24, 40)).astype(np.float32),
    }
    Image.fromarray(made[mode]).save(file, exif=exif)
    fitting = Fitting("tiny", Grid(4, 4), 8, "bicubic")
    for resize in ("squash", "keep"):
        expected = fitting.resized(open_image(file), resize=resize)
        np.testing.assert_array_equal(fitting.resized(Image.open(file), resize=resize), expected)
        np.testing.assert_array_equal(fitting.resized(file, resize=resize), expected)


@pytest.mark.parametrize("ending", ["png", "jpg", "tif"])
def test_sizes_are_those_as_stored_in_any_format(ending: str, tmp_path: Path) -> None:
    for turn in range(1, 9):
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = turn
        Image.new("RGB", (7, 5), "red").save(file := tmp_path / f"{turn}.{ending}", exif=exif)
        assert stored_size(file) == (7, 5, turn)
        assert open_image(file).size == ((5, 7) if turn > 4 else (7, 5))


def test_an_open_file_and_an_empty_path_say_what_to_do(tmp_path: Path) -> None:
    Image.new("RGB", (7, 5)).save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    with (tmp_path / "a.png").open("rb") as opened:
        for wrong, message in (
            (io.BytesIO(data), r"got BytesIO: open it with PIL\.Image\.open\(file\)"),
            (opened, r"got BufferedReader: open it with PIL\.Image\.open\(file\)"),
            (data, r"got bytes: open it with PIL\.Image\.open\(io\.BytesIO\(data\)\)"),
            ("", "the path of the image is empty"),
        ):
            with pytest.raises(ImageError, match=message):
                open_image(at_least_one(wrong)[0])  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, about EXIF
def test_mutated_exif_never_crashes(tmp_path: Path) -> None:
    """Four hundred damaged copies of a turned image: read, or refused as damaged."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation], exif[ExifTags.Base.Make], exif[ExifTags.Base.XResolution] = 6, "maker", 72.0
    buffer = BytesIO()
    Image.new("RGB", (6, 4), "red").save(buffer, "jpeg", exif=exif)
    content, random = bytearray(buffer.getvalue()), np.random.default_rng(0)
    start = content.index(b"Exif")
    end = start + int.from_bytes(content[start - 2 : start], "big") - 2
    for _ in range(400):
        spoiled = bytearray(content)
        for place in random.integers(start, end, 3):
            spoiled[place] = random.integers(0, 256)
        assert open_image(_written(tmp_path / "a.jpg", spoiled)).size in ((4, 6), (6, 4))


def _written(path: Path, content: bytes | bytearray) -> Path:
    path.write_bytes(content)
    return path


def test_results_of_eclip_are_no_images(tmp_path: Path, tiny_name: str) -> None:
    for name in ("a", "b"):
        Image.new("RGB", (8, 8), "red" if name == "a" else "blue").save(tmp_path / f"{name}.png")
    own = [tmp_path / "a.png", tmp_path / "b.png"]
    found = eclip.explain(own, "a dog", model=tiny_name)
    found.save(tmp_path / "eclip-out-2")
    (tmp_path / "sub").mkdir()
    found.save(tmp_path / "sub")  # beside an image of the user
    Image.new("RGB", (8, 8), "green").save(tmp_path / "sub" / "mine.png")
    eclip.explain_dataset(own, "a dog", tmp_path / "shards", model=tiny_name, layout="folder", write=["overlays"])
    wanted = [*own, tmp_path / "sub" / "mine.png"]
    assert find_images([tmp_path]) == (wanted, [])
    assert find_images([f"{tmp_path}/**/*.png"]) == (wanted, [])
    assert [Path(item.source) for item in list_images([tmp_path])] == wanted
    assert [Path(item.source) for item in list_images([f"{tmp_path}/*/*.png"])] == wanted[2:]


def test_the_output_folder_may_contain_the_sources(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    files = [tmp_path / "top.png", tmp_path / "photos" / "a.png"]
    for file in files:
        Image.new("RGB", (8, 8)).save(file)
    assert find_images([tmp_path / "photos"], tmp_path) == ([files[1]], [])
    found, [(source, problem)] = find_images([tmp_path], tmp_path)
    assert found == [files[1]] and source == str(tmp_path)
    assert problem.endswith(
        "1 images are in the output folder, where results could replace them: choose another folder."
    )
    found, [(_, problem)] = find_images([f"{tmp_path}/photos/*.png"], tmp_path / "photos")
    assert found == [] and "1 images are in the output folder" in problem
    assert find_images([tmp_path], tmp_path / "photos") == ([files[0]], [])


def test_a_folder_that_cannot_be_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "locked").mkdir()
    scan = os.scandir

    def scanned(path: Any) -> Any:
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", scanned)
    found, [(source, problem)] = find_images([tmp_path])
    assert found == [tmp_path / "a.png"] and source == str(tmp_path)
    assert problem == f"{tmp_path / 'locked'} cannot be read: Permission denied."


def test_find_images_in_files_folders_and_patterns(tmp_path: Path) -> None:
    for name in ("b.JPG", "a.png", "notes.txt", "deep/c.webp", "with [brackets].jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "hollow").mkdir()
    a, b, c = tmp_path / "a.png", tmp_path / "b.JPG", tmp_path / "deep/c.webp"
    odd = tmp_path / "with [brackets].jpg"
    assert find_images([tmp_path]) == ([a, b, c, odd], [])
    assert find_images([tmp_path / "*.png", a, f"{tmp_path}/**/*.webp"]) == ([a, c], []), "each once"
    assert find_images([odd]) == ([odd], []), "a file whose name looks like a pattern"
    assert find_images(["x" * 300])[1] == [("x" * 300, f"{'x' * 300}: no such file or folder.")]
    missing = [tmp_path / "no.jpg", tmp_path / "hollow", tmp_path / "*.gif", "https://example.org/a.jpg", ""]
    found, problems = find_images(missing)
    assert found == []
    assert [source for source, _ in problems] == [str(path) for path in missing]
    said = ("no such file", "no image", "no file matches", "download it", "an empty name was given")
    for (_, error), words in zip(problems, said, strict=True):
        assert words in error
    (tmp_path / "deep/gone.webp").symlink_to("nowhere.webp")
    for source in (tmp_path / "deep", f"{tmp_path}/**/*.webp"):
        found, [(_, error)] = find_images([source])
        assert found == [c] and f"{tmp_path / 'deep/gone.webp'} is a link to nowhere.webp" in error
