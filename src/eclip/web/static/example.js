// Examples: a part of an image, or all of it, to look for in place of a text.

import {$, h, say} from './dom.js'
import {on, parts, state} from './state.js'

const LEAST = 8, THUMB = 88  // pixels of the screen that a region must have; longer side of the picture in a chip
let made = 0

// A query by example: as a string its name in answers, as JSON what the server is asked.
class Example {
  constructor(image, box, thumb) {
    Object.assign(this, {image, box, thumb, key: ++made, again: 1})
    while (state.texts.some(text => `${text}` === `${this}`)) this.again++  // of two files with one name
  }
  get number() { return this.again > 1 ? ` (${this.again})` : '' }
  get label() { return `like ${this.image.name}${this.number}` }
  toString() { return `like ${this.image.name}${this.box ? `:${this.box}` : ''}${this.number}` }
  toJSON() { return {like: this.image.id, box: this.box, name: this.number ? `${this}` : null} }
}

export function start() {
  const picker = $('picker')
  let from = null
  $('example').onclick = () => toggle(picker.hidden)
  picker.onpointerdown = event => {
    if (!event.isPrimary || event.button) return
    from = place(event)
    picker.setPointerCapture(event.pointerId)
  }
  picker.onpointermove = event => { if (from) frame(from, place(event)) }
  picker.onpointercancel = () => { from = null; frame(null) }
  picker.onpointerup = event => {
    if (!from) return
    const to = place(event), {width, height} = picker.getBoundingClientRect()
    const isRegion = Math.abs(to.x - from.x) * width >= LEAST && Math.abs(to.y - from.y) * height >= LEAST
    take(isRegion ? boxOf(from, to) : null)
    from = null
  }
  picker.onkeydown = event => {
    if (event.key === 'Enter' || event.key === ' ') { event.preventDefault(); take(null) }
    if (event.key === 'Escape') { from = null; toggle(false) }
  }
  on('image', () => { from = null; toggle(false, false) })
}

function toggle(isOn, focus = true) {
  frame(null)
  $('picker').hidden = !isOn
  $('example').setAttribute('aria-pressed', isOn)
  if (focus) (isOn ? $('picker') : $('example')).focus({preventScroll: true})
  if (isOn) say('Draw a box around what to look for; click for the whole image; Escape to leave.')
}

// Shares of the image, within it.
function place(event) {
  const box = $('picker').getBoundingClientRect(), share = (at, size) => Math.max(0, Math.min(1, at / size))
  return {x: share(event.clientX - box.left, box.width), y: share(event.clientY - box.top, box.height)}
}

function frame(from, to) {
  $('region').hidden = !from
  if (!from) return
  const share = value => `${100 * value}%`
  $('region').style.cssText = `left:${share(Math.min(from.x, to.x))};top:${share(Math.min(from.y, to.y))};`
    + `width:${share(Math.abs(from.x - to.x))};height:${share(Math.abs(from.y - to.y))}`
}

// In pixels of the image, at least one on each side.
function boxOf(from, to) {
  const {width, height} = state.image, side = (one, other, size) => {
    const low = Math.min(size - 1, Math.floor(Math.min(one, other) * size))
    return [low, Math.max(low + 1, Math.round(Math.max(one, other) * size))]
  }
  const [left, right] = side(from.x, to.x, width), [top, bottom] = side(from.y, to.y, height)
  return [left, top, right, bottom]
}

function take(box) {
  toggle(false)
  const {image} = state, same = state.texts.find(one => one.image?.id === image.id && `${one.box}` === `${box}`)
  parts.texts.add(same ?? new Example(image, box, thumbOf(box ?? [0, 0, image.width, image.height])))
}

function thumbOf([left, top, right, bottom]) {
  const {image} = state, scale = parts.bitmap.width / image.width
  const canvas = h('canvas', {'aria-hidden': true}), longer = Math.max(right - left, bottom - top)
  canvas.width = Math.max(1, Math.round(THUMB * (right - left) / longer))
  canvas.height = Math.max(1, Math.round(THUMB * (bottom - top) / longer))
  canvas.getContext('2d').drawImage(parts.bitmap, left * scale, top * scale, (right - left) * scale, (bottom - top) * scale,
    0, 0, canvas.width, canvas.height)
  return canvas
}
