"""Pictures of heat maps: a single overlay, a strip of texts, a grid of methods and texts.

Color always means evidence: the image below is drawn in gray, slightly dimmed, and color increases with the evidence.
In label maps, color means the class.
"""

from eclip.render.colormaps import diverging, sequential
from eclip.render.comparison import SCALES, Row, Section, check_scale, grid
from eclip.render.label_map import indexed, labeled, palette, tinted
from eclip.render.overlay import ABSENT, UNSURE, bounded, overlay, reduced, stack, strip
from eclip.render.words import cut_out, drawn, page_words, printable, shares, terminal

__all__ = [
    "ABSENT",
    "SCALES",
    "UNSURE",
    "Row",
    "Section",
    "bounded",
    "check_scale",
    "cut_out",
    "diverging",
    "drawn",
    "grid",
    "indexed",
    "labeled",
    "overlay",
    "page_words",
    "palette",
    "printable",
    "reduced",
    "sequential",
    "shares",
    "stack",
    "strip",
    "terminal",
    "tinted",
]
