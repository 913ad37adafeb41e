// Stage: an image on a canvas with a map, an outline and boxes; sliders and hovering only redraw, and ask nobody.

import {Blend, grays, levels, normalized, outline, resized, signed, slopes, strokeOf} from './paint.js'
import {boxes} from './regions.js'

const CONTOURS = [0.25, 0.5, 0.75]

export class Stage {
  constructor(canvas, colors) {
    this.canvas = canvas
    this.pen = canvas.getContext('2d', {willReadFrequently: true})
    this.ink = colors.ink
    this.dim = colors.dim
    this.blends = {false: new Blend(colors.sequential, false), true: new Blend(colors.diverging, true)}
    this.look = {alpha: 0.85, threshold: 0.5, colors: 'auto', view: 'heat', outline: true, boxes: false, contours: false}
    this.map = null
    this.labels = null
    this.pending = 0
    for (const blend of Object.values(this.blends)) for (const alpha of [0.2, 0.4, 0.6, 0.85]) blend.at(alpha)  // compiled by now
  }

  // An image element or bitmap that has loaded; its pixels are the view that the server made.
  setImage(image, width, height) {
    this.canvas.width = width
    this.canvas.height = height
    this.pen.drawImage(image, 0, 0, width, height)
    this.own = this.pen.getImageData(0, 0, width, height)
    this.gray = grays(this.own.data)
    this.frame = this.pen.createImageData(width, height)
    this.pixels = new Uint32Array(this.frame.data.buffer)
    this.source = new Uint32Array(this.own.data.buffer)
    this.map = this.labels = null
    this.redraw()
  }

  // {values, rows, cols, signed, doubt, peak, range}: raw values on a grid; null = none. `peak` (signed) and `range` set
  // a scale that several maps share.
  setMap(map) {
    this.labels = null
    this.map = map && {...map, heat: normalized(map.values, map.range), shown: new Map()}
    this.redraw()
  }

  // Pixels of another picture of the image's size, such as classes; null = none.
  setPicture(image) {
    this.labels = image
    this.redraw()
  }

  set(look) {
    Object.assign(this.look, look)
    this.redraw()
  }

  redraw() {
    if (!this.pending) this.pending = requestAnimationFrame(() => { this.pending = 0; this.draw() })
  }

  get isSigned() {
    return this.look.colors === 'auto' ? Boolean(this.map?.signed) : this.look.colors === 'signed'
  }

  // The level of each pixel's color; it depends on the map and not on the sliders.
  levels(isSigned) {
    const {map} = this, {width, height} = this.canvas
    if (!map.shown.has(isSigned)) {
      const shown = isSigned ? signed(map.values, map.peak) : map.heat
      map.shown.set(isSigned, levels(resized(shown, map.rows, map.cols, width, height), isSigned))
    }
    return map.shown.get(isSigned)
  }

  // The heat of each pixel, as far as a mask, a line or a box needs it.
  get fine() {
    const {map} = this, {width, height} = this.canvas
    map.fine ??= resized(map.heat, map.rows, map.cols, width, height)
    return map.fine
  }

  draw() {
    if (!this.own) return
    if (this.labels) {
      this.pen.drawImage(this.labels, 0, 0, this.canvas.width, this.canvas.height)
      return
    }
    if (!this.map) {
      this.pen.putImageData(this.own, 0, 0)
      return
    }
    const {look, pixels, gray, map} = this, {width, height} = this.canvas
    const alpha = look.alpha * (this.dim[map.doubt ?? ''] ?? 1), stroke = strokeOf(width, height)
    if (look.view === 'mask') this.drawMask()
    else {
      const table = this.blends[this.isSigned].at(alpha), level = this.levels(this.isSigned)
      for (let i = 0; i < pixels.length; i++) pixels[i] = table[level[i] << 8 | gray[i]]
    }
    const line = (at, wide, strength) => {
      map.slope ??= slopes(this.fine, width, height)
      outline(pixels, this.fine, map.slope, at, wide, strength, this.ink)
    }
    if (look.contours) for (const one of CONTOURS) line(one, stroke / 2, 0.7)
    if (look.outline) line(look.threshold, stroke, look.view === 'mask' ? 1 : alpha)
    this.pen.putImageData(this.frame, 0, 0)
    if (look.boxes) this.drawBoxes(stroke)
  }

  drawMask() {
    const {look, pixels, gray, source, fine} = this
    for (let i = 0; i < pixels.length; i++) {
      const faint = gray[i] * 0.35 | 0
      pixels[i] = fine[i] >= look.threshold ? source[i] : 255 << 24 | faint << 16 | faint << 8 | faint
    }
  }

  drawBoxes(stroke) {
    const {pen} = this
    for (const [color, wide] of [['#000', 3 * stroke], ['#ffd479', 1.5 * stroke]]) {
      pen.strokeStyle = color
      pen.lineWidth = wide
      for (const [left, top, right, bottom] of this.boxes()) pen.strokeRect(left, top, right - left, bottom - top)
    }
  }

  // In pixels of the view.
  boxes() {
    return this.map ? boxes(this.fine, this.canvas.width, this.canvas.height, this.look.threshold) : []
  }

  // Share of the pixels that reach the threshold.
  area() {
    const {fine, look} = this
    let count = 0
    for (let i = 0; i < fine.length; i++) if (fine[i] >= look.threshold) count++
    return count / fine.length
  }

  // The patch at a pointer event, {row, col}, or null outside.
  patchAt(event, rows, cols) {
    const box = this.canvas.getBoundingClientRect()
    const row = Math.floor((event.clientY - box.top) / box.height * rows)
    const col = Math.floor((event.clientX - box.left) / box.width * cols)
    return row >= 0 && row < rows && col >= 0 && col < cols ? {row, col} : null
  }

  valueAt({row, col}) {
    const {values, heat, cols} = this.map
    return {value: values[row * cols + col], heat: heat[row * cols + col]}
  }
}
