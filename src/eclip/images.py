"""Images in any form that users have, opened as upright RGB images; and the image files in folders and patterns."""

from __future__ import annotations

import glob
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from io import BytesIO, IOBase
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from eclip.errors import ImageError, OptionError
from eclip.files import (
    STATE,
    VIDEOS,
    dead_links,
    file_state,
    files_below,
    is_in_memory,
    may_pass,
    memory_name,
    retried,
    unmade,
)
from eclip.pixels import (
    LABELED,
    MAX_PIXELS,
    TensorLike,
    from_array,
    from_tensor,
    is_label,
    is_sparse,
    to_rgb,
    turn_of,
    what_is_wrong,
)

ImageLike = str | Path | Image.Image | NDArray[Any] | TensorLike
"""What a user may pass as an image."""
Read = TypeVar("Read")
EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif", ".jfif"})


class Place(NamedTuple):
    """Where the bytes of an image are: in a file or at a URL, all of it or a part, such as a member of a tar.

    Attributes:
        file: a path, or a URL that fsspec reads, such as "s3://bucket/image.jpg".
        offset: of the first byte.
        size: in bytes; -1 = up to the end.
    """

    file: str
    offset: int = 0
    size: int = -1

    def __str__(self) -> str:
        return f"{self.file}, byte {self.offset:,}" if self.offset else self.file

    def read(self, name: str) -> bytes:
        """The bytes; `name` is what errors call the image.

        Raises:
            ImageError: they are no longer there.
        """
        try:
            data = retried(self._data) if is_url(self.file) else self._data()
        except OSError as error:
            if is_url(self.file) and may_pass(error):
                cause = error.__cause__ or error  # fsspec calls all of these a missing file
                raise ImageError(f"{name} cannot be read, even when tried again ({cause}).") from None
            if is_url(self.file) and isinstance(error, FileNotFoundError):
                raise ImageError(f"{name}: no such file.") from None
            raise ImageError(f"{name}: {self.file} can no longer be read: {error.strerror or error}.") from None
        except Exception as error:
            if not is_url(self.file) or isinstance(error, OptionError):
                raise  # the errors of file systems behind URLs are of any class
            raise ImageError(f"{name} cannot be read ({type(error).__name__}: {error}).") from None
        if len(data) < self.size:
            raise ImageError(f"{name}: {self.file} has become shorter since its images were listed.")
        return data

    def _data(self) -> bytes:
        with open_any(self.file) as stream:
            stream.seek(self.offset)
            return stream.read(self.size)


def is_url(file: object) -> bool:
    """Whether it is a URL with a scheme, such as "https://" or "s3://"."""
    return "://" in str(file)


def open_any(file: str) -> IO[bytes]:
    """Open a file or a URL for reading; a context manager.

    Raises:
        OSError: it cannot be opened; for URLs also whatever their file system could not do.
        OptionError: the package for URLs of this kind is not installed.
    """
    if not is_url(file):
        return open(file, "rb")
    import fsspec

    try:
        opened: IO[bytes] = fsspec.open(file, "rb").open()
        return opened
    except ImportError as error:
        raise OptionError(f"{file} cannot be read: {error}.") from None
    except OSError:
        raise
    except Exception as error:  # each file system has its own errors
        raise OSError(f"{type(error).__name__}: {error}") from error


def open_image(source: ImageLike | Place) -> Image.Image:
    """A new, upright RGB image from any kind of source.

    Args:
        source: a file, a place in a tar, a PIL image, a NumPy array (height, width) or (height, width, channel), or a
            torch tensor (channel, height, width) or (height, width), with 1, 3 or 4 channels; a batch of one image is
            accepted too. Values are uint8 (0 to 255), uint16 (0 to 65535), booleans, or floating point in [0, 1];
            those outside by at most 0.15, as after resizing, are clipped. The first frame of an animation is used,
            EXIF rotation is applied, transparency is composited on white, and 16 bits are scaled to 8.

    Raises:
        ImageError: it is missing, empty, damaged, not an image, too large, or its values are out of range.
    """
    if isinstance(source, np.ndarray):
        return to_rgb(from_array(source), "the array")
    if isinstance(source, TensorLike):
        return to_rgb(from_tensor(source), "the tensor")
    if isinstance(source, Image.Image):
        return to_rgb(source, "the image")
    if isinstance(source, Place):
        return from_file(source, to_rgb)
    if isinstance(source, str | Path):
        if source == "":
            raise ImageError("the path of the image is empty.")
        state = file_state(Path(source))
        picture = from_file(Path(source), to_rgb)
        vars(picture)[STATE] = state
        return picture
    raise ImageError(what_is_wrong(source))


def decode_image(data: bytes, name: str) -> Image.Image:
    """An upright RGB image from the bytes of a file, by the rules of `open_image`; `name` is what errors call it."""
    return _decode(BytesIO(data), name, to_rgb)


def stored_size(path: Path | Place) -> tuple[int, int, int]:
    """Width and height as stored, and the EXIF orientation (1 to 8) by which `open_image` rotates the image.

    Only the header of the file is read, where its format allows it.

    Raises:
        ImageError: it is missing, empty, damaged or not an image.
    """

    def read(picture: Image.Image, _: str) -> tuple[int, int, int]:
        tags = getattr(picture, "tag_v2", None)  # of a TIFF, whose size Pillow states upright
        return (*(picture.size if tags is None else (int(tags[256]), int(tags[257]))), turn_of(picture))

    return from_file(path, read)


def from_file(path: Path | Place, read: Callable[[Image.Image, str], Read]) -> Read:
    """The result of `read` for the image in a file or tar and its name; errors are those of `open_image`."""
    if isinstance(path, Place):
        return _decode(BytesIO(path.read(str(path))), str(path), read)
    if str(path).startswith(("http:/", "https:/")):
        raise ImageError(f"{path} is a URL, not a file: download it first.")
    return _decode(path, str(path), read)


def _decode(source: Path | BytesIO, name: str, read: Callable[[Image.Image, str], Read]) -> Read:
    try:
        if isinstance(source, Path) and source.is_dir():
            raise ImageError(f"{name} is a folder, not an image.")
        size = source.stat().st_size if isinstance(source, Path) else source.getbuffer().nbytes
        if size == 0:
            raise ImageError(f"{name} is empty (0 bytes).")
        with Image.open(source) as picture:
            return read(picture, name)
    except FileNotFoundError:
        raise ImageError(f"{name}: no such file.") from None
    except PermissionError:
        raise ImageError(f"{name} cannot be read: permission denied.") from None
    except UnidentifiedImageError:
        video = "; for a video, use eclip explain VIDEO (Python: eclip.explain_video)"
        more = video if os.path.splitext(name)[1].lower() in VIDEOS else ""
        raise ImageError(f"{name} is not a readable image ({size:,} bytes){more}.") from None
    except Image.DecompressionBombError:
        raise ImageError(f"{name} has more than {MAX_PIXELS:,} pixels; downscale it first.") from None
    except (OSError, SyntaxError, ValueError, RuntimeError) as error:  # damaged headers; OSError: an invalid path too
        if isinstance(error, ImageError):
            raise
        raise ImageError(f"{name} is damaged: {error}.") from error


def find_images(
    sources: Iterable[str | Path], out: str | Path | None = None
) -> tuple[list[Path], list[tuple[str, str]]]:
    """The image files that sources name, in order, each once.

    Args:
        sources: files, folders (their images, including subfolders) and glob patterns.
        out: the folder that results will go to. Images inside it are left out of folders and patterns that contain it;
            other ones directly in it are a problem, because results could replace them.

    Returns:
        (files, problems): what runs of eclip wrote is left out of folders and patterns. A problem is (source, what is
        wrong): no such file, a folder that cannot be read or has no image, or a pattern without a match.
    """
    found: dict[Path, None] = {}
    problems = []
    results = None if out is None else Path(out).resolve()
    for source in sources:
        path, wrong = Path(source), list[str]()
        if source == "":  # not the current directory, which "." is
            problems.append(("", "an empty name was given, as by a variable that is not set: name an image or folder."))
            continue
        if os.path.isdir(root := path):
            inside, wrong = files_below(path, EXTENSIONS)
            missing = f"{path}: no image in this folder ({', '.join(sorted(EXTENSIONS))})."
        elif not os.path.exists(path) and glob.has_magic(str(source)):
            root, matches = unmade(str(source), map(Path, glob.glob(str(source), recursive=True)))
            inside, missing = sorted(match for match in matches if match.is_file()), f"{source}: no file matches."
            wrong = dead_links(matches)
        else:
            inside, root = [path] if os.path.exists(path) else [], path.parent
            missing = f"{source}: {'download it first' if '://' in str(source) else 'no such file or folder'}."
        base = root.resolve()
        over = results == base or results in base.parents  # then only images directly in it could be replaced
        taken = {one for one in inside if results in (one.resolve().parents[:1] if over else one.resolve().parents)}
        if taken and over:
            which, them = (f"{path} is", "it") if inside == [path] else (f"{source}: {len(taken)} images are", "them")
            wrong.append(f"{which} in the output folder, where results could replace {them}: choose another folder.")
        found.update(dict.fromkeys(image for image in inside if image not in taken))
        wrong += [missing] if len(taken) == len(inside) and not wrong else []
        problems += [(str(source), one) for one in wrong]
    return list(found), problems


def are_several(images: object) -> bool:
    """Whether it is several images: a list, another iterable, or a batch; not a path, a PIL image or one array.

    A batch is a NumPy array (image, height, width, channel) or a torch tensor (image, channel, height, width).
    """
    if isinstance(images, np.ndarray | TensorLike):
        return getattr(images, "ndim", 0) == 4 and not is_sparse(images)
    one = str, bytes, bytearray, os.PathLike, Place, Image.Image, IOBase
    return isinstance(images, Iterable) and not isinstance(images, one)


def each(images: ImageLike | Place | Iterable[ImageLike | Place]) -> Iterable[Any]:
    """One image or several, as an iterable over images; lazy iterables stay lazy."""
    return images if are_several(images) else [images]  # type: ignore[return-value]


def at_least_one(images: ImageLike | Iterable[ImageLike]) -> list[ImageLike]:
    """One image or several, or a batch of them, as a list.

    Raises:
        ImageError: there is none, or it is a batch with labels.
    """
    if isinstance(images, Mapping) or (isinstance(images, list | tuple) and any(map(is_label, images[1:]))):
        raise ImageError(f"images must be images, got a {type(images).__name__} of {len(images)}. {LABELED}")
    if not (several := list(each(images))):
        raise ImageError("no image was given; pass at least one.")
    return several


def name_of(image: ImageLike | Place, index: int) -> str:
    """Its path, or "image 0" for an image in memory; a file of such a name is "./image 0"."""
    if not isinstance(image, str | Path | Place):
        return memory_name(index)
    return f"./{image}" if is_in_memory(str(image)) else str(image)


def read_ahead(
    images: ImageLike | Place | Iterable[ImageLike | Place], count: int
) -> Iterator[tuple[str, Image.Image | ImageError]]:
    """(name, image or the error of reading it) of each, in order; a thread reads `count` images ahead."""

    def read(image: ImageLike | Place) -> Image.Image | ImageError:
        try:
            return open_image(image)
        except ImageError as error:
            return error

    waiting: deque[tuple[str, Future[Image.Image | ImageError]]] = deque()
    with ThreadPoolExecutor(1, thread_name_prefix="eclip-read") as pool:
        try:
            for index, image in enumerate(each(images)):
                waiting.append((name_of(image, index), pool.submit(read, image)))
                if len(waiting) > count:
                    source, future = waiting.popleft()
                    yield source, future.result()
            while waiting:
                source, future = waiting.popleft()
                yield source, future.result()
        finally:
            for _, future in waiting:
                future.cancel()


def read_batches(
    images: ImageLike | Place | Iterable[ImageLike | Place],
    count: int,
    failures: list[tuple[str, str]] | None,
    shape: Callable[[Image.Image], object] = lambda image: None,
) -> Iterator[list[tuple[str, Image.Image]]]:
    """Images with their names in lists of at most `count`, read ahead; the images of a list have one shape.

    Args:
        images: any iterable.
        count: at least 1.
        failures: unreadable images are added here as (source, error) and skipped. None: they raise.
        shape: what must be equal for images to share a forward pass.

    Raises:
        ImageError: an image cannot be read, and failures is None.
    """
    batch: list[tuple[str, Image.Image]] = []
    for source, image in read_ahead(images, count):
        if isinstance(image, ImageError):
            if failures is None:
                raise image
            failures.append((source, str(image)))
            continue
        if batch and shape(image) != shape(batch[0][1]):
            yield batch
            batch = []
        batch.append((source, image))
        if len(batch) == count:
            yield batch
            batch = []
    if batch:
        yield batch
