"""A page of an image and its texts that needs nothing but itself; with pairs, words and patches light up each other."""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from PIL import Image

from eclip.render.colormaps import LEVELS, diverging
from eclip.render.overlay import view_size
from eclip.render.words import page_words

IMAGE_LENGTH = 480


@dataclass(frozen=True)
class Sentence:
    """A text on the page.

    Attributes:
        score: cosine of image and text.
        words: in order.
        values: one a word.
        pairs: one map a word on the patch grid, or None.
    """

    score: float
    words: Sequence[str]
    values: Float[np.ndarray, " word"]
    pairs: Float[np.ndarray, "word row col"] | None = None


def words_page(title: str, image: Image.Image, sentences: Sequence[Sentence], note: str) -> str:
    """HTML of a whole page: the image and its texts, each word on its color, with the share it has in a tooltip.

    With pairs, a word under the pointer shows its patches on the image, and a patch under the pointer its words; a
    click, or Tab and Enter, holds a word.

    Args:
        title: what the image is called.
        image: mode RGB, any size; drawn 480 pixels long.
        sentences: the texts.
        note: a line below, how the values came about.
    """
    small = image.resize(view_size(image.size, IMAGE_LENGTH, IMAGE_LENGTH), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=88)
    encoded = base64.b64encode(buffer.getvalue()).decode()
    linked = any(one.pairs is not None for one in sentences)
    lines = "\n".join(
        f'<p class="text" data-text="{number}"><span class="score">{one.score:.3f}</span>\n'
        f"{page_words(one.words, one.values, focus=one.pairs is not None)}</p>"
        for number, one in enumerate(sentences)
    )
    maps = [None if one.pairs is None else one.pairs.astype(float).round(8).tolist() for one in sentences]
    data = json.dumps(maps).replace("<", "\\u003c")
    colors = (diverging()[[0, LEVELS // 2, -1]] * 255).round().astype(int).tolist()
    return _PAGE.format(
        title=html.escape(title),
        width=small.width,
        height=small.height,
        image=encoded,
        lines=lines,
        help=_HELP if linked else "",
        note=html.escape(note),
        script=_LINKS.format(pairs=data, colors=colors, script=_SCRIPT) if linked else "",
    )


_LINKS = """<script type="application/json" id="pairs">{pairs}</script>
<script type="application/json" id="colors">{colors}</script>
<script>{script}</script>"""
_HELP = (
    '<p class="note">Point at a word: its patches. Point at the image: the words of that patch. '
    "Click a word: hold it. One scale for each text, so what adds little stays dark.</p>\n"
)
_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="generator" content="made by eclip">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ background: #141418; color: #f0f0f2; font: 18px/2.2 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem;
  padding: 0 1rem }}
h1 {{ font-size: 1rem; font-weight: 500; color: #96969e; overflow-wrap: anywhere }}
figure {{ position: relative; margin: 0 0 1rem; max-width: {width}px }}
figure img, figure canvas {{ display: block; width: 100%; height: auto; border-radius: 4px }}
figure canvas {{ position: absolute; inset: 0; height: 100% }}
figure.on img {{ filter: grayscale(1) brightness(.75) }}
.word {{ padding: .15em .4em; border-radius: .3em; cursor: default }}
.word:focus-visible, .word.held {{ outline: 2px solid #f0f0f2 }}
.score, .note {{ color: #96969e; font-size: .8em }}
.score {{ display: inline-block; width: 4em; font-variant-numeric: tabular-nums }}
.text {{ margin: .2rem 0 }}
</style>
<h1>{title}</h1>
<figure>
<img src="data:image/jpeg;base64,{image}" width="{width}" height="{height}" alt="{title}"><canvas></canvas>
</figure>
{lines}
{help}<p class="note">{note}</p>
{script}
</html>
"""
_SCRIPT = """
const pairs = JSON.parse(document.getElementById('pairs').textContent)
const figure = document.querySelector('figure'), canvas = figure.querySelector('canvas')
const words = [...document.querySelectorAll('.text')].map(line => [...line.querySelectorAll('.word')])
const own = words.map(line => line.map(word => [word.style.background, word.style.color, word.title]))
const [blue, dark, amber] = JSON.parse(document.getElementById('colors').textContent)
const peaks = pairs.map(text => text && (Math.max(...text.flat(2).map(Math.abs)) || 1))  // one scale a text
let held = null

function show(text, word) {
  const map = text === null ? null : pairs[text]?.[word]
  figure.classList.toggle('on', Boolean(map))
  const pen = canvas.getContext('2d')
  if (!map) { canvas.width = canvas.width; return }
  const rows = map.length, cols = map[0].length, small = new ImageData(cols, rows)
  map.flat().forEach((value, at) => {
    const color = value > 0 ? amber : blue
    small.data.set([...color, 230 * Math.abs(value) / peaks[text]], 4 * at)
  })
  const grid = document.createElement('canvas')
  grid.width = cols; grid.height = rows
  grid.getContext('2d').putImageData(small, 0, 0)
  canvas.width = figure.clientWidth; canvas.height = figure.clientHeight
  pen.imageSmoothingQuality = 'high'
  pen.drawImage(grid, 0, 0, canvas.width, canvas.height)
}

function paint(row, col) {
  words.forEach((line, text) => {
    if (!pairs[text]) return
    const values = row === null ? null : pairs[text].map(map => map[row][col])
    const total = values && (values.reduce((sum, value) => sum + Math.abs(value), 0) || 1)
    line.forEach((word, at) => {
      [word.style.background, word.style.color, word.title] = own[text][at]
      if (!values) return
      const share = Math.abs(values[at]) / peaks[text], color = values[at] > 0 ? amber : blue
      word.style.background = `rgb(${dark.map((part, i) => part + share * (color[i] - part))})`
      word.style.color = share > .55 ? '#101012' : '#ececee'
      word.title = `${(100 * values[at] / total).toFixed(1)} %`
    })
  })
}

words.forEach((line, text) => line.forEach((word, at) => {
  const rest = () => held ? show(...held) : show(null)
  word.onmouseenter = word.onfocus = () => show(text, at)
  word.onmouseleave = word.onblur = rest
  word.onclick = () => {
    document.querySelector('.held')?.classList.remove('held')
    held = held && held[0] === text && held[1] === at ? null : [text, at]
    if (held) word.classList.add('held')
    rest()
  }
  word.onkeydown = event => { if (event.key === 'Enter') word.click() }
}))
figure.onmousemove = event => {
  const [rows, cols] = [pairs.find(Boolean)[0].length, pairs.find(Boolean)[0][0].length]
  const box = figure.getBoundingClientRect()
  const row = Math.floor((event.clientY - box.top) / box.height * rows)
  const col = Math.floor((event.clientX - box.left) / box.width * cols)
  if (row >= 0 && row < rows && col >= 0 && col < cols) paint(row, col)
}
figure.onmouseleave = () => paint(null)
"""
