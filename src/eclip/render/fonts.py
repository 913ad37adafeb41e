"""Text on pictures: a font that has its characters, shortened to fit, with substitutes for missing characters."""

import logging
import math
import unicodedata
from bisect import bisect_right
from contextlib import suppress
from functools import cache, lru_cache

from PIL import ImageFont

_log = logging.getLogger("eclip")
TEXT_AT_MOST = 400  # characters; no picture has room for more
NO_GLYPH = "\U0010fffe"  # a noncharacter, always drawn as the font's empty box
# Pillow's own font has little more than ASCII; these, if the system has them, cover other scripts.
SYSTEM_FONTS = (
    *("DejaVuSans.ttf", "NotoSans-Regular.ttf", "NotoSansCJK-Regular.ttc", "Arial Unicode.ttf", "arial.ttf"),
    *("NotoSansArabic-Regular.ttf", "NotoSansHebrew-Regular.ttf", "NotoSansDevanagari-Regular.ttf"),
    *("NotoSansThai-Regular.ttf", "NotoSansBengali-Regular.ttf", "NotoSansTamil-Regular.ttf", "FreeSans.ttf"),
    *("wqy-zenhei.ttc", "wqy-microhei.ttc", "msyh.ttc", "msgothic.ttc", "malgun.ttf", "PingFang.ttc", "unifont.ttf"),
)


def fit(text: str, room: int | float, points: int) -> tuple[str, ImageFont.FreeTypeFont]:
    """The text in drawable characters, shortened to `room` pixels, and the font for it."""
    line = " ".join(text[:TEXT_AT_MOST].split())
    font = fonts(points)[0]
    if not all(_draws(font, letter) for letter in line):
        font = max(fonts(points), key=lambda candidate: sum(_draws(candidate, letter) for letter in line))
    line = "".join(letter if _draws(font, letter) else _spell(letter, font) for letter in line)
    return _shorten(line, font, room), font


def wrap(text: str, room: int | float, points: int, most: int) -> tuple[list[str], ImageFont.FreeTypeFont]:
    """The text in at most `most` lines of `room` pixels, the last one shortened, and the font for it."""
    rest, font = fit(text, math.inf, points)
    lines: list[str] = []
    while len(lines) < most - 1 and font.getlength(rest) > room:
        count = max(1, _fitting(rest, font, room, ""))
        space = rest.rfind(" ", 0, count + 1)
        count = space if space > 0 else count  # break a word that is too long for a line
        lines.append(rest[:count].rstrip())
        rest = rest[count:].lstrip()
    return [line for line in (*lines, _shorten(rest, font, room)) if line], font


def _shorten(line: str, font: ImageFont.FreeTypeFont, room: int | float) -> str:
    if font.getlength(line) <= room:
        return line
    kept = _fitting(line, font, room, "…")
    return line[:kept].rstrip() + "…" if kept > 0 else ""


def _fitting(line: str, font: ImageFont.FreeTypeFont, room: int | float, end: str) -> int:
    """How many characters fit, followed by `end`."""
    return bisect_right(range(len(line)), room, key=lambda count: font.getlength(line[:count].rstrip() + end)) - 1


@cache
def fonts(points: int) -> list[ImageFont.FreeTypeFont]:
    """Pillow's own font, then the installed ones of SYSTEM_FONTS."""
    found = [ImageFont.load_default(points), *(ImageFont.truetype(path, points) for path in _installed())]
    return [font for font in found if isinstance(font, ImageFont.FreeTypeFont)]


@cache
def _installed() -> list[str]:
    """The files of SYSTEM_FONTS, which Pillow looks for in all font folders."""
    found = []
    for name in SYSTEM_FONTS:
        with suppress(OSError):  # not installed
            found.append(str(ImageFont.truetype(name, 12).path))
    return found


@lru_cache(maxsize=4096)
def _draws(font: ImageFont.FreeTypeFont, letter: str) -> bool:
    return bytes(font.getmask(letter)) != bytes(font.getmask(NO_GLYPH))


def _spell(letter: str, font: ImageFont.FreeTypeFont) -> str:
    """A substitute for a character the font lacks: é as e, emoji by name, others by code; joiners are dropped."""
    if unicodedata.category(letter) in ("Cf", "Mn", "Cc"):
        return ""
    plain = "".join(part for part in unicodedata.normalize("NFKD", letter) if not unicodedata.combining(part))
    if plain != letter and all(_draws(font, part) for part in plain):
        return plain
    if unicodedata.category(letter) == "So":
        return f"({unicodedata.name(letter, 'symbol').lower()})"
    _warn_once(unicodedata.name(letter, "unnamed").partition(" ")[0].capitalize())
    return letter.encode("unicode_escape").decode()


@cache
def _warn_once(script: str) -> None:
    _log.warning(
        "no installed font draws %s letters, so pictures show their codes. Install a font for them, such as Noto Sans.",
        script,
    )
