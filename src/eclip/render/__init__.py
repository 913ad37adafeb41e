"""Pictures of heat maps: one overlay, a strip of texts, a grid of methods and texts.

Color means evidence and nothing else: the photo beneath is drawn in gray, slightly dimmed, and color comes in as
the evidence grows. In label maps color means the class.
"""

from eclip.render.classes import indexed, labeled, palette, tinted
from eclip.render.colors import diverging, sequential
from eclip.render.page import Sentence, page
from eclip.render.panels import overlay, strip
from eclip.render.sentence import cut_out, drawn, page_words, printable, shares, stack, terminal
from eclip.render.table import SCALES, Row, Section, check_scale, grid

__all__ = [
    "SCALES",
    "Row",
    "Section",
    "Sentence",
    "check_scale",
    "cut_out",
    "diverging",
    "drawn",
    "grid",
    "indexed",
    "labeled",
    "overlay",
    "page",
    "page_words",
    "palette",
    "printable",
    "sequential",
    "shares",
    "stack",
    "strip",
    "terminal",
    "tinted",
]
